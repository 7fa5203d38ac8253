/* Adapters and chosen tensors, through the real program. */
#include "tests/train/tiny_run.h"

#include <sys/stat.h>

static const char lora[] = "model.init=base/step-000000008.h5 lora.rank=2 lora.dropout=0.2 "
                           "lora.targets=q_proj,v_proj,down_proj train.steps=6 log.valid_every=3 ";

/* Weights to start from: a run of 8 steps, in base/. */
static void make_base(void)
{
    tiny_begin();
    tiny_train(0, "log.dir=base", 0);
}

static void train(int ranks, const char *run_folder, const char *more, int expected)
{
    char arguments[2048];
    snprintf(arguments, sizeof arguments, "log.dir=%s %s", run_folder, more);
    tiny_train(ranks, arguments, expected);
}

static void train_lora(int ranks, const char *run_folder, const char *more, int expected)
{
    char arguments[1024];
    snprintf(arguments, sizeof arguments, "%s%s", lora, more);
    train(ranks, run_folder, arguments, expected);
}

typedef struct file {
    rf_checkpoint_info info;
    rf_model *model;
    float *m, *v;
} file;

/* A checkpoint with its moments; of an adapter file, beside its base. */
static file file_read(const char *path, const char *base)
{
    file f = {0};
    rf_error err = {0};
    const rf_backend *backend = NULL;
    cr_assert(rf_checkpoint_info_read(&f.info, path, &err) == RF_OK, "%s", err.message);
    rf_model_limits limits = {
        .places = 1, .keys = 1, .positions = 1, .adaptation = &f.info.adaptation};
    cr_assert(rf_backend_choose(&backend, "ref32", &err) == RF_OK);
    cr_assert(rf_model_new(&f.model, &f.info.model, backend, 1, &limits, &err) == RF_OK);
    size_t n = (size_t)f.model->table.n_elements;
    f.m = calloc(n, sizeof *f.m);
    f.v = calloc(n, sizeof *f.v);
    cr_assert(f.m != NULL && f.v != NULL);
    if (base != NULL) {
        cr_assert(rf_checkpoint_load(base, f.model, NULL, NULL, &err) == RF_OK, "%s", err.message);
    }
    cr_assert(rf_checkpoint_load(path, f.model, f.m, f.v, &err) == RF_OK, "%s", err.message);
    return f;
}

static void file_free(file *f)
{
    rf_checkpoint_info_free(&f->info);
    rf_model_free(f->model);
    free(f->m);
    free(f->v);
}

static void same_files(const char *a, const char *b, const char *base)
{
    file x = file_read(a, base), y = file_read(b, base);
    size_t n = (size_t)x.model->table.n_elements * sizeof(float);
    cr_assert(x.model->table.n_elements == y.model->table.n_elements);
    cr_assert(memcmp(x.model->master, y.model->master, n) == 0, "weights of %s and %s differ", a,
              b);
    cr_assert(memcmp(x.m, y.m, n) == 0 && memcmp(x.v, y.v, n) == 0, "moments of %s and %s differ",
              a, b);
    cr_assert(x.info.progress.step == y.info.progress.step);
    file_free(&x);
    file_free(&y);
}

static int64_t bytes_of(const char *path)
{
    struct stat status;
    cr_assert(stat(path, &status) == 0, "%s", path);
    return (int64_t)status.st_size;
}

Test(train_lora, resume_and_ranks)
{
    static const char base[] = "base/step-000000008.h5";
    make_base();
    train_lora(0, "one", "", 0);
    tiny_says("of them trained");
    train_lora(0, "cut", "checkpoint.every=2", 0);
    cr_assert(system("rm cut/step-000000006.h5 cut/step-000000004.h5") == 0);
    train_lora(0, "cut", "checkpoint.every=2 --resume auto", 0);
    tiny_same_curves("one", "cut");
    same_files("one/step-000000006.h5", "cut/step-000000006.h5", base);
    train_lora(2, "two", "", 0);
    tiny_same_curves("one", "two");
    same_files("one/step-000000006.h5", "two/step-000000006.h5", base);
    train_lora(0, "seed", "lora.seed=2", 0);
    cr_assert(tiny_last("one", "step", "loss") > tiny_last("seed", "step", "loss") ||
              tiny_last("one", "step", "loss") < tiny_last("seed", "step", "loss"));
    file f = file_read("one/step-000000006.h5", base);
    int64_t adapters = f.model->table.n_trainable * 4, whole = f.model->table.n_parameters * 4;
    int64_t rest = bytes_of(base) - 3 * (whole - adapters); /* tokenizer, texts, headers */
    cr_assert(bytes_of("one/step-000000006.h5") < 3 * adapters + rest + 32768);
    cr_assert(3 * adapters < whole);
    file_free(&f);
    leave_folder();
}

