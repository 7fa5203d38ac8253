/* refusion-infer where prompts and answers need more room than there is. */
#include "tests/infer/program_test.h"

TestSuite(infer_room, .init = program_begin_model, .fini = leave_folder, .timeout = 600);

#define INFER "\"$INFER\" --model model.h5 "

/* They are named, the others are answered, and the exit status tells. */
Test(infer_room, lines_that_cannot_be_answered)
{
    program_runs("{ " INFER "--prompt a; echo; echo; " INFER "--prompt b; }", 0);
    char *each = program_keep();
    program_runs("printf 'a\\nhello\\n\\0c\\nb\\n' | " INFER "--max-prompt 4", 1);
    cr_assert_str_eq(program_output, each);
    cr_assert(
        strstr(program_messages, "standard input:2: not answered: it has 7 tokens, more than "
                                 "the 4 that fit (--max-prompt)") != NULL &&
            strstr(program_messages, "standard input:3: not answered: it holds a zero byte") !=
                NULL &&
            strstr(program_messages, "2 of 4 lines of standard input were not answered") != NULL,
        "%s", program_messages);
    free(each);
}

/* The others are answered as if it were not there. */
Test(infer_room, one_prompt_is_too_long)
{
    char text[512], word[121];
    memset(word, '7', 120);
    word[120] = '\0';
    program_write("p.jsonl", "{\"query\": \"one\"}\n{\"query\": \"two\"}\n{\"query\": \"3\"}\n");
    program_runs(INFER "--prompts p.jsonl --batch 1", 0);
    char *plain = program_keep();
    snprintf(text, sizeof text,
             "{\"query\": \"one\"}\n{\"query\": \"%s\"}\n{\"query\": \"3\"}\n"
             "{\"query\": \"%s\"}\n",
             word, word);
    program_write("p.jsonl", text);
    program_runs(INFER "--prompts p.jsonl --batch 2", 0);
    cr_assert(strstr(program_messages, "p.jsonl: 2 of 4 prompts are too long") != NULL, "%s",
              program_messages);
    cr_assert_eq(program_count_lines(program_output), 4);
    for (int i = 0; i < 4; i++) {
        json_t *o = program_json(program_output, i), *alone = program_json(plain, i < 2 ? 0 : 2);
        cr_assert(json_is_boolean(json_object_get(o, "too_long")) &&
                  json_is_true(json_object_get(o, "too_long")) == (i % 2 == 1));
        if (i % 2 == 0) {
            cr_assert(json_equal(json_object_get(o, "ids"), json_object_get(alone, "ids")));
        } else {
            cr_assert(json_array_size(json_object_get(o, "ids")) == 0 &&
                      json_is_false(json_object_get(o, "ended")));
        }
        json_decref(o);
        json_decref(alone);
    }
    snprintf(text, sizeof text, "{\"query\": \"%s\"}\n", word); /* none is left to answer */
    program_write("p.jsonl", text);
    program_runs(INFER "--prompts p.jsonl --out a.jsonl", 1);
    cr_assert(strstr(program_messages, "p.jsonl: no prompt was answered: all are too long") != NULL,
              "%s", program_messages);
    program_read(program_output, sizeof program_output, "a.jsonl");
    cr_assert(program_count_lines(program_output) == 1 &&
              strstr(program_output, "\"too_long\":true") != NULL);
    free(plain);
}

/* Errors and warnings name what has to be changed, and nothing that would not help. */
Test(infer_room, advice_helps)
{
    static const char no_room[] = "decode.gen_length=96 leaves no room for a prompt: model.h5 has "
                                  "96 positions (max_position_embeddings): lower it";
    program_write("p.jsonl", "{\"query\": \"one\"}\n");
    program_refuses(INFER "--prompt x decode.gen_length=96", 1, no_room);
    program_refuses(INFER "--prompts p.jsonl decode.gen_length=96", 1, no_room);
    program_refuses(INFER "decode.gen_length=96 </dev/null", 1, no_room);
    program_refuses(
        INFER "--max-prompt 80 decode.gen_length=17 </dev/null", 1,
        "--max-prompt 80 and decode.gen_length=17 need 97 positions and model.h5 has 96 "
        "(max_position_embeddings): lower one of them");
    program_runs("echo hello | " INFER "decode.gen_length=92", 1);
    cr_assert(strstr(program_messages, "it has 7 tokens, more than the 4 that fit\n") != NULL, "%s",
              program_messages);
}
