/* refusion-eval: likelihood, losses and task accuracy of a model, on one process or on ranks. */
#include "common/base/file.h"
#include "common/base/log.h"
#include "infer/report.h"

#include <getopt.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

typedef struct options {
    const char *model, *data, *out, *answers;
    int64_t limit;
    rf_eval_options eval;
} options;

static const rf_config_key *const key_tables[] = {rf_decode_keys, rf_objective_keys, NULL};

static void print_usage(FILE *out)
{
    rf_config *config = rf_config_new(key_tables);
    fprintf(
        out,
        "usage: refusion-eval --model CHECKPOINT.h5 --data FILE.jsonl [options] [key=value ...]\n"
        "       mpirun -n N refusion-eval ...        shares the questions among ranks\n"
        "\n"
        "Losses of the training objective (AR and denoising apart), likelihood of the reference\n"
        "responses per token and per byte, and, with --task, answers decoded and judged.\n"
        "\n"
        "  --model FILE       checkpoint\n"
        "  --data FILE        JSON lines {\"query\",\"response\"} or {\"messages\"}, .gz too\n"
        "  --task TASK        decode an answer to each question and judge it:\n");
    for (const rf_task *task = rf_tasks; task->name; task++) {
        fprintf(out, "                       %-12s %s\n", task->name, task->help);
    }
    fprintf(out,
            "  --no-likelihood    leave out likelihood and losses\n"
            "  --limit N          only the first N questions\n"
            "  --draws N          noise draws a sample for the losses (default 1)\n"
            "  --seed N           of that noise (default 0)\n"
            "  --out FILE         report.json\n"
            "  --answers FILE     JSON lines {\"query\",\"expected\",\"text\",\"correct\",...}\n"
            "  --threads N        of a rank; default: the host's cores shared among its ranks\n"
            "  --help, --version\n"
            "\n"
            "Settings (defaults: those of the run that trained the model):\n");
    rf_config_help(config, out);
    rf_config_free(config);
}

/* --- Command line ----------------------------------------------------------------------------- */

static int number(int64_t *out, const char *text, const char *option, int64_t min, int64_t max,
                  rf_error *err)
{
    char *end;
    long long value = strtoll(text, &end, 10);
    if (end == text || *end || value < min || value > max) {
        return rf_error_set(err, RF_ERR_USAGE, "%s %s is not a whole number from %lld to %lld",
                            option, text, (long long)min, (long long)max);
    }
    *out = value;
    return RF_OK;
}

enum option_name {
    OPTION_MODEL = 256,
    OPTION_DATA,
    OPTION_TASK,
    OPTION_NO_LIKELIHOOD,
    OPTION_LIMIT,
    OPTION_DRAWS,
    OPTION_SEED,
    OPTION_OUT,
    OPTION_ANSWERS,
    OPTION_THREADS,
    OPTION_HELP,
    OPTION_VERSION
};

static const struct option long_options[] = {
    {"model", required_argument, NULL, OPTION_MODEL},
    {"data", required_argument, NULL, OPTION_DATA},
    {"task", required_argument, NULL, OPTION_TASK},
    {"no-likelihood", no_argument, NULL, OPTION_NO_LIKELIHOOD},
    {"limit", required_argument, NULL, OPTION_LIMIT},
    {"draws", required_argument, NULL, OPTION_DRAWS},
    {"seed", required_argument, NULL, OPTION_SEED},
    {"out", required_argument, NULL, OPTION_OUT},
    {"answers", required_argument, NULL, OPTION_ANSWERS},
    {"threads", required_argument, NULL, OPTION_THREADS},
    {"help", no_argument, NULL, OPTION_HELP},
    {"version", no_argument, NULL, OPTION_VERSION},
    {NULL, 0, NULL, 0}};

