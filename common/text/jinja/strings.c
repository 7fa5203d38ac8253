/* What templates may do with strings. */
#include "common/text/jinja/builtins.h"

#include <string.h>

static const char *find(text all, text one)
{
    return one.n <= all.n ? memmem(all.at, all.n, one.at, one.n) : NULL;
}

static bool begins(text s, text with)
{
    return s.n >= with.n && memcmp(s.at, with.at, with.n) == 0;
}

static bool ends(text s, text with)
{
    return s.n >= with.n && memcmp(s.at + s.n - with.n, with.at, with.n) == 0;
}

/* Is the character at s one of `set`; a set without characters: white space? */
static bool is_of(text s, size_t n, const text *set)
{
    int32_t c;
    if (set == NULL) {
        return rf_utf8_next(&c, s.at) == n && rf_unicode_is_python_space(c);
    }
    for (text rest = *set; rest.n > 0;) {
        size_t k = rf_jinja_character(rest);
        if (k == n && memcmp(rest.at, s.at, n) == 0) {
            return true;
        }
        rest = (text){rest.at + k, rest.n - k};
    }
    return false;
}

enum { LEFT = 1, RIGHT = 2 };

static value strip_sides(job *j, text s, value characters, int sides)
{
    const text set = rf_jinja_is_given(characters) ? rf_jinja_get_string(j, characters) : TEXT("");
    const text *of = rf_jinja_is_given(characters) ? &set : NULL;
    rf_jinja_step(j, s.n / 64);
    while (sides & LEFT && s.n > 0 && is_of(s, rf_jinja_character(s), of)) {
        size_t n = rf_jinja_character(s);
        s = (text){s.at + n, s.n - n};
    }
    while (sides & RIGHT && s.n > 0) {
        size_t n = 1;
        while (n < s.n && n < 4 && rf_utf8_continues(s.at[s.n - n])) {
            n++;
        }
        if (!is_of((text){s.at + s.n - n, n}, n, of)) {
            break;
        }
        s.n -= n;
    }
    return rf_jinja_string(s);
}

BUILTIN(do_strip, strip_sides(j, self.s, rf_jinja_argument(a, 0, "chars"), LEFT | RIGHT))
BUILTIN(do_lstrip, strip_sides(j, self.s, rf_jinja_argument(a, 0, "chars"), LEFT))
BUILTIN(do_rstrip, strip_sides(j, self.s, rf_jinja_argument(a, 0, "chars"), RIGHT))
BUILTIN(do_trim, do_strip(j, rf_jinja_string(rf_jinja_text(j, self)), a))

/* One string, or any of a tuple of them. */
static value any_of(job *j, text s, value what, bool (*test)(text, text))
{
    if (what.kind != LIST) {
        return rf_jinja_boolean(test(s, rf_jinja_get_string(j, what)));
    }
    for (size_t i = 0; i < what.list->n; i++) {
        if (test(s, rf_jinja_get_string(j, what.list->item[i]))) {
            return rf_jinja_boolean(true);
        }
    }
    return rf_jinja_boolean(false);
}

/* What is looked for in a string, the only argument: where to look is not computed here and must not be
 * passed over. */
static value wanted(job *j, const arguments *a)
{
    if (a->named.n > 0) {
        rf_jinja_fail(j, "the argument \"%.*s\" is not supported here",
                      QUOTE(a->named.pair[0].key.s));
    }
    if (a->n > 1) {
        rf_jinja_fail(j, "%zu arguments where at most 1 are supported", a->n);
    }
    return rf_jinja_argument(a, 0, "");
}

BUILTIN(do_startswith, any_of(j, self.s, wanted(j, a), begins))
BUILTIN(do_endswith, any_of(j, self.s, wanted(j, a), ends))

static value do_removeprefix(job *j, value self, const arguments *a)
{
    const text p = rf_jinja_get_string(j, rf_jinja_argument(a, 0, "prefix"));
    return begins(self.s, p) ? rf_jinja_string((text){self.s.at + p.n, self.s.n - p.n}) : self;
}

