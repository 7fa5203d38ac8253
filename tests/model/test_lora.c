/* Adapters and frozen tensors: gradients in f64, dropout, merging, files. */
#include "common/model/lora.h"

#include "common/store/checkpoint.h"
#include "tests/model/tiny_train.h"
#include "tests/scratch.h"
#include "tests/store/save.h"
#include "train/math/backward.h"
#include "train/math/optimizer.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static const char all_targets[] = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj";
static const tiny_switches plain = {.qk_norm = true};

static rf_adaptation lora(int64_t rank, const char *targets, double dropout)
{
    rf_adaptation a = {.rank = rank, .alpha = 6.0, .dropout = dropout, .seed = 3};
    snprintf(a.targets, sizeof a.targets, "%s", targets);
    return a;
}

static rf_adaptation only(const char *patterns)
{
    rf_adaptation a = {0};
    snprintf(a.only, sizeof a.only, "%s", patterns);
    return a;
}

static rf_model *model_new(const rf_backend *backend, const rf_model_config *config,
                           const rf_adaptation *adaptation)
{
    rf_model *model = NULL;
    rf_model_limits limits = {
        .places = TINY_PACKED, .keys = TINY_PACKED, .backward = true, .adaptation = adaptation};
    TINY_MUST(rf_model_new(&model, config, backend, 2, &limits, tiny_error()));
    tiny_randomize(model, 1);
    return model;
}

static tiny_train train_new(const rf_backend *backend, tiny_switches switches,
                            const rf_adaptation *adaptation, rf_recompute recompute)
{
    rf_model_config config = tiny_config(switches);
    return tiny_train_new(backend, &config, 2, adaptation, recompute);
}

/* n elements of class master, from element `first`, in double. Caller frees. */
static double *download(tiny_train *r, const void *from, int64_t first, int64_t n)
{
    double *host = malloc((size_t)(n + 1) * sizeof *host);
    cr_assert_not_null(host);
    rf_backend_download(r->model->ctx, host, RF_F64,
                        rf_backend_at(r->model->ctx->backend, RF_MASTER, from, first), RF_MASTER,
                        n);
    return host;
}

/* The gradient of a batch, into r->gradient, and a copy. */
static double *run(tiny_train *r, const rf_batch *batch)
{
    double loss[TINY_PACKED];
    int64_t n = r->model->table.n_elements;
    rf_backend_zero(r->model->ctx, r->gradient, RF_MASTER, n);
    TINY_MUST(rf_model_forward(r->model, r->acts, batch, NULL, tiny_error()));
    TINY_MUST(rf_backward_run(r->backward, r->model, r->acts, &(rf_gradient){.whole = r->gradient},
                              loss, tiny_error()));
    return download(r, r->gradient, 0, n);
}

static double energy(tiny_train *r, const rf_batch *batch)
{
    double loss[TINY_PACKED], sum = 0;
    TINY_MUST(rf_model_forward(r->model, r->acts, batch, NULL, tiny_error()));
    TINY_MUST(rf_model_losses(r->model, r->acts, loss, tiny_error()));
    for (int64_t i = 0; i < batch->n; i++) {
        sum += (double)batch->weight[i] * loss[i];
    }
    return sum;
}

/* A tensor against central differences of fourth order in a random direction. */
static double mismatch(tiny_train *r, const rf_batch *batch, const double *gradient,
                       const rf_tensor *t)
{
    static const double step[] = {-2, -1, 1, 2}, weight[] = {1, -8, 8, -1};
    const double h = 2e-3;
    double *w = download(r, r->model->master, t->offset, t->count);
    double *moved = malloc((size_t)t->count * sizeof *moved);
    double *u = malloc((size_t)t->count * sizeof *u);
    double length = 0, product = 0, norm = 0, numeric = 0;
    rf_rng rng = RF_RNG_STREAM(5, RF_RNG_TEST, (uint64_t)t->offset);
    cr_assert(moved != NULL && u != NULL);
    for (int64_t i = 0; i < t->count; i++) {
        u[i] = rf_rng_normal(&rng);
        length += u[i] * u[i];
    }
    for (int64_t i = 0; i < t->count; i++) {
        double g = gradient[t->offset + i];
        u[i] /= sqrt(length);
        product += g * u[i];
        norm += g * g;
    }
    for (int k = 0; k <= 4; k++) { /* the last puts w back */
        for (int64_t i = 0; i < t->count; i++) {
            moved[i] = w[i] + (k < 4 ? step[k] * h * u[i] : 0.0);
        }
        rf_backend_upload(
            r->model->ctx,
            rf_backend_at(r->model->ctx->backend, RF_MASTER, r->model->master, t->offset),
            RF_MASTER, moved, RF_F64, t->count);
        rf_backend_wait(r->model->ctx, rf_backend_record(r->model->ctx));
        rf_model_prepare(r->model);
        numeric += k < 4 ? weight[k] * energy(r, batch) / (12 * h) : 0.0;
    }
    free(w);
    free(moved);
    free(u);
    return fabs(numeric - product) / (sqrt(norm / (double)t->count) + 1e-6);
}

