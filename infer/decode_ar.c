#include "infer/decode_private.h"

/* One token a forward pass; each token is a slot of its own. */
int rf_decode_ar(rf_decoder *d, rf_error *err)
{
    int code = RF_OK;
    for (int64_t i = 0; i < d->options.gen_length; i++) {
        rf_batch_clear(&d->batch);
        rf_decoder_add_prompt(d);
        if (i > 0) {
            rf_decoder_add(d, d->token[i - 1], i - 1, d->committed, d->committed);
            d->committed++;
        }
        d->rounds++;
        if ((code = rf_decoder_forward(d, err)) != RF_OK) {
            break;
        }
        d->place[0] = (int32_t)(d->batch.n - 1);
        d->target[0] = (int32_t)i;
        if ((code = rf_decoder_sample(d, 1, true, err)) != RF_OK) {
            break;
        }
        d->token[i] = d->sampled[0];
        d->slot[i] = RF_SLOT_COMMITTED;
        d->round[i] = d->rounds;
        rf_decoder_notify(d, RF_EVENT_COMMIT);
        if (rf_tokenizer_is_eos(d->tokenizer, d->token[i])) {
            break;
        }
    }
    return code;
}