static value do_removesuffix(job *j, value self, const arguments *a)
{
    const text p = rf_jinja_get_string(j, rf_jinja_argument(a, 0, "suffix"));
    return ends(self.s, p) ? rf_jinja_string((text){self.s.at, self.s.n - p.n}) : self;
}

static void push_text(job *j, value l, const char *begin, const char *end)
{
    rf_jinja_push(j, l.list, rf_jinja_string((text){begin, (size_t)(end - begin)}));
}

/* Words between white space; behind `most` of them the rest as it is. */
static value split_blanks(job *j, text s, int64_t most)
{
    value l = rf_jinja_new_list(j, 8);
    for (;;) {
        s = strip_sides(j, s, (value){.kind = UNDEFINED}, LEFT).s;
        if (s.n == 0) {
            return l;
        }
        if (most >= 0 && (int64_t)l.list->n == most) {
            rf_jinja_push(j, l.list, rf_jinja_string(s));
            return l;
        }
        text rest = s;
        while (rest.n > 0 && !is_of(rest, rf_jinja_character(rest), NULL)) {
            size_t n = rf_jinja_character(rest);
            rest = (text){rest.at + n, rest.n - n};
        }
        push_text(j, l, s.at, rest.at);
        s = rest;
    }
}

static value do_split(job *j, value self, const arguments *a)
{
    const value separator = rf_jinja_argument(a, 0, "sep");
    const int64_t most = rf_jinja_whole(j, rf_jinja_argument(a, 1, "maxsplit"), -1);
    text s = self.s;
    rf_jinja_step(j, s.n / 64);
    if (!rf_jinja_is_given(separator)) {
        return split_blanks(j, s, most);
    }
    const text by = rf_jinja_get_string(j, separator);
    value l = rf_jinja_new_list(j, 8);
    if (by.n == 0) {
        rf_jinja_fail(j, "a split by nothing");
    }
    for (const char *found; (most < 0 || (int64_t)l.list->n < most) && (found = find(s, by));) {
        push_text(j, l, s.at, found);
        s = (text){found + by.n, s.n - (size_t)(found - s.at) - by.n};
    }
    push_text(j, l, s.at, s.at + s.n);
    return l;
}

static const char *find_last(text all, text one)
{
    for (size_t i = all.n + 1; i-- > one.n;) {
        if (memcmp(all.at + i - one.n, one.at, one.n) == 0) {
            return all.at + i - one.n;
        }
    }
    return NULL;
}

static value do_rsplit(job *j, value self, const arguments *a)
{
    const value separator = rf_jinja_argument(a, 0, "sep");
    const int64_t most = rf_jinja_whole(j, rf_jinja_argument(a, 1, "maxsplit"), -1);
    if (most < 0) {
        return do_split(j, self, a);
    }
    const text by = rf_jinja_get_string(j, separator);
    text s = self.s;
    value l = rf_jinja_new_list(j, 8);
    if (by.n == 0) {
        rf_jinja_fail(j, "a split by nothing");
    }
    for (const char *found; (int64_t)l.list->n < most && (found = find_last(s, by)) != NULL;) {
        rf_jinja_step(j, s.n / 64);
        push_text(j, l, found + by.n, s.at + s.n);
        s.n = (size_t)(found - s.at);
    }
    push_text(j, l, s.at, s.at + s.n);
    for (size_t i = 0; i < l.list->n / 2; i++) {
        value other = l.list->item[i], *last = &l.list->item[l.list->n - 1 - i];
        l.list->item[i] = *last;
        *last = other;
    }
    return l;
}

/* What stands in front of the separator, the separator, what stands behind it; without one all of it is
 * the first, or from the right the last. */