static void check_gradient(tiny_switches switches, const rf_adaptation *adaptation, bool drops)
{
    tiny_train r = train_new(backend_named("ref64", ""), switches, adaptation, RF_RECOMPUTE_NONE);
    rf_batch batch = tiny_packed(&r.model->config, 4);
    if (drops) {
        rf_lora_drop(r.model, 7, 2);
    }
    double *gradient = run(&r, &batch);
    int64_t n = 0;
    for (int64_t i = 0; i < r.model->table.n_tensors; i++) {
        const rf_tensor *t = &r.model->table.tensor[i];
        if (t->trainable) {
            double error = mismatch(&r, &batch, gradient, t);
            cr_assert(!(error > 1e-6) && !isnan(error), "%s: %g", t->name, error);
            n += t->count;
        }
    }
    cr_assert(n == r.model->table.n_trainable && n > 0);
    free(gradient);
    rf_batch_free(&batch);
    tiny_train_free(&r);
}

Test(lora, gradient)
{
    rf_adaptation a = lora(3, all_targets, 0.0);
    check_gradient(plain, &a, false);
    a = lora(5, "model.layers.1.*.v_proj.weight,o_proj", 0.0);
    check_gradient((tiny_switches){.tied = true, .qkv_bias = true, .output_bias = true}, &a, false);
}

Test(lora, gradient_with_dropout)
{
    rf_adaptation a = lora(3, all_targets, 0.3);
    check_gradient(plain, &a, true);
}

Test(lora, gradient_of_chosen_tensors)
{
    static const char *const choices[] = {"layers.1",      "*norm.weight",  "embed_tokens",
                                          "lm_head",       "k_proj.bias",   "layers.0.mlp,q_norm",
                                          "*.q_proj.bias", "down_proj,norm"};
    for (size_t i = 0; i < sizeof choices / sizeof *choices; i++) {
        rf_adaptation a = only(choices[i]);
        check_gradient((tiny_switches){.qk_norm = true, .qkv_bias = true}, &a, false);
    }
}

/* What is trained gets the gradient that it would get if all were, bit for bit. */
Test(lora, frozen_tensors_change_no_gradient)
{
    static const char *const backends[] = {"ref32", ""};
    for (size_t k = 0; k < 2; k++) {
        rf_adaptation a = only("layers.1.self_attn,lm_head,k_norm,model.norm");
        tiny_train full = train_new(backend_named(backends[k], ""), plain, NULL, RF_RECOMPUTE_NONE);
        tiny_train part = train_new(backend_named(backends[k], ""), plain, &a, RF_RECOMPUTE_BLOCK);
        rf_batch batch = tiny_packed(&full.model->config, 4);
        double *g = run(&full, &batch), *h = run(&part, &batch);
        for (int64_t i = 0; i < part.model->table.n_tensors; i++) {
            const rf_tensor *t = &part.model->table.tensor[i];
            const rf_tensor *same = rf_table_find(&full.model->table, t->name);
            cr_assert(!t->trainable || memcmp(h + t->offset, g + same->offset,
                                              (size_t)t->count * sizeof *g) == 0,
                      "%s %s", backends[k], t->name);
        }
        free(g);
        free(h);
        rf_batch_free(&batch);
        tiny_train_free(&full);
        tiny_train_free(&part);
    }
}

