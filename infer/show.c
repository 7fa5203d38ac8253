#include "infer/show.h"

#include "infer/unit.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

/* Colours of rounds 1, 2, ... from the 256-colour palette, readable on dark and light. */
static const int palette[] = {39, 208, 41, 170, 178, 75, 203, 113, 141, 44};

/* Styles that are no colour of the palette. */
enum { STYLE_NONE = -1, STYLE_ACCEPTED = -2, STYLE_DRAFT = -3, STYLE_REJECTED = -4 };
static const char *const codes[] = {"\033[0m", "\033[0;1m", "\033[0;2m", "\033[0;9;38;5;167m"};

void rf_show_init(rf_show *show, FILE *out, const rf_tokenizer *tokenizer, int pause_ms)
{
    const char *term = getenv("TERM");
    *show = (rf_show){.out = out, .tokenizer = tokenizer, .pause_ms = pause_ms};
    show->live = isatty(fileno(out)) && getenv("NO_COLOR") == NULL &&
                 !(term != NULL && strcmp(term, "dumb") == 0);
    rf_show_begin(show);
}

/* The terminal may have another size than at the last answer. */
void rf_show_begin(rf_show *show)
{
    struct winsize size = {0};
    show->columns = 80;
    show->lines = 24;
    show->n_painted = 0;
    if (show->live && ioctl(fileno(show->out), TIOCGWINSZ, &size) == 0 && size.ws_col > 0 &&
        size.ws_row > 0) {
        show->columns = size.ws_col;
        show->lines = size.ws_row;
    }
}

/* --- Live picture ----------------------------------------------------------------------------- */

enum { N_COLORS = sizeof palette / sizeof *palette };

/* The draft at place i is one that this event has not taken: of a slot that is being completed, or of
 * one that was selected and is masked again. */
static bool is_rejected(const rf_sequence *s, rf_event_kind kind, int64_t i)
{
    const int64_t e = i / s->slot_size;
    bool was_selected = false;
    if (s->token[i] >= 0 || s->draft[i] < 0) {
        return false;
    }
    for (int64_t r = 0; r < s->n_selected; r++) {
        was_selected = was_selected || s->selected[r] == e;
    }
    return s->slot[e] == RF_SLOT_SELECTED
               ? kind == RF_EVENT_ACCEPT
               : s->slot[e] == RF_SLOT_MASKED && kind == RF_EVENT_COMMIT && was_selected;
}

static int style_of(const rf_sequence *s, rf_event_kind kind, int64_t i)
{
    int64_t e = i / s->slot_size;
    if (s->slot[e] == RF_SLOT_COMMITTED) {
        return palette[(s->round[e] - 1) % N_COLORS];
    }
    return s->token[i] >= 0          ? STYLE_ACCEPTED
           : is_rejected(s, kind, i) ? STYLE_REJECTED
                                     : STYLE_DRAFT;
}

static void set_style(FILE *out, int *now, int style)
{
    if (*now == style) {
        return;
    }
    *now = style;
    if (style < 0) {
        fputs(codes[-1 - style], out);
    } else {
        fprintf(out, "\033[0;38;5;%dm", style);
    }
}

/* One line that tells the styles, as far as it fits. */
static void write_legend(FILE *out, int columns)
{
    static const struct {
        int style, columns;
        const char *text;
    } words[] = {{STYLE_DRAFT, 8, "· masked"},
                 {STYLE_DRAFT, 5, "draft"},
                 {STYLE_REJECTED, 8, "rejected"},
                 {STYLE_ACCEPTED, 8, "accepted"},
                 {STYLE_NONE, 7, "rounds:"}};
    enum { N_WORDS = sizeof words / sizeof *words };
    int style = STYLE_NONE, column = 0;
    for (int i = 0; i < N_WORDS + N_COLORS; i++) {
        const int n = i < N_WORDS ? words[i].columns : 1 + (i - N_WORDS >= 9);
        if (column + (column > 0) + n > columns) {
            break;
        }
        fputs(column > 0 ? " " : "", out);
        column += (column > 0) + n;
        set_style(out, &style, i < N_WORDS ? words[i].style : palette[i - N_WORDS]);
        if (i < N_WORDS) {
            fputs(words[i].text, out);
        } else {
            fprintf(out, "%d", i - N_WORDS + 1);
        }
    }
    set_style(out, &style, STYLE_NONE);
    fputc('\n', out);
}

/* Places up to the first committed end of text: what stands behind it will be cut off. */
static int64_t picture_end(const rf_show *show, const rf_sequence *s)
{
    for (int64_t i = 0; i < s->n_tokens; i++) {
        if (s->slot[i / s->slot_size] == RF_SLOT_COMMITTED && s->token[i] >= 0 &&
            rf_tokenizer_is_eos(show->tokenizer, s->token[i])) {
            return i + 1;
        }
    }
    return s->n_tokens;
}

/* The next unit from place *i on, which moves behind it; false at the end of the picture. */
static bool next_in_picture(rf_unit *u, int64_t *i, int64_t end, const rf_show *show,
                            rf_event_kind kind, const rf_sequence *s)
{
    for (; *i < end; ++*i) {
        rf_slot_state state = s->slot[*i / s->slot_size];
        int32_t token[4];
        if (state == RF_SLOT_REMOVED || (state == RF_SLOT_COMMITTED && s->token[*i] < 0)) {
            continue; /* behind an end of text */
        }
        for (int64_t k = 0; k < 4; k++) {
            const int64_t at = *i + k;
            token[k] = at >= end                  ? -1
                       : is_rejected(s, kind, at) ? s->draft[at]
                                                  : rf_unit_token(s, at);
        }
        if (token[0] < 0) {
            *u = (rf_unit){.n_tokens = 1, .columns = 1, .text = "·"};
        } else {
            rf_unit_next(u, show->tokenizer, token, 4);
        }
        *i += u->n_tokens;
        return true;
    }
    return false;
}

