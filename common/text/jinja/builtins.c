/* What templates may call: filters, tests, functions, and the methods of Python's values. Each does
 * what its namesake of Jinja or Python does for the values that JSON has. */
#include "common/text/jinja/jinja_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <utf8proc.h>

static const value undefined = {.kind = UNDEFINED};

value rf_jinja_argument(const arguments *a, size_t i, const char *name)
{
    if (i < a->n) {
        return a->v[i];
    }
    for (size_t k = 0; k < a->named.n; k++) {
        if (rf_jinja_is(a->named.pair[k].key.s, name)) {
            return a->named.pair[k].value;
        }
    }
    return undefined;
}

static bool is_given(value v)
{
    return v.kind != UNDEFINED && v.kind != NONE;
}

static int64_t whole(job *j, value v, int64_t otherwise)
{
    if (!is_given(v)) {
        return otherwise;
    }
    if (v.kind != INTEGER && v.kind != BOOLEAN) {
        rf_jinja_fail(j, "%s where a whole number should be", rf_jinja_kind_name(v));
    }
    return v.kind == INTEGER ? v.i : v.b;
}

static text string(job *j, value v)
{
    if (v.kind != STRING) {
        rf_jinja_fail(j, "%s where a string should be", rf_jinja_kind_name(v));
    }
    return v.s;
}

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

/* --- Strings ------------------------------------------------------------------------------------ */

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
    const text set = is_given(characters) ? string(j, characters) : TEXT("");
    const text *of = is_given(characters) ? &set : NULL;
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

static value do_strip(job *j, value self, const arguments *a)
{
    return strip_sides(j, self.s, rf_jinja_argument(a, 0, "chars"), LEFT | RIGHT);
}

static value do_lstrip(job *j, value self, const arguments *a)
{
    return strip_sides(j, self.s, rf_jinja_argument(a, 0, "chars"), LEFT);
}

static value do_rstrip(job *j, value self, const arguments *a)
{
    return strip_sides(j, self.s, rf_jinja_argument(a, 0, "chars"), RIGHT);
}

static value do_trim(job *j, value self, const arguments *a)
{
    return do_strip(j, rf_jinja_string(rf_jinja_text(j, self)), a);
}

/* One string, or any of a tuple of them. */
static value any_of(job *j, text s, value what, bool (*test)(text, text))
{
    if (what.kind != LIST) {
        return rf_jinja_boolean(test(s, string(j, what)));
    }
    for (size_t i = 0; i < what.list->n; i++) {
        if (test(s, string(j, what.list->item[i]))) {
            return rf_jinja_boolean(true);
        }
    }
    return rf_jinja_boolean(false);
}

static value do_startswith(job *j, value self, const arguments *a)
{
    return any_of(j, self.s, rf_jinja_argument(a, 0, "prefix"), begins);
}

static value do_endswith(job *j, value self, const arguments *a)
{
    return any_of(j, self.s, rf_jinja_argument(a, 0, "suffix"), ends);
}

static value do_removeprefix(job *j, value self, const arguments *a)
{
    const text p = string(j, rf_jinja_argument(a, 0, "prefix"));
    return begins(self.s, p) ? rf_jinja_string((text){self.s.at + p.n, self.s.n - p.n}) : self;
}

