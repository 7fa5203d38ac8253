/* Generated tasks: same stream, same text; own answers pass; wrong ones fail; garbage is safe. */
#include "data/tasks/task.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    rf_task_options options;
} cases[] = {
    {"arithmetic", {.n_parts = 4, .max_value = 99}},
    {"arithmetic", {.n_parts = 1, .max_value = 1}},
    {"arithmetic", {.n_parts = 8, .max_value = 999, .pad = true}},
    {"arithmetic", {.n_parts = 5, .max_value = 99, .chain = true}},
    {"arithmetic", {.n_parts = 5, .max_value = 99, .chain = true, .pad = true}},
    {"arithmetic", {.n_parts = 40, .max_value = 1000000000}},
    {"sort", {.n_parts = 6, .max_value = 99}},
    {"sort", {.n_parts = 1, .max_value = 9, .pad = true}},
    {"sort", {.n_parts = 90, .max_value = 1000000000}},
    {"sudoku4", {.n_parts = 4}},
    {"sudoku4", {.n_parts = 8}},
    {"sudoku4", {.n_parts = 15}},
    {"sudoku9", {.n_parts = 40}},
    {"sudoku9", {.n_parts = 26}},
    {"countdown", {.n_parts = 2, .max_value = 10}},
    {"countdown", {.n_parts = 3, .max_value = 100}},
    {"countdown", {.n_parts = 6, .max_value = 100000}},
};
enum { N_CASES = sizeof cases / sizeof cases[0], N_QUESTIONS = 100 };

static void generate(rf_task_text *text, int c, uint64_t index)
{
    rf_error err = {0};
    rf_rng rng = RF_RNG_STREAM(7, RF_RNG_TEST, index);
    cr_assert_eq(rf_task_generate(rf_task_find(cases[c].name), text, &rng, &cases[c].options, &err),
                 RF_OK, "%s", err.message);
}

static bool check(const char *task, const char *query, const char *answer)
{
    return rf_task_find(task)->check(query, "", answer);
}

Test(task, same_stream_same_text)
{
    for (int c = 0; c < N_CASES; c++) {
        rf_task_text a, b, other;
        generate(&a, c, 1);
        generate(&b, c, 1);
        cr_assert_eq(memcmp(&a, &b, sizeof a), 0);
        int n_same = 0;
        for (uint64_t i = 2; i < 6; i++) {
            generate(&other, c, i);
            n_same += strcmp(a.query, other.query) == 0;
        }
        cr_assert_lt(n_same, 4, "%s", cases[c].name);
    }
}

/* Every digit of an answer matters in all four tasks: each change of one makes it wrong. */
Test(task, own_answers_pass_and_changed_ones_fail)
{
    for (int c = 0; c < N_CASES; c++) {
        for (uint64_t i = 0; i < N_QUESTIONS; i++) {
            rf_task_text text;
            generate(&text, c, i);
            cr_assert(check(cases[c].name, text.query, text.response), "%s: %s -> %s",
                      cases[c].name, text.query, text.response);
            size_t n = strlen(text.response);
            char *answer = malloc(n + 2);
            for (size_t at = 0; at < n; at++) {
                strcpy(answer, text.response);
                if (answer[at] >= '0' && answer[at] <= '9') {
                    answer[at] = answer[at] == '9' ? '0' : (char)(answer[at] + 1);
                    cr_assert(!check(cases[c].name, text.query, answer), "%s -> %s", text.query,
                              answer);
                }
            }
            snprintf(answer, n + 2, "%s,", text.response);
            cr_assert(!check(cases[c].name, text.query, answer));
            snprintf(answer, n + 2, "%s1", text.response);
            cr_assert(!check(cases[c].name, text.query, answer));
            free(answer);
            cr_assert(!check(cases[c].name, text.query, ""));
        }
    }
}

Test(task, padding_gives_answers_of_one_width)
{
    rf_task_text text;
    for (uint64_t i = 0; i < N_QUESTIONS; i++) {
        generate(&text, 2, i);
        cr_assert_eq(strlen(text.query), 8 * 8 - 1);
        cr_assert_eq(strlen(text.response), 8 * 5 - 1);
    }
}

