#include "train/plan.h"

#include "common/base/files/file.h"
#include "train/leaves.h"
#include "train/run/room.h"

#include <dirent.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

static size_t decoder_bytes(const rf_setup *s, const rf_model_shape *shape)
{
    if (s->samples.n == 0) {
        return 0;
    }
    rf_model_limits need = rf_engine_limits(&s->samples.options, s->samples.max_prompt, 1);
    return rf_cache_bytes(shape->config, shape->backend, need.keys) +
           rf_acts_bytes(shape, need.places, need.keys, false, RF_RECOMPUTE_NONE);
}

/* What is in host memory, of a rank. */
static size_t on_host(const rf_plan *p)
{
    return p->device_available > 0 ? p->loader + p->program + p->snapshot : p->total;
}

/* With `auto` there is a copy where the host has room for it. */
static size_t snapshot_bytes(const rf_plan *p, const rf_setup *s)
{
    const size_t bytes = rf_plan_checkpoint_bytes(s) / (size_t)rf_dist_size(s->dist);
    const size_t all = (on_host(p) + 2 * bytes) * (size_t)rf_dist_local_size(s->dist);
    const bool fits = (p->host_available == 0 || all <= p->host_available) &&
                      (p->process_limit == 0 || on_host(p) + bytes <= p->process_limit);
    return s->set.checkpoint_async == RF_ASYNC_YES ||
                   (s->set.checkpoint_async == RF_ASYNC_AUTO && fits)
               ? bytes
               : 0;
}

int rf_plan_make(rf_plan *out, const rf_setup *s, rf_error *err)
{
    rf_optimizer moments = {.shards = &s->shards};
    rf_gather gather = {0};
    rf_reduce reduce = s->reduce;
    const rf_limits limits = rf_model_kernel_limits(&s->shape, s->backend, &s->limits);
    const rf_model_shape shape = {&s->shape, &s->set.adaptation,
                                  rf_backend_with(s->backend, limits.compute)};
    rf_arena optimizer = {0}, step = {0}, windows = {0};
    *out = (rf_plan){0};
    int64_t places = s->set.micro_rows * s->sources.settings.rows.row_length;
    rf_optimizer_layout(&moments, &optimizer, s->backend);
    rf_reduce_layout(&reduce, &step, s->backend);
    rf_gather_new(&gather, s->dist, &s->shards);
    rf_gather_layout(&gather, &windows, s->backend, s->set.compute);
    rf_gather_free(&gather);
    out->weights = rf_model_bytes(&s->shape, s->backend, &s->limits) + windows.peak;
    out->moments = optimizer.peak;
    out->n_gradients = s->reduce.n_buffers;
    out->gradients = rf_reduce_gradient_bytes(&s->reduce, s->backend);
    out->reduction = step.peak - out->gradients;
    out->activations = rf_acts_bytes(&shape, places, places, true, s->set.recompute);
    out->activations += rf_leaves_loss_bytes(s->backend, s->reduce.n_leaves, places);
    out->backward = rf_backward_bytes(&shape, places);
    out->scratch = rf_ctx_scratch_bytes(s->backend, s->n_threads, &limits);
    out->decoder = decoder_bytes(s, &shape);
    size_t writable;
    rf_room_used(&out->program, &writable);
    out->program += RF_CHECKPOINT_CHUNK; /* through which values go to a file, or come from it */
    RF_TRY(rf_dist_agree(s->dist, rf_setup_plan_loader(&out->loader, s, err), err));
    out->total = out->weights + out->moments + out->gradients + out->reduction + out->activations +
                 out->backward + out->scratch + out->decoder + out->loader + out->program;
    rf_room room;
    RF_TRY(rf_room_find(&room, s->dist, err));
    out->host_available = room.host;
    out->process_limit = room.process == SIZE_MAX ? 0 : room.process + writable;
    out->device_available = rf_backend_available(s->backend);
    out->snapshot = snapshot_bytes(out, s);
    out->total += out->snapshot;
    return RF_OK;
}

/* --- Disk ------------------------------------------------------------------------------------- */

/* What checkpoints in the folder take already: they go when newer ones come. */
static size_t bytes_of_checkpoints(const char *folder)
{
    size_t bytes = 0;
    char path[RF_PATH_BYTES];
    struct stat status;
    const struct dirent *entry;
    DIR *entries = opendir(folder);
    while (entries != NULL && (entry = readdir(entries)) != NULL) {
        if (strncmp(entry->d_name, "step-", 5) == 0 &&
            rf_path_join(path, sizeof path, folder, entry->d_name, NULL) == RF_OK &&
            stat(path, &status) == 0) {
            bytes += (size_t)status.st_size;
        }
    }
    if (entries != NULL) {
        closedir(entries);
    }
    return bytes;
}

/* Free in the file system of the folder, or of the nearest one above it that is there. */
static size_t free_bytes(const char *folder)
{
    char path[RF_PATH_BYTES];
    struct statvfs status;
    snprintf(path, sizeof path, "%s", folder);
    while (statvfs(path, &status) != 0) {
        char *slash = strrchr(path, '/');
        if (slash == NULL || slash == path) {
            snprintf(path, sizeof path, "%s", slash == NULL ? "." : "/");
            return statvfs(path, &status) == 0 ? (size_t)status.f_bavail * status.f_frsize : 0;
        }
        *slash = '\0';
    }
    return (size_t)status.f_bavail * status.f_frsize;
}

