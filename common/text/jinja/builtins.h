/* builtins.h: what the files of the builtins share.                                 all local
 *
 * What templates may call: filters, tests, functions, and the methods of Python's values. Each does
 * what its namesake of Jinja or Python does for the values that JSON has.
 */
#ifndef RF_TEXT_JINJA_BUILTINS_H
#define RF_TEXT_JINJA_BUILTINS_H

#include "common/text/jinja/jinja_private.h"

/* A name of a template and what it calls. Tables of them end with a NULL name. */
typedef struct builtin_name {
    const char *name;
    builtin *run;
} builtin_name;

/* A builtin that is one expression of its job j, the value self and the arguments a. */
#define BUILTIN(name, expression)                                                                  \
    static value name(job *j, value self, const arguments *a)                                      \
    {                                                                                              \
        (void)j, (void)self, (void)a;                                                              \
        return expression;                                                                         \
    }

extern const builtin_name rf_jinja_string_filters[], rf_jinja_string_methods[];
extern const builtin_name rf_jinja_character_filters[], rf_jinja_character_methods[];
extern const builtin_name rf_jinja_collection_filters[], rf_jinja_dict_methods[],
    rf_jinja_list_methods[];
value rf_jinja_tojson(job *j, value self, const arguments *a);

/* The attribute that a filter was given: "function.name" is a way of two steps, in which numbers
 * count elements. Each step that leads nowhere gives `otherwise`, where that is given. */
value rf_jinja_attribute_of(job *j, value v, value attribute, value otherwise);
/* Neither undefined nor none. */
bool rf_jinja_is_given(value v);
/* The number, or `otherwise` where v is not given; fails where it is something else. */
int64_t rf_jinja_whole(job *j, value v, int64_t otherwise);
/* The string; fails where v is something else. */
text rf_jinja_get_string(job *j, value v);
/* s with other letters (case.c). Jinja's title changes the first character apart from the rest of the
 * word, and its words begin behind blanks and brackets; Python's begin behind everything that has no
 * case. */
typedef enum letters {
    LOWER,
    UPPER,
    CAPITALIZED,
    TITLE_OF_JINJA,
    TITLE_OF_PYTHON,
    SWAPPED
} letters;
value rf_jinja_recase(job *j, text s, letters to);
/* Has s letters with a case, all of them LOWER or all UPPER? */
bool rf_jinja_is_all(job *j, text s, letters wanted);
/* The printed elements, or their attribute where one is given, with `between` between them. */
value rf_jinja_join(job *j, const list *l, text between, value attribute);

#endif
