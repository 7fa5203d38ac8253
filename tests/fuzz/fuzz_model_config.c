/* Fuzz target of config.json: the input is the file. What is accepted comes back the same from its
 * own text, and its table of tensors can be built. */
#include "common/model/table.h"
#include "tests/fuzz/fuzz.h"

static void use(const rf_model_config *config)
{
    rf_error err = {0};
    rf_model_config again, other;
    char difference[256];
    char *text = rf_model_config_json(config);
    fuzz_must(rf_model_config_check(config, &err), &err);
    RF_ASSERT(text != NULL);
    fuzz_must(rf_model_config_parse(&again, text, strlen(text), "again", &err), &err);
    RF_ASSERT(rf_model_config_same_shape(config, &again, difference, sizeof difference));
    RF_ASSERT(memcmp(&again.rope, &config->rope, sizeof again.rope) == 0);
    free(text);
    fuzz_check(&err, rf_model_config_express(&other, config, &err));
    if (config->num_hidden_layers <= 64) {
        rf_table table;
        int rc = rf_table_build(&table, config, &err);
        fuzz_check(&err, rc);
        for (int64_t i = 0; rc == RF_OK && i < table.n_tensors; i++) {
            RF_ASSERT(table.tensor[i].count > 0);
            RF_ASSERT(rf_table_find(&table, table.tensor[i].name) == &table.tensor[i]);
        }
        rf_table_free(&table);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    rf_model_config config;
    rf_error err = {0};
    char *text = fuzz_text(data, size);
    int rc = rf_model_config_parse(&config, text, size, "config.json", &err);
    fuzz_check(&err, rc);
    if (rc == RF_OK) {
        use(&config);
    } else {
        RF_ASSERT(strncmp(err.message, "config.json: ", 13) == 0 ||
                  strncmp(err.message, "config.json:", 12) == 0);
    }
    free(text);
    return 0;
}
