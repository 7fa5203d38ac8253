/* common/base/config.h: values, files, printing. */
#include "common/base/config/config.h"

#include "tests/base/config/config_test.h"

#include <float.h>
#include <math.h>
#include <signal.h>

TestSuite(config, .init = begin_folder, .fini = end_folder);

/* --- Values ----------------------------------------------------------------------------------- */

Test(config, presets)
{
    rf_config *config = rf_config_new(tables);
    int64_t n;
    cr_expect(rf_config_int(config, "train.steps") == 1000);
    cr_expect(fabs(rf_config_real(config, "train.lr") - 3e-4) <= 0);
    cr_expect(!rf_config_bool(config, "train.verbose"));
    cr_expect_str_eq(rf_config_string(config, "train.compute"), "f32");
    cr_expect_str_eq(rf_config_string(config, "data.valid"), "");
    cr_expect(rf_config_is(config, "train.compute", "f32"));
    cr_expect(!rf_config_is(config, "train.compute", "bf16"));
    const int64_t *sizes = rf_config_ints(config, "data.slot_sizes", &n);
    cr_expect(n == 2 && sizes[0] == 4 && sizes[1] == 8);
    rf_config_strings(config, "data.train", &n);
    cr_expect(n == 0);
    cr_expect(!rf_config_is_set(config, "train.steps"));
    cr_expect_str_eq(rf_config_origin(config, "train.steps"), "default");
    rf_config_free(config);
    rf_config_free(NULL);
}

Test(config, yaml_of_every_type)
{
    rf_config *config = load("# comment\n"
                             "train:\n"
                             "  steps: 2.5M   # of them\n"
                             "  seed: -9223372036854775808\n"
                             "  lr: 1e-3\n"
                             "  compute: bf16\n"
                             "  verbose: true\n"
                             "data:\n"
                             "  train:\n"
                             "    - a.h5\n"
                             "    - \"b, c.h5\"\n"
                             "  valid: d e.h5\n"
                             "  slot_sizes: [1, 64]\n");
    int64_t n;
    cr_expect(rf_config_int(config, "train.steps") == 2500000);
    cr_expect(rf_config_int(config, "train.seed") == INT64_MIN);
    cr_expect(fabs(rf_config_real(config, "train.lr") - 1e-3) <= 0);
    cr_expect(rf_config_is(config, "train.compute", "bf16"));
    cr_expect(rf_config_bool(config, "train.verbose"));
    cr_expect_str_eq(rf_config_string(config, "data.valid"), "d e.h5");
    const char *const *files = rf_config_strings(config, "data.train", &n);
    cr_assert(n == 2);
    cr_expect_str_eq(files[0], "a.h5");
    cr_expect_str_eq(files[1], "b, c.h5");
    const int64_t *sizes = rf_config_ints(config, "data.slot_sizes", &n);
    cr_expect(n == 2 && sizes[0] == 1 && sizes[1] == 64);
    cr_expect_str_eq(rf_config_origin(config, "train.steps"), "a.yaml:3:3");
    cr_expect_str_eq(rf_config_origin(config, "data.train"), "a.yaml:9:3");
    cr_expect(rf_config_is_set(config, "data.train") && !rf_config_is_set(config, "train.late"));
    rf_config_free(config);
}

Test(config, later_loads_override)
{
    rf_config *config = load("train: {steps: 1, lr: 0.5}\ndata: {slot_sizes: [1, 2, 3]}\n");
    rf_error err = {0};
    cr_expect(rf_config_load_text(config, "train: {steps: 2}\ndata: {slot_sizes: 7}\n", "b.yaml",
                                  &err) == RF_OK);
    set(config, "train.late=3");
    int64_t n;
    cr_expect(rf_config_int(config, "train.steps") == 2);
    cr_expect(fabs(rf_config_real(config, "train.lr") - 0.5) <= 0);
    cr_expect(rf_config_ints(config, "data.slot_sizes", &n)[0] == 7 && n == 1);
    cr_expect_str_eq(rf_config_origin(config, "train.steps"), "b.yaml:1:9");
    cr_expect_str_eq(rf_config_origin(config, "train.lr"), "a.yaml:1:19");
    cr_expect_str_eq(rf_config_origin(config, "train.late"), "command line");
    rf_config_free(config);
}

