/* serve/desk.h: whose turn it is, and what is counted. */
#include "common/base/alloc.h"
#include "serve/desk.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static rf_desk desk;
static const rf_loaded loaded;
static const rf_offer offer = {.loaded = &loaded};

static void desk_begin(void)
{
    rf_desk_init(&desk, 1000, 600, 1);
}

static void desk_end(void)
{
    rf_desk_free(&desk);
}

TestSuite(desk, .init = desk_begin, .fini = desk_end, .timeout = 600);

static void do_nothing(void *user)
{
    (void)user;
}

/* An order of n choices that is handed in. */
static rf_order *hand_in(const char *client, const char *user, int64_t n)
{
    rf_ask ask = {.prompt = rf_alloc(1, sizeof *ask.prompt),
                  .n_prompts = 1,
                  .n = n,
                  .user = rf_alloc_string(user)};
    rf_order *x = rf_desk_order_new(&ask, &offer, client);
    rf_problem problem;
    int retry_after;
    x->sleep = x->wake = do_nothing;
    cr_assert_eq(rf_desk_submit(&desk, x, &retry_after, &problem), RF_OK);
    return x;
}

/* The next choice is done, whose client goes away with the last one of its order. Appends the first
 * letters of its client and user. */
static bool take_turn(char *turns)
{
    rf_choice *c = rf_desk_next(&desk, false);
    if (c == NULL) {
        return false;
    }
    rf_order *x = c->order;
    const char turn[] = {x->client[0], x->ask.user != NULL ? x->ask.user[0] : '-', ' ', '\0'};
    strcat(turns, turn);
    rf_desk_done(&desk, c);
    if (x->done) {
        rf_desk_leave(&desk, x);
    }
    return true;
}

/* Who says that each request is of another user waits no less; users take turns where they are those of
 * one client. */
Test(desk, users_take_turns_within_their_client)
{
    char turns[256] = "";
    const char *const users[] = {"1", "2", "3", "4", "5"};
    hand_in("A", NULL, 2);
    for (size_t i = 0; i < sizeof users / sizeof *users; i++) {
        hand_in("A", users[i], 1 + (i == 0));
    }
    hand_in("B", "1", 3);
    while (take_turn(turns)) {
    }
    cr_assert_str_eq(turns, "A- B1 A1 B1 A2 B1 A3 A4 A5 A- A1 ", "%s", turns);
}

/* Lines that are empty are gone, and who comes again stands behind the others. */
Test(desk, clients_come_and_go)
{
    char turns[256] = "";
    hand_in("A", NULL, 1);
    hand_in("B", NULL, 2);
    cr_assert(take_turn(turns) && take_turn(turns));
    hand_in("A", NULL, 1);
    hand_in("C", "1", 1);
    hand_in("C", "2", 1);
    while (take_turn(turns)) {
    }
    cr_assert_str_eq(turns, "A- B- A- C1 B- C2 ", "%s", turns);
}

static void expect_counted(const char *name, int n)
{
    char line[128], *text = rf_desk_metrics(&desk);
    snprintf(line, sizeof line, "\nrefusion_%s %d\n", name, n);
    cr_expect_not_null(strstr(text, line), "%s is not in %s", line, text);
    free(text);
}

/* Of two answers one is made; the other was cancelled when a part of it was there. */
Test(desk, answers_that_are_made_are_counted)
{
    const char *const finish[] = {"length", NULL};
    rf_order *x = hand_in("A", NULL, 2);
    for (int32_t id = 0; id < 5; id++) {
        rf_ids_push(&x->ask.prompt->ids, id);
    }
    for (int i = 0; i < 2; i++) {
        rf_choice *c = rf_desk_next(&desk, false);
        c->answer = (rf_answer){.n = 3, .forwards = 2, .places = 7, .cancelled = i == 1};
        c->finish = finish[i];
        rf_desk_done(&desk, c);
    }
    rf_desk_leave(&desk, x);
    expect_counted("answers_total", 1);
    expect_counted("prompt_tokens_total", 5);
    expect_counted("tokens_total", 3);
    expect_counted("forwards_total", 2);
    expect_counted("places_total", 7);
}
