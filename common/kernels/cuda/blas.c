/* Large products of training, by cuBLASLt.
 *
 * A plan, that is an algorithm of the library, is chosen by a rule from what its heuristic offers for a
 * product's shape and types: never by timing, so that the same product has the same bits in every
 * run on one kind of GPU and one version of the library. Long sums may be split, the parts
 * added in a fixed order in the workspace; other sums are not split. */
#include "common/kernels/cuda/internal.h"

#include "common/base/alloc.h"

#include <cublasLt.h>
#include <stdlib.h>
#include <string.h>

/* Plans that are kept; a model's products have a few dozen shapes, and the head's last chunk any. */
enum { N_PLANS = 256, N_OFFERS = 8, ALIGNED = 16 };

typedef struct key {
    int64_t m, n, k, a_step, a_inner, b_step, b_inner;
    int32_t c_type, long_sums;
} key;

typedef struct plan {
    key key;
    cublasLtMatmulDesc_t what;
    cublasLtMatrixLayout_t a, b, c;
    cublasLtMatmulAlgo_t algorithm;
} plan;

struct rf_cuda_blas {
    cublasLtHandle_t handle;
    cublasLtMatmulPreference_t kept, split; /* sums are split never, or where it helps */
    plan plan[N_PLANS];
    int64_t n_plans; /* made so far: the next one takes the place n_plans % N_PLANS */
};

/* A GPU that failed before may be met here first: what is said of it then is the runtime's. */
static bool failed(rf_ctx *ctx, cublasStatus_t code, const char *what)
{
    const cudaError_t gpu =
        code != CUBLAS_STATUS_SUCCESS ? cudaStreamQuery(rf_cuda_stream_of(ctx)) : cudaSuccess;
    if (gpu != cudaSuccess && gpu != cudaErrorNotReady) {
        rf_cuda_take(ctx, gpu, what);
    }
    if (code != CUBLAS_STATUS_SUCCESS && ctx->error.code == RF_OK) {
        rf_error_set(&ctx->error, RF_ERR,
                     "cuda: cuBLASLt, %s: %s: use the cuBLAS of the CUDA toolkit that the program "
                     "was built with",
                     what, cublasLtGetStatusString(code));
    }
    return code != CUBLAS_STATUS_SUCCESS;
}

/* --- Plans ----------------------------------------------------------------------------------- */

static cublasStatus_t make_preference(cublasLtMatmulPreference_t *out, uint32_t schemes)
{
    const uint64_t bytes = RF_CUDA_BLAS_BYTES;
    const uint32_t aligned = ALIGNED;
    const struct {
        cublasLtMatmulPreferenceAttributes_t name;
        const void *value;
        size_t bytes;
    } wishes[] = {{CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof bytes},
                  {CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes, sizeof schemes},
                  {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &aligned, sizeof aligned},
                  {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &aligned, sizeof aligned},
                  {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &aligned, sizeof aligned},
                  {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &aligned, sizeof aligned}};
    cublasStatus_t code = cublasLtMatmulPreferenceCreate(out);
    for (size_t i = 0; i < sizeof wishes / sizeof wishes[0] && code == CUBLAS_STATUS_SUCCESS; i++) {
        code = cublasLtMatmulPreferenceSetAttribute(*out, wishes[i].name, wishes[i].value,
                                                    wishes[i].bytes);
    }
    return code;
}

static void free_plan(plan *p)
{
    cublasLtMatmulDescDestroy(p->what);
    cublasLtMatrixLayoutDestroy(p->a);
    cublasLtMatrixLayoutDestroy(p->b);
    cublasLtMatrixLayoutDestroy(p->c);
    *p = (plan){0};
}

void rf_cuda_blas_free(rf_cuda_blas *blas)
{
    if (blas == NULL) {
        return;
    }
    for (int i = 0; i < N_PLANS && i < blas->n_plans; i++) {
        free_plan(&blas->plan[i]);
    }
    cublasLtMatmulPreferenceDestroy(blas->kept);
    cublasLtMatmulPreferenceDestroy(blas->split);
    cublasLtDestroy(blas->handle);
    free(blas);
}

