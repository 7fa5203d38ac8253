#include "infer/questions.h"

#include "common/base/alloc.h"
#include "common/base/files/file.h"
#include "common/base/hash.h"
#include "data/corpus/foreign.h"
#include "data/corpus/records.h"

#include <fts.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void rf_question_free(rf_question *question)
{
    rf_ids_free(&question->ids);
    rf_task_item_free(&question->item);
    *question = (rf_question){0};
}

int rf_question_from_text(rf_question *out, const rf_tokenizer *tokenizer, const char *text,
                          bool raw, rf_error *err)
{
    int rc;
    *out = (rf_question){.item = {.query = rf_alloc_string(text)}};
    if (raw) {
        rf_ids_push(&out->ids, rf_tokenizer_specials(tokenizer)->begin);
        RF_TRY_OUT(rf_tokenizer_encode(tokenizer, &out->ids, text, strlen(text), err));
    } else {
        const rf_turn turn = {.role = "user", .content = text, .bytes = strlen(text)};
        RF_TRY_OUT(rf_tokenizer_render_prompt(tokenizer, &out->ids, &turn, 1, err));
    }
out:
    if (rc != RF_OK) {
        rf_question_free(out);
    }
    return rc;
}

/* A zero byte would cut what checkers and printers see of a text. */
static int copy_content(char **out, const rf_turn *turn, rf_error *err)
{
    if (memchr(turn->content, '\0', turn->bytes) != NULL) {
        return rf_error_set(err, RF_ERR, "a message of the %s holds a zero character: remove it",
                            turn->role);
    }
    free(*out);
    *out = rf_alloc_copy(turn->content, turn->bytes);
    return RF_OK;
}

/* Shots of a question: the first that are not the question itself. */
typedef struct shot_list {
    const rf_question *question; /* [n + 1], n where there are none */
    int64_t n;
} shot_list;

static bool is_shot(const rf_question *shot, const rf_question *question)
{
    return strcmp(shot->item.query, question->item.query) != 0;
}

/* --- Conversations ---------------------------------------------------------------------------- */

static rf_turn make_turn(const char *role, const char *content)
{
    return (rf_turn){.role = role, .content = content, .bytes = strlen(content)};
}

/* A message of the user with the instruction below it. Caller frees. */
static char *instruct(const rf_question_style *style, const char *content)
{
    return style->instruction != NULL ? rf_alloc_format("%s\n%s", content, style->instruction)
                                      : rf_alloc_string(content);
}

/* The prompt: turns [n], with the shots behind what the system says. */
static int render(rf_question *out, const rf_tokenizer *tokenizer, const rf_turn *turn, int64_t n,
                  const rf_render_options *options, const rf_question_style *style,
                  const shot_list *shots, rf_error *err)
{
    const int64_t most = n + 2 * (shots->n + 1);
    rf_turn *all = rf_alloc((size_t)most, sizeof *all);
    char **text = rf_alloc((size_t)(shots->n + 2), sizeof *text);
    int64_t m = 0, used = 0;
    int begin = strcmp(turn[0].role, "system") == 0;
    if (begin) {
        all[m++] = turn[0];
    }
    for (const rf_question *shot = shots->question; used < shots->n; shot++) {
        if (is_shot(shot, out)) {
            text[used] = instruct(style, shot->item.query);
            all[m++] = make_turn("user", text[used++]);
            all[m++] = make_turn("assistant", shot->item.expected);
        }
    }
    for (int64_t i = begin; i < n; i++) {
        all[m++] = turn[i];
    }
    if (style->instruction != NULL && strcmp(all[m - 1].role, "user") == 0) {
        text[used] = instruct(style, turn[n - 1].content);
        all[m - 1] = make_turn("user", text[used]);
    }
    int rc = rf_tokenizer_render(tokenizer, NULL, NULL, &out->ids, all, m, options, err);
    rf_free_strings(text, shots->n + 1);
    free(all);
    return rc;
}

/* Everything up to the last message of the user, or of a tool, is the prompt. */
static int from_record(rf_question *out, const rf_tokenizer *tokenizer, const rf_record *record,
                       const rf_question_style *style, const shot_list *shots, rf_error *err)
{
    const rf_turn *turn = record->turn;
    int64_t used = 0;
    if (record->text != NULL) {
        return rf_error_set(err, RF_ERR,
                            "\"text\" is no question: needed are \"query\" or \"messages\"");
    }
    for (int64_t i = 0; i < record->n_turns; i++) {
        if (strcmp(turn[i].role, "user") == 0) {
            used = i + 1;
            RF_TRY(copy_content(&out->item.query, &turn[i], err));
        } else if (strcmp(turn[i].role, "tool") == 0 && used > 0) {
            used = i + 1;
        }
    }
    if (used == 0) {
        return rf_error_set(err, RF_ERR, "\"messages\" has no message of role \"user\"");
    }
    if (used < record->n_turns && strcmp(turn[used].role, "assistant") == 0 &&
        turn[used].bytes > 0) {
        RF_TRY(copy_content(&out->item.expected, &turn[used], err));
    }
    if (style->raw && record->n_turns > 2) {
        return rf_error_set(err, RF_ERR,
                            "a conversation of several turns is no plain text: leave out --raw");
    }
    return style->raw ? RF_OK
                      : render(out, tokenizer, turn, used, &record->options, style, shots, err);
}

