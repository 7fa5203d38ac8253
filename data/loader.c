#include "data/loader.h"

#include "common/base/alloc.h"
#include "common/base/thread.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

/* One step is being used while the next is built. */
enum { N_SHARES = 2 };

/* What padding shows. Any id would do: nothing attends it and nothing is predicted there. */
enum { PAD_TOKEN = 0 };

struct rf_loader {
    rf_corpus **corpus; /* [n_corpora] the array is owned, the corpora are not */
    const rf_objective *objective;
    rf_loader_settings settings;
    rf_rows *rows;
    int64_t epoch;                   /* the one epoch, where settings.once */
    int64_t n_leaves;                /* of this rank in a step */
    int32_t *token;                  /* [T] a sample on its way into a batch, */
    bool *trained;                   /* [T] and which of it is to be learnt */
    rf_rows_range *left_out;         /* that of the settings */
    size_t bytes;                    /* of what never grows */
    rf_loader_share share[N_SHARES]; /* leaf and list are owned */
    size_t capacity[N_SHARES];       /* of the lists */

    _Atomic size_t rows_bytes; /* as of the last step built */

    /* Below: shared with the thread, under the mutex. Shares are built and used in turn. */
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    int64_t n_built, n_used; /* steps built; steps given back by the user */
    bool given;              /* share n_used % N_SHARES is in the user's hands */
    bool stop;               /* wanted by the user */
    int rc;                  /* of the thread; where it failed it has ended */
    rf_error error;

    /* Only of the user's thread. */
    bool has_thread;
    pthread_t thread;
};

int64_t rf_loader_leaf(int64_t rank, int64_t n_ranks, int64_t round, int64_t i)
{
    return (i / round * n_ranks + rank) * round + i % round;
}

/* --- Building a step -------------------------------------------------------------------------- */

static void list_piece(rf_loader_share *share, size_t *capacity, int64_t row, int64_t epoch,
                       const rf_piece *piece)
{
    share->list =
        rf_alloc_grow(share->list, capacity, (size_t)share->n_listed + 1, sizeof *share->list);
    share->list[share->n_listed++] = (rf_loader_piece){
        row, epoch, piece->corpus, piece->sample, piece->occurrence, piece->piece};
}

static int add_piece(rf_loader *loader, rf_batch *batch, rf_counts *counts, int64_t epoch,
                     const rf_piece *piece, rf_error *err)
{
    rf_corpus *corpus = loader->corpus[piece->corpus];
    bool whole = piece->response_first == piece->n_prompt;
    RF_TRY(rf_corpus_read(corpus, loader->token, piece->sample, 0,
                          piece->n_prompt + (whole ? piece->n_response : 0), err));
    if (!whole) {
        RF_TRY(rf_corpus_read(corpus, loader->token + piece->n_prompt, piece->sample,
                              piece->response_first, piece->n_response, err));
    }
    rf_rng rng = RF_RNG_STREAM(loader->settings.rows.seed, RF_RNG_OBJECTIVE, (uint64_t)epoch,
                               (uint64_t)piece->corpus, (uint64_t)piece->sample,
                               (uint64_t)piece->occurrence, (uint64_t)piece->piece);
    bool *trained = NULL;
    if (rf_corpus_n_answers(corpus, piece->sample) > 1) {
        trained = loader->trained;
        rf_corpus_trained(corpus, trained, piece->sample, piece->n_prompt + piece->n_response);
    }
    rf_objective_append_turns(loader->objective, batch, counts, loader->token, trained,
                              piece->n_prompt, piece->n_response, &rng);
    return RF_OK;
}

/* Where the stream stands in rows that are left out, it goes to their end. */
static int pass_over(rf_loader *loader, rf_error *err)
{
    const rf_loader_settings *s = &loader->settings;
    for (int64_t i = 0; i < s->n_left_out; i++) {
        const rf_rows_range *range = &s->left_out[i];
        const rf_position at = rf_rows_tell(loader->rows);
        if (rf_rows_order(at, range->begin) >= 0 && rf_rows_order(at, range->end) < 0) {
            RF_TRY(rf_rows_seek(loader->rows, range->end, err));
            i = -1; /* that may be the begin of another one */
        }
    }
    return RF_OK;
}

/* Takes the next row of the stream, or none: *empty where the one epoch is over. */
static int take_row(rf_loader *loader, rf_row *row, bool *empty, rf_error *err)
{
    RF_TRY(pass_over(loader, err));
    *empty = loader->settings.once && rf_rows_tell(loader->rows).epoch != loader->epoch;
    return *empty ? RF_OK : rf_rows_next(loader->rows, row, err);
}

/* All rows of a step pass by, since packing is the same for all ranks; only those of this rank's
 * leaves are read and built. */
