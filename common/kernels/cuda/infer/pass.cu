/* A pass of few rows: all of its blocks by one kernel, which stays on the multiprocessors from the first
 * block to the last.
 *
 * Few rows make a chain of short phases: the time of each is waiting (for the phase before, for x, for sums),
 * while weights could come all the time. So a warp of each block of threads does nothing but have the
 * weights of this block of threads copied into a ring, phase after phase and block after block, as far ahead
 * as the ring goes; it waits for no phase. Three groups of four warps multiply. What a phase finds goes to
 * the next by letters (pass_mail.cuh), which each thread waits for that needs them.
 *
 * The bits are those of few.cu and attend.cu: same slices, each one chain of wgmma, added in order; same
 * parts of keys. How a product is cut: rf_cuda_deal (pass.h). Its x lies in shared memory as 8 rows for each
 * row of the pass, one for each slice; so the tensor cores multiply every slice of weights with every slice
 * of x, of which those of the same slice are kept. With one row that is what 8 columns cost anyway.
 *
 * Phases of a block: norm, q, k and v | attention by parts, the cache | the parts merged | o and the stream |
 * norm and gates | down and the stream. */
#include "common/kernels/cuda/infer/pass_attend.cuh"
#include "common/kernels/cuda/infer/pass_merge.cuh"
#include "common/kernels/cuda/infer/pass_product.cuh"
#include "common/kernels/cuda/infer/pass_x.cuh"
#include "common/kernels/cuda/map.cuh"

/* --- The kernel -------------------------------------------------------------------------------- */

/* A block's gains, which later phases read. */
static __device__ inline void prefetch_line(const float *gain, int count)
{
    const int element = static_cast<int>(threadIdx.x) * 32;
    if (gain != nullptr && element < count) {
        prefetch(gain + element);
    }
}

static __device__ inline void prefetch_gains(const own_pass &p, const own_block &b)
{
    prefetch_line(b.attention_gain, p.d);
    prefetch_line(b.q_gain, WIDTH);
    prefetch_line(b.k_gain, WIDTH);
    prefetch_line(b.mlp_gain, p.d);
}

/* What is read early of block i: its first part's keys, its gains. */
static __device__ inline void fetch_ahead(const room &r, int i)
{
    if (i < r.p.blocks) {
        fetch_keys(r.p, r.p.block[i], r.tiles, r.share.part);
        prefetch_gains(r.p, r.p.block[i]);
    }
}

/* What a worker has to do in every block of the model: the first element that it finishes, of each product. */
struct own_elements {
    own_element heads, attended, gates, down;
};

static __device__ inline own_elements elements_of(const room &r)
{
    const int tile = group_number(), number = static_cast<int>(threadIdx.x) % GROUP;
    return {own_element_at<HEADS>(r, tile, number), own_element_at<ATTENDED>(r, tile, number),
            own_element_at<GATES>(r, tile, number), own_element_at<DOWN>(r, tile, number)};
}

/* Block i of the launch. What an element needs is on its way while the product's x is waited for. */
template <int ROWS>
static __device__ void make_block(const room &r, int i, const own_elements &own,
                                  turn_of_ring *stage)
{
    const own_pass &p = r.p;
    const own_block &b = p.block[i];
    const mail m = mail_of(p, i, r.share.number);
    const int tile = group_number();

    element e = element_at<HEADS>(r, b, own.heads, tile, m);
    wait_pieces<0>(); /* keys: all have met when x is there */
    put_normed<ROWS, HEADS>(r, m.stream, m.number - 1U, b.attention_gain);
    if (i > 0) {
        done_with(p, i - 1);
    }
    make_product<ROWS, HEADS>(r, b, m, e, stage);

    attend<ROWS>(r, b, m, i);
    merge_all(r, m);
    fetch_ahead(r, i + 1);
    e = element_at<ATTENDED>(r, b, own.attended, tile, m);
    put_rows<ROWS, ATTENDED>(r, m.slot + p.slot.found, m.number);
    make_product<ROWS, ATTENDED>(r, b, m, e, stage);

    e = element_at<GATES>(r, b, own.gates, tile, m);
    put_normed<ROWS, GATES>(r, m.slot + p.slot.between, m.number, b.mlp_gain);
    make_product<ROWS, GATES>(r, b, m, e, stage);

    e = element_at<DOWN>(r, b, own.down, tile, m);
    if (m.is_last) { /* its stream goes where the first block's was */
        done_with(p, i);
        wait_for_all(p, i);
    }
    put_rows<ROWS, DOWN>(r, m.slot + p.slot.hidden, m.number);
    make_product<ROWS, DOWN>(r, b, m, e, stage);
}

