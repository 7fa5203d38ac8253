/* Choice of a backend, contexts and their limits, memory and conversion. */
#include "tests/kernels/backends.h"

#include "common/kernels/kernels.h"

#include <criterion/criterion.h>
#include <math.h>
#include <sched.h>
#include <string.h>

static void set(const char *name, const char *value)
{
    if (value != NULL) {
        setenv(name, value, 1);
    } else {
        unsetenv(name);
    }
}

static int choose(const rf_backend **out, const char *forced, const char *isa, const char *name,
                  rf_error *err)
{
    set("RF_BACKEND", forced);
    set("RF_ISA", isa);
    *err = (rf_error){0};
    return rf_backend_choose(out, name, err);
}

static const char *best_isa(void)
{
    const char *const best_first[] = {"amx", "avx512bf16", "avx512", "avx2"};
    for (int i = 0; i < 4; i++) {
        if (rf_machine_has_isa(best_first[i])) {
            return best_first[i];
        }
    }
    return "portable";
}

/* What a program has that names none: cuda where it has it and finds a GPU. */
static const char *best_name(void)
{
    const rf_backend *b = NULL;
    return rf_backend_choose(&b, "cuda", NULL) == RF_OK ? "cuda" : "cpu";
}

static const char *isa_of_best(void)
{
    return strcmp(best_name(), "cuda") == 0 ? "sm_90a" : best_isa();
}

