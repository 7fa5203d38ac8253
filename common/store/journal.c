#include "common/store/journal.h"

#include "common/base/alloc.h"
#include "common/base/failpoint.h"
#include "common/base/files/file.h"
#include "common/base/files/output.h"
#include "common/base/log.h"

#include <errno.h>
#include <glob.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct rf_journal {
    char path[RF_PATH_BYTES + 32];
    uint64_t settings;
    FILE *file;
    json_t *line; /* of earlier runs, by name (name_place) */
    double seconds[RF_JOURNAL_KINDS], begin[RF_JOURNAL_KINDS];
};

static const char *const kind_names[RF_JOURNAL_KINDS] = {"score", "answer"};

static void name_place(char *out, size_t bytes, rf_journal_kind kind, int64_t index, int64_t sample)
{
    snprintf(out, bytes, "%s %" PRId64 " %" PRId64, kind_names[kind], index, sample);
}

static void name_hash(char *out, size_t bytes, uint64_t hash)
{
    snprintf(out, bytes, "%016" PRIx64, hash);
}

/* --- What is there ---------------------------------------------------------------------------- */

/* Files of all ranks, and perhaps more (is_rank_file); the caller calls globfree. */
static void find_files(glob_t *out, const char *path)
{
    char *escaped = rf_alloc(2 * strlen(path) + 32, 1), *to = escaped;
    for (const char *p = path; *p != '\0'; p++) {
        if (strchr("*?[\\", *p) != NULL) {
            *to++ = '\\';
        }
        *to++ = *p;
    }
    strcpy(to, ".partial.*");
    (void)glob(escaped, 0, NULL, out);
    free(escaped);
}

/* Does the name that find_files found end in the number of a rank? */
static bool is_rank_file(const char *name)
{
    const char *rank = strrchr(name, '.') + 1;
    return *rank != '\0' && strspn(rank, "0123456789") == strlen(rank);
}

static bool has_text(const json_t *line, const char *field, uint64_t hash)
{
    char name[32];
    const char *text = json_string_value(json_object_get(line, field));
    name_hash(name, sizeof name, hash);
    return text != NULL && strcmp(text, name) == 0;
}

static int read_line(rf_journal *j, const char *text, size_t bytes, const char *path, rf_error *err)
{
    json_t *line = json_loadb(text, bytes, JSON_ALLOW_NUL, NULL);
    const char *kind = json_string_value(json_object_get(line, "kind"));
    char name[80];
    if (kind == NULL) { /* the line in which a run was killed */
        json_decref(line);
        return RF_OK;
    }
    if (!has_text(line, "settings", j->settings)) {
        json_decref(line);
        return rf_error_set(
            err, RF_ERR,
            "%s holds answers of another model or other settings: go on with those, "
            "remove the file, or write elsewhere",
            path);
    }
    rf_journal_kind which =
        strcmp(kind, kind_names[RF_JOURNAL_SCORE]) == 0 ? RF_JOURNAL_SCORE : RF_JOURNAL_ANSWER;
    double elapsed = json_number_value(json_object_get(line, "elapsed"));
    j->seconds[which] = elapsed > j->seconds[which] ? elapsed : j->seconds[which];
    name_place(name, sizeof name, which, json_integer_value(json_object_get(line, "index")),
               json_integer_value(json_object_get(line, "sample")));
    json_object_set_new(j->line, name, line);
    return RF_OK;
}

static int read_file(rf_journal *j, const char *path, rf_error *err)
{
    rf_lines *lines;
    char *text;
    size_t bytes;
    RF_TRY(rf_lines_open(&lines, path, err));
    int rc = rf_lines_next(lines, &text, &bytes, err);
    while (rc == RF_OK && text != NULL) {
        rc = read_line(j, text, bytes, path, err);
        rc = rc == RF_OK ? rf_lines_next(lines, &text, &bytes, err) : rc;
    }
    rf_lines_close(lines);
    return rc;
}

static int read_files(rf_journal *j, const char *path, rf_error *err)
{
    glob_t found = {0};
    int rc = RF_OK;
    find_files(&found, path);
    for (size_t i = 0; i < found.gl_pathc && rc == RF_OK; i++) {
        rc = is_rank_file(found.gl_pathv[i]) ? read_file(j, found.gl_pathv[i], err) : RF_OK;
    }
    globfree(&found);
    return rc;
}

static void remove_files(const char *path)
{
    glob_t found = {0};
    find_files(&found, path);
    for (size_t i = 0; i < found.gl_pathc; i++) {
        if (is_rank_file(found.gl_pathv[i])) {
            unlink(found.gl_pathv[i]);
        }
    }
    globfree(&found);
}

/* Lines of earlier runs about questions behind the first `limit`. */
static int64_t count_behind(const rf_journal *j, int64_t limit)
{
    const char *name;
    json_t *line;
    int64_t n = 0;
    json_object_foreach(j->line, name, line)
    {
        n += json_integer_value(json_object_get(line, "index")) >= limit;
    }
    return n;
}