static value do_removesuffix(job *j, value self, const arguments *a)
{
    const text p = string(j, rf_jinja_argument(a, 0, "suffix"));
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
        s = strip_sides(j, s, undefined, LEFT).s;
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
    const int64_t most = whole(j, rf_jinja_argument(a, 1, "maxsplit"), -1);
    text s = self.s;
    rf_jinja_step(j, s.n / 64);
    if (!is_given(separator)) {
        return split_blanks(j, s, most);
    }
    const text by = string(j, separator);
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
    const int64_t most = whole(j, rf_jinja_argument(a, 1, "maxsplit"), -1);
    if (most < 0) {
        return do_split(j, self, a);
    }
    const text by = string(j, separator);
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
    int64_t most = whole(j, rf_jinja_argument(a, 2, "count"), -1);
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

static value do_find(job *j, value self, const arguments *a)
{
    return position(j, self.s, find(self.s, string(j, rf_jinja_argument(a, 0, "sub"))));
}

static value do_rfind(job *j, value self, const arguments *a)
{
    rf_jinja_step(j, self.s.n / 16);
    return position(j, self.s, find_last(self.s, string(j, rf_jinja_argument(a, 0, "sub"))));
}

static value do_count_in(job *j, value self, const arguments *a)
{
    text s = self.s;
    const text one = string(j, rf_jinja_argument(a, 0, "sub"));
    int64_t n = one.n == 0 ? (int64_t)rf_jinja_length(j, s) + 1 : 0;
    for (const char *found; one.n > 0 && (found = find(s, one)) != NULL; n++) {
        s = (text){found + one.n, s.n - (size_t)(found - s.at) - one.n};
    }
    return rf_jinja_integer(n);
}

/* The case of letters: `first` of each word (or of the text alone), `rest` of the others. */
typedef utf8proc_int32_t change_case(utf8proc_int32_t);
static value recase(job *j, value v, change_case *first, change_case *rest, bool each_word)
{
    const text s = rf_jinja_text(j, v);
    buffer b = {0};
    bool begins_word = true;
    rf_jinja_step(j, s.n / 16);
    for (size_t i = 0; i < s.n;) {
        int32_t c;
        char utf8[4];
        i += rf_utf8_next(&c, s.at + i);
        const int32_t changed = (begins_word ? first : rest)(c);
        begins_word = each_word && (rf_unicode_is_space(c) || strchr("-({[<", c < 128 ? c : 'a'));
        rf_jinja_add(j, &b, (text){utf8, rf_utf8_put(utf8, changed)});
    }
    return rf_jinja_string(rf_jinja_made(&b));
}

static value do_upper(job *j, value self, const arguments *a)
{
    (void)a;
    return recase(j, self, utf8proc_toupper, utf8proc_toupper, false);
}

static value do_lower(job *j, value self, const arguments *a)
{
    (void)a;
    return recase(j, self, utf8proc_tolower, utf8proc_tolower, false);
}

static value do_capitalize(job *j, value self, const arguments *a)
{
    (void)a;
    return recase(j, self, utf8proc_toupper, utf8proc_tolower, false);
}

static value do_title(job *j, value self, const arguments *a)
{
    (void)a;
    return recase(j, self, utf8proc_toupper, utf8proc_tolower, true);
}

static value do_isdigit(job *j, value self, const arguments *a)
{
    (void)j, (void)a;
    return rf_jinja_boolean(self.s.n > 0 && strspn(self.s.at, "0123456789") >= self.s.n);
}

static value join(job *j, const list *l, text between, value attribute)
{
    buffer b = {0};
    for (size_t i = 0; i < l->n; i++) {
        const value v =
            is_given(attribute) ? rf_jinja_element(j, l->item[i], attribute) : l->item[i];
        rf_jinja_add(j, &b, i > 0 ? between : TEXT(""));
        rf_jinja_add(j, &b, rf_jinja_text(j, v));
    }
    return rf_jinja_string(rf_jinja_made(&b));
}

static value do_join_method(job *j, value self, const arguments *a)
{
    return join(j, rf_jinja_items(j, rf_jinja_argument(a, 0, "iterable")), self.s, undefined);
}

static value do_join(job *j, value self, const arguments *a)
{
    return join(j, rf_jinja_items(j, self), rf_jinja_text(j, rf_jinja_argument(a, 0, "d")),
                rf_jinja_argument(a, 1, "attribute"));
}

static value do_indent(job *j, value self, const arguments *a)
{
    const value width = rf_jinja_argument(a, 0, "width");
    const bool first = rf_jinja_truth(rf_jinja_argument(a, 1, "first"));
    const bool blank = rf_jinja_truth(rf_jinja_argument(a, 2, "blank"));
    const text s = rf_jinja_text(j, self);
    const int64_t n = width.kind == STRING ? 0 : whole(j, width, 4);
    buffer b = {0}, by = {0};
    for (int64_t i = 0; i < n; i++) {
        rf_jinja_add(j, &by, TEXT(" "));
    }
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
        rf_jinja_add(j, &b, name != NULL ? (text){name, strlen(name)} : (text){s.at + i, 1});
    }
    return rf_jinja_string(rf_jinja_made(&b));
}

static value do_string(job *j, value self, const arguments *a)
{
    (void)a;
    return rf_jinja_string(rf_jinja_text(j, self));
}

/* --- JSON, as json.dumps writes it -------------------------------------------------------------- */

typedef struct style {
    text item, key; /* separators */
    int64_t indent; /* -1: all on one line */
    bool ascii, sorted;
} style;

