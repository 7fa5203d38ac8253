/* map.cuh: maps of matrices of bf16, whose boxes of 64 columns bulk copies bring into shared memory. */
#ifndef RF_KERNELS_CUDA_MAP_CUH
#define RF_KERNELS_CUDA_MAP_CUH

#include "common/kernels/cuda/hopper.cuh"

/* Of `slices` slices of the inner dimension, each `slice` wide: the third dimension. */
static inline int encode_slices(CUtensorMap *map, const void *data, int64_t rows, int64_t columns,
                                int64_t box_rows, int64_t slice, int64_t slices, int64_t box_slices)
{
    typedef decltype(&cuTensorMapEncodeTiled) encoder;
    static encoder encode_tiled;
    if (encode_tiled == nullptr) {
        void *entry = nullptr;
        cudaDriverEntryPointQueryResult found;
        const cudaError_t code = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry,
                                                                  12000, cudaEnableDefault, &found);
        if (code != cudaSuccess || found != cudaDriverEntryPointSuccess) {
            return code != cudaSuccess ? code : cudaErrorNotSupported;
        }
        encode_tiled = reinterpret_cast<encoder>(entry);
    }
    const cuuint64_t size[] = {static_cast<cuuint64_t>(slice), static_cast<cuuint64_t>(rows),
                               static_cast<cuuint64_t>(slices)};
    const cuuint64_t stride[] = {static_cast<cuuint64_t>(columns) * 2,
                                 static_cast<cuuint64_t>(slice) * 2};
    const cuuint32_t box[] = {TILE_COLUMNS, static_cast<cuuint32_t>(box_rows),
                              static_cast<cuuint32_t>(box_slices)},
                     step[] = {1, 1, 1};
    const CUresult code = encode_tiled(
        map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, slices > 1 ? 3 : 2, const_cast<void *>(data), size,
        stride, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
        CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return code == CUDA_SUCCESS ? 0 : cudaErrorInvalidValue;
}

static inline int encode(CUtensorMap *map, const void *data, int64_t rows, int64_t columns,
                         int64_t box_rows)
{
    return encode_slices(map, data, rows, columns, box_rows, columns, 1, 1);
}

#endif
