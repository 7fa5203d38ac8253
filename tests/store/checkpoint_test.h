/* checkpoint_test.h: small models with optimizer state, files to damage, folders to do it in. */
#ifndef RF_TESTS_STORE_CHECKPOINT_TEST_H
#define RF_TESTS_STORE_CHECKPOINT_TEST_H

#include "common/base/files/file.h"
#include "common/store/checkpoint_private.h"
#include "tests/model/tiny.h"
#include "tests/scratch.h"
#include "tests/store/save.h"

#include <dirent.h>
#include <fcntl.h>
#include <hdf5.h>
#include <sys/stat.h>
#include <unistd.h>

/* HDF5 loses memory over damaged files and full disks; what we lose is still found. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libhdf5\n";
}

/* --- Folders and files ------------------------------------------------------------------------ */

typedef struct content {
    char *data; /* owned */
    size_t bytes;
} content;

static inline content get_file(const char *path)
{
    content c = {0};
    TINY_MUST(rf_file_read(&c.data, &c.bytes, path, (size_t)1 << 30, tiny_error()));
    return c;
}

static inline void expect_same_file(const char *path, const content *c)
{
    content is = get_file(path);
    cr_expect(is.bytes == c->bytes && memcmp(is.data, c->data, is.bytes) == 0, "%s changed", path);
    free(is.data);
}

static inline void flip_bit(const char *path, int64_t byte, int bit)
{
    unsigned char value = 0;
    int fd = open(path, O_RDWR);
    cr_assert(fd >= 0 && pread(fd, &value, 1, byte) == 1);
    value ^= (unsigned char)(1U << bit);
    cr_assert(pwrite(fd, &value, 1, byte) == 1 && close(fd) == 0);
}

/* --- Subjects --------------------------------------------------------------------------------- */

/* A model with its moments and everything else that goes into a checkpoint. */
typedef struct subject {
    rf_model *model;
    void *m, *v;
    rf_checkpoint_info info;
} subject;

/* A few hundred KiB with its moments: several ranks have something to write. */
static inline rf_model_config middle_config(void)
{
    rf_model_config config =
        tiny_config((tiny_switches){.qk_norm = true, .qkv_bias = true, .tied = false});
    config.vocab_size = 300;
    config.hidden_size = 64;
    config.intermediate_size = 96;
    return config;
}

static inline rf_model_config small_config(void)
{
    return tiny_config((tiny_switches){.qk_norm = true, .tied = true});
}

static inline void fill_flat(subject *s, void *to, uint64_t seed)
{
    const rf_backend *backend = s->model->ctx->backend;
    for (int64_t i = 0; i < s->model->table.n_tensors; i++) {
        const rf_tensor *t = &s->model->table.tensor[i];
        rf_rng rng = RF_RNG_STREAM(seed, RF_RNG_TEST, (uint64_t)i);
        double *value = malloc((size_t)t->count * sizeof *value);
        cr_assert(value != NULL);
        for (int64_t j = 0; j < t->count; j++) {
            value[j] = rf_rng_normal(&rng);
        }
        rf_backend_upload(s->model->ctx, rf_backend_at(backend, RF_MASTER, to, t->offset),
                          RF_MASTER, value, RF_F64, t->count);
        rf_backend_wait(s->model->ctx, rf_backend_record(s->model->ctx));
        free(value);
    }
}

/* All zero but for its sizes; what a load fills. */
static inline subject empty_subject(const rf_model_config *config, const char *backend_name)
{
    subject s = {0};
    rf_model_limits limits = {.places = 8, .keys = 8};
    const rf_backend *backend = NULL;
    TINY_MUST(rf_backend_choose(&backend, backend_name, tiny_error()));
    TINY_MUST(rf_model_new(&s.model, config, backend, 1, &limits, tiny_error()));
    size_t bytes = rf_backend_bytes(backend, RF_MASTER, s.model->table.n_elements);
    TINY_MUST(rf_backend_alloc(&s.m, s.model->ctx, bytes, tiny_error()));
    TINY_MUST(rf_backend_alloc(&s.v, s.model->ctx, bytes, tiny_error()));
    return s;
}

static inline subject make_subject(const rf_model_config *config, const char *backend_name)
{
    subject s = empty_subject(config, backend_name);
    fill_flat(&s, s.model->master, 1);
    fill_flat(&s, s.m, 2);
    fill_flat(&s, s.v, 3);
    s.info = (rf_checkpoint_info){
        .progress = {.step = 1000,
                     .updates = 990,
                     .tokens = INT64_C(123456789012),
                     .seed = -5,
                     .epoch = 2,
                     .window = 3,
                     .row = 4,
                     .skipped = 10,
                     .best_valid_loss = 1.0 / 3.0,
                     .seconds = 12.5},
        .run_config = strdup("train:\n  steps: 10 # \xC3\xA4\n"),
        .corpora = strdup("[{\"path\":\"a.h5\"}]"),
        .isa = "avx2",
        .written_by = "refusion-train 0.1.0",
    };
    TINY_MUST(rf_tokenizer_load(&s.info.tokenizer, "byte", tiny_error()));
    return s;
}