static void add_json_string(job *j, buffer *b, text s, bool ascii)
{
    static const char plain[] = "\"\\\b\f\n\r\t", escaped[] = "\"\\bfnrt";
    rf_jinja_add(j, b, TEXT("\""));
    for (size_t i = 0; i < s.n;) {
        int32_t c;
        const size_t n = rf_utf8_next(&c, s.at + i);
        const char *found = c > 0 && c < 128 ? strchr(plain, c) : NULL;
        if (found != NULL) {
            rf_jinja_add(j, b, rf_jinja_print(j, "\\%c", escaped[found - plain]));
        } else if (c < 0x20 || (ascii && c > 0x7E && c < 0x10000)) {
            rf_jinja_add(j, b, rf_jinja_print(j, "\\u%04x", (unsigned)c));
        } else if (ascii && c >= 0x10000) {
            rf_jinja_add(j, b,
                         rf_jinja_print(j, "\\u%04x\\u%04x", 0xD7C0 + ((unsigned)c >> 10),
                                        0xDC00 + ((unsigned)c & 0x3FFU)));
        } else {
            rf_jinja_add(j, b, (text){s.at + i, n});
        }
        i += n;
    }
    rf_jinja_add(j, b, TEXT("\""));
}

static void add_break(job *j, buffer *b, const style *s, int64_t level)
{
    if (s->indent >= 0) {
        rf_jinja_add(j, b, TEXT("\n"));
        for (int64_t i = 0; i < s->indent * level; i++) {
            rf_jinja_add(j, b, TEXT(" "));
        }
    }
}

static int by_key(const void *x, const void *y)
{
    const struct pair *a = x, *b = y;
    const text s = a->key.s, t = b->key.s;
    int order = memcmp(s.at, t.at, s.n < t.n ? s.n : t.n);
    return order != 0 ? order : (s.n > t.n) - (s.n < t.n);
}

static void add_json(job *j, buffer *b, value v, const style *s, int64_t level)
{
    rf_jinja_enter(j);
    rf_jinja_step(j, 1);
    if (v.kind == STRING) {
        add_json_string(j, b, v.s, s->ascii);
    } else if (v.kind == NONE || v.kind == BOOLEAN) {
        rf_jinja_add(j, b, v.kind == NONE ? TEXT("null") : v.b ? TEXT("true") : TEXT("false"));
    } else if (v.kind == INTEGER || (v.kind == REAL && isfinite(v.r))) {
        rf_jinja_add(j, b, rf_jinja_text(j, v));
    } else if (v.kind == REAL) {
        rf_jinja_add(j, b,
                     isnan(v.r) ? TEXT("NaN")
                     : v.r > 0  ? TEXT("Infinity")
                                : TEXT("-Infinity"));
    } else if (v.kind == LIST) {
        rf_jinja_add(j, b, TEXT("["));
        for (size_t i = 0; i < v.list->n; i++) {
            rf_jinja_add(j, b, i > 0 ? s->item : TEXT(""));
            add_break(j, b, s, level + 1);
            add_json(j, b, v.list->item[i], s, level + 1);
        }
        if (v.list->n > 0) {
            add_break(j, b, s, level);
        }
        rf_jinja_add(j, b, TEXT("]"));
    } else if (v.kind == DICT) {
        struct pair *pair = v.dict->pair;
        if (s->sorted && v.dict->n > 0) {
            pair =
                memcpy(rf_jinja_take(j, v.dict->n * sizeof *pair), pair, v.dict->n * sizeof *pair);
            qsort(pair, v.dict->n, sizeof *pair, by_key);
        }
        rf_jinja_add(j, b, TEXT("{"));
        for (size_t i = 0; i < v.dict->n; i++) {
            rf_jinja_add(j, b, i > 0 ? s->item : TEXT(""));
            add_break(j, b, s, level + 1);
            add_json_string(j, b, rf_jinja_text(j, pair[i].key), s->ascii);
            rf_jinja_add(j, b, s->key);
            add_json(j, b, pair[i].value, s, level + 1);
        }
        if (v.dict->n > 0) {
            add_break(j, b, s, level);
        }
        rf_jinja_add(j, b, TEXT("}"));
    } else {
        rf_jinja_fail(j, "%s has no JSON form", rf_jinja_kind_name(v));
    }
    j->depth--;
}

static value do_tojson(job *j, value self, const arguments *a)
{
    const value indent = rf_jinja_argument(a, 1, "indent");
    const value separators = rf_jinja_argument(a, 2, "separators");
    style s = {.item = TEXT(", "), .key = TEXT(": "), .indent = whole(j, indent, -1)};
    buffer b = {0};
    s.ascii = rf_jinja_truth(rf_jinja_argument(a, 0, "ensure_ascii"));
    s.sorted = rf_jinja_truth(rf_jinja_argument(a, 3, "sort_keys"));
    if (s.indent >= 0) {
        s.item = TEXT(",");
    }
    if (separators.kind == LIST && separators.list->n == 2) {
        s.item = string(j, separators.list->item[0]);
        s.key = string(j, separators.list->item[1]);
    }
    add_json(j, &b, self, &s, 0);
    return rf_jinja_string(rf_jinja_made(&b));
}

