#include "serve/metrics.h"

#include "common/text/ids.h"

#include <inttypes.h>

static const double bounds[RF_METRICS_BUCKETS] = {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
                                                  1,     2.5,  5,     10,   30,  60,   300};

void rf_metrics_take_status(rf_metrics *m, int status)
{
    int i = 0;
    while (i < RF_METRICS_STATUSES - 1 && m->status[i].status != status && m->status[i].n > 0) {
        i++;
    }
    m->status[i].status = status;
    m->status[i].n++;
}

void rf_metrics_take_answer(rf_metrics *m, const rf_answer *answer, int64_t n_prompt)
{
    m->n_answers++;
    m->n_prompt_tokens += n_prompt;
    m->n_tokens += answer->n;
    m->n_forwards += answer->forwards;
    m->n_places += answer->places;
    m->answer_seconds += answer->seconds;
}

void rf_metrics_take_order(rf_metrics *m, double seconds)
{
    int i = 0;
    while (i < RF_METRICS_BUCKETS && seconds > bounds[i]) {
        i++;
    }
    m->bucket[i]++;
    m->seconds += seconds;
}

double rf_metrics_mean_seconds(const rf_metrics *m)
{
    return m->n_answers > 0 ? m->answer_seconds / (double)m->n_answers : 1;
}

/* --- Text ------------------------------------------------------------------------------------- */

static void add_requests(rf_text *text, const rf_metrics *m)
{
    rf_text_print(text,
                  "# HELP refusion_requests_total Requests of HTTP, by the status of the answer.\n"
                  "# TYPE refusion_requests_total counter\n");
    for (int i = 0; i < RF_METRICS_STATUSES && m->status[i].n > 0; i++) {
        rf_text_print(text, "refusion_requests_total{status=\"%d\"} %" PRId64 "\n",
                      m->status[i].status, m->status[i].n);
    }
}

static void add_latency(rf_text *text, const rf_metrics *m)
{
    int64_t n = 0;
    rf_text_print(
        text, "# HELP refusion_request_seconds From the arrival of a request to its whole answer.\n"
              "# TYPE refusion_request_seconds histogram\n");
    for (int i = 0; i <= RF_METRICS_BUCKETS; i++) {
        n += m->bucket[i];
        if (i < RF_METRICS_BUCKETS) {
            rf_text_print(text, "refusion_request_seconds_bucket{le=\"%g\"} %" PRId64 "\n",
                          bounds[i], n);
        }
    }
    rf_text_print(text,
                  "refusion_request_seconds_bucket{le=\"+Inf\"} %" PRId64
                  "\nrefusion_request_seconds_sum %.17g\nrefusion_request_seconds_count %" PRId64
                  "\n",
                  n, m->seconds, n);
}

char *rf_metrics_text(const rf_metrics *m, int64_t n_waiting, int64_t n_seated)
{
    const double forwards = m->n_forwards > 0 ? (double)m->n_forwards : 1;
    const struct {
        const char *name, *type, *help;
        double value;
    } lines[] = {
        {"queue_length", "gauge", "Answers that wait for their turn.", (double)n_waiting},
        {"running", "gauge", "Answers that are being made.", (double)n_seated},
        {"seats", "gauge", "Answers that are made at once, at most.", (double)m->n_seats},
        {"answers_total", "counter", "Answers made.", (double)m->n_answers},
        {"prompt_tokens_total", "counter", "Tokens of prompts, once for each answer made.",
         (double)m->n_prompt_tokens},
        {"tokens_total", "counter", "Tokens of answers.", (double)m->n_tokens},
        {"forwards_total", "counter", "Forward passes, counted by each answer in them.",
         (double)m->n_forwards},
        {"places_total", "counter", "Places computed for answers.", (double)m->n_places},
        {"tokens_per_forward", "gauge", "Tokens of answers to each forward pass of theirs.",
         (double)m->n_tokens / forwards},
        {"passes_total", "counter", "Forward passes of the model.", (double)m->n_passes},
        {"reused_places_total", "counter", "Places of prompts that were there already.",
         (double)m->n_reused},
        {"clients_gone_total", "counter", "Clients that went away before their answer.",
         (double)m->n_gone},
    };
    rf_text text = {0};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        const char *name = lines[i].name;
        rf_text_print(&text, "# HELP refusion_%s %s\n# TYPE refusion_%s %s\nrefusion_%s %.17g\n",
                      name, lines[i].help, name, lines[i].type, name, lines[i].value);
    }
    add_requests(&text, m);
    add_latency(&text, m);
    return text.data;
}