static int take_option(options *o, int option, bool *done, rf_error *err)
{
    int64_t value = 0;
    int code = RF_OK;
    switch (option) {
    case OPTION_MODEL:
        o->model = optarg;
        break;
    case OPTION_DATA:
        o->data = optarg;
        break;
    case OPTION_OUT:
        o->out = optarg;
        break;
    case OPTION_ANSWERS:
        o->answers = optarg;
        break;
    case OPTION_NO_LIKELIHOOD:
        o->eval.likelihood = false;
        break;
    case OPTION_TASK:
        if (!(o->eval.task = rf_task_find(optarg))) {
            code =
                rf_error_set(err, RF_ERR_USAGE,
                             "--task %s is unknown: refusion-eval --help lists the tasks", optarg);
        }
        break;
    case OPTION_LIMIT:
        return number(&o->limit, optarg, "--limit", 1, INT64_MAX, err);
    case OPTION_DRAWS:
        return number(&o->eval.n_draws, optarg, "--draws", 1, 1 << 20, err);
    case OPTION_SEED:
        code = number(&value, optarg, "--seed", 0, INT64_MAX, err);
        o->eval.seed = (uint64_t)value;
        break;
    case OPTION_THREADS:
        code = number(&value, optarg, "--threads", 1, 4096, err);
        o->eval.n_threads = (int)value;
        break;
    case OPTION_HELP:
        print_usage(stdout);
        *done = true;
        break;
    case OPTION_VERSION:
        printf("refusion-eval %s\n", RF_VERSION);
        *done = true;
        break;
    default:
        code = rf_error_set(err, RF_ERR_USAGE, "see refusion-eval --help");
    }
    return code;
}

static int parse(options *o, int argc, char **argv, bool *done, rf_error *err)
{
    int option, code = RF_OK;

    *o = (options){.eval = {.likelihood = true, .n_draws = 1}};
    *done = false;
    while (code == RF_OK && !*done &&
           (option = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
        code = take_option(o, option, done, err);
    }
    if (code != RF_OK || *done) {
        return code;
    }
    if (!o->model || !o->data) {
        return rf_error_set(err, RF_ERR_USAGE, "%s is missing: see refusion-eval --help",
                            o->model ? "--data" : "--model");
    }
    if (o->answers && !o->eval.task) {
        return rf_error_set(err, RF_ERR_USAGE, "--answers goes with --task");
    }
    if (!o->eval.likelihood && !o->eval.task) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "--no-likelihood without --task leaves nothing to do");
    }
    return RF_OK;
}

/* The run's own settings, then the assignments of the command line. A model trained with `ar` is
 * decoded and scored that way unless told otherwise. */
static int read_settings(options *o, const rf_loaded *loaded, char **assignment, int n,
                         rf_error *err)
{
    static const char *const sections[] = {"decode", "objective"};
    int32_t mask = rf_tokenizer_specials(loaded->info.tokenizer)->mask;
    rf_config *config = rf_config_new(key_tables);
    int code = rf_loaded_settings(loaded, config, sections, 2, err);

    for (int i = 0; i < n && code == RF_OK; i++) {
        code = rf_config_set(config, assignment[i], err);
    }
    if (code == RF_OK &&
        (code = rf_decode_options_from_config(&o->eval.decode, config, err)) == RF_OK) {
        code = rf_objective_from_config(&o->eval.objective, config, mask, err);
    }
    o->eval.slot_size = o->eval.objective.kind == RF_OBJECTIVE_AR ? 0 : o->eval.decode.slot_size;
    rf_config_free(config);
    return code;
}

/* --- Answers of all ranks --------------------------------------------------------------------- */

static int format_answers(char **text, size_t *bytes, const rf_eval_answer *answers,
                          const rf_prompt *prompts, int64_t i, rf_error *err)
{
    FILE *out = open_memstream(text, bytes);
    json_t *object = NULL;
    char *line = NULL;
    if (out && answers[i].text) {
        object = json_pack(
            "{s:I, s:s?, s:s?, s:s, s:b, s:b, s:I, s:I, s:f}", "index", (json_int_t)i, "query",
            prompts[i].query, "expected", prompts[i].expected, "text", answers[i].text, "correct",
            answers[i].correct, "ended", answers[i].ended, "tokens", (json_int_t)answers[i].n,
            "forwards", (json_int_t)answers[i].forwards, "seconds", answers[i].seconds);
        line = object ? json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
        fprintf(out, "%s\n", line ? line : "");
    }
    json_decref(object);
    if (!out || fclose(out) != 0 || (answers[i].text && !line)) {
        free(line);
        return rf_error_set(err, RF_ERR, "out of memory for the answers");
    }
    free(line);
    return RF_OK;
}