/* --- Plain texts ------------------------------------------------------------------------------ */

/* As lm-evaluation-harness joins them: blank lines between shots. */
static int render_raw(rf_question *out, const rf_tokenizer *tokenizer,
                      const rf_question_style *style, const shot_list *shots, rf_error *err)
{
    const char *glue = style->task != NULL && style->task->glue != NULL ? style->task->glue : " ";
    rf_text text = {0};
    int64_t used = 0;
    if (style->instruction != NULL) {
        rf_text_print(&text, "%s\n\n", style->instruction);
    }
    for (const rf_question *shot = shots->question; used < shots->n; shot++) {
        if (is_shot(shot, out)) {
            rf_text_print(&text, "%s%s%s\n\n", shot->item.query, glue, shot->item.expected);
            used++;
        }
    }
    rf_text_add_string(&text, out->item.query);
    rf_ids_push(&out->ids, rf_tokenizer_specials(tokenizer)->begin);
    int rc = rf_tokenizer_encode(tokenizer, &out->ids, text.data, text.bytes, err);
    rf_text_free(&text);
    return rc;
}

/* --- Records ---------------------------------------------------------------------------------- */

/* As the task's official file has it. *found: it is such a record. */
static int from_official(rf_question *out, bool *found, const char *line, size_t bytes,
                         const rf_question_style *style, rf_error *err)
{
    json_t *root;
    bool repaired;
    *found = false;
    if (style->task == NULL || style->task->read == NULL) {
        return RF_OK;
    }
    RF_TRY(rf_record_parse(&root, line, bytes, &repaired, err));
    int rc = style->task->read(&out->item, root, style->raw, err);
    *found = rc == RF_OK && out->item.query != NULL;
    json_decref(root);
    return rc;
}

static int check_form(const rf_question *question, const rf_task *task, rf_error *err)
{
    bool lacks_tests = task->program != NULL && question->item.tests == NULL;
    if (!lacks_tests && (!task->by_likelihood || question->item.choice != NULL)) {
        return RF_OK;
    }
    return rf_error_set(err, RF_ERR,
                        "the record has no %s: --task %s reads its official file (see "
                        "data/tasks/README.md)",
                        lacks_tests ? "tests" : "choices", task->name);
}

static int from_line(rf_question *out, const rf_tokenizer *tokenizer, const char *line,
                     size_t bytes, const rf_question_style *style, const shot_list *shots,
                     rf_error *err)
{
    static const rf_render_options options = {.add_generation_prompt = true};
    bool found;
    RF_TRY(from_official(out, &found, line, bytes, style, err));
    if (!found) {
        rf_record record;
        RF_TRY(rf_record_read(&record, line, bytes, NULL, err));
        int rc = from_record(out, tokenizer, &record, style, shots, err);
        rf_record_free(&record);
        RF_TRY(rc);
    }
    RF_TRY(style->task != NULL ? check_form(out, style->task, err) : RF_OK);
    if (style->raw) {
        return render_raw(out, tokenizer, style, shots, err);
    }
    const rf_turn turn = make_turn("user", out->item.query);
    return found ? render(out, tokenizer, &turn, 1, &options, style, shots, err) : RF_OK;
}

static int question_from_line(rf_question *out, const rf_tokenizer *tokenizer, const char *line,
                              size_t bytes, const char *where, const rf_question_style *style,
                              const shot_list *shots, rf_error *err)
{
    *out = (rf_question){0};
    int rc = from_line(out, tokenizer, line, bytes, style, shots, err);
    if (rc != RF_OK) {
        rf_question_free(out);
        return rf_error_prefix(err, "%s", where);
    }
    return RF_OK;
}

int rf_question_from_json(rf_question *out, const rf_tokenizer *tokenizer, const char *line,
                          size_t bytes, const char *where, rf_error *err)
{
    static const rf_question_style plain = {0};
    static const shot_list none = {0};
    return question_from_line(out, tokenizer, line, bytes, where, &plain, &none, err);
}

