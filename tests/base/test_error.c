/* common/base/error.h */
#include "common/base/error.h"

#include "tests/base/base_test.h"

#include <errno.h>
#include <signal.h>

Test(error, set_fills_code_and_message)
{
    rf_error err = {0};
    cr_expect(rf_error_set(&err, RF_ERR_RETRY, "%s:%d: gone", "a.h5", 7) == RF_ERR_RETRY);
    cr_expect(err.code == RF_ERR_RETRY);
    cr_expect_str_eq(err.message, "a.h5:7: gone");
}

Test(error, no_error_wanted)
{
    cr_expect(rf_error_set(NULL, RF_ERR_USAGE, "x") == RF_ERR_USAGE);
    cr_expect(rf_error_prefix(NULL, "x") == RF_ERR);
}

Test(error, prefix_keeps_the_code)
{
    rf_error err = {0};
    rf_error_set(&err, RF_ERR_DIVERGED, "100%% of it");
    cr_expect(rf_error_prefix(&err, "rank %d", 3) == RF_ERR_DIVERGED);
    cr_expect_str_eq(err.message, "rank 3: 100% of it");
}

Test(error, one_that_was_put_aside_is_passed_on)
{
    rf_error kept = {0}, err = {0};
    cr_expect(rf_error_pass(&err, &kept) == RF_OK && err.code == RF_OK && err.message[0] == '\0');
    rf_error_set(&kept, RF_ERR_RETRY, "100%% %s", "gone");
    cr_expect(rf_error_pass(&err, &kept) == RF_ERR_RETRY && err.code == RF_ERR_RETRY);
    cr_expect_str_eq(err.message, "100% gone");
    cr_expect(rf_error_pass(NULL, &kept) == RF_ERR_RETRY);
}

Test(error, message_may_be_its_own_argument)
{
    rf_error err = {0};
    rf_error_set(&err, RF_ERR, "inner");
    rf_error_set(&err, RF_ERR, "outer (%s)", err.message);
    rf_error_prefix(&err, "%s", err.message);
    cr_expect_str_eq(err.message, "outer (inner): outer (inner)");
}

/* What is quoted from a file may hold anything. */
Test(error, a_message_is_one_line)
{
    rf_error err = {0};
    rf_error_set(&err, RF_ERR, "role \"%s\"", "a\nb\r\x1B[2J\x7F\xC3\xA9\t");
    cr_expect_str_eq(err.message, "role \"a b  [2J \xC3\xA9 \"");
    rf_error_prefix(&err, "x\ny");
    cr_expect_str_eq(err.message, "x y: role \"a b  [2J \xC3\xA9 \"");
}

/* The cut must not leave half a character: terminals and JSON readers dislike it. */
Test(error, long_messages_are_cut_between_characters)
{
    for (size_t shift = 0; shift < 4; shift++) {
        char text[4096] = "";
        memset(text, 'x', shift);
        for (size_t i = shift; i + 3 < sizeof text - 1; i += 3) {
            memcpy(text + i, "\xE2\x82\xAC", 4);
        }
        rf_error err;
        memset(&err, 0x55, sizeof err);
        rf_error_set(&err, RF_ERR, "%s", text);
        size_t n = strlen(err.message);
        cr_expect(n < sizeof err.message && n + 3 >= sizeof err.message);
        cr_expect((n - shift) % 3 == 0, "shift %zu, %zu bytes", shift, n);
        rf_error_prefix(&err, "%s", text);
        rf_error_prefix(&err, "y");
        n = strlen(err.message);
        cr_expect(n < sizeof err.message && strncmp(err.message, "y: ", 3) == 0);
        cr_expect((n - 3 - shift) % 3 == 0);
    }
}

Test(error, exit_statuses)
{
    cr_expect(rf_error_exit_status(RF_OK) == 0);
    cr_expect(rf_error_exit_status(RF_ERR) == 1);
    cr_expect(rf_error_exit_status(RF_ERR_USAGE) == 2);
    cr_expect(rf_error_exit_status(RF_ERR_STOPPED) == 3);
    cr_expect(rf_error_exit_status(RF_ERR_DIVERGED) == 4);
    cr_expect(rf_error_exit_status(RF_ERR_RETRY) == 5);
    cr_expect(rf_error_exit_status(-77) == 1);
    cr_expect(rf_error_exit_status(1) == 1);
}

Test(error, what_is_worth_a_retry)
{
    cr_expect(rf_error_code_of_errno(EIO) == RF_ERR_RETRY);
    cr_expect(rf_error_code_of_errno(ESTALE) == RF_ERR_RETRY);
    cr_expect(rf_error_code_of_errno(ENOSPC) == RF_ERR);
    cr_expect(rf_error_code_of_errno(ENOENT) == RF_ERR);
    cr_expect(rf_error_code_of_errno(0) == RF_ERR);
}

Test(error, panic_aborts, .signal = SIGABRT)
{
    RF_ASSERT(1 + 1 == 3);
}

static void leave(const char *message)
{
    _Exit(strstr(message, "1 + 1 == 3") != NULL && strstr(message, "test_error.c:") != NULL ? 42
                                                                                            : 43);
}

Test(error, panic_goes_through_the_hook, .exit_code = 42)
{
    rf_error_set_panic_hook(leave);
    RF_ASSERT(1 + 1 == 3);
}

static void come_back(const char *message)
{
    (void)message;
}

Test(error, panic_never_returns, .signal = SIGABRT)
{
    rf_error_set_panic_hook(come_back);
    RF_ASSERT(1 + 1 == 3);
}
