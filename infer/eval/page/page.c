#include "infer/eval/page/page.h"

#include "common/base/files/file.h"
#include "infer/eval/page/curves.h"
#include "infer/web/web.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

RF_EMBED(rf_page_html, "infer/eval/page/page.html")
RF_EMBED(rf_page_css, "infer/eval/page/page.css")
RF_EMBED(rf_page_js, "infer/eval/page/page.js")

json_t *rf_page_new(const char *title)
{
    return json_pack("{s:s, s:[], s:[]}", "title", title, "reports", "runs");
}

static void thin_out(json_t *rows)
{
    size_t i;
    json_t *row;
    json_array_foreach(rows, i, row)
    {
        if (json_is_false(json_object_get(row, "best"))) {
            json_object_del(row, "order");
            json_object_del(row, "samples");
        }
    }
}

void rf_page_add_report(json_t *page, const json_t *report)
{
    json_t *copy = json_deep_copy(report);
    thin_out(json_object_get(copy, "rows"));
    thin_out(json_object_get(copy, "sweep"));
    json_array_append_new(json_object_get(page, "reports"), copy);
}

/* Reports begin with the program that wrote them. */
static bool is_report(const json_t *json)
{
    static const char program[] = "refusion-eval ";
    const char *said = json_string_value(json_object_get(json, "program"));
    return said != NULL && strncmp(said, program, strlen(program)) == 0;
}

/* Of a curve: what is there for all, divided. */
static int points_of(int files)
{
    enum { ALL = 6000, MOST = 400, LEAST = 20 };
    int points = ALL / files;
    return points > MOST ? MOST : points < LEAST ? LEAST : points;
}

int rf_page_add_file(json_t *page, const char *path, int files, rf_error *err)
{
    char file[RF_PATH_BYTES];
    const char *name = path;
    json_error_t problem;
    json_t *json;
    if (rf_path_is_folder(path)) {
        RF_TRY(rf_path_join(file, sizeof file, path, "metrics.jsonl", err));
        name = file;
    }
    size_t n = strlen(name);
    if (n >= 6 && strcmp(name + n - 6, ".jsonl") == 0) {
        RF_TRY(rf_curves_read(&json, name, points_of(files), err));
        json_array_append_new(json_object_get(page, "runs"), json);
        return RF_OK;
    }
    char *text = NULL;
    size_t bytes;
    RF_TRY(rf_file_read(&text, &bytes, name, (size_t)1 << 30, err));
    json = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &problem);
    free(text);
    int rc = RF_OK;
    if (json == NULL) {
        rc = rf_error_set(err, RF_ERR, "%s:%d: is no report of refusion-eval: %s", name,
                          problem.line, problem.text);
    } else if (!is_report(json)) {
        rc = rf_error_set(err, RF_ERR, "%s: is no report of refusion-eval (--out)", name);
    } else {
        rf_page_add_report(page, json);
    }
    json_decref(json);
    return rc;
}

int rf_page_save(const char *path, const json_t *page, rf_error *err)
{
    char *json = json_dumps(page, JSON_COMPACT | JSON_REAL_PRECISION(6));
    rf_text text = {0};
    RF_ASSERT(json != NULL);
    rf_web_add(&text, rf_page_html, rf_page_css, rf_page_js, json);
    int rc = rf_file_write(path, text.data, text.bytes, err);
    free(json);
    rf_text_free(&text);
    return rc;
}