void rf_journal_finish(const rf_journal *j, const char *path, int64_t limit)
{
    const int64_t n_behind = limit > 0 ? count_behind(j, limit) : 0;
    if (n_behind > 0) {
        rf_log_info("%s.partial.*: kept, for the same command with a larger --limit: what an "
                    "earlier run has left holds %" PRId64 " behind these %" PRId64,
                    path, n_behind, limit);
    } else {
        remove_files(path);
    }
}

/* --- Life ------------------------------------------------------------------------------------- */

static int cannot_write(const rf_journal *j, rf_error *err)
{
    return rf_error_set(err, rf_error_code_of_errno(errno), "%s: cannot write: %m", j->path);
}

void rf_journal_name(char *name, size_t bytes, const char *path, int64_t rank)
{
    snprintf(name, bytes, "%s.partial.%" PRId64, path, rank);
}

/* A line that was cut is ended, so that the next one stands alone. */
static int open_file(rf_journal *j, rf_error *err)
{
    j->file = fopen(j->path, "a+e");
    const bool failed = j->file == NULL || (fseek(j->file, -1, SEEK_END) == 0 &&
                                            fgetc(j->file) != '\n' && fputc('\n', j->file) == EOF);
    return failed ? cannot_write(j, err) : RF_OK;
}

int rf_journal_open(rf_journal **out, const char *path, int64_t rank, uint64_t settings,
                    rf_error *err)
{
    char resolved[RF_PATH_BYTES];
    bool in_place = false;
    int rc;
    *out = NULL;
    RF_TRY(path != NULL ? rf_output_resolve(resolved, &in_place, path, err) : RF_OK);
    if (path == NULL || in_place) {
        return RF_OK;
    }
    rf_journal *j = rf_alloc(1, sizeof *j);
    *j = (rf_journal){.settings = settings, .line = json_object()};
    rf_journal_name(j->path, sizeof j->path, path, rank);
    RF_TRY_OUT(read_files(j, path, err));
    RF_TRY_OUT(open_file(j, err));
    *out = j;
    return RF_OK;
out:
    rf_journal_close(j);
    return rc;
}

void rf_journal_close(rf_journal *j)
{
    if (j == NULL) {
        return;
    }
    if (j->file != NULL) {
        fclose(j->file);
    }
    json_decref(j->line);
    free(j);
}

/* --- Lines ------------------------------------------------------------------------------------ */

bool rf_journal_take(rf_journal *j, double *value, char **text, const rf_journal_place *place,
                     int64_t n_values)
{
    char name[80];
    name_place(name, sizeof name, place->kind, place->index, place->sample);
    const json_t *line = json_object_get(j->line, name);
    const json_t *values = json_object_get(line, "values");
    const char *known = json_string_value(json_object_get(line, "text"));
    if (known == NULL || !has_text(line, "question", place->question) ||
        json_array_size(values) != (size_t)n_values) {
        return false;
    }
    for (int64_t i = 0; i < n_values; i++) {
        const json_t *number = json_array_get(values, (size_t)i);
        value[i] = json_is_number(number) ? json_number_value(number) : (double)NAN;
    }
    *text = rf_alloc_string(known);
    return true;
}

int rf_journal_add(rf_journal *j, const rf_journal_place *place, const double *value,
                   int64_t n_values, const char *text, rf_error *err)
{
    char question[32], settings[32];
    double elapsed = j->seconds[place->kind] + rf_log_seconds() - j->begin[place->kind];
    json_t *values = json_array();
    for (int64_t i = 0; i < n_values; i++) {
        json_array_append_new(values, isfinite(value[i]) ? json_real(value[i]) : json_null());
    }
    name_hash(question, sizeof question, place->question);
    name_hash(settings, sizeof settings, j->settings);
    json_t *line = json_pack("{s:s, s:I, s:I, s:s, s:s, s:f, s:o, s:s}", "kind",
                             kind_names[place->kind], "index", (json_int_t)place->index, "sample",
                             (json_int_t)place->sample, "question", question, "settings", settings,
                             "elapsed", elapsed, "values", values, "text", text);
    bool done = line != NULL && json_dumpf(line, j->file, JSON_COMPACT) == 0 &&
                fputc('\n', j->file) != EOF && fflush(j->file) == 0;
    json_decref(line);
    return done ? rf_failpoint_visit("journal", err) : cannot_write(j, err);
}

int64_t rf_journal_known(const rf_journal *j)
{
    return j != NULL ? (int64_t)json_object_size(j->line) : 0;
}

double rf_journal_seconds(const rf_journal *j, rf_journal_kind kind)
{
    return j->seconds[kind];
}

void rf_journal_begin(rf_journal *j, rf_journal_kind kind)
{
    j->begin[kind] = rf_log_seconds();
}
