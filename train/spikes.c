#include "train/spikes.h"

#include "common/base/alloc.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>

void rf_spikes_new(rf_spikes *out, const rf_spike_settings *settings)
{
    *out = (rf_spikes){.settings = *settings};
    out->loss = rf_alloc((size_t)settings->window, sizeof *out->loss);
    out->norm = rf_alloc((size_t)settings->window, sizeof *out->norm);
}

void rf_spikes_free(rf_spikes *spikes)
{
    free(spikes->loss);
    free(spikes->norm);
    *spikes = (rf_spikes){0};
}

/* --- Judging ---------------------------------------------------------------------------------- */

/* The i-th oldest value of a ring. */
static double at(const rf_spikes *s, const double *ring, int64_t i)
{
    const int64_t window = s->settings.window;
    return ring[(s->next - s->n + i + window) % window];
}

static bool stands_out(const rf_spikes *s, const double *ring, double value)
{
    double sum = 0.0, squares = 0.0;
    for (int64_t i = 0; i < s->n; i++) {
        sum += at(s, ring, i);
    }
    const double mean = sum / (double)s->n;
    for (int64_t i = 0; i < s->n; i++) {
        const double apart = at(s, ring, i) - mean;
        squares += apart * apart;
    }
    const double deviation = sqrt(squares / (double)s->n);
    return deviation > 0.0 && value - mean > s->settings.zscore * deviation;
}

static rf_verdict verdict(const rf_spikes *s, double loss, double norm)
{
    if (!isfinite(loss) || !isfinite(norm)) {
        return RF_STEP_NOT_FINITE;
    }
    const bool judges = s->settings.zscore > 0.0 && s->n == s->settings.window;
    return judges && ((s->settings.of_loss && stands_out(s, s->loss, loss)) ||
                      (s->settings.of_norm && stands_out(s, s->norm, norm)))
               ? RF_STEP_SPIKE
               : RF_STEP_TAKE;
}

static void add(rf_spikes *s, double loss, double norm)
{
    const int64_t window = s->settings.window;
    s->loss[s->next] = loss;
    s->norm[s->next] = norm;
    s->next = (s->next + 1) % window;
    s->n = s->n < window ? s->n + 1 : window;
}

rf_verdict rf_spikes_judge(rf_spikes *s, double loss, double norm, rf_position begin)
{
    const rf_verdict is = verdict(s, loss, norm);
    if (is == RF_STEP_TAKE) {
        add(s, loss, norm);
        s->in_a_row = 0;
        return is;
    }
    if (s->in_a_row == 0) {
        s->first = begin;
    }
    s->in_a_row++;
    s->n_skipped += is == RF_STEP_SPIKE;
    return is;
}

/* --- Leaving rows out ------------------------------------------------------------------------- */

int rf_spikes_leave_out(rf_spikes *s, rf_position end, rf_error *err)
{
    if (s->n_left_out == RF_SPIKES_MOST_LEFT_OUT) {
        return rf_error_set(err, RF_ERR_DIVERGED,
                            "went back and left rows out %d times without getting ahead: lower "
                            "optim.lr (--change optim.lr=...), or raise train.spike_zscore",
                            RF_SPIKES_MOST_LEFT_OUT);
    }
    s->left_out[s->n_left_out++] = (rf_rows_range){s->first, end};
    return RF_OK;
}

int rf_spikes_go_back(rf_spikes *s, const char *text, rf_position position, rf_error *err)
{
    const rf_spikes now = *s; /* its rings are not looked at */
    RF_TRY(rf_spikes_parse(s, text, err));
    s->n_skipped = now.n_skipped;
    s->n_rollbacks = now.n_rollbacks + 1;
    s->n_left_out = 0;
    for (int64_t i = 0; i < now.n_left_out; i++) {
        if (rf_rows_order(now.left_out[i].end, position) > 0) {
            s->left_out[s->n_left_out++] = now.left_out[i];
        }
    }
    return RF_OK;
}

/* --- As text ---------------------------------------------------------------------------------- */

static json_t *put_position(rf_position p)
{
    return json_pack("[I,I,I]", (json_int_t)p.epoch, (json_int_t)p.window, (json_int_t)p.row);
}