Test(task, arithmetic_rules)
{
    cr_assert(check("arithmetic", "12+30,7+5", "42,12"));
    cr_assert(check("arithmetic", "12+30,7+5", " 042 , 12\n"));
    cr_assert(!check("arithmetic", "12+30,7+5", "12,42"));
    cr_assert(!check("arithmetic", "12+30,7+5", "42"));
    cr_assert(!check("arithmetic", "12+30,7+5", "42,12,1"));
    cr_assert(!check("arithmetic", "12+30,7+5", "42 12"));
    cr_assert(check("arithmetic", "12+30-7", "42,35"));
    cr_assert(!check("arithmetic", "12+30-7", "35"));
    cr_assert(check("arithmetic", "3-5", "-2"));
    cr_assert(!check("arithmetic", "12", ""));
    cr_assert(!check("arithmetic", "", ""));
    cr_assert(!check("arithmetic", "1+", "1"));
    cr_assert(!check("arithmetic", "1+1", "9999999999999999999999999"));
}

Test(task, sort_rules)
{
    cr_assert(check("sort", "3,1,2,1", "1,1,2,3"));
    cr_assert(check("sort", "3,1,2,1", "01, 01, 02, 03"));
    cr_assert(!check("sort", "3,1,2,1", "1,2,3"));
    cr_assert(!check("sort", "3,1,2,1", "1,2,2,3"));
    cr_assert(!check("sort", "3,1,2,1", "3,2,1,1"));
}

Test(task, countdown_accepts_every_right_chain)
{
    cr_assert(check("countdown", "54,17,4,41", "17-4=13,54-13=41"));
    cr_assert(check("countdown", "54,17,4,41", "54-17=37,37+4=41"));
    cr_assert(check("countdown", "54,17,4,41", "54+4=58,58-17=41"));
    cr_assert(check("countdown", "54,17,4,41", "4-17=-13,54+-13=41"));
    cr_assert(check("countdown", "8,2,4", "8/2=4"));
    cr_assert(check("countdown", "50,50,68,100,68", "68+50=118,118-100=18,50+18=68"));
    cr_assert(!check("countdown", "54,17,4,41", "54-13=41")); /* a number not given */
    cr_assert(!check("countdown", "54,17,4,41", "17-4=13"));  /* one left over */
    cr_assert(!check("countdown", "54,17,41", "54-17=37"));   /* not the target */
    cr_assert(!check("countdown", "5,5,3,15", "5*3=15"));     /* a number unused */
    cr_assert(!check("countdown", "5,3,2,15", "5*3=15,15*1=15"));
    cr_assert(!check("countdown", "9,2,4", "9/2=4"));   /* does not divide */
    cr_assert(!check("countdown", "9,0,0", "9/0=0"));   /* by zero */
    cr_assert(!check("countdown", "9,2,11", "9+2=12")); /* wrong sum */
    cr_assert(!check("countdown", "9,2,11", "9+2=11;"));
    cr_assert(!check("countdown", "5,5", ""));
    cr_assert(!check("countdown", "999999999999999999,999999999999999999,1",
                     "999999999999999999*999999999999999999=1"));
}

Test(task, sudoku_accepts_every_completion)
{
    const char *a = "1234341221434321", *b = "1234341243212143";
    cr_assert(check("sudoku4", "1234341200000000", a));
    cr_assert(check("sudoku4", "1234341200000000", b));
    cr_assert(check("sudoku4", "12343412........", b));
    cr_assert(!check("sudoku4", "1234341200000001", "1234341243212143"));
    cr_assert(!check("sudoku4", "0000000000000000", "1234123412341234")); /* columns */
    cr_assert(!check("sudoku4", "0000000000000000", "1234234134124123")); /* boxes */
    cr_assert(!check("sudoku4", "0000000000000000", "1134341221434321")); /* rows */
    cr_assert(!check("sudoku4", "0000000000000000", "0000000000000000"));
    cr_assert(!check("sudoku4", "0000000000000000", "5234341221434321"));
    cr_assert(!check("sudoku4", "0000000000000000", "123434122143432"));
    const char *nine = "5719428369426381752386145717194836252567193844263859178634912571378"
                       "57491862194263758";
    const char *solved =
        "571942836942638175638571249719426583385719624426385917263857491857194362194263758";
    cr_assert(check("sudoku4",
                    "571000006940030175030571249719420580385000604406085917263800490050190062"
                    "000063050",
                    solved));
    cr_assert(!check("sudoku4", solved, nine));
}