Test(lora, a_step_leaves_frozen_tensors_alone)
{
    const rf_adaptation choices[] = {lora(2, all_targets, 0.1), only("layers.0.mlp,norm")};
    for (int k = 0; k < 2; k++) {
        tiny_train r = train_new(backend_default(), plain, &choices[k], RF_RECOMPUTE_NONE);
        const rf_table *table = &r.model->table;
        const rf_backend *backend = r.model->ctx->backend;
        rf_batch batch = tiny_packed(&r.model->config, 4);
        rf_arena arena = {0};
        const rf_optimizer_settings settings = {0.9, 0.99, 1e-8, 0.1, 1.0};
        rf_optimizer optimizer;
        rf_shards shards;
        void *memory = NULL;
        rf_shards_new(&shards, table, sizeof(float), RF_SHARD_NONE, 0, 1);
        rf_optimizer_new(&optimizer, &settings, &shards);
        rf_optimizer_layout(&optimizer, &arena, backend);
        cr_assert(arena.peak <= 2 * rf_backend_bytes(backend, RF_MASTER, table->n_elements) + 192);
        TINY_MUST(rf_backend_alloc(&memory, r.model->ctx, arena.peak, tiny_error()));
        arena = (rf_arena){.base = memory, .size = arena.peak};
        rf_optimizer_layout(&optimizer, &arena, backend);
        double *before = download(&r, r.model->master, 0, table->n_stored);
        free(run(&r, &batch));
        rf_optimizer_step(&optimizer, r.model, r.gradient, 1.0, 1e-2, 1);
        double *after = download(&r, r.model->master, 0, table->n_stored);
        for (int64_t i = 0; i < table->n_tensors; i++) {
            const rf_tensor *t = &table->tensor[i];
            bool same = memcmp(before + t->offset, after + t->offset,
                               (size_t)t->count * sizeof *after) == 0;
            cr_assert(same == !t->trainable, "%s", t->name);
        }
        free(before);
        free(after);
        rf_backend_free(r.model->ctx, memory);
        rf_optimizer_free(&optimizer);
        rf_shards_free(&shards);
        rf_batch_free(&batch);
        tiny_train_free(&r);
    }
}

/* The same choice in a repeated pass and when blocks run again; another in another leaf. */
Test(lora, dropout_is_a_function_of_step_and_leaf)
{
    rf_adaptation a = lora(3, all_targets, 0.5);
    tiny_train kept = train_new(backend_default(), plain, &a, RF_RECOMPUTE_NONE);
    tiny_train again = train_new(backend_default(), plain, &a, RF_RECOMPUTE_BLOCK);
    rf_batch batch = tiny_packed(&kept.model->config, 4);
    size_t bytes = (size_t)kept.model->table.n_elements * sizeof(double);
    double *g[5];
    rf_lora_drop(kept.model, 4, 1);
    rf_lora_drop(again.model, 4, 1);
    g[0] = run(&kept, &batch);
    g[1] = run(&again, &batch);
    cr_assert(memcmp(g[0], g[1], bytes) == 0);
    rf_lora_drop(kept.model, 4, 2);
    g[2] = run(&kept, &batch);
    rf_lora_drop(kept.model, 5, 1);
    g[3] = run(&kept, &batch);
    rf_lora_stop_dropping(kept.model);
    g[4] = run(&kept, &batch);
    for (int i = 2; i < 5; i++) {
        cr_assert(memcmp(g[0], g[i], bytes) != 0);
    }
    for (int i = 0; i < 5; i++) {
        free(g[i]);
    }
    rf_batch_free(&batch);
    tiny_train_free(&kept);
    tiny_train_free(&again);
}

static double *logits_of(tiny_train *r, const rf_batch *batch)
{
    TINY_MUST(rf_model_forward(r->model, r->acts, batch, NULL, tiny_error()));
    return tiny_logits(r->model, r->acts);
}

static double gap(const double *a, const double *b, int64_t n)
{
    double most = 0, size = 0;
    for (int64_t i = 0; i < n; i++) {
        most = fmax(most, fabs(a[i] - b[i]));
        size = fmax(size, fabs(b[i]));
        cr_assert(!isnan(a[i]) && !isnan(b[i]));
    }
    return most / size;
}

/* The model that merging gives: W + (alpha/r) B A, and B = 0. */
static void merge_all(rf_model *model)
{
    const rf_backend *backend = model->ctx->backend;
    const rf_adaptation *of = &model->adaptation;
    for (int64_t i = 0; i < model->table.n_tensors; i++) {
        const rf_tensor *w = &model->table.tensor[i];
        const rf_role role = rf_table_adapter_a(w->role);
        const rf_tensor *a =
            role < RF_N_ROLES ? rf_table_role(&model->table, w->layer, role) : NULL;
        if (a == NULL) {
            continue;
        }
        const rf_tensor *b = rf_table_role(&model->table, w->layer, rf_table_adapter_b(w->role));
        const rf_tensor *all[] = {w, a, b};
        double *value[3];
        for (int k = 0; k < 3; k++) {
            value[k] = malloc((size_t)all[k]->count * sizeof **value);
            rf_backend_download(model->ctx, value[k], RF_F64,
                                rf_backend_at(backend, RF_MASTER, model->master, all[k]->offset),
                                RF_MASTER, all[k]->count);
        }
        /* In two pieces that do not end with a row. */
        const int64_t cut = w->count / 2 + 1;
        const double factor = of->alpha / (double)of->rank;
        rf_lora_share(value[0], value[1], value[2], factor, of->rank, w->shape[1], 0, cut);
        rf_lora_share(value[0] + cut, value[1], value[2], factor, of->rank, w->shape[1], cut,
                      w->count - cut);
        rf_backend_upload(model->ctx, rf_backend_at(backend, RF_MASTER, model->master, w->offset),
                          RF_MASTER, value[0], RF_F64, w->count);
        rf_backend_zero(model->ctx, rf_backend_at(backend, RF_MASTER, model->master, b->offset),
                        RF_MASTER, b->count);
        rf_backend_wait(model->ctx, rf_backend_record(model->ctx));
        for (int k = 0; k < 3; k++) {
            free(value[k]);
        }
    }
    rf_model_prepare(model);
    TINY_MUST(rf_ctx_sync(model->ctx, tiny_error()));
}

