/* Exchanges by links (kernels/link.h) on the NCCL of fake_nccl.h: what they bring, what it takes to be
 * connected, and how a failure ends all ranks. */
#include "tests/dist/exchanges.h"
#include "tests/dist/fake_nccl.h"

#include "common/kernels/host.h"

/* A backend of the host that says its memory is a device's. */
static const rf_backend *on_a_device(const char *name)
{
    static rf_backend backend;
    static rf_memory memory;
    const rf_backend *host = NULL;
    MUST(rf_backend_choose(&host, name, &error));
    memory = rf_host_memory;
    memory.is_host = false;
    memory.transport = &rf_cuda_transport;
    backend = *host;
    backend.memory = &memory;
    return &backend;
}

static void open_fake(rf_dist *dist)
{
    fake.dist = dist;
    fake.device = (unsigned char)rf_dist_rank(dist);
    unsetenv("RF_NCCL");
}

/* --- What exchanges bring --------------------------------------------------------------------- */

static void check_links(rf_dist *dist)
{
    open_fake(dist);
    check_exchanges_of(dist, on_a_device("cpu"));
    cr_assert(strcmp(rf_dist_carrier(dist), "NCCL 0.0.0") == 0, "%s", rf_dist_carrier(dist));
    cr_assert(fake.n_groups > 0);
    check_exchanges_of(dist, on_a_device("ref64"));
    check_reduces_of(dist, on_a_device("cpu")); /* the bits of one rank */
    check_reduces_of(dist, on_a_device("ref64"));
    cr_assert(fake.n_aborts == 0);
}

MPI_TEST(link, on_two_ranks, 2)
{
    check_links(dist);
}
MPI_TEST(link, on_three_ranks, 3)
{
    open_fake(dist);
    check_exchanges_of(dist, on_a_device("cpu"));
}
MPI_TEST(link, on_four_ranks, 4)
{
    check_links(dist);
}

/* Each channel has a link of its own; all are closed at the end, by destroy. */
Test(link, closes)
{
    static char output[1 << 16];
    mpi_need();
    if (!mpi_is_inside()) {
        int status = mpi_launch(output, sizeof output, "link/closes", 2, NULL);
        cr_assert(status == 0, "exit status %d\n%s", status, output);
        return;
    }
    rf_dist *dist = NULL;
    MUST(rf_dist_open(&dist, NULL, NULL, &error));
    open_fake(dist);
    rf_ctx_free(make_ctx(dist, on_a_device("cpu")));
    rf_ctx_free(make_ctx(dist, on_a_device("cpu"))); /* connected already */
    rf_dist_close(dist);
    cr_assert(fake.n_destroyed == RF_N_CHANNELS && fake.n_aborts == 0);
}

/* --- Who can be connected --------------------------------------------------------------------- */

static int connect_ranks(rf_dist *dist, const rf_backend *backend, rf_error *err)
{
    rf_ctx *ctx = NULL;
    const rf_limits limits = {.places = 1, .keys = 1};
    MUST(rf_ctx_new(&ctx, backend, 1, &limits, &error));
    const int rc = rf_dist_connect(dist, ctx, err);
    rf_ctx_free(ctx);
    return rc;
}

/* Without NCCL on a rank all go through the host, with the same bits; unless a library was named. */
MPI_TEST(link, without_library, 2)
{
    rf_error err = {0};
    open_fake(dist);
    fake.is_missing = rf_dist_rank(dist) == 1;
    check_exchanges_of(dist, on_a_device("cpu"));
    check_reduces_of(dist, on_a_device("cpu"));
    cr_assert(fake.n_groups == 0);
    cr_assert(strcmp(rf_dist_carrier(dist), "MPI through the hosts' memory, which is slow: rank 1: "
                                            "there is no NCCL") == 0,
              "%s", rf_dist_carrier(dist));
    setenv("RF_NCCL", "none", 1);
    cr_assert(connect_ranks(dist, on_a_device("cpu"), &err) == RF_OK);
    if (rf_dist_rank(dist) == 0) {
        setenv("RF_NCCL", "/a/libnccl.so.2", 1);
    }
    cr_assert(connect_ranks(dist, on_a_device("cpu"), &err) == RF_ERR_USAGE);
    cr_assert(strstr(err.message, "rank 1: there is no NCCL") != NULL, "%s", err.message);
}

MPI_TEST(link, init_fails, 2)
{
    rf_error err = {0};
    open_fake(dist);
    fake.init_result = 2;
    cr_assert(connect_ranks(dist, on_a_device("cpu"), &err) == RF_ERR_RETRY);
    cr_assert(strncmp(err.message, "rank 0: ncclCommInitRank: a failure: ", 37) == 0, "%s",
              err.message);
}

/* --- Devices ---------------------------------------------------------------------------------- */

