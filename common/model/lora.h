/* lora.h: adapters of low rank beside frozen matrices (arXiv:2106.09685).       all local
 *
 * A product y = x W^T of an adapted matrix W [out,in] becomes
 *     y = x W^T + (alpha/r) dropout(x) A^T B^T,      A [r,in], B [out,r],
 * with r of a few units: A and B are what is trained. Fresh adapters have B = 0 and change nothing.
 * Which matrices have one is rf_adaptation's `targets` (adapt.h).
 */
#ifndef RF_MODEL_LORA_H
#define RF_MODEL_LORA_H

#include "common/model/model.h"

/* Fresh adapters, as PEFT makes them: A uniform in +-1/sqrt(in) (Kaiming with a = sqrt(5)), B 0.
 * Each tensor's stream is keyed by (the adaptation's seed, CRC32 of its name). */
void rf_lora_init(rf_model *model);

/* From now on adapters drop elements of their inputs with the adaptation's rate, as a function of
 * (its seed, step, leaf, layer, matrix, element): the same for any number of ranks, after a resume
 * and in a repeated forward pass. A model begins without. `leaf`: which of the step's leaves, over
 * all ranks (train/math/reduce.h). */
void rf_lora_drop(rf_model *model, uint64_t step, uint64_t leaf);
void rf_lora_stop_dropping(rf_model *model); /* no dropping: validation, decoding */

/* Adds the adapter's share to a product of the block w; nothing where the matrix `role` has none.
 *   y [N,out] activation or residual, adds; x [N,in] reads; N = acts->n */
void rf_lora_forward(rf_model *model, const rf_acts *acts, const rf_block_weights *w, rf_role role,
                     rf_array y, const void *x, int64_t in, int64_t out);
/* The first half of it: x' = dropout(x), which is x itself where nothing is dropped; u = (alpha/r)
 * x' A^T into acts->adapter_u [N,r]. Returns x'. Backward needs both again. */
const void *rf_lora_narrow(rf_model *model, const rf_acts *acts, const rf_block_weights *w,
                           rf_role role, const void *x, int64_t in);
/* dx += dropout'(dx'): the same elements are dropped, the others grow alike.
 *   dx [N,in] activation or residual, adds; dropped [N,in] reads */
void rf_lora_undrop(rf_model *model, const rf_acts *acts, int64_t layer, rf_role role, rf_array dx,
                    const void *dropped, int64_t in);
/* Is anything dropped at present? */
bool rf_lora_drops(const rf_model *model);
/* Widest input of a matrix of a block. */
int64_t rf_lora_widest(const rf_model_config *config);

/* What merging adds to elements [first, first+n) of a matrix [out,in]: (alpha/r) B A, summed over r
 * from 0 on. factor: alpha/r.
 *   w [n] adds; a [r,in], b [out,r] reads; in host memory */
void rf_lora_share(double *w, const double *a, const double *b, double factor, int64_t rank,
                   int64_t in, int64_t first, int64_t n);

#endif
