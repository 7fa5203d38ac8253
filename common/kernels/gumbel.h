/* gumbel.h: the noise that turns argmax into sampling.                         all local
 *
 * argmax_j (logit_j / temperature + rf_gumbel(key, j)) is a sample of softmax(logits / temperature)
 * (Gumbel-max trick; arXiv:1411.0030). The noise is a pure function of (key, id), the same on every
 * backend, so that a draw depends on neither threads nor batch nor the order in which a kernel
 * visits the vocabulary. Keys that differ in one bit give unrelated noise.
 */
#ifndef RF_KERNELS_GUMBEL_H
#define RF_KERNELS_GUMBEL_H

#include "common/kernels/inline.h"

#include <math.h>
#include <stdint.h>

/* Finalizer of SplitMix64 (Steele, Lea, Flood; OOPSLA 2014): a bijection of 64 bits. */
RF_KERNELS_INLINE uint64_t rf_gumbel_mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

/* Uniform in the open interval (0,1): an odd multiple of 2^-53, so neither 0 nor 1. */
RF_KERNELS_INLINE double rf_gumbel_uniform(uint64_t key, int64_t id)
{
    const uint64_t step = UINT64_C(0x9e3779b97f4a7c15); /* 2^64 / golden ratio, odd */
    uint64_t bits = rf_gumbel_mix(rf_gumbel_mix(key + step) + step * ((uint64_t)id + 1));
    return ((double)(bits >> 12) + 0.5) * 0x1p-52;
}

/* Standard Gumbel noise of (key, id); finite: between -3.7 and 36.8. */
RF_KERNELS_INLINE double rf_gumbel(uint64_t key, int64_t id)
{
    return -log(-log(rf_gumbel_uniform(key, id)));
}

#endif
