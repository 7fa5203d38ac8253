/* error.h: how a failure travels.                                              all local
 *
 * A function that can fail returns 0 or one of the negative codes below, is marked RF_MUST_CHECK
 * and takes `rf_error *err` as its last argument. The message is one line that names what is wrong,
 * where, and what to do: "corpus.h5: dataset /tokens is shorter than sample_begin says: build the
 * corpus again". Libraries never print and never exit; only main does.
 */
#ifndef RF_BASE_ERROR_H
#define RF_BASE_ERROR_H

#include <stddef.h>

#define RF_MUST_CHECK __attribute__((warn_unused_result))
#define RF_PRINTF(format_index, first_argument)                                                    \
    __attribute__((format(printf, format_index, first_argument)))

/* The codes are the negated exit statuses of the programs. */
enum {
    RF_OK = 0,
    RF_ERR = -1,          /* permanent: bad input, a wrong file, a full disk                     */
    RF_ERR_USAGE = -2,    /* wrong command line or configuration                                 */
    RF_ERR_STOPPED = -3,  /* stopped on request after a checkpoint                               */
    RF_ERR_DIVERGED = -4, /* the loss stayed non-finite                                          */
    RF_ERR_RETRY = -5     /* worth a retry: a rank or a file system failed                       */
};

typedef struct rf_error {
    int code;
    char message[2048];
} rf_error;

/* Sets code and message (printf style; cut at the buffer's end; control characters become blanks)
 * and returns code.
 * err may be NULL: then only the code is returned. */
int rf_error_set(rf_error *err, int code, const char *format, ...) RF_PRINTF(3, 4);

/* Puts "prefix: " before the present message and returns err's code, which is kept.
 * err may be NULL: then RF_ERR is returned. */
int rf_error_prefix(rf_error *err, const char *format, ...) RF_PRINTF(2, 3);

/* Hands on what another call put aside: sets its code and message, and returns the code; RF_OK where
 * there is none. err may be NULL. */
int rf_error_pass(rf_error *err, const rf_error *from);

/* How a failure goes up. RF_TRY leaves the function with the code of a call that failed; RF_TRY_OUT
 * goes to the label `out`, behind which the function frees what it holds and returns `rc`. */
#define RF_TRY(call)                                                                               \
    do {                                                                                           \
        int rf_try_rc = (call);                                                                    \
        if (rf_try_rc != RF_OK) {                                                                  \
            return rf_try_rc;                                                                      \
        }                                                                                          \
    } while (0)
#define RF_TRY_OUT(call)                                                                           \
    do {                                                                                           \
        if ((rc = (call)) != RF_OK) {                                                              \
            goto out;                                                                              \
        }                                                                                          \
    } while (0)

/* RF_ERR_RETRY where a file system or a network is to blame (EIO, ESTALE, ETIMEDOUT, ...), else
 * RF_ERR. errno_value: of the system call that failed. */
int rf_error_code_of_errno(int errno_value);
/* Sets "<name>: <what>: <the system's words>" with that code, which it returns:
 *   rf_error_system(err, errno, path, "cannot open"); */
int rf_error_system(rf_error *err, int errno_value, const char *name, const char *what);
/* Has what was printed to standard output left the program? */
RF_MUST_CHECK int rf_error_of_stdout(rf_error *err);

/* Exit status of a program that ends with this code: 0 to 5. */
int rf_error_exit_status(int code);

/* A broken invariant: prints file, line and the condition through the hook and never returns.
 * The default hook prints to stderr and aborts; MPI programs set one that prints the rank and
 * aborts the communicator. Bad input is never an invariant. */
typedef void (*rf_panic_hook)(const char *message);
void rf_error_set_panic_hook(rf_panic_hook hook);
_Noreturn void rf_error_panic(const char *file, int line, const char *condition);

/* Ends the program through the hook for lack of small host memory (alloc.h). */
_Noreturn void rf_error_out_of_memory(size_t count, size_t bytes);

#define RF_ASSERT(condition)                                                                       \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            rf_error_panic(__FILE__, __LINE__, #condition);                                        \
        }                                                                                          \
    } while (0)

#endif