Test(config, command_line_of_every_type)
{
    rf_config *config = rf_config_new(tables);
    int64_t n;
    set(config, "train.steps=1e3");
    set(config, "train.lr=.5");
    set(config, "train.compute=no");
    set(config, "train.verbose=true");
    set(config, "data.valid=a=b, c");
    set(config, "data.train=a.h5, b.h5");
    cr_expect(rf_config_int(config, "train.steps") == 1000);
    cr_expect(fabs(rf_config_real(config, "train.lr") - 0.5) <= 0);
    cr_expect(rf_config_is(config, "train.compute", "no"));
    cr_expect_str_eq(rf_config_string(config, "data.valid"), "a=b, c");
    const char *const *files = rf_config_strings(config, "data.train", &n);
    cr_assert(n == 2);
    cr_expect_str_eq(files[1], "b.h5");
    set(config, "data.train= a.h5 ,b.h5  ");
    files = rf_config_strings(config, "data.train", &n);
    cr_assert(n == 2);
    cr_expect_str_eq(files[0], "a.h5");
    cr_expect_str_eq(files[1], "b.h5");
    set(config, "data.train= [a.h5]");
    cr_expect_str_eq(rf_config_strings(config, "data.train", &n)[0], "a.h5");
    set(config, "data.train=[a.h5, \"b,c.h5\", '']");
    files = rf_config_strings(config, "data.train", &n);
    cr_assert(n == 3);
    cr_expect_str_eq(files[1], "b,c.h5");
    cr_expect_str_eq(files[2], "");
    set(config, "data.train=");
    rf_config_strings(config, "data.train", &n);
    cr_expect(n == 0);
    set(config, "data.slot_sizes=[]");
    rf_config_ints(config, "data.slot_sizes", &n);
    cr_expect(n == 0);
    set(config, "data.valid=");
    cr_expect_str_eq(rf_config_string(config, "data.valid"), "");
    rf_config_free(config);
}

/* Integers are exact and never pass through a double. */
Test(config, integers)
{
    static const struct {
        const char *text;
        int64_t value;
    } good[] = {
        {"0", 0},
        {"-0", 0},
        {"+7", 7},
        {"007", 7},
        {"1e3", 1000},
        {"1E+3", 1000},
        {"2K", 2000},
        {"1.5M", 1500000},
        {"0.001G", 1000000},
        {"1e3K", 1000000},
        {"25e-1K", 2500},
        {"1.000", 1},
        {"100e-2", 1},
        {"0e99999", 0},
        {"0.000e-7", 0},
        {"9223372036854775807", INT64_MAX},
        {"-9223372036854775808", INT64_MIN},
        {"9007199254740993", 9007199254740993},
        {"-1e18", -1000000000000000000},
        {"0000000000000000000000000000000000000000000000000000000000000000000000000001", 1},
    };
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        char text[200];
        snprintf(text, sizeof text, "train: {seed: %s}", good[i].text);
        rf_config *config = load(text);
        cr_expect(rf_config_int(config, "train.seed") == good[i].value, "%s", text);
        rf_config_free(config);
    }
    static const char *const bad[] = {
        "x",
        "1.5",
        "1e-1",
        "0.5K0",
        "1KK",
        "1k",
        "K",
        ".",
        "-",
        "+",
        "1e",
        "1e+",
        "--1",
        "1_000",
        "0x10",
        "1 000",
        "1,5",
        "9223372036854775808",
        "-9223372036854775809",
        "1e19",
        "10000000000G",
        "1e999999999999999999999",
        "1e-999999999999",
        "nan",
        "inf",
        ".inf",
        ".nan",
        "true",
        "99999999999999999999999999999999999999999999999999999999999999999999999999999999999999",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char text[200];
        snprintf(text, sizeof text, "train.seed=%s", bad[i]);
        expect_set_refused(text, "train.seed: '");
    }
    expect_set_refused("train.seed=", "train.seed: ''");
}

