/* bench_draw.c: one token drawn from a large vocabulary by each rule, beside the likeliest one: the
 * time of the head's product and what a rule adds to it. Logits are about normal, 2.7 wide: many more
 * ids are likely than a trained model finds. Verified against ref first. RF_ISA, OMP_NUM_THREADS.
 * Usage: bench_draw [part of a name] */
#include "tests/bench/set_up.h"

enum { WIDTH = 1024, VOCAB = 151936, N_SEEN = 1000 };

typedef struct draw_work {
    rf_ctx *ctx;
    rf_matrix head;
    void *weights, *x;
    int32_t place, banned, *seen, token;
    float score;
    rf_draw how;
} draw_work;

static const struct {
    const char *name;
    rf_draw how;
} rules[] = {
    {"greedy", {0}},
    {"penalty", {.penalty = 1.2, .n_seen = N_SEEN}},
    {"temperature", {.temperature = 1}},
    {"top-k", {.temperature = 1, .top_k = 50}},
    {"top-p", {.temperature = 1, .tail = 0.05}},
    {"min-p", {.temperature = 1, .min_p = 0.05}},
    {"all of these",
     {.penalty = 1.2,
      .n_seen = N_SEEN,
      .temperature = 1,
      .top_k = 50,
      .tail = 0.05,
      .min_p = 0.05}},
};
enum { N_RULES = sizeof rules / sizeof *rules };

static void draw(void *work)
{
    draw_work *d = work;
    d->how.key++;
    const rf_head_query query = {.place = &d->place,
                                 .draw = &d->how,
                                 .banned = &d->banned,
                                 .n_banned = 1,
                                 .n_usable = VOCAB - 266,
                                 .seen = d->seen};
    const rf_head_answer answer = {.token = &d->token, .score = &d->score};
    d->ctx->backend->kernels->head_query(d->ctx, &answer, d->x, d->head, &query, 1, WIDTH, VOCAB);
}

static draw_work open_work(const char *backend, rf_layout layout, const float *w)
{
    const rf_limits limits = {.places = 1,
                              .width = WIDTH,
                              .vocab = VOCAB,
                              .compute =
                                  layout == RF_PACKED_BF16 ? RF_COMPUTE_BF16 : RF_COMPUTE_F32,
                              .weights = layout};
    draw_work d = {.ctx = open_context(backend, &limits), .head = {w, layout}};
    if (layout != RF_ROWS) {
        const rf_kernels *kernels = d.ctx->backend->kernels;
        d.weights = take(kernels->pack_bytes(layout, WIDTH, VOCAB));
        kernels->pack(d.ctx, d.weights, layout, w, 0, VOCAB, WIDTH, VOCAB);
        d.head.data = d.weights;
    }
    d.x = random_operand(d.ctx, RF_ACTIVATION, WIDTH);
    d.seen = take(N_SEEN * sizeof *d.seen);
    for (int32_t i = 0; i < N_SEEN; i++) {
        d.seen[i] = i * 149;
    }
    return d;
}

static void close_work(draw_work *d)
{
    free(d->weights);
    free(d->x);
    free(d->seen);
    rf_ctx_free(d->ctx);
}

static void verify(const float *w)
{
    draw_work own = open_work(NULL, RF_ROWS, w), ref = open_work("ref32", RF_ROWS, w);
    for (int i = 0; i < N_RULES; i++) {
        own.how = ref.how = rules[i].how;
        draw(&own);
        draw(&ref);
        if (own.token != ref.token) {
            fail("a draw differs from ref: nothing was timed");
        }
    }
    close_work(&own);
    close_work(&ref);
}

static void time_layout(bench *report, rf_layout layout, const float *w, const char *filter)
{
    draw_work d = open_work(NULL, layout, w);
    double greedy = 1 / bench_time(draw, &d, 1);
    for (int i = 0; i < N_RULES; i++) {
        char name[64];
        snprintf(name, sizeof name, "weights in %s, %s", rf_layout_name(layout), rules[i].name);
        if (strstr(name, filter) != NULL) {
            d.how = rules[i].how;
            bench_report(report, name, 1 / bench_time(draw, &d, 1), "draws/s", greedy, 0);
        }
    }
    close_work(&d);
}

int main(int argc, char **argv)
{
    const char *filter = argc > 1 ? argv[1] : "";
    float *w = random_floats((int64_t)WIDTH * VOCAB);
    for (int64_t i = 0; i < (int64_t)WIDTH * VOCAB; i++) {
        w[i] *= 0.25F;
    }
    verify(w);
    bench_layouts(time_layout, w, filter);
    free(w);
    return 0;
}
