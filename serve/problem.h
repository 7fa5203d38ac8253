/* problem.h: what a client is told when its request is refused, in OpenAI's form.  all local */
#ifndef RF_SERVE_PROBLEM_H
#define RF_SERVE_PROBLEM_H

#include "common/base/error.h"

struct json_t;

typedef struct rf_problem {
    int status;       /* of HTTP; 0: there is none */
    const char *code; /* a word for programs; NULL: none. Not owned */
    char param[128];  /* the field of the request that is wrong; "": none */
    char message[2048];
} rf_problem;

/* Sets a problem (printf style; param NULL: none) and returns RF_ERR. Bytes that are not UTF-8 become
 * U+FFFD, control characters blanks. */
int rf_problem_set(rf_problem *problem, int status, const char *code, const char *param,
                   const char *format, ...) RF_PRINTF(5, 6);

/* {"error": {"message", "type", "param", "code"}}; the caller releases it. */
struct json_t *rf_problem_json(const rf_problem *problem);

#endif
