/* Bad input: one clear line, the right status, and nothing lost. */
#include "tests/train/tiny_run.h"

#include <fcntl.h>
#include <hdf5.h>

TestSuite(train_errors, .init = tiny_begin, .fini = leave_folder, .timeout = 600);

/* Fails with this status and these words, and makes no run folder. */
static void refuses(const char *arguments, int status, const char *words)
{
    tiny_train(0, arguments, status);
    tiny_says(words);
    cr_assert(tiny_shell("! test -e run") == 0, "%s: a run folder was made", arguments);
}

Test(train_errors, usage)
{
    refuses("train.step=3", 2, "did you mean 'train.steps'?");
    refuses("train.steps=many", 2, "train.steps");
    refuses("train.steps=-1", 2, "train.steps");
    refuses("train.steps=0", 2, "train.steps and train.epochs: give one of them");
    refuses("train.epochs=1", 2, "train.steps and train.epochs: give only one of them");
    refuses("train.batch_rows=4 train.micro_rows=3", 2, "train.micro_rows");
    refuses("optim.schedule=zigzag", 2, "constant, linear, cosine, wsd");
    refuses("train.compute=f16", 2, "f32");
    refuses("train.backend=gpu", 2, "auto, cpu, cuda");
    const rf_backend *cuda = NULL;
    if (rf_backend_choose(&cuda, "cuda", NULL) != RF_OK) {
        refuses("train.backend=cuda", RF_HAS_CUDA ? 1 : 2, "cuda");
    }
    refuses("--frobnicate", 2, "--frobnicate");
    refuses("--resume", 2, "--resume: needs a value");
    refuses("--resume nowhere.h5", 2, "nowhere.h5");
    refuses("tiny.yaml", 2, "two configuration files");
    refuses("data.train=", 2, "data.train is empty");
    cr_assert(tiny_shell("\"$TRAIN\"") == 2);
    cr_assert(tiny_shell("\"$TRAIN\" missing.yaml") == 1);
    tiny_says("missing.yaml");
    cr_assert(tiny_shell("\"$TRAIN\" train.steps=3 data.train=train.h5") == 2);
    tiny_says("log.dir");
    program_write("broken.yaml", "train:\n  steps: 3\n  stepz: 4\n");
    cr_assert(tiny_shell("\"$TRAIN\" broken.yaml") == 2);
    tiny_says("broken.yaml:3:");
}

Test(train_errors, help_and_version)
{
    cr_assert(tiny_shell("\"$TRAIN\" --help") == 0);
    tiny_says("train.batch_rows");
    tiny_says("Exit status");
    cr_assert(tiny_shell("\"$TRAIN\" --version") == 0);
    tiny_says("refusion-train ");
}

/* What --print-config prints is a configuration: the same one. */
Test(train_errors, printed_configuration_reads_back)
{
    cr_assert(
        tiny_shell("set -e\n"
                   "\"$TRAIN\" tiny.yaml optim.lr=1e-4 data.train=a.h5,b.h5 log.dir='a \"b' "
                   "--print-config >once.yaml\n"
                   "\"$TRAIN\" once.yaml --print-config >twice.yaml\n"
                   "grep -q '  lr: 0.0001  # command line' once.yaml\n"
                   "grep -q '  # number from 0 to .*; default .*; --change' once.yaml\n"
                   "grep -q '# tiny.yaml:[0-9]*:' once.yaml\n"
                   "grep -q 'once.yaml:[0-9]*:' twice.yaml\n"
                   "for file in once twice; do sed '/^  #/!s/  # .*//' $file.yaml >$file; done\n"
                   "cmp once twice\n"
                   "\"$TRAIN\" --print-config | grep -q '  steps: '") == 0,
        "%s", program_output);
}

/* config.yaml says of each value where it comes from, and of those that follow from others that they
 * do; a sample shows who speaks, and an answer that is empty. */
Test(train_errors, run_says_where_values_come_from)
{
    program_write("c.jsonl", "{\"messages\": [{\"role\": \"system\", \"content\": \"Be brief.\"},"
                             "{\"role\": \"user\", \"content\": \"one\"},"
                             "{\"role\": \"assistant\", \"content\": \"1\"}]}\n");
    cr_assert(tiny_shell("\"$DATA\" build --out chat.h5 c.jsonl") == 0, "%s", program_output);
    tiny_train(0,
               "train.steps=1 data.train=chat.h5 data.valid= log.samples_every=1 objective.kind=ar "
               "log.dir=told",
               0);
    tiny_says("sample: <|system|>Be brief.<|user|>one<|assistant|> -> ");
    cr_assert(
        tiny_shell("set -e; cat told/config.yaml\n"
                   "grep -q '  hidden_size: 32  # tiny.yaml:2:9' told/config.yaml\n"
                   "grep -q '  vocab_size: 320  # from other keys' told/config.yaml\n"
                   "grep -q '  rms_norm_eps: .*  # default' told/config.yaml\n"
                   "grep -q '  steps: 1  # command line' told/config.yaml\n"
                   "grep -q '  kind: \"ar\"  # from objective.kind' told/config.yaml\n"
                   "grep -q '\"prompt\":\"<|system|>Be brief.<|user|>one' told/samples.jsonl") == 0,
        "%s", program_output);
}

