/* bench_decode.c: a prompt of 512 tokens, then one token at a time behind it, greedily.
 *
 * A forward pass of one token reads all weights and the keys and values so far: their bytes a
 * second are compared with what memory gives. The prompt is compared with the multiply-add peak.
 *
 * Usage: bench_decode [--weights f32|bf16|int8]            Qwen3-0.6B's shape, random weights
 *        bench_decode [--weights f32|bf16|int8] --large [--kernels | --passes]   Qwen3-8B's, likewise
 *        bench_decode [--weights f32|bf16|int8] MODEL.h5   a checkpoint
 *        bench_decode [--weights f32|bf16|int8] --kernels  where the time of both goes
 *        bench_decode [--weights f32|bf16|int8] --passes   passes of 1 to 256 places behind the prompt
 *        bench_decode [--weights f32|bf16|int8] --turns MODEL.h5
 * The last form is one side of a comparison (compare_decode.py): it reads lines "prompt" and
 * "decode N" and answers each.
 */
#include "tests/bench/kernel_times.h"
#include "tests/bench/limits.h"

#include "infer/loaded.h"

#include <inttypes.h>

enum { PROMPT = 512, MORE = 256, STEPS = 16, READ_FLOATS = 1 << 25 };

typedef struct decode_work {
    rf_loaded loaded; /* of a checkpoint */
    rf_model *model;
    rf_acts *acts;
    rf_cache *cache;
    rf_batch batch;
    int32_t token; /* last sampled */
    double score;  /* its probability */
    int64_t n;     /* tokens in the cache */
} decode_work;

static void require(int code, const rf_error *err)
{
    if (code != RF_OK) {
        fprintf(stderr, "bench_decode: %s\n", err->message);
        exit(1);
    }
}

/* Even noise of the width that initializer_range asks for; gains 1. */
static void fill_tensor(rf_model *model, const rf_tensor *t)
{
    enum { CHUNK = 1 << 16 };
    static float values[CHUNK];
    static uint64_t state = UINT64_C(88172645463325252);
    const float width = (float)(model->config.initializer_range * sqrt(3.0));
    for (int64_t first = 0; first < t->count; first += CHUNK) {
        int64_t n = t->count - first < CHUNK ? t->count - first : CHUNK;
        for (int64_t i = 0; i < n; i++) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            values[i] = t->n_dims == 2 ? width * (float)(int32_t)(state >> 32) * 0x1p-31F : 1.0F;
        }
        rf_model_upload(model, t, first, values, RF_F32, n);
    }
}

static void open_work(decode_work *w, rf_layout weights, const char *path, bool large)
{
    const rf_model_config config = {.architecture = "Qwen3ForCausalLM",
                                    .vocab_size = 151936,
                                    .hidden_size = large ? 4096 : 1024,
                                    .intermediate_size = large ? 12288 : 3072,
                                    .num_hidden_layers = large ? 36 : 28,
                                    .num_attention_heads = large ? 32 : 16,
                                    .num_key_value_heads = 8,
                                    .head_dim = 128,
                                    .max_position_embeddings = PROMPT + MORE,
                                    .rms_norm_eps = 1e-6,
                                    .rope_theta = 1e6,
                                    .initializer_range = 0.02,
                                    .tie_word_embeddings = !large,
                                    .qk_norm = true};
    const rf_model_limits limits = {
        .places = PROMPT, .keys = PROMPT + MORE, .positions = PROMPT + MORE, .weights = weights};
    rf_error err = {0};
    *w = (decode_work){0};
    if (path != NULL) {
        require(rf_loaded_open(&w->loaded, &(rf_loaded_source){.model = path}, &err), &err);
        require(rf_loaded_model(&w->loaded, &limits, 0, &err), &err);
        w->model = w->loaded.model;
    } else {
        require(rf_model_new(&w->model, &config, NULL, 0, &limits, &err), &err);
        for (int64_t i = 0; i < w->model->table.n_tensors; i++) {
            fill_tensor(w->model, &w->model->table.tensor[i]);
        }
        rf_model_prepare(w->model);
    }
    require(rf_acts_new(&w->acts, w->model, PROMPT, PROMPT + MORE, false, RF_RECOMPUTE_NONE, &err),
            &err);
    require(rf_cache_new(&w->cache, w->model, PROMPT + MORE, &err), &err);
    require(rf_batch_new(&w->batch, PROMPT, &err), &err);
    omp_set_num_threads(w->model->ctx->n_threads);
}