/* Adapters go on beside their base, wherever it lies, and without the adapters that they began with. */
Test(train_lora, base_has_moved)
{
    make_base();
    train_lora(0, "first", "train.steps=1", 0);
    train_lora(0, "whole", "lora.init=first/step-000000001.h5", 0);
    train_lora(0, "cut", "lora.init=first/step-000000001.h5 train.steps=3", 0);
    cr_assert(tiny_shell("mv base/step-000000008.h5 moved.h5 && mv first/step-000000001.h5 a.h5") ==
              0);
    train_lora(0, "cut", "lora.init=first/step-000000001.h5 --resume auto", 1);
    tiny_says("model.init: there is no base/step-000000008.h5");
    train_lora(0, "cut", "lora.init=a.h5 --resume auto --dry-run model.init=moved.h5", 0);
    train_lora(2, "cut", "lora.init=first/step-000000001.h5 --resume auto model.init=moved.h5", 0);
    tiny_same_curves("whole", "cut");
    same_files("whole/step-000000006.h5", "cut/step-000000006.h5", "moved.h5");
    train(0, "other", "train.seed=6", 0);
    train_lora(0, "cut", "--resume auto train.steps=7 model.init=other/step-000000008.h5", 1);
    tiny_says("belong to another base than");
    tiny_says("/moved.h5 (parameters of hash ");
    leave_folder();
}

/* The run's folder alone is enough to ask it. */
Test(train_lora, finds_its_base)
{
    make_base();
    train_lora(0, "one", "optim.lr=0.3", 0); /* answers otherwise than the base */
    cr_assert_eq(tiny_shell("\"$INFER\" --model base/step-000000008.h5 --adapter one --prompt hi "
                            ">a 2>log && \"$INFER\" --model one --prompt hi >b && cmp a b"),
                 0, "%s", program_output);
    tiny_says("one/step-000000006.h5 goes with its base, /");
    cr_assert_neq(tiny_shell("\"$INFER\" --model base --prompt hi >c && cmp a c"), 0);
    cr_assert_eq(tiny_shell("\"$DATA\" info one base"), 0, "%s", program_output);
    tiny_says("one/step-000000006.h5: adapter file");
    tiny_says(" of the base\n");
    tiny_says(" parameters: rank 2, alpha ");
    tiny_says("/base/step-000000008.h5, hash ");
    tiny_says("base/step-000000008.h5: checkpoint");
    cr_assert_eq(tiny_shell("mv base other && \"$INFER\" --model one --prompt hi"), 1);
    tiny_says("base/step-000000008.h5 is not there: give it with --model and this file "
              "with --adapter");
    leave_folder();
}

Test(train_lora, all_linear)
{
    make_base();
    train_lora(0, "one", "lora.targets=all-linear", 0);
    train_lora(0, "two", "lora.targets=q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj", 0);
    same_files("one/step-000000006.h5", "two/step-000000006.h5", "base/step-000000008.h5");
    leave_folder();
}

/* A new run that begins with the adapters of another: no step with a rate of 0 moves them. */
Test(train_lora, begins_with_adapters)
{
    static const char base[] = "base/step-000000008.h5";
    make_base();
    train_lora(0, "one", "", 0);
    train_lora(0, "two", "lora.init=one/step-000000006.h5 train.steps=2 optim.lr=0", 0);
    file a = file_read("one/step-000000006.h5", base), b = file_read("two/step-000000002.h5", base);
    const size_t n = (size_t)a.model->table.n_elements * sizeof(float);
    cr_assert(memcmp(a.model->master, b.model->master, n) == 0);
    cr_assert(b.info.progress.step == 2);
    file_free(&a);
    file_free(&b);
    train_lora(0, "three", "lora.init=one/step-000000006.h5 train.steps=3", 0);
    train_lora(2, "four", "lora.init=one/step-000000006.h5 train.steps=3", 0);
    tiny_same_curves("three", "four");
    train_lora(0, "bad", "lora.init=one/step-000000006.h5 lora.alpha=3", 1);
    tiny_says("lora.init: one/step-000000006.h5: was trained with other settings");
    train_lora(0, "bad2", "lora.init=base/step-000000008.h5", 1);
    tiny_says("lora.init: base/step-000000008.h5: is a whole model");
    train_lora(0, "bad3", "lora.init=none.h5", 1);
    tiny_says("lora.init: none.h5");
    train(0, "bad4", "lora.init=one/step-000000006.h5 lora.rank=0", 2);
    tiny_says("lora.init without lora.rank");
    leave_folder();
}

