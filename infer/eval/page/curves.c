#include "infer/eval/page/curves.h"

#include "common/base/files/file.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* The events of one kind: those of training steps, or of validations. */
static json_t *events_of(const json_t *events, const char *kind)
{
    json_t *list = json_array();
    size_t i;
    json_t *event;
    json_array_foreach(events, i, event)
    {
        const char *name = json_string_value(json_object_get(event, "event"));
        if (name != NULL && strcmp(name, kind) == 0) {
            json_array_append(list, event);
        }
    }
    return list;
}

/* "step", and what is worth a curve. */
static json_t *columns_of(const json_t *events)
{
    static const char *const known[] = {"grad_norm", "lr", "tokens_per_second", "elapsed"};
    json_t *list = json_pack("[s]", "step"), *value;
    const char *key;
    json_object_foreach(json_array_get(events, 0), key, value)
    {
        bool wanted = strncmp(key, "loss", 4) == 0;
        for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
            wanted |= strcmp(key, known[i]) == 0;
        }
        if (wanted) {
            json_array_append_new(list, json_string(key));
        }
    }
    return list;
}

/* A loss is 0 where its part had no targets. */
static bool has_value(const json_t *value, const char *column)
{
    return json_is_number(value) &&
           !(strncmp(column, "loss_", 5) == 0 && !(json_number_value(value) > 0));
}

/* Events [from, to) as one row. */
static json_t *mean_row(const json_t *events, size_t from, size_t to, const json_t *columns)
{
    json_t *row = json_pack("[O]", json_object_get(json_array_get(events, to - 1), "step"));
    for (size_t c = 1; c < json_array_size(columns); c++) {
        const char *column = json_string_value(json_array_get(columns, c));
        double sum = 0;
        int n = 0;
        for (size_t i = from; i < to; i++) {
            const json_t *value = json_object_get(json_array_get(events, i), column);
            if (has_value(value, column)) {
                sum += json_number_value(value);
                n++;
            }
        }
        json_array_append_new(row, n > 0 ? json_real(sum / n) : json_null());
    }
    return row;
}

static json_t *curves_of(const json_t *all, const char *kind, size_t points)
{
    json_t *events = events_of(all, kind), *columns = columns_of(events), *rows = json_array();
    size_t n = json_array_size(events);
    size_t width = (n + points - 1) / points;
    for (size_t from = 0; from < n; from += width) {
        json_array_append_new(rows,
                              mean_row(events, from, from + width < n ? from + width : n, columns));
    }
    json_decref(events);
    return json_pack("{s:o, s:o}", "columns", columns, "rows", rows);
}

/* The name of the folder that a file lies in. */
static json_t *run_name(const char *path)
{
    char folder[RF_PATH_BYTES];
    json_t *name = rf_path_folder(folder, sizeof folder, path, NULL) == RF_OK
                       ? json_string(rf_path_name(folder))
                       : NULL;
    return name != NULL ? name : json_string("a run");
}

/* As rf_metrics_event writes it. */
static bool is_event(const json_t *line)
{
    return json_is_string(json_object_get(line, "event")) &&
           json_is_integer(json_object_get(line, "step"));
}

int rf_curves_read(json_t **out, const char *path, int points, rf_error *err)
{
    char *text = NULL;
    size_t bytes;
    *out = NULL;
    RF_TRY(rf_file_read(&text, &bytes, path, (size_t)1 << 30, err));
    json_t *events = json_array();
    for (const char *line = text; *line != '\0';) {
        size_t n = strcspn(line, "\n");
        json_t *event = json_loadb(line, n, 0, NULL);
        if (is_event(event)) {
            json_array_append(events, event);
        }
        json_decref(event);
        line += n + (line[n] == '\n');
    }
    free(text);
    if (json_array_size(events) == 0) {
        json_decref(events);
        return rf_error_set(err, RF_ERR, "%s: is no metrics.jsonl: holds no event of a run", path);
    }
    *out = json_pack("{s:o, s:O, s:o, s:o}", "name", run_name(path), "begin",
                     json_array_get(events, 0), "step", curves_of(events, "step", (size_t)points),
                     "valid", curves_of(events, "valid", (size_t)points));
    json_decref(events);
    return RF_OK;
}
