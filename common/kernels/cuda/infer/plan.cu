/* Which blocks make what of attention (attend.cu): once for a pass. */
#include "common/kernels/cuda/infer/parts.cuh"

/* The sums over the threads before this one, and over all. One block of RF_CUDA_PLANNED threads. */
typedef struct sums_before {
    int before, all;
} sums_before;

static __device__ sums_before scan(int own)
{
    __shared__ int sum[RF_CUDA_PLANNED];
    const int i = static_cast<int>(threadIdx.x);
    sum[i] = own;
    __syncthreads();
    for (int step = 1; step < RF_CUDA_PLANNED; step *= 2) {
        const int below = i >= step ? sum[i - step] : 0;
        __syncthreads();
        sum[i] += below;
        __syncthreads();
    }
    const sums_before s = {sum[i] - own, sum[RF_CUDA_PLANNED - 1]};
    __syncthreads();
    return s;
}

/* A thread a run. `parts`: of a unit. */
static __device__ void write_units(const rf_cuda_attend &p, int run_number, const own_run &run,
                                   int parts, int first_unit, int first_row)
{
    int unit = first_unit;
    const int queries = run.queries.y - run.queries.x;
    for (int span = 0; span < 2; span++) {
        const int all = parts_of(run.span[span]);
        for (int part = 0; part < all; part += parts, unit++) {
            p.unit[unit] = {run_number, span, part, min(part + parts, all),
                            first_row + (unit - first_unit) * queries};
        }
    }
    const int front = (parts_of(run.span[0]) + parts - 1) / parts;
    for (int i = 0; i < queries; i++) {
        p.table[run.queries.x + i] = {first_row + i, queries, front, unit - first_unit - front,
                                      RF_CUDA_SECTION / parts};
    }
}

/* The numbers of this pass. Where they begin anew, letters of long ago have them too. */
static __device__ void count_pass(const rf_cuda_mail &mail)
{
    const uint32_t number = *mail.number + RF_CUDA_PASS_NUMBERS;
    const int thread = static_cast<int>(threadIdx.x);
    if (number == 0U) {
        for (int64_t i = thread; i < mail.letters; i += RF_CUDA_PLANNED) {
            mail.letter[i] = 0U;
        }
    }
    __syncthreads();
    if (thread == 0) {
        *mail.number = number == 0U ? uint32_t{RF_CUDA_PASS_NUMBERS} : number;
    }
    if (thread < RF_CUDA_ARRIVED) {
        mail.arrived[thread] = 0U;
    }
}

/* The first place of the cache that the pass writes. */
static __device__ int first_written(const rf_cuda_attend &p)
{
    __shared__ int least[RF_CUDA_PLANNED / WARP];
    const int thread = static_cast<int>(threadIdx.x);
    int own = p.place != nullptr ? INT32_MAX : 0;
    for (int64_t i = thread; p.place != nullptr && i < p.n; i += RF_CUDA_PLANNED) {
        own = min(own, p.place[i]);
    }
    own = __reduce_min_sync(0xffffffffU, own);
    if (thread % WARP == 0) {
        least[thread / WARP] = own;
    }
    __syncthreads();
    for (const int other : least) {
        own = min(own, other);
    }
    return own;
}

static __global__ void __launch_bounds__(RF_CUDA_PLANNED) plan(const rf_cuda_attend p, bool early)
{
    count_pass(p.mail);
    const int i = static_cast<int>(threadIdx.x);
    const bool has_run = i < p.n_runs;
    const own_run &run = run_at(p, has_run ? i : 0);
    const int queries = has_run ? run.queries.y - run.queries.x : 0;
    const int front = has_run ? parts_of(run.span[0]) : 0,
              back = has_run ? parts_of(run.span[1]) : 0;
    const int part = front + back, section = (front + RF_CUDA_SECTION - 1) / RF_CUDA_SECTION +
                                             (back + RF_CUDA_SECTION - 1) / RF_CUDA_SECTION;
    const sums_before part_rows = scan(part * queries), section_rows = scan(section * queries);
    const sums_before parts = scan(part), sections = scan(section),
                      runs = scan(queries > 0 ? 1 : 0);
    const int written = early ? first_written(p) : 0;
    const bool by_part = part_rows.all <= min(p.part_rows, int64_t{RF_CUDA_FEW_PARTS});
    const bool by_section = section_rows.all <= p.part_rows; /* most_sections knows of this */
    if (queries > 0 && by_part) {
        write_units(p, i, run, 1, parts.before, part_rows.before);
    } else if (queries > 0 && by_section) {
        write_units(p, i, run, RF_CUDA_SECTION, sections.before, section_rows.before);
    } else if (queries > 0) {
        p.unit[runs.before] = {i, RF_CUDA_ALL_SPANS, 0, 0, 0};
    }
    if (!by_part && !by_section) { /* nothing is left to merge */
        for (int q = 0; q < queries; q++) {
            p.table[run.queries.x + q] = {0, 0, -1, -1, 1};
        }
    }
    if (i == 0) {
        p.units[0] = by_part ? parts.all : by_section ? sections.all : runs.all;
        p.units[1] = written;
    }
}

int rf_cuda_plan_attention(rf_cuda_stream stream, const rf_cuda_attend *p, bool early)
{
    if (p->n == 0 || p->n_runs > RF_CUDA_PLANNED) {
        return 0;
    }
    plan<<<1, RF_CUDA_PLANNED, 0, stream>>>(*p, early);
    return cudaGetLastError();
}