size_t rf_plan_checkpoint_bytes(const rf_setup *s)
{
    /* Parameters, of adapters alone where they are trained, and two moments of what is trained. */
    const int64_t n_parameters = s->set.adaptation.rank > 0 ? s->n_trainable : s->n_parameters;
    size_t tokenizer = 0;
    (void)rf_tokenizer_text(s->sources.tokenizer, &tokenizer);
    return rf_backend_bytes(s->backend, RF_MASTER, n_parameters + 2 * s->n_trainable) + tokenizer;
}

rf_disk_plan rf_disk_plan_make(const rf_setup *s)
{
    const int64_t every = s->set.checkpoint_every;
    const rf_checkpoint_keep *keep = &s->set.checkpoint_keep;
    const int64_t left = s->set.steps - s->progress.step;
    const int64_t n_newest = keep->newest > 0 ? keep->newest : every > 0 ? left / every + 1 : 1;
    const int64_t n_every = keep->newest > 0 && keep->every > 0 ? left / keep->every + 1 : 0;
    rf_disk_plan plan = {.n_files = n_newest + n_every + s->set.checkpoint_best + 1,
                         .file = rf_plan_checkpoint_bytes(s)};
    plan.total = (size_t)plan.n_files * plan.file;
    const size_t free_now = free_bytes(s->set.folder);
    plan.available = free_now > 0 ? free_now + bytes_of_checkpoints(s->set.folder) : 0;
    return plan;
}

/* --- What people see -------------------------------------------------------------------------- */

static void print_line(FILE *out, const char *what, size_t bytes)
{
    const double mib = (double)bytes / 1048576.0;
    const bool large = mib >= 10240;
    fprintf(out, "  %-34s %12.1f %s\n", what, large ? mib / 1024 : mib, large ? "GiB" : "MiB");
}

void rf_plan_print(const rf_plan *p, const rf_disk_plan *disk, const rf_setup *s, FILE *out)
{
    int local = rf_dist_local_size(s->dist);
    const bool shared = s->shards.kind != RF_SHARD_NONE;
    char gradients[64];
    snprintf(gradients, sizeof gradients, "gradients (%d%s, train.reduce=%s)", p->n_gradients,
             shared ? " in slices" : "", s->set.exact ? "exact" : "fast");
    fprintf(out, "%" PRId64 " leaves of a step, %" PRId64 " for each rank\n",
            s->set.batch_rows / s->set.micro_rows, s->reduce.n_leaves);
    fprintf(out, "memory of a rank (%d ranks, %d on this host, %s, %d threads each):\n",
            rf_dist_size(s->dist), local, s->backend->name, s->n_threads);
    print_line(out, "weights", p->weights);
    print_line(out, gradients, p->gradients);
    print_line(out, "Adam's moments", p->moments);
    print_line(out, "sum over ranks", p->reduction);
    print_line(out, "activations", p->activations);
    print_line(out, "gradients of activations", p->backward);
    print_line(out, "kernels' scratch (head)", p->scratch);
    print_line(out, "decoder (samples)", p->decoder);
    print_line(out, "loader", p->loader);
    print_line(out, "program, MPI, tokenizer", p->program);
    print_line(out, "copy of a checkpoint (async)", p->snapshot);
    print_line(out, "total", p->total);
    if (p->process_limit > 0) {
        print_line(out, "limit of a process", p->process_limit);
    }
    if (p->device_available > 0) {
        print_line(out, "on the GPU", (p->total - on_host(p)) * (size_t)local);
        print_line(out, "available on the GPU", p->device_available);
    } else if (p->host_available > 0) {
        print_line(out, "all ranks of this host", p->total * (size_t)local);
        print_line(out, "available on this host", p->host_available);
    }
    fprintf(out, "disk of %s (at most %" PRId64 " checkpoints at once):\n", s->set.folder,
            disk->n_files);
    print_line(out, "a checkpoint", disk->file);
    print_line(out, "all", disk->total);
    if (disk->available > 0) {
        print_line(out, "available", disk->available);
    }
}

int rf_plan_check(const rf_plan *p, const rf_disk_plan *disk, const rf_setup *s, rf_error *err)
{
    const size_t local = (size_t)rf_dist_local_size(s->dist);
    const bool on_device = p->device_available > 0;
    const size_t needed = (on_device ? p->total - on_host(p) : p->total) * local;
    const size_t available = on_device ? p->device_available : p->host_available;
    const bool exceeds = p->process_limit > 0 && on_host(p) > p->process_limit;
    if (exceeds || (available > 0 && needed > available)) {
        return rf_error_set(
            err, RF_ERR,
            "the run does not fit into %s: lower train.micro_rows or "
            "data.row_length, set train.recompute=selective or block, or train.reduce=fast, or "
            "let more ranks share it (train.shard)",
            exceeds     ? "the memory of a process (ulimit -d, ulimit -v, its control group)"
            : on_device ? "the GPU's memory"
                        : "this host's memory, or that of the container or job");
    }
    if (disk->available > 0 && disk->total > disk->available) {
        return rf_error_set(err, RF_ERR,
                            "the checkpoints do not fit onto the disk of %s: lower "
                            "checkpoint.keep, set checkpoint.best=false, or give a log.dir with "
                            "more room",
                            s->set.folder);
    }
    return RF_OK;
}
