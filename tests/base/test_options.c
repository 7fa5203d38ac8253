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
    const char *name;
    int64_t size;
    bool quick, help;
    rf_option_list items;
    int first;
} given;

/* A command line of these words, up to NULL. */
static int parse(given *g, const char *const *word)
{
    const rf_option options[] = {{"name", RF_OPTION_TEXT, &g->name, 0, 0},
                                 {"sizes", RF_OPTION_INTEGER, &g->size, 1, 99},
                                 {"size", RF_OPTION_INTEGER, &g->size, 1, 9},
                                 {"quick", RF_OPTION_FLAG, &g->quick, 0, 0},
                                 {"item", RF_OPTION_LIST, &g->items, 0, 0},
                                 {"help", RF_OPTION_STOP, &g->help, 0, 0},
                                 {0}};
    static char text[8][32];
    char *argv[9] = {text[0]};
    int argc = 1;
    for (; word[argc - 1] != NULL; argc++) {
        argv[argc] = strcpy(text[argc], word[argc - 1]);
    }
    err = (rf_error){0};
    *g = (given){0};
    return rf_options_parse(&g->first, argc, argv, options, "see program --help", &err);
}

Test(options, of_a_table)
{
    given g;
    cr_assert(parse(&g, (const char *[]){"--size", "3", "--name=x", "--quick", "a=b", NULL}) ==
              RF_OK);
    cr_assert(g.size == 3 && strcmp(g.name, "x") == 0 && g.quick && !g.help && g.first == 5);
    cr_assert(parse(&g, (const char *[]){"--size=3", "--size=4", NULL}) == RF_OK && g.size == 4 &&
              g.name == NULL && !g.quick && g.first == 3);
    cr_assert(parse(&g, (const char *[]){"--item=b", "--quick", "--item", "a", NULL}) == RF_OK);
    cr_assert(g.items.n == 2 && strcmp(g.items.item[0], "b") == 0 &&
              strcmp(g.items.item[1], "a") == 0);
    free(g.items.item);
    cr_assert(parse(&g, (const char *[]){"--help", "--bogus", NULL}) == RF_OK && g.help);
    cr_assert(parse(&g, (const char *[]){"--size=10", NULL}) == RF_ERR_USAGE);
    says("--size 10: must be a whole number from 1 to 9");
    cr_assert(parse(&g, (const char *[]){"--bogus", "--help", NULL}) == RF_ERR_USAGE && !g.help);
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
        const char *word[3], *says;
    } cases[] = {
        {{"--size", NULL}, "--size: needs a value: see program --help"},
        {{"--sise", "3", NULL}, "--sise: unknown option: did you mean --size? see program"},
        {{"--sise=3", NULL}, "--sise=3: unknown option: did you mean --size? see program"},
        {{"--nothing-like-it", NULL}, "--nothing-like-it: unknown option: see program --help"},
        {{"--si", "3", NULL}, "--si: short for several options: see program --help"},
        {{"--quick=3", NULL}, "--quick=3: takes no value"},
        {{"-x", NULL}, "-x: unknown option: see program --help"},
        {{"-zx", NULL}, "-z: unknown option: see program --help"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        given g;
        cr_assert(parse(&g, cases[i].word) == RF_ERR_USAGE);
        says(cases[i].says);
    }
}

Test(options, h_is_help_where_there_is_one)
{
    given g;
    cr_assert(parse(&g, (const char *const[]){"--quick", "-h", "--nothing", NULL}) == RF_OK);
    cr_assert(g.help && g.quick);
    cr_assert(parse(&g, (const char *const[]){"-x", NULL}) == RF_ERR_USAGE);
    static const rf_option none[] = {{0}};
    char name[] = "program", h[] = "-h", *argv[] = {name, h, NULL};
    int first;
    cr_assert(rf_options_parse(&first, 2, argv, none, "see it", &err) == RF_ERR_USAGE);
}
