/* refusion-convert: models of Hugging Face in and out. */
#include "common/base/files/file.h"
#include "common/base/files/output.h"
#include "common/base/log.h"
#include "common/base/manual/manual.h"
#include "common/base/number.h"
#include "common/store/checkpoint.h"
#include "data/convert/convert.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

typedef struct command_line {
    rf_convert_options options;
    const char *dtype, *base, *shard;
    rf_option_list ignored;
    bool quiet;
    char base_path[RF_PATH_BYTES], source[2][RF_PATH_BYTES]; /* chosen in run folders */
    const char *path[3]; /* what stands behind command and options */
} command_line;

/* --- What the commands take ------------------------------------------------------------------- */

#define DTYPE(types, but)                                                                          \
    {                                                                                              \
        "dtype", types, "of the values; default: as the source has it" but, RF_OPTION_CHOICE,      \
            .at = offsetof(command_line, dtype)                                                    \
    }
#define QUIET                                                                                      \
    {                                                                                              \
        "quiet", NULL, "no report on stderr", RF_OPTION_FLAG, .at = offsetof(command_line, quiet)  \
    }

static const rf_option import_options[] = {
    DTYPE("f32|bf16", " (bf16 where all tensors are, else f32)"),
    {"base", "BASE.h5", "the checkpoint that the adapters are for: HF_DIR is a folder of PEFT",
     RF_OPTION_TEXT, .at = offsetof(command_line, base)},
    {"tokenizer", "byte|FILE", "byte, or a folder or tokenizer.json other than HF_DIR's",
     RF_OPTION_TEXT, .at = offsetof(command_line, options.tokenizer)},
    {"grow", NULL, "make rows for all tokens of a tokenizer that has many more than the model",
     RF_OPTION_FLAG, .at = offsetof(command_line, options.grow)},
    {"ignore-field", "NAME",
     "a field of config.json or adapter_config.json that is unknown here changes nothing; may be "
     "given several times",
     RF_OPTION_LIST, .at = offsetof(command_line, ignored)},
    QUIET,
    {0}};
static const rf_option export_options[] = {
    DTYPE("f32|bf16|f16", ""),
    {"max-shard-size", "N", "most bytes of a weights file, as 500MB or 2GiB; default 5GB",
     RF_OPTION_TEXT, .at = offsetof(command_line, shard)},
    QUIET,
    {0}};
static const rf_option merge_options[] = {DTYPE("f32|bf16", ""), QUIET, {0}};
static const rf_option quantize_options[] = {QUIET, {0}};

static void note(const char *line)
{
    rf_log_info("%s", line);
}

/* --- Commands --------------------------------------------------------------------------------- */

static int import_peft(command_line *l, rf_error *err)
{
    if (l->dtype != NULL || l->options.tokenizer != NULL || l->options.grow) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "import --base takes no option but --ignore-field and --quiet: types, "
                            "tokenizer and sizes are those of the base");
    }
    const char *const base = l->base_path;
    RF_TRY(rf_checkpoint_choose(l->base_path, sizeof l->base_path, l->base, err));
    RF_TRY(rf_output_check(l->path + 1, 1, &base, 1, err));
    return rf_convert_import_peft(l->path[0], base, l->path[1], &l->options, err);
}

static int import(command_line *l, rf_error *err)
{
    if (l->base != NULL) {
        return import_peft(l, err);
    }
    RF_TRY(rf_tokenizer_check_outputs(l->options.tokenizer, l->path + 1, 1, err));
    return rf_convert_import(l->path[0], l->path[1], &l->options, err);
}

/* What the words of a line mean. */
static int understand(command_line *l, rf_error *err)
{
    int64_t *most = &l->options.max_shard_bytes;
    if (l->shard != NULL && (!rf_number_bytes(most, l->shard) || *most < 1)) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "--max-shard-size %s: must be a number of bytes, as 500MB or 2GiB",
                            l->shard);
    }
    l->options.type = l->dtype != NULL ? rf_type_find(l->dtype) : RF_N_TYPES;
    l->options.ignored = l->ignored.item;
    l->options.n_ignored = l->ignored.n;
    l->options.note = l->quiet ? NULL : note;
    return RF_OK;
}

static const rf_manual import_manual, export_manual, merge_manual, publish_manual, quantize_manual;

/* The last path is written, the others are read. */
static const struct command {
    const rf_manual *manual;
    int n_paths;
    const char *paths;
    int (*convert)(const char *from, const char *to, const rf_convert_options *options,
                   rf_error *err); /* NULL: another one */
} table[] = {{&import_manual, 2, "HF_DIR and MODEL.h5", NULL},
             {&export_manual, 2, "MODEL.h5 and HF_DIR", rf_convert_export},
             {&merge_manual, 3, "BASE.h5, ADAPTER.h5 and MODEL.h5", NULL},
             {&publish_manual, 2, "MODEL.h5 and WEIGHTS.h5", rf_convert_publish},
             {&quantize_manual, 2, "MODEL.h5 and SMALL.h5", rf_convert_quantize}};