/* Every file of configs/ is one that runs, given corpora and, where it fine-tunes, sizes of its own. */
Test(train_errors, ready_configurations_hold)
{
    cr_assert(
        tiny_shell(
            "set -e; n=0; for file in \"$ROOT\"/configs/*.yaml \"$ROOT\"/configs/*/*.yaml; do "
            "\"$TRAIN\" $file data.train=train.h5 data.valid=valid.h5 model.init= lora.rank=0 "
            "log.dir=ready --dry-run; n=$((n + 1)); done; test $n -ge 7") == 0);
    /* As they are, they say what they need, and how one comes by it. */
    tiny_train(0,
               "--dry-run --ranks 2 model.vocab_size=262208 model.hidden_size=8192 "
               "model.num_attention_heads=64 model.num_key_value_heads=8",
               2);
    tiny_says("a layer of the model has 2148007936 elements");
    cr_assert(tiny_shell("\"$TRAIN\" \"$ROOT/configs/lora-0.6b.yaml\" --dry-run") == 1);
    tiny_says(": model.init: there is no runs/qwen3-0.6b.h5: download a model");
    tiny_says("refusion-convert import");
    cr_assert(tiny_shell("\"$TRAIN\" \"$ROOT/configs/small.yaml\" --dry-run") == 1);
    tiny_says("there is no such file (data.train): make a corpus with refusion-data build");
    cr_assert(tiny_shell("bash -n \"$ROOT/configs/slurm.sbatch\"") == 0);
}

Test(train_errors, corpora)
{
    refuses("data.train=missing.h5", 1, "missing.h5");
    cr_assert(tiny_shell("head -c 5000 train.h5 >short.h5") == 0);
    refuses("data.train=short.h5", 1, "short.h5");
    cr_assert(tiny_shell("cp tiny.yaml text.h5") == 0);
    refuses("data.valid=text.h5", 1, "text.h5");
    refuses("data.row_length=8", 1, "data.row_length");
    refuses("data.overlong=drop data.row_length=2", 1, "row_length");
}

/* XORs 1 into the byte `at` of a dataset's beginning (contiguous). */
static void flip(const char *path, const char *dataset, int64_t at)
{
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    hid_t set = H5Dopen2(file, dataset, H5P_DEFAULT);
    int64_t offset = (int64_t)H5Dget_offset(set) + at;
    H5Dclose(set);
    H5Fclose(file);
    int fd = open(path, O_RDWR);
    char byte = 0;
    cr_assert(pread(fd, &byte, 1, (off_t)offset) == 1);
    byte = (char)(byte ^ 1);
    cr_assert(pwrite(fd, &byte, 1, (off_t)offset) == 1 && close(fd) == 0);
}

/* Damage that every token id and every length survives: found by the checksums, before training. */
Test(train_errors, damaged_corpora)
{
    cr_assert(tiny_shell("cp train.h5 a.h5; cp valid.h5 b.h5; cp train.h5 c.h5") == 0);
    flip("a.h5", "tokens", 4);
    refuses("data.train=a.h5", 1, "a.h5: the tokens have a wrong checksum");
    flip("b.h5", "tokens", 4);
    refuses("data.valid=b.h5", 1, "b.h5: the tokens have a wrong checksum");
    flip("c.h5", "sample_begin", 8 * 10);
    refuses("data.train=c.h5", 1, "c.h5: the index of samples has a wrong checksum");
}

/* Held-out data that gives no row is met at the begin, not at the first validation. */
Test(train_errors, held_out_data_without_a_row)
{
    tiny_corpus("long.h5", 100, 101);
    refuses("data.valid=long.h5 data.row_length=24", 1,
            "data.valid: epoch 0 of the data has no row");
    tiny_train(0, "data.valid=long.h5 data.row_length=24 log.valid_every=0 train.steps=1", 0);
}