/* --- Lists and dicts ---------------------------------------------------------------------------- */

static value do_length(job *j, value self, const arguments *a)
{
    (void)a;
    if (self.kind == STRING) {
        return rf_jinja_integer((int64_t)rf_jinja_length(j, self.s));
    }
    return rf_jinja_integer((int64_t)rf_jinja_items(j, self)->n);
}

static value do_first(job *j, value self, const arguments *a)
{
    const list *l = rf_jinja_items(j, self);
    (void)a;
    return l->n > 0 ? l->item[0] : undefined;
}

static value do_last(job *j, value self, const arguments *a)
{
    const list *l = rf_jinja_items(j, self);
    (void)a;
    return l->n > 0 ? l->item[l->n - 1] : undefined;
}

static value copy_of(job *j, const list *l)
{
    value copy = rf_jinja_new_list(j, l->n);
    for (size_t i = 0; i < l->n; i++) {
        rf_jinja_push(j, copy.list, l->item[i]);
    }
    return copy;
}

static value do_list(job *j, value self, const arguments *a)
{
    (void)a;
    return copy_of(j, rf_jinja_items(j, self));
}

static value do_reverse(job *j, value self, const arguments *a)
{
    const list *l = rf_jinja_items(j, self);
    value reversed = rf_jinja_new_list(j, l->n);
    (void)a;
    for (size_t i = l->n; i-- > 0;) {
        rf_jinja_push(j, reversed.list, l->item[i]);
    }
    return self.kind == STRING ? join(j, reversed.list, TEXT(""), undefined) : reversed;
}

static value do_unique(job *j, value self, const arguments *a)
{
    const list *l = rf_jinja_items(j, self);
    value different = rf_jinja_new_list(j, 8);
    (void)a;
    for (size_t i = 0; i < l->n; i++) {
        if (!rf_jinja_contains(j, different, l->item[i])) {
            rf_jinja_push(j, different.list, l->item[i]);
        }
    }
    return different;
}

/* Sorted by insertion: stable, and lists of templates are short (each step is counted). Strings are
 * compared without case, as Jinja's sort does. */
static value sorted(job *j, const list *l, value attribute, bool reversed)
{
    const arguments none = {0};
    value all = copy_of(j, l), keys = rf_jinja_new_list(j, l->n);
    for (size_t i = 0; i < l->n; i++) {
        value k = is_given(attribute) ? rf_jinja_element(j, l->item[i], attribute) : l->item[i];
        k = k.kind == STRING ? do_lower(j, k, &none) : k;
        rf_jinja_push(j, keys.list, k);
        size_t at = i;
        for (; at > 0; at--) {
            const int order = rf_jinja_order(j, keys.list->item[at - 1], k);
            if (reversed ? order >= 0 : order <= 0) {
                break;
            }
            rf_jinja_step(j, 1);
            keys.list->item[at] = keys.list->item[at - 1];
            all.list->item[at] = all.list->item[at - 1];
        }
        keys.list->item[at] = k;
        all.list->item[at] = l->item[i];
    }
    return all;
}

static value do_sort(job *j, value self, const arguments *a)
{
    return sorted(j, rf_jinja_items(j, self), rf_jinja_argument(a, 2, "attribute"),
                  rf_jinja_truth(rf_jinja_argument(a, 0, "reverse")));
}

/* The least (sign -1) or greatest of some values. */
static value extreme(job *j, value self, int sign)
{
    const list *l = rf_jinja_items(j, self);
    value best = l->n > 0 ? l->item[0] : undefined;
    for (size_t i = 1; i < l->n; i++) {
        best = rf_jinja_order(j, l->item[i], best) * sign > 0 ? l->item[i] : best;
    }
    return best;
}

static value do_min(job *j, value self, const arguments *a)
{
    (void)a;
    return extreme(j, self, -1);
}

static value do_max(job *j, value self, const arguments *a)
{
    (void)a;
    return extreme(j, self, 1);
}

static value do_sum(job *j, value self, const arguments *a)
{
    const list *l = rf_jinja_items(j, self);
    int64_t total = 0;
    (void)a;
    for (size_t i = 0; i < l->n; i++) {
        if (__builtin_add_overflow(total, whole(j, l->item[i], 0), &total)) {
            rf_jinja_fail(j, "a number that is too large");
        }
    }
    return rf_jinja_integer(total);
}

/* The arguments behind the first `skip`. */
static arguments rest_of(const arguments *a, size_t skip)
{
    return (arguments){.v = a->v + (skip < a->n ? skip : a->n),
                       .n = a->n > skip ? a->n - skip : 0,
                       .named = a->named};
}

