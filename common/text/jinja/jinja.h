/* jinja.h: chat templates as Hugging Face writes them, in Jinja.                    all local
 *
 * The part of Jinja that chat templates use, set up as Transformers sets it up (trim_blocks,
 * lstrip_blocks, loop controls, `generation` tags, tojson without escapes of HTML): expressions with
 * filters, tests and the methods of Python's strings, lists and dicts; if, for, set, macro, call,
 * filter, with, raw. Anything else is an error that names it. Templates come from strangers:
 * steps, depth and memory of a rendering are bounded (jinja_private.h), a template reads no file
 * and no clock, and values cannot be changed in place except through namespace().
 *
 * threads: a parsed template is only read; several threads may render it at once.
 */
#ifndef RF_TEXT_JINJA_JINJA_H
#define RF_TEXT_JINJA_JINJA_H

#include "common/base/error.h"
#include "common/text/ids.h"

#include <time.h>

struct json_t;

typedef struct rf_jinja rf_jinja;

/* Parses a template [bytes] of UTF-8, which is not needed afterwards. `origin` for messages:
 * "FILE: chat_template". Caller frees with rf_jinja_free. */
RF_MUST_CHECK int rf_jinja_parse(rf_jinja **out, const char *text, size_t bytes, const char *origin,
                                 rf_error *err);
void rf_jinja_free(rf_jinja *template); /* NULL is fine */

/* Appends to `out` what the template prints for these variables, and to `is_said` for each of its bytes
 * 1 where it is said, else 0. Said is what comes from `variables`, the users', or from `date`, through
 * whatever filter, slice or case; not what comes from the template, from `own`, whose variables go
 * first, and the role of a message. Both are JSON objects, borrowed; own may be NULL. `date`: what
 * strftime_now gives, whatever its format; NULL: `day` in that format, or, where that is NULL too,
 * 26 Jul 2024, so that a rendering does not depend on the day. What the template raises is an error
 * with its words. On error `out` and `is_said` are as before. */
RF_MUST_CHECK int rf_jinja_render(const rf_jinja *template, rf_text *out, rf_text *is_said,
                                  const struct json_t *variables, const struct json_t *own,
                                  const char *date, const struct tm *day, rf_error *err);

#endif
