#include "data/data_main.h"

#include "common/base/files/file.h"
#include "common/base/files/hdf5.h"
#include "common/store/checkpoint.h"
#include "data/corpus/corpus.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>

typedef struct request {
    bool verify;
} request;

static const rf_option option_table[] = {{"verify", NULL,
                                          "also read everything and compare all checksums",
                                          RF_OPTION_FLAG, .at = offsetof(request, verify)},
                                         {0}};

static void print_tokenizer(const rf_tokenizer *tokenizer)
{
    if (tokenizer == NULL) {
        printf("  tokenizer         none\n");
        return;
    }
    printf("  tokenizer         %" PRId64 " tokens, hash %016" PRIx64 "\n",
           rf_tokenizer_size(tokenizer), rf_tokenizer_hash(tokenizer));
}

static void count_sample(rf_build_counts *counts, const rf_corpus *corpus, int64_t i)
{
    int64_t n = rf_corpus_length(corpus, i);
    rf_build_counts_sample(counts, n, n - rf_corpus_n_trained(corpus, i),
                           rf_corpus_n_answers(corpus, i), 0);
}

static void print_corpus(const rf_corpus *corpus)
{
    rf_build_counts all = {0};
    int64_t n_texts = 0;
    for (int64_t i = 0; i < corpus->n_samples; i++) {
        count_sample(&all, corpus, i);
        n_texts += rf_corpus_is_text(corpus, i);
    }
    printf("%s: corpus%s\n", corpus->path, rf_corpus_is_compressed(corpus) ? ", compressed" : "");
    rf_data_report(stdout, &all);
    printf("  plain texts       %" PRId64 "\n", n_texts);
    print_tokenizer(corpus->tokenizer);
    if (rf_corpus_date(corpus) != NULL) {
        printf("  date              %s, as templates were told\n", rf_corpus_date(corpus));
    }
    printf("  hash              %016" PRIx64 "\n", corpus->hash);
    for (int64_t s = 0; s < corpus->n_sources; s++) {
        const rf_corpus_source *source = &corpus->source[s];
        rf_build_counts counts = {0};
        for (int64_t i = source->first; i < source->first + source->n_samples; i++) {
            count_sample(&counts, corpus, i);
        }
        rf_data_report_source(stdout, source->name, source->weight, &counts);
    }
}

static int inspect_corpus(const char *path, bool verify, rf_error *err)
{
    rf_corpus *corpus;
    RF_TRY(rf_corpus_open(&corpus, path, err));
    print_corpus(corpus);
    int rc = verify ? rf_corpus_verify(corpus, err) : RF_OK;
    rf_corpus_close(corpus);
    return rc;
}

/* Which parameters there are, and which of them were trained. */
static int print_parameters(const rf_checkpoint_info *info, rf_error *err)
{
    const rf_adaptation *a = &info->adaptation;
    rf_table table;
    RF_TRY(rf_table_build_adapted(&table, &info->model, a, err));
    const int64_t n_model = table.n_parameters - (a->rank > 0 ? table.n_trainable : 0);
    printf("  parameters        %" PRId64 "%s\n", n_model, a->rank > 0 ? " of the base" : "");
    if (a->rank > 0) {
        printf("  adapters          %" PRId64 " parameters: rank %" PRId64 ", alpha %g, of %s\n",
               table.n_trainable, a->rank, a->alpha, a->targets);
        printf("  base              %s, hash %016" PRIx64 "\n",
               info->base.path[0] != '\0' ? info->base.path : "unknown", info->base.hash);
    } else if (a->only[0] != '\0') {
        printf("  trained           %" PRId64 " parameters: %s\n", table.n_trainable, a->only);
    }
    printf("  stored as         %s\n", rf_type_name(info->storage));
    rf_table_free(&table);
    return RF_OK;
}

