/* refusion-convert: models of Hugging Face in and out. */
#include "common/base/log.h"
#include "common/base/options.h"
#include "data/convert/convert.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "usage: refusion-convert COMMAND [options]\n"
    "\n"
    "  import HF_DIR MODEL.h5    a folder of Hugging Face becomes a checkpoint\n"
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
    "  --tokenizer NAME          import: byte, or a folder or tokenizer.json other than HF_DIR's\n"
    "  --max-shard-size N        export: most bytes of a weights file, with k, M, G; default 5G\n"
    "  --quiet                   no report on stderr\n"
    "  --help, --version\n"
    "\n"
    "Architectures: Qwen3ForCausalLM, Qwen2ForCausalLM, LlamaForCausalLM. Values are converted\n"
    "tensor by tensor: a model need not fit into memory.\n"
    "\n"
    "Exit status: 0 done, 1 error, 2 wrong usage, 5 worth a retry.\n";

enum { DTYPE = 1, TOKENIZER, MAX_SHARD, QUIET, HELP, VERSION };

static const struct option options[] = {{"dtype", required_argument, NULL, DTYPE},
                                        {"tokenizer", required_argument, NULL, TOKENIZER},
                                        {"max-shard-size", required_argument, NULL, MAX_SHARD},
                                        {"quiet", no_argument, NULL, QUIET},
                                        {"help", no_argument, NULL, HELP},
                                        {"version", no_argument, NULL, VERSION},
                                        {NULL, 0, NULL, 0}};

typedef struct command_line {
    rf_convert_options options;
    const char *dtype;
    bool help, version;
} command_line;

static void note(const char *line)
{
    rf_log_info("%s", line);
}

/* "5G", "100M", "2000": decimal multiples, as Transformers counts them. */
static int read_size(int64_t *out, const char *text, rf_error *err)
{
    static const char units[] = "kMG";
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    double scale = 1.0;
    const char *unit = *end != '\0' ? strchr(units, *end) : NULL;
    if (unit != NULL) {
        for (const char *u = units; u <= unit; u++) {
            scale *= 1000.0;
        }
        end++;
        end += *end == 'B';
    }
    if (errno != 0 || end == text || *end != '\0' || !(value * scale >= 1.0) ||
        !(value * scale <= 1e18)) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "--max-shard-size %s: must be a number of bytes, as 500M or 5G", text);
    }
    *out = (int64_t)(value * scale);
    return RF_OK;
}

static int read_options(command_line *out, int argc, char **argv, rf_error *err)
{
    int option, rc = RF_OK;
    *out = (command_line){.options = {.type = RF_N_TYPES, .note = note}};
    while (rc == RF_OK &&
           (option = rf_options_next(argc, argv, options, "refusion-convert --help", err)) != -1) {
        switch (option) {
        case DTYPE:
            out->dtype = optarg;
            break;
        case TOKENIZER:
            out->options.tokenizer = optarg;
            break;
        case MAX_SHARD:
            rc = read_size(&out->options.max_shard_bytes, optarg, err);
            break;
        case QUIET:
            out->options.note = NULL;
            break;
        case HELP:
            out->help = true;
            break;
        case VERSION:
            out->version = true;
            break;
        default:
            rc = RF_ERR_USAGE;
        }
    }
    return rc;
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

static int run_merge(command_line *line, char **path, int n, rf_error *err)
{
    if (n != 3) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "merge takes BASE.h5, ADAPTER.h5 and MODEL.h5: see "
                            "refusion-convert --help");
    }
    if (line->options.tokenizer != NULL || line->options.max_shard_bytes != 0) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "--tokenizer is an option of import, "
                            "--max-shard-size of export");
    }
    int rc = read_dtype(line, false, err);
    return rc == RF_OK ? rf_convert_merge(path[0], path[1], path[2], &line->options, err) : rc;
}

static int run_quantize(const command_line *line, char **path, int n, rf_error *err)
{
    if (n != 2) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "quantize takes MODEL.h5 and SMALL.h5: see refusion-convert --help");
    }
    if (line->dtype != NULL || line->options.tokenizer != NULL ||
        line->options.max_shard_bytes != 0) {
        return rf_error_set(err, RF_ERR_USAGE, "quantize takes no option but --quiet");
    }
    return rf_convert_quantize(path[0], path[1], &line->options, err);
}

static int run(int argc, char **argv, rf_error *err)
{
    command_line line;
    int rc = read_options(&line, argc, argv, err);
    if (rc != RF_OK) {
        return rc;
    }
    if (line.help) {
        printf("%s", usage);
        return RF_OK;
    }
    if (line.version) {
        printf("refusion-convert %s\n", RF_VERSION);
        return RF_OK;
    }
    if (optind == argc) {
        return rf_error_set(err, RF_ERR_USAGE, "no command: see refusion-convert --help");
    }
    const char *command = argv[optind];
    if (strcmp(command, "merge") == 0) {
        return run_merge(&line, argv + optind + 1, argc - optind - 1, err);
    }
    if (strcmp(command, "quantize") == 0) {
        return run_quantize(&line, argv + optind + 1, argc - optind - 1, err);
    }
    bool is_export = strcmp(command, "export") == 0;
    if (!is_export && strcmp(command, "import") != 0) {
        return rf_error_set(err, RF_ERR_USAGE, "%s: unknown command: see refusion-convert --help",
                            command);
    }
    if (argc - optind != 3) {
        return rf_error_set(err, RF_ERR_USAGE, "%s takes %s: see refusion-convert --help", command,
                            is_export ? "MODEL.h5 and HF_DIR" : "HF_DIR and MODEL.h5");
    }
    rc = read_dtype(&line, is_export, err);
    if (rc == RF_OK && is_export && line.options.tokenizer != NULL) {
        rc = rf_error_set(err, RF_ERR_USAGE, "--tokenizer is an option of import");
    }
    if (rc == RF_OK && !is_export && line.options.max_shard_bytes != 0) {
        rc = rf_error_set(err, RF_ERR_USAGE, "--max-shard-size is an option of export");
    }
    if (rc != RF_OK) {
        return rc;
    }
    return is_export ? rf_convert_export(argv[optind + 1], argv[optind + 2], &line.options, err)
                     : rf_convert_import(argv[optind + 1], argv[optind + 2], &line.options, err);
}

int main(int argc, char **argv)
{
    rf_error err = {0};
    rf_log_set_program("refusion-convert");
    signal(SIGXFSZ, SIG_IGN); /* a file at its size limit is an error of write, not a signal */
    int rc = run(argc, argv, &err);
    if ((fflush(stdout) != 0 || ferror(stdout) != 0) && rc == RF_OK) {
        rc = rf_error_set(&err, RF_ERR, "cannot write to standard output: %s", strerror(errno));
    }
    rf_log_error(&err);
    return rf_error_exit_status(rc);
}
