#include "common/base/options.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static rf_error err;

static void says(const char *words)
{
    cr_assert(err.code == RF_ERR_USAGE && strstr(err.message, words), "\"%s\" is not in: %s", words,
              err.message);
}

Test(options, numbers)
{
    int64_t i = 7;
    double x = 7;
    cr_assert(rf_options_integer(&i, "-12", "--size", -12, 5, &err) == RF_OK && i == -12);
    cr_assert(rf_options_integer(&i, "9223372036854775807", "--size", 0, INT64_MAX, &err) ==
                  RF_OK &&
              i == INT64_MAX);
    static const char *const wrong[] = {"",     " 3", "3 ",  "3.5", "x",
                                        "0x10", "-1", "101", "1e2", "9223372036854775808"};
    for (size_t j = 0; j < sizeof wrong / sizeof *wrong; j++) {
        cr_assert(rf_options_integer(&i, wrong[j], "--size", 0, 100, &err) == RF_ERR_USAGE, "%s",
                  wrong[j]);
        says("--size");
        says("from 0 to 100");
    }
    cr_assert(i == INT64_MAX, "a refused number was stored");
    cr_assert(rf_options_real(&x, "2.5e-1", "--weight", 0, 1, &err) == RF_OK && x == 0.25);
    static const char *const not_real[] = {"", " 0.5", "0.5x", "nan", "inf", "-0.1", "1.1"};
    for (size_t j = 0; j < sizeof not_real / sizeof *not_real; j++) {
        cr_assert(rf_options_real(&x, not_real[j], "--weight", 0, 1, &err) == RF_ERR_USAGE, "%s",
                  not_real[j]);
        says("--weight");
    }
    cr_assert(x == 0.25);
}

/* --- Tables ----------------------------------------------------------------------------------- */

typedef struct given {
    const char *name, *kind;
    int64_t size;
    bool quick;
    rf_option_list items;
    int first;
} given;

static const char *kind_word(int i, const char **help)
{
    *help = "a kind";
    return i == 0 ? "special" : NULL;
}

/* A command line of these words, up to NULL. */
static int parse(given *g, const char *const *word)
{
    static const rf_option options[] = {
        {"name", "TEXT", "", RF_OPTION_TEXT, .at = offsetof(given, name), .once = true},
        {"sizes", "N", "", RF_OPTION_INTEGER, .at = offsetof(given, size), .min = 1, .max = 99},
        {"size", "N", "", RF_OPTION_INTEGER, .at = offsetof(given, size), .min = 1, .max = 9},
        {"quick", NULL, "", RF_OPTION_FLAG, .at = offsetof(given, quick)},
        {"item", "NAME", "", RF_OPTION_LIST, .at = offsetof(given, items)},
        {"kind", "none|plain|KIND", "", RF_OPTION_CHOICE, .at = offsetof(given, kind),
         .word = kind_word},
        {0}};
    static char text[8][32];
    char *argv[9] = {text[0]};
    int argc = 1;
    for (; word[argc - 1] != NULL; argc++) {
        argv[argc] = strcpy(text[argc], word[argc - 1]);
    }
    err = (rf_error){0};
    *g = (given){0};
    return rf_options_parse(&g->first, g, argc, argv, options, "see program --help", &err);
}

Test(options, of_a_table)
{
    given g;
    cr_assert(parse(&g, (const char *[]){"--size", "3", "--name=x", "--quick", "a=b", NULL}) ==
              RF_OK);
    cr_assert(g.size == 3 && strcmp(g.name, "x") == 0 && g.quick && g.first == 5);
    cr_assert(parse(&g, (const char *[]){"--size=3", "--size=4", NULL}) == RF_OK && g.size == 4 &&
              g.name == NULL && !g.quick && g.first == 3);
    cr_assert(parse(&g, (const char *[]){"--item=b", "--quick", "--item", "a", NULL}) == RF_OK);
    cr_assert(g.items.n == 2 && strcmp(g.items.item[0], "b") == 0 &&
              strcmp(g.items.item[1], "a") == 0);
    free(g.items.item);
    cr_assert(parse(&g, (const char *[]){"--size=10", NULL}) == RF_ERR_USAGE);
    says("--size 10: must be a whole number from 1 to 9");
    cr_assert(parse(&g, (const char *[]){"--bogus", NULL}) == RF_ERR_USAGE);
    says("--bogus: unknown");
    cr_assert(parse(&g, (const char *[]){"--name", NULL}) == RF_ERR_USAGE);
    says("--name: needs a value: see program --help");
}

