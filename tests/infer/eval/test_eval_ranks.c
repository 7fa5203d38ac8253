/* refusion-eval in batches and on several ranks. */
#include "tests/infer/eval/eval_test.h"
#include "tests/mpi.h"

TestSuite(eval_ranks, .init = begin, .fini = leave_folder, .timeout = 600);

/* Removes what depends on the clock or says how many ranks there were. */
static void forget_times(json_t *report)
{
    static const char *const times[] = {"seconds",     "tokens_per_second", "latency_mean",
                                        "latency_p50", "latency_p95",       "ranks"};
    json_t *likelihood = json_object_get(report, "likelihood");
    json_t *judged = json_object_get(report, "answers");
    for (size_t i = 0; i < sizeof times / sizeof *times; i++) {
        json_object_del(report, times[i]);
        json_object_del(likelihood, times[i]);
        json_object_del(judged, times[i]);
    }
}

Test(eval_ranks, batches_answer_alike)
{
    char *lines[2];
    for (int i = 0; i < 2; i++) {
        program_runs(i == 0 ? EVAL "--task arithmetic --no-likelihood --answers a.jsonl"
                            : EVAL "--task arithmetic --no-likelihood --answers a.jsonl --batch 3",
                     0);
        json_t *r = program_report("r.json");
        cr_assert((int)number(r, "answers", "batch") == (i == 0 ? 1 : 3));
        json_decref(r);
        program_runs("sed 's/\"seconds\":[^}]*//' a.jsonl", 0);
        lines[i] = program_keep();
    }
    cr_assert(program_count_lines(lines[0]) == N_QUESTIONS);
    cr_assert_str_eq(lines[0], lines[1]);
    free(lines[0]);
    free(lines[1]);
}

/* The second rank finds other files under the same names, or is given something else. */
Test(eval_ranks, ranks_agree)
{
    static const char *const rows[][3] = {
        {"cp model.h5 other && sed '1s/[0-9]/7/' q.jsonl >other/q.jsonl", "",
         "questions with hash"},
        {"cp q.jsonl other && "
         "\"$CONVERT\" quantize model.h5 other/model.h5",
         "", "--model with hash"},
        {"cp model.h5 q.jsonl other", "--weights int8", "weights int8"},
        {"cp model.h5 q.jsonl other", "--seed 7", "of seed 7"},
        {"cp model.h5 q.jsonl other", "--html p.html", "--html p.html"}};
    mpi_need();
    for (int i = 0; i < 5; i++) {
        char command[1024];
        snprintf(command, sizeof command,
                 "rm -rf other && mkdir other && %s && $RUN -n 2 sh -c 'm=; [ " MPI_RANK
                 " = 0 ] || { cd other; m=\"%s\"; }; exec " EVAL
                 "--no-likelihood --task arithmetic $m'",
                 rows[i][0], rows[i][1]);
        int status = program_shell(command);
        cr_assert(status == 2, "status %d: %s%s", status, program_output, program_messages);
        cr_assert(strstr(program_messages, "rank 1: this rank has ") != NULL &&
                      strstr(program_messages, rows[i][2]) != NULL,
                  "%s", program_messages);
    }
}

Test(eval_ranks, any_number_of_ranks_reports_the_same)
{
    json_t *report[3], *lines[3];
    static const int ranks[] = {1, 2, 4};
    mpi_need();
    for (int i = 0; i < 3; i++) {
        char command[512];
        snprintf(command, sizeof command,
                 "$RUN -n %d " EVAL "--task arithmetic --draws 3 --answers a.jsonl "
                 "decode.temperature=0.7",
                 ranks[i]);
        program_runs(command, 0);
        report[i] = program_report("r.json");
        cr_assert((int)number(report[i], NULL, "ranks") == ranks[i]);
        forget_times(report[i]);
        program_read(program_output, sizeof program_output, "a.jsonl");
        cr_assert_eq(program_count_lines(program_output), N_QUESTIONS);
        lines[i] = json_array();
        for (int q = 0; q < N_QUESTIONS; q++) {
            json_t *o = program_json(program_output, q);
            json_object_del(o, "seconds");
            json_array_append_new(lines[i], o);
        }
        cr_assert(json_equal(report[0], report[i]), "%d ranks report something else", ranks[i]);
        cr_assert(json_equal(lines[0], lines[i]), "%d ranks answer something else", ranks[i]);
    }
    for (int i = 0; i < 3; i++) {
        json_decref(report[i]);
        json_decref(lines[i]);
    }
}

static int count(const char *text, const char *word)
{
    int n = 0;
    for (; (text = strstr(text, word)) != NULL; text++) {
        n++;
    }
    return n;
}

Test(eval_ranks, ranks_fail_with_one_voice)
{
    mpi_need();
    program_runs("$RUN -n 3 \"$EVAL\" --model model.h5 --data none.jsonl", 1);
    cr_assert(count(program_messages, "refusion-eval: ") == 1 &&
                  strstr(program_messages, "none.jsonl"),
              "%s", program_messages);
    program_runs("$RUN -n 3 \"$EVAL\" --model model.h5", 2);
    cr_assert(count(program_messages, "refusion-eval: ") == 1, "%s", program_messages);
    /* One rank alone has another file. */
    program_runs("$RUN -n 2 sh -c 'data=q; [ " MPI_RANK " = 0 ] || data=none; "
                 "exec \"$EVAL\" --model model.h5 --data $data.jsonl'",
                 1);
    cr_assert(count(program_messages, "refusion-eval: rank 1: none.jsonl") == 1, "%s",
              program_messages);
}