MPI_TEST(link, shared_device, 3)
{
    rf_error err = {0};
    const rf_backend *backend = on_a_device("cpu");
    open_fake(dist);
    MUST(rf_dist_check_devices(dist, backend, &error));
    fake.device = rf_dist_rank(dist) == 0 ? 0 : 1;
    cr_assert(rf_dist_check_devices(dist, backend, &err) == RF_ERR_USAGE);
    cr_assert(strncmp(err.message, "ranks 1 and 2 have the same GPU: ", 33) == 0, "%s",
              err.message);
    fake.is_named = rf_dist_rank(dist) == 1; /* the other one was not asked */
    cr_assert(rf_dist_check_devices(dist, backend, &err) == RF_ERR_USAGE);
    fake.is_named = true;
    MUST(rf_dist_check_devices(dist, backend, &error));
    check_exchanges_of(dist, backend);
    cr_assert(fake.n_groups == 0 && strstr(rf_dist_carrier(dist), "share a GPU") != NULL);
}

/* Ranks without any device are nobody's sharers. */
MPI_TEST(link, host_and_device, 2)
{
    const rf_backend *host = NULL;
    MUST(rf_backend_choose(&host, "cpu", &error));
    open_fake(dist);
    fake.device = 7;
    MUST(rf_dist_check_devices(dist, rf_dist_rank(dist) == 0 ? host : on_a_device("cpu"), &error));
    MUST(rf_dist_check_devices(dist, host, &error));
}

/* --- Failures --------------------------------------------------------------------------------- */

/* Rank 1's link breaks while rank 0 waits for what it sends: all end with status 5, after its line. */
static void break_link(const char *test, bool at_begin)
{
    static char output[1 << 16];
    mpi_need();
    if (!mpi_is_inside()) {
        int status = mpi_launch(output, sizeof output, test, 2, NULL);
        cr_assert(status == 5, "exit status %d\n%s", status, output);
        cr_assert(strstr(output, "remote process exited") != NULL &&
                      strstr(output, "start again from the checkpoint") != NULL,
                  "%s", output);
        return;
    }
    enum { N = 100 };
    rf_dist *dist = NULL;
    MUST(rf_dist_open(&dist, NULL, NULL, &error));
    open_fake(dist);
    rf_ctx *ctx = make_ctx(dist, on_a_device("cpu"));
    rf_exchange *exchange = rf_exchange_new(dist, RF_CHANNEL_GRADIENTS);
    void *x = alloc(ctx, N), *y = alloc(ctx, rf_slice_slot(N, rf_dist_size(dist)));
    fake.async_result = rf_dist_rank(dist) == 1 && !at_begin ? 6 : RF_NCCL_IN_PROGRESS;
    fake.group_result = 6;
    fake.group_fails_at = rf_dist_rank(dist) == 1 && at_begin ? 1 : 0;
    MUST(rf_exchange_reduce_scatter(exchange, ctx, y, x, RF_MASTER, N, &error));
    MUST(rf_exchange_wait(exchange, &error));
    MUST(rf_dist_agree(dist, RF_OK, &error));
    cr_assert(false, "the link has not failed");
}

Test(link, breaks_on_its_way)
{
    break_link("link/breaks_on_its_way", false);
}
Test(link, breaks_at_begin)
{
    break_link("link/breaks_at_begin", true);
}

/* --- The interface ---------------------------------------------------------------------------- */

/* What nccl.h of this repository says is what NCCL's own says, where that is installed. */
Test(link, declarations)
{
    static const char *const headers[] = {"/usr/local/cuda/include/nccl.h", "/usr/include/nccl.h"};
    static const struct {
        const char *name;
        int value;
    } enumerators[] = {{"ncclSuccess", RF_NCCL_SUCCESS},
                       {"ncclInvalidUsage", RF_NCCL_INVALID_USAGE},
                       {"ncclInProgress", RF_NCCL_IN_PROGRESS},
                       {"ncclUint8", RF_NCCL_UINT8},
                       {"ncclFloat", RF_NCCL_FLOAT},
                       {"ncclDouble", RF_NCCL_DOUBLE},
                       {"ncclSum", RF_NCCL_SUM}};
    char line[512], format[64];
    FILE *file = NULL;
    for (size_t i = 0; i < sizeof headers / sizeof headers[0] && file == NULL; i++) {
        file = fopen(headers[i], "r");
    }
    if (file == NULL) {
        cr_skip("nccl.h is not installed\n");
    }
    int n_found = 0;
    while (fgets(line, sizeof line, file) != NULL) {
        for (size_t i = 0; i < sizeof enumerators / sizeof enumerators[0]; i++) {
            int value = -1;
            snprintf(format, sizeof format, "%s ", enumerators[i].name);
            const char *at = strstr(line, format);
            if (at != NULL && sscanf(at + strlen(format), " = %d", &value) == 1) {
                cr_assert(value == enumerators[i].value, "%s", line);
                n_found++;
            }
        }
    }
    fclose(file);
    cr_assert(n_found >= (int)(sizeof enumerators / sizeof enumerators[0]), "%d", n_found);
}
