#include "serve/problem.h"

#include "common/base/utf8.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What clients sent is quoted: it may hold anything, and may be cut inside a character. */
static void copy_clean(char *out, size_t room, const char *text)
{
    size_t bytes;
    char *clean = rf_utf8_repair(text, strlen(text), &bytes);
    for (char *c = clean; *c != '\0'; c++) {
        *c = (unsigned char)*c < 32 || *c == 127 ? ' ' : *c;
    }
    if (bytes >= room) { /* no half character at the end */
        bytes = room - 1;
        while (bytes > 0 && rf_utf8_continues(clean[bytes])) {
            bytes--;
        }
    }
    memcpy(out, clean, bytes);
    out[bytes] = '\0';
    free(clean);
}

int rf_problem_set(rf_problem *problem, int status, const char *code, const char *param,
                   const char *format, ...)
{
    char message[sizeof problem->message];
    va_list list;
    va_start(list, format);
    (void)vsnprintf(message, sizeof message, format, list);
    va_end(list);
    *problem = (rf_problem){.status = status, .code = code};
    copy_clean(problem->message, sizeof problem->message, message);
    copy_clean(problem->param, sizeof problem->param, param != NULL ? param : "");
    return RF_ERR;
}

static const char *type_of(int status)
{
    switch (status) {
    case 401:
        return "authentication_error";
    case 403:
        return "permission_error";
    case 404:
        return "not_found_error";
    case 429:
        return "rate_limit_error";
    default:
        return status >= 500 ? "server_error" : "invalid_request_error";
    }
}

json_t *rf_problem_json(const rf_problem *problem)
{
    const char *param = problem->param[0] != '\0' ? problem->param : NULL;
    return json_pack("{s:{s:s, s:s, s:s?, s:s?}}", "error", "message", problem->message, "type",
                     type_of(problem->status), "param", param, "code", problem->code);
}
