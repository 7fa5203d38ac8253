/* ref.h: the functions behind the reference tables.                            all local
 *
 * Their contract is kernels.h; here are only the names, which differ by precision (real.h).
 */
#ifndef RF_KERNELS_REF_REF_H
#define RF_KERNELS_REF_REF_H

#include "common/kernels/kernels.h"
#include "common/kernels/quantize.h"
#include "common/kernels/ref/real.h"

#include <string.h>

/* An operand of a matrix product: as it is, or rounded to bf16 (backend.h). */
static inline real ref_operand(const rf_ctx *ctx, real x)
{
    const bool rounds = ctx->limits.compute == RF_COMPUTE_BF16;
    return rounds ? (real)rf_quantize_from_bf16(rf_quantize_bf16((float)x)) : x;
}

/* rf_linear_forward_fn rf_ref32_linear_forward; and so on, one for each kernel. */
#define REF_DECLARE(name) rf_##name##_fn RF_REF(name);
RF_KERNELS(REF_DECLARE)
#undef REF_DECLARE

bool RF_REF(is_banned)(const rf_head_query *query, int64_t id);
/* The token of query number i, of which these are the logits [V]. z [V] and id [V] are scratch. */
int32_t RF_REF(draw)(real *z, int32_t *id, const real *logits, const rf_head_query *query,
                     int64_t i);

#endif
