/* unit.h: what tokens look like in a picture of a decoding.                    all local */
#ifndef RF_INFER_UNIT_H
#define RF_INFER_UNIT_H

#include "infer/decode/sequence.h"

/* A few tokens that are whole characters together, as one line shows them. */
typedef struct rf_unit {
    char text[256];
    int64_t n_tokens;
    int columns;
    bool breaks; /* ends with a line break */
} rf_unit;

/* What the first tokens of token[0..n) show, n >= 1: one token, or as many as make whole
 * characters where a token is a part of one. Line breaks are "↵", the end of text "■", other
 * control characters "?". Tokens behind the first may be -1: unknown. */
void rf_unit_next(rf_unit *u, const rf_tokenizer *tokenizer, const int32_t *token, int64_t n);
/* Could a terminal take this character for a command, or write what follows the other way round? */
bool rf_unit_hides(int32_t character);
/* Text of a model, to stdout; where that is a terminal, each such character but line breaks and tabs is
 * "?". */
void rf_unit_print(const char *text, size_t bytes);
/* What stands at response place i now: decided, a draft of a selected slot, or -1. */
int32_t rf_unit_token(const rf_sequence *s, int64_t i);

#endif