static value do_map(job *j, value self, const arguments *a)
{
    const value attribute = rf_jinja_argument(a, SIZE_MAX, "attribute");
    const value otherwise = rf_jinja_argument(a, SIZE_MAX, "default");
    const arguments rest = rest_of(a, 1);
    const list *l = rf_jinja_items(j, self);
    value mapped = rf_jinja_new_list(j, l->n);
    builtin *filter = NULL;
    if (!is_given(attribute) &&
        (filter = rf_jinja_filter(string(j, rf_jinja_argument(a, 0, "filter")))) == NULL) {
        rf_jinja_fail(j, "map: the filter \"%.*s\" is not known", (int)a->v[0].s.n, a->v[0].s.at);
    }
    for (size_t i = 0; i < l->n; i++) {
        value v = filter != NULL ? filter(j, l->item[i], &rest)
                                 : rf_jinja_element(j, l->item[i], attribute);
        rf_jinja_push(j, mapped.list, v.kind == UNDEFINED ? otherwise : v);
    }
    return mapped;
}

/* select, reject, selectattr, rejectattr: (attribute,) test, arguments of the test. */
static value choose(job *j, value self, const arguments *a, bool by_attribute, bool wanted)
{
    const value attribute = by_attribute ? rf_jinja_argument(a, 0, "attribute") : undefined;
    const value name = rf_jinja_argument(a, by_attribute, "test");
    const arguments rest = rest_of(a, 1 + (size_t)by_attribute);
    const list *l = rf_jinja_items(j, self);
    value chosen = rf_jinja_new_list(j, 8);
    builtin *test = is_given(name) ? rf_jinja_test(string(j, name)) : NULL;
    if (is_given(name) && test == NULL) {
        rf_jinja_fail(j, "the test \"%.*s\" is not known", (int)name.s.n, name.s.at);
    }
    for (size_t i = 0; i < l->n; i++) {
        value v = by_attribute ? rf_jinja_element(j, l->item[i], attribute) : l->item[i];
        v = test != NULL ? test(j, v, &rest) : v;
        if (rf_jinja_truth(v) == wanted) {
            rf_jinja_push(j, chosen.list, l->item[i]);
        }
    }
    return chosen;
}

static value do_select(job *j, value self, const arguments *a)
{
    return choose(j, self, a, false, true);
}

static value do_reject(job *j, value self, const arguments *a)
{
    return choose(j, self, a, false, false);
}

static value do_selectattr(job *j, value self, const arguments *a)
{
    return choose(j, self, a, true, true);
}

static value do_rejectattr(job *j, value self, const arguments *a)
{
    return choose(j, self, a, true, false);
}

static value pair_of(job *j, value key, value v)
{
    value pair = rf_jinja_new_list(j, 2);
    rf_jinja_push(j, pair.list, key);
    rf_jinja_push(j, pair.list, v);
    pair.list->is_tuple = true;
    return pair;
}

static value do_items(job *j, value self, const arguments *a)
{
    value l = rf_jinja_new_list(j, 8);
    (void)a;
    if (self.kind != DICT && self.kind != UNDEFINED) {
        rf_jinja_fail(j, "%s has no items", rf_jinja_kind_name(self));
    }
    for (size_t i = 0; self.kind == DICT && i < self.dict->n; i++) {
        rf_jinja_push(j, l.list, pair_of(j, self.dict->pair[i].key, self.dict->pair[i].value));
    }
    return l;
}

static value do_values(job *j, value self, const arguments *a)
{
    value l = rf_jinja_new_list(j, 8);
    (void)a;
    for (size_t i = 0; i < self.dict->n; i++) {
        rf_jinja_push(j, l.list, self.dict->pair[i].value);
    }
    return l;
}

static value do_get(job *j, value self, const arguments *a)
{
    const value *found = rf_jinja_find(j, self.dict, rf_jinja_argument(a, 0, "key"));
    const value otherwise = rf_jinja_argument(a, 1, "default");
    return found != NULL ? *found : otherwise.kind == UNDEFINED ? (value){.kind = NONE} : otherwise;
}

static value do_dictsort(job *j, value self, const arguments *a)
{
    const bool by_value = rf_jinja_is(rf_jinja_text(j, rf_jinja_argument(a, 1, "by")), "value");
    return sorted(j, do_items(j, self, a).list, rf_jinja_integer(by_value),
                  rf_jinja_truth(rf_jinja_argument(a, 2, "reverse")));
}

static value do_index(job *j, value self, const arguments *a)
{
    const value wanted = rf_jinja_argument(a, 0, "value");
    for (size_t i = 0; i < self.list->n; i++) {
        if (rf_jinja_equal(j, self.list->item[i], wanted)) {
            return rf_jinja_integer((int64_t)i);
        }
    }
    rf_jinja_fail(j, "a value that is not in the list");
}