static void close_work(decode_work *w)
{
    rf_batch_free(&w->batch);
    rf_cache_free(w->cache);
    rf_acts_free(w->acts);
    if (w->loaded.model != NULL) {
        rf_loaded_close(&w->loaded);
    } else {
        rf_model_free(w->model);
    }
}

static void add(decode_work *w, int32_t token)
{
    rf_batch_add(&w->batch, token, (int32_t)w->n, w->n, 0, w->n + 1, 0, 0);
    w->n++;
}

/* Runs the batch and takes the likeliest token behind it. */
static void run_batch(decode_work *w)
{
    rf_error err = {0};
    int32_t last = (int32_t)(w->batch.n - 1);
    const rf_model_question query = {.n = 1,
                                     .place = &last,
                                     .n_usable = w->model->config.vocab_size,
                                     .token = &w->token,
                                     .score = &w->score};
    require(rf_model_forward(w->model, w->acts, &w->batch, w->cache, &err), &err);
    require(rf_model_query(w->model, w->acts, &query, &err), &err);
}

static void run_prompt(void *work)
{
    decode_work *w = work;
    w->n = 0;
    rf_batch_clear(&w->batch);
    for (int64_t i = 0; i < PROMPT; i++) {
        add(w, (int32_t)((i * 7919 + 13) % w->model->config.vocab_size));
    }
    run_batch(w);
}

static void run_token(decode_work *w)
{
    rf_batch_clear(&w->batch);
    add(w, w->token);
    run_batch(w);
}

/* STEPS tokens behind the prompt, the same ones each time. */
static void run_tokens(void *work)
{
    decode_work *w = work;
    w->n = PROMPT;
    for (int i = 0; i < STEPS; i++) {
        run_token(w);
    }
}

/* --- What it costs ---------------------------------------------------------------------------- */

/* Bytes that one token at `context` reads: every matrix once (of the embedding's table one row, or
 * all of it where it is the head too) with its scales, keys and values. */
static double token_bytes(const rf_model *model, double context)
{
    const rf_model_config *c = &model->config;
    const rf_backend *backend = model->ctx->backend;
    double bytes = 0.0;
    for (int64_t i = 0; i < model->table.n_tensors; i++) {
        const rf_tensor *t = &model->table.tensor[i];
        if (t->role == RF_ROLE_EMBED && !c->tie_word_embeddings) {
            continue;
        }
        bool packed = t->offset < 0;
        bytes +=
            packed ? (double)backend->kernels->pack_bytes(model->weights, t->shape[1], t->shape[0])
                   : (double)rf_backend_bytes(backend, RF_WEIGHT, t->count);
    }
    double row = 2.0 * (double)(c->num_hidden_layers * c->num_key_value_heads * c->head_dim);
    return bytes + context * row * (double)rf_type_bytes(backend->type[RF_ACTIVATION]);
}

/* Beside the fastest way that the machine has for the type. */
static double prompt_peak(const rf_model *model)
{
    double peak = model->weights == RF_PACKED_BF16   ? bench_peak_bf16()
                  : model->weights == RF_PACKED_INT8 ? bench_peak_int8()
                                                     : 0.0;
    return peak > 0.0 ? peak : bench_peak(model->ctx->backend->isa);
}

/* Multiplications and additions of the prompt: blocks and causal attention; the head once. */
static double prompt_flop(const rf_model *model)
{
    const rf_model_config *c = &model->config;
    double head = (double)(c->vocab_size * c->hidden_size);
    double blocks = (double)model->table.n_parameters - head * (c->tie_word_embeddings ? 1.0 : 2.0);
    double pairs = PROMPT * (PROMPT + 1.0) / 2.0 *
                   (double)(c->num_hidden_layers * c->num_attention_heads * c->head_dim);
    return 2.0 * PROMPT * blocks + 4.0 * pairs + 2.0 * head;
}

static double read_limit(void)
{
    float *memory = calloc(READ_FLOATS, sizeof(*memory));
    require(memory != NULL ? RF_OK : RF_ERR, &(rf_error){.message = "out of memory"});
    for (int64_t i = 0; i < READ_FLOATS; i += 1024) {
        memory[i] = 1.0F; /* pages of its own, not the shared one of zeros */
    }
    double limit = bench_read(memory, READ_FLOATS);
    free(memory);
    return limit;
}

/* --- Turns ------------------------------------------------------------------------------------ */

