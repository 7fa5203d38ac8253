/* Conversations as one sample with several trained turns: every target, what refuses them, and the
 * same steps on any number of ranks and after a resume. */
#include "data/loader.h"
#include "tests/data/data_test.h"

TestSuite(turns, .init = begin_folder, .fini = end_folder);

enum { T = 24, END = 256, MASK = 257, USER = 260, ASSISTANT = 261 };

static rf_objective objective_of(const rf_objective_kind *kind)
{
    return (rf_objective){.kind = kind,
                          .slot_sizes = {2},
                          .n_slot_sizes = 1,
                          .lambda_ar = 1,
                          .lambda_mdm = 1,
                          .epsilon = 1e-3,
                          .pad = RF_PAD_BLOCK,
                          .pad_block = 4,
                          .block_size = 4,
                          .noise_low = 1,
                          .noise_high = 1,
                          .mask = MASK,
                          .end = END};
}

/* Two small conversations: the answers "ab" and "c", with "v" said between them, and "d". */
static const int32_t first[] = {USER, 'u', ASSISTANT, 'a', 'b', END,
                                USER, 'v', ASSISTANT, 'c', END};
static const bool trained[] = {0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1};
static const int32_t second[] = {USER, 'w', ASSISTANT, 'd', END};
enum { N_FIRST = 11, N_SECOND = 5, P = 3, R = N_FIRST - P };

static const char conversations[] =
    "{\"messages\": [{\"role\": \"user\", \"content\": \"u\"}, "
    "{\"role\": \"assistant\", \"content\": \"ab\"}, {\"role\": \"user\", \"content\": \"v\"}, "
    "{\"role\": \"assistant\", \"content\": \"c\"}]}\n"
    "{\"messages\": [{\"role\": \"user\", \"content\": \"w\"}, "
    "{\"role\": \"assistant\", \"content\": \"d\"}]}\n";

static rf_corpus *build(const char *text, rf_turns turns)
{
    rf_build_source source = {put_text("in.jsonl", text), 1, false};
    rf_build_settings s = {.source = &source,
                           .n_sources = 1,
                           .out_path = in_folder("out.h5"),
                           .turns = turns,
                           .n_jobs = 1};
    rf_tokenizer *tokenizer = byte_tokenizer();
    rf_build_statistics statistics;
    rf_error err;
    cr_assert_eq(rf_build(&statistics, tokenizer, &s, &err), RF_OK, "%s", err.message);
    rf_build_statistics_free(&statistics);
    rf_tokenizer_free(tokenizer);
    return open_corpus(in_folder("out.h5"));
}

static rf_batch append(const rf_objective *o, rf_counts *counts, rf_rng rng)
{
    rf_batch batch;
    rf_error err;
    cr_assert_eq(rf_batch_new(&batch, 64, &err), RF_OK);
    *counts = (rf_counts){0};
    rf_objective_append_turns(o, &batch, counts, first, trained, P, R, &rng);
    return batch;
}

/* --- Objectives ------------------------------------------------------------------------------- */

Test(turns, ar_learns_the_tokens_of_answers)
{
    const int32_t target[N_FIRST] = {-1, -1, 'a', 'b', END, -1, -1, -1, 'c', END, -1};
    rf_objective o = objective_of(&rf_objective_ar);
    rf_counts counts;
    for (int all = 0; all < 2; all++) {
        o.ar_all = all == 1;
        rf_batch b = append(&o, &counts, (rf_rng){0});
        cr_assert_eq(b.n, N_FIRST);
        cr_expect_eq(counts.n_targets[0], all ? N_FIRST - 1 : 5);
        for (int k = 0; k < N_FIRST; k++) {
            const int32_t next = k + 1 < N_FIRST ? first[k + 1] : -1;
            cr_expect_eq(b.token[k], first[k]);
            cr_expect_eq(b.target[k], all ? next : target[k], "place %d", k);
        }
        rf_batch_free(&b);
    }
}

