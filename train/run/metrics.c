#include "train/run/metrics.h"

#include "common/base/alloc.h"
#include "common/base/files/file.h"
#include "common/base/files/output.h"
#include "common/base/log.h"
#include "common/base/number.h"
#include "train/run/tensorboard.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LAST_EVENTS_BYTES = 256 };
_Static_assert(RF_MAX_PARTS + 4 <= RF_TENSORBOARD_VALUES, "the curves of a step are one event");

struct rf_metrics {
    FILE *metrics, *samples;
    FILE *trained;         /* NULL: none */
    rf_tensorboard *board; /* NULL: none */
    bool has_warned;
    char last_events[LAST_EVENTS_BYTES]; /* " valid checkpoint ": those of the step opened at */
};

/* --- Opening ---------------------------------------------------------------------------------- */

/* Is this a whole line of a step up to `step`? Notes the events of that very step. */
static bool keep_line(rf_metrics *m, const char *text, size_t bytes, int64_t step)
{
    json_t *line = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, NULL);
    const json_t *at = json_object_get(line, "step");
    bool keep = json_is_integer(at) && json_integer_value(at) <= step;
    const char *event = json_string_value(json_object_get(line, "event"));
    if (keep && event != NULL && json_integer_value(at) == step) {
        size_t used = strlen(m->last_events);
        snprintf(m->last_events + used, sizeof m->last_events - used, "%s ", event);
    }
    json_decref(line);
    return keep;
}

static int copy_lines(rf_metrics *m, FILE *out, const char *path, int64_t step, rf_error *err)
{
    rf_lines *lines = NULL;
    char *text = NULL;
    size_t bytes = 0;
    int rc = RF_OK;
    RF_TRY(rf_lines_open(&lines, path, err));
    do {
        RF_TRY_OUT(rf_lines_next(lines, &text, &bytes, err));
        if (text != NULL && keep_line(m, text, bytes, step) && fprintf(out, "%s\n", text) < 0) {
            rc = rf_error_system(err, errno, path, "cannot be copied");
        }
    } while (rc == RF_OK && text != NULL);
out:
    rf_lines_close(lines);
    return rc;
}

/* Rewrites the file with the lines up to `step` alone, atomically. */
static int cut(rf_metrics *m, const char *path, int64_t step, rf_error *err)
{
    rf_atomic file = {0};
    RF_TRY(rf_atomic_begin(&file, path, err));
    FILE *out = fopen(file.temporary, "w");
    int rc = out != NULL ? copy_lines(m, out, path, step, err)
                         : rf_error_system(err, errno, file.temporary, "cannot be written");
    if (out != NULL && fclose(out) != 0 && rc == RF_OK) {
        rc = rf_error_system(err, errno, file.temporary, "cannot be written");
    }
    if (rc == RF_OK) {
        rc = rf_atomic_commit(&file, err);
    }
    rf_atomic_abandon(&file);
    return rc;
}

static int open_file(FILE **out, rf_metrics *m, const char *folder, const char *name, int64_t step,
                     rf_error *err)
{
    char given[RF_PATH_BYTES], path[RF_PATH_BYTES], old[RF_PATH_BYTES + 8];
    bool in_place; /* a device or a pipe holds nothing to be cut or kept */
    RF_TRY(rf_path_join(given, sizeof given, folder, name, err));
    RF_TRY(rf_output_resolve(path, &in_place, given, err));
    snprintf(old, sizeof old, "%s.old", path);
    if (rf_path_exists(path) && !in_place) {
        if (step > 0) {
            RF_TRY(cut(m, path, step, err));
        } else if (rename(path, old) != 0) {
            return rf_error_system(err, errno, path, "cannot be renamed");
        }
    }
    *out = fopen(path, "a");
    return *out != NULL ? RF_OK : rf_error_system(err, errno, path, "cannot be written");
}