Test(backend, choice_and_overrides)
{
    const struct {
        const char *forced, *isa, *name, *chosen, *chosen_isa;
    } cases[] = {
        {NULL, NULL, NULL, best_name(), isa_of_best()},
        {NULL, NULL, "", best_name(), isa_of_best()},
        {NULL, NULL, "auto", best_name(), isa_of_best()},
        {"", "", "", best_name(), isa_of_best()},
        {NULL, NULL, "cpu", "cpu", best_isa()},
        {NULL, NULL, "ref64", "ref64", ""},
        {NULL, NULL, "ref32", "ref32", ""},
        {"ref64", NULL, "", "ref64", ""},
        {"ref64", NULL, NULL, "ref64", ""},
        {"apart", NULL, "", "apart", best_isa()},
        {"apart", "portable", "", "apart", "portable"},
        {"ref64", NULL, "cpu", "cpu", best_isa()}, /* it replaces the default alone */
        {"cpu", NULL, "ref32", "ref32", ""},
        {"cpu", NULL, "auto", "cpu", best_isa()},
        {NULL, "portable", "ref32", "ref32", ""},
        {"cpu", "portable", "", "cpu", "portable"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const rf_backend *b = NULL;
        rf_error err;
        int rc = choose(&b, cases[i].forced, cases[i].isa, cases[i].name, &err);
        cr_assert(rc == RF_OK, "case %zu: %s", i, err.message);
        cr_assert_str_eq(b->name, cases[i].chosen, "case %zu", i);
        cr_assert_str_eq(b->isa, cases[i].chosen_isa, "case %zu", i);
        cr_assert_eq(b->type[RF_INDEX], RF_I32);
        cr_assert_eq(b->type[RF_WEIGHT], strcmp(b->name, "ref64") == 0 ? RF_F64 : RF_F32);
    }
}

Test(backend, unknown_names_are_errors)
{
    const rf_backend *b = NULL;
    rf_error err;
    cr_assert_eq(choose(&b, NULL, NULL, "gpu", &err), RF_ERR_USAGE);
    cr_assert(strstr(err.message, "gpu") != NULL && b == NULL);
    cr_assert_eq(choose(&b, "Ref64", NULL, "", &err), RF_ERR_USAGE);
    cr_assert(strstr(err.message, "RF_BACKEND") != NULL, "%s", err.message);
    cr_assert_eq(choose(&b, NULL, "sse9", "cpu", &err), RF_ERR_USAGE);
    cr_assert(strstr(err.message, "RF_ISA=sse9") != NULL, "%s", err.message);
    cr_assert_eq(choose(&b, NULL, "sse9", "ref64", &err), RF_ERR_USAGE);
    cr_assert_eq(choose(&b, NULL, "avx2 ", "", &err), RF_ERR_USAGE);
}

/* A program without cuda says so; one that has it says what is missing, and never takes another. */
Test(backend, cuda_is_what_was_named_or_an_error)
{
    const char *const forced[] = {NULL, "cuda"}, *const name[] = {"cuda", ""};
    for (int i = 0; i < 2; i++) {
        const rf_backend *b = NULL;
        rf_error err;
        int code = choose(&b, forced[i], NULL, name[i], &err);
        if (code == RF_OK) {
            cr_assert_str_eq(b->name, "cuda");
        } else {
            cr_assert_eq(code, RF_HAS_CUDA ? RF_ERR : RF_ERR_USAGE);
            cr_assert(b == NULL && strstr(err.message, "cuda") != NULL, "%s", err.message);
        }
    }
}

/* Where no backend is named, but a GPU is. */
Test(backend, a_gpu_that_was_named_is_not_replaced)
{
    const rf_backend *b = NULL;
    rf_error err;
    setenv("RF_DEVICE", "99", 1);
    const int code = choose(&b, NULL, NULL, "", &err);
    cr_assert_eq(code, RF_HAS_CUDA ? RF_ERR_USAGE : RF_OK, "%s", err.message);
}

Test(backend, isa_that_is_missing_is_an_error)
{
    const char *const isas[] = {"avx2", "avx512", "avx512bf16", "amx"};
    for (int i = 0; i < 4; i++) {
        const rf_backend *b = NULL;
        rf_error err;
        int rc = choose(&b, NULL, isas[i], "cpu", &err);
        if (rf_machine_has_isa(isas[i])) {
            cr_assert(rc == RF_OK && strcmp(b->isa, isas[i]) == 0, "%s", err.message);
        } else {
            cr_assert(rc == RF_ERR_USAGE && strstr(err.message, isas[i]) != NULL);
        }
    }
}

Test(backend, every_table_is_full)
{
    const rf_backend *list[MAX_BACKENDS];
    int n = backends_available(list);
    list[n++] = backend_named("ref64", "");
    for (int b = 0; b < n; b++) {
        void *slot[offsetof(rf_kernels, takes_blocks) / sizeof(void *)];
        memcpy(slot, list[b]->kernels, sizeof(slot));
        for (size_t i = 0; i < sizeof(slot) / sizeof(slot[0]); i++) {
            cr_assert(slot[i] != NULL, "%s %s lacks kernel %zu", list[b]->name, list[b]->isa, i);
        }
        cr_assert((list[b]->kernels->takes_blocks == NULL) ==
                  (list[b]->kernels->block_forward == NULL));
    }
}

/* --- Contexts --------------------------------------------------------------------------------- */

static int threads_of(int n_threads, const char *setting)
{
    rf_ctx *ctx = NULL;
    rf_error err = {0};
    set("OMP_NUM_THREADS", setting);
    int rc = rf_ctx_new(&ctx, backend_named("cpu", ""), n_threads, &(rf_limits){0}, &err);
    int n = rc == RF_OK ? ctx->n_threads : rc;
    cr_assert(rc == RF_OK || strlen(err.message) > 0);
    rf_ctx_free(ctx);
    return n;
}

Test(backend, threads)
{
    cr_assert_eq(threads_of(3, "5"), 3);
    cr_assert_eq(threads_of(0, "5"), 5);
    cr_assert_eq(threads_of(0, "7,2"), 7);
    cr_assert_eq(threads_of(0, NULL), rf_machine_cores());
    cr_assert_eq(threads_of(0, ""), rf_machine_cores());
    cr_assert_eq(threads_of(0, "many"), RF_ERR_USAGE);
    cr_assert_eq(threads_of(0, "0"), RF_ERR_USAGE);
    cr_assert_eq(threads_of(0, "-2"), RF_ERR_USAGE);
    cr_assert_eq(threads_of(0, "2x"), RF_ERR_USAGE);
    cr_assert_eq(threads_of(0, "99999999999999999999"), RF_ERR_USAGE);
    cr_assert_eq(threads_of(-1, NULL), RF_ERR_USAGE);
    cr_assert_eq(threads_of(1000000, NULL), RF_ERR_USAGE);
}

Test(backend, cores_follow_the_affinity_mask)
{
    cpu_set_t all, one;
    cr_assert(sched_getaffinity(0, sizeof(all), &all) == 0);
    size_t first = 0;
    while (!CPU_ISSET(first, &all)) {
        first++;
    }
    CPU_ZERO(&one);
    CPU_SET(first, &one);
    cr_assert(rf_machine_cores() >= 1 && rf_machine_cores() <= CPU_COUNT(&all));
    cr_assert(sched_setaffinity(0, sizeof(one), &one) == 0);
    cr_assert_eq(rf_machine_cores(), 1);
}

Test(backend, bad_limits_are_refused)
{
    const rf_limits good = {.places = 100,
                            .keys = 100,
                            .width = 64,
                            .n_heads = 4,
                            .n_kv_heads = 2,
                            .head_dim = 16,
                            .ffn = 128,
                            .vocab = 300,
                            .backward = 1};
    rf_limits bad[9];
    for (int i = 0; i < 9; i++) {
        bad[i] = good;
    }
    bad[0].places = -1;
    bad[1].vocab = INT64_MAX;
    bad[2].n_kv_heads = 3;
    bad[3].n_kv_heads = 0;
    bad[4].head_bytes = -5;
    bad[5].head_dim = INT64_C(1) << 30;
    bad[6].keys = INT64_C(1) << 31;
    bad[7].ffn = INT64_MIN;
    bad[8].head_bytes = INT64_MAX;
    const rf_backend *list[MAX_BACKENDS];
    int n = backends_available(list);
    for (int b = 0; b < n; b++) {
        rf_ctx *ctx = NULL;
        rf_error err = {0};
        for (int i = 0; i < 9; i++) {
            cr_assert_eq(rf_ctx_new(&ctx, list[b], 1, &bad[i], &err), RF_ERR, "limits %d", i);
            cr_assert(ctx == NULL && strlen(err.message) > 0);
            cr_assert_eq(rf_ctx_scratch_bytes(list[b], 1, &bad[i]), 0);
        }
        cr_assert(rf_ctx_new(&ctx, list[b], 2, &good, &err) == RF_OK, "%s", err.message);
        cr_assert_eq(ctx->scratch_bytes, rf_ctx_scratch_bytes(list[b], 2, &good));
        cr_assert(rf_ctx_sync(ctx, &err) == RF_OK);
        char text[600];
        rf_backend_describe(ctx, text, sizeof(text));
        cr_assert(strstr(text, list[b]->name) == text && strstr(text, "2 threads") != NULL);
        cr_assert(strstr(text, list[b]->isa) != NULL && strstr(text, "CPU features: ") != NULL);
        char small[8];
        rf_backend_describe(ctx, small, sizeof(small));
        cr_assert(strlen(small) < sizeof(small));
        rf_ctx_free(ctx);
    }
    rf_ctx_free(NULL);
}

Test(backend, sync_reports_the_first_error)
{
    rf_ctx *ctx = NULL;
    rf_error err = {0};
    cr_assert(rf_ctx_new(&ctx, backend_named("ref32", ""), 1, &(rf_limits){0}, &err) == RF_OK);
    rf_error_set(&ctx->error, RF_ERR_RETRY, "the device fell off");
    cr_assert_eq(rf_ctx_sync(ctx, &err), RF_ERR_RETRY);
    cr_assert_str_eq(err.message, "the device fell off");
    rf_ctx_free(ctx);
}

/* --- Memory ----------------------------------------------------------------------------------- */

Test(backend, memory_is_aligned_and_cleared)
{
    /* From 4 MiB on by huge pages and by all threads. */
    const size_t sizes[] = {0, 1, 63, 64, 65, 100000, 5000001};
    rf_ctx *ctx = NULL;
    rf_error err = {0};
    void *p = NULL;
    cr_assert(rf_ctx_new(&ctx, backend_named("cpu", ""), 3, &(rf_limits){0}, &err) == RF_OK);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        cr_assert(rf_backend_alloc(&p, ctx, sizes[i], &err) == RF_OK && p != NULL);
        cr_assert_eq((uintptr_t)p % 64, 0);
        for (size_t j = 0; j < sizes[i]; j++) {
            cr_assert_eq(((unsigned char *)p)[j], 0);
        }
        rf_backend_free(ctx, p);
    }
    rf_backend_free(ctx, NULL);
    const size_t too_many[] = {SIZE_MAX, (size_t)PTRDIFF_MAX, SIZE_MAX - 63};
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(rf_backend_alloc(&p, ctx, too_many[i], &err), RF_ERR);
        cr_assert(p == NULL && strstr(err.message, "out of memory") != NULL);
    }
    rf_ctx_free(ctx);
}

