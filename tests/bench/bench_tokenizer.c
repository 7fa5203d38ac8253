/* Speed of encoding, one thread:  bench_tokenizer TOKENIZER FILE...
 *
 * A FILE of JSON lines gives one text a record ("text"), any other one text a line. Every text is
 * decoded again and compared first (which holds where the tokenizer does not normalise, or the text
 * is normal already). One JSON object a file on stdout: ids as a checksum, and the best and the
 * median of some rounds in MB/s. compare_tokenizer.py sets it beside Hugging Face's `tokenizers`.
 */
#include "common/base/lines.h"
#include "common/model/tokenizer.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

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

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int compare_reals(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void check(const rf_tokenizer *tokenizer, const texts *t)
{
    rf_error err = {0};
    int64_t different = 0;
    for (size_t i = 0; i < t->n; i++) {
        rf_ids ids = {0};
        char *text;
        size_t bytes;
        if (rf_tokenizer_encode(tokenizer, &ids, t->text[i], t->bytes[i], &err) != RF_OK ||
            rf_tokenizer_decode(tokenizer, &text, &bytes, ids.id, ids.n, false, &err) != RF_OK) {
            fail(&err);
        }
        different += bytes != t->bytes[i] || memcmp(text, t->text[i], bytes) != 0;
        free(text);
        rf_ids_free(&ids);
    }
    if (different > 0) {
        fprintf(stderr, "bench_tokenizer: %lld of %zu texts were normalised\n",
                (long long)different, t->n);
    }
}

static void measure(const rf_tokenizer *tokenizer, const char *path)
{
    texts t = {0};
    rf_error err = {0};
    rf_ids ids = {0};
    double time[ROUNDS];
    uint64_t checksum = 0;
    read_texts(&t, path);
    check(tokenizer, &t);
    for (int round = 0; round < ROUNDS; round++) {
        ids.n = 0;
        double begin = seconds();
        for (size_t i = 0; i < t.n; i++) {
            if (rf_tokenizer_encode(tokenizer, &ids, t.text[i], t.bytes[i], &err) != RF_OK) {
                fail(&err);
            }
        }
        time[round] = seconds() - begin;
    }
    for (int64_t i = 0; i < ids.n; i++) {
        checksum = (checksum * 31 + (uint64_t)ids.id[i]) % UINT64_C(1000000007);
    }
    qsort(time, ROUNDS, sizeof *time, compare_reals);
    const double mb = 1e-6 * (double)t.total;
    printf("{\"file\": \"%s\", \"texts\": %zu, \"bytes\": %zu, \"ids\": %lld, \"checksum\": %llu, "
           "\"best_mb_s\": %.2f, \"median_mb_s\": %.2f}\n",
           path, t.n, t.total, (long long)ids.n, (unsigned long long)checksum, mb / time[0],
           mb / time[ROUNDS / 2]);
    for (size_t i = 0; i < t.n; i++) {
        free(t.text[i]);
    }
    free(t.text);
    free(t.bytes);
    rf_ids_free(&ids);
}

int main(int argc, char **argv)
{
    rf_error err = {0};
    rf_tokenizer *tokenizer;
    if (argc < 3) {
        printf("bench_tokenizer: skipped: give TOKENIZER FILE... (compare_tokenizer.py does)\n");
        return 0;
    }
    double begin = seconds();
    if (rf_tokenizer_load(&tokenizer, argv[1], &err) != RF_OK) {
        fail(&err);
    }
    fprintf(stderr, "bench_tokenizer: loaded in %.2f s\n", seconds() - begin);
    for (int i = 2; i < argc; i++) {
        measure(tokenizer, argv[i]);
    }
    rf_tokenizer_free(tokenizer);
    return 0;
}
