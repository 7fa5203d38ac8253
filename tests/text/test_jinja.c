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
    cr_assert_geq(i, 230);
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

/* A list within a list, and so on; the innermost has n elements. */
static json_t *deep_list(int depth, int n)
{
    json_t *list = json_array();
    for (int i = 0; i < n; i++) {
        json_array_append_new(list, json_integer(0));
    }
    for (int i = 1; i < depth; i++) {
        list = json_pack("[o]", list);
    }
    return list;
}

/* The bounds are the same whatever the variables are, which come from strangers too. */
Test(jinja, bounds_do_not_grow_with_the_variables)
{
    static const char *const cases[][2] = {
        {"{{ deep | tojson(indent=4) }}", "a text of more than 8 MiB"},
        {"{{ 1 | tojson(indent=9000000000000000000) }}", "1"},
        {"{{ [1] | tojson(indent=9000000000000000000) }}", "a text of more than 8 MiB"},
        {"{{ 'a\nb' | indent(9000000000000000000) }}", "a text of more than 8 MiB"},
        {"{% for i in many %}{% for k in 'abcdefgh' %}{% endfor %}{% endfor %}",
         "more than 256 MiB of memory"},
    };
    json_t *variables =
        json_pack("{s:o, s:o}", "deep", deep_list(180, 20000), "many", deep_list(1, 100000));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        rf_error err = {0};
        char *printed = print(cases[i][0], variables, NULL, &err);
        const char *said = printed != NULL ? printed : err.message;
        cr_expect_not_null(strstr(said, cases[i][1]), "%s: %.200s", cases[i][0], said);
        free(printed);
    }
    json_decref(variables);
}

