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

/* Hears, in every rf_backward_run, when the gradient of a layer is complete: each block from the last
 * to the first, then, as layer L, what lies outside the blocks (a tied embedding gets its last share
 * at the end of the walk). Once for each, with or without something to train. What is given to the
 * model's ctx in or after the call finds the final values; the host finds them after a sync. */
typedef void rf_backward_layer_done(void *user, int64_t layer);
void rf_backward_listen(rf_backward *backward, rf_backward_layer_done *done, void *user);

/* Adds to gradient [table.n_elements] (class master, layout of the trainable space) the gradient of
 *   sum_i weight_i * cross-entropy_i
 * over the batch last given to rf_model_forward (with acts that keep activations, and without a
 * cache: anything else is an error, before anything is added), and leaves the unweighted losses [N],
 * 0 without target, in acts->loss (backend memory), and in host memory where loss is not NULL: then
 * it waits for them, and an asynchronous error comes out here. Reads the activations; with
 * RF_RECOMPUTE_BLOCK each block runs forward again first. Where a block's weights cannot be had
 * (rf_model_acquire) the gradient holds the shares of the layers that were told of, and perhaps of
 * the head: clear it, then the same pass can run again. */
RF_MUST_CHECK int rf_backward_run(rf_backward *backward, rf_model *model, rf_acts *acts,
                                  void *gradient, double *loss, rf_error *err);

#endif
