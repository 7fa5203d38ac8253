#include "common/kernels/apart/apart.h"

#include "common/base/alloc.h"
#include "common/kernels/cpu/cpu.h"
#include "common/kernels/host.h"
#include "common/kernels/wrap.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* With the address sanitizer nobody may touch what no array has, as with malloc's memory. */
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(memory, bytes)   ((void)(memory), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(memory, bytes) ((void)(memory), (void)(bytes))
#endif

/* What the kernels of `cpu` expect comes first. */
typedef struct apart_state {
    rf_host_state host;
    const rf_kernels *cpu;
    /* What uploads read, and how it was then; where downloads go, and what. Until an event behind them or
     * rf_ctx_sync. */
    struct moved {
        const void *src; /* of an upload; else NULL */
        void *dst;
        void *copy;
        size_t bytes;
    } * moved;
    size_t n_moved, capacity;
    rf_event n_settled; /* before the first of these */
} apart_state;

/* The first of them, up to number `end`, are done: until now nobody may have changed the sources of uploads, and
 * downloads arrive now. */
static void settle(apart_state *state, rf_event end)
{
    size_t n = 0;
    for (; n < state->n_moved && state->n_settled < end; n++, state->n_settled++) {
        struct moved *moved = &state->moved[n];
        if (moved->src == NULL) {
            memcpy(moved->dst, moved->copy, moved->bytes);
        } else {
            bool is_same = memcmp(moved->src, moved->copy, moved->bytes) == 0;
            RF_ASSERT(is_same && "the source of an upload lives until the next event or sync");
        }
        free(moved->copy);
    }
    state->n_moved -= n;
    if (state->n_moved > 0) {
        memmove(state->moved, state->moved + n, state->n_moved * sizeof *state->moved);
    }
}

/* bytes at `host`, the source of an upload or what a download brings. */
static void keep(apart_state *state, const void *src, void *dst, const void *host, size_t bytes)
{
    state->moved =
        rf_alloc_grow(state->moved, &state->capacity, state->n_moved + 1, sizeof *state->moved);
    state->moved[state->n_moved++] = (struct moved){src, dst, rf_alloc_copy(host, bytes), bytes};
}

/* --- Memory ---------------------------------------------------------------------------------- */

/* Opening and closing memory costs more the more pages of it are in use, and each kernel does both: so the
 * memory of this backend lies in few arenas of huge pages. */
#define ARENA ((size_t)256 << 20)

/* With a lock, since each thread of control may have a context of its own. */
static struct {
    pthread_mutex_t lock;
    int depth; /* arenas are readable and writable while it is > 0 */
    struct arena {
        char *memory;
        size_t bytes;
    } * arena;
    struct region { /* all of the arenas, by address within each */
        char *memory;
        size_t bytes;
        bool is_free;
    } * region;
    size_t n_arenas, arena_capacity, n, capacity;
    int n_contexts;
} all = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void protect_all(int access)
{
    for (size_t i = 0; i < all.n_arenas; i++) {
        RF_ASSERT(mprotect(all.arena[i].memory, all.arena[i].bytes, access) == 0);
    }
}

static void enter(void)
{
    pthread_mutex_lock(&all.lock);
    if (all.depth++ == 0) {
        protect_all(PROT_READ | PROT_WRITE);
    }
    pthread_mutex_unlock(&all.lock);
}

static void leave(void)
{
    pthread_mutex_lock(&all.lock);
    if (--all.depth == 0) {
        protect_all(PROT_NONE);
    }
    pthread_mutex_unlock(&all.lock);
}

static void insert_region(size_t i, struct region region)
{
    all.region = rf_alloc_grow(all.region, &all.capacity, all.n + 1, sizeof *all.region);
    memmove(&all.region[i + 1], &all.region[i], (all.n - i) * sizeof *all.region);
    all.region[i] = region;
    all.n++;
}

static void remove_region(size_t i)
{
    all.n--;
    memmove(&all.region[i], &all.region[i + 1], (all.n - i) * sizeof *all.region);
}

/* An arena of at least `least` bytes, free as a whole. */
static bool add_arena(size_t least)
{
    const size_t bytes =
        least > ARENA ? (least + RF_HUGE_PAGE - 1) / RF_HUGE_PAGE * RF_HUGE_PAGE : ARENA;
    const int access = all.depth == 0 ? PROT_NONE : PROT_READ | PROT_WRITE;
    char *memory = mmap(NULL, bytes + RF_HUGE_PAGE, access,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        return false;
    }
    memory += (RF_HUGE_PAGE - (uintptr_t)memory % RF_HUGE_PAGE) % RF_HUGE_PAGE;
#ifdef MADV_HUGEPAGE
    (void)madvise(memory, bytes, MADV_HUGEPAGE);
#endif
    all.arena = rf_alloc_grow(all.arena, &all.arena_capacity, all.n_arenas + 1, sizeof *all.arena);
    all.arena[all.n_arenas++] = (struct arena){memory, bytes};
    ASAN_POISON_MEMORY_REGION(memory, bytes);
    insert_region(all.n, (struct region){memory, bytes, true});
    return true;
}

/* The first free region that is large enough becomes one of just these bytes; all.n: there is none. */
static size_t take_region(size_t bytes)
{
    size_t i = 0;
    while (i < all.n && !(all.region[i].is_free && all.region[i].bytes >= bytes)) {
        i++;
    }
    if (i < all.n) {
        const struct region found = all.region[i];
        all.region[i] = (struct region){found.memory, bytes, false};
        if (found.bytes > bytes) {
            insert_region(i + 1, (struct region){found.memory + bytes, found.bytes - bytes, true});
        }
    }
    return i;
}

static int allocate(rf_ctx *ctx, void **out, size_t bytes, rf_error *err)
{
    (void)ctx;
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t rounded = /* at least a page lies between two arrays */
        bytes < (size_t)PTRDIFF_MAX - 2 * page ? (bytes / page + 2) * page : PTRDIFF_MAX;
    pthread_mutex_lock(&all.lock);
    size_t i = take_region(rounded);
    if (i == all.n && add_arena(rounded)) {
        i = take_region(rounded);
    }
    *out = i < all.n ? all.region[i].memory : NULL;
    pthread_mutex_unlock(&all.lock);
    if (*out == NULL) {
        return rf_error_set(err, RF_ERR, "out of memory: %zu bytes were asked for", bytes);
    }
    ASAN_UNPOISON_MEMORY_REGION(*out, bytes);
    enter();
    memset(*out, 0, bytes); /* it may have been in use */
    leave();
    return RF_OK;
}

/* Two free regions that touch, i and the next, become one. */
static void join(size_t i)
{
    if (i + 1 < all.n && all.region[i].is_free && all.region[i + 1].is_free &&
        all.region[i].memory + all.region[i].bytes == all.region[i + 1].memory) {
        all.region[i].bytes += all.region[i + 1].bytes;
        remove_region(i + 1);
    }
}

static void release(rf_ctx *ctx, void *memory)
{
    (void)ctx;
    pthread_mutex_lock(&all.lock);
    size_t i = 0;
    while (i < all.n && all.region[i].memory != memory) {
        i++;
    }
    RF_ASSERT(i < all.n && !all.region[i].is_free);
    all.region[i].is_free = true;
    ASAN_POISON_MEMORY_REGION(memory, all.region[i].bytes);
    join(i);
    if (i > 0) {
        join(i - 1);
    }
    pthread_mutex_unlock(&all.lock);
}

static void upload(rf_ctx *ctx, void *dst, rf_type dst_type, const void *src, rf_type src_type,
                   int64_t n)
{
    enter();
    rf_host_memory.upload(ctx, dst, dst_type, src, src_type, n);
    leave();
    keep(ctx->state, src, NULL, src, (size_t)n * rf_type_bytes(src_type));
}

/* Not a number, until it arrives: whoever reads it before finds that. */
static void download(rf_ctx *ctx, void *dst, rf_type dst_type, const void *src, rf_type src_type,
                     int64_t n)
{
    const size_t bytes = (size_t)n * rf_type_bytes(dst_type);
    enter();
    rf_host_memory.download(ctx, dst, dst_type, src, src_type, n);
    leave();
    keep(ctx->state, NULL, dst, dst, bytes);
    memset(dst, 0xff, bytes);
}

static void copy(rf_ctx *ctx, void *dst, const void *src, size_t bytes)
{
    enter();
    rf_host_memory.copy(ctx, dst, src, bytes);
    leave();
}

static void convert(rf_ctx *ctx, void *dst, rf_type dst_type, const void *src, rf_type src_type,
                    int64_t n)
{
    enter();
    rf_host_memory.convert(ctx, dst, dst_type, src, src_type, n);
    leave();
}

static void zero(rf_ctx *ctx, void *dst, size_t bytes)
{
    enter();
    rf_host_memory.zero(ctx, dst, bytes);
    leave();
}

static rf_event record(rf_ctx *ctx)
{
    const apart_state *state = ctx->state;
    return state->n_settled + (rf_event)state->n_moved;
}

static void wait_for(rf_ctx *ctx, rf_event event)
{
    settle(ctx->state, event);
}

static void sync_all(rf_ctx *ctx)
{
    settle(ctx->state, INT64_MAX);
}

/* --- Context --------------------------------------------------------------------------------- */

static const rf_kernels *cpu_kernels(const char *isa)
{
    static const struct {
        const char *isa;
        const rf_kernels *kernels;
    } known[] = {
#if defined(__x86_64__)
        {"avx2", &rf_cpu_avx2_kernels},
        {"avx512", &rf_cpu_avx512_kernels},
        {"avx512bf16", &rf_cpu_avx512bf16_kernels},
        {"amx", &rf_cpu_amx_kernels},
#endif
        {"portable", &rf_cpu_portable_kernels},
    };
    size_t i = 0;
    while (strcmp(known[i].isa, isa) != 0) {
        i++;
    }
    return known[i].kernels;
}

static int open_state(rf_ctx *ctx, rf_error *err)
{
    const char *path = getenv("RF_APART_TALLY"), *test = getenv("RF_APART_TEST");
    FILE *tally = path != NULL ? fopen(path, "a") : NULL;
    (void)err;
    if (tally != NULL) {
        fprintf(tally, "%s\n", test != NULL ? test : "?");
        fclose(tally);
    }
    apart_state *state = rf_alloc(1, sizeof *state);
    state->cpu = cpu_kernels(ctx->backend->isa);
    ctx->state = state;
    pthread_mutex_lock(&all.lock);
    all.n_contexts++;
    pthread_mutex_unlock(&all.lock);
    return RF_OK;
}

/* When the last context is closed all memory has been given back. */
static void find_leaks(void)
{
    pthread_mutex_lock(&all.lock);
    all.n_contexts--;
    for (size_t i = 0; i < all.n && all.n_contexts == 0; i++) {
        RF_ASSERT(all.region[i].is_free && "memory of the backend was not freed");
    }
    pthread_mutex_unlock(&all.lock);
}

static void close_state(rf_ctx *ctx)
{
    apart_state *state = ctx->state;
    for (size_t i = 0; i < state->n_moved; i++) {
        free(state->moved[i].copy);
    }
    free(state->moved);
    free(state);
    find_leaks();
}

const rf_memory rf_apart_memory = {
    .open = open_state,
    .close = close_state,
    .alloc = allocate,
    .free = release,
    .upload = upload,
    .download = download,
    .copy = copy,
    .convert = convert,
    .zero = zero,
    .record = record,
    .wait = wait_for,
    .sync = sync_all,
};

/* --- Kernels --------------------------------------------------------------------------------- */

#define WRAP(kernel, parameters, arguments, in, out)                                               \
    static void kernel parameters                                                                  \
    {                                                                                              \
        enter();                                                                                   \
        ((const apart_state *)ctx->state)->cpu->kernel arguments;                                  \
        leave();                                                                                   \
    }
RF_KERNELS_TO_WRAP(WRAP)

#define ENTRY(kernel, parameters, arguments, in, out) .kernel = kernel,
#define TABLE(isa_)                                                                                \
    rf_scratch_bytes_fn rf_cpu_##isa_##_scratch_bytes;                                             \
    rf_pack_bytes_fn rf_cpu_##isa_##_pack_bytes;                                                   \
    const rf_kernels rf_apart_##isa_##_kernels = {.scratch_bytes = rf_cpu_##isa_##_scratch_bytes,  \
                                                  .pack_bytes = rf_cpu_##isa_##_pack_bytes,        \
                                                  RF_KERNELS_TO_WRAP(ENTRY)}
TABLE(portable);
#if defined(__x86_64__)
TABLE(avx2);
TABLE(avx512);
TABLE(avx512bf16);
TABLE(amx);
#endif