/* R = 8 is whole blocks of 4, so there is no padding; 5 of the 8 are trained. */
Test(turns, masks_fall_on_answers_only)
{
    const rf_objective_kind *const kinds[] = {&rf_objective_mdm, &rf_objective_block};
    for (int i = 0; i < 2; i++) {
        rf_objective o = objective_of(kinds[i]);
        int64_t n_masked = 0;
        for (int draw = 0; draw < 200; draw++) {
            rf_counts counts;
            rf_batch b = append(&o, &counts, RF_RNG_STREAM(3, RF_RNG_TEST, (uint64_t)draw));
            rf_rng rng = RF_RNG_STREAM(3, RF_RNG_TEST, (uint64_t)draw);
            const double p = i == 0 ? (1 - o.epsilon) * rf_rng_uniform(&rng) + o.epsilon : 1;
            const int64_t noisy = i == 0 ? P : N_FIRST - o.block_size; /* where the response is */
            cr_assert_eq(b.n, noisy + R);
            for (int64_t k = 0; k < b.n; k++) {
                const int64_t own = k < noisy ? k : P + k - noisy;
                if (k >= noisy && b.target[k] >= 0) {
                    cr_assert(trained[own]);
                    cr_assert_eq(b.target[k], first[own]);
                    cr_assert_eq(b.token[k], MASK);
                    cr_assert_float_eq(b.weight[k], 1 / (p * 5), 1e-5 / p);
                } else {
                    cr_assert_eq(b.target[k], -1);
                    cr_assert_eq(b.token[k], first[own]);
                }
            }
            n_masked += counts.n_targets[0];
            cr_assert(i == 0 || counts.n_targets[0] == 5);
            cr_assert_eq(counts.n_tokens, i == 0 ? 5 : 0);
            rf_batch_free(&b);
        }
        cr_assert(n_masked > 400, "%s: %lld", kinds[i]->name, (long long)n_masked);
    }
}

Test(turns, padding_is_learnt)
{
    rf_objective o = objective_of(&rf_objective_mdm);
    rf_counts counts;
    o.pad_block = 10; /* R' = 10 */
    o.epsilon = 1;    /* p = 1 */
    rf_batch b = append(&o, &counts, (rf_rng){0});
    cr_expect_eq(b.n, P + 10);
    cr_expect_eq(counts.n_targets[0], 7);
    cr_expect_eq(counts.n_tokens, 7);
    cr_expect_eq(b.target[P + 9], END);
    rf_batch_free(&b);
}

/* --- Rows and steps --------------------------------------------------------------------------- */

static rf_loader_settings settings_of(int64_t rank, int64_t n_ranks)
{
    return (rf_loader_settings){
        .rows = {.seed = 5, .row_length = T, .window = 8, .overlong = RF_OVERLONG_DROP},
        .batch_rows = 2,
        .micro_rows = 1,
        .rank = rank,
        .n_ranks = n_ranks};
}

Test(turns, refusion_refuses_them_by_name)
{
    rf_objective o = objective_of(&rf_objective_refusion);
    rf_rows_settings settings = settings_of(0, 1).rows;
    for (int turns = RF_TURNS_EACH; turns <= RF_TURNS_ALL; turns++) {
        rf_corpus *c = build(conversations, (rf_turns)turns);
        rf_rows *rows;
        rf_error err;
        int rc = rf_rows_new(&rows, &c, 1, &o, &settings, &err);
        cr_assert_eq(rc, turns == RF_TURNS_ALL ? RF_ERR : RF_OK);
        if (rc != RF_OK) {
            assert_message(&err, in_folder("out.h5"), "objective refusion does not define");
            cr_assert_not_null(strstr(err.message, "--turns each"));
        }
        rf_rows_free(rows);
        rf_corpus_close(c);
    }
}