Test(config, reals)
{
    static const char *const bad[] = {"nan",
                                      "NaN",
                                      "inf",
                                      "-inf",
                                      "infinity",
                                      ".inf",
                                      ".nan",
                                      "1e309",
                                      "-1e400",
                                      "1e-400",
                                      "0x1p3",
                                      "1.2.3",
                                      "1e",
                                      "",
                                      "1 2",
                                      "1f",
                                      "1K",
                                      "e5",
                                      "1e99999999999999999999"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char text[200];
        snprintf(text, sizeof text, "train.shift=%s", bad[i]);
        expect_set_refused(text, "train.shift: '");
    }
    static const double good[] = {0.0,     1.0,      -2.5, 1e-300,    DBL_MAX, -DBL_MAX,
                                  DBL_MIN, 4.9e-324, 0.1,  1.0 / 3.0, 3e-4,    123456789.123456789};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        char text[200];
        snprintf(text, sizeof text, "train.shift=%.17g", good[i]);
        rf_config *config = rf_config_new(tables);
        set(config, text);
        char *printed = rf_config_text(config, false);
        rf_config *again = load(printed);
        cr_expect(fabs(rf_config_real(again, "train.shift") - good[i]) <= 0, "%s", text);
        free(printed);
        rf_config_free(config);
        rf_config_free(again);
    }
}

Test(config, ranges_are_inclusive)
{
    rf_config *config = rf_config_new(tables);
    set(config, "train.lr=0");
    set(config, "train.lr=1");
    set(config, "train.steps=1");
    set(config, "train.steps=1e15");
    set(config, "data.slot_sizes=1,64");
    rf_config_free(config);
}

Test(config, ranges)
{
    expect_refused(
        "train:\n  steps: 0\n",
        "a.yaml:2:10: train.steps: '0' is not possible here: write an integer from 1 to");
    expect_refused("train:\n  lr: 1.0001\n", "a.yaml:2:7: train.lr: '1.0001'");
    expect_refused("train:\n  lr: -1e-9\n", "number from 0 to 1");
    expect_refused("data:\n  slot_sizes: [4, 65]\n", "a.yaml:2:19: data.slot_sizes: '65'");
    expect_refused("train: {compute: fp32}\n", "one of f32, bf16, no (did you mean f32?)");
    expect_refused("train: {compute: double}\n", "one of f32, bf16, no");
    expect_refused("train: {compute: 'f32|bf16'}\n", "one of f32, bf16, no");
    expect_refused("train: {compute: ''}\n", "one of f32, bf16, no");
    expect_refused("train: {verbose: yes}\n", "true or false");
}

Test(config, files)
{
    rf_config *config = rf_config_new(tables);
    rf_error err = {0};
    const char *path = in_folder("a.yaml");
    static const char windows[] = "\xEF\xBB\xBFtrain:\r\n  steps: 6\r\n";
    char says[600];
    cr_expect(rf_config_load(config, path, &err) == RF_ERR);
    EXPECT_SAYS(&err, "No such file");
    cr_expect(rf_config_load(config, folder, &err) == RF_ERR);
    put_file(path, "train: {steps: 5}\0", 18);
    cr_expect(rf_config_load(config, path, &err) == RF_ERR_USAGE);
    EXPECT_SAYS(&err, "0 byte at offset 17");
    char *large = malloc(3 << 20);
    memset(large, '#', 3 << 20);
    put_file(path, large, 3 << 20);
    free(large);
    cr_expect(rf_config_load(config, path, &err) == RF_ERR);
    EXPECT_SAYS(&err, "larger than");
    put_file(path, windows, sizeof windows - 1);
    cr_expect(rf_config_load(config, path, &err) == RF_OK, "%s", err.message);
    cr_expect(rf_config_int(config, "train.steps") == 6);
    snprintf(says, sizeof says, "%s:2:3", path);
    cr_expect_str_eq(rf_config_origin(config, "train.steps"), says);
    rf_config_free(config);
}