static int print_checkpoint(const char *path, const rf_checkpoint_info *info, rf_error *err)
{
    const rf_model_config *m = &info->model;
    const rf_progress *p = &info->progress;
    printf("%s: %s\n", path, info->adaptation.rank > 0 ? "adapter file" : "checkpoint");
    printf("  model             %s: hidden_size %" PRId64 ", intermediate_size %" PRId64
           ", num_hidden_layers %" PRId64 ", num_attention_heads %" PRId64
           ", num_key_value_heads %" PRId64 ", head_dim %" PRId64 ", vocab_size %" PRId64 "%s\n",
           m->architecture, m->hidden_size, m->intermediate_size, m->num_hidden_layers,
           m->num_attention_heads, m->num_key_value_heads, m->head_dim, m->vocab_size,
           m->tie_word_embeddings ? ", tied" : "");
    RF_TRY(print_parameters(info, err));
    printf("  step              %" PRId64 " (%" PRId64 " updates, %" PRId64 " skipped)\n", p->step,
           p->updates, p->skipped);
    printf("  tokens seen       %" PRId64 " in %.0f s\n", p->tokens, p->seconds);
    printf("  position          epoch %" PRId64 ", window %" PRId64 ", row %" PRId64
           " (seed %" PRId64 ")\n",
           p->epoch, p->window, p->row, p->seed);
    if (isfinite(p->best_valid_loss)) {
        printf("  best valid loss   %.4f\n", p->best_valid_loss);
    }
    printf("  optimizer         %s\n", info->has_optimizer ? "moments are in the file" : "none");
    printf("  written by        %s%s%s%s\n", info->written_by, info->isa[0] != '\0' ? " (" : "",
           info->isa, info->isa[0] != '\0' ? ")" : "");
    print_tokenizer(info->tokenizer);
    printf("  corpora           %s\n", info->corpora);
    return RF_OK;
}

static int inspect_checkpoint(const char *path, bool verify, rf_error *err)
{
    rf_checkpoint_info info = {0};
    RF_TRY(rf_checkpoint_info_read(&info, path, err));
    int rc = print_checkpoint(path, &info, err);
    rf_checkpoint_info_free(&info);
    RF_TRY(rc);
    return verify ? rf_checkpoint_verify(path, err) : RF_OK;
}

/* Where HDF5 reads nothing, nobody knows which kind of file it was. */
static int check_readable(const char *path, rf_error *err)
{
    rf_hdf5 file = {0};
    if (!rf_path_exists(path)) {
        return rf_error_system(err, ENOENT, path, "cannot open");
    }
    if (!rf_hdf5_is(path)) {
        return rf_error_set(
            err, RF_ERR, "%s: is not an HDF5 file, as corpora, checkpoints and adapter files are",
            path);
    }
    const int rc = rf_hdf5_open(&file, path, false, NULL);
    rf_hdf5_drop(&file);
    return rc == RF_OK
               ? RF_OK
               : rf_error_set(err, RF_ERR,
                              "%s: is truncated or its structure is broken: if it is a checkpoint, "
                              "use another one; if it is a corpus, build it again",
                              path);
}

/* The folder of a run stands for its best checkpoint, else its latest, as everywhere. */
static int inspect(const char *name, bool verify, rf_error *err)
{
    char path[RF_PATH_BYTES];
    RF_TRY(rf_checkpoint_choose(path, sizeof path, name, err));
    RF_TRY(check_readable(path, err));
    RF_TRY(rf_corpus_is_checkpoint(path) ? inspect_checkpoint(path, verify, err)
                                         : inspect_corpus(path, verify, err));
    if (verify) {
        printf("  verified          all checksums are right\n");
    }
    return RF_OK;
}

static int run(const rf_manual *self, int argc, char **argv, rf_error *err)
{
    request r = {0};
    int first;
    RF_TRY(rf_manual_parse(&first, &r, argc, argv, self, err));
    if (first == argc) {
        return rf_manual_missing(self, "FILE", err);
    }
    for (int i = first; i < argc; i++) {
        RF_TRY(inspect(argv[i], r.verify, err));
    }
    return RF_OK;
}

const rf_manual rf_data_info = {.name = "refusion-data info",
                                .summary = "describe and verify corpora and checkpoints",
                                .synopsis = "refusion-data info [--verify] FILE.h5|RUN_FOLDER...\n",
                                .text = "Describes corpora, checkpoints and adapter files.\n",
                                .option = option_table,
                                .run = run};
