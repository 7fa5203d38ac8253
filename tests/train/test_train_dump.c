/* debug.dump_step holds what its description says. */
#include "tests/train/tiny_run.h"

#include <hdf5.h>
#include <math.h>

TestSuite(train_dump, .init = tiny_begin, .fini = leave_folder, .timeout = 600);

enum { ROWS = 4, T = 64 };

static void read_set(hid_t file, const char *name, hid_t type, int n_dims, const hsize_t *dims,
                     void *out)
{
    hsize_t found[4] = {0};
    hid_t set = H5Dopen2(file, name, H5P_DEFAULT);
    cr_assert(set >= 0, "%s is missing", name);
    hid_t space = H5Dget_space(set);
    cr_assert(H5Sget_simple_extent_ndims(space) == n_dims, "%s", name);
    H5Sget_simple_extent_dims(space, found, NULL);
    cr_assert(memcmp(found, dims, (size_t)n_dims * sizeof *dims) == 0, "%s", name);
    cr_assert(H5Dread(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, out) >= 0, "%s", name);
    H5Sclose(space);
    H5Dclose(set);
}

static double read_real(hid_t file, const char *name)
{
    double value = 0.0;
    hid_t attribute = H5Aopen(file, name, H5P_DEFAULT);
    cr_assert(attribute >= 0 && H5Aread(attribute, H5T_NATIVE_DOUBLE, &value) >= 0, "%s", name);
    H5Aclose(attribute);
    return value;
}

static void read_shape(hid_t file, rf_table *table)
{
    char text[8192] = "";
    rf_model_config shape;
    rf_error err = {0};
    hid_t attribute = H5Aopen(file, "model_config", H5P_DEFAULT);
    hid_t type = H5Aget_type(attribute);
    cr_assert(H5Tget_size(type) < sizeof text && H5Aread(attribute, type, text) >= 0);
    cr_assert(rf_model_config_parse(&shape, text, strlen(text), "model_config", &err) == RF_OK,
              "%s", err.message);
    cr_assert(shape.hidden_size == 32 && rf_table_build(table, &shape, &err) == RF_OK);
    H5Tclose(type);
    H5Aclose(attribute);
}

/* AdamW as its paper writes it, from the file alone; the largest |difference| / largest |value|. */
static double adamw_error(hid_t file, const rf_tensor *t)
{
    static double before[1 << 16], gradient[1 << 16], after[1 << 16];
    const hsize_t dims[2] = {(hsize_t)t->shape[0], (hsize_t)t->shape[1]};
    const char *const groups[] = {"params", "grads", "params_after"};
    double *const data[] = {before, gradient, after};
    double worst = 0.0, largest = 0.0;
    cr_assert(t->count <= 1 << 16);
    for (int i = 0; i < 3; i++) {
        char name[160];
        snprintf(name, sizeof name, "/%s/%s", groups[i], t->name);
        read_set(file, name, H5T_NATIVE_DOUBLE, t->n_dims, dims, data[i]);
    }
    double lr = read_real(file, "lr"), scale = read_real(file, "gradient_scale");
    double decay = t->decay ? read_real(file, "weight_decay") : 0.0, eps = read_real(file, "eps");
    double b1 = read_real(file, "beta1"), b2 = read_real(file, "beta2");
    for (int64_t i = 0; i < t->count; i++) {
        double g = scale * gradient[i], m = (1.0 - b1) * g, v = (1.0 - b2) * g * g;
        double step = m / (1.0 - b1) / (sqrt(v / (1.0 - b2)) + eps) + decay * before[i];
        worst = fmax(worst, fabs(before[i] - lr * step - after[i]));
        largest = fmax(largest, fabs(after[i]));
    }
    return worst / largest;
}