/* --- Printing --------------------------------------------------------------------------------- */

static void expect_round_trip(rf_config *config, bool with_origins)
{
    char *text = rf_config_text(config, with_origins);
    rf_config *again = rf_config_new(tables);
    rf_error err = {0};
    cr_assert(rf_config_load_text(again, text, "copy", &err) == RF_OK, "%s in\n%s", err.message,
              text);
    for (int t = 0; t < 2; t++) {
        for (const rf_config_key *key = tables[t]; key->name != NULL; key++) {
            cr_expect(rf_config_is_set(again, key->name), "%s", key->name);
        }
    }
    cr_expect(rf_config_conflict(config, again, NULL, 0) == NULL, "%s in\n%s",
              rf_config_conflict(config, again, NULL, 0), text);
    char *text_again = rf_config_text(again, false);
    char *plain = rf_config_text(config, false);
    cr_expect_str_eq(text_again, plain);
    free(plain);
    free(text_again);
    free(text);
    rf_config_free(again);
}

Test(config, printed_settings_load_as_the_same)
{
    rf_config *config = rf_config_new(tables);
    expect_round_trip(config, false);
    expect_round_trip(config, true);
    static const char *const texts[] = {"",
                                        " ",
                                        "null",
                                        "~",
                                        "true",
                                        "5",
                                        "- a",
                                        "a: b",
                                        "# x",
                                        "*x",
                                        "&x",
                                        "!x",
                                        "%x",
                                        "@",
                                        "`",
                                        "'",
                                        "\"",
                                        "\\",
                                        "\\n",
                                        "a\nb",
                                        "\t",
                                        "\r\n",
                                        "\x01\x1f\x7f",
                                        "[a, b]",
                                        "{a}",
                                        "a,b",
                                        "\xC2\x85",
                                        "\xC2\xA0",
                                        "\xE2\x80\xA8\xE2\x80\xA9",
                                        "\xEF\xBB\xBF",
                                        "\xEF\xBF\xBE",
                                        "\xEF\xBF\xBF",
                                        "\xC3\xA4\xE2\x82\xAC",
                                        "\xF0\x9F\x98\x80",
                                        "\xF4\x8F\xBF\xBF",
                                        "\xEE\x80\x80",
                                        "\xED\x9F\xBF",
                                        "---",
                                        "...",
                                        "a #b",
                                        " lead",
                                        "a \xE2\x80\xA8 b",
                                        "a \xC2\x85 b",
                                        "trail ",
                                        "<<",
                                        "=",
                                        "|",
                                        ">"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        char assignment[100];
        snprintf(assignment, sizeof assignment, "data.valid=%s", texts[i]);
        set(config, assignment);
        expect_round_trip(config, false);
        expect_round_trip(config, true);
    }
    set(config, "train.seed=-9223372036854775808");
    set(config, "train.shift=-1.7976931348623157e308");
    set(config, "train.compute=no");
    set(config, "data.train=['', 'a,b', \"x\\ny\", null_, ' # ']");
    set(config, "data.slot_sizes=");
    expect_round_trip(config, false);
    rf_config_free(config);
}

/* An origin is a comment; a path with a line end must not become YAML. */
Test(config, origins_stay_comments)
{
    rf_config *config = rf_config_new(tables);
    rf_error err = {0};
    cr_expect(rf_config_load_text(config, "train: {late: 2}", "x\ntrain: {late: 3}", &err) ==
              RF_OK);
    expect_round_trip(config, true);
    char *text = rf_config_text(config, true);
    cr_expect(strstr(text, "  late: 2  # x?train: {late: 3}:1:9\n") != NULL, "%s", text);
    cr_expect(strstr(text, "  steps: 1000  # default\n") != NULL, "%s", text);
    cr_expect(strstr(text, "train:\n") == text, "%s", text);
    free(text);
    rf_config_free(config);
}

