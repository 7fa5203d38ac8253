#include "infer/unit.h"

#include "common/base/utf8.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <utf8proc.h>

bool rf_unit_hides(int32_t c)
{
    return c < 32 || (c >= 127 && c < 160) || c == 0x2028 || c == 0x2029 ||
           (c >= 0x202A && c <= 0x202E) || (c >= 0x2066 && c <= 0x2069);
}

void rf_unit_print(const char *text, size_t bytes)
{
    if (!isatty(STDOUT_FILENO)) {
        fwrite(text, 1, bytes, stdout);
        bytes = 0;
    }
    for (size_t i = 0, n; i < bytes; i += n) {
        int32_t c;
        n = rf_utf8_next(&c, text + i);
        if (c == '\n' || c == '\t' || !rf_unit_hides(c)) {
            fwrite(text + i, 1, n, stdout);
        } else {
            fputc('?', stdout);
        }
    }
    fflush(stdout);
}

/* Text of a model may hold anything: nothing of it reaches the terminal as a control character. */
static void set_text(rf_unit *u, const char *raw, size_t bytes)
{
    size_t used = 0;
    for (size_t i = 0, n; i < bytes && used + 8 < sizeof u->text; i += n) {
        int32_t c;
        n = rf_utf8_next(&c, raw + i);
        u->breaks = c == '\n';
        if (c == '\n') {
            memcpy(u->text + used, "↵", 3);
            used += 3;
        } else if (rf_unit_hides(c)) {
            u->text[used++] = '?';
        } else {
            memcpy(u->text + used, raw + i, n);
            used += n;
            u->columns += utf8proc_charwidth(c) - 1;
        }
        u->columns++;
    }
    u->text[used] = 0;
}

void rf_unit_next(rf_unit *u, const rf_tokenizer *tokenizer, const int32_t *token, int64_t n)
{
    *u = (rf_unit){.n_tokens = 1};
    if (rf_tokenizer_is_eos(tokenizer, token[0])) {
        set_text(u, "■", strlen("■"));
        return;
    }
    for (int64_t k = 1; k <= 4 && k <= n && (k == 1 || token[k - 1] >= 0); k++) {
        size_t bytes;
        char *raw = rf_tokenizer_decode(tokenizer, &bytes, token, k, false);
        bool is_whole = strstr(raw, "\xEF\xBF\xBD") == NULL;
        if (is_whole || k == 1) {
            *u = (rf_unit){.n_tokens = k};
            set_text(u, raw, bytes);
        }
        free(raw);
        if (is_whole) {
            return;
        }
    }
}

int32_t rf_unit_token(const rf_sequence *s, int64_t i)
{
    if (s->token[i] >= 0) {
        return s->token[i];
    }
    return s->slot[i / s->slot_size] == RF_SLOT_SELECTED ? s->draft[i] : -1;
}