static value partition(job *j, text s, text by, bool from_right)
{
    value l = rf_jinja_new_list(j, 3);
    const char *end = s.at + s.n;
    if (by.n == 0) {
        rf_jinja_fail(j, "a partition by nothing");
    }
    rf_jinja_step(j, s.n / 64);
    const char *found = from_right ? find_last(s, by) : find(s, by);
    const char *at = found != NULL ? found : from_right ? s.at : end;
    const char *behind = found != NULL ? found + by.n : at;
    push_text(j, l, s.at, at);
    push_text(j, l, at, behind);
    push_text(j, l, behind, end);
    l.list->is_tuple = true;
    return l;
}

BUILTIN(do_partition, partition(j, self.s, rf_jinja_get_string(j, wanted(j, a)), false))
BUILTIN(do_rpartition, partition(j, self.s, rf_jinja_get_string(j, wanted(j, a)), true))

static value do_splitlines(job *j, value self, const arguments *a)
{
    const bool keeps = rf_jinja_truth(rf_jinja_argument(a, 0, "keepends"));
    value l = rf_jinja_new_list(j, 8);
    const char *end = self.s.at + self.s.n, *p = self.s.at;
    for (const char *q = p; p < end; p = q) {
        while (q < end && *q != '\n' && *q != '\r') {
            q++;
        }
        const char *stop = q;
        q += q < end ? 1 + (size_t)(*q == '\r' && q + 1 < end && q[1] == '\n') : 0;
        push_text(j, l, p, keeps ? q : stop);
    }
    return l;
}

static value do_replace(job *j, value self, const arguments *a)
{
    text s = rf_jinja_text(j, self);
    const text old = rf_jinja_text(j, rf_jinja_argument(a, 0, "old"));
    const text with = rf_jinja_text(j, rf_jinja_argument(a, 1, "new"));
    int64_t most = rf_jinja_whole(j, rf_jinja_argument(a, 2, "count"), -1);
    buffer b = {0};
    if (old.n == 0) {
        rf_jinja_fail(j, "a replacement of nothing");
    }
    for (const char *found; most != 0 && (found = find(s, old)) != NULL; most--) {
        rf_jinja_step(j, 1);
        rf_jinja_add(j, &b, (text){s.at, (size_t)(found - s.at)});
        rf_jinja_add(j, &b, with);
        s = (text){found + old.n, s.n - (size_t)(found - s.at) - old.n};
    }
    rf_jinja_add(j, &b, s);
    return rf_jinja_string(rf_jinja_made(&b));
}

/* Characters in front of `found`, -1 for none. */
static value position(job *j, text s, const char *found)
{
    return rf_jinja_integer(
        found != NULL ? (int64_t)rf_jinja_length(j, (text){s.at, (size_t)(found - s.at)}) : -1);
}

BUILTIN(do_find, position(j, self.s, find(self.s, rf_jinja_get_string(j, wanted(j, a)))))

static value do_rfind(job *j, value self, const arguments *a)
{
    rf_jinja_step(j, self.s.n / 16);
    return position(j, self.s, find_last(self.s, rf_jinja_get_string(j, wanted(j, a))));
}

/* The two of these that fail where there is nothing to find. */
static value found_by(job *j, value self, const arguments *a, builtin *search)
{
    const value at = search(j, self, a);
    if (at.i < 0) {
        rf_jinja_fail(j, "a text that is not in the string");
    }
    return at;
}

BUILTIN(do_index, found_by(j, self, a, do_find))
BUILTIN(do_rindex, found_by(j, self, a, do_rfind))

static value do_count_in(job *j, value self, const arguments *a)
{
    text s = self.s;
    const text one = rf_jinja_get_string(j, wanted(j, a));
    int64_t n = one.n == 0 ? (int64_t)rf_jinja_length(j, s) + 1 : 0;
    for (const char *found; one.n > 0 && (found = find(s, one)) != NULL; n++) {
        s = (text){found + one.n, s.n - (size_t)(found - s.at) - one.n};
    }
    return rf_jinja_integer(n);
}

