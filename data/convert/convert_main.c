/* refusion-convert: models of Hugging Face in and out. */
#include "common/base/file.h"
#include "common/base/log.h"
#include "common/base/nearest.h"
#include "common/base/number.h"
#include "common/base/options.h"
#include "common/base/output.h"
#include "data/convert/convert.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "usage: refusion-convert COMMAND [options]\n"
    "\n"
    "  import HF_DIR MODEL.h5    a folder of Hugging Face becomes a checkpoint; one of PEFT, with\n"
    "                            --base BASE.h5, an adapter file beside that checkpoint\n"
    "  export MODEL.h5 HF_DIR    a checkpoint becomes a folder of Hugging Face; an adapter file\n"
    "                            one of PEFT\n"
    "  merge BASE.h5 ADAPTER.h5 MODEL.h5\n"
    "                            adapters are added to the weights they were trained beside\n"
    "  quantize MODEL.h5 SMALL.h5\n"
    "                            matrices become int8 with a scale for each 128 weights of a row,\n"
    "                            for decoding: a quarter of the size\n"
    "\n"
    "  --dtype TYPE              import, merge: f32 or bf16; export: f32, bf16 or f16; default: as "
    "the\n"
    "                            source has it (import: bf16 where all tensors are, else f32)\n"
    "  --base BASE.h5            import: the checkpoint that the adapters are for\n"
    "  --tokenizer NAME          import: byte, or a folder or tokenizer.json other than HF_DIR's\n"
    "  --grow                    import: make rows for all tokens of a tokenizer that has many "
    "more\n"
    "                            than the model\n"
    "  --ignore-field NAME       import: a field of config.json that is unknown here changes "
    "nothing;\n"
    "                            may be given several times\n"
    "  --max-shard-size N        export: most bytes of a weights file, as 500MB or 2GiB; default "
    "5GB\n"
    "  --quiet                   no report on stderr\n"
    "  -h, --help, --version\n"
    "\n"
    "Architectures: Qwen3ForCausalLM, Qwen2ForCausalLM, LlamaForCausalLM, MistralForCausalLM.\n"
    "Values are converted tensor by tensor: a model need not fit into memory.\n"
    "\n"
    "Exit status: 0 done, 1 error, 2 wrong usage, 5 worth a retry.\n";

typedef struct command_line {
    rf_convert_options options;
    const char *dtype, *base;
    rf_option_list ignored;
    char base_path[RF_PATH_BYTES]; /* chosen in a run folder */
    bool help, version;
    const char *command;
    char **path; /* [n] what stands behind the command */
    int n;
} command_line;

static const char see[] = "see refusion-convert --help";

static void note(const char *line)
{
    rf_log_info("%s", line);
}

static int read_options(command_line *out, int argc, char **argv, rf_error *err)
{
    const char *shard = NULL;
    bool quiet = false;
    int first;
    *out = (command_line){.options = {.type = RF_N_TYPES}};
    const rf_option table[] = {{"dtype", RF_OPTION_TEXT, &out->dtype, 0, 0},
                               {"base", RF_OPTION_TEXT, &out->base, 0, 0},
                               {"tokenizer", RF_OPTION_TEXT, &out->options.tokenizer, 0, 0},
                               {"max-shard-size", RF_OPTION_TEXT, &shard, 0, 0},
                               {"grow", RF_OPTION_FLAG, &out->options.grow, 0, 0},
                               {"ignore-field", RF_OPTION_LIST, &out->ignored, 0, 0},
                               {"quiet", RF_OPTION_FLAG, &quiet, 0, 0},
                               {"help", RF_OPTION_STOP, &out->help, 0, 0},
                               {"version", RF_OPTION_STOP, &out->version, 0, 0},
                               {0}};
    RF_TRY(rf_options_parse(&first, argc, argv, table, see, err));
    out->options.ignored = out->ignored.item;
    out->options.n_ignored = out->ignored.n;
    out->options.note = quiet ? NULL : note;
    if (first < argc && strcmp(argv[first], "help") == 0) {
        out->help = true;
        return RF_OK;
    }
    if (first < argc) {
        out->command = argv[first];
        out->path = argv + first + 1;
        out->n = argc - first - 1;
    }
    int64_t *most = &out->options.max_shard_bytes;
    if (shard != NULL && (!rf_number_bytes(most, shard) || *most < 1)) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "--max-shard-size %s: must be a number of bytes, as 500MB or 2GiB",
                            shard);
    }
    return RF_OK;
}

static int read_dtype(command_line *line, bool is_export, rf_error *err)
{
    rf_type type = line->dtype != NULL ? rf_type_find(line->dtype) : RF_N_TYPES;
    line->options.type = type;
    bool ok =
        line->dtype == NULL || type == RF_F32 || type == RF_BF16 || (type == RF_F16 && is_export);
    return ok ? RF_OK
              : rf_error_set(err, RF_ERR_USAGE, "--dtype %s: must be %s", line->dtype,
                             is_export ? "f32, bf16 or f16" : "f32 or bf16");
}

