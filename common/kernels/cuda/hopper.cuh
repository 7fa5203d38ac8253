/* hopper.cuh: what Hopper has and CUDA C++ has no words for: bulk copies of tiles that complete on
 * barriers in shared memory, products of tiles by a group of four warps, clusters of blocks that read
 * and write each other's shared memory, and kernels that begin while the one before them ends.
 *
 * Names are those of the PTX instructions (PTX ISA 9.0, "Asynchronous warpgroup matrix instructions",
 * "mbarrier", "cp.async.bulk.tensor", "griddepcontrol"). Addresses are of the shared window. */
#ifndef RF_KERNELS_CUDA_HOPPER_CUH
#define RF_KERNELS_CUDA_HOPPER_CUH

#include "common/kernels/cuda/real.cuh"

#include <cuda.h>

/* A tile of 64 columns of bf16, or 128 of int8, lies in shared memory as rows of 128 bytes, whose pieces of
 * 16 bytes are permuted among 8 rows (128-byte swizzle): piece c of row r is at r*128 + (c ^ r % 8)*16. */
enum { GROUP = 128, TILE_COLUMNS = 64, TILE_ROW = 128, TILE_STEP = 16 };

static __device__ inline unsigned shared_address(const void *pointer)
{
    return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

/* --- Barriers that bulk copies complete on --- */

static __device__ inline void barrier_init(unsigned barrier, unsigned arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals));
}

static __device__ inline void barriers_are_initialised()
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

static __device__ inline void barrier_expect(unsigned barrier, unsigned bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
                 : "memory");
}

static __device__ inline void barrier_arrive(unsigned barrier)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

/* Lane 0 arrives for its warp. No branch: wgmma may be under way. */
static __device__ inline void barrier_arrive_warp(unsigned barrier, int lane)
{
    asm volatile("{\n"
                 ".reg .pred first;\n"
                 "setp.eq.s32 first, %1, 0;\n"
                 "@first mbarrier.arrive.shared::cta.b64 _, [%0];\n"
                 "}" ::"r"(barrier),
                 "r"(lane)
                 : "memory");
}

static __device__ inline void barrier_wait(unsigned barrier, unsigned parity)
{
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;\n"
                 "}" ::"r"(barrier),
                 "r"(parity)
                 : "memory");
}

/* --- Tiles from global to shared memory --- */

/* Columns [column, ...) and rows [row, ...) of the map's box. */
static __device__ inline void load_tile(unsigned to, const CUtensorMap *map, int column, int row,
                                        unsigned barrier)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%2, %3}], [%4];" ::"r"(to),
                 "l"(map), "r"(column), "r"(row), "r"(barrier)
                 : "memory");
}

/* The same rows and columns of slices [0, ...) one after the other: of a map of slices. */
static __device__ inline void load_slices(unsigned to, const CUtensorMap *map, int column, int row,
                                          unsigned barrier)
{
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%2, %3, %4}], [%5];" ::"r"(to),
                 "l"(map), "r"(column), "r"(row), "r"(0), "r"(barrier)
                 : "memory");
}

/* `bytes` one after the other; they and both addresses are multiples of 16. */
static __device__ inline void load_bytes(unsigned to, const void *from, unsigned bytes,
                                         unsigned barrier)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1], %2, [%3];" ::"r"(to),
                 "l"(from), "r"(bytes), "r"(barrier)
                 : "memory");
}

static __device__ inline void prefetch_map(const CUtensorMap *map)
{
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

/* The line of this address, into the nearest cache. */
static __device__ inline void prefetch(const void *address)
{
    asm volatile("prefetch.global.L1 [%0];" ::"l"(address));
}

/* What threads wrote to shared memory is seen by bulk copies and products. */
static __device__ inline void fence_async()
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* --- Products of tiles --- */

/* Rows of a tile with 128-byte swizzle; 8 rows are 1024 bytes. */
static __device__ inline uint64_t descriptor(unsigned address)
{
    const uint64_t eight_rows = 8 * TILE_ROW, swizzle_128 = 1;
    return (address >> 4 & 0x3fffU) | UINT64_C(1) << 16 | eight_rows >> 4 << 32 | swizzle_128 << 62;
}

static __device__ inline void mma_fence()
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

static __device__ inline void mma_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int PENDING> static __device__ inline void mma_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

/* Registers of each thread of a warpgroup from here on, fewer or more than the kernel began with. */
template <int REGISTERS> static __device__ inline void keep_registers()
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

template <int REGISTERS> static __device__ inline void take_registers()
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

/* --- Clusters --- */

static __device__ inline void cluster_arrive()
{
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}

/* Orders no memory, neither what was written nor what is read: what was read must have been used. The other waits
 * until all that the block has under way in the memory is done. */
static __device__ inline void cluster_arrive_relaxed()
{
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}

static __device__ inline void cluster_wait()
{
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

/* Which block of its cluster this is. Found where it is asked for: no register keeps it. */
static __device__ inline int cluster_rank()
{
    int rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

/* Where `address` of this block's shared memory is in that of block `rank` of the cluster. */
static __device__ inline unsigned address_in(unsigned rank, unsigned address)
{
    unsigned there;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
    return there;
}

/* Four numbers at `address` of the shared memory of block `rank` of the cluster. */
static __device__ inline float4 read_cluster(unsigned address, unsigned rank)
{
    float4 x;
    asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w)
                 : "r"(address_in(rank, address)));
    return x;
}

/* Two numbers, likewise. */
static __device__ inline float2 read_cluster_pair(unsigned address, unsigned rank)
{
    float2 x;
    asm volatile("ld.shared::cluster.v2.f32 {%0, %1}, [%2];"
                 : "=f"(x.x), "=f"(x.y)
                 : "r"(address_in(rank, address)));
    return x;
}

/* `bytes` from shared memory to that of block `rank` of the cluster, where `barrier` waits for them. */
static __device__ inline void send_cluster(unsigned to, unsigned from, unsigned bytes,
                                           unsigned barrier, unsigned rank)
{
    const unsigned there = address_in(rank, to), barrier_there = address_in(rank, barrier);
    asm volatile("cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes "
                 "[%0], [%1], %2, [%3];" ::"r"(there),
                 "r"(from), "r"(bytes), "r"(barrier_there)
                 : "memory");
}

/* --- Kernels one after the other --- */

/* The next kernel may begin, as far as it reads nothing that this one or those before it write. */
static __device__ inline void let_next_begin()
{
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

/* The kernels before this one are done, and what they wrote is here. Every thread that reads it, and at
 * least one of each block that does anything, calls it: "done" of this kernel then means those before it too. */
static __device__ inline void wait_for_previous()
{
    asm volatile("griddepcontrol.wait;" ::: "memory");
}

/* Allows a kernel its dynamic shared memory, and asks for as much as there is on its multiprocessors: one
 * that has to change the division of shared memory and cache waits for all blocks of the kernel before. */
template <typename Kernel> static inline int allow_memory(Kernel *kernel, size_t bytes)
{
    const cudaError_t code = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
    return code != cudaSuccess
               ? code
               : cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                      cudaSharedmemCarveoutMaxShared);
}

#endif