Test(options, end_where_words_begin)
{
    given g;
    cr_assert(parse(&g, (const char *[]){"a=b", NULL}) == RF_OK && g.first == 1);
    cr_assert(parse(&g, (const char *[]){"--", "--size", NULL}) == RF_OK && g.first == 2);
}

Test(options, mistakes_are_named)
{
    static const struct {
        const char *word[4], *says;
    } cases[] = {
        {{"--size", NULL}, "--size: needs a value: see program --help"},
        {{"--sise", "3", NULL}, "--sise: unknown option: did you mean --size? see program"},
        {{"--sise=3", NULL}, "--sise=3: unknown option: did you mean --size? see program"},
        {{"--nothing-like-it", NULL}, "--nothing-like-it: unknown option: see program --help"},
        {{"--si", "3", NULL}, "--si: short for several options: see program --help"},
        {{"--quick=3", NULL}, "--quick=3: takes no value"},
        {{"--name=x", "--name", "y", NULL}, "--name: given twice, x and y: see program --help"},
        {{"-x", NULL}, "-x: unknown option: see program --help"},
        {{"-zx", NULL}, "-zx: unknown option: see program --help"},
        {{"-size=3", NULL}, "-size=3: unknown option: did you mean --size? see program"},
        {{"a", "-quik", "b"}, "-quik: unknown option: did you mean --quick? see program"},
        {{"--hepl", NULL}, "--hepl: unknown option: did you mean --help? see program"},
        {{"--kind", "plian", NULL},
         "--kind plian: must be one of special, none, plain: did you mean plain? see program"},
        {{"--kind", "KIND", NULL}, "--kind KIND: must be one of special, none, plain: "},
        {{"--kind=spezial", NULL}, "did you mean special?"},
        {{"--kind=", NULL}, "--kind : must be one of"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        given g;
        cr_assert(parse(&g, cases[i].word) == RF_ERR_USAGE);
        says(cases[i].says);
    }
}

Test(options, choices)
{
    given g;
    static const char *const kinds[] = {"none", "plain", "special"};
    for (size_t i = 0; i < 3; i++) {
        cr_assert(parse(&g, (const char *const[]){"--kind", kinds[i], NULL}) == RF_OK);
        cr_assert_str_eq(g.kind, kinds[i]);
    }
    cr_assert(rf_options_choice("each|last|all", "each") == 0);
    cr_assert(rf_options_choice("each|last|all", "all") == 2);
    cr_assert(rf_options_choice("each|last|all", "las") == -1);
    cr_assert(rf_options_choice("each|last|all", "") == -1);
}

/* Options may stand anywhere; other words keep their order. */
Test(options, other_words_go_behind)
{
    char text[][8] = {"p", "a", "--si=3", "b", "--quick", "-", "--", "--name", "c"};
    enum { N = sizeof text / sizeof *text };
    const rf_option table[] = {
        {"size", "N", "", RF_OPTION_INTEGER, .at = offsetof(given, size), .min = 1, .max = 9},
        {"quick", NULL, "", RF_OPTION_FLAG, .at = offsetof(given, quick)},
        {0}};
    char *argv[N + 1] = {NULL};
    given g = {0};
    for (int i = 0; i < N; i++) {
        argv[i] = text[i];
    }
    cr_assert(rf_options_parse(&g.first, &g, N, argv, table, "see", &err) == RF_OK);
    static const char *const expected[] = {"a", "b", "-", "--name", "c"};
    cr_assert(g.size == 3 && g.quick && g.first == N - 5);
    for (int i = 0; i < 5; i++) {
        cr_assert_str_eq(argv[g.first + i], expected[i]);
    }
}