Test(backend, zero_clears_what_is_asked_for)
{
    enum { N = 1500001, SKIPPED = 3 }; /* three blocks */
    rf_ctx *ctx = NULL;
    rf_error err = {0};
    void *p = NULL;
    cr_assert(rf_ctx_new(&ctx, backend_named("cpu", ""), 3, &(rf_limits){0}, &err) == RF_OK);
    cr_assert(rf_backend_alloc(&p, ctx, (N + 2 * SKIPPED) * sizeof(float), &err) == RF_OK);
    float *x = p;
    for (int i = 0; i < N + 2 * SKIPPED; i++) {
        x[i] = 1.0F;
    }
    rf_backend_zero(ctx, x + SKIPPED, RF_MASTER, 0);
    cr_assert(x[SKIPPED] == 1.0F);
    rf_backend_zero(ctx, x + SKIPPED, RF_MASTER, N);
    for (int i = 0; i < N + 2 * SKIPPED; i++) {
        cr_assert(x[i] == (i < SKIPPED || i >= N + SKIPPED ? 1.0F : 0.0F), "element %d", i);
    }
    rf_backend_free(ctx, p);
    rf_ctx_free(ctx);
}

/* From masters to weights of another type: as an upload of the same values would round. */
Test(backend, convert_rounds_as_an_upload_does)
{
    const char *const names[] = {"ref32", "ref64", "cpu", "apart"};
    const double wide[] = {1.5, -0.1, 1.00390625, 3.0}; /* the third: a tie of bf16 */
    for (int i = 0; i < 4; i++) {
        rf_ctx *ctx = NULL;
        rf_error err = {0};
        rf_backend b = *backend_named(names[i], "");
        b.type[RF_WEIGHT] = RF_BF16;
        cr_assert(rf_ctx_new(&ctx, &b, 1, &(rf_limits){0}, &err) == RF_OK);
        void *master = NULL, *weight = NULL;
        cr_assert(rf_backend_alloc(&master, ctx, 256, &err) == RF_OK);
        cr_assert(rf_backend_alloc(&weight, ctx, 256, &err) == RF_OK);
        double uploaded[4], converted[4];
        rf_backend_upload(ctx, weight, RF_WEIGHT, wide, RF_F64, 4);
        rf_backend_download(ctx, uploaded, RF_F64, weight, RF_WEIGHT, 4);
        rf_backend_zero(ctx, weight, RF_WEIGHT, 4);
        rf_backend_upload(ctx, master, RF_MASTER, wide, RF_F64, 4);
        rf_backend_convert(ctx, weight, RF_WEIGHT, master, RF_MASTER, 0);
        rf_backend_convert(ctx, weight, RF_WEIGHT, master, RF_MASTER, 3);
        rf_backend_download(ctx, converted, RF_F64, weight, RF_WEIGHT, 4);
        cr_assert(rf_ctx_sync(ctx, &err) == RF_OK);
        cr_assert(memcmp(uploaded, converted, 3 * sizeof(double)) == 0);
        cr_assert(converted[1] == -0.10009765625 && converted[2] == 1.0 && converted[3] == 0.0);
        rf_backend_free(ctx, master);
        rf_backend_free(ctx, weight);
        rf_ctx_free(ctx);
    }
}

