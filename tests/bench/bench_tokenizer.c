/* Speed of encoding, one thread:  bench_tokenizer TOKENIZER FILE...
 *
 * A FILE of JSON lines gives one text a record ("text"), any other one text a line. Every text is
 * decoded again and compared first (which holds where the tokenizer does not normalise, or the text
 * is normal already). One JSON object a file on stdout: ids as a checksum, and the best and the
 * median of some rounds in MB/s. compare_tokenizer.py sets it beside Hugging Face's `tokenizers`.
 */
#include "common/base/files/lines.h"
#include "common/text/tokenizer.h"
#include "tests/bench/bench.h"

#include <jansson.h>

enum { ROUNDS = 7 };

typedef struct texts {
    char **text;
    size_t *bytes;
    size_t n, total;
} texts;

static _Noreturn void fail(const rf_error *err)
{
    fprintf(stderr, "bench_tokenizer: %s\n", err->message);
    exit(1);
}

static void add(texts *t, const char *text, size_t bytes)
{
    t->text = realloc(t->text, (t->n + 1) * sizeof *t->text);
    t->bytes = realloc(t->bytes, (t->n + 1) * sizeof *t->bytes);
    t->text[t->n] = malloc(bytes + 1);
    memcpy(t->text[t->n], text, bytes);
    t->bytes[t->n++] = bytes;
    t->total += bytes;
}

static void read_texts(texts *t, const char *path)
{
    rf_error err = {0};
    rf_lines *lines;
    char *line;
    size_t bytes;
    if (rf_lines_open(&lines, path, &err) != RF_OK) {
        fail(&err);
    }
    while (rf_lines_next(lines, &line, &bytes, &err) == RF_OK && line != NULL) {
        if (strstr(path, ".jsonl") == NULL) {
            add(t, line, bytes);
            continue;
        }
        json_t *root = json_loadb(line, bytes, JSON_ALLOW_NUL, NULL);
        const json_t *text = json_object_get(root, "text");
        if (!json_is_string(text)) {
            rf_error_set(&err, RF_ERR, "%s: a line without \"text\"", path);
            fail(&err);
        }
        add(t, json_string_value(text), json_string_length(text));
        json_decref(root);
    }
    if (err.code != RF_OK) {
        fail(&err);
    }
    rf_lines_close(lines);
}

static void check(const rf_tokenizer *tokenizer, const texts *t)
{
    rf_error err = {0};
    int64_t different = 0;
    for (size_t i = 0; i < t->n; i++) {
        rf_ids ids = {0};
        char *text;
        size_t bytes;
        if (rf_tokenizer_encode(tokenizer, &ids, t->text[i], t->bytes[i], &err) != RF_OK) {
            fail(&err);
        }
        text = rf_tokenizer_decode(tokenizer, &bytes, ids.id, ids.n, false);
        different += bytes != t->bytes[i] || memcmp(text, t->text[i], bytes) != 0;
        free(text);
        rf_ids_free(&ids);
    }
    if (different > 0) {
        fprintf(stderr, "bench_tokenizer: %lld of %zu texts were normalised\n",
                (long long)different, t->n);
    }
}

/* Seconds to encode all texts. */
static double encode_all(const rf_tokenizer *tokenizer, const texts *t, rf_ids *ids)
{
    rf_error err = {0};
    ids->n = 0;
    const double begin = bench_seconds();
    for (size_t i = 0; i < t->n; i++) {
        if (rf_tokenizer_encode(tokenizer, ids, t->text[i], t->bytes[i], &err) != RF_OK) {
            fail(&err);
        }
    }
    return bench_seconds() - begin;
}

/* The first pass is of a tokenizer that has seen no word yet; in later ones it knows them. */
static void measure(const char *name, const char *path)
{
    texts t = {0};
    rf_error err = {0};
    rf_ids ids = {0};
    rf_tokenizer *tokenizer;
    double time[ROUNDS];
    uint64_t checksum = 0;
    read_texts(&t, path);
    if (rf_tokenizer_load(&tokenizer, name, &err) != RF_OK) {
        fail(&err);
    }
    const double first = encode_all(tokenizer, &t, &ids);
    check(tokenizer, &t);
    for (int round = 0; round < ROUNDS; round++) {
        time[round] = encode_all(tokenizer, &t, &ids);
    }
    for (int64_t i = 0; i < ids.n; i++) {
        checksum = (checksum * 31 + (uint64_t)ids.id[i]) % UINT64_C(1000000007);
    }
    qsort(time, ROUNDS, sizeof *time, bench_compare);
    const double mb = 1e-6 * (double)t.total;
    printf("{\"file\": \"%s\", \"texts\": %zu, \"bytes\": %zu, \"ids\": %lld, \"checksum\": %llu, "
           "\"first_mb_s\": %.2f, \"median_mb_s\": %.2f}\n",
           path, t.n, t.total, (long long)ids.n, (unsigned long long)checksum, mb / first,
           mb / time[ROUNDS / 2]);
    for (size_t i = 0; i < t.n; i++) {
        free(t.text[i]);
    }
    free(t.text);
    free(t.bytes);
    rf_ids_free(&ids);
    rf_tokenizer_free(tokenizer);
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        printf("bench_tokenizer: skipped: give TOKENIZER FILE... (compare_tokenizer.py does)\n");
        return 0;
    }
    for (int i = 2; i < argc; i++) {
        measure(argv[1], argv[i]);
    }
    return 0;
}