/* What follows from other values says so, but where it only says again what was set. */
Test(config, derived_values_keep_an_origin)
{
    rf_config *config = rf_config_new(tables);
    rf_error err = {0};
    const char *name = "train.steps";
    cr_assert(rf_config_set(config, "train.steps=7", &err) == RF_OK);
    cr_assert(rf_config_derive(config, "train.steps=7", "from others", &err) == RF_OK);
    cr_expect_str_eq(rf_config_origin(config, name), "command line");
    cr_assert(rf_config_derive(config, "train.steps=8", "from others", &err) == RF_OK);
    cr_expect(rf_config_int(config, name) == 8);
    cr_expect_str_eq(rf_config_origin(config, name), "from others");
    cr_assert(rf_config_derive(config, "train.steps=x", "from others", &err) == RF_ERR_USAGE);
    cr_expect(strncmp(err.message, "from others: train.steps: ", 26) == 0, "%s", err.message);
    rf_config_free(config);
}

Test(config, help_names_every_key)
{
    rf_config *config = rf_config_new(tables);
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    rf_config_help(config, out, true);
    fclose(out);
    for (int t = 0; t < 2; t++) {
        for (const rf_config_key *key = tables[t]; key->name != NULL; key++) {
            cr_expect(strstr(text, key->name) != NULL && strstr(text, key->help) != NULL, "%s",
                      key->name);
        }
    }
    cr_expect(strstr(text, "integer from 1 to 1e15; default 1K; may change on resume") != NULL,
              "%s", text);
    cr_expect(strstr(text, "one of f32, bf16, no; default f32\n") != NULL, "%s", text);
    cr_expect(strstr(text, "list of integers, each from 1 to 64; default 4,8\n") != NULL, "%s",
              text);
    cr_expect(strstr(text, "text; default empty\n") != NULL, "%s", text);
    free(text);
    rf_config_free(config);
}

Test(config, conflicts)
{
    rf_config *a = rf_config_new(tables), *b = rf_config_new(tables);
    cr_expect(rf_config_conflict(a, b, NULL, 0) == NULL);
    set(b, "train.steps=77"); /* may change */
    set(b, "train.verbose=true");
    set(b, "train.lr=0.0003"); /* the same in other words */
    set(b, "data.slot_sizes=[4,8]");
    cr_expect(rf_config_conflict(a, b, NULL, 0) == NULL);
    static const char *const changes[] = {
        "train.seed=1", "train.lr=0.0004",   "train.compute=no",   "data.valid=x",
        "data.train=x", "data.slot_sizes=4", "data.slot_sizes=4,9"};
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        rf_config *c = rf_config_new(tables);
        set(c, changes[i]);
        const char *name = rf_config_conflict(a, c, NULL, 0);
        cr_assert(name != NULL, "%s", changes[i]);
        cr_expect(strncmp(name, changes[i], strlen(name)) == 0, "%s", name);
        rf_config_free(c);
    }
    rf_config_free(a);
    rf_config_free(b);
}

/* --- Broken invariants ------------------------------------------------------------------------ */

Test(config, key_that_is_not_declared, .signal = SIGABRT)
{
    rf_config_int(rf_config_new(tables), "train.none");
}

Test(config, key_of_another_type, .signal = SIGABRT)
{
    rf_config_int(rf_config_new(tables), "train.lr");
}

Test(config, choice_that_is_none, .signal = SIGABRT)
{
    rf_config_is(rf_config_new(tables), "train.compute", "f23");
}

Test(config, key_declared_twice, .signal = SIGABRT)
{
    const rf_config_key *const twice[] = {train_keys, train_keys, NULL};
    rf_config_new(twice);
}

Test(config, preset_out_of_range, .signal = SIGABRT)
{
    static const rf_config_key keys[] = {{"a.b", RF_KEY_INT, "9", 1, 8, NULL, 0, 0, 0, "x"}, {0}};
    const rf_config_key *const table[] = {keys, NULL};
    rf_config_new(table);
}