/* The byte tokenizer under another text: the same ids, but not the same tokenizer. */
static void other_corpus(const char *path)
{
    rf_tokenizer *byte = NULL, *other = NULL;
    rf_error err = {0};
    size_t bytes = 0;
    char text[4096];
    cr_assert(rf_tokenizer_load(&byte, "byte", &err) == RF_OK);
    snprintf(text, sizeof text, "%s ", rf_tokenizer_text(byte, &bytes));
    cr_assert(rf_tokenizer_parse(&other, text, bytes + 1, "other", &err) == RF_OK, "%s",
              err.message);
    rf_tokenizer_free(byte);
    tiny_corpus_of(path, 0, 40, other);
}

Test(train_errors, tokenizers)
{
    other_corpus("other.h5");
    refuses("data.valid=other.h5", 1, "train.h5 and other.h5 were built with different tokenizers");
    refuses("data.train=[train.h5,other.h5]", 1, "other.h5");
    tiny_train(0, "log.dir=base train.steps=1", 0);
    refuses("data.train=other.h5 data.valid=other.h5 model.init=base/step-000000001.h5", 1,
            "another tokenizer than that of the model base/step-000000001.h5");
}

Test(train_errors, models)
{
    refuses("model.config=none.json", 1, "none.json");
    program_write("bad.json", "{\"architectures\": [\"BertModel\"]}");
    refuses("model.config=bad.json", 1, "BertModel");
    refuses("model.vocab_size=100", 1, "model.vocab_size");
    refuses("model.num_attention_heads=3 model.num_key_value_heads=2", 1, "num_key_value_heads");
    refuses("model.max_position_embeddings=32", 1, "data.row_length");
    refuses("model.init=train.h5", 1, "train.h5");
}

/* Several programs of a user at a time, none under mpirun: MPI must not want a folder for them,
 * which they would share and remove under each other. */
Test(train_errors, alone_without_mpi_folders)
{
    cr_assert(tiny_shell("OMPI_MCA_orte_tmpdir_base=/proc/none \"$TRAIN\" tiny.yaml --dry-run") ==
                  0,
              "%s", program_output);
}

Test(train_errors, ranks_fail_together)
{
    mpi_need();
    /* 4 leaves on 3 ranks. */
    tiny_train(3, "train.reduce=fast", 2);
    tiny_says("train.batch_rows");
    /* One rank alone cannot read its corpus. */
    cr_assert(tiny_shell("$RUN -n 2 sh -c '[ " MPI_RANK " = 0 ] || set -- data.train=missing.h5; "
                         "exec \"$TRAIN\" tiny.yaml \"$@\"'") == 1,
              "%s", program_output);
    tiny_says("rank 1: missing.h5");
}

Test(train_errors, full_disk)
{
    /* Files of at most 2 MB: the first checkpoint, of 6 MB, does not fit. */
    int status = tiny_shell("trap '' XFSZ; ulimit -f 4000; \"$TRAIN\" tiny.yaml train.steps=2 "
                            "model.hidden_size=128");
    cr_assert(status == 1, "status %d\n%s", status, program_output);
    tiny_says("step-000000002.h5");
    cr_assert(tiny_shell("! ls run/step-* 2>/dev/null") == 0, "%s", program_output);
}

Test(train_errors, dry_run)
{
    tiny_train(0, "--dry-run", 0);
    tiny_says("Adam's moments");
    tiny_says("total");
    tiny_says("disk of run (at most 5 checkpoints at once):");
    cr_assert(tiny_shell("! test -e run") == 0);
#ifndef __SANITIZE_ADDRESS__ /* which reserves far more than any limit */
    int status = tiny_shell("ulimit -v 2000000; \"$TRAIN\" tiny.yaml --dry-run "
                            "model.hidden_size=4096 model.num_hidden_layers=40");
    cr_assert(status <= 1, "%s", program_output); /* 1: more than this host has */
    tiny_says("total");
#endif
}

/* What a container leaves, by version 2 of control groups: its files over those of this machine, where this
 * user may mount. The group around the process's own leaves 10 MiB, and more where it gives up files. */