/* What the longest contexts have room for is printed, with the copies that templates make. */
Test(jinja, long_conversations)
{
    enum { BYTES = 6 << 20, MESSAGES = 3000 };
    char *content = malloc(BYTES + 1);
    cr_assert_not_null(content);
    memset(content, 'a', BYTES);
    content[BYTES] = '\0';
    json_t *one = json_pack("{s:s}", "content", content), *many = json_array();
    for (int i = 0; i < MESSAGES; i++) {
        json_array_append_new(many, json_pack("{s:s%}", "content", content, BYTES / MESSAGES));
    }
    json_t *variables = json_pack("{s:[o], s:o}", "one", one, "many", many);
    static const char *const names[] = {"one", "many"};
    for (int i = 0; i < 2; i++) {
        char template[256];
        rf_error err = {0};
        snprintf(template, sizeof template,
                 "{%% for m in %s %%}{{ '<|im_start|>' + 'user' + '\n' + m.content | trim + "
                 "'<|im_end|>' + '\n' }}{%% endfor %%}",
                 names[i]);
        char *printed = print(template, variables, NULL, &err);
        cr_assert_not_null(printed, "%s: %s", names[i], err.message);
        cr_expect_geq(strlen(printed), BYTES);
        free(printed);
    }
    char *json = print("{{ one | tojson }}", variables, NULL, &(rf_error){0});
    cr_expect(json != NULL && strlen(json) > BYTES);
    free(json);
    for (int i = 0; i < BYTES / 100; i++) { /* its own keys are not looked for in an object */
        char key[16];
        snprintf(key, sizeof key, "%d", i);
        json_object_set_new(one, key, json_null());
    }
    rf_error err = {0};
    char *length = print("{{ one[0] | length }}", variables, NULL, &err);
    cr_expect(length != NULL && atoi(length) == BYTES / 100 + 1, "%s", err.message);
    free(length);
    free(content);
    json_decref(variables);
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

/* As in Jinja: a filter or a test that is not known is refused when a template is read, but in a condition
 * only when it is reached; a method only when it is called. */
Test(jinja, unknown_names_are_refused_where_jinja_refuses_them)
{
    static const char *const at_once[][2] = {
        {"{{ x|nosuch }}", "the filter \"nosuch\""},
        {"{{ x|nosuch }}\n{{ x is other }}", "the filter \"nosuch\""},
        {"{{ x is nosuch }}", "the test \"nosuch\""},
        {"{% filter nosuch %}{% endfilter %}", "the filter \"nosuch\""},
        {"{% if false %}{{ x|other }}{% endif %}{{ x|nosuch }}", "the filter \"nosuch\""},
        {"{{ (x|other if false else 1)|nosuch }}", "the filter \"nosuch\""},
        {"{% set y %}{{ [x|nosuch, 1 if x else 2] }}{% endset %}", "the filter \"nosuch\""},
    };
    static const char *const when_reached[][2] = {
        {"{{ x.nosuch() }}", "nosuch"},
        {"{{ 'a'.format(1) }}", "format"},
        {"{% call x.nosuch() %}{% endcall %}", "nosuch"},
        {"{{ x|nosuch }}", "the filter \"nosuch\""},
        {"{{ x is nosuch }}", "the test \"nosuch\""},
        {"{% for i in [1] %}{{ x is not nosuch(1) }}{% endfor %}", "the test \"nosuch\""},
        {"{{ [1]|map('nosuch')|list }}", "the filter \"nosuch\""},
        {"{{ [1]|select('nosuch')|list }}", "the test \"nosuch\""},
        {"{{ [1]|reject('=>', 1)|list }}", "the test \"=>\""},
        {"{{ [x]|selectattr('a', 'nosuch', 1)|list }}", "the test \"nosuch\""},
        {"{{ [x]|rejectattr('a.b', 'nosuch')|list }}", "the test \"nosuch\""},
    };
    static const char *const never_reached[][2] = {
        {"{{ tokenizer.decode(3) if tokenizer is defined else 'no' }}", "no"},
        {"{{ foo.bar(1) if foo is defined }}", ""},
        {"{% if x is mapping and x.y %}{{ x.fmt() }}{% endif %}", ""},
        {"{% macro m() %}{{ x.nosuch() }}{% endmacro %}m", "m"},
        {"{{ x|nosuch if false else 'no' }}", "no"},
        {"{{ 'no' if true else x is nosuch }}", "no"},
        {"{{ []|map('nosuch')|list }}{{ []|select('nosuch')|list }}", "[][]"},
        {"{% if true %}a{% elif x is nosuch %}{% else %}{{ x|nosuch }}{% endif %}", "a"},
    };
    json_t *variables = json_pack("{s:{}}", "x");
    char template[256];
    for (size_t i = 0; i < sizeof at_once / sizeof *at_once; i++) {
        rf_error err = {0};
        rf_jinja *parsed;
        snprintf(template, sizeof template, "\n%s\n", at_once[i][0]);
        cr_expect_eq(rf_jinja_parse(&parsed, template, strlen(template), "x", &err), RF_ERR, "%s",
                     template);
        cr_expect(strstr(err.message, at_once[i][1]) && strstr(err.message, "line 2"), "%s: %s",
                  template, err.message);
    }
    for (size_t i = 0; i < 2 * sizeof when_reached / sizeof *when_reached; i++) {
        const char *const *const c = when_reached[i / 2];
        const bool reached = i % 2;
        rf_error err = {0};
        snprintf(template, sizeof template, "{%% if %s %%}\n%s{%% endif %%}ok",
                 reached ? "true" : "false", c[0]);
        char *printed = print(template, variables, NULL, &err);
        if (reached) {
            cr_expect_null(printed, "%s", template);
            cr_expect(strstr(err.message, c[1]) && strstr(err.message, "line 2"), "%s: %s",
                      template, err.message);
        } else {
            cr_expect(printed != NULL && strcmp(printed, "ok") == 0, "%s: %s", template,
                      err.message);
        }
        free(printed);
    }
    for (size_t i = 0; i < sizeof never_reached / sizeof *never_reached; i++) {
        rf_error err = {0};
        char *printed = print(never_reached[i][0], variables, NULL, &err);
        cr_expect(printed != NULL && strcmp(printed, never_reached[i][1]) == 0, "%s: %s",
                  never_reached[i][0], printed != NULL ? printed : err.message);
        free(printed);
    }
    json_decref(variables);
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