/* Solutions of a 4x4 grid from cell `at` on, by plain search. */
static int count(int *cell, int at)
{
    if (at == 16) {
        return 1;
    }
    if (cell[at] != 0) {
        return count(cell, at + 1);
    }
    int n = 0;
    for (int digit = 1; digit <= 4; digit++) {
        bool fits = true;
        for (int i = 0; i < 16; i++) {
            bool seen =
                i / 4 == at / 4 || i % 4 == at % 4 || (i / 8 == at / 8 && i % 4 / 2 == at % 4 / 2);
            fits = fits && !(seen && cell[i] == digit);
        }
        if (fits) {
            cell[at] = digit;
            n += count(cell, at + 1);
            cell[at] = 0;
        }
    }
    return n;
}

Test(task, sudoku_grids_have_one_solution)
{
    for (int c = 9; c <= 11; c++) {
        for (uint64_t i = 0; i < N_QUESTIONS; i++) {
            rf_task_text text;
            generate(&text, c, i);
            int cell[16], n_givens = 0;
            for (int k = 0; k < 16; k++) {
                cell[k] = text.query[k] - '0';
                n_givens += cell[k] != 0;
            }
            cr_assert_eq(n_givens, cases[c].options.n_parts);
            cr_assert_eq(count(cell, 0), 1, "%s", text.query);
        }
    }
}

Test(task, exact_text)
{
    const rf_task *task = rf_task_find("exact");
    cr_assert(task->check("", "a b", " a b\n"));
    cr_assert(!task->check("", "a b", "a  b"));
    cr_assert(!task->check("", "a b", "A b"));
    cr_assert(task->check("", "", " "));
}

Test(task, options_out_of_range_are_refused)
{
    const struct {
        const char *name;
        rf_task_options options;
    } bad[] = {
        {"arithmetic", {.n_parts = 0, .max_value = 9}},
        {"arithmetic", {.n_parts = 1, .max_value = 0}},
        {"arithmetic", {.n_parts = INT64_MAX, .max_value = INT64_MAX}},
        {"arithmetic", {.n_parts = 256, .max_value = 1000000000}}, /* longer than a question */
        {"sort", {.n_parts = 5, .max_value = 9, .chain = true}},
        {"sort", {.n_parts = -1, .max_value = 9}},
        {"sudoku4", {.n_parts = 3}},
        {"sudoku4", {.n_parts = 16}},
        {"sudoku4", {.n_parts = 8, .max_value = 9}},
        {"countdown", {.n_parts = 1, .max_value = 100}},
        {"countdown", {.n_parts = 7, .max_value = 100}},
        {"countdown", {.n_parts = 3, .max_value = 100, .pad = true}},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        rf_error err = {0};
        rf_task_text text;
        rf_rng rng = RF_RNG_STREAM(7, RF_RNG_TEST, i);
        cr_assert_eq(
            rf_task_generate(rf_task_find(bad[i].name), &text, &rng, &bad[i].options, &err),
            RF_ERR_USAGE, "case %zu", i);
        cr_assert_str_not_empty(err.message);
    }
    cr_assert_null(rf_task_find("nothing"));
    cr_assert_null(rf_task_find(""));
}

/* Random strings from an alphabet that comes close to real answers, in both places. */
Test(task, garbage_never_crashes)
{
    static const char alphabet[] = "0123456789,,+-*/==.#### $\n\xFF\x80{}\\`a";
    rf_rng rng = RF_RNG_STREAM(7, RF_RNG_TEST, 1000);
    const rf_task_item item = {
        .query = (char[]){""}, .prefix = (char[]){""}, .tests = (char[]){""}};
    for (int i = 0; i < 20000; i++) {
        char query[64], answer[64];
        size_t n = rf_rng_below(&rng, sizeof query), m = rf_rng_below(&rng, sizeof answer);
        for (size_t k = 0; k < n; k++) {
            query[k] = alphabet[rf_rng_below(&rng, sizeof alphabet)];
        }
        for (size_t k = 0; k < m; k++) {
            answer[k] = alphabet[rf_rng_below(&rng, sizeof alphabet)];
        }
        query[n > 0 ? n - 1 : 0] = answer[m > 0 ? m - 1 : 0] = '\0';
        for (const rf_task *const *task = rf_tasks; *task != NULL; task++) {
            if ((*task)->check != NULL) {
                (void)(*task)->check(query, answer, answer);
                (void)(*task)->check(answer, query, query);
            }
            free((*task)->extract != NULL ? (*task)->extract(answer) : NULL);
            free((*task)->program != NULL ? (*task)->program(&item, answer) : NULL);
        }
    }
}