int rf_metrics_open(rf_metrics **out, const char *folder, int64_t step, rf_error *err)
{
    *out = NULL;
    rf_metrics *m = rf_alloc(1, sizeof *m);
    int rc = RF_OK;
    RF_TRY_OUT(open_file(&m->samples, m, folder, "samples.jsonl", step, err));
    snprintf(m->last_events, sizeof m->last_events, " "); /* those of metrics.jsonl count */
    RF_TRY_OUT(open_file(&m->metrics, m, folder, "metrics.jsonl", step, err));
    *out = m;
    m = NULL;
out:
    rf_metrics_close(m);
    return rc;
}

int rf_metrics_open_tensorboard(rf_metrics *m, const char *folder, int64_t step, rf_error *err)
{
    return rf_tensorboard_open(&m->board, folder, step, err);
}

int rf_metrics_open_trained(rf_metrics *m, const char *folder, int64_t step, rf_error *err)
{
    return open_file(&m->trained, m, folder, "trained.jsonl", step, err);
}

void rf_metrics_close(rf_metrics *m)
{
    if (m == NULL) {
        return;
    }
    if (m->metrics != NULL) {
        fclose(m->metrics);
    }
    if (m->samples != NULL) {
        fclose(m->samples);
    }
    if (m->trained != NULL) {
        fclose(m->trained);
    }
    rf_tensorboard_close(m->board);
    free(m);
}

bool rf_metrics_had(const rf_metrics *m, const char *event)
{
    char word[64];
    snprintf(word, sizeof word, " %s ", event);
    return m != NULL && strstr(m->last_events, word) != NULL;
}

/* --- Writing ---------------------------------------------------------------------------------- */

static void end_line(rf_metrics *m, FILE *file)
{
    fputc('\n', file);
    if ((fflush(file) != 0 || ferror(file)) && !m->has_warned) {
        rf_log_warn("metrics: %s: lines are missing from now on: make room", strerror(errno));
        m->has_warned = true;
    }
    clearerr(file);
}

static void put_real(FILE *file, const char *name, double x)
{
    if (isfinite(x)) {
        fprintf(file, ",\"%s\":%.17g", name, x);
    } else {
        fprintf(file, ",\"%s\":null", name);
    }
}

/* A field of a step that is a curve of TensorBoard too. */
static void put_curve(rf_metrics *m, const char *name, double x)
{
    put_real(m->metrics, name, x);
    rf_tensorboard_add(m->board, "train", name, x);
}

static void put_int(FILE *file, const char *name, int64_t x)
{
    fprintf(file, ",\"%s\":%" PRId64, name, x);
}

void rf_metrics_parts(char *out, size_t bytes, const rf_objective_kind *objective,
                      const double *part_loss)
{
    size_t n = 0;
    for (int part = 0; part < objective->n_parts && n < bytes; part++) {
        n += (size_t)snprintf(out + n, bytes - n, "%s%s %.4f", part > 0 ? ", " : "",
                              objective->part[part].name, part_loss[part]);
    }
}

static void say_step(const rf_step_metrics *x, int64_t every)
{
    char text[512], parts[256], eta[RF_NUMBER_BYTES];
    rf_number_print_duration(eta, x->eta);
    rf_metrics_parts(parts, sizeof parts, x->objective, x->part_loss);
    snprintf(text, sizeof text,
             "step %" PRId64 "/%" PRId64
             "  loss %.4f (%s)  norm %.3g  lr %.3g  %.0f tok/s  fill %.0f%%  ETA %s",
             x->step, x->n_steps, x->loss, parts, x->grad_norm, x->lr, x->tokens_per_second,
             100.0 * x->fill, eta);
    if (rf_log_is_terminal()) {
        rf_log_live("%s", text);
    } else if (x->step % every == 0 || x->step == x->n_steps) {
        rf_log_info("%s", text);
    }
}

