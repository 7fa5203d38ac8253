#include "train/train_settings.h"

#include "data/keys.h"
#include "infer/decode/options.h"

#include <inttypes.h>
#include <string.h>

#define ALL_LINEAR "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"
enum { CHANGES = RF_KEY_MAY_CHANGE, ON_REQUEST = RF_KEY_ON_REQUEST };

const rf_config_key rf_train_keys[] = {
    {"train.steps", RF_KEY_INT, "0", 0, 1e12, NULL, CHANGES,
     "optimizer steps of the run; or give train.epochs"},
    {"train.epochs", RF_KEY_REAL, "0", 0, 1e6, NULL, CHANGES,
     "passes over the data; or give train.steps"},
    {"train.batch_rows", RF_KEY_INT, "16", 1, 1e7, NULL, ON_REQUEST,
     "rows of an optimizer step, over all ranks"},
    {"train.micro_rows", RF_KEY_INT, "1", 1, 1e5, NULL, 0,
     "rows of one forward and backward pass; divides train.batch_rows"},
    {"train.reduce", RF_KEY_CHOICE, "exact", 0, 0, "exact|fast", CHANGES,
     "sum of gradients: with the same bits on 1, 2, 4, ... ranks, or with less memory"},
    {"train.shard", RF_KEY_CHOICE, "none", 0, 0, "none|state|gradients|weights", CHANGES,
     "what ranks share instead of each holding all of it: Adam's moments; gradients too; weights "
     "too"},
    {"train.wire", RF_KEY_CHOICE, "f32", 0, 0, "f32|bf16", CHANGES,
     "gradients on their way between ranks (with train.shard); bf16: half the bytes, other bits"},
    {"train.compute", RF_KEY_CHOICE, "f32", 0, 0, "f32|bf16", 0,
     "operands of matrix products, and activations; sums, the residual stream, weights, gradients "
     "and moments are f32 in any case"},
    {"train.recompute", RF_KEY_CHOICE, "none", 0, 0, "none|block", CHANGES,
     "activations: keep all, or compute each block again in the backward pass"},
    {"train.seed", RF_KEY_INT, "1", 0, 9e15, NULL, 0, "of weights, order of the data, and noise"},
    {"train.threads", RF_KEY_INT, "0", 0, 4096, NULL, CHANGES,
     "threads of a rank; 0: OMP_NUM_THREADS, or the cores of the host shared among its ranks"},
    {"train.backend", RF_KEY_CHOICE, "auto", 0, 0, "auto|cpu|cuda|ref32|ref64", CHANGES,
     "kernels; auto: cuda where the program has it and finds a GPU, else cpu; ref32 and ref64 are "
     "slow and define what is right"},
    {"train.skip_limit", RF_KEY_INT, "5", 1, 1e6, NULL, CHANGES,
     "skipped steps in a row (non-finite loss or gradient, spikes) that end the run (status 4)"},
    {"train.spike_zscore", RF_KEY_REAL, "0", 0, 1e9, NULL, ON_REQUEST,
     "a step whose loss or gradient norm lies more than this many standard deviations above the "
     "mean "
     "of those before is skipped; 0: none"},
    {"train.spike_of", RF_KEY_CHOICE, "both", 0, 0, "loss|norm|both", ON_REQUEST,
     "what is judged: the loss, the gradient norm, or both"},
    {"train.spike_window", RF_KEY_INT, "100", 2, 1e6, NULL, ON_REQUEST,
     "steps that mean and deviation are of: the last ones that were not skipped"},
    {"train.spike_rollback", RF_KEY_INT, "0", 0, 1e6, NULL, ON_REQUEST,
     "after so many skipped steps in a row, go back to the checkpoint (checkpoint.every) before "
     "them "
     "and leave their rows out; 0: never"},
    {"train.max_seconds", RF_KEY_REAL, "0", 0, 1e9, NULL, CHANGES,
     "wall-clock limit: checkpoint, then exit status 3; 0: none"},
    {"train.watchdog", RF_KEY_REAL, "1800", 0, 1e9, NULL, CHANGES,
     "seconds after which a step, save or load that hangs ends the job (status 5); 0: off"},
    {"train.watchdog_load", RF_KEY_REAL, "0", 0, 1e9, NULL, CHANGES,
     "the same for loading the weights; 0: train.watchdog"},
    {"train.watchdog_save", RF_KEY_REAL, "0", 0, 1e9, NULL, CHANGES,
     "the same for waiting for a checkpoint; 0: train.watchdog"},

    {"train.only", RF_KEY_STRINGS, "", 0, 0, NULL, 0,
     "tensors that are trained: names, parts of them as layers.3 or mlp, or with `*`; default: "
     "all"},

    {"lora.rank", RF_KEY_INT, "0", 0, 65536, NULL, 0,
     "trains adapters of this rank beside the weights of model.init, and nothing else; 0: none"},
    {"lora.alpha", RF_KEY_REAL, "16", 0, 1e9, NULL, 0,
     "an adapter's share is scaled by lora.alpha / lora.rank"},
    {"lora.targets", RF_KEY_STRINGS, ALL_LINEAR, 0, 0, NULL, 0,
     "matrices that get an adapter; patterns as in train.only, or all-linear (the default)"},
    {"lora.dropout", RF_KEY_REAL, "0", 0, 0.999999, NULL, 0,
     "fraction of an adapter's inputs that is dropped in training"},
    {"lora.init", RF_KEY_STRING, "", 0, 0, NULL, 0,
     "an adapter file for model.init whose adapters training goes on from; default: fresh ones"},
    {"lora.seed", RF_KEY_INT, "1", 0, 9e15, NULL, 0, "of fresh adapters and of dropout"},

    {"optim.lr", RF_KEY_REAL, "3e-4", 0, 1e38, NULL, ON_REQUEST, "peak learning rate"},
    {"optim.schedule", RF_KEY_CHOICE, "cosine", 0, 0, "constant|linear|cosine|wsd", ON_REQUEST,
     "of the learning rate; wsd: warm up, stay, decay at the end"},
    {"optim.warmup", RF_KEY_REAL, "0", 0, 1e12, NULL, ON_REQUEST,
     "steps of linear warm-up; below 1: fraction of the steps"},
    {"optim.min_lr", RF_KEY_REAL, "0.1", 0, 1, NULL, ON_REQUEST,
     "where linear, cosine and wsd end, as a fraction of optim.lr"},
    {"optim.decay_fraction", RF_KEY_REAL, "0.2", 0, 1, NULL, ON_REQUEST,
     "wsd: fraction of the steps in which the rate decays"},
    {"optim.beta1", RF_KEY_REAL, "0.9", 0, 0.999999, NULL, 0, "AdamW: of the first moment"},
    {"optim.beta2", RF_KEY_REAL, "0.95", 0, 0.99999999, NULL, 0, "AdamW: of the second moment"},
    {"optim.eps", RF_KEY_REAL, "1e-8", 1e-30, 1, NULL, 0, "AdamW: added to the root"},
    {"optim.weight_decay", RF_KEY_REAL, "0.1", 0, 1e6, NULL, ON_REQUEST,
     "AdamW: of matrices; gains and biases have none"},
    {"optim.clip", RF_KEY_REAL, "1", 0, 1e38, NULL, ON_REQUEST,
     "largest global norm of the gradient; 0: no clipping"},

    {"checkpoint.every", RF_KEY_INT, "1000", 0, 1e12, NULL, CHANGES,
     "steps between checkpoints; 0: at the end only"},
    {"checkpoint.keep", RF_KEY_INT, "3", 0, 1e9, NULL, CHANGES,
     "newest checkpoints that are kept; 0: all"},
    {"checkpoint.keep_every", RF_KEY_INT, "0", 0, 1e12, NULL, CHANGES,
     "checkpoints of steps that are multiples of this are kept too; 0: none"},
    {"checkpoint.best", RF_KEY_BOOL, "true", 0, 0, NULL, CHANGES,
     "save when the validation loss is the lowest so far, and keep that file"},
    {"checkpoint.async", RF_KEY_CHOICE, "auto", 0, 0, "auto|yes|no", CHANGES,
     "training stops only while the checkpoint is copied in memory, and goes on while it is "
     "written; "
     "auto: where the copies take less than half of the host's free memory"},
    {"checkpoint.on_full", RF_KEY_CHOICE, "warn", 0, 0, "warn|stop", CHANGES,
     "a checkpoint that cannot be written (full disk): skip it and train on, or end the run; the "
     "last "
     "one of a run ends it in any case"},

    {"log.dir", RF_KEY_STRING, "", 0, 0, NULL, CHANGES,
     "the run folder; default: runs/ and the name of the configuration file"},
    {"log.every", RF_KEY_INT, "10", 1, 1e9, NULL, CHANGES,
     "steps between lines of text; metrics.jsonl has every step"},
    {"log.tensorboard", RF_KEY_BOOL, "false", 0, 0, NULL, CHANGES,
     "curves for TensorBoard too, as event files in the run folder"},
    {"log.valid_every", RF_KEY_INT, "200", 0, 1e12, NULL, CHANGES,
     "steps between validations, and one at the end; 0: none"},
    {"log.valid_rows", RF_KEY_INT, "0", 0, 1e12, NULL, CHANGES,
     "rows of a validation, rounded up to train.batch_rows; 0: all of data.valid"},
    {"log.samples_every", RF_KEY_INT, "0", 0, 1e12, NULL, CHANGES,
     "steps between sample completions, and once at the end; 0: none"},
    {"log.n_samples", RF_KEY_INT, "4", 1, 1e4, NULL, CHANGES, "prompts to complete"},

    {"debug.dump_step", RF_KEY_STRING, "", 0, 0, NULL, CHANGES,
     "FILE.h5 for all data of the first optimizer step (train/README.md)"},
    {"debug.log_samples", RF_KEY_BOOL, "false", 0, 0, NULL, CHANGES,
     "which samples each step trains on which rank, in trained.jsonl of the run folder"},
    {0}};