Test(turns, a_step_has_the_targets_of_both_conversations)
{
    rf_objective o = objective_of(&rf_objective_ar);
    rf_corpus *c = build(conversations, RF_TURNS_ALL);
    rf_loader_settings settings = settings_of(0, 1);
    rf_loader *loader;
    rf_loader_share *share;
    rf_error err;
    settings.once = true;
    cr_assert_eq(rf_loader_new(&loader, &c, 1, &o, &settings, (rf_position){0, 0, 0}, &err), RF_OK,
                 "%s", err.message);
    cr_assert_eq(rf_loader_next(loader, &share, &err), RF_OK);
    cr_expect_eq(share->counts.n_samples, 2);
    cr_expect_eq(share->counts.n_places, N_FIRST + N_SECOND);
    cr_expect_eq(share->counts.n_targets[0], 5 + 2);
    const rf_batch *b = &share->leaf[0]; /* both fit into one row, in either order */
    const int64_t at = b->token[1] == 'u' ? 0 : N_SECOND, other = at == 0 ? N_FIRST : 0;
    for (int64_t k = 0; k < N_FIRST; k++) {
        bool learnt = k + 1 < N_FIRST && trained[k + 1];
        cr_expect_eq(b->token[at + k], first[k]);
        cr_expect_eq(b->target[at + k], learnt ? first[k + 1] : -1);
    }
    for (int64_t k = 0; k < N_SECOND; k++) {
        bool learnt = k == 2 || k == 3;
        cr_expect_eq(b->token[other + k], second[k]);
        cr_expect_eq(b->target[other + k], learnt ? second[k + 1] : -1);
    }
    rf_loader_free(loader);
    rf_corpus_close(c);
}

static void add_leaf(char *out, const rf_batch *b)
{
    for (int64_t k = 0; k < b->n; k++) {
        out += sprintf(out, "%d,%d,%g ", b->token[k], b->target[k], (double)b->weight[k]);
    }
}

enum { N_STEPS = 6, LEAF_TEXT = T * 40 };

/* Steps [from, N_STEPS) as text, leaf by leaf. */
static void take_steps(char out[N_STEPS][2][LEAF_TEXT], const rf_objective *o, int64_t n_ranks,
                       int from, rf_position *after)
{
    for (int64_t rank = 0; rank < n_ranks; rank++) {
        rf_corpus *c = open_corpus(in_folder("out.h5"));
        rf_loader_settings settings = settings_of(rank, n_ranks);
        rf_loader *loader;
        rf_error err;
        const rf_position start = from > 0 ? after[from - 1] : (rf_position){0, 0, 0};
        cr_assert_eq(rf_loader_new(&loader, &c, 1, o, &settings, start, &err), RF_OK, "%s",
                     err.message);
        for (int s = from; s < N_STEPS; s++) {
            rf_loader_share *share;
            cr_assert_eq(rf_loader_next(loader, &share, &err), RF_OK, "%s", err.message);
            for (int64_t i = 0; i < share->n_leaves; i++) {
                add_leaf(out[s][rf_loader_leaf(rank, n_ranks, share->n_leaves, i)],
                         &share->leaf[i]);
            }
            after[s] = share->position;
        }
        rf_loader_free(loader);
        rf_corpus_close(c);
    }
}

Test(turns, ranks_and_resume_change_nothing)
{
    static char whole[N_STEPS][2][LEAF_TEXT], other[N_STEPS][2][LEAF_TEXT];
    const rf_objective_kind *const kinds[] = {&rf_objective_ar, &rf_objective_mdm,
                                              &rf_objective_block};
    char text[4 * sizeof conversations] = "";
    for (int i = 0; i < 3; i++) {
        strcat(text, conversations);
    }
    rf_corpus_close(build(text, RF_TURNS_ALL));
    for (int i = 0; i < 3; i++) {
        rf_objective o = objective_of(kinds[i]);
        rf_position after[N_STEPS];
        take_steps(whole, &o, 1, 0, after);
        take_steps(other, &o, 2, 0, after);
        cr_assert_eq(memcmp(whole, other, sizeof whole), 0, "%s: ranks", kinds[i]->name);
        memset(other[3], 0, 3 * sizeof other[3]);
        take_steps(other, &o, 1, 3, after);
        cr_assert_eq(memcmp(whole, other, sizeof whole), 0, "%s: resume", kinds[i]->name);
        memset(whole, 0, sizeof whole);
        memset(other, 0, sizeof other);
    }
}