Test(lora, merging_changes_nothing)
{
    static const struct {
        const char *name;
        double tolerance;
    } backends[] = {{"ref64", 1e-12}, {"", 1e-4}};
    for (int k = 0; k < 2; k++) {
        rf_adaptation a = lora(3, all_targets, 0.5);
        tiny_train r = train_new(backend_named(backends[k].name, ""), plain, &a, RF_RECOMPUTE_NONE);
        tiny_train base =
            train_new(backend_named(backends[k].name, ""), plain, NULL, RF_RECOMPUTE_NONE);
        rf_batch batch = tiny_packed(&r.model->config, 4);
        int64_t n = batch.n * r.model->config.vocab_size;
        double *without = logits_of(&base, &batch);
        double *adapted = logits_of(&r, &batch);
        merge_all(r.model);
        double *merged = logits_of(&r, &batch);
        cr_assert(gap(adapted, without, n) > 0.05);
        cr_assert(!(gap(merged, adapted, n) > backends[k].tolerance));
        rf_lora_init(r.model); /* B = 0: fresh adapters change nothing, to the bit */
        double *fresh = logits_of(&r, &batch);
        cr_assert(memcmp(fresh, merged, (size_t)n * sizeof *fresh) == 0);
        free(without);
        free(adapted);
        free(merged);
        free(fresh);
        rf_batch_free(&batch);
        tiny_train_free(&r);
        tiny_train_free(&base);
    }
}

/* --- Files ------------------------------------------------------------------------------------ */

static void save(const char *path, rf_model *model, const void *m, const void *v)
{
    rf_checkpoint_info info = {0};
    TINY_MUST(save_checkpoint(path, NULL, model, m, v, &info, tiny_error()));
}

static int64_t size_of(const char *path)
{
    struct stat status;
    cr_assert(stat(path, &status) == 0);
    return (int64_t)status.st_size;
}

static void refused(int rc, const char *words)
{
    cr_assert(rc != RF_OK);
    cr_assert(strstr(tiny_error()->message, words) != NULL, "%s", tiny_error()->message);
}

static rf_model_config wide_config(void)
{
    rf_model_config config = tiny_config(plain);
    config.vocab_size = 5000; /* 100,000 elements and more beside the adapters' few */
    return config;
}

static void *memory_of(rf_model *model, int64_t n)
{
    void *memory = NULL;
    size_t bytes = rf_backend_bytes(model->ctx->backend, RF_MASTER, n);
    TINY_MUST(rf_backend_alloc(&memory, model->ctx, bytes, tiny_error()));
    return memory;
}

/* Whether n elements of class master are the same, in the memory of one model and of another. */
static bool same(rf_model *model, const void *a, rf_model *of_b, const void *b, int64_t n)
{
    double *x = download(&(tiny_train){.model = model}, a, 0, n);
    double *y = download(&(tiny_train){.model = of_b}, b, 0, n);
    bool result = memcmp(x, y, (size_t)n * sizeof *x) == 0;
    free(x);
    free(y);
    return result;
}

