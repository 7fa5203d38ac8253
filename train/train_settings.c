#include "train/train_settings.h"

#include "data/keys.h"
#include "infer/decode/options.h"

#include <inttypes.h>
#include <string.h>

#define ALL_LINEAR   "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"
#define AT(field)    RF_CONFIG_FIELD(rf_train_settings, field)
#define SHAPE(field) RF_CONFIG_FIELD(rf_model_config, field)
enum { CHANGES = RF_KEY_MAY_CHANGE, ON_REQUEST = RF_KEY_ON_REQUEST };

const rf_config_key rf_train_keys[] = {
    {"train.steps", RF_KEY_INT, "0", 0, 1e12, NULL, CHANGES, AT(steps),
     "optimizer steps of the run; or give train.epochs"},
    {"train.epochs", RF_KEY_REAL, "0", 0, 1e6, NULL, CHANGES, AT(epochs),
     "passes over the data; or give train.steps"},
    {"train.batch_rows", RF_KEY_INT, "16", 1, 1e7, NULL, ON_REQUEST, AT(batch_rows),
     "rows of an optimizer step, over all ranks"},
    {"train.micro_rows", RF_KEY_INT, "1", 1, 1e5, NULL, 0, AT(micro_rows),
     "rows of one forward and backward pass; divides train.batch_rows"},
    {"train.reduce", RF_KEY_CHOICE, "exact", 0, 0, "exact|fast", CHANGES, RF_CONFIG_NO_FIELD,
     "sum of gradients: with the same bits on 1, 2, 4, ... ranks, or with less memory"},
    {"train.shard", RF_KEY_CHOICE, "none", 0, 0, "none|state|gradients|weights", CHANGES, AT(shard),
     "what ranks share instead of each holding all of it: Adam's moments; gradients too; weights "
     "too"},
    {"train.wire", RF_KEY_CHOICE, "f32", 0, 0, "f32|bf16", CHANGES, AT(narrow),
     "gradients on their way between ranks (with train.shard); bf16: half the bytes, other bits"},
    {"train.compute", RF_KEY_CHOICE, "f32", 0, 0, "f32|bf16", 0, AT(compute),
     "operands of matrix products, and activations; sums, the residual stream, weights, gradients "
     "and moments are f32 in any case"},
    {"train.recompute", RF_KEY_CHOICE, "none", 0, 0, "none|selective|block", CHANGES, AT(recompute),
     "activations that the backward pass computes again instead of keeping them: hardly any, all "
     "that take no product of matrices, or each block"},
    {"train.seed", RF_KEY_INT, "1", 0, 9e15, NULL, 0, AT(seed),
     "of weights, order of the data, and noise"},
    {"train.threads", RF_KEY_INT, "0", 0, 4096, NULL, CHANGES, AT(threads),
     "threads of a rank; 0: OMP_NUM_THREADS, or the cores of the host shared among its ranks"},
    {"train.backend", RF_KEY_CHOICE, "auto", 0, 0, "auto|cpu|cuda|ref32|ref64", CHANGES,
     AT(backend),
     "kernels; auto: cuda where the program has it and finds a GPU, else cpu; ref32 and ref64 are "
     "slow and define what is right"},
    {"train.skip_limit", RF_KEY_INT, "5", 1, 1e6, NULL, CHANGES, AT(skip_limit),
     "skipped steps in a row (non-finite loss or gradient, spikes) that end the run (status 4)"},
    {"train.spike_zscore", RF_KEY_REAL, "0", 0, 1e9, NULL, ON_REQUEST, AT(spikes.zscore),
     "a step whose loss or gradient norm lies more than this many standard deviations above the "
     "mean of those before is skipped; 0: none"},
    {"train.spike_of", RF_KEY_CHOICE, "both", 0, 0, "loss|norm|both", ON_REQUEST,
     RF_CONFIG_NO_FIELD, "what is judged: the loss, the gradient norm, or both"},
    {"train.spike_window", RF_KEY_INT, "100", 2, 1e6, NULL, ON_REQUEST, AT(spikes.window),
     "steps that mean and deviation are of: the last ones that were not skipped"},
    {"train.spike_rollback", RF_KEY_INT, "0", 0, 1e6, NULL, ON_REQUEST, AT(spikes.rollback),
     "after so many skipped steps in a row, go back to the checkpoint (checkpoint.every) before "
     "them and leave their rows out; 0: never"},
    {"train.max_seconds", RF_KEY_REAL, "0", 0, 1e9, NULL, CHANGES, AT(max_seconds),
     "wall-clock limit: checkpoint, then exit status 3; 0: none"},
    {"train.watchdog", RF_KEY_REAL, "1800", 0, 1e9, NULL, CHANGES, AT(watchdog.seconds),
     "seconds after which a step, save or load that hangs ends the job (status 5); 0: off"},
    {"train.watchdog_load", RF_KEY_REAL, "0", 0, 1e9, NULL, CHANGES, AT(watchdog.load),
     "the same for loading the weights; 0: train.watchdog"},
    {"train.watchdog_save", RF_KEY_REAL, "0", 0, 1e9, NULL, CHANGES, AT(watchdog.save),
     "the same for waiting for a checkpoint; 0: train.watchdog"},

    {"train.only", RF_KEY_STRINGS, "", 0, 0, NULL, 0, RF_CONFIG_NO_FIELD,
     "tensors that are trained: names, parts of them as layers.3 or mlp, or with `*`; default: "
     "all"},

    {"lora.rank", RF_KEY_INT, "0", 0, 65536, NULL, 0, AT(adaptation.rank),
     "trains adapters of this rank beside the weights of model.init, and nothing else; 0: none"},
    {"lora.alpha", RF_KEY_REAL, "16", 0, 1e9, NULL, 0, AT(adaptation.alpha),
     "an adapter's share is scaled by lora.alpha / lora.rank"},
    {"lora.targets", RF_KEY_STRINGS, ALL_LINEAR, 0, 0, NULL, 0, RF_CONFIG_NO_FIELD,
     "matrices that get an adapter; patterns as in train.only, or all-linear (the default)"},
    {"lora.dropout", RF_KEY_REAL, "0", 0, 0.999999, NULL, 0, AT(adaptation.dropout),
     "fraction of an adapter's inputs that is dropped in training"},
    {"lora.init", RF_KEY_STRING, "", 0, 0, NULL, CHANGES, RF_CONFIG_NO_FIELD,
     "an adapter file for model.init whose adapters training goes on from; default: fresh ones"},
    {"lora.seed", RF_KEY_INT, "1", 0, 9e15, NULL, 0, AT(adaptation.seed),
     "of fresh adapters and of dropout"},

    {"optim.lr", RF_KEY_REAL, "3e-4", 0, 1e38, NULL, ON_REQUEST, AT(schedule.lr),
     "peak learning rate"},
    {"optim.schedule", RF_KEY_CHOICE, "cosine", 0, 0, "constant|linear|cosine|wsd", ON_REQUEST,
     AT(schedule.kind), "of the learning rate; wsd: warm up, stay, decay at the end"},
    {"optim.warmup", RF_KEY_REAL, "0", 0, 1e12, NULL, ON_REQUEST, AT(schedule.warmup),
     "steps of linear warm-up; below 1: fraction of the steps"},
    {"optim.min_lr", RF_KEY_REAL, "0.1", 0, 1, NULL, ON_REQUEST, AT(schedule.min_lr),
     "where linear, cosine and wsd end, as a fraction of optim.lr"},
    {"optim.decay_fraction", RF_KEY_REAL, "0.2", 0, 1, NULL, ON_REQUEST,
     AT(schedule.decay_fraction), "wsd: fraction of the steps in which the rate decays"},
    {"optim.beta1", RF_KEY_REAL, "0.9", 0, 0.999999, NULL, 0, AT(optimizer.beta1),
     "AdamW: of the first moment"},
    {"optim.beta2", RF_KEY_REAL, "0.95", 0, 0.99999999, NULL, 0, AT(optimizer.beta2),
     "AdamW: of the second moment"},
    {"optim.eps", RF_KEY_REAL, "1e-8", 1e-30, 1, NULL, 0, AT(optimizer.eps),
     "AdamW: added to the root"},
    {"optim.weight_decay", RF_KEY_REAL, "0.1", 0, 1e6, NULL, ON_REQUEST, AT(optimizer.weight_decay),
     "AdamW: of matrices; gains and biases have none"},
    {"optim.clip", RF_KEY_REAL, "1", 0, 1e38, NULL, ON_REQUEST, AT(optimizer.clip),
     "largest global norm of the gradient; 0: no clipping"},

    {"checkpoint.every", RF_KEY_INT, "1000", 0, 1e12, NULL, CHANGES, AT(checkpoint_every),
     "steps between checkpoints; 0: at the end only"},
    {"checkpoint.keep", RF_KEY_INT, "3", 0, 1e9, NULL, CHANGES, AT(checkpoint_keep.newest),
     "newest checkpoints that are kept; 0: all"},
    {"checkpoint.keep_every", RF_KEY_INT, "0", 0, 1e12, NULL, CHANGES, AT(checkpoint_keep.every),
     "checkpoints of steps that are multiples of this are kept too; 0: none"},
    {"checkpoint.best", RF_KEY_BOOL, "true", 0, 0, NULL, CHANGES, AT(checkpoint_best),
     "save when the validation loss is the lowest so far, and keep that file; false on a resume: "
     "the one so far is no longer kept as such"},
    {"checkpoint.async", RF_KEY_CHOICE, "auto", 0, 0, "auto|yes|no", CHANGES, AT(checkpoint_async),
     "training stops only while the checkpoint is copied in memory, and goes on while it is "
     "written; auto: where the copies take less than half of the host's free memory"},
    {"checkpoint.on_full", RF_KEY_CHOICE, "warn", 0, 0, "warn|stop", CHANGES, RF_CONFIG_NO_FIELD,
     "a checkpoint that cannot be written (full disk): skip it and train on, or end the run; the "
     "last one of a run ends it in any case"},

    {"log.dir", RF_KEY_STRING, "", 0, 0, NULL, CHANGES, AT(folder),
     "the run folder; default: runs/ and the name of the configuration file without .yaml or .yml"},
    {"log.every", RF_KEY_INT, "10", 1, 1e9, NULL, CHANGES, AT(log_every),
     "steps between lines of text; metrics.jsonl has every step"},
    {"log.tensorboard", RF_KEY_BOOL, "false", 0, 0, NULL, CHANGES, AT(tensorboard),
     "curves for TensorBoard too, as event files in the run folder"},
    {"log.valid_every", RF_KEY_INT, "200", 0, 1e12, NULL, CHANGES, AT(valid_every),
     "steps between validations, and one at the end; 0: none"},
    {"log.valid_rows", RF_KEY_INT, "0", 0, 1e12, NULL, CHANGES, AT(valid_rows),
     "rows of a validation, rounded up to train.batch_rows; 0: all of data.valid"},
    {"log.samples_every", RF_KEY_INT, "0", 0, 1e12, NULL, CHANGES, AT(samples_every),
     "steps between sample completions, and once at the end; 0: none"},
    {"log.n_samples", RF_KEY_INT, "4", 1, 1e4, NULL, CHANGES, AT(n_samples), "prompts to complete"},

    {"debug.dump_step", RF_KEY_STRING, "", 0, 0, NULL, CHANGES, AT(dump),
     "FILE.h5 for all data of the first optimizer step (train/README.md)"},
    {"debug.log_samples", RF_KEY_BOOL, "false", 0, 0, NULL, CHANGES, AT(log_samples),
     "which samples each step trains on which rank, in trained.jsonl of the run folder"},
    {0}};

