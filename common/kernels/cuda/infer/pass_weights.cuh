/* pass_weights.cuh: how weights of a pass (pass.cu) come into shared memory: which tiles of which matrix, through
 * a ring of stages. */
#ifndef RF_KERNELS_CUDA_INFER_PASS_WEIGHTS_CUH
#define RF_KERNELS_CUDA_INFER_PASS_WEIGHTS_CUH

#include "common/kernels/cuda/infer/pass_room.cuh"

/* The matrix of the first factor of each product. */
static __device__ inline int first_matrix(int product)
{
    return product == HEADS ? 0 : product == ATTENDED ? 3 : product == GATES ? 4 : 6;
}

/* A chunk of a tile into a stage: 64 columns of each slice. At once where there are whole slices. */
static __device__ void load_stage(const rf_cuda_deal &d, const CUtensorMap *w, int row, int chunk,
                                  unsigned to, unsigned full)
{
    barrier_expect(full, STAGE);
    for (int half = 0; half < RF_CUDA_TILE / d.part; half++, w++) {
        if (rf_cuda_deal_is_even(&d)) {
            load_slices(to, w, chunk * TILE_COLUMNS, row, full);
            to += static_cast<unsigned>(d.part) * TILE_ROW;
        } else {
#pragma unroll 1
            for (int s = 0; s * d.each < d.part; s++) {
                load_tile(to, w, s * d.slice + chunk * TILE_COLUMNS, row, full);
                to += static_cast<unsigned>(d.each) * TILE_ROW;
            }
        }
    }
}

/* Tile `number` of this block of threads. */
static __device__ inline rf_cuda_dealt tile_at(const room &r, int product, int number)
{
    return number < GROUPS
               ? r.share.first[product][number]
               : rf_cuda_deal_at(&r.p.deal[product], static_cast<int>(blockIdx.x) +
                                                         number * static_cast<int>(gridDim.x));
}

/* A warp: all weights of this block of threads, in the order in which the groups take them, a lane a group. Side
 * by side, for none may come to a stage before the stage's last turn has begun. */
static __device__ void load_weights(const room &r, const CUtensorMap (*map)[RF_CUDA_PASS_MATRICES])
{
    const own_pass &p = r.p;
    const int stages = r.p.stages, lane = static_cast<int>(threadIdx.x) % WARP;
    turn_of_ring stage = {0};
#pragma unroll 1
    for (int b = 0; b < p.blocks; b++) {
        if (lane < RF_CUDA_PASS_MATRICES && b + 1 < p.blocks) {
            prefetch_map(&map[b + 1][lane]);
        }
#pragma unroll 1
        for (int product = 0; product < PRODUCTS; product++) {
            const rf_cuda_deal &d = p.deal[product];
            const int count = r.share.tiles[product], chunks = d.slice / TILE_COLUMNS;
#pragma unroll 1
            for (int first = 0; first < count; first += GROUPS) {
                const int side = min(count - first, int{GROUPS});
                const rf_cuda_dealt at =
                    lane < side ? tile_at(r, product, first + lane) : rf_cuda_dealt{0, 0};
                const CUtensorMap *w = &map[b][first_matrix(product) + at.which];
                turn_of_ring own = stage;
                own.step(stages, min(lane, side));
#pragma unroll 1
                for (int chunk = 0; chunk < chunks; chunk++) {
                    if (lane < side) {
                        const unsigned slot = own.slot(stages);
                        barrier_wait(r.empty + slot * 8U,
                                     own.parity(stages) ^ 1U); /* at first: free */
                        load_stage(d, w, at.row, chunk, r.ring + slot * STAGE, r.full + slot * 8U);
                    }
                    own.step(stages, side);
                    __syncwarp();
                }
                stage.advance(stages, chunks * side);
            }
        }
    }
}

#endif
