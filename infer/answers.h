/* answers.h: from prompts to printed answers: what refusion-infer does.        all local
 *
 * Unlike the rest of the library these functions print: answers to stdout or to a file, what a
 * person wants to know beside them to stderr.
 */
#ifndef RF_INFER_ANSWERS_H
#define RF_INFER_ANSWERS_H

#include "infer/engine.h"
#include "infer/loaded.h"

typedef struct rf_answers_options {
    const char *prompt;  /* one prompt; or */
    const char *prompts; /* a file of them; both NULL: the lines of standard input */
    const char *out;     /* for the answers of a file; NULL: stdout */
    int64_t limit;       /* of the file's prompts; 0: all */
    int64_t max_prompt;  /* tokens of a line of standard input, or of a conversation; 0: as many as
                            fit, at most 1024, or 4096 */
    int64_t batch;       /* prompts of a file that are answered at once; 1 or more */
    int64_t n_threads;   /* 0: the cores that this process may use */
    int64_t pause_ms;    /* after each picture of --show on a terminal */
    bool raw;            /* prompts are beginnings of plain texts */
    bool show;           /* show.h */
    const char *trace;   /* file for the record of the one prompt (trace.h); NULL: none */
    const char *const *stops; /* strings that end an answer (stop.h) */
    rf_decode_options decode;
    const char *settings; /* all of them, as rf_config_text has them */
    char *const
        *assignment; /* [n_assignments] settings of the command line, which are in `decode` */
    int n_assignments;
} rf_answers_options;

/* Answers all prompts: `prompts`, else `prompt`, else the lines of stdin, each by a line. RF_ERR where a
 * line, or all prompts of a file, could not be answered, when all else is done. `loaded` has its header
 * read; the model is made here. */
RF_MUST_CHECK int rf_answers_run(rf_loaded *loaded, const rf_answers_options *options,
                                 rf_error *err);
/* Tells a person on stderr how an answer came about. */
void rf_answers_log(const rf_answer *answer);

#endif
