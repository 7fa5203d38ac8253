/* What is the same for every implementation of dist.h: reports, how a range is cut, the sum over
 * ranks, and the comparison of texts. */
#include "common/dist/dist.h"

#include "common/base/alloc.h"
#include "common/base/log.h"
#include "common/kernels/kernels.h"

#include <stdlib.h>
#include <string.h>

/* A sum works on this many bytes at a time: enough for the full bandwidth, and `work` stays small.
 * The cuts come from the range alone, never from the number of ranks. */
#define PIECE_BYTES ((int64_t)25 << 20)

void rf_dist_report(rf_dist *dist, int rc, const rf_error *err)
{
    if (rc != RF_OK && rf_dist_rank(dist) == 0) {
        rf_log_set_rank(0, 1); /* the message names the rank that failed */
        rf_log_error(err);
    }
    if (rc == RF_ERR_RETRY) {
        rf_dist_abort(dist, rf_error_exit_status(rc));
    }
}

void rf_dist_leave_alone(rf_dist *dist, int rc, const rf_error *err)
{
    if (rc != RF_OK) {
        rf_log_error(err);
        rf_dist_abort(dist, rf_error_exit_status(rc));
    }
}

static int64_t at_most(int64_t x, int64_t limit)
{
    return x < limit ? x : limit;
}

int64_t rf_slice_slot(int64_t n, int64_t n_ranks)
{
    return rf_sum_runs((n + n_ranks - 1) / n_ranks) * RF_SUM_RUN;
}

int64_t rf_slice_begin(int64_t n, int64_t rank, int64_t n_ranks)
{
    return at_most(rank * rf_slice_slot(n, n_ranks), n);
}

void rf_dist_add_versions(rf_ctx *ctx, void *versions, int64_t n_ranks, int64_t slot, int64_t n)
{
    const rf_backend *backend = ctx->backend;
    for (int64_t step = 1; step < n_ranks; step *= 2) {
        for (int64_t r = 0; r + step < n_ranks; r += 2 * step) {
            backend->kernels->add(ctx, rf_backend_at(backend, RF_MASTER, versions, r * slot),
                                  rf_backend_at(backend, RF_MASTER, versions, (r + step) * slot),
                                  n);
        }
    }
}

static int compare_lines(const char *mine, const char *root, rf_error *err)
{
    while (*mine != '\0' || *root != '\0') {
        size_t m = strcspn(mine, "\n"), r = strcspn(root, "\n");
        if (m != r || memcmp(mine, root, m) != 0) {
            return rf_error_set(
                err, RF_ERR_USAGE,
                "this rank has \"%.*s\" and rank 0 has \"%.*s\": give all ranks the "
                "same program, configuration and files",
                (int)(m < 200 ? m : 200), mine, (int)(r < 200 ? r : 200), root);
        }
        mine += m + (mine[m] != '\0');
        root += r + (root[r] != '\0');
    }
    return RF_OK;
}

int rf_dist_same_text(rf_dist *dist, const char *text, rf_error *err)
{
    int64_t bytes = (int64_t)strlen(text) + 1;
    RF_TRY(rf_dist_broadcast(dist, &bytes, sizeof bytes, 0, err));
    char *root = rf_alloc_string(text);
    root = rf_realloc(root, (size_t)bytes, 1);
    int rc = rf_dist_broadcast(dist, root, (size_t)bytes, 0, err);
    rc = rc == RF_OK ? rf_dist_agree(dist, compare_lines(text, root, err), err) : rc;
    free(root);
    return rc;
}

static int64_t piece_elements(const rf_backend *backend)
{
    return PIECE_BYTES / (int64_t)rf_type_bytes(backend->type[RF_MASTER]);
}

/* Every rank gets all versions of its slice, adds them, and everyone gets every slice. */
static int reduce_piece(rf_dist *dist, rf_exchange *exchange, rf_ctx *ctx, void *x, int64_t n,
                        void *work, rf_error *err)
{
    const int64_t rank = rf_dist_rank(dist), size = rf_dist_size(dist);
    const int64_t slot = rf_slice_slot(n, size);
    const int64_t mine = rf_slice_begin(n, rank + 1, size) - rf_slice_begin(n, rank, size);
    RF_TRY(rf_exchange_all_to_all(exchange, ctx, work, x, RF_MASTER, n, 0, slot, err));
    RF_TRY(rf_exchange_wait(exchange, err));
    rf_dist_add_versions(ctx, work, size, slot, mine);
    RF_TRY(rf_exchange_all_gather(exchange, ctx, x, work, RF_MASTER, n, err));
    return rf_exchange_wait(exchange, err);
}

int rf_dist_reduce(rf_dist *dist, rf_exchange *exchange, rf_ctx *ctx, void *x, int64_t n,
                   void *work, rf_error *err)
{
    int64_t whole = piece_elements(ctx->backend);
    RF_ASSERT(n >= 0);
    for (int64_t i = 0; i < n && rf_dist_size(dist) > 1; i += whole) {
        RF_TRY(reduce_piece(dist, exchange, ctx, rf_backend_at(ctx->backend, RF_MASTER, x, i),
                            at_most(whole, n - i), work, err));
    }
    return rf_ctx_sync(ctx, err);
}

size_t rf_dist_reduce_bytes(const rf_dist *dist, const rf_backend *backend, int64_t n)
{
    const int64_t size = rf_dist_size(dist);
    const int64_t slot = rf_slice_slot(at_most(n, piece_elements(backend)), size);
    return size == 1 ? 0 : rf_backend_bytes(backend, RF_MASTER, slot * size);
}