static int build_step(rf_loader *loader, rf_loader_share *share, rf_error *err)
{
    const rf_loader_settings *s = &loader->settings;
    int64_t micro_rows = s->micro_rows, mine = 0; /* leaves of this rank that are built */
    share->counts = (rf_counts){0};
    share->step_rows = 0;
    share->n_listed = 0;
    for (int64_t r = 0; r < s->batch_rows; r++) {
        rf_row row = {0};
        bool empty;
        RF_TRY(take_row(loader, &row, &empty, err));
        share->step_rows += !empty;
        if (mine == loader->n_leaves ||
            r / micro_rows != rf_loader_leaf(s->rank, s->n_ranks, s->round, mine)) {
            continue;
        }
        rf_batch *batch = &share->leaf[mine];
        if (r % micro_rows == 0) {
            rf_batch_clear(batch);
        }
        for (int64_t i = 0; i < row.n_pieces; i++) {
            RF_TRY(add_piece(loader, batch, &share->counts, row.epoch, &row.piece[i], err));
            if (s->lists) {
                list_piece(share, &loader->capacity[share - loader->share], r, row.epoch,
                           &row.piece[i]);
            }
        }
        rf_objective_pad(batch, PAD_TOKEN, (r % micro_rows + 1) * s->rows.row_length - batch->n);
        mine += r % micro_rows == micro_rows - 1;
    }
    share->n_leaves = share->step_rows > 0 ? loader->n_leaves : 0;
    share->position = rf_rows_tell(loader->rows);
    return RF_OK;
}

/* --- The thread ------------------------------------------------------------------------------- */

static void *run(void *argument)
{
    rf_loader *loader = argument;
    int rc = RF_OK;
    for (int64_t n = 0; rc == RF_OK; n++) {
        pthread_mutex_lock(&loader->mutex);
        while (!loader->stop && loader->n_built - loader->n_used >= N_SHARES) {
            pthread_cond_wait(&loader->changed, &loader->mutex);
        }
        bool stop = loader->stop;
        pthread_mutex_unlock(&loader->mutex);
        if (stop) {
            break;
        }
        rf_error error = {0};
        rc = build_step(loader, &loader->share[n % N_SHARES], &error);
        atomic_store(&loader->rows_bytes, rf_rows_bytes(loader->rows));
        pthread_mutex_lock(&loader->mutex);
        loader->n_built += rc == RF_OK;
        loader->rc = rc;
        loader->error = error;
        pthread_cond_broadcast(&loader->changed);
        pthread_mutex_unlock(&loader->mutex);
    }
    return NULL;
}

int rf_loader_next(rf_loader *loader, rf_loader_share **share, rf_error *err)
{
    *share = NULL;
    int rc = RF_OK;
    pthread_mutex_lock(&loader->mutex);
    if (loader->given) {
        loader->given = false;
        loader->n_used++;
        pthread_cond_broadcast(&loader->changed);
    }
    while (loader->n_built == loader->n_used && loader->rc == RF_OK) {
        pthread_cond_wait(&loader->changed, &loader->mutex);
    }
    /* Steps that were built before a failure are given first. */
    if (loader->n_built > loader->n_used) {
        loader->given = true;
        *share = &loader->share[loader->n_used % N_SHARES];
    } else {
        rc = rf_error_set(err, loader->rc, "%s", loader->error.message);
    }
    pthread_mutex_unlock(&loader->mutex);
    return rc;
}

/* --- Making and freeing ----------------------------------------------------------------------- */

static int check_settings(const rf_loader_settings *s, rf_error *err)
{
    if (s->batch_rows < 1 || s->micro_rows < 1 || s->batch_rows % s->micro_rows != 0) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "train.batch_rows = %" PRId64 " is not a multiple of train.micro_rows "
                            "= %" PRId64 ": choose both so that the second divides the first",
                            s->batch_rows, s->micro_rows);
    }
    int64_t n_leaves = s->batch_rows / s->micro_rows;
    if (n_leaves % s->n_ranks != 0) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "train.batch_rows / train.micro_rows = %" PRId64 " / %" PRId64
                            " = %" PRId64 " leaves of a step cannot be dealt evenly to %" PRId64
                            " ranks: raise train.batch_rows or lower train.micro_rows until the "
                            "ranks divide their quotient, or use another number of ranks",
                            s->batch_rows, s->micro_rows, n_leaves, s->n_ranks);
    }
    if (s->micro_rows > INT32_MAX / s->rows.row_length) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "train.micro_rows = %" PRId64 " rows of data.row_length = %" PRId64
                            " places are more than %" PRId32 " places: lower train.micro_rows",
                            s->micro_rows, s->rows.row_length, INT32_MAX);
    }
    return RF_OK;
}

/* Of a leaf's batch. */
static size_t batch_bytes(int64_t places)
{
    const rf_batch *b = NULL;
    return (size_t)places *
           (sizeof *b->token + sizeof *b->position + sizeof *b->target + sizeof *b->weight +
            4 * sizeof *b->span + sizeof *b->place + sizeof *b->part);
}

static int64_t leaf_places(const rf_loader *loader)
{
    return loader->settings.micro_rows * loader->settings.rows.row_length;
}

/* A failure leaves leaves that are zeroed structs. */
static int new_shares(rf_loader *loader, rf_error *err)
{
    for (int k = 0; k < N_SHARES; k++) {
        loader->share[k].leaf = rf_alloc((size_t)loader->n_leaves, sizeof *loader->share[k].leaf);
        for (int64_t i = 0; i < loader->n_leaves; i++) {
            RF_TRY(rf_batch_new(&loader->share[k].leaf[i], leaf_places(loader), err));
        }
    }
    return RF_OK;
}

