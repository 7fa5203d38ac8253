/* Fuzz target of what a build reads: lines, formats, records, texts.
 *
 * The first byte sets the options, the rest is the file. What is accepted must be whole samples,
 * what is refused must say where and why in one line.
 */
#include "data/corpus/portion.h"
#include "tests/fuzz/fuzz.h"

#include <sys/mman.h>

/* Tokens of the samples fill ids; each sample that ends has a prompt and a response. */
static void check_samples(const rf_portion *p, const rf_tokenizer *tokenizer, int64_t *open)
{
    int64_t at = 0;
    for (int64_t i = 0; i < p->samples.n_samples; i++) {
        const rf_imported_sample *s = &p->samples.sample[i];
        RF_ASSERT(s->n_tokens >= 0 && s->n_tokens <= p->samples.ids.n - at);
        at += s->n_tokens;
        *open += s->n_tokens;
        if (s->n_prompt > 0) {
            RF_ASSERT(s->n_prompt < *open);
            RF_ASSERT(rf_tokenizer_is_eos(tokenizer, p->samples.ids.id[at - 1]));
            *open = 0;
        }
    }
    RF_ASSERT(at == p->samples.ids.n);
}

static void build(const rf_build_settings *settings, const rf_tokenizer *tokenizer)
{
    rf_portion_reader *reader = rf_portion_reader_new(settings);
    rf_portion portion = {0};
    int64_t open = 0;
    for (;;) {
        rf_portion_read(reader, &portion);
        if (portion.source == settings->n_sources) {
            RF_ASSERT(open == 0);
            break;
        }
        rf_portion_import(&portion, tokenizer, settings);
        check_samples(&portion, tokenizer, &open);
        if (portion.failure.code != RF_OK) {
            fuzz_check(&portion.failure, RF_ERR);
            break;
        }
        if (portion.read_failure.code != RF_OK) {
            fuzz_check(&portion.read_failure, RF_ERR);
            break;
        }
    }
    rf_portion_free(&portion);
    rf_portion_reader_free(reader);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1) {
        return 0;
    }
    rf_tokenizer *tokenizer;
    rf_error err;
    RF_ASSERT(rf_tokenizer_load(&tokenizer, "byte", &err) == RF_OK);
    int fd = memfd_create("input", 0);
    RF_ASSERT(fd >= 0 && write(fd, data + 1, size - 1) == (ssize_t)(size - 1));
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    rf_build_source source = {path, 1, (data[0] & 16) != 0};
    rf_build_settings settings = {.source = &source,
                                  .n_sources = 1,
                                  .held_out_fraction = (data[0] & 32) != 0 ? 0.5 : 0,
                                  .format = (rf_format)((data[0] & 3) % 3),
                                  .split_paragraphs = (data[0] & 4) != 0,
                                  .skip_bad = (data[0] & 8) != 0,
                                  .turns = (rf_turns)((data[0] >> 6) % 3),
                                  .n_jobs = 1};
    build(&settings, tokenizer);
    close(fd);
    rf_tokenizer_free(tokenizer);
    return 0;
}
