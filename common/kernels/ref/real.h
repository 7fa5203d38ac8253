/* real.h: the precision that this folder is compiled in.
 *
 * Every source of this folder is compiled twice, with RF_REF_DOUBLE 0 and 1. RF_REF(name) is the
 * name of a function in the precision at hand: rf_ref32_name or rf_ref64_name.
 */
#ifndef RF_KERNELS_REF_REAL_H
#define RF_KERNELS_REF_REAL_H

#if defined(RF_REF_DOUBLE) && RF_REF_DOUBLE
typedef double real;
#define RF_REF(name) rf_ref64_##name
#else
typedef float real;
#define RF_REF(name) rf_ref32_##name
#endif

#endif
