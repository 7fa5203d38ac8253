/* cpu.h: the kernel tables of the `cpu` backend, one per instruction set.       all local
 *
 * The sources of this folder are compiled once for each instruction set; a table may be called only
 * on a machine (and operating system) that has it. backend.c chooses. All operands are f32 (i32 for
 * indices); scratch and every buffer is ordinary host memory.
 */
#ifndef RF_KERNELS_CPU_CPU_H
#define RF_KERNELS_CPU_CPU_H

#include "common/kernels/kernels.h"

extern const rf_kernels rf_cpu_portable_kernels;
#if defined(__x86_64__)
extern const rf_kernels rf_cpu_avx2_kernels;       /* AVX2, FMA, F16C */
extern const rf_kernels rf_cpu_avx512_kernels;     /* AVX-512 F, BW, DQ, VL beside them */
extern const rf_kernels rf_cpu_avx512bf16_kernels; /* AVX512-BF16 and VNNI beside them */
extern const rf_kernels rf_cpu_amx_kernels;        /* AMX tiles of bf16 and int8 beside them */
#endif

#endif