Test(backend, upload_and_download_convert)
{
    const char *const names[] = {"ref32", "ref64", "cpu"};
    const double wide[] = {1.5, -0.1, 1e-30, 3.0};
    const float narrow[] = {1.5F, -0.1F, 1e-30F, 3.0F};
    const int32_t index[] = {1, -1, INT32_MAX, INT32_MIN};
    for (int i = 0; i < 3; i++) {
        rf_ctx *ctx = NULL;
        rf_error err = {0};
        const rf_backend *b = backend_named(names[i], "");
        bool is_wide = b->type[RF_WEIGHT] == RF_F64;
        cr_assert(rf_ctx_new(&ctx, b, 1, &(rf_limits){0}, &err) == RF_OK);
        void *p = NULL, *q = NULL;
        cr_assert(rf_backend_alloc(&p, ctx, 256, &err) == RF_OK);
        cr_assert(rf_backend_alloc(&q, ctx, 256, &err) == RF_OK);
        double back[4];
        float back_narrow[4];
        rf_backend_upload(ctx, p, RF_WEIGHT, wide, RF_F64, 4);
        rf_backend_copy(ctx, q, p, RF_WEIGHT, 4);
        rf_backend_download(ctx, back, RF_F64, q, RF_WEIGHT, 4);
        rf_backend_download(ctx, back_narrow, RF_F32, q, RF_WEIGHT, 4);
        for (int j = 0; j < 4; j++) {
            cr_assert(back[j] == (is_wide ? wide[j] : (double)narrow[j]));
            cr_assert(back_narrow[j] == narrow[j]);
        }
        rf_backend_upload(ctx, p, RF_MASTER, narrow, RF_F32, 4);
        rf_backend_zero(ctx, p, RF_MASTER, 2);
        rf_backend_download(ctx, back, RF_F64, p, RF_MASTER, 4);
        rf_backend_wait(ctx, rf_backend_record(ctx));
        cr_assert(back[0] == 0 && back[1] == 0 && back[2] == (double)narrow[2]);
        int32_t back_index[4];
        rf_backend_upload(ctx, p, RF_INDEX, index, RF_I32, 4);
        rf_backend_download(ctx, back_index, RF_I32, p, RF_INDEX, 4);
        cr_assert(memcmp(index, back_index, sizeof(index)) == 0);
        rf_backend_upload(ctx, NULL, RF_WEIGHT, NULL, RF_F64, 0);
        rf_backend_zero(ctx, NULL, RF_WEIGHT, 0);
        cr_assert_eq(rf_backend_bytes(b, RF_WEIGHT, 3), is_wide ? 24 : 12);
        cr_assert_eq(rf_backend_bytes(b, RF_INDEX, 3), 12);
        rf_backend_free(ctx, p);
        rf_backend_free(ctx, q);
        rf_ctx_free(ctx);
    }
}