template <int ROWS> static __device__ void work(const room &r)
{
    const own_elements own = elements_of(r);
    turn_of_ring stage = {0};
    fetch_ahead(r, 0);
#pragma unroll 1
    for (int i = 0; i < r.p.blocks; i++) {
        make_block<ROWS>(r, i, own, &stage);
    }
}

/* A kernel's arguments, 16 bytes a thread: from where constants are read they come one after the other. */
static __device__ inline void copy_pass(own_pass *to, const own_pass *from)
{
    static_assert(sizeof(own_pass) % 16 == 0 && sizeof(own_pass) / 16 <= THREADS, "one each");
    const int i = static_cast<int>(threadIdx.x);
    if (i < static_cast<int>(sizeof(own_pass) / 16)) {
        uint4 x;
        asm volatile("ld.v4.u32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                     : "l"(reinterpret_cast<const uint4 *>(from) + i));
        reinterpret_cast<uint4 *>(to)[i] = x;
    }
}

/* Then comes what its warps do alike, once its part of attention is known. */
static __device__ void take_share(room *r)
{
    const int i = static_cast<int>(threadIdx.x), product = i / GROUPS;
    const int block = static_cast<int>(blockIdx.x), blocks = static_cast<int>(gridDim.x);
    own_share *share = &r->share;
    if (product < PRODUCTS) {
        const rf_cuda_deal &d = r->p.deal[product];
        share->tiles[product] = rf_cuda_deal_count(&d, block, blocks);
        share->first[product][i % GROUPS] = rf_cuda_deal_at(&d, block + i % GROUPS * blocks);
    } else if (i == WARP) {
        share->number = *r->p.attention.mail.number;
        share->parts = *r->p.attention.units * static_cast<int>(r->p.attention.g);
        share->part = block < share->parts ? work_at(r->p, block) : part_work{};
    }
}

/* What a warp or a group does in every block of the model alike. Its part of work is known. */
static __device__ void take_attention(room *r)
{
    const int warp = static_cast<int>(threadIdx.x) / WARP,
              lane = static_cast<int>(threadIdx.x) % WARP;
    const own_pass &p = r->p;
    const part_work &w = r->share.part;
    if (lane < HEAD_TURNS) {
        const int job = lane * WORKER_WARPS + warp;
        const head_jobs jobs = jobs_of(p, w, 0, cache_jobs(p));
        if (job == 0) {
            r->share.jobs = jobs;
        }
        r->share.head[job] = head_of(p, r->tiles, w, 0, jobs, job);
    } else if (threadIdx.x % GROUP == HEAD_TURNS && first_merge() < merges(p)) {
        r->share.merge[group_number()] = merge_of(p, first_merge());
    } else if (warp == 0 && lane >= QUERY_ROWS) {
        r->share.row[lane - QUERY_ROWS] = row_at(p, w, lane - QUERY_ROWS);
    }
}

template <int ROWS>
static __global__ void __launch_bounds__(THREADS, 1) run_pass(const __grid_constant__ arguments a)
{
    extern __shared__ char shared[];
    __shared__ room r;
    copy_pass(&r.p, &a.pass);
    __syncthreads();
    take_share(&r);
    if (threadIdx.x == 2 * WARP) {
        lay_out(&r, shared + (ALIGNMENT - shared_address(shared) % ALIGNMENT) % ALIGNMENT);
        for (int s = 0; s < r.p.stages; s++) {
            barrier_init(r.full + static_cast<unsigned>(s) * 8U, 1);
            barrier_init(r.empty + static_cast<unsigned>(s) * 8U, 1);
        }
        barriers_are_initialised();
    }
    __syncthreads();
    if (threadIdx.x >= WORKERS) {
        keep_registers<LOADER_REGISTERS>();
        if (threadIdx.x < WORKERS + WARP) {
            load_weights(r, a.map);
        }
    } else {
        take_registers<WORKER_REGISTERS>();
        take_attention(&r); /* read when the workers have met */
        work<ROWS>(r);
    }
}

/* --- Launches ---------------------------------------------------------------------------------- */

static void deal_out(rf_cuda_deal (&deal)[PRODUCTS], const rf_cuda_pass *p)
{
    const int64_t hk = p->attention.h * WIDTH, gk = p->attention.g * WIDTH;
    const int64_t heads[] = {hk, gk, gk};
    deal[HEADS] = rf_cuda_deal_of(p->d, heads, 3, false);
    deal[ATTENDED] = rf_cuda_deal_of(hk, &p->d, 1, false);
    deal[GATES] = rf_cuda_deal_of(p->d, &p->f, 1, true);
    deal[DOWN] = rf_cuda_deal_of(p->f, &p->d, 1, false);
}

/* Of the kernel that takes the pass. */
static int rows_of(const rf_cuda_pass *p)
{
    return p->n <= 2 ? static_cast<int>(p->n) : p->n <= 4 ? 4 : int{MOST_ROWS};
}

/* Bytes for x of two products, which take turns: each the wider of those that it is for; the second at least
 * those of pieces. */
static int64_t x_bytes(const rf_cuda_pass *p, int which)
{
    rf_cuda_deal deal[PRODUCTS];
    int64_t bytes = which == 1 ? TURN : 0;
    deal_out(deal, p);
    for (int product = which; product < PRODUCTS; product += 2) {
        bytes = max(bytes, int64_t{deal[product].slice} / TILE_COLUMNS * rows_of(p) * 8 * TILE_ROW);
    }
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static int64_t stages_of(const rf_cuda_pass *p)
{
    const int64_t rest = DYNAMIC_MEMORY - ALIGNMENT - x_bytes(p, 0) - x_bytes(p, 1) -
                         int64_t{sizeof(part_tiles)} - SQUARES;
    return rest / (STAGE + 2 * 8);
}

/* x of Qwen3-0.6B: 4 and 6 chunks. No test would tell that 8 rows of it are not taken any more. */
static_assert(ALIGNMENT + LEAST_STAGES * (STAGE + 2 * 8) + (4 + 6) * MOST_ROWS * 8 * TILE_ROW +
                      int{sizeof(part_tiles)} + SQUARES <=
                  DYNAMIC_MEMORY,
              "a pass of 8 rows");

bool rf_cuda_takes_pass(const rf_cuda_pass *p)
{
    const rf_cuda_attend &a = p->attention;
    return p->n > 0 && p->n <= RF_CUDA_PASS_ROWS && a.head_dim == WIDTH && a.g > 0 &&
           a.h / a.g <= RF_CUDA_SHARED && stages_of(p) >= LEAST_STAGES &&
           p->n * (a.keys / RF_CUDA_PART + 2) <= min(a.part_rows, int64_t{RF_CUDA_FEW_PARTS}) &&
           rf_cuda_letters_of(p->n, p->d, p->f, a.h, a.g, a.keys) <= a.mail.letters &&
           p->before <= RF_CUDA_PASS_NUMBERS - RF_CUDA_PASS_BLOCKS;
}

static int fill(arguments *a, const rf_cuda_pass *p)
{
    static const int product[RF_CUDA_PASS_MATRICES] = {HEADS, HEADS, HEADS, ATTENDED,
                                                       GATES, GATES, DOWN};
    static const int factor_number[RF_CUDA_PASS_MATRICES] = {0, 1, 2, 0, 0, 0, 0};
    const double log2_e = 1.4426950408889634;
    own_pass *to = &a->pass;
    deal_out(to->deal, p);
    for (int i = 0; i < p->blocks; i++) {
        const rf_cuda_pass_block &from = p->block[i];
        own_block &b = to->block[i];
        for (int m = 0; m < RF_CUDA_PASS_MATRICES; m++) {
            const rf_cuda_deal &d = to->deal[product[m]];
            const bool even = rf_cuda_deal_is_even(&d);
            const int code =
                encode_slices(&a->map[i][m], from.w[m], d.out[factor_number[m]], d.in, d.each,
                              even ? d.slice : d.in, even ? d.slices : 1, d.part / d.each);
            if (code != 0) {
                return code;
            }
        }
        b.attention_gain = from.attention_gain;
        b.mlp_gain = from.mlp_gain;
        b.q_gain = from.q_gain;
        b.k_gain = from.k_gain;
        b.q_bias = from.q_bias;
        b.k_bias = from.k_bias;
        b.v_bias = from.v_bias;
        b.o_bias = from.o_bias;
        b.keys = from.keys;
        b.values = from.values;
        b.has_bias = b.q_bias != nullptr || b.k_bias != nullptr || b.v_bias != nullptr ||
                     b.o_bias != nullptr;
    }
    to->slot = rf_cuda_slot_of(p->n, p->d, p->f, p->attention.h, p->attention.g);
    to->blocks = p->blocks;
    to->before = p->before;
    to->n = static_cast<int>(p->n);
    to->d = static_cast<int>(p->d);
    to->f = static_cast<int>(p->f);
    to->wide = static_cast<int>((p->attention.h + 2 * p->attention.g) * WIDTH);
    to->stages = static_cast<int>(stages_of(p));
    to->x_bytes[0] = static_cast<int>(x_bytes(p, 0));
    to->x_bytes[1] = static_cast<int>(x_bytes(p, 1));
    to->eps = p->eps;
    to->scale = static_cast<float>(log2_e / sqrt(static_cast<double>(WIDTH)));
    to->x = p->x;
    to->cosine = p->cosine;
    to->sine = p->sine;
    to->position = p->position;
    to->place = p->place;
    to->attention = p->attention;
    return 0;
}

template <int ROWS> static int launch(rf_cuda_stream stream, const arguments &a, unsigned blocks)
{
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeCooperative; /* all blocks at once, or an error */
    attribute.val.cooperative = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(blocks);
    config.blockDim = dim3(THREADS);
    config.dynamicSmemBytes = DYNAMIC_MEMORY;
    config.stream = stream;
    config.attrs = &attribute;
    config.numAttrs = 1;
    const int code = allow_memory(run_pass<ROWS>, config.dynamicSmemBytes);
    return code != 0 ? code : cudaLaunchKernelEx(&config, run_pass<ROWS>, a);
}

int rf_cuda_run_pass(rf_cuda_stream stream, const rf_cuda_pass *p)
{
    arguments own = {};
    int device = 0, processors = 0, code = fill(&own, p);
    if (code == 0) {
        code = cudaGetDevice(&device);
    }
    if (code == 0) {
        code = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
    }
    if (code != 0 || p->blocks == 0) {
        return code;
    }
    const unsigned blocks = static_cast<unsigned>(processors);
    switch (rows_of(p)) {
    case 1:
        return launch<1>(stream, own, blocks);
    case 2:
        return launch<2>(stream, own, blocks);
    case 4:
        return launch<4>(stream, own, blocks);
    default:
        return launch<MOST_ROWS>(stream, own, blocks);
    }
}