/* The rows, and what follows from settings alone. */
static int open_rows(rf_loader *loader, rf_corpus **corpus, int64_t n_corpora, rf_position start,
                     rf_error *err)
{
    rf_loader_settings *s = &loader->settings;
    RF_TRY(rf_rows_new(&loader->rows, corpus, n_corpora, loader->objective, &s->rows, err));
    RF_TRY(check_settings(s, err));
    RF_TRY(rf_rows_seek(loader->rows, start, err));
    s->rows.weight = NULL; /* the caller's; the rows have a copy */
    s->rows.epochs = NULL;
    loader->left_out = rf_alloc_copy(s->left_out, (size_t)s->n_left_out * sizeof *s->left_out);
    s->left_out = loader->left_out;
    loader->epoch = start.epoch;
    atomic_init(&loader->rows_bytes, rf_rows_bytes(loader->rows));
    loader->n_leaves = s->batch_rows / s->micro_rows / s->n_ranks;
    s->round = s->round > 0 ? s->round : loader->n_leaves;
    RF_ASSERT(loader->n_leaves % s->round == 0);
    loader->bytes = sizeof *loader +
                    (size_t)s->rows.row_length * (sizeof *loader->token + sizeof *loader->trained) +
                    N_SHARES * (size_t)loader->n_leaves * batch_bytes(leaf_places(loader));
    return RF_OK;
}

static int prepare(rf_loader *loader, rf_corpus **corpus, int64_t n_corpora, rf_position start,
                   rf_error *err)
{
    const rf_loader_settings *s = &loader->settings;
    RF_TRY(open_rows(loader, corpus, n_corpora, start, err));
    loader->corpus = rf_alloc_copy(corpus, (size_t)n_corpora * sizeof *corpus);
    loader->token = malloc((size_t)s->rows.row_length * sizeof *loader->token);
    loader->trained = malloc((size_t)s->rows.row_length * sizeof *loader->trained);
    if (loader->token == NULL || loader->trained == NULL) {
        return rf_error_set(err, RF_ERR, "no memory for a row: lower data.row_length");
    }
    RF_TRY(new_shares(loader, err));
    RF_TRY(rf_thread_start(&loader->thread, run, loader, "the thread that builds batches", err));
    loader->has_thread = true;
    return RF_OK;
}

/* Without anything yet. */
static rf_loader *new_loader(const rf_objective *objective, const rf_loader_settings *settings)
{
    RF_ASSERT(settings->n_ranks >= 1 && settings->rank >= 0 && settings->rank < settings->n_ranks);
    rf_loader *loader = rf_alloc(1, sizeof *loader);
    loader->objective = objective;
    loader->settings = *settings;
    /* With default attributes these cannot fail (glibc, musl, macOS). */
    pthread_mutex_init(&loader->mutex, NULL);
    pthread_cond_init(&loader->changed, NULL);
    return loader;
}

int rf_loader_plan(size_t *bytes, rf_corpus **corpus, int64_t n_corpora,
                   const rf_objective *objective, const rf_loader_settings *settings,
                   rf_position start, rf_error *err)
{
    rf_loader *loader = new_loader(objective, settings);
    int rc = open_rows(loader, corpus, n_corpora, start, err);
    *bytes = rc == RF_OK ? rf_loader_bytes(loader) : 0;
    rf_loader_free(loader);
    return rc;
}

int rf_loader_new(rf_loader **out, rf_corpus **corpus, int64_t n_corpora,
                  const rf_objective *objective, const rf_loader_settings *settings,
                  rf_position start, rf_error *err)
{
    *out = NULL;
    rf_loader *loader = new_loader(objective, settings);
    int rc = prepare(loader, corpus, n_corpora, start, err);
    if (rc != RF_OK) {
        rf_loader_free(loader);
        return rc;
    }
    *out = loader;
    return RF_OK;
}

void rf_loader_free(rf_loader *loader)
{
    if (loader == NULL) {
        return;
    }
    if (loader->has_thread) {
        pthread_mutex_lock(&loader->mutex);
        loader->stop = true;
        pthread_cond_broadcast(&loader->changed);
        pthread_mutex_unlock(&loader->mutex);
        pthread_join(loader->thread, NULL);
    }
    pthread_cond_destroy(&loader->changed);
    pthread_mutex_destroy(&loader->mutex);
    for (int k = 0; k < N_SHARES; k++) {
        for (int64_t i = 0; i < loader->n_leaves && loader->share[k].leaf != NULL; i++) {
            rf_batch_free(&loader->share[k].leaf[i]);
        }
        free(loader->share[k].leaf);
        free(loader->share[k].list);
    }
    rf_rows_free(loader->rows);
    RF_FREE(loader->corpus, loader->token, loader->trained, loader->left_out, loader);
}

size_t rf_loader_bytes(const rf_loader *loader)
{
    return loader->bytes + atomic_load(&loader->rows_bytes);
}
