/* bench_step.c: one whole training step (forward, backward, clipping, AdamW) of the models in
 * tests/bench/README.md: 4 rows of 512 places, a target at every place, tied head.
 *
 * FLOP = 6 (parameters without embedding + V D) a token; attention is not counted. Each model runs
 * in a process of its own, so that its peak memory is its own.
 *
 * Usage: bench_step [options] [part of a name]
 *        bench_step [options] --kernels NAME
 *        bench_step [options] --turns FILE NAME
 * Options: --compute f32|bf16 (both without), --recompute none|selective|block (train.recompute).
 * --kernels tells where the time of a step goes. --turns is one side of a comparison
 * (compare_step.py): it writes the first weights and the batch to FILE, then makes one step for
 * each line that it reads and answers with a line. NAME: "step 30M V=4096".
 */
#include "tests/bench/kernel_times.h"
#include "tests/bench/limits.h"

#include "train/math/backward.h"
#include "train/math/optimizer.h"

#include <inttypes.h>
#include <stdbool.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct step_case {
    const char *name;
    int64_t d, layers, h, g, k, f, v;
    int64_t rows, row; /* of a step; places of a row */
} step_case;

typedef struct step_work {
    rf_model *model;
    rf_acts *acts;
    rf_backward *backward;
    rf_batch batch;
    rf_optimizer optimizer;
    rf_shards shards;
    void *moments, *gradient;
    double *loss;
    int64_t places, updates;
} step_work;

static void require(int code, const rf_error *err)
{
    if (code != RF_OK) {
        fprintf(stderr, "bench_step: %s\n", err->message);
        exit(1);
    }
}

/* Rows of random tokens; every place predicts the next token of an endless text. */
static void fill_batch(rf_batch *batch, const step_case *c)
{
    const int64_t places = c->rows * c->row, vocab = c->v;
    uint64_t state = UINT64_C(88172645463325252);
    for (int32_t i = 0; i < places; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        int32_t token = (int32_t)(state % (uint64_t)vocab), begin = i - i % (int32_t)c->row;
        rf_batch_add(batch, token, i - begin, i, begin, i + 1, 0, 0);
        batch->target[i] = (int32_t)((state >> 20) % (uint64_t)vocab);
        batch->weight[i] = 1.0F / (float)places;
        batch->part[i] = 0;
    }
}

static rf_recompute recompute = RF_RECOMPUTE_NONE;

static void open_work(step_work *w, const step_case *c, rf_compute compute)
{
    rf_model_config config = {.architecture = "Qwen3ForCausalLM",
                              .vocab_size = c->v,
                              .hidden_size = c->d,
                              .intermediate_size = c->f,
                              .num_hidden_layers = c->layers,
                              .num_attention_heads = c->h,
                              .num_key_value_heads = c->g,
                              .head_dim = c->k,
                              .max_position_embeddings = c->row,
                              .rms_norm_eps = 1e-6,
                              .rope_theta = 1e6,
                              .initializer_range = 0.02,
                              .tie_word_embeddings = true,
                              .qk_norm = true};
    const int64_t places = c->rows * c->row;
    const rf_model_limits limits = {
        .places = places, .keys = places, .backward = true, .compute = compute};
    rf_error err = {0};
    *w = (step_work){.places = places};
    require(rf_model_new(&w->model, &config, NULL, 0, &limits, &err), &err);
    rf_model_init(w->model, 1);
    rf_model_prepare(w->model);
    require(rf_acts_new(&w->acts, w->model, places, places, true, recompute, &err), &err);
    require(rf_backward_new(&w->backward, w->model, places, &err), &err);
    require(rf_batch_new(&w->batch, places, &err), &err);
    fill_batch(&w->batch, c);
    const rf_backend *backend = w->model->ctx->backend;
    const int64_t n = w->model->table.n_elements;
    size_t bytes = rf_backend_bytes(backend, RF_MASTER, n);
    require(rf_backend_alloc(&w->gradient, w->model->ctx, bytes, &err), &err);
    const rf_optimizer_settings settings = {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .clip = 1.0};
    rf_arena arena = {0};
    rf_shards_new(&w->shards, &w->model->table, sizeof(float), RF_SHARD_NONE, 0, 1);
    rf_optimizer_new(&w->optimizer, &settings, &w->shards);
    rf_optimizer_layout(&w->optimizer, &arena, backend);
    require(rf_backend_alloc(&w->moments, w->model->ctx, arena.peak, &err), &err);
    arena = (rf_arena){.base = w->moments, .size = arena.peak};
    rf_optimizer_layout(&w->optimizer, &arena, backend);
    w->loss = malloc((size_t)places * sizeof(double));
    require(w->loss != NULL ? RF_OK : RF_ERR, &(rf_error){.message = "out of memory"});
}