const rf_config_key rf_model_keys[] = {
    {"model.init", RF_KEY_STRING, "", 0, 0, NULL, 0,
     "checkpoint to fine-tune from; gives sizes and weights"},
    {"model.config", RF_KEY_STRING, "", 0, 0, NULL, 0,
     "a Hugging Face config.json that gives the sizes; the keys below override it"},
    {"model.vocab_size", RF_KEY_INT, "0", 0, 1e8, NULL, 0,
     "rows of the embedding; 0: the tokenizer's size, rounded up to a multiple of 64"},
    {"model.hidden_size", RF_KEY_INT, "256", 1, 1e6, NULL, 0, "width of the residual stream"},
    {"model.intermediate_size", RF_KEY_INT, "0", 0, 1e7, NULL, 0,
     "width of the feed-forward part; 0: 8/3 of hidden_size, rounded up to a multiple of 32"},
    {"model.num_hidden_layers", RF_KEY_INT, "4", 1, 1e4, NULL, 0, "blocks"},
    {"model.num_attention_heads", RF_KEY_INT, "4", 1, 1e5, NULL, 0, "query heads"},
    {"model.num_key_value_heads", RF_KEY_INT, "0", 0, 1e5, NULL, 0,
     "key/value heads; 0: num_attention_heads"},
    {"model.head_dim", RF_KEY_INT, "0", 0, 1e5, NULL, 0,
     "width of a head; 0: hidden_size / num_attention_heads"},
    {"model.max_position_embeddings", RF_KEY_INT, "0", 0, 1e9, NULL, 0,
     "positions that the model is made for; 0: what rows and samples of this run need"},
    {"model.rms_norm_eps", RF_KEY_REAL, "1e-6", 1e-30, 1, NULL, 0, "epsilon of the norms"},
    {"model.rope_theta", RF_KEY_REAL, "1e4", 1, 1e12, NULL, 0, "base of the rotary angles"},
    {"model.initializer_range", RF_KEY_REAL, "0.02", 0, 100, NULL, 0,
     "standard deviation of fresh weights"},
    {"model.tie_word_embeddings", RF_KEY_BOOL, "true", 0, 0, NULL, 0,
     "the head is the embedding table"},
    {"model.qk_norm", RF_KEY_BOOL, "true", 0, 0, NULL, 0, "RMSNorm of each query and key head"},
    {"model.qkv_bias", RF_KEY_BOOL, "false", 0, 0, NULL, 0, "biases of q, k and v"},
    {"model.output_bias", RF_KEY_BOOL, "false", 0, 0, NULL, 0, "bias of the attention's output"},
    {0}};

