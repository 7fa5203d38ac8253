/* Against Hugging Face's models in f64: logits, losses and every gradient.
 * The files and the program that makes them: tests/golden/make_model_golden.py. */
#include "train/math/backward.h"

#include "tests/golden/length.h"
#include "tests/model/golden.h"

static const char *const files[] = {"qwen3", "qwen3_tied", "qwen2", "llama", "llama3", "yarn"};
enum { N_FILES = sizeof(files) / sizeof(files[0]), MAX_PLACES = 64 };

static hid_t open_file(const char *model)
{
    char path[200];
    snprintf(path, sizeof(path), "tests/golden/model_%s.h5", model);
    return golden_open(path);
}

static rf_batch read_batch(hid_t file)
{
    int64_t n = length_of(file, "/batch/token");
    cr_assert(n > 0 && n <= MAX_PLACES);
    rf_batch batch = tiny_batch(n);
    batch.n = n;
    golden_read(batch.token, file, "/batch/token", H5T_NATIVE_INT32, n);
    golden_read(batch.position, file, "/batch/position", H5T_NATIVE_INT32, n);
    golden_read(batch.target, file, "/batch/target", H5T_NATIVE_INT32, n);
    golden_read(batch.weight, file, "/batch/weight", H5T_NATIVE_FLOAT, n);
    golden_read(batch.span, file, "/batch/spans", H5T_NATIVE_INT32, 4 * n);
    return batch;
}

static void check_gradients(rf_model *model, const void *gradient, hid_t file, double tolerance)
{
    const rf_backend *backend = model->ctx->backend;
    hsize_t n_grads = 0;
    hid_t group = H5Gopen2(file, "/grads", H5P_DEFAULT);
    H5Gget_num_objs(group, &n_grads);
    cr_assert((int64_t)n_grads == model->table.n_tensors);
    H5Gclose(group);
    for (int64_t i = 0; i < model->table.n_tensors; i++) {
        const rf_tensor *t = &model->table.tensor[i];
        char name[120];
        snprintf(name, sizeof(name), "/grads/%s", t->name);
        double *expected = malloc(2 * (size_t)t->count * sizeof(double));
        cr_assert_not_null(expected);
        double *ours = expected + t->count;
        golden_read(expected, file, name, H5T_NATIVE_DOUBLE, t->count);
        rf_backend_download(model->ctx, ours, RF_F64,
                            rf_backend_at(backend, RF_MASTER, gradient, t->offset), RF_MASTER,
                            t->count);
        double gap = tiny_gap(ours, expected, t->count);
        cr_assert(gap <= tolerance, "%s %s: %s is off by %g", backend->name, backend->isa, name,
                  gap);
        free(expected);
    }
}

static void check_logits(rf_model *model, rf_acts *acts, hid_t file, double tolerance)
{
    int64_t n = acts->n * model->config.vocab_size;
    double *ours = tiny_logits(model, acts), *expected = malloc((size_t)n * sizeof(double));
    cr_assert_not_null(expected);
    golden_read(expected, file, "/logits", H5T_NATIVE_DOUBLE, n);
    double gap = tiny_gap(ours, expected, n);
    cr_assert(gap <= tolerance, "%s %s: logits are off by %g", model->ctx->backend->name,
              model->ctx->backend->isa, gap);
    free(ours);
    free(expected);
}

static void check_losses(rf_model *model, const rf_acts *acts, hid_t file, double tolerance)
{
    double ours[MAX_PLACES], expected[MAX_PLACES];
    rf_backend_download(model->ctx, ours, RF_F64, acts->loss, RF_STATISTIC, acts->n);
    golden_read(expected, file, "/loss", H5T_NATIVE_DOUBLE, acts->n);
    double gap = tiny_gap(ours, expected, acts->n);
    cr_assert(gap <= tolerance, "%s %s: losses are off by %g", model->ctx->backend->name,
              model->ctx->backend->isa, gap);
}

static void check_model(const rf_backend *backend, const char *name, rf_recompute recompute,
                        double tolerance)
{
    hid_t file = open_file(name);
    rf_model_config config = golden_config(file);
    rf_batch batch = read_batch(file);
    rf_model *model = NULL;
    rf_acts *acts = NULL;
    rf_backward *backward = NULL;
    void *gradient = NULL;
    double loss[MAX_PLACES];
    rf_model_limits limits = {.places = batch.n, .keys = batch.n, .backward = true};
    TINY_MUST(rf_model_new(&model, &config, backend, 2, &limits, tiny_error()));
    TINY_MUST(rf_acts_new(&acts, model, batch.n, batch.n, true, recompute, tiny_error()));
    TINY_MUST(rf_backward_new(&backward, model, batch.n, tiny_error()));
    TINY_MUST(rf_backend_alloc(&gradient, model->ctx,
                               rf_backend_bytes(backend, RF_MASTER, model->table.n_elements),
                               tiny_error()));
    golden_weights(model, file);
    TINY_MUST(rf_model_forward(model, acts, &batch, NULL, tiny_error()));
    check_logits(model, acts, file, tolerance);
    TINY_MUST(rf_backward_run(backward, model, acts, &(rf_gradient){.whole = gradient}, loss,
                              tiny_error()));
    check_losses(model, acts, file, tolerance);
    check_gradients(model, gradient, file, tolerance);
    rf_backend_free(model->ctx, gradient);
    rf_backward_free(backward);
    rf_acts_free(acts);
    rf_model_free(model);
    rf_batch_free(&batch);
    H5Fclose(file);
}

Test(golden, f64_equals_hugging_face)
{
    for (int i = 0; i < N_FILES; i++) {
        check_model(backend_named("ref64", ""), files[i], RF_RECOMPUTE_NONE, 1e-9);
        check_model(backend_named("ref64", ""), files[i], RF_RECOMPUTE_BLOCK, 1e-9);
    }
}

Test(golden, f32_agrees_with_hugging_face)
{
    const rf_backend *list[MAX_BACKENDS];
    int n_backends = backends_available(list);
    for (int b = 0; b < n_backends; b++) {
        for (int i = 0; i < N_FILES; i++) {
            check_model(list[b], files[i], RF_RECOMPUTE_NONE, 1e-5);
        }
    }
}
