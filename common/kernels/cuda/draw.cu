/* Which token a place draws (rf_draw, kernels.h), from its logits; a block a row.
 *
 * Nothing is sorted. What top-k and top-p leave are the ids above an edge, which is bisected: 32 times
 * the candidates above a number are counted, or weighed. Weights are whole numbers, so that their
 * sums are exact in any order. */
#include "common/kernels/cuda/real.cuh"
#include "common/kernels/gumbel.h"

#include <cfloat>

/* What may be drawn. */
typedef struct candidates {
    const float *z; /* [n] logits; -INFINITY: banned */
    int64_t n;
    float largest, rate; /* of z; 1 / temperature */
    double least;        /* ids with a smaller logit are dropped, */
    int64_t end;         /* and those from this id on that have this one */
} candidates;

static __device__ bool stays(const candidates &c, int64_t id)
{
    const double z = static_cast<double>(c.z[id]);
    return z > c.least || (z == c.least && id < c.end);
}

/* Whole numbers below 2^63 with up to 2^23 ids; the likeliest has 2^40. */
static __device__ uint64_t mass_of(const candidates &c, float z)
{
    return static_cast<uint64_t>(expf((z - c.largest) * c.rate) * 0x1p40F);
}

/* Numbers in the order of their floats, without NaN. -0 is 0. */
static __device__ uint32_t key_of(float x)
{
    const uint32_t bits = rf_quantize_bits(x + 0.0F);
    return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}

static __device__ float float_of(uint32_t key)
{
    return rf_quantize_float((key & 0x80000000U) != 0 ? key & 0x7fffffffU : ~key);
}

/* The candidates with a logit of at least `from`: their mass, or their number. */
static __device__ uint64_t weigh(const candidates &c, float from, bool by_mass)
{
    uint64_t sum = 0;
    for (int64_t j = threadIdx.x; j < c.n; j += BLOCK) {
        if (c.z[j] >= from && stays(c, j)) {
            sum += by_mass ? mass_of(c, c.z[j]) : 1;
        }
    }
    return join_all(sum, [](uint64_t a, uint64_t b) { return a + b; });
}

/* Ids below `end` with exactly this logit. */
static __device__ int64_t count_equals(const candidates &c, float z, int64_t end)
{
    int64_t n = 0;
    for (int64_t j = threadIdx.x; j < end; j += BLOCK) {
        n += c.z[j] == z ? 1 : 0;
    }
    return join_all(n, [](int64_t a, int64_t b) { return a + b; });
}

/* Keeps an id, in the order of falling logits, as long as those before it weigh less than `limit`,
 * which is at least 1 and at most what all weigh. Of equals that are counted all stay; of those that
 * are weighed the lower ids. */
static __device__ void narrow(candidates *c, bool by_mass, uint64_t limit)
{
    uint32_t low = key_of(-FLT_MAX), high = key_of(c->largest);
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2 + 1;
        if (weigh(*c, float_of(middle), by_mass) >= limit) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    const float edge = float_of(low);
    int64_t first = 1, end = c->n;
    if (by_mass) {
        const uint64_t above = weigh(*c, float_of(low + 1), true);
        const int64_t kept = static_cast<int64_t>((limit - above - 1) / mass_of(*c, edge) + 1);
        while (first < end && kept < count_equals(*c, edge, c->n)) {
            const int64_t middle = (first + end) / 2;
            if (count_equals(*c, edge, middle) >= kept) {
                end = middle;
            } else {
                first = middle + 1;
            }
        }
    }
    c->least = static_cast<double>(edge);
    c->end = end;
}

/* top-k, top-p, min-p. */
static __device__ void drop(candidates *c, const rf_cuda_rule &how)
{
    if (how.top_k > 0 && static_cast<uint64_t>(how.top_k) < weigh(*c, -FLT_MAX, false)) {
        narrow(c, false, static_cast<uint64_t>(how.top_k));
    }
    if (how.tail > 0.0) {
        const uint64_t total = weigh(*c, -FLT_MAX, true);
        const uint64_t rest = total - static_cast<uint64_t>(how.tail * static_cast<double>(total));
        if (rest < total) {
            narrow(c, true, rest > 0 ? rest : 1); /* the likeliest stays */
        }
    }
    const double edge = static_cast<double>(c->largest) + how.temperature * log(how.min_p);
    if (edge > c->least) { /* not with min_p 0 */
        c->least = edge;
        c->end = c->n;
    }
}

