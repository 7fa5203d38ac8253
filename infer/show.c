#include "infer/show.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

/* Colours of rounds 1, 2, ... from the 256-colour palette, readable on dark and light. */
static const int palette[] = {39, 208, 41, 170, 178, 75, 203, 113, 141, 44};

void rf_show_init(rf_show *show, FILE *out, const rf_tokenizer *tokenizer, int pause_ms)
{
    struct winsize size;
    bool terminal = isatty(fileno(out)) != 0;
    *show = (rf_show){.out = out, .tokenizer = tokenizer, .pause_ms = pause_ms, .columns = 80};
    show->live = terminal && !getenv("NO_COLOR");
    if (terminal && ioctl(fileno(out), TIOCGWINSZ, &size) == 0 && size.ws_col >= 20) {
        show->columns = size.ws_col;
    }
}

void rf_show_begin(rf_show *show)
{
    show->n_painted = 0;
}

/* The text of one token on one line: control characters as visible signs. Returns its columns. */
static int token_text(char *text, size_t bytes, const rf_tokenizer *tokenizer, int32_t id)
{
    char *raw = NULL;
    size_t n = 0, used = 0;
    int columns = 0;
    rf_error ignored;

    text[0] = 0;
    if (rf_tokenizer_is_eos(tokenizer, id)) {
        (void)snprintf(text, bytes, "■");
        return 1;
    }
    if (rf_tokenizer_decode(tokenizer, &raw, &n, &id, 1, false, &ignored) != RF_OK) {
        return 0;
    }
    for (size_t i = 0; i < n && used + 4 < bytes; i++) {
        unsigned char c = (unsigned char)raw[i];
        if (c == '\n') {
            memcpy(text + used, "↵", 3);
            used += 3;
        } else {
            text[used++] = c < 32 || c == 127 ? '?' : (char)c;
        }
        columns += (c & 0xC0) != 0x80;
    }
    text[used] = 0;
    free(raw);
    return columns;
}

/* --- Live picture ----------------------------------------------------------------------------- */

static void paint_place(const rf_show *show, const rf_decode_event *event, int64_t i,
                        const char *text)
{
    int64_t e = i / event->slot_size;
    if (event->slot[e] == RF_SLOT_COMMITTED) {
        int color = palette[(size_t)(event->round[e] - 1) % (sizeof(palette) / sizeof(*palette))];
        fprintf(show->out, "\033[38;5;%dm%s\033[0m", color, text);
    } else if (event->token[i] >= 0) {
        fprintf(show->out, "\033[1m%s\033[0m", text);
    } else {
        fprintf(show->out, "\033[2m%s\033[0m", text);
    }
}

/* What stands at place i now: decided, draft, or nothing. */
static int32_t place_token(const rf_decode_event *event, int64_t i)
{
    if (event->token[i] >= 0) {
        return event->token[i];
    }
    return event->slot[i / event->slot_size] == RF_SLOT_SELECTED ? event->draft[i] : -1;
}

static void paint(rf_show *show, const rf_decode_event *event)
{
    int column = 0, lines = 1;
    char text[256];

    if (show->n_painted > 0) {
        fprintf(show->out, "\033[%dA\r\033[J", show->n_painted);
    }
    for (int64_t e = 0; e < event->n_slots; e++) {
        if (event->slot[e] == RF_SLOT_REMOVED) {
            continue;
        }
        for (int64_t i = e * event->slot_size; i < (e + 1) * event->slot_size; i++) {
            int32_t id = place_token(event, i);
            int width = 1;
            if (event->slot[e] == RF_SLOT_COMMITTED && id < 0) {
                break; /* behind the end of text */
            }
            if (id >= 0) {
                width = token_text(text, sizeof(text), show->tokenizer, id);
            } else {
                (void)snprintf(text, sizeof(text), "·");
            }
            if (column + width >= show->columns) {
                fputc('\n', show->out);
                column = 0;
                lines++;
            }
            paint_place(show, event, i, text);
            column += width;
        }
    }
    fprintf(show->out, "\n\033[2mforward %lld\033[0m\n", (long long)event->forwards);
    fflush(show->out);
    show->n_painted = lines + 1;
    if (event->kind != RF_EVENT_END && show->pause_ms > 0) {
        struct timespec pause = {show->pause_ms / 1000, (show->pause_ms % 1000) * 1000000L};
        nanosleep(&pause, NULL);
    }
}

/* --- Plain lines ------------------------------------------------------------------------------ */

/* "round 2, forward 4: slot 1 «…» slot 3 «…»": what this round committed. */
static void print_round(const rf_show *show, const rf_decode_event *event)
{
    int64_t last = 0;
    char text[256];

    for (int64_t e = 0; e < event->n_slots; e++) {
        last = event->round[e] > last ? event->round[e] : last;
    }
    fprintf(show->out, "round %lld, forward %lld:", (long long)last, (long long)event->forwards);
    for (int64_t e = 0; e < event->n_slots; e++) {
        if (event->slot[e] != RF_SLOT_COMMITTED || event->round[e] != last) {
            continue;
        }
        fprintf(show->out, " slot %lld «", (long long)e);
        for (int64_t i = e * event->slot_size; i < (e + 1) * event->slot_size; i++) {
            if (event->token[i] >= 0) {
                token_text(text, sizeof(text), show->tokenizer, event->token[i]);
                fputs(text, show->out);
            }
        }
        fputs("»", show->out);
    }
    fputc('\n', show->out);
}

void rf_show_observe(void *user, const rf_decode_event *event)
{
    rf_show *show = user;
    if (show->live) {
        paint(show, event);
    } else if (event->kind == RF_EVENT_COMMIT) {
        print_round(show, event);
    }
}