/* --- Files ------------------------------------------------------------------------------------ */

/* A file on its way into questions. */
typedef struct reader {
    const char *path;
    const rf_tokenizer *tokenizer;
    const rf_question_style *style;
    shot_list shots;
    rf_lines *lines;
    int64_t limit;
    bool is_array; /* of records; else a record a line */
    rf_record_array array;
    rf_text record; /* the one of the array that is open, */
    int64_t line;   /* and where it begins */
    rf_question *question;
    int64_t n;
    size_t capacity;
} reader;

static bool is_full(const reader *r)
{
    return r->limit > 0 && r->n == r->limit;
}

static int add_question(reader *r, const char *text, size_t bytes, const char *where, rf_error *err)
{
    r->question = rf_alloc_grow(r->question, &r->capacity, (size_t)r->n + 1, sizeof *r->question);
    RF_TRY(question_from_line(&r->question[r->n], r->tokenizer, text, bytes, where, r->style,
                              &r->shots, err));
    r->n++;
    return RF_OK;
}

static int add_record(reader *r, const char *text, size_t bytes, int64_t line, rf_error *err)
{
    char where[4200];
    (void)snprintf(where, sizeof where, "%s:%" PRId64, r->path, line);
    return add_question(r, text, bytes, where, err);
}

static int add_array(reader *r, const char *line, size_t bytes, rf_error *err)
{
    size_t at = 0, begin;
    bool begins, ends;
    while (!is_full(r) &&
           rf_record_array_next(&r->array, line, bytes, &at, &begin, &begins, &ends)) {
        r->record.bytes = begins ? 0 : r->record.bytes;
        r->line = begins ? r->lines->number : r->line;
        rf_text_add(&r->record, line + begin, at - begin);
        rf_text_add_string(&r->record, "\n");
        if (ends) {
            RF_TRY(add_record(r, r->record.data, r->record.bytes, r->line, err));
        }
    }
    return rf_record_array_check(&r->array, r->lines, false, err);
}

static int read_all(reader *r, rf_error *err)
{
    char *text;
    size_t bytes;
    bool has_begun = false;
    while (!is_full(r)) {
        RF_TRY(rf_lines_next(r->lines, &text, &bytes, err));
        if (text == NULL) {
            break;
        }
        const char *foreign = r->lines->number == 1 ? rf_foreign(r->path, text, bytes) : NULL;
        if (foreign != NULL) {
            return rf_error_set(err, RF_ERR, "%s: is %s", r->path, foreign);
        }
        if (rf_lines_is_blank(text, bytes)) {
            continue;
        }
        r->is_array = has_begun ? r->is_array : text[strspn(text, " \t\r\v\f")] == '[';
        has_begun = true;
        RF_TRY(r->is_array ? add_array(r, text, bytes, err)
                           : add_record(r, text, bytes, r->lines->number, err));
    }
    if (r->is_array && !is_full(r)) {
        RF_TRY(rf_record_array_check(&r->array, r->lines, true, err));
    }
    return r->n > 0
               ? RF_OK
               : rf_error_set(err, RF_ERR, "%s holds no question: one JSON object a line", r->path);
}

static int compare_names(const FTSENT **a, const FTSENT **b)
{
    return strcmp((*a)->fts_name, (*b)->fts_name);
}

/* A record a file, as MATH was published: all .json files in the folder and below it, by name. */
static int read_folder(reader *r, rf_error *err)
{
    char *roots[] = {rf_alloc_string(r->path), NULL};
    FTS *tree = fts_open(roots, FTS_LOGICAL | FTS_NOCHDIR, compare_names);
    int rc = tree != NULL ? RF_OK : rf_error_set(err, RF_ERR, "%s: cannot read: %m", r->path);
    FTSENT *entry;
    while (rc == RF_OK && !is_full(r) && (entry = fts_read(tree)) != NULL) {
        const char *end = strrchr(entry->fts_name, '.');
        char *text = NULL;
        size_t bytes;
        if (entry->fts_info != FTS_F || end == NULL || strcmp(end, ".json") != 0) {
            continue;
        }
        rc = rf_file_read(&text, &bytes, entry->fts_path, (size_t)64 << 20, err);
        rc = rc == RF_OK ? add_question(r, text, bytes, entry->fts_path, err) : rc;
        free(text);
    }
    if (tree != NULL) {
        fts_close(tree);
    }
    free(roots[0]);
    return rc != RF_OK || r->n > 0
               ? rc
               : rf_error_set(err, RF_ERR, "%s: no file in this folder ends with .json", r->path);
}

static int read_lines(reader *r, rf_error *err)
{
    RF_TRY(rf_lines_open(&r->lines, r->path, err));
    int rc = read_all(r, err);
    rf_lines_close(r->lines);
    rf_text_free(&r->record);
    return rc;
}