/* A command must have its arguments, and no options of another one. */
static int check(const command_line *line, int n, const char *arguments, bool tokenizer, bool shard,
                 rf_error *err)
{
    if (line->n != n) {
        return rf_error_set(err, RF_ERR_USAGE, "%s takes %s: %s", line->command, arguments, see);
    }
    if ((line->options.tokenizer != NULL || line->options.grow) && !tokenizer) {
        return rf_error_set(err, RF_ERR_USAGE, "%s is an option of import",
                            line->options.grow ? "--grow" : "--tokenizer");
    }
    if ((line->ignored.n > 0 || line->base != NULL) && !tokenizer) {
        return rf_error_set(err, RF_ERR_USAGE, "%s is an option of import",
                            line->base != NULL ? "--base" : "--ignore-field");
    }
    if (line->options.max_shard_bytes != 0 && !shard) {
        return rf_error_set(err, RF_ERR_USAGE, "--max-shard-size is an option of export");
    }
    return RF_OK;
}

static int run_import_peft(command_line *l, rf_error *err)
{
    if (l->dtype != NULL || l->options.tokenizer != NULL || l->options.grow || l->ignored.n > 0) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "import --base takes no option but --quiet: types, tokenizer and sizes "
                            "are those of the base");
    }
    RF_TRY(rf_checkpoint_choose(l->base_path, sizeof l->base_path, l->base, err));
    RF_TRY(rf_output_check((const char *[]){l->path[1]}, 1,
                           (const char *[]){l->path[0], l->base_path}, 2, err));
    return rf_convert_import_peft(l->path[0], l->base_path, l->path[1], &l->options, err);
}

static int run_import(command_line *l, rf_error *err)
{
    RF_TRY(check(l, 2, "HF_DIR and MODEL.h5", true, false, err));
    if (l->base != NULL) {
        return run_import_peft(l, err);
    }
    RF_TRY(read_dtype(l, false, err));
    RF_TRY(rf_output_check((const char *[]){l->path[1]}, 1,
                           (const char *[]){l->path[0], l->options.tokenizer}, 2, err));
    return rf_convert_import(l->path[0], l->path[1], &l->options, err);
}

static int run_export(command_line *l, rf_error *err)
{
    RF_TRY(check(l, 2, "MODEL.h5 and HF_DIR", false, true, err));
    RF_TRY(read_dtype(l, true, err));
    RF_TRY(rf_output_check((const char *[]){l->path[1]}, 1, (const char *[]){l->path[0]}, 1, err));
    return rf_convert_export(l->path[0], l->path[1], &l->options, err);
}

static int run_merge(command_line *l, rf_error *err)
{
    RF_TRY(check(l, 3, "BASE.h5, ADAPTER.h5 and MODEL.h5", false, false, err));
    RF_TRY(read_dtype(l, false, err));
    RF_TRY(rf_output_check((const char *[]){l->path[2]}, 1,
                           (const char *[]){l->path[0], l->path[1]}, 2, err));
    return rf_convert_merge(l->path[0], l->path[1], l->path[2], &l->options, err);
}

static int run_quantize(command_line *l, rf_error *err)
{
    RF_TRY(check(l, 2, "MODEL.h5 and SMALL.h5", false, false, err));
    if (l->dtype != NULL) {
        return rf_error_set(err, RF_ERR_USAGE, "quantize takes no option but --quiet");
    }
    RF_TRY(rf_output_check((const char *[]){l->path[1]}, 1, (const char *[]){l->path[0]}, 1, err));
    return rf_convert_quantize(l->path[0], l->path[1], &l->options, err);
}

static int run_line(command_line *line, int argc, char **argv, rf_error *err)
{
    static const struct {
        const char *name;
        int (*run)(command_line *line, rf_error *err);
    } commands[] = {{"import", run_import},
                    {"export", run_export},
                    {"merge", run_merge},
                    {"quantize", run_quantize}};
    RF_TRY(read_options(line, argc, argv, err));
    if (line->help) {
        printf("%s", usage);
        return RF_OK;
    }
    if (line->version) {
        printf("refusion-convert %s\n", RF_VERSION);
        return RF_OK;
    }
    if (line->command == NULL) {
        return rf_error_set(err, RF_ERR_USAGE, "no command: %s", see);
    }
    rf_nearest nearest = rf_nearest_to(line->command, strlen(line->command));
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
        if (strcmp(line->command, commands[i].name) == 0) {
            return commands[i].run(line, err);
        }
        rf_nearest_try(&nearest, commands[i].name, strlen(commands[i].name));
    }
    char hint[RF_NEAREST_HINT];
    return rf_error_set(err, RF_ERR_USAGE, "%s: unknown command: %s%s", line->command,
                        rf_nearest_hint(hint, &nearest, ""), see);
}

static int run(int argc, char **argv, rf_error *err)
{
    command_line line;
    int rc = run_line(&line, argc, argv, err);
    free(line.ignored.item);
    return rc;
}

int main(int argc, char **argv)
{
    rf_error err = {0};
    rf_log_set_program("refusion-convert");
    rf_output_clean_on_signals();
    signal(SIGXFSZ, SIG_IGN); /* a file at its size limit is an error of write, not a signal */
    int rc = run(argc, argv, &err);
    if ((fflush(stdout) != 0 || ferror(stdout) != 0) && rc == RF_OK) {
        rc = rf_error_set(&err, RF_ERR, "cannot write to standard output: %s", strerror(errno));
    }
    rf_log_error(&err);
    return rf_error_exit_status(rc);
}
