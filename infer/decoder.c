#include "infer/decoder.h"

static const rf_decoder *const decoders[] = {[RF_DECODE_AR] = &rf_decoder_ar,
                                             [RF_DECODE_REFUSION] = &rf_decoder_refusion,
                                             [RF_DECODE_LEFT_TO_RIGHT] = &rf_decoder_refusion};

const rf_decoder *rf_decoder_of(rf_decode_kind kind)
{
    return decoders[kind];
}
