/* metrics.jsonl is continued without a double or a torn line, and holds every bit. */
#include "train/run/metrics.h"

#include "tests/scratch.h"

#include <criterion/criterion.h>
#include <jansson.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

TestSuite(metrics, .init = begin_folder, .fini = end_folder);

static rf_metrics *open_at(int64_t step)
{
    rf_metrics *metrics = NULL;
    rf_error err = {0};
    cr_assert(rf_metrics_open(&metrics, folder, step, false, false, &err) == RF_OK, "%s",
              err.message);
    return metrics;
}

static void write_steps(rf_metrics *metrics, int64_t first, int64_t last)
{
    for (int64_t step = first; step <= last; step++) {
        rf_step_metrics line = {.step = step,
                                .n_steps = 100,
                                .objective = &rf_objective_refusion,
                                .loss = 1.0 / 3.0,
                                .lr = 1e-300};
        line.grad_norm = step == 2 ? nan("") : 0.1;
        rf_metrics_step(metrics, &line, 1000);
    }
}

/* The file's lines, parsed; the caller drops the reference. */
static json_t *read_all(const char *name)
{
    char line[4096];
    FILE *file = fopen(in_folder(name), "r");
    json_t *all = json_array();
    cr_assert(file != NULL, "%s", name);
    while (fgets(line, sizeof line, file) != NULL) {
        json_t *one = json_loads(line, 0, NULL);
        cr_assert(one != NULL, "not JSON: %s", line);
        json_array_append_new(all, one);
    }
    fclose(file);
    return all;
}

Test(metrics, numbers_keep_their_bits)
{
    rf_metrics *metrics = open_at(0);
    write_steps(metrics, 1, 2);
    rf_metrics_close(metrics);
    json_t *all = read_all("metrics.jsonl");
    const json_t *line = json_array_get(all, 1);
    double loss = json_real_value(json_object_get(line, "loss")), third = 1.0 / 3.0;
    cr_assert(memcmp(&loss, &third, sizeof loss) == 0);
    cr_assert(json_is_null(json_object_get(line, "grad_norm"))); /* no NaN in JSON */
    cr_assert(json_is_false(json_object_get(line, "skipped")));
    cr_assert(json_is_number(json_object_get(line, "loss_denoise")));
    cr_assert(json_is_integer(json_object_get(line, "n_ar")));
    json_decref(all);
}

Test(metrics, continued_after_a_crash)
{
    rf_metrics *metrics = open_at(0);
    write_steps(metrics, 1, 6);
    rf_metrics_event(metrics, "valid", 4, json_pack("{s:f}", "loss", 2.5));
    rf_metrics_write(metrics, RF_METRICS_SAMPLES,
                     json_pack("{s:i,s:s}", "step", 4, "text", "a \"quoted\"\nline"));
    rf_metrics_write(metrics, RF_METRICS_SAMPLES,
                     json_pack("{s:i,s:s}", "step", 6, "text", "later"));
    rf_metrics_close(metrics);
    FILE *file = fopen(in_folder("metrics.jsonl"), "a");
    fputs("{\"event\":\"step\",\"step\":3,\"lo", file); /* killed while writing */
    fclose(file);

    metrics = open_at(4);
    cr_assert(rf_metrics_had(metrics, "valid") && rf_metrics_had(metrics, "step"));
    cr_assert(!rf_metrics_had(metrics, "samples") && !rf_metrics_had(metrics, "val"));
    rf_metrics_event(metrics, "resume", 4, NULL);
    write_steps(metrics, 5, 6);
    rf_metrics_close(metrics);

    json_t *all = read_all("metrics.jsonl");
    cr_assert(json_array_size(all) == 8, "%zu lines", json_array_size(all));
    int64_t n_step[8] = {0};
    for (size_t i = 0; i < json_array_size(all); i++) {
        const json_t *line = json_array_get(all, i);
        bool is_step = strcmp(json_string_value(json_object_get(line, "event")), "step") == 0;
        n_step[json_integer_value(json_object_get(line, "step"))] += is_step;
    }
    for (int step = 1; step <= 6; step++) {
        cr_assert(n_step[step] == 1, "step %d", step);
    }
    json_decref(all);
    all = read_all("samples.jsonl");
    cr_assert(json_array_size(all) == 1);
    json_decref(all);
}

Test(metrics, new_run_keeps_the_old_file)
{
    rf_metrics *metrics = open_at(0);
    write_steps(metrics, 1, 3);
    rf_metrics_close(metrics);
    rf_metrics_close(open_at(0));
    json_t *all = read_all("metrics.jsonl"), *old = read_all("metrics.jsonl.old");
    cr_assert(json_array_size(all) == 0 && json_array_size(old) == 3);
    json_decref(all);
    json_decref(old);
}

Test(metrics, other_ranks_write_nothing)
{
    rf_step_metrics line = {.step = 1};
    rf_metrics_step(NULL, &line, 1);
    rf_metrics_event(NULL, "end", 1, json_object());
    rf_metrics_write(NULL, RF_METRICS_SAMPLES, json_object());
    rf_metrics_ranks(NULL, 1, 0, 0.0, 0.0);
    rf_metrics_sync(NULL);
    rf_metrics_close(NULL);
    cr_assert(!rf_metrics_had(NULL, "valid"));
}

Test(metrics, folder_that_is_missing)
{
    rf_metrics *metrics = NULL;
    rf_error err = {0};
    cr_assert(rf_metrics_open(&metrics, "/no/such/folder", 0, false, false, &err) != RF_OK &&
              metrics == NULL);
    cr_assert(strstr(err.message, "/no/such/folder") != NULL);
}
