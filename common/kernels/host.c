#include "common/kernels/host.h"

#include "common/base/alloc.h"
#include "common/base/arena.h"
#include "common/kernels/machine.h"
#include "common/kernels/quantize.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static int open_state(rf_ctx *ctx, rf_error *err)
{
    (void)err;
    ctx->state = rf_alloc(1, sizeof(rf_host_state));
    rf_machine_mind_others(ctx->n_threads);
    return RF_OK;
}

static void close_state(rf_ctx *ctx)
{
    free(ctx->state);
}

/* --- Allocation ------------------------------------------------------------------------------ */

static void clear_piece(char *memory, int64_t i, size_t bytes)
{
    size_t begin = (size_t)i * RF_HUGE_PAGE, rest = bytes - begin;
    memset(memory + begin, 0, rest < RF_HUGE_PAGE ? rest : RF_HUGE_PAGE);
}

static int64_t count_pieces(size_t bytes)
{
    return (int64_t)((bytes + RF_HUGE_PAGE - 1) / RF_HUGE_PAGE);
}

/* A thread clears a huge page at a time. The first to write to a page decides on which memory of the machine
 * it lies: taking turns spreads a buffer over all memories that the threads are near to, and all of them help
 * to clear it. */
static int allocate(rf_ctx *ctx, void **out, size_t bytes, rf_error *err)
{
    const bool large = bytes >= 2 * RF_HUGE_PAGE;
    const size_t rounded =
        bytes > 0 ? (bytes + RF_ALIGNMENT - 1) / RF_ALIGNMENT * RF_ALIGNMENT : RF_ALIGNMENT;
    *out = bytes > (size_t)PTRDIFF_MAX - RF_ALIGNMENT ? NULL
           : large                                    ? rf_alloc_huge(rounded)
                                                      : aligned_alloc(RF_ALIGNMENT, rounded);
    if (*out != NULL) {
        const int64_t n_pieces = count_pieces(rounded);
#pragma omp parallel for schedule(static, 1) num_threads(ctx->n_threads) if (large)
        for (int64_t i = 0; i < n_pieces; i++) {
            clear_piece(*out, i, rounded);
        }
        return RF_OK;
    }
    return rf_error_set(err, RF_ERR,
                        "out of memory: %zu bytes were asked for: choose a smaller model, shorter "
                        "rows or fewer rows at once",
                        bytes);
}

static void release(rf_ctx *ctx, void *memory)
{
    (void)ctx;
    free(memory);
}

/* --- Copies ---------------------------------------------------------------------------------- */

static double get_real(const void *src, rf_type type, int64_t i)
{
    if (type == RF_BF16) {
        return (double)rf_quantize_from_bf16(((const uint16_t *)src)[i]);
    }
    return type == RF_F64 ? ((const double *)src)[i] : (double)((const float *)src)[i];
}

static void put_real(void *dst, rf_type type, int64_t i, double x)
{
    if (type == RF_BF16) {
        ((uint16_t *)dst)[i] = rf_quantize_bf16((float)x);
    } else if (type == RF_F64) {
        ((double *)dst)[i] = x;
    } else {
        ((float *)dst)[i] = (float)x;
    }
}

/* A thread alone does not fill the memory's bandwidth. */
static void copy(rf_ctx *ctx, void *dst, const void *src, size_t bytes)
{
    int64_t n_pieces = count_pieces(bytes);
#pragma omp parallel for schedule(static) num_threads(ctx->n_threads) if (n_pieces > 1)
    for (int64_t i = 0; i < n_pieces; i++) {
        const size_t begin = (size_t)i * RF_HUGE_PAGE, rest = bytes - begin;
        memcpy((char *)dst + begin, (const char *)src + begin,
               rest < RF_HUGE_PAGE ? rest : RF_HUGE_PAGE);
    }
}

/* As few elements as one thread converts while others would wake up. */
enum { CONVERTED_ALONE = 1 << 16 };

/* Upload, download and convert are the same where all memory is the host's. */
static void convert(rf_ctx *ctx, void *dst, rf_type dst_type, const void *src, rf_type src_type,
                    int64_t n)
{
    if (dst_type == src_type) {
        copy(ctx, dst, src, (size_t)n * rf_type_bytes(dst_type));
        return;
    }
#pragma omp parallel for schedule(static) num_threads(ctx->n_threads) if (n > CONVERTED_ALONE)
    for (int64_t i = 0; i < n; i++) {
        put_real(dst, dst_type, i, get_real(src, src_type, i));
    }
}

static void zero(rf_ctx *ctx, void *dst, size_t bytes)
{
    int64_t n_pieces = count_pieces(bytes);
#pragma omp parallel for schedule(static) num_threads(ctx->n_threads) if (n_pieces > 1)
    for (int64_t i = 0; i < n_pieces; i++) {
        clear_piece(dst, i, bytes);
    }
}

const rf_memory rf_host_memory = {
    .is_host = true,
    .open = open_state,
    .close = close_state,
    .alloc = allocate,
    .free = release,
    .upload = convert,
    .download = convert,
    .copy = copy,
    .convert = convert,
    .zero = zero,
};
