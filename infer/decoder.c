#include "infer/decoder.h"

#include <string.h>

#define COMMA ,
#define ENTRY(id, name)                                                                            \
    {                                                                                              \
        &rf_decoder_##id, name                                                                     \
    }
static const struct {
    const rf_decoder *decoder;
    const char *name;
} decoders[] = {RF_DECODERS(ENTRY, COMMA)};
enum { N_DECODERS = sizeof decoders / sizeof *decoders };

const char *rf_decoder_name(const rf_decoder *decoder)
{
    int i = 0;
    while (decoders[i].decoder != decoder) {
        i++;
        RF_ASSERT(i < N_DECODERS);
    }
    return decoders[i].name;
}

const rf_decoder *rf_decoder_find(const char *name)
{
    for (int i = 0; i < N_DECODERS; i++) {
        if (strcmp(decoders[i].name, name) == 0) {
            return decoders[i].decoder;
        }
    }
    return NULL;
}