static int run(const rf_manual *self, int argc, char **argv, rf_error *err)
{
    const struct command *c = table;
    command_line l = {0};
    int first, rc;
    while (c->manual != self) {
        c++;
    }
    RF_TRY_OUT(rf_manual_parse(&first, &l, argc, argv, self, err));
    if (argc - first != c->n_paths) {
        rc = rf_error_set(err, RF_ERR_USAGE, "%s takes %s: see %s --help", self->name, c->paths,
                          self->name);
        goto out;
    }
    memcpy(l.path, argv + first, (size_t)c->n_paths * sizeof *l.path);
    RF_TRY_OUT(understand(&l, err));
    for (int i = 0; i < c->n_paths - 1 && self != &import_manual; i++) {
        RF_TRY_OUT(rf_checkpoint_choose(l.source[i], sizeof l.source[i], l.path[i], err));
        l.path[i] = l.source[i];
    }
    RF_TRY_OUT(rf_output_check(l.path + c->n_paths - 1, 1, l.path, c->n_paths - 1, err));
    rc = c->convert != NULL ? c->convert(l.path[0], l.path[1], &l.options, err)
         : self == &merge_manual
             ? rf_convert_merge(l.path[0], l.path[1], l.path[2], &l.options, err)
             : import(&l, err);
out:
    free(l.ignored.item);
    return rc;
}

static const rf_manual import_manual = {
    .name = "refusion-convert import",
    .summary = "a folder of Hugging Face becomes a checkpoint",
    .synopsis = "refusion-convert import HF_DIR MODEL.h5 [options]\n"
                "refusion-convert import PEFT_DIR ADAPTER.h5 --base BASE.h5\n",
    .text =
        "A folder with config.json, weights in safetensors and a tokenizer becomes a checkpoint;\n"
        "one of PEFT, with --base, an adapter file beside that checkpoint.\n"
        "\n"
        "Architectures: Qwen3ForCausalLM, Qwen2ForCausalLM, LlamaForCausalLM,\n"
        "MistralForCausalLM. Values are converted tensor by tensor: a model need not fit into\n"
        "memory.\n",
    .option = import_options,
    .run = run};
static const rf_manual export_manual = {
    .name = "refusion-convert export",
    .summary = "a checkpoint becomes a folder of Hugging Face",
    .synopsis = "refusion-convert export MODEL.h5 HF_DIR [options]\n",
    .text =
        "Writes config.json, generation_config.json, safetensors and the tokenizer; an adapter\n"
        "file becomes a folder of PEFT. The folder must not exist, or be empty.\n",
    .option = export_options,
    .run = run};
static const rf_manual merge_manual = {
    .name = "refusion-convert merge",
    .summary = "adapters are added to the weights they were trained beside",
    .synopsis = "refusion-convert merge BASE.h5 ADAPTER.h5 MODEL.h5 [options]\n",
    .text = "Writes a checkpoint that needs no adapter file.\n",
    .option = merge_options,
    .run = run};
static const rf_manual publish_manual = {
    .name = "refusion-convert publish",
    .summary = "weights only, for others: a third of a checkpoint of training, in bf16 a sixth",
    .synopsis = "refusion-convert publish MODEL.h5 WEIGHTS.h5 [options]\n",
    .text = "Keeps weights (or adapters), tokenizer and configuration; leaves out what only\n"
            "training needs, and the names of the corpora.\n",
    .option = merge_options,
    .run = run};
static const rf_manual quantize_manual = {
    .name = "refusion-convert quantize",
    .summary = "a checkpoint in int8, a quarter of the size",
    .synopsis = "refusion-convert quantize MODEL.h5 SMALL.h5 [options]\n",
    .text = "Matrices become int8 with a scale for each 128 weights of a row, for decoding.\n",
    .option = quantize_options,
    .run = run};

static const rf_manual *const commands[] = {&import_manual,  &export_manual,   &merge_manual,
                                            &publish_manual, &quantize_manual, NULL};
static const rf_manual manual = {
    .name = "refusion-convert",
    .summary = "models of Hugging Face in and out",
    .synopsis = "refusion-convert COMMAND [options] PATH...\n",
    .text = "Checkpoints from models of Hugging Face, and back. The folder "
            "of a run stands\n"
            "for its best checkpoint on validation, else its latest.\n",
    .part = commands};

int main(int argc, char **argv)
{
    rf_output_clean_on_signals();
    return rf_manual_main(&manual, argc, argv);
}
