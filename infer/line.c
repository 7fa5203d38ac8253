#include "infer/line.h"

#include "common/base/alloc.h"
#include "common/base/files/file.h"
#include "common/base/log.h"

#include <errno.h>
#include <histedit.h>
#include <locale.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

enum { MOST_ENTRIES = 1000 };

struct rf_line {
    EditLine *edit;
    History *history;
    char file[RF_PATH_BYTES]; /* of the history; "": none */
    const char *prompt;
    char *text; /* of the last line. Owned */
    bool dropped;
};

/* Of the terminal, before the first line. */
static struct termios mode;
static bool has_mode;

/* --- History ---------------------------------------------------------------------------------- */

/* Makes the folder for the history file and names it. */
static int find_file(char *out, rf_error *err)
{
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    char folder[RF_PATH_BYTES];
    if (state != NULL && state[0] == '/') {
        RF_TRY(rf_path_join(folder, sizeof folder, state, "refusion", err));
    } else if (home != NULL && home[0] == '/') {
        RF_TRY(rf_path_join(folder, sizeof folder, home, ".local/state/refusion", err));
    } else {
        return rf_error_set(err, RF_ERR, "neither XDG_STATE_HOME nor HOME is set");
    }
    const mode_t mask = umask(077);
    int rc = rf_file_make_folder(folder, err);
    umask(mask);
    return rc == RF_OK ? rf_path_join(out, RF_PATH_BYTES, folder, "history", err) : rc;
}

static void load_history(rf_line *line)
{
    rf_error err = {0};
    HistEvent event;
    if (find_file(line->file, &err) != RF_OK) {
        rf_log_warn("what you type is not kept for the next time: %s", err.message);
        line->file[0] = '\0';
    } else if (rf_path_exists(line->file) &&
               history(line->history, &event, H_LOAD, line->file) < 0) {
        rf_log_warn("%s is no history of this program and is left as it is", line->file);
        line->file[0] = '\0';
    }
}

void rf_line_remember(rf_line *line, const char *text)
{
    HistEvent event;
    history(line->history, &event, H_ENTER, text);
    if (line->file[0] == '\0') {
        return;
    }
    const mode_t mask = umask(077);
    if (history(line->history, &event, H_SAVE, line->file) < 0) {
        rf_log_warn("cannot write %s (%s): what you type is not kept for the next time", line->file,
                    strerror(errno));
        line->file[0] = '\0';
    }
    umask(mask);
}

/* --- Editing ---------------------------------------------------------------------------------- */

static rf_line *line_of(EditLine *edit)
{
    void *line = NULL;
    el_get(edit, EL_CLIENTDATA, &line);
    return line;
}

static char *prompt_of(EditLine *edit)
{
    return (char *)line_of(edit)->prompt;
}

/* Ctrl-C. The line is finished as if by Enter, so that the cursor stands on a new one. */
static unsigned char drop(EditLine *edit, int key)
{
    (void)key;
    line_of(edit)->dropped = true;
    el_push(edit, "\n");
    return CC_NORM;
}

/* Ctrl-Z, which libedit passes on as the terminal would. */
static unsigned char suspend(EditLine *edit, int key)
{
    (void)edit;
    (void)key;
    raise(SIGTSTP);
    return CC_REDISPLAY;
}

rf_line *rf_line_open(void)
{
    rf_line *line = rf_alloc(1, sizeof *line);
    HistEvent event;
    has_mode = tcgetattr(STDIN_FILENO, &mode) == 0;
    if (setlocale(LC_CTYPE, "C.UTF-8") == NULL) {
        setlocale(LC_CTYPE, "");
    }
    line->history = history_init();
    line->edit = el_init("refusion-infer", stdin, stderr, stderr);
    RF_ASSERT(line->history != NULL && line->edit != NULL);
    history(line->history, &event, H_SETSIZE, MOST_ENTRIES);
    history(line->history, &event, H_SETUNIQUE, 1);
    load_history(line);
    el_set(line->edit, EL_CLIENTDATA, line);
    el_set(line->edit, EL_EDITOR, "emacs");
    el_set(line->edit, EL_SIGNAL, 1); /* the window's size; another terminal mode while stopped */
    el_set(line->edit, EL_HIST, history, line->history);
    el_set(line->edit, EL_PROMPT, prompt_of);
    /* Wide, for libedit keeps these texts: of narrow ones it would keep copies that it never frees. */
    el_wset(line->edit, EL_ADDFN, L"drop-line", L"Does without what was typed", drop);
    el_wset(line->edit, EL_ADDFN, L"suspend", L"Stops the program, to be continued", suspend);
    el_set(line->edit, EL_SETTY, "-d", "-isig", NULL); /* while a line is edited, these are keys */
    el_source(line->edit, NULL);
    el_set(line->edit, EL_BIND, "^C", "drop-line", NULL);
    el_set(line->edit, EL_BIND, "^Z", "suspend", NULL);
    return line;
}

void rf_line_restore(void)
{
    if (has_mode) {
        tcsetattr(STDIN_FILENO, TCSANOW, &mode);
    }
}

void rf_line_close(rf_line *line)
{
    if (line != NULL) {
        el_end(line->edit);
        history_end(line->history);
        free(line->text);
        free(line);
    }
}

/* --- Texts ------------------------------------------------------------------------------------ */

/* *text: one line, which stays until the next call; with line breaks within it where it comes from the
 * history. */
static rf_line_end read_line(rf_line *line, const char **text, const char *prompt)
{
    int bytes = 0;
    line->prompt = prompt;
    line->dropped = false;
    el_set(line->edit, EL_PREP_TERM, 1); /* before the prompt: what is typed behind it are keys */
    const char *typed = el_gets(line->edit, &bytes);
    free(line->text);
    line->text = rf_alloc_copy(typed != NULL ? typed : "", typed != NULL ? (size_t)bytes : 0);
    const size_t n = strlen(line->text);
    if (n > 0 && line->text[n - 1] == '\n') {
        line->text[n - 1] = '\0';
    }
    *text = line->text;
    return line->dropped ? RF_LINE_DROPPED : typed != NULL ? RF_LINE_ENTER : RF_LINE_OVER;
}

static bool is_quote(const char *text)
{
    return strncmp(text, "\"\"\"", 3) == 0 && text[3 + strspn(text + 3, " \t")] == '\0';
}

static rf_line_end read_quoted(rf_line *line, rf_text *out)
{
    for (bool first = true;; first = false) {
        const char *text;
        const rf_line_end end = read_line(line, &text, ". ");
        if (end != RF_LINE_ENTER || is_quote(text)) {
            return end;
        }
        rf_text_print(out, "%s%s", first ? "" : "\n", text);
    }
}

/* text: the first line. */
static rf_line_end read_continued(rf_line *line, rf_text *out, const char *text)
{
    rf_line_end end = RF_LINE_ENTER;
    size_t n = strlen(text);
    while (end == RF_LINE_ENTER && n > 0 && text[n - 1] == '\\') {
        rf_text_add(out, text, n - 1);
        rf_text_add_string(out, "\n");
        end = read_line(line, &text, ". ");
        n = strlen(text);
    }
    rf_text_add(out, text, n);
    return end;
}

rf_line_end rf_line_read(rf_line *line, rf_text *out, bool *quoted)
{
    const char *text;
    const rf_line_end end = read_line(line, &text, "> ");
    *quoted = is_quote(text);
    return end != RF_LINE_ENTER ? end
           : *quoted            ? read_quoted(line, out)
                                : read_continued(line, out, text);
}
