/* Fuzz target of the configuration: YAML, the command line, printing.
 *
 *   clang -g -O1 -std=c17 -D_GNU_SOURCE -I. -fsanitize=fuzzer,address,undefined \
 *       tests/fuzz/fuzz_config.c common/base/{config*,error,file,lines}.c -lyaml -lz -o fuzz_config
 *   ./fuzz_config -max_total_time=60
 *
 * Up to the first line that is "%%" the input is a file; every line behind it is an assignment.
 * What is accepted must print as YAML that loads as the same; what is refused must say why in one
 * line.
 */
#include "common/base/config.h"

#include <stdlib.h>
#include <string.h>

static const rf_config_key keys[] = {
    {"a.bool", RF_KEY_BOOL, "true", 0, 0, NULL, 0, "x"},
    {"a.int", RF_KEY_INT, "1", -1e30, 1e30, NULL, 0, "x"},
    {"a.small", RF_KEY_INT, "1", 0, 9, NULL, 0, "x"},
    {"a.real", RF_KEY_REAL, "1", -1e308, 1e308, NULL, 0, "x"},
    {"b.string", RF_KEY_STRING, "", 0, 0, NULL, 0, "x"},
    {"b.choice", RF_KEY_CHOICE, "no", 0, 0, "no|true|null", 0, "x"},
    {"b.ints", RF_KEY_INTS, "4,8", -1e30, 1e30, NULL, 0, "x"},
    {"b.strings", RF_KEY_STRINGS, "", 0, 0, NULL, 0, "x"},
    {0}};
static const rf_config_key *const tables[] = {keys, NULL};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const rf_error *err, int rc)
{
    if (rc == RF_OK) {
        return;
    }
    RF_ASSERT(rc == RF_ERR_USAGE && err->code == rc);
    RF_ASSERT(err->message[0] != '\0' && strlen(err->message) < sizeof err->message);
}

static void check_round_trip(const rf_config *config, bool with_origins)
{
    rf_config *again = rf_config_new(tables);
    char *text = rf_config_text(config, with_origins);
    rf_error err = {0};
    RF_ASSERT(rf_config_load_text(again, text, "again", &err) == RF_OK);
    RF_ASSERT(rf_config_conflict(config, again) == NULL);
    free(text);
    rf_config_free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1);
    memcpy(text, data, size);
    text[size] = '\0';
    char *line = strstr(text, "\n%%\n");
    if (line != NULL) {
        *line = '\0';
        line += 4;
    }
    rf_config *config = rf_config_new(tables);
    rf_error err = {0};
    check(&err, rf_config_load_text(config, text, "a.yaml", &err));
    while (line != NULL) {
        char *end = strchr(line, '\n');
        if (end != NULL) {
            *end = '\0';
        }
        check(&err, rf_config_set(config, line, &err));
        line = end != NULL ? end + 1 : NULL;
    }
    check_round_trip(config, false);
    check_round_trip(config, true);
    rf_config_free(config);
    free(text);
    return 0;
}