Test(lora, adapter_files)
{
    rf_adaptation a = lora(2, "q_proj,down_proj", 0.1), wider = lora(3, "q_proj,down_proj", 0.1);
    rf_model_config config = wide_config();
    const rf_backend *backend = backend_default();
    rf_checkpoint_info info = {0};
    enter_folder();
    rf_model *base = model_new(backend, &config, NULL), *other = model_new(backend, &config, NULL);
    rf_model *x = model_new(backend, &config, &a), *y = model_new(backend, &config, &a);
    rf_model *z = model_new(backend, &config, &wider);
    tiny_randomize(other, 2);
    save("base.h5", base, NULL, NULL);
    save("other.h5", other, NULL, NULL);

    refused(save_checkpoint("a.h5", NULL, x, NULL, NULL, &info, tiny_error()), "without a base");
    TINY_MUST(rf_checkpoint_load("base.h5", x, NULL, NULL, tiny_error()));
    const int64_t n = x->table.n_elements;
    void *v = memory_of(x, n), *m2 = memory_of(y, n), *v2 = memory_of(y, n);
    save("a.h5", x, x->master, v);
    cr_assert(size_of("a.h5") < 3 * x->table.n_trainable * 4 + 65536, "%lld",
              (long long)size_of("a.h5"));
    cr_assert(size_of("base.h5") > 400000);
    TINY_MUST(rf_checkpoint_verify("a.h5", tiny_error()));
    TINY_MUST(rf_checkpoint_info_read(&info, "a.h5", tiny_error()));
    cr_assert(rf_adapt_same(&info.adaptation, &a) && info.base.hash == x->base.hash);
    cr_assert(info.adaptation.seed == a.seed && strstr(info.base.path, "/base.h5") != NULL);

    TINY_MUST(rf_checkpoint_load("base.h5", y, NULL, NULL, tiny_error()));
    rf_backend_zero(y->ctx, y->master, RF_MASTER, n);
    TINY_MUST(rf_checkpoint_load("a.h5", y, m2, v2, tiny_error()));
    cr_assert(same(y, y->master, x, x->master, x->table.n_stored));
    cr_assert(same(y, m2, x, x->master, n));

    TINY_MUST(rf_checkpoint_load("other.h5", y, NULL, NULL, tiny_error()));
    refused(rf_checkpoint_load("a.h5", y, NULL, NULL, tiny_error()), "another base");
    refused(rf_checkpoint_load("a.h5", base, NULL, NULL, tiny_error()), "adapters only");
    TINY_MUST(rf_checkpoint_load("base.h5", z, NULL, NULL, tiny_error()));
    refused(rf_checkpoint_load("a.h5", z, NULL, NULL, tiny_error()), "lora.*");
    rf_backend_free(x->ctx, v);
    rf_backend_free(y->ctx, m2);
    rf_backend_free(y->ctx, v2);
    rf_checkpoint_info_free(&info);
    rf_model *all[] = {base, other, x, y, z};
    for (int i = 0; i < 5; i++) {
        rf_model_free(all[i]);
    }
    leave_folder();
}

/* A checkpoint of a model of which a part is trained: all weights, the part's moments. */
Test(lora, checkpoints_of_a_part)
{
    rf_adaptation a = only("layers.1.mlp"), b = only("layers.0.mlp");
    rf_model_config config = tiny_config(plain);
    const rf_backend *backend = backend_default();
    enter_folder();
    rf_model *x = model_new(backend, &config, &a), *y = model_new(backend, &config, &a);
    rf_model *z = model_new(backend, &config, &b), *w = model_new(backend, &config, NULL);
    const int64_t n = x->table.n_elements, n_stored = x->table.n_stored;
    void *m = memory_of(y, n_stored), *v = memory_of(y, n_stored);
    save("x.h5", x, x->master, x->master);
    rf_backend_zero(y->ctx, y->master, RF_MASTER, n_stored);
    TINY_MUST(rf_checkpoint_load("x.h5", y, m, v, tiny_error()));
    cr_assert(same(y, y->master, x, x->master, n_stored));
    cr_assert(same(y, m, x, x->master, n) && same(y, v, x, x->master, n));
    refused(rf_checkpoint_load("x.h5", z, m, v, tiny_error()), "train.only");
    refused(rf_checkpoint_load("x.h5", w, m, v, tiny_error()), "train.only");
    tiny_randomize(z, 2);
    TINY_MUST(rf_checkpoint_load("x.h5", z, NULL, NULL, tiny_error()));
    for (int64_t i = 0; i < z->table.n_tensors; i++) {
        const rf_tensor *s = &z->table.tensor[i], *t = &x->table.tensor[i];
        cr_assert(same(z, rf_backend_at(backend, RF_MASTER, z->master, s->offset), x,
                       rf_backend_at(backend, RF_MASTER, x->master, t->offset), t->count));
    }
    rf_backend_free(y->ctx, m);
    rf_backend_free(y->ctx, v);
    rf_model *all[] = {x, y, z, w};
    for (int i = 0; i < 4; i++) {
        rf_model_free(all[i]);
    }
    leave_folder();
}
