/* lm-evaluation-harness as a client, with tasks from local files: log-likelihoods, answers up to a stop
 * string, conversations (harness.py). Skipped where RF_PYTHON (python3) has no lm_eval. */
#include "tests/serve/server_test.h"

TestSuite(harness, .init = server_begin, .fini = server_end, .timeout = 600);

Test(harness, gets_the_figures_of_refusion_eval)
{
    if (program_shell("\"${RF_PYTHON:-python3}\" -c 'import lm_eval'") != 0) {
        cr_skip("no lm_eval (pip install lm-eval[api]; RF_PYTHON names the Python that has it): "
                "lm-evaluation-harness was not tested\n");
    }
    program_write("q.jsonl", "{\"query\": \"abcab\", \"response\": \"cdeab\"}\n"
                             "{\"query\": \"x\", \"response\": \"dcbae\"}\n"
                             "{\"query\": \"eab\", \"response\": \"a\"}\n");
    program_runs(
        "\"$EVAL\" --model model.h5 --data q.jsonl --task exact --raw --answers eval.jsonl "
        "--threads 1 decode.slot_size=1",
        0);
    program_runs(
        "i=0; for query in abcab x eab; do "
        "for raw in --raw ''; do \"$INFER\" --model model.h5 --prompt $query $raw --threads 1 "
        "decode.gen_length=12 >answer$raw-$i || exit 1; done; i=$((i + 1)); done",
        0);
    char command[512];
    snprintf(
        command, sizeof command,
        "\"${RF_PYTHON:-python3}\" \"$ROOT/tests/serve/harness.py\" http://127.0.0.1:%d q.jsonl "
        "eval.jsonl answer--raw answer 256",
        server_port);
    program_runs(command, 0);
}