const rf_config_key *const rf_train_tables[] = {rf_model_keys, rf_data_keys,   rf_objective_keys,
                                                rf_train_keys, rf_decode_keys, NULL};

static rf_schedule_kind schedule_kind(const rf_config *config)
{
    if (rf_config_is(config, "optim.schedule", "constant")) {
        return RF_SCHEDULE_CONSTANT;
    }
    if (rf_config_is(config, "optim.schedule", "linear")) {
        return RF_SCHEDULE_LINEAR;
    }
    return rf_config_is(config, "optim.schedule", "cosine") ? RF_SCHEDULE_COSINE : RF_SCHEDULE_WSD;
}

static rf_shard read_shard(const rf_config *config)
{
    static const char *const names[] = {"none", "state", "gradients", "weights"};
    rf_shard shard = RF_SHARD_NONE;
    while (!rf_config_is(config, "train.shard", names[shard])) {
        shard++;
    }
    return shard;
}

static void read_optimizer(rf_train_settings *out, const rf_config *config)
{
    out->schedule = (rf_schedule){
        .kind = schedule_kind(config),
        .lr = rf_config_real(config, "optim.lr"),
        .warmup = rf_config_real(config, "optim.warmup"),
        .min_lr = rf_config_real(config, "optim.min_lr"),
        .decay_fraction = rf_config_real(config, "optim.decay_fraction"),
        .steps = out->steps,
    };
    out->optimizer = (rf_optimizer_settings){
        .beta1 = rf_config_real(config, "optim.beta1"),
        .beta2 = rf_config_real(config, "optim.beta2"),
        .eps = rf_config_real(config, "optim.eps"),
        .weight_decay = rf_config_real(config, "optim.weight_decay"),
        .clip = rf_config_real(config, "optim.clip"),
    };
}

