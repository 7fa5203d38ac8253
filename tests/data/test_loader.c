/* The loader: the same leaves whatever the number of ranks, the leaf size, or a resume. */
#include "data/loader.h"
#include "tests/data/corpus/make_corpus.h"

#include <criterion/criterion.h>
#include <string.h>

enum { T = 48, N_SAMPLES = 150, N_TEXTS = 5, SALT = 3, BATCH_ROWS = 8 };

static const rf_objective objective = {.kind = &rf_objective_refusion,
                                       .slot_sizes = {2, 4, 8},
                                       .n_slot_sizes = 3,
                                       .lambda_ar = 1,
                                       .lambda_mdm = 1,
                                       .epsilon = 1e-3,
                                       .mask = 257};
static const rf_position origin = {0, 0, 0};

static void make_lengths(test_length *length)
{
    for (int64_t i = 0; i < N_SAMPLES; i++) {
        rf_rng rng = RF_RNG_STREAM(1, RF_RNG_TEST, (uint64_t)i);
        length[i].n_prompt = 2 + (int64_t)rf_rng_below(&rng, 10);
        length[i].n_response = 1 + (int64_t)rf_rng_below(&rng, 30);
    }
}

/* Two corpora, questions with answers and long texts, for each of up to MAX_RANKS loaders: only one
 * thread may read a corpus. */
enum { MAX_RANKS = 8 };
static rf_corpus *corpora[MAX_RANKS][2];

static void open_corpora(int64_t n_ranks)
{
    test_length length[N_SAMPLES], text[N_TEXTS];
    make_lengths(length);
    for (int64_t i = 0; i < N_TEXTS; i++) {
        text[i] = (test_length){0, 40 + 60 * i};
    }
    for (int64_t rank = 0; rank < n_ranks; rank++) {
        corpora[rank][0] = make_corpus(length, N_SAMPLES, 1, SALT);
        corpora[rank][1] = make_corpus(text, N_TEXTS, 1.5, SALT + 1);
    }
}

static void close_corpora(void)
{
    for (int rank = 0; rank < MAX_RANKS; rank++) {
        rf_corpus_close(corpora[rank][0]);
        rf_corpus_close(corpora[rank][1]);
        corpora[rank][0] = corpora[rank][1] = NULL;
    }
}

static rf_loader_settings make_settings(int64_t micro_rows, int64_t rank, int64_t n_ranks)
{
    return (rf_loader_settings){
        .rows = {.seed = 5, .row_length = T, .window = 40, .overlong = RF_OVERLONG_DROP},
        .batch_rows = BATCH_ROWS,
        .micro_rows = micro_rows,
        .rank = rank,
        .n_ranks = n_ranks};
}

static rf_loader *make_loader(rf_corpus **corpus, int64_t n, const rf_loader_settings *settings,
                              rf_position start)
{
    rf_loader *loader;
    rf_error err;
    cr_assert_eq(rf_loader_new(&loader, corpus, n, &objective, settings, start, &err), RF_OK, "%s",
                 err.message);
    return loader;
}

static rf_loader_share *next(rf_loader *loader)
{
    rf_loader_share *share;
    rf_error err;
    cr_assert_eq(rf_loader_next(loader, &share, &err), RF_OK, "%s", err.message);
    return share;
}

static bool same_position(rf_position a, rf_position b)
{
    return a.epoch == b.epoch && a.window == b.window && a.row == b.row;
}

static bool same_counts(rf_counts a, rf_counts b)
{
    return memcmp(&a, &b, sizeof a) == 0;
}

/* --- Whole steps ------------------------------------------------------------------------------ */

/* All rows of a step, put together from the shares of all ranks: spans and places are counted from
 * the row's begin, so that steps with other leaves can be compared. */
typedef struct step {
    rf_position position;
    int64_t step_rows, n_rows;
    rf_counts counts;
    int32_t token[BATCH_ROWS * T], where[BATCH_ROWS * T], target[BATCH_ROWS * T];
    float weight[BATCH_ROWS * T];
    int32_t span[BATCH_ROWS * T][4], place[BATCH_ROWS * T];
    uint8_t part[BATCH_ROWS * T];
} step;

