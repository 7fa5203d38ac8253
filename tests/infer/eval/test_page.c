/* report.html: whole, harmless, small, and drawn by a browser where there is one. */
#include "infer/eval/page/page.h"
#include "tests/infer/program_test.h"

#include <jansson.h>

static void begin(void)
{
    program_begin_model();
    program_write("q.jsonl", "{\"query\": \"12+30\", \"response\": \"42\"}\n"
                             "{\"query\": \"</script><!--\u2028\", \"response\": \"<b>&amp;\"}\n");
}

TestSuite(page, .init = begin, .fini = leave_folder, .timeout = 600);

/* Owned by the caller. */
static char *read_page(const char *path)
{
    FILE *in = fopen(path, "r");
    char *text = calloc(2000001, 1);
    cr_assert(in != NULL && text != NULL);
    size_t n = fread(text, 1, 2000001, in);
    cr_assert(n > 10000 && n <= 2000000, "%zu bytes", n);
    fclose(in);
    return text;
}

/* What stands between two marks; cut out of the text. */
static char *cut(char *text, const char *from, const char *to)
{
    char *begin = strstr(text, from);
    cr_assert_not_null(begin, "%s", from);
    char *end = strstr(begin += strlen(from), to);
    cr_assert_not_null(end, "%s", to);
    *end = '\0';
    return begin;
}

static json_t *page_data(const char *path)
{
    json_error_t problem;
    char *text = read_page(path);
    cr_assert_null(strstr(text, "http:"));
    cr_assert_null(strstr(text, "https:"));
    cr_assert_null(strstr(text, "@@"));
    char *json = cut(text, "<script type=\"application/json\" id=\"data\">", "</script>");
    cr_assert_null(strpbrk(json, "<>&"));
    cr_assert_null(strstr(json, "\u2028"));
    json_t *data = json_loads(json, 0, &problem);
    cr_assert(json_is_object(data), "%s", problem.text);
    free(text);
    return data;
}

/* Nothing of a question ends the script, and everything arrives. */
Test(page, holds_the_report)
{
    program_runs(
        "\"$EVAL\" --model model.h5 --data q.jsonl --task exact --out r.json --html r.html "
        "decode.slot_threshold=0.1,0.5,0.9 decode.kind=refusion,ar",
        0);
    json_t *data = page_data("r.html"), *report = json_load_file("r.json", 0, NULL);
    const json_t *shown = json_array_get(json_object_get(data, "reports"), 0);
    const json_t *rows = json_object_get(shown, "rows"), *row;
    size_t i, n_samples = 0;
    cr_assert_eq(json_array_size(rows), json_array_size(json_object_get(report, "rows")));
    json_array_foreach(rows, i, row)
    {
        const json_t *samples = json_object_get(row, "samples");
        cr_assert((samples != NULL) == json_is_true(json_object_get(row, "best")));
        if (samples != NULL) {
            const json_t *second = json_array_get(samples, 1);
            cr_assert_str_eq(json_string_value(json_object_get(second, "query")),
                             "</script><!--\u2028");
            cr_assert(json_array_size(json_object_get(second, "events")) > 1);
            n_samples += json_array_size(samples);
        }
    }
    cr_assert_eq(n_samples, 4);
    json_decref(data);
    json_decref(report);
}

static void write_metrics(const char *path, int n)
{
    FILE *out = fopen(path, "w");
    cr_assert_not_null(out);
    fprintf(out, "{\"event\": \"begin\", \"step\": 0, \"version\": \"0\"}\n");
    for (int i = 1; i <= n; i++) {
        fprintf(out,
                "{\"event\": \"step\", \"step\": %d, \"loss\": %d, \"loss_ar\": %s, \"lr\": 0.5}\n",
                i, i, i % 2 == 0 ? "0" : "8");
    }
    fprintf(out, "{\"event\": \"valid\", \"step\": %d, \"loss\": 3}\n{\"event\": \"st", n);
    cr_assert(fclose(out) == 0);
}

