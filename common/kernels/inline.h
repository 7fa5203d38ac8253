/* inline.h: functions that kernels on the host and on a device share. */
#ifndef RF_KERNELS_INLINE_H
#define RF_KERNELS_INLINE_H

#if defined(__CUDACC__)
#define RF_KERNELS_INLINE static __host__ __device__ inline
#else
#define RF_KERNELS_INLINE static inline
#endif

#endif