/* Appends the leaf's rows. Spans must not leave their row. */
static void add_leaf(step *s, const rf_batch *leaf, int64_t micro_rows)
{
    cr_assert_eq(leaf->n, micro_rows * T);
    for (int64_t i = 0; i < leaf->n; i++) {
        int64_t to = s->n_rows * T + i, row = i / T * T;
        s->token[to] = leaf->token[i];
        s->where[to] = leaf->position[i];
        s->target[to] = leaf->target[i];
        s->weight[to] = leaf->weight[i];
        s->part[to] = leaf->part[i];
        s->place[to] = leaf->place[i] - (int32_t)row;
        for (int k = 0; k < 4; k++) {
            int32_t key = leaf->span[4 * i + k];
            bool used = leaf->span[4 * i + k / 2 * 2] < leaf->span[4 * i + k / 2 * 2 + 1];
            cr_assert(!used || (key >= row && key <= row + T));
            s->span[to][k] = used ? key - (int32_t)row : 0;
        }
    }
    s->n_rows += micro_rows;
}

/* One step of n_ranks loaders, whose other results must agree. */
static void take_step(step *s, rf_loader **loader, int64_t n_ranks, int64_t micro_rows)
{
    memset(s, 0, sizeof *s);
    for (int64_t rank = 0; rank < n_ranks; rank++) {
        rf_loader_share *share = next(loader[rank]);
        rf_counts counts = {0};
        cr_assert(rank == 0 || (same_position(s->position, share->position) &&
                                s->step_rows == share->step_rows));
        s->position = share->position;
        s->step_rows = share->step_rows;
        rf_counts_add(&s->counts, &share->counts);
        cr_assert(share->n_leaves == 0 || share->n_leaves == BATCH_ROWS / micro_rows / n_ranks);
        for (int64_t i = 0; i < share->n_leaves; i++) {
            add_leaf(s, &share->leaf[i], micro_rows);
            for (int64_t k = 0; k < share->leaf[i].n; k++) {
                if (share->leaf[i].part[k] != RF_PART_NONE) {
                    counts.n_targets[share->leaf[i].part[k]]++;
                }
                counts.n_places += share->leaf[i].span[4 * k + 1] > share->leaf[i].span[4 * k];
                counts.n_samples +=
                    share->leaf[i].span[4 * k + 1] == share->leaf[i].span[4 * k] + 1;
            }
        }
        cr_assert(same_counts(counts, share->counts));
    }
}

static void make_loaders(rf_loader **loader, int64_t n_ranks, int64_t micro_rows, rf_position start)
{
    for (int64_t rank = 0; rank < n_ranks; rank++) {
        rf_loader_settings settings = make_settings(micro_rows, rank, n_ranks);
        loader[rank] = make_loader(corpora[rank], 2, &settings, start);
    }
}

static void free_loaders(rf_loader **loader, int64_t n_ranks)
{
    for (int64_t rank = 0; rank < n_ranks; rank++) {
        rf_loader_free(loader[rank]);
    }
}

/* The step written down plainly: one row after the other, without thread, ranks or leaves. */
static void expect_step(step *s, rf_rows *rows)
{
    rf_batch batch;
    rf_error err;
    memset(s, 0, sizeof *s);
    cr_assert_eq(rf_batch_new(&batch, T, &err), RF_OK);
    for (int64_t r = 0; r < BATCH_ROWS; r++) {
        rf_row row;
        rf_batch_clear(&batch);
        cr_assert_eq(rf_rows_next(rows, &row, &err), RF_OK, "%s", err.message);
        for (int64_t i = 0; i < row.n_pieces; i++) {
            const rf_piece *p = &row.piece[i];
            const rf_tokenizer *tokenizer = corpora[0][p->corpus]->tokenizer;
            test_length length = {p->corpus == 0 ? p->n_prompt : 0,
                                  rf_corpus_length(corpora[0][p->corpus], p->sample) - p->n_prompt};
            int32_t token[T];
            for (int64_t k = 0; k < p->n_prompt + p->n_response; k++) {
                int64_t from = k < p->n_prompt ? k : p->response_first + k - p->n_prompt;
                token[k] =
                    made_token(tokenizer, length, SALT + (uint64_t)p->corpus, p->sample, from);
            }
            rf_rng rng =
                RF_RNG_STREAM(5, RF_RNG_OBJECTIVE, (uint64_t)row.epoch, (uint64_t)p->corpus,
                              (uint64_t)p->sample, (uint64_t)p->occurrence, (uint64_t)p->piece);
            rf_objective_append(&objective, &batch, &s->counts, token, p->n_prompt, p->n_response,
                                &rng);
        }
        rf_objective_pad(&batch, 0, T - batch.n);
        add_leaf(s, &batch, 1);
    }
    s->step_rows = BATCH_ROWS;
    s->position = rf_rows_tell(rows);
    rf_batch_free(&batch);
}