const rf_config_key rf_model_keys[] = {
    {"model.init", RF_KEY_STRING, "", 0, 0, NULL, CHANGES, RF_CONFIG_NO_FIELD,
     "checkpoint to fine-tune from; gives sizes and weights. On a resume only adapters read it, "
     "and it is the same base, wherever it lies"},
    {"model.config", RF_KEY_STRING, "", 0, 0, NULL, 0, RF_CONFIG_NO_FIELD,
     "a Hugging Face config.json that gives the sizes; the keys below override it"},
    {"model.vocab_size", RF_KEY_INT, "0", 0, 1e8, NULL, 0, SHAPE(vocab_size),
     "rows of the embedding; 0: the tokenizer's size, rounded up to a multiple of 64"},
    {"model.hidden_size", RF_KEY_INT, "256", 1, 1e6, NULL, 0, SHAPE(hidden_size),
     "width of the residual stream"},
    {"model.intermediate_size", RF_KEY_INT, "0", 0, 1e7, NULL, 0, SHAPE(intermediate_size),
     "width of the feed-forward part; 0: 8/3 of hidden_size, rounded up to a multiple of 32"},
    {"model.num_hidden_layers", RF_KEY_INT, "4", 1, 1e4, NULL, 0, SHAPE(num_hidden_layers),
     "blocks"},
    {"model.num_attention_heads", RF_KEY_INT, "4", 1, 1e5, NULL, 0, SHAPE(num_attention_heads),
     "query heads"},
    {"model.num_key_value_heads", RF_KEY_INT, "0", 0, 1e5, NULL, 0, SHAPE(num_key_value_heads),
     "key/value heads; 0: num_attention_heads"},
    {"model.head_dim", RF_KEY_INT, "0", 0, 1e5, NULL, 0, SHAPE(head_dim),
     "width of a head; 0: hidden_size / num_attention_heads"},
    {"model.max_position_embeddings", RF_KEY_INT, "0", 0, 1e9, NULL, 0,
     SHAPE(max_position_embeddings),
     "positions that the model is made for; 0: what rows and samples of this run need"},
    {"model.rms_norm_eps", RF_KEY_REAL, "1e-6", 1e-30, 1, NULL, 0, SHAPE(rms_norm_eps),
     "epsilon of the norms"},
    {"model.rope_theta", RF_KEY_REAL, "1e4", 1, 1e12, NULL, 0, SHAPE(rope_theta),
     "base of the rotary angles"},
    {"model.initializer_range", RF_KEY_REAL, "0.02", 0, 100, NULL, 0, SHAPE(initializer_range),
     "standard deviation of fresh weights"},
    {"model.tie_word_embeddings", RF_KEY_BOOL, "true", 0, 0, NULL, 0, SHAPE(tie_word_embeddings),
     "the head is the embedding table"},
    {"model.qk_norm", RF_KEY_BOOL, "true", 0, 0, NULL, 0, SHAPE(qk_norm),
     "RMSNorm of each query and key head"},
    {"model.qkv_bias", RF_KEY_BOOL, "false", 0, 0, NULL, 0, SHAPE(qkv_bias),
     "biases of q, k and v"},
    {"model.output_bias", RF_KEY_BOOL, "false", 0, 0, NULL, 0, SHAPE(output_bias),
     "bias of the attention's output"},
    {0}};