/* Writes lines [from, to) of the picture (none of them: out is not used). Returns how many it has;
 * *open: the first one that holds an undecided place. */
static int write_lines(FILE *out, int *open, int from, int to, const rf_show *show,
                       rf_event_kind kind, const rf_sequence *s)
{
    int column = 0, line = 0, style = STYLE_NONE;
    int64_t end = picture_end(show, s);
    bool found = false, visible = from == 0 && to > 0;
    rf_unit u;
    *open = 0;
    for (int64_t i = 0; next_in_picture(&u, &i, end, show, kind, s);) {
        int64_t at = i - u.n_tokens;
        if (column > 0 && column + u.columns > show->columns) {
            if (visible) {
                fputc('\n', out);
            }
            column = 0;
            line++;
            visible = line >= from && line < to;
        }
        if (!found && s->slot[at / s->slot_size] != RF_SLOT_COMMITTED) {
            found = true;
            *open = line;
        }
        if (visible) {
            fputs(column == 0 ? "\033[K" : "", out); /* what the last frame left there */
            set_style(out, &style, style_of(s, kind, at));
            fputs(u.text, out);
        }
        column = u.breaks ? show->columns : column + u.columns;
    }
    if (visible) {
        set_style(out, &style, STYLE_NONE);
        fputc('\n', out);
    }
    return line + 1;
}

static int64_t count_decided(const rf_show *show, const rf_sequence *s)
{
    int64_t n = 0, end = picture_end(show, s);
    for (int64_t i = 0; i < end; i++) {
        n += s->token[i] >= 0;
    }
    return n;
}

/* A frame is written at once and over the last one, so that nothing flickers; lines are broken here
 * and not by the terminal (\033[?7l), so that their number is known. */
static void paint(rf_show *show, rf_event_kind kind, const rf_sequence *s)
{
    char *frame = NULL, status[80];
    size_t bytes = 0;
    FILE *out = open_memstream(&frame, &bytes);
    int room = show->lines > 3 ? show->lines - 2 : 1;
    if (out != NULL) {
        int open, from = 0, n = write_lines(NULL, &open, 0, 0, show, kind, s);
        if (n > room && kind != RF_EVENT_END) {
            from = open > 0 ? open - 1 : 0;
            from = from > n - room ? n - room : from;
            n = room;
        }
        fputs("\033[?7l", out);
        if (show->n_painted == 0) {
            write_legend(out, show->columns);
        } else {
            fprintf(out, "\033[%dA\r", show->n_painted);
        }
        write_lines(out, &open, from, from + n, show, kind, s);
        (void)snprintf(status, sizeof status, "forward %" PRId64 ", %" PRId64 " tokens",
                       s->forwards, count_decided(show, s));
        fprintf(out, "\033[K\033[0;2m%.*s\033[0m\n\033[J\033[?7h", show->columns, status);
        show->n_painted = n + 1;
    }
    if (out != NULL && fclose(out) == 0) {
        fflush(show->out);
        fwrite(frame, 1, bytes, show->out);
        fflush(show->out);
    }
    free(frame);
    if (kind != RF_EVENT_END && show->pause_ms > 0) {
        struct timespec pause = {show->pause_ms / 1000, (show->pause_ms % 1000) * 1000000L};
        nanosleep(&pause, NULL);
    }
}

/* --- Plain lines ------------------------------------------------------------------------------ */

/* "round 2, forward 4: slot 1 «…» slot 3 «…»": what this round committed. Numbers of slots that were
 * halved count others than before: then it is "round 2, forward 4, slots of 2 tokens (1/4): slot 6 …". */
static void print_round(const rf_show *show, const rf_sequence *s)
{
    rf_unit u;
    const int64_t parts = rf_sequence_parts(s);
    fprintf(show->out, "round %" PRId64 ", forward %" PRId64, s->rounds, s->forwards);
    if (parts > 1) {
        fprintf(show->out, ", slots of %" PRId64 " token%s (1/%" PRId64 ")", s->slot_size,
                s->slot_size == 1 ? "" : "s", parts);
    }
    fputc(':', show->out);
    for (int64_t e = 0; e < s->n_slots; e++) {
        if (s->slot[e] != RF_SLOT_COMMITTED || s->round[e] != s->rounds) {
            continue;
        }
        fprintf(show->out, " slot %" PRId64 " «", e);
        const int32_t *token = s->token + e * s->slot_size;
        int64_t n = rf_sequence_length(s, e);
        for (int64_t i = 0; i < n && token[i] >= 0; i += u.n_tokens) {
            rf_unit_next(&u, show->tokenizer, token + i, n - i);
            fputs(u.text, show->out);
        }
        fputs("»", show->out);
    }
    fputc('\n', show->out);
}

void rf_show_observe(void *user, rf_event_kind kind, const rf_sequence *s)
{
    rf_show *show = user;
    if (show->live) {
        paint(show, kind, s);
    } else if (kind == RF_EVENT_COMMIT) {
        print_round(show, s);
    }
}