Test(train_errors, dry_run_in_a_control_group)
{
#define IN_A_GROUP(command)                                                                        \
    "unshare -m sh -c 'mount --bind group /sys/fs/cgroup && "                                      \
    "mount --bind membership /proc/$$/cgroup && exec " command "'"
#define DRY_RUN "\"$TRAIN\" tiny.yaml --dry-run"
    cr_assert(
        tiny_shell("mkdir -p group/job/step && echo 0::/job/step >membership && cd group/job && "
                   "echo max | tee memory.max >step/memory.max && "
                   "echo 99614720 | tee memory.current >step/memory.current && "
                   "echo inactive_file 5242880 | tee memory.stat >step/memory.stat") == 0);
    if (tiny_shell(IN_A_GROUP("true")) != 0) {
        leave_folder();
        cr_skip("files of a control group need the right to mount them (root)\n");
    }
    cr_assert(tiny_shell(IN_A_GROUP(DRY_RUN)) == 0, "%s", program_output);
    cr_assert(tiny_shell("echo 104857600 >group/job/memory.max; " IN_A_GROUP(DRY_RUN)) == 1, "%s",
              program_output);
    tiny_says("available on this host                     10.0 MiB");
    tiny_says("does not fit into this host's memory, or that of the container or job");
}

/* --- Ranks agree ------------------------------------------------------------------------------ */

/* The second rank runs in the folder `other`, with this option. */
static void refuses_rank(const char *where, const char *option, int expected, const char *words)
{
    char command[1024];
    snprintf(command, sizeof command,
             "$RUN -n 2 sh -c '[ " MPI_RANK " = 0 ] || { cd %s; o=%s; }; "
             "exec \"$TRAIN\" tiny.yaml train.steps=2 $o'",
             where, option);
    int status = tiny_shell(command);
    cr_assert(status == expected, "status %d\n%s", status, program_output);
    tiny_says(words);
}

Test(train_errors, ranks_agree)
{
    mpi_need();
    cr_assert(tiny_shell(
                  "mkdir other && cp valid.h5 tiny.yaml other && cp valid.h5 other/train.h5") == 0);
    refuses_rank(".", "optim.lr=1e-5", 2,
                 "rank 1: this rank has \"optim.lr: 1e-5\" and rank 0 has");
    refuses_rank(".", "--dry-run", 2, "rank 1: this rank has \"--dry-run yes\"");
    refuses_rank(".", "\"--resume auto\"", 2, "rank 1: this rank has \"--resume auto\"");
    refuses_rank(".", "train.seed=7", 2, "seed: 7");
    refuses_rank("other", "", 2, "rank 1: this rank has \"data.train train.h5 with hash");
    cr_assert(access("run", F_OK) != 0, "nothing was trained");
    refuses_rank(".", "train.threads=2", 0, "checkpoint run/step-000000002.h5");
    /* the weights to fine-tune, under one name */
    cr_assert(tiny_shell("cp run/step-000000002.h5 base.h5 && cp train.h5 other/train.h5 && "
                         "rm -r run") == 0);
    tiny_train(0, "train.steps=1 train.seed=9 log.dir=nine", 0);
    cr_assert(
        tiny_shell("cp nine/step-000000001.h5 other/base.h5 && "
                   "printf 'model: {init: base.h5}\\ndata: {train: train.h5, row_length: 64}\\n"
                   "train: {steps: 1, batch_rows: 4}\\nlog: {dir: run}\\n' >tiny.yaml && "
                   "cp tiny.yaml other") == 0);
    refuses_rank("other", "", 2, "this rank has \"model.init ");
    /* everything is the same, but for the folder that only rank 0 sees */
    cr_assert(tiny_shell("cp base.h5 other/base.h5") == 0);
    refuses_rank("other", "", 1, "rank 1: the run folder run, which rank 0 has made, is not here");
    cr_assert(tiny_shell("cp -r run other") == 0); /* one of that name that is another one */
    refuses_rank("other", "", 1, "rank 1: the run folder run, which rank 0 has made, is not here");
    cr_assert(tiny_shell("ls run other/run | grep tmp") != 0);
}

/* --- Going on, and not being able to ---------------------------------------------------------- */

Test(train_errors, dry_run_says_what_the_run_would)
{
    tiny_train(0,
               "--dry-run model.hidden_size=65536 model.num_attention_heads=512 "
               "model.num_hidden_layers=100",
               1);
    tiny_says("total");
    tiny_says("does not fit into this host's memory");
    tiny_train(0, "--dry-run checkpoint.keep=1000000000", 1);
    tiny_says("the checkpoints do not fit onto the disk of run: lower checkpoint.keep");
    program_write("file", "");
    tiny_train(0, "--dry-run log.dir=file/run", 1);
    tiny_says("file is no folder");
    tiny_train(0, "--dry-run log.dir=file", 1);
    tiny_train(0, "--dry-run log.dir=/proc/none", 1); /* whoever asks */
    tiny_says("the run folder /proc/none cannot be made: nothing can be made in /proc");
    tiny_train(0, "--dry-run log.dir=a/b/c", 0);
    cr_assert(access("a", F_OK) != 0);
}

