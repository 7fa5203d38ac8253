/* Fuzz target of conversations: the first byte chooses the form, the rest is a JSON object with
 * "messages", "tools" and what else `render` and a file of prompts may hold. Every turn of what is
 * accepted can be rendered, or is refused with a reason. */
#include "common/text/chat.h"
#include "infer/questions.h"
#include "tests/fuzz/fuzz.h"

#include <jansson.h>

static void render(const json_t *root, const char *form)
{
    rf_error err = {0};
    rf_turn *turn;
    int64_t n;
    const json_t *tools = json_object_get(root, "tools");
    rf_chat chat;
    fuzz_must(rf_chat_open(&chat, form, NULL, NULL, "form", &err), &err);
    const rf_render_options options = {
        .tools = json_is_array(tools) ? tools : NULL,
        .add_generation_prompt = json_is_true(json_object_get(root, "add_generation_prompt")),
        .thinking = json_is_false(json_object_get(root, "enable_thinking")) ? RF_THINKING_OFF
                                                                            : RF_THINKING_UNSET};
    int rc = rf_chat_turns(&turn, &n, json_object_get(root, "messages"), &err);
    fuzz_check(&err, rc);
    if (rc != RF_OK) {
        rf_chat_free(&chat);
        return;
    }
    rf_text text = {0};
    fuzz_check(&err, rf_chat_render(&chat, &text, "<b>", "<e>", turn, n, &options, &err));
    rf_render_options asks = options;
    asks.add_generation_prompt = true;
    for (int64_t i = 2; i <= n; i++) {
        rf_text prompt = {0};
        rc = rf_chat_render(&chat, &prompt, "<b>", "<e>", turn, i - 1, &asks, &err);
        fuzz_check(&err, rc);
        if (rc == RF_OK) {
            fuzz_check(
                &err, rf_chat_render_answer(&chat, &text, &prompt, "<e>", turn, i, &options, &err));
        }
        rf_text_free(&prompt);
    }
    rf_text_free(&text);
    rf_chat_free(&chat);
    free(turn);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static rf_tokenizer *tokenizer;
    rf_error err = {0};
    if (size < 1) {
        return 0;
    }
    if (tokenizer == NULL) {
        fuzz_must(rf_tokenizer_load(&tokenizer, "byte", &err), &err);
    }
    static const char *const forms[] = {"plain", "chatml", "qwen2.5",
                                        "qwen3", "llama3", "llama3.1"};
    char *line = fuzz_text(data + 1, size - 1);
    json_t *root = json_loadb(line, size - 1, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
    if (root != NULL) {
        render(root, forms[data[0] % 6]);
    }
    rf_question prompt;
    int rc = rf_question_from_json(&prompt, tokenizer, line, size - 1, "a.jsonl:1", &err);
    fuzz_check(&err, rc);
    if (rc == RF_OK) {
        RF_ASSERT(prompt.ids.n > 0 && prompt.item.query != NULL);
        rf_question_free(&prompt);
    }
    json_decref(root);
    free(line);
    return 0;
}