Test(train_lora, refused)
{
    make_base();
    train_lora(0, "run", "train.only=mlp", 2);
    tiny_says("leave out one");
    train(0, "run", "lora.rank=2", 2);
    tiny_says("lora.rank without model.init");
    train(0, "run", "lora.alpha=32", 2);
    tiny_says("lora.alpha without lora.rank");
    train(0, "run", "lora.init=none.h5", 2);
    tiny_says("lora.init without lora.rank");
    train(0, "whole", "lora.alpha=32 lora.rank=0 train.steps=1", 0);
    train_lora(0, "run", "lora.targets=q_prj", 2);
    tiny_says("lora.targets: no matrix of the model matches");
    train(0, "run", "train.only=layers.7", 2);
    tiny_says("train.only: no tensor of the model matches");
    train_lora(0, "run", "train.steps=2", 0);
    /* A dry run meets what the run would. */
    for (int dry = 0; dry < 2; dry++) {
        const char *const words = dry == 0 ? "" : "--dry-run";
        char more[256];
        snprintf(more, sizeof more, "lora.init=base/step-000000008.h5 %s", words);
        train_lora(0, "not", more, 1);
        tiny_says("lora.init: base/step-000000008.h5: is a whole model, no adapter file");
        snprintf(more, sizeof more, "lora.init=run/step-000000002.h5 lora.rank=3 %s", words);
        train_lora(0, "not", more, 1);
        tiny_says("was trained with other settings of train.only or lora.*");
        snprintf(more, sizeof more, "model.init=run/step-000000002.h5 %s", words);
        train_lora(0, "not", more, 1);
        tiny_says("model.init: run/step-000000002.h5: holds adapters only: give its base");
        cr_assert(tiny_shell("\"$CONVERT\" quantize --quiet base/step-000000008.h5 small.h5; "
                             "cp base/step-000000008.h5 bad.h5; printf x | "
                             "dd of=bad.h5 bs=1 seek=30000 conv=notrunc") == 0);
        snprintf(more, sizeof more, "model.init=small.h5 %s", words);
        train(0, "not", more, 1);
        tiny_says("its weights were rounded to int8, for decoding");
        snprintf(more, sizeof more, "model.init=bad.h5 %s", words);
        train(0, "not", more, 1);
        tiny_says("is damaged: its checksum");
        cr_assert(tiny_shell("rm -rf not") == 0);
    }
    train_lora(0, "run", "train.steps=2 --resume auto --dry-run", 0);
    train_lora(0, "run", "train.steps=3 lora.rank=3 --resume auto", 2);
    tiny_says("lora.rank is not what");
    train(0, "other", "train.seed=6", 0);
    cr_assert(system("cp other/step-000000008.h5 base/step-000000008.h5") == 0);
    train_lora(0, "run", "train.steps=3 --resume auto", 1);
    tiny_says("another base");
    train(0, "new", "model.init=run/step-000000002.h5", 1);
    tiny_says("adapters only");
    leave_folder();
}

Test(train_lora, chosen_tensors)
{
    static const char chosen[] =
        "model.init=base/step-000000008.h5 train.only=layers.1.mlp,*norm.weight train.steps=6 ";
    char arguments[512];
    make_base();
    train(0, "one", chosen, 0);
    snprintf(arguments, sizeof arguments, "%scheckpoint.every=2", chosen);
    train(2, "cut", arguments, 0);
    cr_assert(system("rm cut/step-000000006.h5") == 0);
    snprintf(arguments, sizeof arguments, "%s--resume auto", chosen);
    train(0, "cut", arguments, 0);
    tiny_same_curves("one", "cut");
    same_files("one/step-000000006.h5", "cut/step-000000006.h5", NULL);
    file f = file_read("one/step-000000006.h5", NULL);
    file base = file_read("base/step-000000008.h5", NULL);
    for (int64_t i = 0; i < f.model->table.n_tensors; i++) {
        const rf_tensor *t = &f.model->table.tensor[i], *s = &base.model->table.tensor[i];
        bool same =
            memcmp((float *)f.model->master + t->offset, (float *)base.model->master + s->offset,
                   (size_t)t->count * sizeof(float)) == 0;
        cr_assert(same == !t->trainable, "%s", t->name);
    }
    file_free(&f);
    file_free(&base);
    leave_folder();
}

/* MiB behind a line of the memory plan. */
static double planned(const char *what)
{
    const char *at = strstr(program_output, what);
    cr_assert(at != NULL, "%s is not in:\n%s", what, program_output);
    const char *number = at + strcspn(at, "\n");
    while (number > at && (strchr("MiB \n", *number) != NULL)) {
        number--;
    }
    while (number > at && strchr("0123456789.", number[-1]) != NULL) {
        number--;
    }
    return strtod(number, NULL);
}

Test(train_lora, memory_plan)
{
    static const char large[] = "model.hidden_size=256 model.num_attention_heads=4 train.steps=1 ";
    char arguments[512];
    tiny_begin();
    snprintf(arguments, sizeof arguments, "%s--dry-run", large);
    train(0, "run", arguments, 0);
    double moments = planned("Adam's moments"), gradients = planned("gradients (");
    double weights = planned("weights");
    cr_assert(moments > 5.0);
    snprintf(arguments, sizeof arguments, "%strain.only=layers.1.self_attn --dry-run", large);
    train(0, "run", arguments, 0);
    cr_assert(planned("Adam's moments") < moments / 4);
    cr_assert(planned("gradients (") < gradients / 4);
    /* the layers' padding is of what is trained */
    cr_assert(planned("weights") >= weights - 1.0 && planned("weights") <= weights + 0.2);
    snprintf(arguments, sizeof arguments, "%s", large);
    train(0, "base", arguments, 0);
    train(0, "run", "model.init=base/step-000000001.h5 model.hidden_size=256 lora.rank=2 --dry-run",
          0);
    cr_assert(planned("Adam's moments") < moments / 20);
    cr_assert(planned("gradients (") < gradients / 20);
    leave_folder();
}