/* collective. Answer after answer, in the order of the questions; rank 0 writes. */
static int write_answers(const char *path, const rf_eval_answer *answers, const rf_prompt *prompts,
                         int64_t n, rf_dist *dist, rf_error *err)
{
    int rank = rf_dist_rank(dist), ranks = rf_dist_size(dist);
    char *all = NULL;
    size_t all_bytes = 0;
    FILE *out = open_memstream(&all, &all_bytes);
    int code = out ? RF_OK : rf_error_set(err, RF_ERR, "out of memory for the answers");

    for (int64_t i = 0; i < n; i++) {
        int owner = (int)(i % ranks);
        char *text = NULL;
        size_t bytes = 0;
        if (code == RF_OK && rank == owner) {
            code = format_answers(&text, &bytes, answers, prompts, i, err);
        }
        if ((code = rf_dist_agree(dist, code, err)) == RF_OK &&
            (code = rf_dist_broadcast(dist, &bytes, sizeof(bytes), owner, err)) == RF_OK) {
            char *copy = rank == owner ? text : malloc(bytes + 1);
            if ((code = rf_dist_agree(dist, copy ? RF_OK : RF_ERR, err)) == RF_OK &&
                (code = rf_dist_broadcast(dist, copy, bytes, owner, err)) == RF_OK && out) {
                fwrite(copy, 1, bytes, out);
            }
            text = copy;
        }
        free(text);
        if (code != RF_OK) {
            break;
        }
    }
    if (out && fclose(out) != 0 && code == RF_OK) {
        code = rf_error_set(err, RF_ERR, "out of memory for the answers");
    }
    if (code == RF_OK && rank == 0) {
        code = rf_file_write(path, all, all_bytes, err);
    }
    free(all);
    return rf_dist_agree(dist, code, err);
}

/* --- Program ---------------------------------------------------------------------------------- */

static int report(const options *o, const rf_eval_result *result, const rf_loaded *loaded,
                  const rf_dist *dist, rf_error *err)
{
    rf_report_context context = {.model = o->model,
                                 .data = o->data,
                                 .loaded = loaded,
                                 .n_ranks = rf_dist_size(dist),
                                 .n_threads = loaded->model->ctx->n_threads};
    if (rf_dist_rank(dist) != 0) {
        return RF_OK;
    }
    rf_report_print(stdout, result, &o->eval, &context);
    if (fflush(stdout) != 0) {
        return rf_error_set(err, RF_ERR, "cannot write to standard output: %m");
    }
    return o->out ? rf_report_write(o->out, result, &o->eval, &context, err) : RF_OK;
}

static int run(options *o, char **assignment, int n_assignments, rf_dist *dist, rf_error *err)
{
    rf_loaded loaded = {0};
    rf_prompt *prompts = NULL;
    rf_eval_answer *answers = NULL;
    rf_eval_result result;
    int64_t n = 0;
    int code;

    code = rf_loaded_open(&loaded, o->model, err);
    if (code == RF_OK) {
        code = read_settings(o, &loaded, assignment, n_assignments, err);
    }
    if (code == RF_OK) {
        code = rf_prompts_read(&prompts, &n, o->data, loaded.info.tokenizer, o->limit, err);
    }
    if (code == RF_OK && o->answers && !(answers = calloc((size_t)n, sizeof(*answers)))) {
        code = rf_error_set(err, RF_ERR, "out of memory for the answers");
    }
    if ((code = rf_dist_agree(dist, code, err)) == RF_OK &&
        (code = rf_eval_run(&result, answers, &loaded, prompts, n, &o->eval, dist, err)) == RF_OK &&
        (code = rf_dist_agree(dist, report(o, &result, &loaded, dist, err), err)) == RF_OK &&
        o->answers) {
        code = write_answers(o->answers, answers, prompts, n, dist, err);
    }
    rf_eval_answers_free(answers, n);
    rf_prompts_free(prompts, n);
    rf_loaded_close(&loaded);
    return code;
}

int main(int argc, char **argv)
{
    rf_error err = {0};
    rf_dist *dist = NULL;
    options o;
    bool done;
    int code, rank = 0;

    rf_log_set_program("refusion-eval");
    code = parse(&o, argc, argv, &done, &err);
    if (code == RF_OK && !done) {
        if ((code = rf_dist_open(&dist, &argc, &argv, &err)) == RF_OK) {
            rank = rf_dist_rank(dist);
            code = run(&o, argv + optind, argc - optind, dist, &err);
        }
    }
    if (code != RF_OK && rank == 0) {
        rf_log_error(&err);
    }
    rf_dist_close(dist);
    return rf_error_exit_status(code);
}
