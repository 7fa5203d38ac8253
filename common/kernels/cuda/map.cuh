/* map.cuh: maps of matrices of bf16 and of int8, whose boxes, 64 or 128 columns wide, bulk copies bring into
 * shared memory. */
#ifndef RF_KERNELS_CUDA_MAP_CUH
#define RF_KERNELS_CUDA_MAP_CUH

#include "common/kernels/cuda/hopper.cuh"

/* How a matrix lies, and the box that one copy brings: TILE_ROW bytes of some rows and slices. Slices are of the
 * inner dimension, each as wide as size[0]. */
typedef struct boxes {
    CUtensorMapDataType type;
    int bytes;            /* of an element */
    cuuint64_t size[3];   /* columns, rows, slices */
    cuuint64_t stride[2]; /* bytes from row to row, from slice to slice */
    cuuint32_t box_rows, box_slices;
} boxes;

static inline int encode_boxes(CUtensorMap *map, const void *data, const boxes &b)
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
    const cuuint32_t wide = static_cast<cuuint32_t>(TILE_ROW / b.bytes);
    const cuuint32_t box[] = {wide, b.box_rows, b.box_slices}, step[] = {1, 1, 1};
    const CUresult code =
        encode_tiled(map, b.type, b.size[2] > 1 ? 3 : 2, const_cast<void *>(data), b.size, b.stride,
                     box, step, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                     CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return code == CUDA_SUCCESS ? 0 : cudaErrorInvalidValue;
}

/* Of bf16, of `slices` slices. */
static inline int encode_slices(CUtensorMap *map, const void *data, int64_t rows, int64_t columns,
                                int64_t box_rows, int64_t slice, int64_t slices, int64_t box_slices)
{
    return encode_boxes(map, data,
                        {CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                         2,
                         {static_cast<cuuint64_t>(slice), static_cast<cuuint64_t>(rows),
                          static_cast<cuuint64_t>(slices)},
                         {static_cast<cuuint64_t>(columns) * 2, static_cast<cuuint64_t>(slice) * 2},
                         static_cast<cuuint32_t>(box_rows),
                         static_cast<cuuint32_t>(box_slices)});
}

static inline int encode(CUtensorMap *map, const void *data, int64_t rows, int64_t columns,
                         int64_t box_rows)
{
    return encode_slices(map, data, rows, columns, box_rows, columns, 1, 1);
}

/* Of int8 rows (launch.h). */
static inline int encode_int8(CUtensorMap *map, const void *data, int64_t rows, int64_t columns,
                              int64_t box_rows)
{
    return encode_boxes(
        map, data,
        {CU_TENSOR_MAP_DATA_TYPE_UINT8,
         1,
         {static_cast<cuuint64_t>(rf_cuda_int8_scales(columns)), static_cast<cuuint64_t>(rows), 1},
         {static_cast<cuuint64_t>(rf_cuda_int8_row(columns)), 0},
         static_cast<cuuint32_t>(box_rows),
         1});
}

#endif