/* By hand: this line is part of a step, which allocates nothing. */
void rf_metrics_step(rf_metrics *m, const rf_step_metrics *x, int64_t every)
{
    if (m == NULL) {
        return;
    }
    FILE *file = m->metrics;
    char name[64];
    fprintf(file, "{\"event\":\"step\"");
    put_int(file, "step", x->step);
    put_curve(m, "loss", x->loss);
    for (int part = 0; part < x->objective->n_parts; part++) {
        snprintf(name, sizeof name, "loss_%s", x->objective->part[part].name);
        put_curve(m, name, x->part_loss[part]);
    }
    put_curve(m, "grad_norm", x->grad_norm);
    put_curve(m, "lr", x->lr);
    for (int part = 0; part < x->objective->n_parts; part++) {
        snprintf(name, sizeof name, "n_%s", x->objective->part[part].name);
        put_int(file, name, x->counts.n_targets[part]);
    }
    put_int(file, "n_samples", x->counts.n_samples);
    put_int(file, "tokens", x->counts.n_places);
    put_real(file, "fill", x->fill);
    fprintf(file, ",\"skipped\":%s,\"spike\":%s", x->skipped ? "true" : "false",
            x->spike ? "true" : "false");
    put_curve(m, "tokens_per_second", x->tokens_per_second);
    put_real(file, "seconds", x->seconds);
    put_real(file, "loader_seconds", x->loader_seconds);
    put_real(file, "exchange_seconds", x->exchange_seconds);
    put_real(file, "hidden_seconds", x->hidden_seconds);
    put_int(file, "exchange_bytes", x->exchange_bytes);
    put_real(file, "elapsed", x->elapsed);
    put_real(file, "eta", x->eta);
    fputc('}', file);
    end_line(m, file);
    rf_tensorboard_write(m->board, x->step);
    say_step(x, every);
}

void rf_metrics_ranks(rf_metrics *m, int64_t step, int slowest, double min, double max)
{
    if (m == NULL) {
        return;
    }
    fprintf(m->metrics, "{\"event\":\"ranks\"");
    put_int(m->metrics, "step", step);
    put_int(m->metrics, "slowest", slowest);
    put_real(m->metrics, "min_seconds", min);
    put_real(m->metrics, "max_seconds", max);
    fputc('}', m->metrics);
    end_line(m, m->metrics);
    if (max > 1.5 * min && !rf_log_is_terminal()) {
        rf_log_info("step %" PRId64 "  rank %d is the slowest: %.3g s a step, the fastest %.3g s",
                    step, slowest, max, min);
    }
}

json_t *rf_metrics_real(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

/* Takes the line; without a file it is dropped. */
static void write_json(rf_metrics *m, FILE *file, json_t *line)
{
    if (file != NULL &&
        (line == NULL || json_dumpf(line, file, JSON_COMPACT | JSON_REAL_PRECISION(17)) != 0)) {
        errno = errno != 0 ? errno : ENOMEM;
        clearerr(file);
    }
    if (file != NULL) {
        end_line(m, file);
    }
    json_decref(line);
}

/* loss, loss_<part>: what is not finite stands there as null */
static void draw_validation(rf_metrics *m, int64_t step, json_t *fields)
{
    const char *name;
    json_t *value;
    json_object_foreach(fields, name, value)
    {
        if (strncmp(name, "loss", 4) == 0) {
            double loss = json_is_null(value) ? (double)NAN : json_number_value(value);
            rf_tensorboard_add(m->board, "valid", name, loss);
        }
    }
    rf_tensorboard_write(m->board, step);
}

void rf_metrics_event(rf_metrics *m, const char *event, int64_t step, json_t *fields)
{
    if (m != NULL) {
        json_t *line = json_pack("{s:s,s:I}", "event", event, "step", (json_int_t)step);
        json_object_update(line, fields);
        write_json(m, m->metrics, line);
    }
    if (m != NULL && strcmp(event, "valid") == 0) {
        draw_validation(m, step, fields);
    }
    json_decref(fields);
}

void rf_metrics_sample(rf_metrics *m, json_t *fields)
{
    write_json(m, m != NULL ? m->samples : NULL, fields);
}

void rf_metrics_trained(rf_metrics *m, json_t *fields)
{
    write_json(m, m != NULL ? m->trained : NULL, fields);
}

void rf_metrics_sync(rf_metrics *m)
{
    if (m != NULL) {
        /* A device or a pipe cannot; there is nothing to do about it. */
        (void)fdatasync(fileno(m->metrics));
        (void)fdatasync(fileno(m->samples));
        rf_tensorboard_sync(m->board);
    }
}
