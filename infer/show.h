/* show.h: paints which slot is filled when.                                    all local */
#ifndef RF_INFER_SHOW_H
#define RF_INFER_SHOW_H

#include "infer/decode/sequence.h"

#include <stdio.h>

/* Observer of a decoding (engine.h). On a terminal the response is one live picture below a legend:
 * masked places are dots, drafts of this round dim and, where they are not taken, struck out, accepted
 * tokens bold, committed ones in the colour of their round; where it is taller than the terminal,
 * the lines that are being decided. Elsewhere each round is a plain line. */
typedef struct rf_show {
    FILE *out;
    const rf_tokenizer *tokenizer;
    bool live;          /* paint in place, with colours */
    int pause_ms;       /* after each picture */
    int columns, lines; /* of the terminal */
    int n_painted;      /* lines of the last picture */
} rf_show;

/* live where `out` is a terminal, which is not dumb, and NO_COLOR is not set. */
void rf_show_init(rf_show *show, FILE *out, const rf_tokenizer *tokenizer, int pause_ms);
/* To be called before each answer. */
void rf_show_begin(rf_show *show);
/* An rf_observer; user is the rf_show. */
void rf_show_observe(void *user, rf_event_kind kind, const rf_sequence *s);

#endif