enum { N_STEPS = 30 }; /* more than two epochs */
static step whole[N_STEPS], other;

/* The first N_STEPS steps as one rank sees them, each checked against the plain form. */
static void take_whole(void)
{
    rf_loader_settings settings = make_settings(2, 0, 1);
    rf_loader *loader = make_loader(corpora[0], 2, &settings, origin);
    rf_rows *rows;
    rf_error err;
    cr_assert_eq(rf_rows_new(&rows, corpora[0], 2, &objective, &settings.rows, &err), RF_OK);
    for (int i = 0; i < N_STEPS; i++) {
        take_step(&whole[i], &loader, 1, 2);
        expect_step(&other, rows);
        cr_assert_arr_eq(&whole[i], &other, sizeof other, "step %d", i);
    }
    cr_assert_geq(whole[N_STEPS - 1].position.epoch, 2);
    rf_rows_free(rows);
    rf_loader_free(loader);
}

Test(loader, any_number_of_ranks_and_any_leaf_gives_the_same_rows)
{
    static const int64_t layouts[][2] = {{1, 1}, {1, 4}, {1, 8}, {2, 1}, {2, 2},
                                         {2, 4}, {4, 1}, {4, 2}, {8, 1}};
    open_corpora(8);
    take_whole();
    for (size_t k = 0; k < sizeof layouts / sizeof *layouts; k++) {
        int64_t n_ranks = layouts[k][0], micro_rows = layouts[k][1];
        rf_loader *loader[8];
        make_loaders(loader, n_ranks, micro_rows, origin);
        for (int i = 0; i < N_STEPS; i++) {
            take_step(&other, loader, n_ranks, micro_rows);
            cr_assert_arr_eq(&whole[i], &other, sizeof other, "step %d", i);
        }
        free_loaders(loader, n_ranks);
    }
    close_corpora();
}

Test(loader, resuming_on_other_ranks_gives_the_same_rows)
{
    open_corpora(4);
    take_whole();
    for (int first = 1; first < N_STEPS; first++) {
        int64_t n_ranks = 1 << first % 3;
        rf_loader *loader[4];
        make_loaders(loader, n_ranks, 1, whole[first - 1].position);
        for (int i = first; i < N_STEPS && i < first + 4; i++) {
            take_step(&other, loader, n_ranks, 1);
            cr_assert_arr_eq(&whole[i], &other, sizeof other, "step %d", i);
        }
        free_loaders(loader, n_ranks);
    }
    close_corpora();
}

Test(loader, finished_weights_do_not_reach_later_steps)
{
    open_corpora(1);
    take_whole();
    rf_loader_settings settings = make_settings(4, 0, 1);
    rf_loader *loader = make_loader(corpora[0], 2, &settings, origin);
    for (int i = 0; i < N_STEPS; i++) {
        rf_loader_share *share = next(loader);
        memset(&other, 0, sizeof other);
        for (int64_t k = 0; k < share->n_leaves; k++) {
            add_leaf(&other, &share->leaf[k], 4);
            rf_objective_finish(&objective, &share->leaf[k], &share->counts);
        }
        cr_assert_arr_eq(whole[i].weight, other.weight, sizeof other.weight);
    }
    rf_loader_free(loader);
    close_corpora();
}

/* --- Every sample ----------------------------------------------------------------------------- */

/* Counts the samples that begin in a leaf; the first token tells which one it is. */
static void count_samples(int *count, const rf_batch *leaf, const rf_corpus *corpus)
{
    const rf_tokenizer *tokenizer = corpus->tokenizer;
    for (int64_t i = 0; i < leaf->n; i++) {
        if (leaf->position[i] == 0 && leaf->span[4 * i + 1] == i + 1 && leaf->span[4 * i] == i) {
            int64_t sample = 0;
            test_length length = {2, 1};
            while (made_token(tokenizer, length, SALT, sample, 0) != leaf->token[i]) {
                cr_assert_lt(++sample, N_SAMPLES);
            }
            count[sample]++;
        }
    }
}

