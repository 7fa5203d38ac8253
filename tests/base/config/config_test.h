/* config_test.h: the tables of keys that the tests of the configuration use, and short forms. */
#ifndef RF_TESTS_CONFIG_TEST_H
#define RF_TESTS_CONFIG_TEST_H

#include "common/base/config/config.h"
#include "tests/base/base_test.h"

#include <math.h>

static const rf_config_key train_keys[] = {
    {"train.steps", RF_KEY_INT, "1K", 1, 1e15, NULL, RF_KEY_MAY_CHANGE, 0, 0, "optimizer steps"},
    {"train.seed", RF_KEY_INT, "0", -1e30, 1e30, NULL, 0, 0, 0, "seed of all noise"},
    {"train.lr", RF_KEY_REAL, "3e-4", 0, 1, NULL, 0, 0, 0, "peak learning rate"},
    {"train.shift", RF_KEY_REAL, "0", -HUGE_VAL, HUGE_VAL, NULL, 0, 0, 0, "any number"},
    {"train.compute", RF_KEY_CHOICE, "f32", 0, 0, "f32|bf16|no", 0, 0, 0, "type of products"},
    {"train.verbose", RF_KEY_BOOL, "false", 0, 0, NULL, RF_KEY_MAY_CHANGE, 0, 0, "say more"},
    {0}};
static const rf_config_key data_keys[] = {
    {"data.train", RF_KEY_STRINGS, "", 0, 0, NULL, 0, 0, 0, "corpus files"},
    {"data.valid", RF_KEY_STRING, "", 0, 0, NULL, 0, 0, 0, "held-out corpus"},
    {"data.slot_sizes", RF_KEY_INTS, "4,8", 1, 64, NULL, 0, 0, 0, "slot sizes"},
    {"train.late", RF_KEY_INT, "1", 0, 9, NULL, 0, 0, 0, "a key of an earlier section"},
    {0}};
static const rf_config_key *const tables[] = {train_keys, data_keys, NULL};

/* Loads text, which must work. */
static inline rf_config *load(const char *text)
{
    rf_config *config = rf_config_new(tables);
    rf_error err = {0};
    cr_assert(rf_config_load_text(config, text, "a.yaml", &err) == RF_OK, "%s", err.message);
    return config;
}

/* Loads text, which must fail, say this, and change nothing. */
static inline void expect_refused(const char *text, const char *says)
{
    rf_config *config = rf_config_new(tables);
    char *before = rf_config_text(config, true);
    rf_error err = {0};
    cr_expect(rf_config_load_text(config, text, "a.yaml", &err) == RF_ERR_USAGE, "accepted: %s",
              text);
    EXPECT_SAYS(&err, says);
    cr_expect(strchr(err.message, '\n') == NULL, "%s", err.message);
    char *after = rf_config_text(config, true);
    cr_expect_str_eq(after, before);
    free(before);
    free(after);
    rf_config_free(config);
}

static inline void expect_set_refused(const char *assignment, const char *says)
{
    rf_config *config = rf_config_new(tables);
    rf_error err = {0};
    cr_expect(rf_config_set(config, assignment, &err) == RF_ERR_USAGE, "accepted: %s", assignment);
    EXPECT_SAYS(&err, says);
    EXPECT_SAYS(&err, "command line: ");
    cr_expect(!rf_config_is_set(config, "train.steps"));
    rf_config_free(config);
}

static inline void set(rf_config *config, const char *assignment)
{
    rf_error err = {0};
    cr_assert(rf_config_set(config, assignment, &err) == RF_OK, "%s", err.message);
}

#endif