static void run_step(void *work)
{
    step_work *w = work;
    const rf_gradient gradient = {.whole = w->gradient};
    double norm = 0.0;
    rf_error err = {0};
    rf_backend_zero(w->model->ctx, w->gradient, RF_MASTER, w->model->table.n_elements);
    require(rf_model_forward(w->model, w->acts, &w->batch, NULL, &err), &err);
    require(rf_backward_run(w->backward, w->model, w->acts, &gradient, w->loss, &err), &err);
    require(rf_optimizer_norm(&norm, &w->optimizer, NULL, w->model->ctx, w->gradient, &err), &err);
    double scale = rf_optimizer_scale(&w->optimizer.settings, norm);
    rf_optimizer_step(&w->optimizer, w->model, w->gradient, scale, 1e-4, ++w->updates);
    rf_model_prepare(w->model);
}

static double mean_loss(const step_work *w)
{
    double sum = 0.0;
    for (int64_t i = 0; i < w->places; i++) {
        sum += w->loss[i] / (double)w->places;
    }
    return sum;
}

static void close_work(step_work *w)
{
    free(w->loss);
    rf_backend_free(w->model->ctx, w->moments);
    rf_backend_free(w->model->ctx, w->gradient);
    rf_batch_free(&w->batch);
    rf_backward_free(w->backward);
    rf_acts_free(w->acts);
    rf_model_free(w->model);
}

/* Of what products are computed in: bf16 by the fastest way that the machine has, or in f32. */
static double peak_of(const step_work *w, rf_compute compute)
{
    if (!w->model->ctx->backend->memory->is_host) {
        return 0.0; /* not measured here */
    }
    double bf16 = compute == RF_COMPUTE_BF16 ? bench_peak_bf16() : 0.0;
    return bf16 > 0.0 ? bf16 : bench_peak(w->model->ctx->backend->isa);
}

static void name_case(char *name, size_t bytes, const step_case *c, rf_compute compute)
{
    static const char *const again[] = {[RF_RECOMPUTE_NONE] = "",
                                        [RF_RECOMPUTE_SELECTIVE] = " selective",
                                        [RF_RECOMPUTE_BLOCK] = " recompute"};
    snprintf(name, bytes, "step %s V=%d %s%s", c->name, (int)c->v,
             compute == RF_COMPUTE_BF16 ? "bf16" : "f32", again[recompute]);
}

/* Verified by what it is for: the steps must lower the loss of the batch they repeat. */
static void bench_case(bench *report, const step_case *c, rf_compute compute, double budget)
{
    step_work w;
    open_work(&w, c, compute);
    omp_set_num_threads(w.model->ctx->n_threads);
    report->n_threads = w.model->ctx->n_threads;
    bench_machine(report->machine, sizeof(report->machine), report->n_threads);
    double peak = peak_of(&w, compute);
    run_step(&w);
    double before = mean_loss(&w);
    double seconds = bench_time(run_step, &w, budget);
    if (!(mean_loss(&w) < before)) {
        fprintf(stderr, "bench_step: %s: the loss went from %g to %g: nothing is reported\n",
                c->name, before, mean_loss(&w));
        exit(1);
    }
    /* The tied embedding counts once, as the head. */
    double flop = 6.0 * (double)(w.model->table.n_elements * w.places);
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    char name[64], line[128];
    name_case(name, sizeof(name), c, compute);
    bench_report(report, name, flop / seconds * 1e-9, "GFLOP/s", peak, 0.0);
    snprintf(line, sizeof(line), "%s speed", name);
    bench_report(report, line, (double)w.places / seconds, "tokens/s", 0.0, 0.0);
    snprintf(line, sizeof(line), "%s peak memory", name);
    bench_report(report, line, (double)usage.ru_maxrss / 1024.0, "MiB", 0.0, 0.0);
    close_work(&w);
}

/* Where a step's time goes. */
static void time_kernels(const step_case *c, rf_compute compute)
{
    enum { STEPS = 5 };
    step_work w;
    open_work(&w, c, compute);
    const rf_backend *backend = w.model->ctx->backend;
    run_step(&w);
    double begin = bench_seconds();
    for (int i = 0; i < STEPS; i++) {
        run_step(&w);
    }
    printf("%.2f ms, %.0f tokens/s; and kernel by kernel:\n",
           (bench_seconds() - begin) / STEPS * 1e3,
           (double)(STEPS * w.places) / (bench_seconds() - begin));
    w.model->ctx->backend = kernel_times_of(backend);
    begin = bench_seconds();
    for (int i = 0; i < STEPS; i++) {
        run_step(&w);
    }
    kernel_times_print(STEPS, bench_seconds() - begin);
    w.model->ctx->backend = backend;
    close_work(&w);
}

/* --- Turns ------------------------------------------------------------------------------------ */

/* Lines "name elements", the last one empty, then the elements: f32 of each tensor, i32 of tokens
 * and targets. */
