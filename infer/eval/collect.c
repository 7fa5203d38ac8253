#include "infer/eval/collect.h"

#include "common/base/alloc.h"

#include <stdlib.h>
#include <string.h>

/* Rows of `bytes` bytes, one of each question. */
static int collect_rows(void *rows, size_t bytes, int64_t n, rf_dist *dist, rf_error *err)
{
    const int64_t n_ranks = rf_dist_size(dist);
    char *row = rows, *every = rf_alloc((size_t)(n * n_ranks), bytes);
    int rc = rf_dist_allgather_bytes(dist, every, rows, (size_t)n * bytes, err);
    for (int64_t i = 0; i < n && rc == RF_OK; i++) {
        memcpy(row + (size_t)i * bytes, every + (size_t)(i % n_ranks * n + i) * bytes, bytes);
    }
    free(every);
    return rc;
}

/* Every rank's texts, `each` of a question, one behind the other, come to all. */
static int collect_texts(char **text, int64_t each, int64_t n, rf_dist *dist, rf_error *err)
{
    const int64_t rank = rf_dist_rank(dist), n_ranks = rf_dist_size(dist);
    int64_t bytes = 1;
    for (int64_t i = rank; i < n; i += n_ranks) {
        for (int64_t k = i * each; k < (i + 1) * each; k++) {
            text[k] = text[k] != NULL ? text[k] : rf_alloc_string("");
            bytes += (int64_t)strlen(text[k]) + 1;
        }
    }
    RF_TRY(rf_dist_max_i64(dist, &bytes, 1, err));
    char *own = rf_alloc((size_t)bytes, 1), *all = rf_alloc((size_t)bytes, (size_t)n_ranks);
    char *to = own;
    for (int64_t i = rank; i < n; i += n_ranks) {
        for (int64_t k = i * each; k < (i + 1) * each; k++) {
            to = stpcpy(to, text[k]) + 1;
        }
    }
    int rc = rf_dist_allgather_bytes(dist, all, own, (size_t)bytes, err);
    for (int64_t r = 0; r < n_ranks && rc == RF_OK; r++) {
        const char *from = all + r * bytes;
        for (int64_t i = r; i < n && r != rank; i += n_ranks) {
            for (int64_t k = i * each; k < (i + 1) * each; k++) {
                text[k] = rf_alloc_string(from);
                from += strlen(from) + 1;
            }
        }
    }
    free(own);
    free(all);
    return rc;
}

/* Sums over ranks; the size of the cells is the same on all that decoded anything. */
static int collect_order(rf_eval_order *order, rf_dist *dist, rf_error *err)
{
    RF_TRY(rf_dist_max_i64(dist, &order->n, 1, err));
    RF_TRY(rf_dist_sum_i64(dist, &order->n_answers, 1, err));
    return rf_dist_sum_i64(dist, &order->count[0][0], RF_ORDER_CELLS * RF_ORDER_CELLS, err);
}

/* --- Sums ------------------------------------------------------------------------------------- */

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void rank_latencies(rf_eval_result *out)
{
    double *seconds = rf_alloc((size_t)out->n, sizeof *seconds);
    int64_t m = 0;
    for (int64_t i = 0; i < out->n; i++) {
        if (out->record[i].decoded > 0) {
            seconds[m++] = out->record[i].seconds / out->record[i].decoded;
        }
    }
    if (m > 0) {
        qsort(seconds, (size_t)m, sizeof *seconds, compare_doubles);
        out->latency_mean = out->sum.seconds / out->sum.decoded;
        out->latency_p50 = seconds[m / 2];
        out->latency_p95 = seconds[(int64_t)(0.95 * (double)(m - 1) + 0.5)];
    }
    free(seconds);
}

int rf_eval_collect(rf_eval_result *r, rf_dist *dist, rf_error *err)
{
    RF_TRY(collect_rows(r->record, sizeof *r->record, r->n, dist, err));
    RF_TRY(collect_rows(r->correct, (size_t)r->n_samples * sizeof *r->correct, r->n, dist, err));
    RF_TRY(collect_texts(r->text, r->n_samples, r->n, dist, err));
    RF_TRY(collect_texts(r->scores, 1, r->n, dist, err));
    RF_TRY(collect_texts(r->trace, 1, r->n, dist, err));
    RF_TRY(collect_order(&r->order, dist, err));
    for (int64_t i = 0; i < r->n; i++) {
        rf_eval_record_add(&r->sum, &r->record[i]);
    }
    rank_latencies(r);
    return RF_OK;
}