static inline void free_subject(subject *s)
{
    rf_backend_free(s->model->ctx, s->m);
    rf_backend_free(s->model->ctx, s->v);
    rf_model_free(s->model);
    rf_checkpoint_info_free(&s->info);
    *s = (subject){0};
}

static inline void save_subject(const subject *s, const char *path, rf_dist *dist)
{
    TINY_MUST(save_checkpoint(path, dist, s->model, s->m, s->v, &s->info, tiny_error()));
}

static inline subject saved_subject(const rf_model_config *config, const char *path)
{
    subject s = make_subject(config, "");
    save_subject(&s, path, NULL);
    return s;
}

static inline bool same_flat(const subject *a, const void *x, const subject *b, const void *y)
{
    bool same = true;
    int64_t n = a->model->table.n_elements;
    double *p = malloc((size_t)n * sizeof *p), *q = malloc((size_t)n * sizeof *q);
    cr_assert(p != NULL && q != NULL && n == b->model->table.n_elements);
    rf_backend_download(a->model->ctx, p, RF_F64, x, RF_MASTER, n);
    rf_backend_download(b->model->ctx, q, RF_F64, y, RF_MASTER, n);
    same = memcmp(p, q, (size_t)n * sizeof *p) == 0;
    free(p);
    free(q);
    return same;
}

static inline void expect_same(const subject *a, const subject *b)
{
    cr_expect(same_flat(a, a->model->master, b, b->model->master), "weights differ");
    cr_expect(same_flat(a, a->m, b, b->m), "first moments differ");
    cr_expect(same_flat(a, a->v, b, b->v), "second moments differ");
}

/* Loads path into a fresh model and compares it with s. */
static inline void expect_loads(const subject *s, const char *path)
{
    subject fresh = empty_subject(&s->model->config, s->model->ctx->backend->name);
    TINY_MUST(rf_checkpoint_load(path, fresh.model, fresh.m, fresh.v, tiny_error()));
    expect_same(&fresh, s);
    free_subject(&fresh);
}

/* verify, load and (where `header` says that no tensor need be read to see it) info_read refuse
 * path with a message that names it and says `part`. */
static inline void expect_refused(const char *path, const subject *s, bool header, const char *part)
{
    rf_error err = {0};
    rf_checkpoint_info info;
    cr_expect(rf_checkpoint_verify(path, &err) != RF_OK, "%s", path);
    EXPECT_SAYS(&err, part);
    EXPECT_SAYS(&err, path);
    subject fresh = empty_subject(&s->model->config, s->model->ctx->backend->name);
    err = (rf_error){0};
    cr_expect(rf_checkpoint_load(path, fresh.model, fresh.m, fresh.v, &err) != RF_OK);
    EXPECT_SAYS(&err, part);
    free_subject(&fresh);
    err = (rf_error){0};
    int rc = rf_checkpoint_info_read(&info, path, &err);
    cr_expect((rc != RF_OK) == header, "%s", err.message);
    if (header) {
        EXPECT_SAYS(&err, part);
    }
    rf_checkpoint_info_free(&info);
}

/* Flips a bit of each tensor of a good file in turn, and lets `refuse` see that the damage is found and
 * called by the tensor's name. The file is good again afterwards, and has n_items tensors. */
static inline void flip_in_each_tensor(const char *path, int64_t n_items, uint64_t seed,
                                       void (*refuse)(const char *path, const char *name,
                                                      const void *user),
                                       const void *user)
{
    rf_checkpoint_structure structure;
    TINY_MUST(rf_checkpoint_structure_read(&structure, path, tiny_error()));
    cr_assert(structure.n_items == n_items);
    rf_rng rng = RF_RNG_STREAM(1, RF_RNG_TEST, seed);
    for (int64_t i = 0; i < structure.n_items; i++) {
        const rf_checkpoint_item *item = &structure.item[i];
        int64_t byte = item->offset + (int64_t)rf_rng_below(&rng, (uint64_t)item->bytes);
        int bit = (int)rf_rng_below(&rng, 8);
        flip_bit(path, byte, bit);
        refuse(path, item->name, user);
        flip_bit(path, byte, bit);
    }
    TINY_MUST(rf_checkpoint_verify(path, tiny_error()));
    rf_checkpoint_structure_free(&structure);
}

/* Writes c to path and edits it with HDF5's own functions. */
static inline void put_edited(const char *path, const content *c, void (*apply)(hid_t file))
{
    rf_hdf5 opened = {0};
    put_file(path, c->data, c->bytes);
    TINY_MUST(rf_hdf5_open(&opened, path, true, tiny_error()));
    apply(opened.id);
    TINY_MUST(rf_hdf5_close(&opened, tiny_error()));
}

#endif