static value do_default(job *j, value self, const arguments *a)
{
    const value otherwise = rf_jinja_argument(a, 0, "default_value");
    const bool also_false = rf_jinja_truth(rf_jinja_argument(a, 1, "boolean"));
    (void)j;
    if (self.kind == UNDEFINED || (also_false && !rf_jinja_truth(self))) {
        return otherwise.kind == UNDEFINED ? rf_jinja_string(TEXT("")) : otherwise;
    }
    return self;
}

/* --- Numbers ------------------------------------------------------------------------------------ */

static value do_int(job *j, value self, const arguments *a)
{
    double x;
    const value otherwise = rf_jinja_argument(a, 0, "default");
    if (self.kind == STRING) {
        char *digits = memcpy(rf_jinja_take(j, self.s.n + 1), self.s.at, self.s.n), *end;
        const double parsed = strtod(digits, &end);
        self = *digits != '\0' && *end == '\0' ? (value){.kind = REAL, .r = parsed} : undefined;
    }
    if (self.kind == INTEGER) {
        return self;
    }
    if (rf_jinja_real(&x, self) && fabs(x) < 9e18) {
        return rf_jinja_integer((int64_t)x);
    }
    return is_given(otherwise) ? otherwise : rf_jinja_integer(0);
}

static value do_float(job *j, value self, const arguments *a)
{
    double x;
    (void)a;
    if (self.kind == STRING) {
        x = strtod(memcpy(rf_jinja_take(j, self.s.n + 1), self.s.at, self.s.n), NULL);
    } else {
        (void)rf_jinja_real(&x, self);
    }
    return (value){.kind = REAL, .r = x};
}

static value do_round(job *j, value self, const arguments *a)
{
    double x;
    const double scale = pow(10, (double)whole(j, rf_jinja_argument(a, 0, "precision"), 0));
    if (!rf_jinja_real(&x, self)) {
        rf_jinja_fail(j, "%s cannot be rounded", rf_jinja_kind_name(self));
    }
    return (value){.kind = REAL, .r = rint(x * scale) / scale};
}

static value do_abs(job *j, value self, const arguments *a)
{
    (void)a;
    if (self.kind == REAL) {
        return (value){.kind = REAL, .r = fabs(self.r)};
    }
    const int64_t i = whole(j, self, 0);
    return rf_jinja_integer(i < 0 && i != INT64_MIN ? -i : i);
}

/* --- Functions ---------------------------------------------------------------------------------- */

static value do_range(job *j, value self, const arguments *a)
{
    const int64_t first = whole(j, rf_jinja_argument(a, 0, "start"), 0);
    const int64_t begin = a->n > 1 ? first : 0, end = a->n > 1 ? whole(j, a->v[1], 0) : first;
    const int64_t by = whole(j, rf_jinja_argument(a, 2, "step"), 1);
    value l = rf_jinja_new_list(j, 8);
    (void)self;
    if (by == 0) {
        rf_jinja_fail(j, "range with a step of 0");
    }
    for (int64_t i = begin; by > 0 ? i < end : i > end;) {
        rf_jinja_push(j, l.list, rf_jinja_integer(i));
        if (__builtin_add_overflow(i, by, &i)) {
            break;
        }
    }
    return l;
}

static value fill(job *j, const arguments *a, value_kind kind)
{
    value d = rf_jinja_new_dict(j, kind);
    if (a->n > 0 && a->v[0].kind == DICT) {
        for (size_t i = 0; i < a->v[0].dict->n; i++) {
            rf_jinja_put(j, d.dict, a->v[0].dict->pair[i].key, a->v[0].dict->pair[i].value);
        }
    }
    for (size_t i = 0; i < a->named.n; i++) {
        rf_jinja_put(j, d.dict, a->named.pair[i].key, a->named.pair[i].value);
    }
    return d;
}

static value do_dict(job *j, value self, const arguments *a)
{
    (void)self;
    return fill(j, a, DICT);
}

static value do_namespace(job *j, value self, const arguments *a)
{
    (void)self;
    return fill(j, a, NAMESPACE);
}

static value do_raise(job *j, value self, const arguments *a)
{
    const text s = rf_jinja_text(j, rf_jinja_argument(a, 0, "message"));
    (void)self;
    rf_jinja_fail(j, "the template refuses this conversation: %.*s", (int)(s.n < 800 ? s.n : 800),
                  s.at);
}