/* Answers "machine", "peak GFLOP/s", "memory GB/s", "bytes of a token", "FLOP of the prompt"; then
 * for each line read "seconds, last token, its probability". */
static void take_turns(decode_work *w)
{
    char machine[320], line[64];
    bench_machine(machine, sizeof(machine), w->model->ctx->n_threads);
    printf("%s\n%.6g\n%.6g\n%.9g\n%.9g\n", machine, prompt_peak(w->model), read_limit(),
           token_bytes(w->model, PROMPT), prompt_flop(w->model));
    fflush(stdout);
    while (fgets(line, sizeof(line), stdin) != NULL) {
        int n_tokens = 0;
        double begin = bench_seconds();
        if (strcmp(line, "prompt\n") == 0) {
            run_prompt(w);
        } else if (sscanf(line, "decode %d", &n_tokens) == 1 && n_tokens >= 1 &&
                   n_tokens <= PROMPT + MORE - w->n) {
            for (int i = 0; i < n_tokens; i++) {
                run_token(w);
            }
        } else {
            fprintf(stderr, "bench_decode: '%s' is not prompt or decode N with room for it\n",
                    line);
            exit(1);
        }
        printf("%.9g %d %.9g\n", bench_seconds() - begin, (int)w->token, w->score);
        fflush(stdout);
    }
}

static void report_speed(decode_work *w, const char *weights)
{
    bench report;
    bench_begin(&report, w->model->ctx->n_threads);
    double peak = prompt_peak(w->model), read = read_limit();
    double prompt = bench_time(run_prompt, w, 2.0), tokens = bench_time(run_tokens, w, 2.0) / STEPS;
    char size[32], name[96];
    snprintf(size, sizeof(size), "decode %.0fM %s", (double)w->model->table.n_parameters * 1e-6,
             weights);
    snprintf(name, sizeof(name), "%s prompt", size);
    bench_report(&report, name, prompt_flop(w->model) / prompt * 1e-9, "GFLOP/s", peak, 0.0);
    snprintf(name, sizeof(name), "%s prompt speed", size);
    bench_report(&report, name, PROMPT / prompt, "tokens/s", 0.0, 0.0);
    snprintf(name, sizeof(name), "%s one sequence", size);
    bench_report(&report, name, token_bytes(w->model, PROMPT + STEPS / 2.0) / tokens * 1e-9, "GB/s",
                 read, 0.0);
    snprintf(name, sizeof(name), "%s one sequence speed", size);
    bench_report(&report, name, 1.0 / tokens, "tokens/s", 0.0, 0.0);
    bench_end(&report);
}

static void time_kernels(decode_work *w)
{
    const rf_backend *backend = w->model->ctx->backend;
    run_prompt(w);
    w->model->ctx->backend = kernel_times_of(backend);
    double begin = bench_seconds();
    run_prompt(w);
    printf("a prompt of %d tokens\n", PROMPT);
    kernel_times_print(1, bench_seconds() - begin);
    w->model->ctx->backend = kernel_times_of(backend);
    begin = bench_seconds();
    run_tokens(w);
    printf("\na token\n");
    kernel_times_print(STEPS, bench_seconds() - begin);
    w->model->ctx->backend = backend;
}

/* --- Passes ----------------------------------------------------------------------------------- */

enum { MOST_ROWS = 256, CHECKED = 64 };

typedef struct pass_work {
    decode_work *w;
    int64_t n;
    int32_t token[MOST_ROWS + 1]; /* behind the prompt */
    int32_t place[MOST_ROWS], next[MOST_ROWS];
    double score[MOST_ROWS];
} pass_work;

/* A pass of n places behind the prompt, each asked for the likeliest token behind it. */
static void run_pass(void *work)
{
    pass_work *p = work;
    decode_work *w = p->w;
    rf_error err = {0};
    w->n = PROMPT;
    rf_batch_clear(&w->batch);
    for (int64_t i = 0; i < p->n; i++) {
        add(w, p->token[i]);
        p->place[i] = (int32_t)i;
    }
    const rf_model_question query = {.n = p->n,
                                     .place = p->place,
                                     .n_usable = w->model->config.vocab_size,
                                     .token = p->next,
                                     .score = p->score};
    require(rf_model_forward(w->model, w->acts, &w->batch, w->cache, &err), &err);
    require(rf_model_query(w->model, w->acts, &query, &err), &err);
}