/* The row as it is drawn from: with the penalty for what was seen, without what is banned. */
static __device__ void prepare(float *own, const float *row, const rf_cuda_query &query,
                               const rf_cuda_rule &how)
{
    for (int64_t j = threadIdx.x; j < query.n_usable; j += BLOCK) {
        own[j] = row[j];
    }
    __syncthreads();
    for (int64_t s = threadIdx.x; s < how.n_seen; s += BLOCK) {
        const int32_t id = query.seen[how.seen + s];
        if (id < query.n_usable) {
            const double z = static_cast<double>(row[id]);
            own[id] = static_cast<float>(z < 0.0 ? z * how.penalty : z / how.penalty);
        }
    }
    __syncthreads();
    for (int64_t b = threadIdx.x; b < query.n_banned; b += BLOCK) {
        const int32_t id = query.banned[b];
        if (id >= 0 && id < query.n_usable) {
            own[id] = -INFINITY;
        }
    }
    __syncthreads();
}

/* The lowest id for which `test` holds; n: there is none. */
template <typename Test> static __device__ int64_t find(int64_t n, Test test)
{
    int64_t j = threadIdx.x;
    while (j < n && !test(j)) {
        j += BLOCK;
    }
    return join_all(min(j, n), [](int64_t a, int64_t b) { return min(a, b); });
}

static __device__ bool is_banned(const rf_cuda_query &query, int64_t id)
{
    bool found = false;
    for (int64_t b = 0; b < query.n_banned; b++) {
        found = found || query.banned[b] == id;
    }
    return found;
}

typedef struct choice {
    double value;
    int64_t id; /* below 0: none */
} choice;

/* Of two the one with the larger value; the lower id among equals. */
static __device__ choice better(choice a, choice b)
{
    const bool second =
        b.id >= 0 && (a.id < 0 || b.value > a.value || (b.value == a.value && b.id < a.id));
    return second ? b : a;
}

/* argmax of logit / temperature + noise: a sample of softmax(logit / temperature). */
static __device__ int64_t sample(const candidates &c, const rf_cuda_rule &how)
{
    choice best = {0.0, -1};
    for (int64_t j = threadIdx.x; j < c.n; j += BLOCK) {
        if (stays(c, j)) {
            const double z = static_cast<double>(c.z[j]) / how.temperature;
            best = better(best, {z + rf_gumbel(how.key, j), j});
        }
    }
    return join_all(best, [](choice a, choice b) { return better(a, b); }).id;
}

static __device__ int64_t choose(float *own, const float *row, const rf_cuda_query &query,
                                 const rf_cuda_rule &how)
{
    float most = -INFINITY;
    prepare(own, row, query, how);
    for (int64_t j = threadIdx.x; j < query.n_usable; j += BLOCK) {
        most = fmaxf(most, own[j]);
    }
    most = join_all(most, [](float a, float b) { return fmaxf(a, b); });
    if (!(most > -INFINITY)) {
        return find(query.n_usable, [&](int64_t j) { return !is_banned(query, j); });
    }
    const int64_t likeliest = find(query.n_usable, [&](int64_t j) { return own[j] == most; });
    if (!(how.temperature > 0.0)) {
        return likeliest;
    }
    candidates c = {own, query.n_usable, most, 0.0F, -static_cast<double>(FLT_MAX), query.n_usable};
    c.rate = static_cast<float>(fmin(1.0 / how.temperature, static_cast<double>(FLT_MAX)));
    drop(&c, how);
    const int64_t id = sample(c, how);
    return id >= 0 ? id : likeliest;
}

static __global__ void __launch_bounds__(BLOCK, RESIDENT)
    draw(const rf_cuda_query query, const float *logits, int64_t v)
{
    const int64_t i = blockIdx.x;
    const rf_cuda_rule how = query.draw[i];
    if (rf_cuda_rule_is_plain(&how)) {
        return; /* answer.cu does that */
    }
    const int64_t id = choose(query.own + i * v, logits + i * v, query, how);
    if (threadIdx.x == 0) {
        query.token[i] = static_cast<int32_t>(min(id, query.n_usable - 1));
    }
}

int rf_cuda_draw(rf_cuda_stream stream, const rf_cuda_query *query, const float *logits, int64_t m,
                 int64_t v)
{
    if (m == 0) {
        return 0;
    }
    draw<<<blocks_for(m, 1), BLOCK, 0, stream>>>(*query, logits, v);
    return cudaGetLastError();
}
