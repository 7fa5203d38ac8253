/* Multiple choice: ARC and MMLU-Pro, answered by a letter or by the likelihood of each choice. */
#include "data/tasks/task_rules.h"

#include "common/base/alloc.h"
#include "common/text/ids.h"

#include <ctype.h>
#include <jansson.h>
#include <string.h>

enum { MAX_CHOICES = 26 };

/* --- The letter of an answer ------------------------------------------------------------------ */

/* Behind blanks, brackets, bold, a box or "option": where a letter would be. */
static const char *skip_marks(const char *text)
{
    static const char *const marks[] = {"\\boxed{",  "\\text{", "\\textbf{", "\\mathrm{",
                                        "\\mathbf{", "\\fbox{", "option",    "Option",
                                        "choice",    "Choice"};
    for (size_t i = 0; i < sizeof marks / sizeof marks[0];) {
        text += strspn(text, " \t\r\n:*($");
        const size_t bytes = strlen(marks[i]);
        const bool is_there = strncmp(text, marks[i], bytes) == 0;
        text += is_there ? bytes : 0;
        i = is_there ? 0 : i + 1;
    }
    return text;
}

/* A letter alone, perhaps in brackets or bold: "C", "(C)", "**C**", "C. dry palms". '\0': none. */
static char letter_at(const char *text)
{
    text = skip_marks(text);
    bool alone = text[0] >= 'A' && text[0] <= 'Z' && !isalnum((unsigned char)text[1]) &&
                 text[1] != '\'' && (text[1] & 0x80) == 0;
    return alone ? text[0] : '\0';
}

/* Behind the first of these words that has a letter behind it. */
static char letter_behind(const char *text, const char *word)
{
    for (const char *p = text; (p = strstr(p, word)) != NULL; p++) {
        char letter = letter_at(p + strlen(word));
        if (letter != '\0') {
            return letter;
        }
    }
    return '\0';
}

/* In the last box that has a letter in it, with which no formula begins: "\boxed{F = ma}". */
static char letter_in_box(const char *text)
{
    static const char box[] = "\\boxed{";
    char letter = '\0';
    for (const char *p = text; (p = strstr(p, box)) != NULL; p++) {
        char found = letter_at(p);
        if (found != '\0') {
            const char *behind = skip_marks(p) + 1;
            behind += strspn(behind, " \t\r*$");
            letter = strchr("}).:,\n", *behind) != NULL ? found : letter; /* or a text cut there */
        }
    }
    return letter;
}

/* That begins the text. "A" and "I" begin sentences, too: without a bracket, bold, a box or "option"
 * before them they count only before a sign, a tab or the end of the line. */
static char leading_letter(const char *text)
{
    char letter = letter_at(text);
    const char *at = skip_marks(text);
    const bool is_marked = text + strspn(text, " \t\r\n:$") < at;
    if ((letter != 'A' && letter != 'I') || is_marked) {
        return letter;
    }
    at++;
    at += strspn(at, "*$");
    const bool has_sign = strchr("\t.):,;!?<", *at) != NULL || strncmp(at, " - ", 3) == 0;
    at += strspn(at, " \r");
    return has_sign || *at == '\n' || *at == '\0' ? letter : '\0';
}

/* "The answer is (C)", "Answer: C", "\boxed{C}", or a text that begins with the letter. */
static char find_letter(const char *text)
{
    char letter = letter_behind(text, "nswer is");
    letter = letter != '\0' ? letter : letter_behind(text, "nswer:");
    letter = letter != '\0' ? letter : letter_in_box(text);
    return letter != '\0' ? letter : leading_letter(text);
}

static char *extract(const char *text)
{
    char letter = find_letter(text);
    return letter != '\0' ? rf_alloc_format("%c", letter) : NULL;
}

static bool check(const char *query, const char *expected, const char *answer)
{
    (void)query;
    return rf_task_same(extract(expected), extract(answer));
}

/* --- Records ---------------------------------------------------------------------------------- */

/* A question with its choices, as a file has it. Strings belong to the record. */
typedef struct choices {
    const char *question;
    const char *text[MAX_CHOICES], *label[MAX_CHOICES]; /* [n]; label NULL: A, B, ... */
    int n, right;                                       /* -1: unknown */
    const char *reasoning; /* that leads to the answer, not ""; NULL: none */
} choices;

static int too_many(rf_error *err)
{
    return rf_error_set(err, RF_ERR, "more than %d choices", MAX_CHOICES);
}

/* [text, ...]: which may be NULL. */
static int read_texts(const char **out, int *n, const json_t *list, const char *what, rf_error *err)
{
    *n = (int)json_array_size(list);
    if (json_array_size(list) > MAX_CHOICES) {
        return too_many(err);
    }
    for (int i = 0; i < *n; i++) {
        out[i] = json_string_value(json_array_get(list, (size_t)i));
        if (out[i] == NULL) {
            return rf_error_set(err, RF_ERR, "\"%s\"[%d] is no string", what, i);
        }
    }
    return RF_OK;
}