const rf_config_key *const rf_train_tables[] = {rf_model_keys, rf_data_keys,   rf_objective_keys,
                                                rf_train_keys, rf_decode_keys, NULL};

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

/* Whoever gives these means adapters: without a rank there are none, which lora.rank=0 says. */
static int check_rank_given(const rf_config *config, rf_error *err)
{
    static const char *const names[] = {"lora.alpha", "lora.targets", "lora.dropout", "lora.seed"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (rf_config_is_set(config, names[i]) && !rf_config_is_set(config, "lora.rank")) {
            return rf_error_set(
                err, RF_ERR_USAGE,
                "%s: %s without lora.rank: no adapters would be trained: give their "
                "rank, or lora.rank=0 for none",
                rf_config_origin(config, names[i]), names[i]);
        }
    }
    return RF_OK;
}

static int read_adaptation(rf_adaptation *out, const rf_config *config, rf_error *err)
{
    RF_TRY(check_rank_given(config, err));
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
    *out = (rf_train_settings){
        .exact = rf_config_is(config, "train.reduce", "exact"),
        .spikes = {.of_loss = !rf_config_is(config, "train.spike_of", "norm"),
                   .of_norm = !rf_config_is(config, "train.spike_of", "loss")},
        .warn_when_full = rf_config_is(config, "checkpoint.on_full", "warn"),
    };
    rf_config_fill(out, config, rf_train_keys, false);
    out->schedule.steps = out->steps;
    RF_TRY(read_adaptation(&out->adaptation, config, err));
    return check(out, err);
}