/* --- Fields of a struct ----------------------------------------------------------------------- */

typedef enum shape { ROUND, FLAT, SHARP } shape;

typedef struct settings {
    bool loud, is_second, untouched;
    int64_t size;
    uint64_t seed;
    double rate;
    const char *path, *word;
    shape shape;
} settings;

#define AT(field) RF_CONFIG_FIELD(settings, field)
static const rf_config_key field_keys[] = {
    {"f.loud", RF_KEY_BOOL, "true", 0, 0, NULL, 0, AT(loud), "x"},
    {"f.is_second", RF_KEY_CHOICE, "yes", 0, 0, "no|yes", 0, AT(is_second), "x"},
    {"f.untouched", RF_KEY_BOOL, "true", 0, 0, NULL, 0, RF_CONFIG_NO_FIELD, "x"},
    {"f.size", RF_KEY_INT, "-7", -9, 9, NULL, 0, AT(size), "x"},
    {"f.seed", RF_KEY_INT, "9e15", 0, 9e15, NULL, 0, AT(seed), "x"},
    {"f.rate", RF_KEY_REAL, "0.5", 0, 1, NULL, 0, AT(rate), "x"},
    {"f.path", RF_KEY_STRING, "a b", 0, 0, NULL, 0, AT(path), "x"},
    {"f.word", RF_KEY_CHOICE, "cpu", 0, 0, "auto|cpu", 0, AT(word), "x"},
    {"f.shape", RF_KEY_CHOICE, "sharp", 0, 0, "round|flat|sharp", 0, AT(shape), "x"},
    {0}};
static const rf_config_key *const field_tables[] = {field_keys, NULL};

Test(config, fields_get_values)
{
    rf_config *config = rf_config_new(field_tables);
    settings s = {0};
    rf_config_fill(&s, config, field_keys, false);
    cr_expect(s.loud && s.is_second && !s.untouched);
    cr_expect(s.size == -7 && s.seed == UINT64_C(9000000000000000) && s.shape == SHARP);
    cr_expect(s.rate > 0.49 && s.rate < 0.51);
    cr_expect_str_eq(s.path, "a b");
    cr_expect_str_eq(s.word, "cpu");
    rf_config_free(config);
}

Test(config, only_keys_that_are_set_change_fields)
{
    rf_config *config = rf_config_new(field_tables);
    rf_error err = {0};
    settings s = {.size = 3, .shape = FLAT};
    cr_assert(rf_config_set(config, "f.shape=round", &err) == RF_OK, "%s", err.message);
    rf_config_fill(&s, config, field_keys, true);
    cr_expect(s.size == 3 && s.shape == ROUND && !s.loud);
    rf_config_free(config);
}

/* A bound that is far off is told to who is beyond it, and to nobody else. */
Test(config, far_bounds)
{
    static const rf_config_key keys[] = {
        {"a.b", RF_KEY_REAL, "1", 0, 1e38, NULL, 0, RF_CONFIG_NO_FIELD, "x"}, {0}};
    const rf_config_key *const table[] = {keys, NULL};
    rf_config *config = rf_config_new(table);
    rf_error err = {0};
    cr_assert(rf_config_set(config, "a.b=1e300", &err) != RF_OK);
    cr_assert_not_null(strstr(err.message, "write a number from 0 to 1e38"), "%s", err.message);
    cr_assert(rf_config_set(config, "a.b=-1", &err) != RF_OK);
    cr_assert_not_null(strstr(err.message, "write a number of at least 0"), "%s", err.message);
    rf_config_free(config);
}

Test(config, field_of_another_size, .signal = SIGABRT)
{
    static const rf_config_key keys[] = {{"a.b", RF_KEY_INT, "1", 1, 8, NULL, 0, AT(loud), "x"},
                                         {0}};
    const rf_config_key *const table[] = {keys, NULL};
    settings s;
    rf_config_fill(&s, rf_config_new(table), keys, false);
}
