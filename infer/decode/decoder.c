#include "infer/decode/decoder.h"

#include "infer/decode/options.h"

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

int64_t rf_decoder_slot_size(const rf_decode_options *o)
{
    return o->kind->in_slots ? o->slot_size : 1;
}

bool rf_decoder_reads(const rf_decoder *decoder, const char *name)
{
    size_t n = strlen(name);
    for (const char *at = decoder->ignores; at != NULL && *at != '\0';) {
        size_t bytes = strcspn(at, " ");
        if (bytes == n && strncmp(at, name, n) == 0) {
            return false;
        }
        at += bytes + strspn(at + bytes, " ");
    }
    return true;
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
