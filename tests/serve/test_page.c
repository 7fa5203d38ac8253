/* The page at /, in headless Chromium: what a person does with it (browse.py). */
#include "tests/serve/server_test.h"

TestSuite(page, .init = server_begin, .fini = server_end, .timeout = 600);

/* Asks on the page and checks that a picture of it came out. */
static void browse(const char *flags)
{
    char command[256];
    struct stat picture;
    snprintf(
        command, sizeof command,
        "python3 \"$ROOT/tests/serve/browse.py\" http://127.0.0.1:%d/ '12+30 \"<b>&' page.png %s",
        server_port, flags);
    cr_assert(program_shell(command) == 0, "%s: %s", flags, program_messages);
    cr_assert(stat("page.png", &picture) == 0 && picture.st_size > 10000, "%s", flags);
}

static void need_a_browser(void)
{
    if (program_shell("command -v chromium && command -v python3") != 0) {
        cr_skip("no chromium or no python3: the page of refusion-serve was not tested\n");
    }
}

Test(page, answers)
{
    need_a_browser();
    browse("");
    cr_assert(strstr(program_output, "tokens a pass") != NULL, "%s", program_output);
}

Test(page, answers_on_a_phone_in_the_dark)
{
    need_a_browser();
    browse("--phone --dark");
}

/* Then the message's field has the focus, and the page goes on as without a key. */
Test(page, asks_for_the_key)
{
    need_a_browser();
    server_stop();
    program_write("keys", "one-key\n");
    cr_assert(chmod("keys", 0600) == 0);
    server_start("--api-key-file keys");
    browse("--key one-key");
}

/* Escape ends the answer, and the server goes on with others. */
Test(page, stops)
{
    need_a_browser();
    char flags[64];
    snprintf(flags, sizeof flags, "--stop %d", (int)server_pid);
    browse(flags);
    browse("");
}