/* Rounds: every rank gets some neighbouring leaves in turn, and they are the leaves of one rank. */
Test(loader, deals_in_rounds)
{
    static const int64_t first[4] = {0, 2, 4, 6}; /* round 1 on two ranks */
    open_corpora(4);
    for (int64_t i = 0; i < 4; i++) {
        cr_assert(rf_loader_leaf(0, 2, 1, i) == first[i]);
        cr_assert(rf_loader_leaf(1, 2, 2, i) == 4 * (i / 2) + 2 + i % 2);
    }
    rf_loader_settings settings = make_settings(1, 0, 1);
    rf_loader *one = make_loader(corpora[2], 2, &settings, origin);
    const rf_loader_share *all = next(one);
    for (int64_t round = 1; round <= 2; round++) {
        for (int64_t rank = 0; rank < 2; rank++) {
            settings = make_settings(1, rank, 2);
            settings.round = round;
            rf_loader *loader = make_loader(corpora[rank], 2, &settings, origin);
            const rf_loader_share *share = next(loader);
            cr_assert(share->n_leaves == all->n_leaves / 2);
            for (int64_t i = 0; i < share->n_leaves; i++) {
                const rf_batch *batch = &share->leaf[i];
                const rf_batch *same = &all->leaf[rf_loader_leaf(rank, 2, round, i)];
                cr_assert(
                    batch->n == same->n &&
                    memcmp(batch->token, same->token, (size_t)same->n * sizeof *same->token) == 0);
            }
            rf_loader_free(loader);
        }
    }
    rf_loader_free(one);
    close_corpora();
}

/* An epoch in pieces: each is taken by another number of ranks, and what was prefetched when it
 * stops is lost. With `once` the last step ends where the epoch does. */
Test(loader, no_sample_is_missing_or_repeated_after_resumes)
{
    open_corpora(4);
    rf_position position = {1, 0, 0};
    int count[N_SAMPLES] = {0};
    for (int64_t turn = 0; position.epoch == 1; turn++) {
        int64_t n_ranks = 1 << turn % 3;
        rf_loader *loader[4];
        for (int64_t rank = 0; rank < n_ranks; rank++) {
            rf_loader_settings settings = make_settings(2, rank, n_ranks);
            settings.once = true;
            loader[rank] = make_loader(corpora[rank], 1, &settings, position);
        }
        for (int64_t i = 0; i < 1 + turn % 2; i++) {
            for (int64_t rank = 0; rank < n_ranks; rank++) {
                rf_loader_share *share = next(loader[rank]);
                position = share->position;
                for (int64_t k = 0; k < share->n_leaves; k++) {
                    count_samples(count, &share->leaf[k], corpora[0][0]);
                }
            }
        }
        free_loaders(loader, n_ranks);
    }
    cr_assert(same_position(position, (rf_position){2, 0, 0}));
    for (int64_t i = 0; i < N_SAMPLES; i++) {
        cr_assert_eq(count[i], 1, "sample %ld: %d times", (long)i, count[i]);
    }
    close_corpora();
}

Test(loader, once_ends_with_empty_rows_and_then_no_leaves)
{
    open_corpora(1);
    for (int64_t n_ranks = 1; n_ranks <= 4; n_ranks *= 2) {
        for (int64_t rank = 0; rank < n_ranks; rank++) {
            rf_loader_settings settings = make_settings(1, rank, n_ranks);
            settings.once = true;
            rf_loader *loader = make_loader(corpora[0], 2, &settings, origin);
            rf_rows_statistics all;
            rf_error err;
            rf_rows *rows;
            cr_assert_eq(rf_rows_new(&rows, corpora[0], 2, &objective, &settings.rows, &err),
                         RF_OK);
            cr_assert_eq(rf_rows_measure(rows, 0, &all, &err), RF_OK);
            rf_rows_free(rows);
            cr_assert_neq(all.n_rows % BATCH_ROWS, 0); /* or nothing is filled up */
            int64_t n_steps = 0, n_rows = 0;
            rf_loader_share *share;
            while ((share = next(loader))->n_leaves > 0) {
                int64_t n_left = all.n_rows - n_rows;
                n_steps++;
                n_rows += share->step_rows;
                cr_assert_eq(share->step_rows, n_left < BATCH_ROWS ? n_left : BATCH_ROWS);
                for (int64_t k = 0; k < share->n_leaves; k++) {
                    int64_t row = rank * share->n_leaves + k;
                    cr_assert_eq(share->leaf[k].n, T);
                    cr_assert_eq(share->leaf[k].span[1] > 0, row < share->step_rows);
                }
            }
            cr_assert(n_rows == all.n_rows && n_steps == (n_rows + BATCH_ROWS - 1) / BATCH_ROWS);
            for (int i = 0; i < 3; i++) {
                share = next(loader);
                cr_assert(share->n_leaves == 0 && share->step_rows == 0);
                cr_assert(same_counts(share->counts, (rf_counts){0}));
                cr_assert(same_position(share->position, (rf_position){1, 0, 0}));
            }
            rf_loader_free(loader);
        }
    }
    close_corpora();
}

