#include "common/base/error.h"

#include "common/base/utf8.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void print_and_abort(const char *message)
{
    fprintf(stderr, "%s\n", message);
    abort();
}

static rf_panic_hook panic_hook = print_and_abort;

/* Copies into the message; where it is cut, no half of a UTF-8 sequence stays. Control characters,
 * which come from the input that it quotes, become blanks: a message is one line, and sends nothing
 * to the terminal. */
static void store(rf_error *err, const char *text)
{
    size_t n = strlen(text);
    if (n >= sizeof err->message) {
        n = sizeof err->message - 1;
        while (n > 0 && rf_utf8_continues(text[n])) {
            n--;
        }
    }
    for (size_t i = 0; i < n; i++) {
        const unsigned char c = (unsigned char)text[i];
        err->message[i] = c < 0x20 || c == 0x7F ? ' ' : text[i];
    }
    err->message[n] = '\0';
}

int rf_error_set(rf_error *err, int code, const char *format, ...)
{
    if (err == NULL) {
        return code;
    }
    /* Into a second buffer: err->message may be among the arguments. */
    char text[sizeof err->message + 4];
    va_list arguments;
    va_start(arguments, format);
    if (vsnprintf(text, sizeof text, format, arguments) < 0) {
        snprintf(text, sizeof text, "%s", format);
    }
    va_end(arguments);
    err->code = code;
    store(err, text);
    return code;
}

int rf_error_prefix(rf_error *err, const char *format, ...)
{
    if (err == NULL) {
        return RF_ERR;
    }
    char text[2 * sizeof err->message];
    va_list arguments;
    va_start(arguments, format);
    if (vsnprintf(text, sizeof err->message, format, arguments) < 0) {
        snprintf(text, sizeof err->message, "%s", format);
    }
    va_end(arguments);
    size_t n = strlen(text);
    snprintf(text + n, sizeof text - n, ": %s", err->message);
    store(err, text);
    return err->code;
}

int rf_error_pass(rf_error *err, const rf_error *from)
{
    return from->code == RF_OK ? RF_OK : rf_error_set(err, from->code, "%s", from->message);
}

int rf_error_code_of_errno(int errno_value)
{
    static const int passing[] = {
        EIO,       EAGAIN,      EBUSY,      ENOLCK,    ESTALE,       ETIMEDOUT,
        ENETDOWN,  ENETUNREACH, ECONNRESET, EHOSTDOWN, EHOSTUNREACH,
#ifdef EREMOTEIO
        EREMOTEIO,
#endif
    };
    for (size_t i = 0; i < sizeof passing / sizeof passing[0]; i++) {
        if (errno_value == passing[i]) {
            return RF_ERR_RETRY;
        }
    }
    return RF_ERR;
}

int rf_error_system(rf_error *err, int errno_value, const char *name, const char *what)
{
    return rf_error_set(err, rf_error_code_of_errno(errno_value), "%s: %s: %s", name, what,
                        strerror(errno_value));
}

int rf_error_of_stdout(rf_error *err)
{
    return fflush(stdout) == 0 && ferror(stdout) == 0
               ? RF_OK
               : rf_error_set(err, RF_ERR, "cannot write to standard output: %m");
}

int rf_error_exit_status(int code)
{
    return code > 0 || code < RF_ERR_RETRY ? -RF_ERR : -code;
}

void rf_error_set_panic_hook(rf_panic_hook hook)
{
    panic_hook = hook != NULL ? hook : print_and_abort;
}

_Noreturn void rf_error_panic(const char *file, int line, const char *condition)
{
    char message[1024];
    snprintf(message, sizeof message,
             "%s:%d: broken invariant: %s: this is a bug, please report it", file, line, condition);
    panic_hook(message);
    abort();
}

_Noreturn void rf_error_out_of_memory(size_t count, size_t bytes)
{
    char message[128];
    snprintf(message, sizeof message,
             "out of memory: %zu x %zu bytes: free some, or start fewer programs here", count,
             bytes);
    panic_hook(message);
    abort();
}