/* The choice that an answer key names by its label or, where choices have none, by its letter. */
static int find_key(int *out, const choices *c, const char *key, rf_error *err)
{
    for (int i = 0; i < c->n; i++) {
        const char letter[] = {(char)('A' + i), '\0'};
        if (strcmp(key, c->label[i] != NULL ? c->label[i] : letter) == 0) {
            *out = i;
            return RF_OK;
        }
    }
    return rf_error_set(err, RF_ERR, "the answer \"%.32s\" is none of the %d choices", key, c->n);
}

/* {"question": {"stem", "choices": [{"text", "label"}]}, "answerKey"}, as AI2 publishes it. */
static int read_stem(choices *c, const json_t *question, rf_error *err)
{
    const json_t *list = json_object_get(question, "choices");
    RF_TRY(rf_task_field(&c->question, question, "stem", err));
    if (json_array_size(list) > MAX_CHOICES) {
        return too_many(err);
    }
    c->n = (int)json_array_size(list);
    for (int i = 0; i < c->n; i++) {
        const json_t *choice = json_array_get(list, (size_t)i);
        RF_TRY(rf_task_field(&c->text[i], choice, "text", err));
        RF_TRY(rf_task_field(&c->label[i], choice, "label", err));
        if (c->text[i] == NULL) {
            return rf_error_set(err, RF_ERR, "choice %d has no \"text\"", i + 1);
        }
    }
    return RF_OK;
}

/* {"question", "choices": {"text": [], "label": []}, "answerKey"}, as Hugging Face has it. */
static int read_arc(choices *c, const json_t *record, rf_error *err)
{
    const json_t *question = json_object_get(record, "question");
    const json_t *list = json_object_get(record, "choices");
    const char *key;
    int n_labels = 0;
    if (json_is_object(question)) {
        RF_TRY(read_stem(c, question, err));
    } else if (json_is_object(list)) {
        RF_TRY(rf_task_field(&c->question, record, "question", err));
        RF_TRY(read_texts(c->text, &c->n, json_object_get(list, "text"), "choices.text", err));
        RF_TRY(
            read_texts(c->label, &n_labels, json_object_get(list, "label"), "choices.label", err));
        if (n_labels != c->n) {
            return rf_error_set(err, RF_ERR, "%d texts of choices, but %d labels", c->n, n_labels);
        }
    }
    RF_TRY(rf_task_field(&key, record, "answerKey", err));
    return c->n > 0 && key != NULL ? find_key(&c->right, c, key, err) : RF_OK;
}

/* Does the reasoning, which is what answers are judged by, lead to the answer? Only the questions for
 * shots have one: "A: Let's think step by step. ... The answer is (C)." */
static int check_reasoning(choices *c, rf_error *err)
{
    static const char lead[] = "A: ";
    if (c->reasoning == NULL || c->reasoning[0] == '\0') {
        c->reasoning = NULL;
        return RF_OK;
    }
    c->reasoning += strncmp(c->reasoning, lead, strlen(lead)) == 0 ? strlen(lead) : 0;
    char letter = find_letter(c->reasoning);
    if (letter == '\0') {
        return rf_error_set(err, RF_ERR, "\"cot_content\" names no answer");
    }
    return c->right < 0 || letter == 'A' + c->right
               ? RF_OK
               : rf_error_set(err, RF_ERR, "\"cot_content\" answers %c, but \"answer\" is %c",
                              letter, 'A' + c->right);
}

/* {"question", "options": [], "answer": letter, "answer_index", "cot_content"} */
static int read_mmlu_pro(choices *c, const json_t *record, rf_error *err)
{
    const json_t *list = json_object_get(record, "options");
    const json_t *index = json_object_get(record, "answer_index");
    const char *key;
    if (!json_is_array(list)) {
        return RF_OK;
    }
    RF_TRY(rf_task_field(&c->question, record, "question", err));
    RF_TRY(read_texts(c->text, &c->n, list, "options", err));
    RF_TRY(rf_task_field(&key, record, "answer", err));
    RF_TRY(rf_task_field(&c->reasoning, record, "cot_content", err));
    if (key != NULL) {
        RF_TRY(find_key(&c->right, c, key, err));
    }
    if (json_is_integer(index)) {
        json_int_t at = json_integer_value(index);
        if (at < 0 || at >= c->n || (key != NULL && at != c->right)) {
            return rf_error_set(err, RF_ERR,
                                "\"answer_index\" %d does not fit \"answer\" and the %d choices",
                                (int)at, c->n);
        }
        c->right = (int)at;
    }
    return check_reasoning(c, err);
}

/* --- Questions -------------------------------------------------------------------------------- */

static char *lettered(const choices *c, const char *before, const char *between, const char *after)
{
    rf_text text = {0};
    rf_text_print(&text, "%s%s%s", before, c->question, between);
    for (int i = 0; i < c->n; i++) {
        rf_text_print(&text, "\n%c. %s", 'A' + i, c->text[i]);
    }
    rf_text_add_string(&text, after);
    return text.data;
}

