/* common/text/jinja: against Jinja itself (tests/golden/make_jinja_golden.py), and its bounds. */
#include "tests/text/bpe_test.h"

#include "common/text/jinja/jinja.h"

#include <jansson.h>

/* What a template prints; NULL where it is refused, with the reason in err. Caller frees. */
static char *print_on(const char *template, const json_t *variables, const char *date,
                      const struct tm *day, rf_error *err)
{
    rf_jinja *parsed;
    rf_text out = {0}, is_said = {0};
    if (rf_jinja_parse(&parsed, template, strlen(template), "x.json: chat_template", err) !=
        RF_OK) {
        return NULL;
    }
    rf_text_add_string(&out, "");
    int rc = rf_jinja_render(parsed, &out, &is_said, variables, NULL, date, day, err);
    rf_text_free(&is_said);
    rf_jinja_free(parsed);
    if (rc != RF_OK) {
        rf_text_free(&out);
        return NULL;
    }
    return out.data != NULL ? out.data : strdup("");
}

static char *print(const char *template, const json_t *variables, const char *date, rf_error *err)
{
    return print_on(template, variables, date, NULL, err);
}

Test(jinja, prints_what_jinja_prints)
{
    json_t *cases = bpe_read_json("tests/golden/jinja_vectors.json"), *item;
    size_t i;
    json_array_foreach(cases, i, item)
    {
        const char *template = json_string_value(json_object_get(item, "template"));
        const char *text = json_string_value(json_object_get(item, "text"));
        rf_error err = {0};
        char *printed = print(template, json_object_get(item, "variables"), NULL, &err);
        if (text == NULL) {
            cr_expect_null(printed, "case %zu is refused by Jinja: %s", i, template);
            cr_expect(printed != NULL || strstr(err.message, "x.json: chat_template, line") != NULL,
                      "%s", err.message);
        } else if (printed == NULL || strcmp(printed, text) != 0) {
            cr_expect_fail("case %zu: %s\n--- should print\n%s\n--- and prints\n%s", i, template,
                           text, printed != NULL ? printed : err.message);
        }
        free(printed);
    }
    cr_assert_geq(i, 180);
    json_decref(cases);
}

/* Templates of strangers end. */
Test(jinja, bounds)
{
    static const char *const cases[][2] = {
        {"{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}", "MiB"},
        {"{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% "
         "endfor %}",
         "MiB"},
        {"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "deep"},
        {"{{ 'x' * 9000000000000000000 }}", "MiB"},
        {"{{ '' * 9000000000000000000 }}", "steps"},
        {"{{ range(9000000000000000000) | length }}", "MiB"},
        {"{{ [[1] * 9999] * 9999 * 9999 }}", "MiB"},
    };
    json_t *none = json_object();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        rf_error err = {0};
        cr_expect_null(print(cases[i][0], none, NULL, &err), "%s", cases[i][0]);
        cr_expect_not_null(strstr(err.message, cases[i][1]), "%s: %s", cases[i][0], err.message);
    }
    rf_text deep = {0};
    rf_error err = {0};
    for (int i = 0; i < 100000; i++) {
        rf_text_add_string(&deep, i == 0 ? "{{ (" : "(");
    }
    cr_expect_null(print(deep.data, none, NULL, &err));
    cr_expect_not_null(strstr(err.message, "deep"), "%s", err.message);
    rf_text_free(&deep);
    json_decref(none);
}

Test(jinja, dates)
{
    json_t *none = json_object();
    rf_error err = {0};
    char *fixed = print("{{ strftime_now('%d %b %Y') }}", none, NULL, &err);
    char *given = print("{{ strftime_now('%d %b %Y') }}", none, "1 May", &err);
    cr_expect_str_eq(fixed, "26 Jul 2024");
    const struct tm leap = {.tm_mday = 29, .tm_mon = 1, .tm_year = 128, .tm_wday = 2};
    char *told = print_on("{{ strftime_now('%a %d %b %Y') }}", none, NULL, &leap, &err);
    char *both = print_on("{{ strftime_now('%d') }}", none, "1 May", &leap, &err);
    cr_expect_str_eq(given, "1 May");
    cr_expect_str_eq(told, "Tue 29 Feb 2028");
    cr_expect_str_eq(both, "1 May");
    free(fixed), free(given), free(told), free(both);
    json_decref(none);
}

Test(jinja, errors_name_the_line)
{
    json_t *none = json_object();
    rf_error err = {0};
    cr_expect_null(print("a\n{% if true %}\n{{ nosuch.field }}{% endif %}", none, NULL, &err));
    cr_expect_not_null(strstr(err.message, "line 3"), "%s", err.message);
    cr_expect_null(print("\n\n{% include 'x' %}", none, NULL, &err));
    cr_expect(strstr(err.message, "line 3") && strstr(err.message, "include"), "%s", err.message);
    cr_expect_null(print("\n{{ self is defined }}", none, NULL, &err));
    cr_expect(strstr(err.message, "line 2") && strstr(err.message, "self"), "%s", err.message);
    cr_expect_null(print("{{ raise_exception('only users') }}", none, NULL, &err));
    cr_expect_not_null(strstr(err.message, "only users"), "%s", err.message);
    json_decref(none);
}
