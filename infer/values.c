#include "infer/values.h"

#include <jansson.h>

json_t *rf_value_json(const rf_config *config, const rf_config_key *key)
{
    switch (key->type) {
    case RF_KEY_BOOL:
        return json_boolean(rf_config_bool(config, key->name));
    case RF_KEY_INT:
        return json_integer(rf_config_int(config, key->name));
    case RF_KEY_REAL:
        return json_real(rf_config_real(config, key->name));
    case RF_KEY_STRING:
    case RF_KEY_CHOICE:
        return json_string(rf_config_string(config, key->name));
    case RF_KEY_INTS:
    case RF_KEY_STRINGS:
        break;
    }
    int64_t n = 0;
    json_t *list = json_array();
    if (key->type == RF_KEY_INTS) {
        const int64_t *number = rf_config_ints(config, key->name, &n);
        for (int64_t i = 0; i < n; i++) {
            json_array_append_new(list, json_integer(number[i]));
        }
    } else {
        const char *const *text = rf_config_strings(config, key->name, &n);
        for (int64_t i = 0; i < n; i++) {
            json_array_append_new(list, json_string(text[i]));
        }
    }
    return list;
}