static int read_file(rf_question **out, int64_t *n, reader r, rf_error *err)
{
    *out = NULL;
    *n = 0;
    int rc = rf_path_is_folder(r.path) ? read_folder(&r, err) : read_lines(&r, err);
    if (rc != RF_OK) {
        rf_questions_free(r.question, r.n);
        return rc;
    }
    *out = r.question;
    *n = r.n;
    return RF_OK;
}

/* Has it an answer, and is it none of those that are chosen [n]? */
static bool is_useful(const rf_question *drawn, const rf_question *chosen, int64_t n)
{
    bool is_new = drawn->item.expected != NULL;
    for (int64_t i = 0; i < n && is_new; i++) {
        is_new = strcmp(drawn->item.query, chosen[i].item.query) != 0;
    }
    return is_new;
}

static void swap(rf_question *a, rf_question *b)
{
    rf_question c = *a;
    *a = *b;
    *b = c;
}

/* Draws n different questions that have answers, and puts them at the front. */
static int draw_shots(rf_question *question, int64_t n_questions, int64_t n, const char *path,
                      uint64_t seed, rf_error *err)
{
    rf_rng rng = RF_RNG_STREAM(seed, RF_RNG_TASK, 0);
    int64_t chosen = 0;
    for (int64_t seen = 0; seen < n_questions && chosen < n; seen++) {
        int64_t at = seen + (int64_t)rf_rng_below(&rng, (uint64_t)(n_questions - seen));
        swap(&question[at], &question[seen]);
        if (is_useful(&question[seen], question, chosen)) {
            swap(&question[seen], &question[chosen++]);
        }
    }
    return chosen == n ? RF_OK
                       : rf_error_set(err, RF_ERR,
                                      "%s has %" PRId64 " questions with answers: for %" PRId64
                                      " shots beside the question itself %" PRId64 " are needed",
                                      path, chosen, n - 1, n);
}

int rf_questions_read_styled(rf_question **out, int64_t *n, const char *path,
                             const rf_tokenizer *tokenizer, int64_t limit,
                             const rf_question_style *style, rf_error *err)
{
    reader r = {.path = path, .tokenizer = tokenizer, .style = style};
    rf_question *shot = NULL;
    int64_t n_read = 0;
    int rc;
    *out = NULL;
    *n = 0;
    if (style->n_shots > 0) {
        reader first = r;
        first.path = style->shots_from != NULL ? style->shots_from : path;
        RF_TRY(read_file(&shot, &n_read, first, err));
        RF_TRY_OUT(draw_shots(shot, n_read, style->n_shots + 1, first.path, style->seed, err));
        r.shots = (shot_list){shot, style->n_shots};
    }
    r.limit = limit > 0 ? limit : 0;
    rc = read_file(out, n, r, err);
out:
    rf_questions_free(shot, n_read);
    return rc;
}

int rf_questions_read(rf_question **out, int64_t *n, const char *path,
                      const rf_tokenizer *tokenizer, int64_t limit, rf_error *err)
{
    static const rf_question_style plain = {0};
    return rf_questions_read_styled(out, n, path, tokenizer, limit, &plain, err);
}

void rf_questions_free(rf_question *questions, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        rf_question_free(&questions[i]);
    }
    free(questions);
}

/* No text is another one than an empty text. */
static uint64_t hash_text(uint64_t hash, const char *text)
{
    const size_t bytes = text != NULL ? strlen(text) + 1 : 0;
    return rf_hash_bytes(rf_hash_number(hash, bytes), text, bytes);
}

uint64_t rf_question_hash(uint64_t hash, const rf_question *question)
{
    const rf_task_item *item = &question->item;
    const char *const text[] = {item->query, item->expected, item->prefix, item->tests};
    hash = rf_hash_number(hash, (uint64_t)question->ids.n);
    hash =
        rf_hash_bytes(hash, question->ids.id, (size_t)question->ids.n * sizeof *question->ids.id);
    for (size_t i = 0; i < sizeof text / sizeof *text; i++) {
        hash = hash_text(hash, text[i]);
    }
    hash = rf_hash_number(rf_hash_number(hash, (uint64_t)item->n_choices), (uint64_t)item->right);
    for (int i = 0; i < item->n_choices; i++) {
        hash = hash_text(hash, item->choice[i]);
    }
    return hash;
}

int64_t rf_questions_longest(const rf_question *questions, int64_t n)
{
    int64_t longest = 0;
    for (int64_t i = 0; i < n; i++) {
        longest = questions[i].ids.n > longest ? questions[i].ids.n : longest;
    }
    return longest;
}
