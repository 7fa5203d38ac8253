/* Fuzz target of the configuration: YAML, the command line, printing.
 *
 * Up to the first line that is "%%" the input is a file; every line behind it is an assignment.
 * The keys are those of training, and one of every type.
 * What is accepted must print as YAML that loads as the same; what is refused must say why in one
 * line.
 */
#include "data/keys.h"
#include "data/objective.h"
#include "infer/decode/options.h"
#include "tests/fuzz/fuzz.h"
#include "train/train_settings.h"

static const rf_config_key keys[] = {
    {"a.bool", RF_KEY_BOOL, "true", 0, 0, NULL, 0, 0, 0, "x"},
    {"a.int", RF_KEY_INT, "1", -1e30, 1e30, NULL, 0, 0, 0, "x"},
    {"a.small", RF_KEY_INT, "1", 0, 9, NULL, 0, 0, 0, "x"},
    {"a.real", RF_KEY_REAL, "1", -1e308, 1e308, NULL, 0, 0, 0, "x"},
    {"b.string", RF_KEY_STRING, "", 0, 0, NULL, 0, 0, 0, "x"},
    {"b.choice", RF_KEY_CHOICE, "no", 0, 0, "no|true|null", 0, 0, 0, "x"},
    {"b.ints", RF_KEY_INTS, "4,8", -1e30, 1e30, NULL, 0, 0, 0, "x"},
    {"b.strings", RF_KEY_STRINGS, "", 0, 0, NULL, 0, 0, 0, "x"},
    {0}};
/* Declaring all keys takes most of the time: half of the inputs meet one of each type only. */
static const rf_config_key *const few[] = {keys, NULL};
static const rf_config_key *const all[] = {
    keys, rf_model_keys, rf_data_keys, rf_objective_keys, rf_train_keys, rf_decode_keys, NULL};
static const rf_config_key *const *tables;

static void check(const rf_error *err, int rc)
{
    RF_ASSERT(rc == RF_OK || rc == RF_ERR_USAGE);
    fuzz_check(err, rc);
}

static void check_round_trip(const rf_config *config, bool with_origins)
{
    rf_config *again = rf_config_new(tables);
    char *text = rf_config_text(config, with_origins);
    rf_error err = {0};
    RF_ASSERT(rf_config_load_text(again, text, "again", &err) == RF_OK);
    RF_ASSERT(rf_config_conflict(config, again, NULL, 0) == NULL);
    free(text);
    rf_config_free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = fuzz_text(data, size), *line = fuzz_cut(text);
    tables = size % 2 == 0 ? few : all;
    rf_config *config = rf_config_new(tables);
    rf_error err = {0};
    int rc = rf_config_load_text(config, text, "a.yaml", &err);
    check(&err, rc);
    bool is_changed = rc == RF_OK;
    while (line != NULL) {
        char *end = strchr(line, '\n');
        if (end != NULL) {
            *end = '\0';
        }
        rc = rf_config_set(config, line, &err);
        check(&err, rc);
        is_changed = is_changed || rc == RF_OK;
        line = end != NULL ? end + 1 : NULL;
    }
    if (is_changed) {
        check_round_trip(config, size % 4 >= 2);
    }
    rf_config_free(config);
    free(text);
    return 0;
}