/* Tokens one at a time, and the same by one pass over all of them. */
static void check_passes(pass_work *p)
{
    decode_work *w = p->w;
    run_prompt(w);
    p->token[0] = w->token;
    for (int i = 0; i < MOST_ROWS; i++) {
        if (i < CHECKED) {
            run_token(w);
        }
        p->token[i + 1] = w->token;
    }
    p->n = CHECKED;
    run_pass(p);
    if (memcmp(p->next, p->token + 1, CHECKED * sizeof *p->next) != 0) {
        fprintf(stderr, "bench_decode: one pass and one token at a time disagree\n");
        exit(1);
    }
    printf("%d tokens one at a time, and by one pass: the same\n", (int)CHECKED);
}

typedef struct copy_work {
    rf_ctx *ctx;
    void *from, *to;
} copy_work;

enum { COPIED = 1 << 27 }; /* elements */

static void run_copy(void *work)
{
    copy_work *c = work;
    rf_error err = {0};
    rf_backend_copy(c->ctx, c->to, c->from, RF_STATISTIC, COPIED);
    require(rf_ctx_sync(c->ctx, &err), &err);
}

/* Bytes a second that the backend's memory reads and writes in a copy. */
static double copy_limit(rf_ctx *ctx)
{
    copy_work c = {.ctx = ctx};
    rf_error err = {0};
    const size_t bytes = rf_backend_bytes(ctx->backend, RF_STATISTIC, COPIED);
    require(rf_backend_alloc(&c.from, ctx, bytes, &err), &err);
    require(rf_backend_alloc(&c.to, ctx, bytes, &err), &err);
    const double seconds = bench_fastest(run_copy, &c, 0.3);
    rf_backend_free(ctx, c.from);
    rf_backend_free(ctx, c.to);
    return 2.0 * (double)bytes / seconds;
}

static void time_passes(decode_work *w, const char *weights)
{
    static const int64_t rows[] = {1, 2, 4, 8, 16, 32, 64, 128, 256};
    pass_work p = {.w = w};
    bench report;
    bench_begin(&report, w->model->ctx->n_threads);
    check_passes(&p);
    const double limit = copy_limit(w->model->ctx), bytes = token_bytes(w->model, PROMPT);
    printf("a copy moves %.0f GB/s: weights and cache in %.0f us\n", limit * 1e-9,
           bytes / limit * 1e6);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char name[96];
        p.n = rows[i];
        snprintf(name, sizeof(name), "decode %s pass of %d", weights, (int)p.n);
        const double seconds = bench_time(run_pass, &p, 0.5);
        bench_report(&report, name, seconds * 1e6, "us", bytes / limit * 1e6, 0.0);
    }
    const double tokens = bench_time(run_tokens, w, 1.0) / STEPS;
    bench_report(&report, "one sequence, one token at a time", 1.0 / tokens, "tokens/s",
                 limit / bytes, 0.0);
    bench_end(&report);
}

int main(int argc, char **argv)
{
    rf_layout layout = RF_PACKED_F32;
    const char *weights = "f32";
    rf_error err = {0};
    if (argc > 2 && strcmp(argv[1], "--weights") == 0) {
        weights = argv[2];
        require(rf_loaded_weights(&layout, weights, &err), &err);
        argc -= 2;
        argv += 2;
    }
    const bool large = argc > 1 && strcmp(argv[1], "--large") == 0;
    argc -= large ? 1 : 0;
    argv += large ? 1 : 0;
    const bool turns = argc == 3 && strcmp(argv[1], "--turns") == 0;
    const bool kernels = argc == 2 && strcmp(argv[1], "--kernels") == 0;
    const bool passes = argc == 2 && strcmp(argv[1], "--passes") == 0;
    if ((argc > 2 && !turns) || (large && argc > 1 && !kernels && !passes)) {
        fprintf(stderr, "usage: bench_decode [--weights f32|bf16|int8] "
                        "[MODEL.h5 | --turns MODEL.h5 | [--large] [--kernels | --passes]]\n");
        return 2;
    }
    decode_work w;
    open_work(&w, layout, argc > 1 && !kernels && !passes ? argv[argc - 1] : NULL, large);
    if (turns) {
        take_turns(&w);
    } else if (kernels) {
        time_kernels(&w);
    } else if (passes) {
        time_passes(&w, weights);
    } else {
        report_speed(&w, weights);
    }
    close_work(&w);
    return 0;
}
