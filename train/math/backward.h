/* backward.h: the gradient of the whole model, by hand.                        all local */
#ifndef RF_TRAIN_MATH_BACKWARD_H
#define RF_TRAIN_MATH_BACKWARD_H

#include "common/model/model.h"

/* Space for the gradients of activations; made once. */
typedef struct rf_backward rf_backward;

/* Bytes of backend memory that rf_backward_new takes for batches up to `places`; 0 where places is
 * out of range. */
size_t rf_backward_bytes(const rf_model_shape *shape, int64_t places);
/* Caller frees. More places than the model was made for, or a model made without backward pass, are
 * errors. */
RF_MUST_CHECK int rf_backward_new(rf_backward **out, rf_model *model, int64_t places,
                                  rf_error *err);
void rf_backward_free(rf_backward *backward); /* NULL is fine; before its model */

/* Where a pass puts its gradient, of class master. Layers are those of rf_table_range. */
typedef struct rf_gradient {
    void *whole; /* [table.n_elements] in the layout of the trainable space; or NULL, and */
    /* where the range of a layer begins: asked for before each use, from layer L+1 down to 0; a tied
     * embedding is used by the head first, and again at the end */
    void *(*find)(void *user, int64_t layer);
    /* Hears that the gradient of a layer is complete: once for each, from L+1 down to 0, with or
     * without something to train. What is given to the model's ctx in or after the call finds the
     * final values; the host finds them after a sync. NULL: nobody does */
    void (*done)(void *user, int64_t layer);
    void *user;
} rf_gradient;
static inline rf_gradient rf_gradient_whole(void *gradient)
{
    return (rf_gradient){.whole = gradient};
}

/* Adds the gradient of
 *   sum_i weight_i * cross-entropy_i
 * over the batch last given to rf_model_forward (with acts that keep activations, and without a
 * cache: anything else is an error, before anything is added), and leaves the unweighted losses [N],
 * 0 without target, in acts->loss (backend memory), and in host memory where loss is not NULL: then
 * it waits for them, and an asynchronous error comes out here. Reads the activations; with
 * RF_RECOMPUTE_BLOCK each block runs forward again first. Where a block's weights cannot be had
 * (rf_model_acquire) the gradient holds the shares of the layers that were told of, and perhaps of
 * the head: clear it, then the same pass can run again. */
RF_MUST_CHECK int rf_backward_run(rf_backward *backward, rf_model *model, rf_acts *acts,
                                  const rf_gradient *gradient, double *loss, rf_error *err);

#endif