static void check_batch(hid_t file)
{
    static int32_t token[ROWS * T], position[ROWS * T], target[ROWS * T], spans[ROWS * T][2][2];
    static float weight[ROWS * T];
    const hsize_t dims[4] = {ROWS, T, 2, 2};
    read_set(file, "/batch/token", H5T_NATIVE_INT32, 2, dims, token);
    read_set(file, "/batch/position", H5T_NATIVE_INT32, 2, dims, position);
    read_set(file, "/batch/target", H5T_NATIVE_INT32, 2, dims, target);
    read_set(file, "/batch/weight", H5T_NATIVE_FLOAT, 2, dims, weight);
    read_set(file, "/batch/spans", H5T_NATIVE_INT32, 4, dims, spans);
    int64_t n_targets = 0;
    for (int64_t i = 0; i < ROWS * T; i++) {
        cr_assert(token[i] >= 0 && position[i] >= 0 && position[i] < T && target[i] >= -1);
        cr_assert((target[i] >= 0) == (weight[i] > 0.0F));
        n_targets += target[i] >= 0;
        for (int k = 0; k < 2; k++) { /* in the row's own places, and never ahead */
            bool empty = spans[i][k][0] == 0 && spans[i][k][1] == 0;
            cr_assert(empty || (spans[i][k][0] >= 0 && spans[i][k][0] < spans[i][k][1] &&
                                spans[i][k][1] <= i % T + 1));
        }
    }
    cr_assert(n_targets > 20);
}

static void check(const char *path, const char *run_folder, double tolerance)
{
    rf_table table = {0};
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    cr_assert(file >= 0, "%s", path);
    read_shape(file, &table);
    check_batch(file);
    double sum = 0.0;
    for (int64_t i = 0; i < table.n_tensors; i++) {
        double error = adamw_error(file, &table.tensor[i]);
        cr_assert(!(error > tolerance) && !isnan(error), "%s: %g", table.tensor[i].name, error);
    }
    cr_assert(fabs(read_real(file, "loss") - tiny_last(run_folder, "step", "loss")) <= sum);
    rf_table_free(&table);
    H5Fclose(file);
}

Test(train_dump, f32)
{
    tiny_train(0, "train.steps=1 debug.dump_step=dump.h5 train.micro_rows=2", 0);
    check("dump.h5", "run", 1e-6);
}

Test(train_dump, f64_on_two_ranks)
{
    mpi_need();
    tiny_train(2, "train.steps=1 debug.dump_step=two.h5 train.backend=ref64", 0);
    check("two.h5", "run", 1e-14);
    tiny_train(0, "log.dir=one train.steps=1 debug.dump_step=one.h5 train.backend=ref64", 0);
    cr_assert(tiny_shell("cmp one.h5 two.h5") == 0, "%s", program_output);
}

Test(train_dump, bad_path)
{
    tiny_train(0, "--dry-run debug.dump_step=no/such/folder.h5", 1);
    tiny_says("debug.dump_step: no/such is no folder");
    tiny_train(0, "train.steps=1 debug.dump_step=no/such/folder.h5", 1);
    tiny_says("debug.dump_step: no/such is no folder");
    cr_assert(access("run", F_OK) != 0, "nothing is begun");
    tiny_train(0, "--dry-run debug.dump_step=$PWD/run/dump.h5", 0); /* which the run makes */
    tiny_train(0, "--dry-run log.dir=run/ debug.dump_step=./run/dump.h5", 0);
}

/* It writes over nothing that the run reads, its own checkpoints included. */
Test(train_dump, is_no_input)
{
    static const char *const paths[] = {"train.h5", "./valid.h5", "link.h5",
                                        "base/step-000000001.h5", "run/step-000000001.h5"};
    tiny_train(0, "train.steps=1 log.dir=base", 0);
    tiny_train(0, "train.steps=1", 0);
    cr_assert(tiny_shell("ln -s train.h5 link.h5; cksum *.h5 */*.h5 >before") == 0);
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        char arguments[256];
        snprintf(arguments, sizeof arguments,
                 "train.steps=2 --resume auto model.init=base/step-000000001.h5 debug.dump_step=%s",
                 paths[i]);
        tiny_train(0, arguments, 2);
        tiny_says("debug.dump_step: ");
    }
    cr_assert(tiny_shell("cksum *.h5 */*.h5 | cmp - before") == 0);
    static const char *const own[] = {"config.yaml", "metrics.jsonl", "latest",
                                      "step-000000001.h5"};
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) { /* which are not there yet */
        char arguments[256];
        snprintf(arguments, sizeof arguments, "log.dir=new debug.dump_step=new/%s", own[i]);
        tiny_train(0, arguments, 2);
        tiny_says("the run writes a file of that name itself: name another");
    }
    cr_assert(tiny_shell("! test -e new") == 0);
    tiny_train(0, "train.steps=2 --resume auto debug.dump_step=run/dump.h5", 0);
}
