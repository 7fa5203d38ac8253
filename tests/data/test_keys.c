/* The section `data` of a configuration. */
#include "data/keys.h"

#include "common/base/files/file.h"
#include "tests/data/configured.h"
#include "tests/scratch.h"

#include <criterion/criterion.h>
#include <string.h>

enum { SEED = 7 };

static int from_config(rf_data_settings *out, const char *a, const char *b, rf_error *err)
{
    rf_config *config;
    int rc = configured(&config, rf_data_keys, a, b, err);
    rc = rc == RF_OK ? rf_data_settings_from_config(out, config, SEED, err) : rc;
    rf_config_free(config);
    return rc;
}

Test(settings, reads_the_configuration)
{
    rf_data_settings s;
    rf_error err;
    cr_assert_eq(from_config(&s, "data.train=a.h5,b:c.h5:0.5,/d:2/e.h5:3", "data.valid=v:1", &err),
                 RF_OK, "%s", err.message);
    cr_assert(s.n_train == 3 && s.n_valid == 1);
    cr_assert_str_eq(s.train[0], "a.h5");
    cr_assert_str_eq(s.train[1], "b:c.h5");
    cr_assert_str_eq(s.train[2], "/d:2/e.h5");
    cr_assert_str_eq(s.valid[0], "v:1");
    cr_assert(s.rows.weight[0] == 1 && s.rows.weight[1] == 0.5 && s.rows.weight[2] == 3);
    cr_assert(s.rows.seed == SEED && s.rows.row_length == 1024 && s.rows.window == 4096 &&
              s.rows.overlong == RF_OVERLONG_DROP);
    rf_data_settings_free(&s);
    cr_assert_eq(from_config(&s, "data.overlong=cut", "data.row_length=77", &err), RF_OK, "%s",
                 err.message);
    cr_assert(s.n_train == 0 && s.rows.overlong == RF_OVERLONG_CUT && s.rows.row_length == 77);
    rf_data_settings_free(&s);
    rf_data_settings_free(&s);
}

/* As refusion-data build has it: a file of the whole name is that file. */
Test(settings, a_file_of_the_whole_name_has_no_weight, .init = enter_folder, .fini = leave_folder)
{
    rf_data_settings s;
    rf_error err;
    cr_assert_eq(rf_file_write("my:2024", "", 0, &err), RF_OK, "%s", err.message);
    cr_assert_eq(
        from_config(&s, "data.train=my:2024,my:2025,my:2024:3,my:2024-05,a:1e-1", NULL, &err),
        RF_OK, "%s", err.message);
    const char *const paths[] = {"my:2024", "my", "my:2024", "my:2024-05", "a"};
    const double weights[] = {1, 2025, 3, 1, 0.1};
    for (int i = 0; i < 5; i++) {
        cr_expect_str_eq(s.train[i], paths[i]);
        cr_expect_float_eq(s.rows.weight[i], weights[i], 1e-15, "%s: %g", paths[i],
                           s.rows.weight[i]);
    }
    rf_data_settings_free(&s);
}

Test(settings, refuses_bad_configurations)
{
    const char *bad[] = {"data.train=a.h5,b.h5:0", "data.train=b.h5:-1",   "data.train=b.h5:nan",
                         "data.train=b.h5:inf",    "data.train=b.h5:",     "data.train=:2",
                         "data.row_length=1",      "data.window=0",        "data.overlong=keep",
                         "data.epochs=1",          "data.train=b.h5:0x10", "data.train=b.h5:1e999",
                         "data.train=b.h5:1e-999", "data.train=b.h5:2e6"};
    const char *epochs[] = {"data.epochs=1,2", "data.epochs=0", "data.epochs=0,1,2",
                            "data.epochs=0,-1"};
    for (size_t i = 0; i < sizeof epochs / sizeof *epochs; i++) {
        rf_data_settings s;
        rf_error err = {0};
        cr_assert_eq(from_config(&s, "data.train=a.h5,b.h5", epochs[i], &err), RF_ERR_USAGE, "%s",
                     epochs[i]);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        rf_data_settings s;
        rf_error err = {0};
        cr_assert_eq(from_config(&s, bad[i], NULL, &err), RF_ERR_USAGE, "%s", bad[i]);
        cr_assert(strstr(err.message, "data.") != NULL, "%s", err.message);
    }
}