char *rf_spikes_text(const rf_spikes *s)
{
    if (!(s->settings.zscore > 0.0) && s->in_a_row == 0 && s->n_left_out == 0) {
        return NULL;
    }
    json_t *loss = json_array(), *norm = json_array(), *left_out = json_array();
    for (int64_t i = 0; i < s->n; i++) {
        json_array_append_new(loss, json_real(at(s, s->loss, i)));
        json_array_append_new(norm, json_real(at(s, s->norm, i)));
    }
    for (int64_t i = 0; i < s->n_left_out; i++) {
        const rf_rows_range *range = &s->left_out[i];
        json_array_append_new(
            left_out, json_pack("[o,o]", put_position(range->begin), put_position(range->end)));
    }
    json_t *root =
        json_pack("{s:I,s:o,s:I,s:I,s:o,s:o,s:o}", "in_a_row", (json_int_t)s->in_a_row, "first",
                  put_position(s->first), "skipped", (json_int_t)s->n_skipped, "rollbacks",
                  (json_int_t)s->n_rollbacks, "left_out", left_out, "loss", loss, "norm", norm);
    char *text = json_dumps(root, JSON_COMPACT | JSON_REAL_PRECISION(17));
    json_decref(root);
    RF_ASSERT(text != NULL);
    return text;
}

static int get_position(rf_position *out, json_t *json)
{
    json_int_t epoch = 0, window = 0, row = 0;
    const int rc = json_unpack(json, "[I,I,I!]", &epoch, &window, &row);
    *out = (rf_position){epoch, window, row};
    return rc;
}

static int get_ranges(rf_spikes *s, const json_t *list)
{
    s->n_left_out = (int64_t)json_array_size(list);
    if (s->n_left_out > RF_SPIKES_MOST_LEFT_OUT) {
        return -1;
    }
    for (int64_t i = 0; i < s->n_left_out; i++) {
        json_t *begin = NULL, *end = NULL;
        if (json_unpack(json_array_get(list, (size_t)i), "[o,o!]", &begin, &end) != 0 ||
            get_position(&s->left_out[i].begin, begin) != 0 ||
            get_position(&s->left_out[i].end, end) != 0) {
            return -1;
        }
    }
    return 0;
}

static int get_values(rf_spikes *s, const json_t *loss, const json_t *norm)
{
    const size_t n = json_array_size(loss);
    if (json_array_size(norm) != n) {
        return -1;
    }
    for (size_t i = 0; i < n; i++) {
        add(s, json_number_value(json_array_get(loss, i)),
            json_number_value(json_array_get(norm, i)));
    }
    return 0;
}

static int get_all(rf_spikes *s, json_t *root)
{
    json_int_t in_a_row = 0, skipped = 0, rollbacks = 0;
    json_t *first = NULL, *left_out = NULL, *loss = NULL, *norm = NULL;
    if (json_unpack(root, "{s:I,s:o,s:I,s:I,s:o,s:o,s:o!}", "in_a_row", &in_a_row, "first", &first,
                    "skipped", &skipped, "rollbacks", &rollbacks, "left_out", &left_out, "loss",
                    &loss, "norm", &norm) != 0) {
        return -1;
    }
    s->in_a_row = in_a_row;
    s->n_skipped = skipped;
    s->n_rollbacks = rollbacks;
    return get_position(&s->first, first) != 0 || get_ranges(s, left_out) != 0
               ? -1
               : get_values(s, loss, norm);
}

int rf_spikes_parse(rf_spikes *s, const char *text, rf_error *err)
{
    s->n = s->next = s->in_a_row = s->n_skipped = s->n_rollbacks = s->n_left_out = 0;
    s->first = (rf_position){0};
    if (text == NULL || text[0] == '\0') {
        return RF_OK;
    }
    json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    const int rc = root != NULL ? get_all(s, root) : -1;
    json_decref(root);
    return rc == 0 ? RF_OK
                   : rf_error_set(err, RF_ERR,
                                  "the state of the loss spikes cannot be read: use another "
                                  "checkpoint, or the program that wrote it");
}
