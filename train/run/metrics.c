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
    FILE *file[RF_METRICS_N_FILES]; /* NULL: none */
    rf_tensorboard *board;          /* NULL: none */
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

int rf_metrics_open(rf_metrics **out, const char *folder, int64_t step, bool trained,
                    bool tensorboard, rf_error *err)
{
    static const char *const names[] = {"samples.jsonl", "trained.jsonl", "metrics.jsonl"};
    *out = NULL;
    rf_metrics *m = rf_alloc(1, sizeof *m);
    int rc = RF_OK;
    for (int i = 0; i < RF_METRICS_N_FILES; i++) {
        if (i != RF_METRICS_TRAINED || trained) {
            strcpy(m->last_events, " "); /* those of metrics.jsonl, the last one, count */
            RF_TRY_OUT(open_file(&m->file[i], m, folder, names[i], step, err));
        }
    }
    RF_TRY_OUT(tensorboard ? rf_tensorboard_open(&m->board, folder, step, err) : RF_OK);
    *out = m;
    m = NULL;
out:
    rf_metrics_close(m);
    return rc;
}

void rf_metrics_close(rf_metrics *m)
{
    if (m == NULL) {
        return;
    }
    for (int i = 0; i < RF_METRICS_N_FILES; i++) {
        if (m->file[i] != NULL) {
            fclose(m->file[i]);
        }
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
    put_real(m->file[RF_METRICS_EVENTS], name, x);
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
    FILE *file = m->file[RF_METRICS_EVENTS];
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
    rf_metrics_event(m, "ranks", step,
                     json_pack("{s:i,s:o,s:o}", "slowest", slowest, "min_seconds",
                               rf_metrics_real(min), "max_seconds", rf_metrics_real(max)));
    if (max > 1.5 * min && !rf_log_is_terminal()) {
        rf_log_info("step %" PRId64 "  rank %d is the slowest: %.3g s a step, the fastest %.3g s",
                    step, slowest, max, min);
    }
}

json_t *rf_metrics_real(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

void rf_metrics_write(rf_metrics *m, rf_metrics_file which, json_t *line)
{
    FILE *file = m != NULL ? m->file[which] : NULL;
    if (file != NULL) {
        if (line == NULL || json_dumpf(line, file, JSON_COMPACT | JSON_REAL_PRECISION(17)) != 0) {
            errno = errno != 0 ? errno : ENOMEM;
            clearerr(file);
        }
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
        rf_metrics_write(m, RF_METRICS_EVENTS, line);
    }
    if (m != NULL && strcmp(event, "valid") == 0) {
        draw_validation(m, step, fields);
    }
    json_decref(fields);
}

void rf_metrics_sync(rf_metrics *m)
{
    if (m != NULL) {
        /* A device or a pipe cannot; there is nothing to do about it. */
        (void)fdatasync(fileno(m->file[RF_METRICS_EVENTS]));
        (void)fdatasync(fileno(m->file[RF_METRICS_SAMPLES]));
        rf_tensorboard_sync(m->board);
    }
}
