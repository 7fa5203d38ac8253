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
#include "common/kernels/cuda/infer/pass_product.cuh"
#include "common/kernels/cuda/map.cuh"

/* --- The kernel -------------------------------------------------------------------------------- */

/* Lines that a later phase reads, as far as they are a block's own. */
static __device__ inline void prefetch_gain(const float *gain, int count)
{
    const int element = static_cast<int>(threadIdx.x) * 32;
    if (gain != nullptr && element < count) {
        prefetch(gain + element);
    }
}

template <int ROWS> static __device__ void work(const own_pass &p, const room &r)
{
    uint32_t number = *p.attention.mail.number + static_cast<uint32_t>(p.before);
    int stage = 0;
    for (int i = 0; i < p.blocks; i++, number++) {
        const own_block &b = p.block[i];
        const mail m = mail_of(p, i, number);
        prefetch_gain(b.attention_gain, p.d);
        wait_for_all(p, i - 2); /* with the letters that this block's overwrite */
        put_normed<ROWS>(p, r, p.deal[HEADS], m.stream, m.number - 1U, b.attention_gain);
        make_product<ROWS>(p, r, b, HEADS, m, &stage);
        prefetch_gain(b.q_gain, WIDTH);
        prefetch_gain(b.k_gain, WIDTH);
        attend(p, b, m, r.tiles);
        merge_all(p, m);
        put_rows<ROWS>(p, r, p.deal[ATTENDED], m.slot + p.slot.found, m.number);
        make_product<ROWS>(p, r, b, ATTENDED, m, &stage);
        prefetch_gain(b.mlp_gain, p.d);
        if (m.is_last) { /* its stream goes where the first block's was */
            done_with(p, i);
            wait_for_all(p, i);
        }
        put_normed<ROWS>(p, r, p.deal[GATES], m.slot + p.slot.between, m.number, b.mlp_gain);
        make_product<ROWS>(p, r, b, GATES, m, &stage);
        put_rows<ROWS>(p, r, p.deal[DOWN], m.slot + p.slot.hidden, m.number);
        make_product<ROWS>(p, r, b, DOWN, m, &stage);
        if (!m.is_last) {
            done_with(p, i);
        }
    }
}

template <int ROWS>
static __global__ void __launch_bounds__(THREADS, 1) run_pass(const __grid_constant__ own_pass p)
{
    extern __shared__ char shared[];
    char *memory = shared + (ALIGNMENT - shared_address(shared) % ALIGNMENT) % ALIGNMENT;
    room r;
    r.ring = shared_address(memory);
    r.x_data = memory + p.stages * STAGE;
    r.x = shared_address(r.x_data);
    r.tiles = reinterpret_cast<part_tiles *>(r.x_data);
    r.sums = reinterpret_cast<float *>(r.x_data + p.x_bytes);
    r.full = shared_address(r.sums + GROUPS * ROWS * RF_CUDA_TILE);
    r.empty = r.full + static_cast<unsigned>(p.stages) * 8U;
    if (threadIdx.x == 0) {
        for (int s = 0; s < p.stages; s++) {
            barrier_init(r.full_at(s), 1);
            barrier_init(r.empty_at(s), 1);
        }
        barriers_are_initialised();
    }
    __syncthreads();
    if (threadIdx.x >= WORKERS) {
        if (threadIdx.x == WORKERS) {
            load_weights(p, r);
        }
    } else {
        work<ROWS>(p, r);
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

static int rows_of(const rf_cuda_pass *p)
{
    return p->n == 1 ? 1 : int{MOST_ROWS};
}

/* Bytes for x of the widest product, or a part of attention. */
static int64_t x_bytes(const rf_cuda_pass *p)
{
    rf_cuda_deal deal[PRODUCTS];
    int64_t bytes = sizeof(part_tiles);
    deal_out(deal, p);
    for (const rf_cuda_deal &d : deal) {
        bytes = max(bytes, int64_t{d.slice} / TILE_COLUMNS * rows_of(p) * 8 * TILE_ROW);
    }
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static int64_t stages_of(const rf_cuda_pass *p)
{
    const int64_t sums = int64_t{GROUPS} * rows_of(p) * RF_CUDA_TILE * 4;
    const int64_t rest = SHARED_MEMORY - 2 * ALIGNMENT - x_bytes(p) - sums;
    return rest / (STAGE + 2 * 8);
}

bool rf_cuda_takes_pass(const rf_cuda_pass *p)
{
    const rf_cuda_attend &a = p->attention;
    return p->n > 0 && p->n <= RF_CUDA_PASS_ROWS && a.head_dim == WIDTH && a.g > 0 &&
           a.h / a.g <= RF_CUDA_SHARED && stages_of(p) >= LEAST_STAGES &&
           p->n * (a.keys / RF_CUDA_PART + 2) <= min(a.part_rows, int64_t{RF_CUDA_FEW_PARTS}) &&
           rf_cuda_letters_of(p->n, p->d, p->f, a.h, a.g, a.keys) <= a.mail.letters &&
           p->before <= RF_CUDA_PASS_NUMBERS - RF_CUDA_PASS_BLOCKS;
}

static int fill(own_pass *to, const rf_cuda_pass *p)
{
    static const int product[RF_CUDA_PASS_MATRICES] = {HEADS, HEADS, HEADS, ATTENDED,
                                                       GATES, GATES, DOWN};
    static const int factor_number[RF_CUDA_PASS_MATRICES] = {0, 1, 2, 0, 0, 0, 0};
    const double log2_e = 1.4426950408889634;
    deal_out(to->deal, p);
    for (int i = 0; i < p->blocks; i++) {
        const rf_cuda_pass_block &from = p->block[i];
        own_block &b = to->block[i];
        for (int m = 0; m < RF_CUDA_PASS_MATRICES; m++) {
            const rf_cuda_deal &d = to->deal[product[m]];
            const int code = encode(&b.w[m], from.w[m], d.out[factor_number[m]], d.in, d.each);
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
    }
    to->slot = rf_cuda_slot_of(p->n, p->d, p->f, p->attention.h, p->attention.g);
    to->blocks = p->blocks;
    to->before = p->before;
    to->n = static_cast<int>(p->n);
    to->d = static_cast<int>(p->d);
    to->f = static_cast<int>(p->f);
    to->wide = static_cast<int>((p->attention.h + 2 * p->attention.g) * WIDTH);
    to->stages = static_cast<int>(stages_of(p));
    to->x_bytes = static_cast<int>(x_bytes(p));
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

template <int ROWS> static int launch(rf_cuda_stream stream, const own_pass &p, unsigned blocks)
{
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeCooperative; /* all blocks at once, or an error */
    attribute.val.cooperative = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(blocks);
    config.blockDim = dim3(THREADS);
    config.dynamicSmemBytes = SHARED_MEMORY - GROUPS * NORM_WARPS * sizeof(float);
    config.stream = stream;
    config.attrs = &attribute;
    config.numAttrs = 1;
    const int code = allow_memory(run_pass<ROWS>, config.dynamicSmemBytes);
    return code != 0 ? code : cudaLaunchKernelEx(&config, run_pass<ROWS>, p);
}

int rf_cuda_run_pass(rf_cuda_stream stream, const rf_cuda_pass *p)
{
    own_pass own = {};
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
    return rows_of(p) == 1 ? launch<1>(stream, own, blocks)
                           : launch<MOST_ROWS>(stream, own, blocks);
}
