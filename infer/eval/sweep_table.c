#include "infer/eval/sweep_table.h"

#include "common/base/alloc.h"
#include "common/base/files/file.h"
#include "common/base/log.h"
#include "common/base/number.h"
#include "common/text/ids.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *text_of(const json_t *row, const char *field)
{
    const char *text = json_string_value(json_object_get(row, field));
    return text != NULL ? text : "";
}

/* NaN where there is none. */
static double number_of(const json_t *row, const char *field)
{
    const json_t *value = json_object_get(row, field);
    return json_is_number(value) ? json_number_value(value) : (double)NAN;
}

/* --- The best --------------------------------------------------------------------------------- */

static bool same_group(const json_t *a, const json_t *b)
{
    return strcmp(text_of(a, "model"), text_of(b, "model")) == 0 &&
           strcmp(text_of(json_object_get(a, "settings"), "kind"),
                  text_of(json_object_get(b, "settings"), "kind")) == 0;
}

/* Is a row of at least this accuracy faster? */
static bool is_better(const json_t *row, const json_t *best, double least)
{
    double speed = number_of(row, "tokens_per_second");
    return number_of(row, "accuracy") >= least &&
           (best == NULL || speed > number_of(best, "tokens_per_second"));
}

size_t rf_sweep_mark_best(json_t *rows, double within)
{
    size_t i, j, n_best = 0;
    json_t *row, *other;
    json_array_foreach(rows, i, row)
    {
        const json_t *best = NULL;
        double highest = 0;
        json_array_foreach(rows, j, other)
        {
            if (same_group(row, other)) {
                highest = fmax(highest, number_of(other, "accuracy"));
            }
        }
        json_array_foreach(rows, j, other)
        {
            if (same_group(row, other) && is_better(other, best, highest - within / 100 - 1e-12)) {
                best = other;
            }
        }
        json_object_set_new(row, "best", json_boolean(row == best));
        n_best += row == best;
    }
    return n_best;
}

/* --- Values as text --------------------------------------------------------------------------- */

/* Caller frees. */
static char *value_text(const json_t *value)
{
    char number[RF_NUMBER_BYTES];
    if (json_is_string(value)) {
        return rf_alloc_string(json_string_value(value));
    }
    if (json_is_real(value)) {
        rf_number_print_real(number, json_real_value(value));
        return rf_alloc_string(number);
    }
    if (value == NULL || json_is_null(value)) {
        return rf_alloc_string("");
    }
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
    return text != NULL ? text : rf_alloc_string("");
}

/* A value of a file; quoted where commas would be ambiguous. */
static void add_csv_text(rf_text *out, const char *text)
{
    const char *quote = strpbrk(text, ",\"\r\n") != NULL ? "\"" : "";
    rf_text_add_string(out, quote);
    for (; *text != '\0'; text++) {
        rf_text_add_string(out, *text == '"' ? "\"" : "");
        rf_text_add(out, text, 1);
    }
    rf_text_add_string(out, quote);
}

json_t *rf_sweep_keys(const json_t *rows)
{
    json_t *keys = json_object();
    size_t i, j;
    const json_t *row, *other;
    const char *key;
    json_t *value;
    json_array_foreach(rows, i, row)
    {
        json_object_foreach(json_object_get(row, "settings"), key, value)
        {
            json_array_foreach(rows, j, other)
            {
                const json_t *its = json_object_get(json_object_get(other, "settings"), key);
                if (its != NULL && !json_equal(value, its)) {
                    json_object_set_new(keys, key, json_true());
                    break;
                }
            }
        }
    }
    return keys;
}

void rf_sweep_log(const json_t *row, const json_t *keys, size_t number, size_t n)
{
    rf_text settings = {0};
    const char *key;
    json_t *value;
    rf_text_add_string(&settings, "");
    json_object_foreach(json_object_get(row, "settings"), key, value)
    {
        if (json_object_get(keys, key) != NULL) {
            char *text = value_text(value);
            rf_text_print(&settings, " %s=%s", key, text);
            free(text);
        }
    }
    char speed[96] = ""; /* where anything was decoded */
    if (json_is_number(json_object_get(row, "tokens_per_second"))) {
        snprintf(speed, sizeof speed, ", %.0f tokens/s, %.2f tokens per forward",
                 number_of(row, "tokens_per_second"), number_of(row, "tokens_per_forward"));
    }
    if (json_object_get(row, "accuracy") != NULL) {
        rf_log_info("%zu of %zu: %s%s: %.2f %%%s", number, n, text_of(row, "model"), settings.data,
                    100 * number_of(row, "accuracy"), speed);
    }
    rf_text_free(&settings);
}

/* --- Table ------------------------------------------------------------------------------------ */

/* What a column shows: a field of the row, or of its settings. */
typedef struct column {
    const char *title, *field;
    bool of_settings;
    double scale;
    int digits; /* behind the point; -1: as it is */
    int width;
} column;

static char *cell_text(const column *c, const json_t *row)
{
    const json_t *value =
        json_object_get(c->of_settings ? json_object_get(row, "settings") : row, c->field);
    if (!json_is_number(value) || c->digits < 0) {
        char *text = value_text(value);
        if (text[0] != '\0') {
            return text;
        }
        free(text);
        return rf_alloc_string("-");
    }
    return rf_alloc_format("%.*f", c->digits, c->scale * json_number_value(value));
}

