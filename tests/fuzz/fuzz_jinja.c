/* Fuzz target of chat templates: what is parsed is rendered for a conversation; it prints valid UTF-8, or
 * is refused with a reason, within its bounds. */
#include "common/base/utf8.h"
#include "common/text/jinja/jinja.h"
#include "tests/fuzz/fuzz.h"

#include <jansson.h>

static const char variables_text[] =
    "{\"messages\": [{\"role\": \"system\", \"content\": \"s\"}, {\"role\": \"user\", \"content\": "
    "\"a \\u00e9\\ud83d\\ude00\\n\"}, {\"role\": \"assistant\", \"content\": "
    "\"<think>x</think>b\", "
    "\"tool_calls\": [{\"function\": {\"name\": \"f\", \"arguments\": {\"x\": [1, 2.5, null, "
    "true]}}}]}], "
    "\"tools\": null, \"add_generation_prompt\": true, \"bos_token\": \"<s>\", \"eos_token\": "
    "\"</s>\"}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static json_t *variables;
    rf_error err = {0};
    rf_jinja *template;
    size_t bad;
    if (variables == NULL) {
        variables = json_loads(variables_text, 0, NULL);
        RF_ASSERT(variables != NULL);
    }
    if (size > 4096 || !rf_utf8_is_valid((const char *)data, size, &bad)) {
        return 0; /* templates come from JSON, which is UTF-8 */
    }
    int rc = rf_jinja_parse(&template, (const char *)data, size, "fuzz", &err);
    fuzz_check(&err, rc);
    if (rc == RF_OK) {
        rf_text text = {0}, is_said = {0};
        rc = rf_jinja_render(template, &text, &is_said, variables, NULL, NULL, NULL, &err);
        fuzz_check(&err, rc);
        RF_ASSERT(rc != RF_OK || text.bytes == 0 || rf_utf8_is_valid(text.data, text.bytes, &bad));
        RF_ASSERT(is_said.bytes == text.bytes);
        rf_text_free(&text);
        rf_text_free(&is_said);
        rf_jinja_free(template);
    }
    return 0;
}