static value do_strftime_now(job *j, value self, const arguments *a)
{
    const struct tm day = {
        .tm_mday = 26, .tm_mon = 6, .tm_year = 124, .tm_wday = 5, .tm_yday = 207};
    const text f = string(j, rf_jinja_argument(a, 0, "format"));
    const char *date = rf_jinja_date(j);
    char format[128] = "", printed[256];
    (void)self;
    if (date != NULL) {
        return rf_jinja_string((text){date, strlen(date)});
    }
    if (f.n >= sizeof format) {
        rf_jinja_fail(j, "strftime_now with a format of %zu bytes", f.n);
    }
    memcpy(format, f.at, f.n);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    const size_t n = strftime(printed, sizeof printed, format, &day);
#pragma GCC diagnostic pop
    return rf_jinja_string(rf_jinja_print(j, "%.*s", (int)n, printed));
}

/* --- Tests -------------------------------------------------------------------------------------- */

#define TEST(name, condition)                                                                      \
    static value is_##name(job *j, value self, const arguments *a)                                 \
    {                                                                                              \
        const value other = rf_jinja_argument(a, 0, "other");                                      \
        (void)j, (void)other;                                                                      \
        return rf_jinja_boolean(condition);                                                        \
    }
TEST(defined, self.kind != UNDEFINED)
TEST(undefined, self.kind == UNDEFINED)
TEST(none, self.kind == NONE)
TEST(boolean, self.kind == BOOLEAN)
TEST(true, self.kind == BOOLEAN && self.b)
TEST(false, self.kind == BOOLEAN && !self.b)
TEST(integer, self.kind == INTEGER)
TEST(float, self.kind == REAL)
TEST(number, self.kind == INTEGER || self.kind == REAL || self.kind == BOOLEAN)
TEST(string, self.kind == STRING)
TEST(mapping, self.kind == DICT)
TEST(sequence,
     self.kind == STRING || self.kind == LIST || self.kind == DICT || self.kind == UNDEFINED)
TEST(callable, self.kind == CALLABLE)
TEST(equal, rf_jinja_equal(j, self, other))
TEST(unequal, !rf_jinja_equal(j, self, other))
TEST(less, rf_jinja_order(j, self, other) < 0)
TEST(greater, rf_jinja_order(j, self, other) > 0)
TEST(at_most, rf_jinja_order(j, self, other) <= 0)
TEST(at_least, rf_jinja_order(j, self, other) >= 0)
TEST(in, rf_jinja_contains(j, other, self))
TEST(odd, whole(j, self, 0) % 2 != 0)
TEST(even, whole(j, self, 0) % 2 == 0)
TEST(divisible, whole(j, other, 0) != 0 && whole(j, self, 0) % whole(j, other, 1) == 0)
TEST(same, self.kind == other.kind && rf_jinja_equal(j, self, other))
TEST(lower, rf_jinja_equal(j, do_lower(j, self, a), self))
TEST(upper, rf_jinja_equal(j, do_upper(j, self, a), self))
#undef TEST

/* --- Tables ------------------------------------------------------------------------------------- */

typedef struct entry {
    const char *name;
    builtin *run;
} entry;

static builtin *look_up(const entry *table, text name)
{
    for (; table->name != NULL; table++) {
        if (rf_jinja_is(name, table->name)) {
            return table->run;
        }
    }
    return NULL;
}

builtin *rf_jinja_filter(text name)
{
    static const entry filters[] = {{"abs", do_abs},
                                    {"capitalize", do_capitalize},
                                    {"count", do_length},
                                    {"d", do_default},
                                    {"default", do_default},
                                    {"dictsort", do_dictsort},
                                    {"e", do_escape},
                                    {"escape", do_escape},
                                    {"first", do_first},
                                    {"float", do_float},
                                    {"indent", do_indent},
                                    {"int", do_int},
                                    {"items", do_items},
                                    {"join", do_join},
                                    {"last", do_last},
                                    {"length", do_length},
                                    {"list", do_list},
                                    {"lower", do_lower},
                                    {"map", do_map},
                                    {"max", do_max},
                                    {"min", do_min},
                                    {"reject", do_reject},
                                    {"rejectattr", do_rejectattr},
                                    {"replace", do_replace},
                                    {"reverse", do_reverse},
                                    {"round", do_round},
                                    {"safe", do_string},
                                    {"select", do_select},
                                    {"selectattr", do_selectattr},
                                    {"sort", do_sort},
                                    {"string", do_string},
                                    {"sum", do_sum},
                                    {"title", do_title},
                                    {"tojson", do_tojson},
                                    {"trim", do_trim},
                                    {"unique", do_unique},
                                    {"upper", do_upper},
                                    {NULL, NULL}};
    return look_up(filters, name);
}