/* One process plans for ranks that are not there as they would themselves, but for what differs from
 * process to process anyway. A batch of 40 GB is planned within 2 GB of address space. */
Test(train_errors, dry_run_plans_for_other_ranks)
{
    char command[1024];
    for (int n = 1; n <= 4; n *= 2) {
        snprintf(command, sizeof command,
                 "same() { grep -v 'program\\|total\\|all ranks\\|available\\|warning'; }\n"
                 "\"$TRAIN\" tiny.yaml train.threads=1 --dry-run --ranks %d | same >supposed\n"
                 "$RUN -n %d \"$TRAIN\" tiny.yaml train.threads=1 --dry-run | same >real\n"
                 "grep '(%d ranks' real && cmp supposed real",
                 n, n, n);
        cr_assert(tiny_shell(command) == 0, "%s", program_output);
    }
    tiny_train(0, "--ranks 2", 2);
    tiny_says("--ranks goes with --dry-run");
    tiny_train(2, "--ranks 2 --dry-run", 2);
    tiny_says("leave out mpirun");
    tiny_train(0, "--ranks 3 --dry-run", 2);
    tiny_train(0, "--ranks 4 --hosts 2 --dry-run", 0);
    tiny_says("memory of a rank (4 ranks, 2 on this host");
    tiny_train(0, "--ranks 4 --hosts 3 --dry-run", 0);
    tiny_says("memory of a rank (4 ranks, 2 on this host");
    tiny_train(0, "--hosts 2 --dry-run", 2);
    tiny_says("--hosts goes with --ranks");
    tiny_train(0, "--ranks 2 --hosts 3 --dry-run", 2);
    tiny_says("a host has one rank at least");
#ifndef __SANITIZE_ADDRESS__ /* which reserves far more than any limit */
    int status = tiny_shell("ulimit -v 2000000; \"$TRAIN\" tiny.yaml --dry-run --ranks 1 "
                            "train.batch_rows=8388608 train.reduce=fast");
    cr_assert(status <= 1, "%s", program_output);
    tiny_says("total");
#endif
}

/* What is hardly meant is said, and goes on. */
Test(train_errors, warnings)
{
    tiny_train(0, "--dry-run train.steps=5 optim.warmup=6", 0);
    tiny_says("warning: optim.warmup=6 is above the 5 steps");
    tiny_train(0, "--dry-run train.steps=5 optim.warmup=5", 0);
    cr_assert(strstr(program_output, "warning") == NULL, "%s", program_output);
    tiny_train(0, "--dry-run objective.lambda_ar=0 objective.lambda_mdm=0", 0);
    tiny_says("the loss of objective.kind=refusion is 0");
    tiny_train(0, "--dry-run optim.lr=0", 0);
    tiny_says("warning: optim.lr is 0: nothing is learnt");
    tiny_train(0, "--dry-run data.valid=[valid.h5,./train.h5]", 0);
    tiny_says("warning: ./train.h5 is trained on (data.train) and measured with (data.valid)");
    tiny_train(0, "--dry-run objective.kind=ar objective.lambda_ar=0", 0);
    tiny_says("the loss of objective.kind=ar is 0");
    tiny_train(0, "--dry-run objective.lambda_ar=0 optim.warmup=0.5", 0);
    cr_assert(strstr(program_output, "warning: o") == NULL, "%s", program_output);
}

/* How threads wait, and whether something watches what others do meanwhile, is never seen in what they
 * compute. */
Test(train_errors, threads_wait_as_chosen)
{
    cr_assert(tiny_shell("unset OMP_WAIT_POLICY GOMP_SPINCOUNT; "
                         "\"$TRAIN\" tiny.yaml train.threads=2 train.steps=2 log.dir=watched && "
                         "OMP_WAIT_POLICY=passive \"$TRAIN\" tiny.yaml train.threads=2 "
                         "train.steps=2 log.dir=passive && "
                         "for run in watched passive; do "
                         "grep -o '\"loss\": *[^,]*' $run/metrics.jsonl >$run.losses; done; "
                         "test -s passive.losses && cmp watched.losses passive.losses") == 0,
              "%s", program_output);
}

/* What is advised works. */
Test(train_errors, advice_after_divergence)
{
    tiny_train(0,
               "optim.lr=1e38 optim.warmup=1000 optim.clip=0 checkpoint.every=1 "
               "train.steps=50 train.skip_limit=3 log.valid_every=0",
               4);
    tiny_says("model.init=run/step-... log.dir=...");
    tiny_train(0, "model.init=run/step-000000001.h5 log.dir=again train.steps=3", 0);
}