/* --- The thread ------------------------------------------------------------------------------- */

Test(loader, an_error_of_the_thread_comes_out_and_stays)
{
    test_length length[N_SAMPLES];
    make_lengths(length);
    length[70] = (test_length){11, 33}; /* its tokens occur nowhere else */
    rf_corpus *corpus = make_damaged_corpus(length, N_SAMPLES, 1, SALT, 70);
    for (int64_t rank = 0; rank < 2; rank++) {
        rf_loader_settings settings = make_settings(1, rank, 2);
        rf_loader *loader = make_loader(&corpus, 1, &settings, origin);
        rf_loader_share *share;
        rf_error err = {0};
        int64_t n_steps = 0;
        while (rf_loader_next(loader, &share, &err) == RF_OK) {
            cr_assert_eq(share->n_leaves, 4);
            cr_assert_lt(n_steps++, 200);
        }
        cr_assert_eq(err.code, RF_ERR);
        cr_assert(strstr(err.message, corpus->path) != NULL, "%s", err.message);
        for (int i = 0; i < 3; i++) {
            rf_error again = {0};
            cr_assert_eq(rf_loader_next(loader, &share, &again), RF_ERR);
            cr_assert_null(share);
            cr_assert_str_eq(again.message, err.message);
        }
        rf_loader_free(loader);
    }
    rf_corpus_close(corpus);
}

Test(loader, may_be_freed_at_any_time)
{
    open_corpora(1);
    rf_loader_free(NULL);
    for (int n = 0; n < 40; n++) {
        rf_loader_settings settings = make_settings(2, 0, 1);
        rf_loader *loader = make_loader(corpora[0], 2, &settings, origin);
        for (int i = 0; i < n % 4; i++) {
            next(loader);
        }
        rf_loader_free(loader);
    }
    close_corpora();
}

Test(loader, the_epoch_may_be_measured_while_the_thread_runs)
{
    open_corpora(1);
    rf_loader_settings settings = make_settings(1, 0, 1);
    rf_loader *loader = make_loader(corpora[0], 2, &settings, origin);
    rf_rows_statistics first, again;
    rf_error err;
    rf_rows *rows;
    cr_assert_eq(rf_rows_new(&rows, corpora[0], 2, &objective, &settings.rows, &err), RF_OK);
    cr_assert_eq(rf_rows_measure(rows, 0, &first, &err), RF_OK);
    for (int i = 0; i < N_STEPS; i++) {
        next(loader);
        cr_assert_eq(rf_rows_measure(rows, 0, &again, &err), RF_OK);
        cr_assert(memcmp(&first, &again, sizeof first) == 0);
        cr_assert_gt(rf_loader_bytes(loader), (size_t)(2 * BATCH_ROWS * T * 37));
    }
    rf_rows_free(rows);
    rf_loader_free(loader);
    close_corpora();
}

/* --- Bad input -------------------------------------------------------------------------------- */

static void check_refused(const rf_loader_settings *settings, rf_position start, const char *word)
{
    rf_loader *loader;
    rf_error err = {0};
    cr_assert_neq(rf_loader_new(&loader, corpora[0], 2, &objective, settings, start, &err), RF_OK);
    cr_assert_null(loader);
    cr_assert(strstr(err.message, word) != NULL, "%s", err.message);
}

Test(loader, refuses_bad_settings)
{
    open_corpora(1);
    static const int64_t bad[][3] = {{8, 3, 1},  {8, 16, 1}, {8, 0, 1}, {0, 1, 1},
                                     {-8, 1, 1}, {8, 1, 3},  {8, 4, 4}, {8, -2, 1}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        rf_loader_settings settings = make_settings(1, 0, 1);
        settings.batch_rows = bad[i][0];
        settings.micro_rows = bad[i][1];
        settings.n_ranks = bad[i][2];
        check_refused(&settings, origin, "train.batch_rows");
        check_refused(&settings, origin, "train.micro_rows");
    }
    rf_loader_settings settings = make_settings(1, 0, 1);
    settings.batch_rows = settings.micro_rows = INT64_C(1) << 40;
    check_refused(&settings, origin, "train.micro_rows");
    settings = make_settings(1, 0, 1);
    settings.rows.window = 0;
    check_refused(&settings, origin, "data.window");
    settings = make_settings(1, 0, 1);
    check_refused(&settings, (rf_position){0, 1000, 0}, "data.window");
    check_refused(&settings, (rf_position){-1, 0, 0}, "data.window");
    close_corpora();
}