static void print_rows(FILE *out, const json_t *rows, column *columns, int n)
{
    size_t i;
    const json_t *row;
    for (int k = 0; k < n; k++) {
        columns[k].width = (int)strlen(columns[k].title);
        json_array_foreach(rows, i, row)
        {
            char *text = cell_text(&columns[k], row);
            int width = (int)strlen(text);
            columns[k].width = width > columns[k].width ? width : columns[k].width;
            free(text);
        }
        fprintf(out, k == 0 ? "  %-*s" : "  %*s", columns[k].width, columns[k].title);
    }
    fputc('\n', out);
    json_array_foreach(rows, i, row)
    {
        for (int k = 0; k < n; k++) {
            char *text = cell_text(&columns[k], row);
            fprintf(out, k == 0 ? "  %-*s" : "  %*s", columns[k].width, text);
            free(text);
        }
        fputs(json_is_true(json_object_get(row, "best")) ? "  best\n" : "\n", out);
    }
}

static void print_table(FILE *out, const json_t *rows)
{
    static const column measured[] = {
        {.title = "nats/token", .field = "nats_per_token", .scale = 1, .digits = 4},
        {.title = "accuracy %", .field = "accuracy", .scale = 100, .digits = 2},
        {.title = "tokens/s", .field = "tokens_per_second", .scale = 1, .digits = 1},
        {.title = "tokens/forward", .field = "tokens_per_forward", .scale = 1, .digits = 2},
        {.title = "forwards", .field = "forwards", .scale = 1, .digits = 0},
        {.title = "places", .field = "places", .scale = 1, .digits = 0},
        {.title = "latency ms", .field = "latency_mean", .scale = 1e3, .digits = 2}};
    enum { N_MEASURED = sizeof measured / sizeof *measured };
    json_t *keys = rf_sweep_keys(rows), *value;
    const char *key;
    column *columns = rf_alloc(json_object_size(keys) + N_MEASURED + 1, sizeof *columns);
    int n = 0;
    columns[n++] = (column){.title = "model", .field = "model", .digits = -1};
    json_object_foreach(keys, key, value)
    {
        columns[n++] = (column){.title = key, .field = key, .of_settings = true, .digits = -1};
    }
    for (int k = 0; k < N_MEASURED; k++) {
        size_t i;
        const json_t *row;
        json_array_foreach(rows, i, row)
        {
            if (json_object_get(row, measured[k].field) != NULL) {
                columns[n++] = measured[k];
                break;
            }
        }
    }
    print_rows(out, rows, columns, n);
    free(columns);
    json_decref(keys);
}

void rf_sweep_print(FILE *out, const json_t *report)
{
    const json_t *tried = json_object_get(report, "sweep");
    if (tried != NULL) {
        fprintf(out, "settings, on %s\n", text_of(report, "pick_on"));
        print_table(out, tried);
        fputc('\n', out);
    }
    fprintf(out, "on %s\n", text_of(report, "data"));
    print_table(out, json_object_get(report, "rows"));
}

/* --- Comma-separated values ------------------------------------------------------------------- */

/* Fields with a single value, of all rows; those of settings with "decode." before their names. */
static void collect_fields(json_t *fields, const json_t *rows)
{
    size_t i;
    const json_t *row;
    const char *key;
    json_t *value;
    json_array_foreach(rows, i, row)
    {
        json_object_foreach((json_t *)row, key, value)
        {
            if (!json_is_object(value) && !json_is_array(value)) {
                json_object_set_new(fields, key, json_true());
            }
        }
        json_object_foreach(json_object_get(row, "settings"), key, value)
        {
            char *name = rf_alloc_format("decode.%s", key);
            json_object_set_new(fields, name, json_true());
            free(name);
        }
    }
}

static void add_rows(rf_text *out, const char *set, const json_t *rows, json_t *fields)
{
    size_t i;
    const json_t *row;
    const char *name;
    json_t *unused;
    json_array_foreach(rows, i, row)
    {
        rf_text_add_string(out, set);
        json_object_foreach(fields, name, unused)
        {
            bool of_settings = strncmp(name, "decode.", 7) == 0;
            char *text =
                value_text(of_settings ? json_object_get(json_object_get(row, "settings"), name + 7)
                                       : json_object_get(row, name));
            rf_text_add_string(out, ",");
            add_csv_text(out, text);
            free(text);
        }
        rf_text_add_string(out, "\n");
    }
}

int rf_sweep_csv(const char *path, const json_t *report, rf_error *err)
{
    const json_t *rows = json_object_get(report, "rows"), *tried = json_object_get(report, "sweep");
    json_t *fields = json_object(), *unused;
    const char *name;
    rf_text out = {0};
    collect_fields(fields, rows);
    collect_fields(fields, tried);
    rf_text_add_string(&out, "set");
    json_object_foreach(fields, name, unused)
    {
        rf_text_add_string(&out, ",");
        add_csv_text(&out, name);
    }
    rf_text_add_string(&out, "\n");
    add_rows(&out, "rows", rows, fields);
    add_rows(&out, "sweep", tried, fields);
    int rc = rf_file_write(path, out.data, out.bytes, err);
    rf_text_free(&out);
    json_decref(fields);
    return rc;
}