/* The library's matrices are column-major, so c^T = b a^T is made: c^T is [n,m], b [n,k], a^T [k,m].
 * inner 1: rows of `step` elements are columns there, and b is turned; else a is. */
static cublasStatus_t describe(plan *p)
{
    const key *s = &p->key;
    const cublasOperation_t turned = CUBLAS_OP_T;
    const bool b_turned = s->b_inner == 1, a_turned = s->a_inner != 1;
    const cudaDataType_t c_type = s->c_type == RF_CUDA_BF16 ? CUDA_R_16BF : CUDA_R_32F;
    const uint64_t n = (uint64_t)s->n, m = (uint64_t)s->m, k = (uint64_t)s->k;
    cublasStatus_t code = cublasLtMatmulDescCreate(&p->what, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (code == CUBLAS_STATUS_SUCCESS && b_turned) {
        code = cublasLtMatmulDescSetAttribute(p->what, CUBLASLT_MATMUL_DESC_TRANSA, &turned,
                                              sizeof turned);
    }
    if (code == CUBLAS_STATUS_SUCCESS && a_turned) {
        code = cublasLtMatmulDescSetAttribute(p->what, CUBLASLT_MATMUL_DESC_TRANSB, &turned,
                                              sizeof turned);
    }
    if (code == CUBLAS_STATUS_SUCCESS) {
        code = cublasLtMatrixLayoutCreate(&p->b, CUDA_R_16BF, b_turned ? k : n, b_turned ? n : k,
                                          b_turned ? s->b_step : s->b_inner);
    }
    if (code == CUBLAS_STATUS_SUCCESS) {
        code = cublasLtMatrixLayoutCreate(&p->a, CUDA_R_16BF, a_turned ? m : k, a_turned ? k : m,
                                          a_turned ? s->a_inner : s->a_step);
    }
    if (code == CUBLAS_STATUS_SUCCESS) {
        code = cublasLtMatrixLayoutCreate(&p->c, c_type, n, m, s->n);
    }
    return code;
}

/* Tiles that are preferred among what the heuristic offers: with the sums of 768 to 3072 terms that models
 * have they were up to a fifth faster on an H200 than its first offer, a larger tile; that is taken where
 * none of these is offered, and for long sums. */
static bool is_preferred(const cublasLtMatmulAlgo_t *algorithm)
{
    uint32_t tile = 0;
    size_t written = 0;
    const cublasStatus_t code = cublasLtMatmulAlgoConfigGetAttribute(
        algorithm, CUBLASLT_ALGO_CONFIG_TILE_ID, &tile, sizeof tile, &written);
    return code == CUBLAS_STATUS_SUCCESS &&
           (tile == CUBLASLT_MATMUL_TILE_128x128 || tile == CUBLASLT_MATMUL_TILE_128x160 ||
            tile == CUBLASLT_MATMUL_TILE_176x128);
}

static cublasStatus_t choose(rf_cuda_blas *blas, plan *p)
{
    cublasLtMatmulHeuristicResult_t offer[N_OFFERS] = {0};
    const bool long_sums = p->key.long_sums != 0;
    int n = 0, chosen = 0;
    cublasStatus_t code = describe(p);
    if (code == CUBLAS_STATUS_SUCCESS) {
        code = cublasLtMatmulAlgoGetHeuristic(blas->handle, p->what, p->b, p->a, p->c, p->c,
                                              long_sums ? blas->split : blas->kept, N_OFFERS, offer,
                                              &n);
    }
    if (code == CUBLAS_STATUS_SUCCESS && n == 0) {
        code = CUBLAS_STATUS_NOT_SUPPORTED;
    }
    for (int i = n - 1; i >= 0 && !long_sums; i--) {
        chosen = is_preferred(&offer[i].algo) ? i : chosen;
    }
    p->algorithm = offer[chosen].algo;
    return code;
}

/* NULL: it failed, and ctx->error says why. */
static const plan *find_plan(rf_ctx *ctx, rf_cuda_blas *blas, const key *wanted)
{
    for (int i = 0; i < N_PLANS && i < blas->n_plans; i++) {
        if (memcmp(&blas->plan[i].key, wanted, sizeof *wanted) == 0) {
            return &blas->plan[i];
        }
    }
    plan *p = &blas->plan[blas->n_plans % N_PLANS];
    if (blas->n_plans >= N_PLANS) {
        free_plan(p);
    }
    blas->n_plans++;
    *p = (plan){.key = *wanted};
    if (failed(ctx, choose(blas, p), "choosing an algorithm")) {
        p->key = (key){0};
        return NULL;
    }
    return p;
}

static rf_cuda_blas *open_blas(rf_ctx *ctx)
{
    rf_cuda_blas *blas = rf_alloc(1, sizeof *blas);
    cublasStatus_t code = cublasLtCreate(&blas->handle);
    if (code == CUBLAS_STATUS_SUCCESS) {
        code = make_preference(&blas->kept, CUBLASLT_REDUCTION_SCHEME_NONE);
    }
    if (code == CUBLAS_STATUS_SUCCESS) {
        code = make_preference(&blas->split, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);
    }
    if (failed(ctx, code, "opening it")) {
        rf_cuda_blas_free(blas);
        return NULL;
    }
    return blas;
}

/* --- Products -------------------------------------------------------------------------------- */

static bool is_aligned(const void *data, int64_t step, int64_t inner, size_t bytes)
{
    const int64_t row = inner == 1 ? step : inner;
    return (uintptr_t)data % ALIGNED == 0 && row * (int64_t)bytes % ALIGNED == 0 &&
           (inner == 1 || step == 1);
}

bool rf_cuda_blas_takes(const rf_cuda_product *p)
{
    const bool is_real = p->c.type == RF_CUDA_F32 || p->c.type == RF_CUDA_BF16;
    return p->a.type == RF_CUDA_BF16 && p->b.type == RF_CUDA_BF16 && is_real &&
           p->bias.data == NULL && p->m > 0 && p->n > 0 && p->k > 0 &&
           (p->start.data == NULL || !p->accumulates) &&
           is_aligned(p->a.data, p->a_step, p->a_inner, sizeof(uint16_t)) &&
           is_aligned(p->b.data, p->b_step, p->b_inner, sizeof(uint16_t)) &&
           is_aligned(p->c.data, p->n, 1, sizeof(uint16_t)) &&
           (uintptr_t)p->start.data % ALIGNED == 0;
}

void rf_cuda_blas_multiply(rf_ctx *ctx, const rf_cuda_product *p, void *workspace)
{
    const float one = 1.0F, zero = 0.0F;
    const bool adds = p->accumulates || p->start.data != NULL;
    const key wanted = {.m = p->m,
                        .n = p->n,
                        .k = p->k,
                        .a_step = p->a_step,
                        .a_inner = p->a_inner,
                        .b_step = p->b_step,
                        .b_inner = p->b_inner,
                        .c_type = (int32_t)p->c.type,
                        .long_sums = p->long_sums};
    rf_cuda_blas **blas = rf_cuda_blas_of(ctx);
    if (*blas == NULL) {
        *blas = open_blas(ctx);
    }
    const plan *found = *blas != NULL ? find_plan(ctx, *blas, &wanted) : NULL;
    if (found != NULL) {
        const void *start = p->start.data != NULL ? p->start.data : p->c.data;
        const cublasStatus_t code = cublasLtMatmul(
            (*blas)->handle, found->what, &one, p->b.data, found->b, p->a.data, found->a,
            adds ? &one : &zero, start, found->c, p->c.data, found->c, &found->algorithm, workspace,
            RF_CUDA_BLAS_BYTES, rf_cuda_stream_of(ctx));
        (void)failed(ctx, code, "a product");
    }
}