static int write_start(const step_work *w, const char *path, rf_error *err)
{
    const rf_table *table = &w->model->table;
    const rf_backend *backend = w->model->ctx->backend;
    float *host = malloc((size_t)table->n_elements * sizeof(*host));
    FILE *file = fopen(path, "wb");
    bool good = host != NULL && file != NULL;
    for (int64_t i = 0; good && i < table->n_tensors; i++) {
        good = fprintf(file, "%s %" PRId64 "\n", table->tensor[i].name, table->tensor[i].count) > 0;
    }
    good = good &&
           fprintf(file, "token %" PRId64 "\ntarget %" PRId64 "\n\n", w->places, w->places) > 0;
    for (int64_t i = 0; good && i < table->n_tensors; i++) {
        const rf_tensor *t = &table->tensor[i];
        rf_backend_download(w->model->ctx, host, RF_F32,
                            rf_backend_at(backend, RF_MASTER, w->model->master, t->offset),
                            RF_MASTER, t->count);
        good = fwrite(host, sizeof(*host), (size_t)t->count, file) == (size_t)t->count;
    }
    good = good &&
           fwrite(w->batch.token, sizeof(int32_t), (size_t)w->places, file) == (size_t)w->places &&
           fwrite(w->batch.target, sizeof(int32_t), (size_t)w->places, file) == (size_t)w->places;
    free(host);
    good = (file == NULL || fclose(file) == 0) && good;
    return good ? RF_OK : rf_error_set(err, RF_ERR, "%s cannot be written: choose another", path);
}

/* Answers "machine", "peak GFLOP/s", "FLOP of a step"; then for each line read "seconds, loss
 * before the step, MiB". */
static void take_turns(const step_case *c, rf_compute compute, const char *path)
{
    step_work w;
    rf_error err = {0};
    char machine[320], line[16];
    open_work(&w, c, compute);
    omp_set_num_threads(w.model->ctx->n_threads);
    require(write_start(&w, path, &err), &err);
    bench_machine(machine, sizeof(machine), w.model->ctx->n_threads);
    printf("%s\n%.6g\n%.6g\n", machine, peak_of(&w, compute),
           6.0 * (double)(w.model->table.n_elements * w.places));
    fflush(stdout);
    while (fgets(line, sizeof(line), stdin) != NULL) {
        double begin = bench_seconds();
        run_step(&w);
        double seconds = bench_seconds() - begin;
        struct rusage usage;
        getrusage(RUSAGE_SELF, &usage);
        printf("%.9g %.12g %.6g\n", seconds, mean_loss(&w), (double)usage.ru_maxrss / 1024.0);
        fflush(stdout);
    }
    close_work(&w);
}

/* The last two are for a GPU: they run only where they are named. */
static const step_case cases[] = {
    {"9.4M", 384, 6, 6, 2, 64, 1024, 4096, 4, 512},
    {"9.4M", 384, 6, 6, 2, 64, 1024, 32000, 4, 512},
    {"30M", 512, 10, 8, 2, 64, 1536, 4096, 4, 512},
    {"30M", 512, 10, 8, 2, 64, 1536, 32000, 4, 512},
    {"100M", 768, 12, 12, 4, 64, 2048, 32000, 32, 1024},
    {"0.6B", 1024, 28, 16, 8, 128, 3072, 151936, 4, 4096},
};
enum { N_CASES = sizeof(cases) / sizeof(cases[0]), FOR_GPU = 4 };

/* `name` is a case's, without what it computes in. */
static const step_case *find_case(const char *name)
{
    for (size_t i = 0; i < N_CASES; i++) {
        char own[64];
        snprintf(own, sizeof(own), "step %s V=%d", cases[i].name, (int)cases[i].v);
        if (strcmp(own, name) == 0) {
            return &cases[i];
        }
    }
    fprintf(stderr, "bench_step: no model is named '%s'\n", name);
    exit(2);
}

/* Each wanted model in a process of its own; 1 where one failed. */
static int bench_cases(const char *filter, bool f32, bool bf16)
{
    bench report;
    bench_begin(&report, omp_get_max_threads());
    int failed = 0;
    for (size_t i = 0; i < 2 * N_CASES; i++) {
        char name[64];
        rf_compute compute = i % 2 == 0 ? RF_COMPUTE_F32 : RF_COMPUTE_BF16;
        name_case(name, sizeof(name), &cases[i / 2], compute);
        bool is_wanted = strstr(name, filter) != NULL && (i / 2 < FOR_GPU || filter[0] != '\0');
        if (!is_wanted || !(compute == RF_COMPUTE_F32 ? f32 : bf16)) {
            continue;
        }
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            bench_case(&report, &cases[i / 2], compute, 5.0);
            exit(0);
        }
        int status = 1;
        failed = failed || child < 0 || waitpid(child, &status, 0) != child || status != 0;
    }
    bench_end(&report);
    return failed;
}

int main(int argc, char **argv)
{
    const int computes = bench_option(&argc, &argv, "--compute", "f32|bf16");
    const rf_compute compute = computes == 1 ? RF_COMPUTE_BF16 : RF_COMPUTE_F32;
    const int again = bench_option(&argc, &argv, "--recompute", "none|selective|block");
    recompute = again < 0 ? RF_RECOMPUTE_NONE : (rf_recompute)again;
    if (argc == 3 && strcmp(argv[1], "--kernels") == 0) {
        time_kernels(find_case(argv[2]), compute);
        return 0;
    }
    if (argc == 4 && strcmp(argv[1], "--turns") == 0) {
        take_turns(find_case(argv[3]), compute, argv[2]);
        return 0;
    }
    return bench_cases(argc > 1 ? argv[1] : "", computes != 1, computes != 0);
}
