#include "data/corpus/portion.h"

#include "common/base/alloc.h"
#include "data/corpus/foreign.h"
#include "data/corpus/records.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum {
    PORTION_BYTES = 1 << 18,   /* a portion is closed when it holds so many, */
    PORTION_ENTRIES = 1 << 12, /* or so many entries; */
    PIECE_MAX_BYTES = 1 << 20  /* text without a place to cut is cut at a line end here */
};

struct rf_portion_reader {
    const rf_build_settings *settings;
    int64_t source; /* the one being read */
    rf_lines *lines;
    rf_format format;     /* RF_FORMAT_AUTO: not known yet */
    int64_t bytes_before; /* of the sources read already */
    int64_t n_records;    /* of this source, begun */
    bool in_text;         /* a text has begun and not ended */
    rf_record_array array;
    rf_foreign_guess guess; /* of what is taken for text */
    /* A line that was read but belongs to the next portion. */
    bool is_pending;
    char *pending;
    size_t pending_bytes;
};

void rf_portion_free(rf_portion *p)
{
    rf_text_free(&p->text);
    free(p->entry);
    rf_imported_free(&p->samples);
    for (int64_t i = 0; i < p->n_warnings; i++) {
        free(p->warning[i]);
    }
    *p = (rf_portion){0};
}

rf_portion_reader *rf_portion_reader_new(const rf_build_settings *settings)
{
    rf_portion_reader *reader = rf_alloc(1, sizeof *reader);
    reader->settings = settings;
    return reader;
}

void rf_portion_reader_free(rf_portion_reader *r)
{
    if (r != NULL) {
        rf_lines_close(r->lines);
        free(r);
    }
}

/* --- Formats ---------------------------------------------------------------------------------- */

static bool has_suffix(const char *name, size_t bytes, const char *suffix)
{
    size_t n = strlen(suffix);
    return bytes >= n && strncasecmp(name + bytes - n, suffix, n) == 0;
}

/* line: the first that is not blank. */
static rf_format recognise(const char *path, const char *line)
{
    size_t n = strlen(path);
    if (has_suffix(path, n, ".gz")) {
        n -= 3;
    }
    static const char blanks[] = " \t\r\v\f";
    const char *first = line + strspn(line, blanks);
    const char *second = first + (*first == '[') + strspn(first + (*first == '['), blanks);
    if (has_suffix(path, n, ".jsonl") || has_suffix(path, n, ".ndjson") ||
        has_suffix(path, n, ".json")) {
        return *first == '[' ? RF_FORMAT_ARRAY : RF_FORMAT_JSONL;
    }
    if (has_suffix(path, n, ".txt")) {
        return RF_FORMAT_TEXT;
    }
    return *first == '{'                     ? RF_FORMAT_JSONL
           : *first == '[' && *second == '{' ? RF_FORMAT_ARRAY
                                             : RF_FORMAT_TEXT;
}

/* --- Entries ---------------------------------------------------------------------------------- */

/* A new entry that begins with `line`. The text of a portion is bounded by the longest line. */
static void add_entry(rf_portion *p, rf_entry entry, const char *line, size_t bytes)
{
    size_t n = (size_t)p->n_entries;
    entry.begin = p->text.bytes;
    entry.bytes = bytes;
    p->entry = rf_alloc_grow(p->entry, &p->entry_capacity, n + 1, sizeof *p->entry);
    p->entry[p->n_entries++] = entry;
    rf_text_add(&p->text, line, bytes);
}

/* Appends a line to the text entry that is being filled. */
static void extend_entry(rf_portion *p, const char *line, size_t bytes)
{
    rf_entry *last = &p->entry[p->n_entries - 1];
    rf_text_add(&p->text, line, bytes);
    last->bytes = p->text.bytes - last->begin;
}

static bool is_full(const rf_portion *p)
{
    return p->text.bytes >= PORTION_BYTES || p->n_entries >= PORTION_ENTRIES;
}

/* May the text be cut in front of this line? Where the line end stands alone between characters
 * that are no blanks, no tokenizer has a word that holds it and what follows. */
static bool may_cut(const rf_portion *p, const char *line, size_t bytes)
{
    return (bytes > 0 && !rf_lines_is_blank(line, 1) && p->text.bytes > 0 &&
            !rf_lines_is_blank(p->text.data + p->text.bytes - 1, 1)) ||
           p->text.bytes >= PIECE_MAX_BYTES;
}

/* Keeps the line for the next portion; it stays where rf_lines has it. */
static void put_back(rf_portion_reader *r, char *line, size_t bytes)
{
    r->is_pending = true;
    r->pending = line;
    r->pending_bytes = bytes;
}

static void add_json(rf_portion_reader *r, rf_portion *p, char *line, size_t bytes)
{
    if (!rf_lines_is_blank(line, bytes)) {
        add_entry(p, (rf_entry){.line = r->lines->number, .record = r->n_records++}, line, bytes);
    }
}

static int add_array(rf_portion_reader *r, rf_portion *p, char *line, size_t bytes, rf_error *err)
{
    size_t at = 0, begin;
    bool begins, ends;
    while (rf_record_array_next(&r->array, line, bytes, &at, &begin, &begins, &ends)) {
        if (begins) {
            add_entry(p, (rf_entry){.line = r->lines->number, .record = r->n_records++},
                      line + begin, at - begin);
        } else {
            extend_entry(p, "\n", 1);
            extend_entry(p, line + begin, at - begin);
        }
    }
    return rf_record_array_check(&r->array, r->lines, false, err);
}