builtin *rf_jinja_test(text name)
{
    static const entry tests[] = {{"boolean", is_boolean},
                                  {"callable", is_callable},
                                  {"defined", is_defined},
                                  {"divisibleby", is_divisible},
                                  {"eq", is_equal},
                                  {"equalto", is_equal},
                                  {"even", is_even},
                                  {"false", is_false},
                                  {"float", is_float},
                                  {"ge", is_at_least},
                                  {"greaterthan", is_greater},
                                  {"gt", is_greater},
                                  {"in", is_in},
                                  {"integer", is_integer},
                                  {"iterable", is_sequence},
                                  {"le", is_at_most},
                                  {"lessthan", is_less},
                                  {"lower", is_lower},
                                  {"lt", is_less},
                                  {"mapping", is_mapping},
                                  {"ne", is_unequal},
                                  {"none", is_none},
                                  {"number", is_number},
                                  {"odd", is_odd},
                                  {"sameas", is_same},
                                  {"sequence", is_sequence},
                                  {"string", is_string},
                                  {"true", is_true},
                                  {"undefined", is_undefined},
                                  {"upper", is_upper},
                                  {NULL, NULL}};
    return look_up(tests, name);
}

builtin *rf_jinja_function(text name)
{
    static const entry functions[] = {
        {"dict", do_dict},   {"namespace", do_namespace},       {"raise_exception", do_raise},
        {"range", do_range}, {"strftime_now", do_strftime_now}, {NULL, NULL}};
    return look_up(functions, name);
}

builtin *rf_jinja_method(value_kind kind, text name)
{
    static const entry strings[] = {{"capitalize", do_capitalize},
                                    {"count", do_count_in},
                                    {"endswith", do_endswith},
                                    {"find", do_find},
                                    {"isdigit", do_isdigit},
                                    {"join", do_join_method},
                                    {"lower", do_lower},
                                    {"lstrip", do_lstrip},
                                    {"removeprefix", do_removeprefix},
                                    {"removesuffix", do_removesuffix},
                                    {"replace", do_replace},
                                    {"rfind", do_rfind},
                                    {"rsplit", do_rsplit},
                                    {"rstrip", do_rstrip},
                                    {"split", do_split},
                                    {"splitlines", do_splitlines},
                                    {"startswith", do_startswith},
                                    {"strip", do_strip},
                                    {"title", do_title},
                                    {"upper", do_upper},
                                    {NULL, NULL}};
    static const entry dicts[] = {{"get", do_get},
                                  {"items", do_items},
                                  {"keys", do_list},
                                  {"values", do_values},
                                  {NULL, NULL}};
    static const entry lists[] = {{"index", do_index}, {NULL, NULL}};
    return kind == STRING ? look_up(strings, name)
           : kind == DICT ? look_up(dicts, name)
           : kind == LIST ? look_up(lists, name)
                          : NULL;
}

/* --- Attributes and elements -------------------------------------------------------------------- */

static value missing(job *j, value v, text name)
{
    if (v.kind == UNDEFINED) {
        rf_jinja_fail(j, "\"%.*s\" of a value that is not defined (\"%.*s\")",
                      (int)(name.n < 60 ? name.n : 60), name.at, (int)(v.s.n < 60 ? v.s.n : 60),
                      v.s.n > 0 ? v.s.at : "");
    }
    return (value){.kind = UNDEFINED, .s = name};
}

value rf_jinja_attribute(job *j, value v, text name)
{
    builtin *method = rf_jinja_method(v.kind, name);
    if (method != NULL) {
        return rf_jinja_callable(j, method, v);
    }
    const value *found = v.kind == DICT || v.kind == NAMESPACE
                             ? rf_jinja_find(j, v.dict, rf_jinja_string(name))
                             : NULL;
    return found != NULL ? *found : missing(j, v, name);
}

value rf_jinja_element(job *j, value v, value key)
{
    if ((v.kind == LIST || v.kind == STRING) && key.kind == INTEGER) {
        const int64_t n = v.kind == LIST ? (int64_t)v.list->n : (int64_t)rf_jinja_length(j, v.s);
        const int64_t i = key.i < 0 ? key.i + n : key.i;
        if (key.i < -n || i >= n) {
            return undefined;
        }
        return v.kind == LIST ? v.list->item[i]
                              : rf_jinja_string(rf_jinja_slice(v.s, (size_t)i, 1));
    }
    const value *found =
        v.kind == DICT || v.kind == NAMESPACE ? rf_jinja_find(j, v.dict, key) : NULL;
    if (found != NULL) {
        return *found;
    }
    return key.kind == STRING ? rf_jinja_attribute(j, v, key.s) : missing(j, v, TEXT("an element"));
}