/* c->n is 0 where the record has no choices: it is not of the published form. */
static int begin_choices(choices *c, const json_t *record,
                         int (*read)(choices *, const json_t *, rf_error *), rf_error *err)
{
    *c = (choices){.right = -1};
    RF_TRY(read(c, record, err));
    c->n = c->question != NULL ? c->n : 0;
    if (c->n > 0 && c->right < 0) {
        return rf_error_set(err, RF_ERR,
                            "the question has no answer: a file with answers is needed");
    }
    return RF_OK;
}

static char *letter_of(int i)
{
    return rf_alloc_format("%c", 'A' + i);
}

static void set_choices(rf_task_item *out, const choices *c, bool letters)
{
    out->choice = rf_alloc((size_t)c->n, sizeof *out->choice);
    out->n_choices = c->n;
    out->right = c->right;
    for (int i = 0; i < c->n; i++) {
        out->choice[i] = letters ? letter_of(i) : rf_alloc_string(c->text[i]);
    }
}

static int arc_letters(rf_task_item *out, const json_t *record, bool raw, rf_error *err)
{
    choices c;
    RF_TRY(begin_choices(&c, record, read_arc, err));
    if (c.n > 0) {
        out->query = raw ? lettered(&c, "Question: ", "", "\nAnswer:") : lettered(&c, "", "", "");
        out->expected = rf_alloc_format("%c. %s", 'A' + c.right, c.text[c.right]);
    }
    return RF_OK;
}

/* The texts of the choices, which the question does not list. */
static int arc_texts(rf_task_item *out, const json_t *record, bool raw, rf_error *err)
{
    choices c;
    RF_TRY(begin_choices(&c, record, read_arc, err));
    for (int i = 0; i < c.n; i++) {
        if (c.text[i][0] == '\0') {
            return rf_error_set(err, RF_ERR, "the text of choice %d is empty: it has no likelihood",
                                i + 1);
        }
    }
    if (c.n > 0) {
        out->query = raw ? rf_alloc_format("Question: %s\nAnswer:", c.question)
                         : rf_alloc_string(c.question);
        out->expected = rf_alloc_string(c.text[c.right]);
        set_choices(out, &c, false);
    }
    return RF_OK;
}

/* As plain text the question ends in the first sentence of the reasoning, which is then no part of
 * the answer. */
static int mmlu_pro_reasoning(rf_task_item *out, const json_t *record, bool raw, rf_error *err)
{
    static const char ending[] = "\nAnswer: Let's think step by step.";
    const char *first = strchr(ending, 'L');
    choices c;
    RF_TRY(begin_choices(&c, record, read_mmlu_pro, err));
    if (c.n == 0) {
        return RF_OK;
    }
    if (raw && c.reasoning != NULL && strncmp(c.reasoning, first, strlen(first)) == 0) {
        c.reasoning += strlen(first);
        c.reasoning += strspn(c.reasoning, " ");
    }
    out->query = lettered(&c, raw ? "Question:\n" : "", "\nOptions:", raw ? ending : "");
    out->expected = c.reasoning != NULL ? rf_alloc_string(c.reasoning)
                                        : rf_alloc_format("The answer is (%c).", 'A' + c.right);
    return RF_OK;
}

/* The letters of the choices, which the question lists. */
static int mmlu_pro_letters(rf_task_item *out, const json_t *record, bool raw, rf_error *err)
{
    choices c;
    RF_TRY(begin_choices(&c, record, read_mmlu_pro, err));
    if (c.n > 0) {
        out->query = lettered(&c, raw ? "Question:\n" : "", "\nOptions:", raw ? "\nAnswer:" : "");
        out->expected = letter_of(c.right);
        set_choices(out, &c, true);
    }
    return RF_OK;
}

/* --- Tasks ------------------------------------------------------------------------------------ */

static const char *const stops[] = {"Question:", NULL};

const rf_task rf_task_arc = {.name = "arc",
                             .help = "ARC: the letter of the answer",
                             .read = arc_letters,
                             .stops = stops,
                             .check = check,
                             .extract = extract};
const rf_task rf_task_arc_likelihood = {.name = "arc-likelihood",
                                        .help = "ARC: the likeliest of the choices' texts",
                                        .read = arc_texts,
                                        .by_likelihood = true,
                                        .also = "per_byte"};
const rf_task rf_task_mmlu_pro = {.name = "mmlu-pro",
                                  .help = "MMLU-Pro: the letter of \"the answer is (X)\"",
                                  .read = mmlu_pro_reasoning,
                                  .stops = stops,
                                  .shots = 5,
                                  .check = check,
                                  .extract = extract};
const rf_task rf_task_mmlu_pro_likelihood = {.name = "mmlu-pro-likelihood",
                                             .help = "MMLU-Pro: the likeliest of the letters",
                                             .read = mmlu_pro_letters,
                                             .shots = 5,
                                             .by_likelihood = true,
                                             .also = "per_byte"};