/* A line of a text. The line end in front of it is added here, so that the last has none; the
 * carriage return of Windows belongs to the line end. */
static void add_text(rf_portion_reader *r, rf_portion *p, char *line, size_t bytes)
{
    bytes -= bytes > 0 && line[bytes - 1] == '\r';
    bool is_blank = rf_lines_is_blank(line, bytes);
    if (r->settings->split_paragraphs && is_blank && r->in_text) {
        p->entry[p->n_entries - 1].ends = true;
        r->in_text = false;
    }
    if (is_blank && !r->in_text) {
        return;
    }
    if (r->in_text && p->n_entries > 0) {
        extend_entry(p, "\n", 1);
        extend_entry(p, line, bytes);
        return;
    }
    bool begins = !r->in_text; /* else the text goes on from the portion before */
    r->in_text = true;
    r->n_records += begins;
    add_entry(p,
              (rf_entry){.line = r->lines->number,
                         .record = r->n_records - 1,
                         .is_text = true,
                         .begins = begins},
              line, bytes);
}

/* Whether the portion must be closed in front of this line. A text goes on in the next portion:
 * then the line end between them belongs to this one. */
static bool must_close(rf_portion_reader *r, rf_portion *p, const char *line, size_t bytes)
{
    if (!is_full(p) || r->array.depth > 0) {
        return false;
    }
    if (r->format != RF_FORMAT_TEXT || !r->in_text) {
        return true;
    }
    if ((r->settings->split_paragraphs && rf_lines_is_blank(line, bytes)) ||
        !may_cut(p, line, bytes)) {
        return false;
    }
    extend_entry(p, "\n", 1);
    return true;
}

/* --- Sources ---------------------------------------------------------------------------------- */

static int open_source(rf_portion_reader *r, rf_error *err)
{
    r->format = r->settings->format;
    r->n_records = 0;
    r->in_text = false;
    r->array = (rf_record_array){0};
    r->guess = (rf_foreign_guess){0};
    return rf_lines_open(&r->lines, r->settings->source[r->source].path, err);
}

static int close_source(rf_portion_reader *r, rf_portion *p, rf_error *err)
{
    if (r->n_records == 0) {
        return rf_error_set(err, RF_ERR,
                            "%s: the file is empty or holds only blank lines: remove it or fill it",
                            r->lines->path);
    }
    if (r->format == RF_FORMAT_ARRAY) {
        RF_TRY(rf_record_array_check(&r->array, r->lines, true, err));
    }
    if (r->in_text) {
        p->entry[p->n_entries - 1].ends = true;
        r->in_text = false;
    }
    p->ends_source = true;
    p->source_bytes = r->lines->size;
    p->source_crc = r->lines->crc;
    r->bytes_before += r->lines->offset;
    rf_lines_close(r->lines);
    r->lines = NULL;
    r->source++;
    return RF_OK;
}

static int next_line(rf_portion_reader *r, char **line, size_t *bytes, rf_error *err)
{
    if (r->is_pending) {
        r->is_pending = false;
        *line = r->pending;
        *bytes = r->pending_bytes;
        return RF_OK;
    }
    return rf_lines_next(r->lines, line, bytes, err);
}

static int fill(rf_portion_reader *r, rf_portion *p, rf_error *err)
{
    char *line;
    size_t bytes;
    if (r->lines == NULL) {
        RF_TRY(open_source(r, err));
    }
    for (;;) {
        RF_TRY(next_line(r, &line, &bytes, err));
        if (line == NULL) {
            return close_source(r, p, err);
        }
        if (r->lines->number == 1) {
            bool is_given = r->settings->format != RF_FORMAT_AUTO; /* then tables are text */
            const char *path = r->settings->source[r->source].path;
            const char *foreign = rf_foreign(is_given ? "" : path, line, bytes);
            if (foreign != NULL) {
                return rf_error_set(err, RF_ERR, "%s: is %s", r->lines->path, foreign);
            }
        }
        if (r->format == RF_FORMAT_AUTO && !rf_lines_is_blank(line, bytes)) {
            r->format = recognise(r->settings->source[r->source].path, line);
        }
        if (r->format == RF_FORMAT_AUTO) {
            continue;
        }
        if (r->format == RF_FORMAT_TEXT && r->settings->format == RF_FORMAT_AUTO &&
            !rf_lines_is_blank(line, bytes)) {
            const char *foreign = rf_foreign_text(&r->guess, line, bytes);
            if (foreign != NULL) {
                return rf_error_set(err, RF_ERR, "%s:%" PRId64 ": is %s", r->lines->path,
                                    r->lines->number, foreign);
            }
        }
        if (must_close(r, p, line, bytes)) {
            put_back(r, line, bytes);
            return RF_OK;
        }
        if (r->format == RF_FORMAT_ARRAY) {
            RF_TRY(add_array(r, p, line, bytes, err));
        } else if (r->format == RF_FORMAT_JSONL) {
            add_json(r, p, line, bytes);
        } else {
            add_text(r, p, line, bytes);
        }
    }
}

void rf_portion_read(rf_portion_reader *r, rf_portion *p)
{
    p->source = r->source;
    p->text.bytes = 0;
    p->n_entries = 0;
    p->ends_source = false;
    p->read_failure.code = RF_OK;
    if (r->source == r->settings->n_sources) {
        return;
    }
    rf_error err = {0};
    if (fill(r, p, &err) != RF_OK) {
        p->read_failure = err;
    }
    p->bytes_read = r->bytes_before + (r->lines != NULL ? r->lines->offset : 0);
}