/* Long curves are means of neighbours, of the values that there are. */
Test(page, holds_the_curves_of_runs)
{
    cr_assert(program_shell("mkdir run") == 0);
    write_metrics("run/metrics.jsonl", 4000);
    program_runs("\"$EVAL\" --html r.html --title '<Two> runs' --page run --page "
                 "run/metrics.jsonl",
                 0);
    json_t *data = page_data("r.html");
    cr_assert_str_eq(json_string_value(json_object_get(data, "title")), "<Two> runs");
    cr_assert_eq(json_array_size(json_object_get(data, "runs")), 2);
    const json_t *run = json_array_get(json_object_get(data, "runs"), 0);
    cr_assert_str_eq(json_string_value(json_object_get(run, "name")), "run");
    const json_t *rows = json_object_get(json_object_get(run, "step"), "rows");
    cr_assert_eq(json_array_size(rows), 400);
    json_t *expected = json_pack("[i, f, f, f]", 20, 15.5, 8.0, 0.5);
    cr_assert(json_equal(json_array_get(rows, 1), expected));
    cr_assert_eq(json_array_size(json_object_get(json_object_get(run, "valid"), "rows")), 1);
    json_decref(expected);
    json_decref(data);
}

/* `make compare COMPARE=cpu` has 48 runs, and its page stays below 2 MB. */
Test(page, holds_shorter_curves_of_many_runs)
{
    cr_assert(program_shell("mkdir run") == 0);
    write_metrics("run/metrics.jsonl", 4000);
    program_runs("\"$EVAL\" --html r.html $(yes -- --page run | head -n 65)", 0);
    json_t *data = page_data("r.html");
    const json_t *runs = json_object_get(data, "runs");
    cr_assert_eq(json_array_size(runs), 65);
    const json_t *rows = json_object_get(json_object_get(json_array_get(runs, 64), "step"), "rows");
    cr_assert_eq(json_array_size(rows), 91);
    json_decref(data);
}

Test(page, refuses_what_is_no_report)
{
    program_write("bad.json", "[1]");
    program_write("torn.json", "{\"program\": \"refusion-eval 0\"");
    program_write("other.json", "{\"program\": \"another\", \"rows\": []}");
    program_write("empty.jsonl", "");
    program_refuses("\"$EVAL\" --html r.html --page bad.json", 1,
                    "bad.json: is no report of refusion-eval");
    program_refuses("\"$EVAL\" --html r.html --page torn.json", 1,
                    "torn.json:1: is no report of refusion-eval: ");
    program_refuses("\"$EVAL\" --html r.html --page other.json", 1,
                    "other.json: is no report of refusion-eval");
    program_refuses("\"$EVAL\" --html r.html --page empty.jsonl", 1, "holds no event");
    program_refuses("\"$EVAL\" --html r.html --page q.jsonl", 1, "q.jsonl: is no metrics.jsonl");
    cr_assert(access("r.html", F_OK) != 0);
    program_refuses("\"$EVAL\" --html r.html --page nowhere.json", 1, "nowhere.json");
    program_refuses("\"$EVAL\" --page bad.json", 2, "give --html");
    program_refuses("\"$EVAL\" --html r.html", 2, "--model is missing");
}

/* In a real browser every section is drawn, and its console stays empty. */
Test(page, is_drawn)
{
    if (program_shell("command -v chromium") != 0) {
        cr_skip("no chromium: that report.html is drawn was not tested\n");
    }
    cr_assert(program_shell("mkdir run") == 0);
    write_metrics("run/metrics.jsonl", 50);
    program_runs("\"$EVAL\" --model model.h5 --data q.jsonl --task exact --html r.html --page run "
                 "decode.slot_threshold=0.1,0.9 decode.kind=refusion,ar",
                 0);
    program_runs(
        "timeout 100 chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage "
        "--user-data-dir=\"$PWD/profile\" --enable-logging=stderr "
        "--virtual-time-budget=2000 --dump-dom \"file://$PWD/r.html\" >dom.html 2>log; "
        "status=$?; rm -rf profile; grep CONSOLE log; exit $status",
        0);
    cr_assert_str_empty(program_output);
    char *dom = read_page("dom.html");
    static const char *const expected[] = {"<h2>Results</h2>",
                                           "<h2>Accuracy and speed</h2>",
                                           "<h2>Training</h2>",
                                           "<h2>Order of the slots</h2>",
                                           "<h2>How answers come about</h2>",
                                           "<h2>Settings and machine</h2>",
                                           "<polyline",
                                           "<circle",
                                           "<rect",
                                           "class=\"place committed"};
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        cr_assert(strstr(dom, expected[i]) != NULL, "%s", expected[i]);
    }
    cr_assert_null(strstr(dom, "[object "));
    cr_assert_null(strstr(dom, "NaN"));
    free(dom);
}
