/* Which token a place draws: the rules of rf_draw, one after the other, over a sorted list. */
#include "common/kernels/gumbel.h"
#include "common/kernels/ref/ref.h"

#include <tgmath.h>

/* a comes before b: likelier, or as likely and lower. */
static bool precedes(const real *z, int32_t a, int32_t b)
{
    return z[a] > z[b] || (z[a] == z[b] && a < b);
}

/* Lets the id at `root` of a heap sink until none below it comes later. */
static void sink(int32_t *id, int64_t root, int64_t n, const real *z)
{
    for (int64_t child; (child = 2 * root + 1) < n; root = child) {
        if (child + 1 < n && precedes(z, id[child], id[child + 1])) {
            child++;
        }
        if (precedes(z, id[child], id[root])) {
            return;
        }
        int32_t swap = id[root];
        id[root] = id[child];
        id[child] = swap;
    }
}

/* Heapsort, the likeliest first. */
static void sort(int32_t *id, int64_t n, const real *z)
{
    for (int64_t root = n / 2 - 1; root >= 0; root--) {
        sink(id, root, n, z);
    }
    for (int64_t end = n - 1; end > 0; end--) {
        int32_t last = id[0];
        id[0] = id[end];
        id[end] = last;
        sink(id, 0, end, z);
    }
}

/* Probability of sorted id number i, times a factor that makes that of the likeliest 1. */
static double weight(const real *z, const int32_t *id, int64_t i, double temperature)
{
    return exp(((double)z[id[i]] - (double)z[id[0]]) / temperature);
}

/* How many of n sorted ids are left. */
static int64_t keep(const int32_t *id, int64_t n, const real *z, const rf_draw *how)
{
    double total = 0, dropped = 0;
    if (how->top_k > 0) {
        while (n > how->top_k && z[id[n - 1]] < z[id[how->top_k - 1]]) {
            n--;
        }
    }
    for (int64_t i = 0; i < n; i++) {
        total += weight(z, id, i, how->temperature);
    }
    while (n > 1 && dropped + weight(z, id, n - 1, how->temperature) <= how->tail * total) {
        dropped += weight(z, id, n - 1, how->temperature);
        n--;
    }
    while (n > 1 && weight(z, id, n - 1, how->temperature) < how->min_p) {
        n--;
    }
    return n;
}

bool RF_REF(is_banned)(const rf_head_query *query, int64_t id)
{
    for (int64_t b = 0; b < query->n_banned; b++) {
        if (query->banned[b] == id) {
            return true;
        }
    }
    return false;
}

int32_t RF_REF(draw)(real *z, int32_t *id, const real *logits, const rf_head_query *query,
                     int64_t i)
{
    const rf_draw how = query->draw != NULL ? query->draw[i] : (rf_draw){0};
    int64_t n = 0;
    for (int32_t j = 0; j < query->n_usable; j++) {
        z[j] = logits[j];
        if (!RF_REF(is_banned)(query, j)) {
            id[n++] = j;
        }
    }
    for (int64_t s = how.seen; s < how.seen + how.n_seen; s++) {
        const int32_t j = query->seen[s];
        const double l = (double)logits[j];
        z[j] = (real)(l < 0 ? l * how.penalty : l / how.penalty);
    }
    RF_ASSERT(n > 0); /* at least one id is usable and not banned */
    sort(id, n, z);
    if (!(how.temperature > 0)) {
        return id[0];
    }
    n = keep(id, n, z, &how);
    int32_t best = id[0];
    double best_value = -HUGE_VAL;
    for (int64_t s = 0; s < n; s++) {
        const double value = (double)z[id[s]] / how.temperature + rf_gumbel(how.key, id[s]);
        if (value > best_value || (value == best_value && id[s] < best)) {
            best = id[s];
            best_value = value;
        }
    }
    return best;
}