/* A list of patterns as one text (adapt.h). */
static int join_patterns(char *out, const rf_config *config, const char *key, rf_error *err)
{
    int64_t n = 0;
    size_t used = 0;
    const char *const *pattern = rf_config_strings(config, key, &n);
    out[0] = '\0';
    for (int64_t i = 0; i < n; i++) {
        if (strchr(pattern[i], ',') != NULL || pattern[i][0] == '\0') {
            return rf_error_set(err, RF_ERR_USAGE,
                                "%s: %s: \"%.200s\" is no pattern: write names of tensors or "
                                "parts of them",
                                rf_config_origin(config, key), key, pattern[i]);
        }
        used += (size_t)snprintf(out + used, RF_ADAPT_PATTERNS - used, "%s%s", i > 0 ? "," : "",
                                 pattern[i]);
        if (used >= RF_ADAPT_PATTERNS) {
            return rf_error_set(err, RF_ERR_USAGE,
                                "%s: %s is longer than %d characters: use patterns with `*`",
                                rf_config_origin(config, key), key, RF_ADAPT_PATTERNS - 1);
        }
    }
    return RF_OK;
}

static int read_adaptation(rf_adaptation *out, const rf_config *config, rf_error *err)
{
    out->rank = rf_config_int(config, "lora.rank");
    out->alpha = rf_config_real(config, "lora.alpha");
    out->dropout = rf_config_real(config, "lora.dropout");
    out->seed = (uint64_t)rf_config_int(config, "lora.seed");
    RF_TRY(join_patterns(out->only, config, "train.only", err));
    RF_TRY(join_patterns(out->targets, config, "lora.targets", err));
    if (strcmp(out->targets, "all-linear") == 0) { /* as PEFT calls them */
        strcpy(out->targets, ALL_LINEAR);
    }
    RF_TRY(rf_adapt_check(out, err));
    if (out->rank > 0 && rf_config_string(config, "model.init")[0] == '\0') {
        return rf_error_set(
            err, RF_ERR_USAGE,
            "%s: lora.rank without model.init: name the checkpoint that the adapters "
            "are for",
            rf_config_origin(config, "lora.rank"));
    }
    if (out->rank == 0 && rf_config_string(config, "lora.init")[0] != '\0') {
        return rf_error_set(
            err, RF_ERR_USAGE,
            "%s: lora.init without lora.rank: give the rank, alpha and targets that "
            "its adapters have",
            rf_config_origin(config, "lora.init"));
    }
    return RF_OK;
}