BUILTIN(do_join, rf_jinja_join(j, rf_jinja_items(j, rf_jinja_argument(a, 0, "iterable")), self.s,
                               (value){.kind = UNDEFINED}))

static value do_indent(job *j, value self, const arguments *a)
{
    const value width = rf_jinja_argument(a, 0, "width");
    const bool first = rf_jinja_truth(rf_jinja_argument(a, 1, "first"));
    const bool blank = rf_jinja_truth(rf_jinja_argument(a, 2, "blank"));
    const text s = rf_jinja_text(j, self);
    const int64_t n = width.kind == STRING ? 0 : rf_jinja_whole(j, width, 4);
    buffer b = {0}, by = {0};
    rf_jinja_add_blanks(j, &by, n);
    const text blanks = width.kind == STRING ? width.s : rf_jinja_made(&by);
    for (size_t i = 0, line = 0; i <= s.n; i++) {
        if (i < s.n && s.at[i] != '\n') {
            continue;
        }
        if ((line > 0 || first) && (blank || i > line)) {
            rf_jinja_add(j, &b, blanks);
        }
        rf_jinja_add(j, &b, (text){s.at + line, i - line + (i < s.n)});
        line = i + 1;
    }
    return rf_jinja_string(rf_jinja_made(&b));
}

static value do_escape(job *j, value self, const arguments *a)
{
    static const char marks[] = "&<>'\"";
    static const char *const names[] = {"&amp;", "&lt;", "&gt;", "&#39;", "&#34;"};
    const text s = rf_jinja_text(j, self);
    buffer b = {0};
    (void)a;
    for (size_t i = 0; i < s.n; i++) {
        const char *found = s.at[i] != '\0' ? strchr(marks, s.at[i]) : NULL;
        const char *name = found != NULL ? names[found - marks] : NULL;
        rf_jinja_add_for(j, &b, name != NULL ? (text){name, strlen(name)} : (text){s.at + i, 1},
                         s.at + i);
    }
    return rf_jinja_string(rf_jinja_made(&b));
}

BUILTIN(do_string, rf_jinja_string(rf_jinja_text(j, self)))
BUILTIN(do_lower, rf_jinja_recase(j, rf_jinja_text(j, self), LOWER))
BUILTIN(do_upper, rf_jinja_recase(j, rf_jinja_text(j, self), UPPER))
BUILTIN(do_capitalize, rf_jinja_recase(j, rf_jinja_text(j, self), CAPITALIZED))
BUILTIN(do_title, rf_jinja_recase(j, rf_jinja_text(j, self), TITLE_OF_JINJA))
BUILTIN(do_title_method, rf_jinja_recase(j, self.s, TITLE_OF_PYTHON))

/* --- Their names -------------------------------------------------------------------------------- */

const builtin_name rf_jinja_string_filters[] = {
    {"capitalize", do_capitalize}, {"e", do_escape},
    {"escape", do_escape},         {"indent", do_indent},
    {"lower", do_lower},           {"replace", do_replace},
    {"safe", do_string},           {"string", do_string},
    {"title", do_title},           {"trim", do_trim},
    {"upper", do_upper},           {NULL, NULL},
};

const builtin_name rf_jinja_string_methods[] = {
    {"capitalize", do_capitalize},
    {"count", do_count_in},
    {"endswith", do_endswith},
    {"find", do_find},
    {"index", do_index},
    {"join", do_join},
    {"lower", do_lower},
    {"lstrip", do_lstrip},
    {"partition", do_partition},
    {"removeprefix", do_removeprefix},
    {"removesuffix", do_removesuffix},
    {"replace", do_replace},
    {"rfind", do_rfind},
    {"rindex", do_rindex},
    {"rpartition", do_rpartition},
    {"rsplit", do_rsplit},
    {"rstrip", do_rstrip},
    {"split", do_split},
    {"splitlines", do_splitlines},
    {"startswith", do_startswith},
    {"strip", do_strip},
    {"title", do_title_method},
    {"upper", do_upper},
    {NULL, NULL},
};