static void read_logging(rf_train_settings *out, const rf_config *config)
{
    out->checkpoint_every = rf_config_int(config, "checkpoint.every");
    out->checkpoint_keep =
        (rf_checkpoint_keep){.newest = rf_config_int(config, "checkpoint.keep"),
                             .every = rf_config_int(config, "checkpoint.keep_every")};
    out->checkpoint_async = rf_config_is(config, "checkpoint.async", "auto")  ? RF_ASYNC_AUTO
                            : rf_config_is(config, "checkpoint.async", "yes") ? RF_ASYNC_YES
                                                                              : RF_ASYNC_NO;
    out->warn_when_full = rf_config_is(config, "checkpoint.on_full", "warn");
    out->checkpoint_best = rf_config_bool(config, "checkpoint.best");
    out->folder = rf_config_string(config, "log.dir");
    out->tensorboard = rf_config_bool(config, "log.tensorboard");
    out->log_every = rf_config_int(config, "log.every");
    out->valid_every = rf_config_int(config, "log.valid_every");
    out->valid_rows = rf_config_int(config, "log.valid_rows");
    out->samples_every = rf_config_int(config, "log.samples_every");
    out->n_samples = rf_config_int(config, "log.n_samples");
    out->dump = rf_config_string(config, "debug.dump_step");
    out->log_samples = rf_config_bool(config, "debug.log_samples");
}

static int check(const rf_train_settings *s, rf_error *err)
{
    bool has_epochs = s->epochs > 0.0;
    if ((s->steps > 0) == has_epochs) {
        return rf_error_set(err, RF_ERR_USAGE, "train.steps and train.epochs: give %s of them",
                            has_epochs ? "only one" : "one");
    }
    if (s->batch_rows % s->micro_rows != 0) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "train.batch_rows is %" PRId64 " and train.micro_rows %" PRId64
                            ": the second must divide the first",
                            s->batch_rows, s->micro_rows);
    }
    if (s->spikes.rollback > 0 &&
        (s->checkpoint_every == 0 || s->spikes.rollback > s->skip_limit)) {
        return rf_error_set(err, RF_ERR_USAGE, "train.spike_rollback is %" PRId64 ": it needs %s",
                            s->spikes.rollback,
                            s->checkpoint_every == 0
                                ? "checkpoint.every, to have where to go back to"
                                : "a train.skip_limit of at least as much");
    }
    if (s->narrow && s->shard == RF_SHARD_NONE) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "train.wire=bf16 is for what ranks share: set train.shard");
    }
    if (s->folder[0] == '\0') {
        return rf_error_set(err, RF_ERR_USAGE, "log.dir is empty: name the run folder");
    }
    return RF_OK;
}

int rf_train_settings_from_config(rf_train_settings *out, const rf_config *config, rf_error *err)
{
    const char *backend = rf_config_string(config, "train.backend");
    *out = (rf_train_settings){
        .steps = rf_config_int(config, "train.steps"),
        .epochs = rf_config_real(config, "train.epochs"),
        .batch_rows = rf_config_int(config, "train.batch_rows"),
        .micro_rows = rf_config_int(config, "train.micro_rows"),
        .exact = rf_config_is(config, "train.reduce", "exact"),
        .shard = read_shard(config),
        .narrow = rf_config_is(config, "train.wire", "bf16"),
        .recompute = rf_config_is(config, "train.recompute", "block") ? RF_RECOMPUTE_BLOCK
                                                                      : RF_RECOMPUTE_NONE,
        .compute = rf_config_is(config, "train.compute", "bf16") ? RF_COMPUTE_BF16 : RF_COMPUTE_F32,
        .seed = (uint64_t)rf_config_int(config, "train.seed"),
        .threads = rf_config_int(config, "train.threads"),
        .backend = backend,
        .skip_limit = rf_config_int(config, "train.skip_limit"),
        .spikes = {.of_loss = !rf_config_is(config, "train.spike_of", "norm"),
                   .of_norm = !rf_config_is(config, "train.spike_of", "loss"),
                   .zscore = rf_config_real(config, "train.spike_zscore"),
                   .window = rf_config_int(config, "train.spike_window"),
                   .rollback = rf_config_int(config, "train.spike_rollback")},
        .max_seconds = rf_config_real(config, "train.max_seconds"),
        .watchdog = {.seconds = rf_config_real(config, "train.watchdog"),
                     .load = rf_config_real(config, "train.watchdog_load"),
                     .save = rf_config_real(config, "train.watchdog_save")},
    };
    read_optimizer(out, config);
    read_logging(out, config);
    RF_TRY(read_adaptation(&out->adaptation, config, err));
    return check(out, err);
}
