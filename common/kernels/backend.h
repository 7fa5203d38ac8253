/* backend.h: which kernels a program runs, and on what memory.                 all local
 *
 * A backend is a table of kernels and a table of memory functions. `ref` is the definition (plain
 * loops; in f64 it is the truth of gradient checks, in f32 it fills what another backend lacks);
 * `cpu` is OpenMP and SIMD; `cuda`, in programs of `make CUDA=1`, is a GPU. Everything above this
 * floor passes backend memory around as `void *` and never reads or writes it: upload and download
 * do, and convert.
 *
 * Kernels and what moves memory may run later than they were called, one after the other in the
 * order of the calls. Until rf_ctx_sync, or rf_backend_wait of an event recorded behind the call,
 * the host changes nothing that an upload reads and reads nothing that rf_backend_download_later sets.
 */
#ifndef RF_KERNELS_BACKEND_H
#define RF_KERNELS_BACKEND_H

#include "common/base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* How one value lies in memory or in a file, little-endian. Kernels have operands of the first four;
 * f16 (IEEE 754 binary16) and int8 (with scales: quantize.h) occur in files only. */
typedef enum rf_type { RF_F32, RF_F64, RF_I32, RF_BF16, RF_F16, RF_I8, RF_N_TYPES } rf_type;

/* What an operand is. The backend states the type of each class; memory layout asks it. */
typedef enum rf_class {
    RF_ACTIVATION, /* what products read and give: normed states, queries, keys, values, outputs of
                      heads, gates, and the gradients of these that one product makes */
    RF_RESIDUAL,   /* the residual stream and its gradient: sums over all blocks */
    RF_PRODUCT,    /* gradients of queries, keys and values, and of norms' outputs: what one kernel
                      alone reads */
    RF_STATISTIC,  /* reciprocal norms, log-sum-exps, losses, probabilities, cos/sin tables */
    RF_WEIGHT,     /* matrices of parameters as products read them: the masters themselves where
                      both classes have one type, else copies (rf_model_prepare) */
    RF_MASTER,     /* master parameters, their gradients and Adam moments */
    RF_SUM,        /* f64 on all backends: sums over the trainable space */
    RF_WIRE,  /* bf16 on all backends: gradients on their way to other ranks, where asked for */
    RF_INDEX, /* i32: tokens, positions, targets, places, spans */
    RF_N_CLASSES
} rf_class;

/* How a matrix lies in memory that others are multiplied by. The packed formats are the backend's
 * own layouts, for weights that do not change (kernels.h: pack). */
typedef enum rf_layout {
    RF_ROWS,        /* row-major, class weight */
    RF_PACKED_F32,  /* the same values, in the order in which products read them */
    RF_PACKED_BF16, /* rounded to bf16 */
    RF_PACKED_INT8, /* 8 bits and a scale for each RF_QUANTIZE_GROUP elements of a row (quantize.h)
                     */
    RF_N_LAYOUTS
} rf_layout;

struct rf_kernels;   /* kernels.h */
struct rf_transport; /* link.h */
struct rf_ctx;

/* Stands behind everything that a context was given before it was recorded; 0: before anything. */
typedef int64_t rf_event;

/* The memory of a backend: what the functions rf_backend_... below do, without their checks. */
typedef struct rf_memory {
    bool is_host; /* ordinary memory: MPI may work on it in place */
    /* Of a device (NULL: the host): its name, and how many bytes of it are free. */
    const char *(*device)(const struct rf_ctx *);
    size_t (*available)(void);
    /* Make and end what the backend itself keeps with a context: ctx->state. */
    int (*open)(struct rf_ctx *, rf_error *);
    void (*close)(struct rf_ctx *);
    int (*alloc)(struct rf_ctx *, void **out, size_t bytes, rf_error *);
    void (*free)(struct rf_ctx *, void *memory);
    void (*upload)(struct rf_ctx *, void *dst, rf_type dst_type, const void *src, rf_type src_type,
                   int64_t n);
    /* as rf_backend_download_later */
    void (*download)(struct rf_ctx *, void *dst, rf_type dst_type, const void *src,
                     rf_type src_type, int64_t n);
    void (*copy)(struct rf_ctx *, void *dst, const void *src, size_t bytes);
    void (*convert)(struct rf_ctx *, void *dst, rf_type dst_type, const void *src, rf_type src_type,
                    int64_t n);
    void (*zero)(struct rf_ctx *, void *dst, size_t bytes);
    /* Optional, both or none: rf_backend_replay, rf_backend_keep. */
    bool (*replay)(struct rf_ctx *, const int64_t *key);
    void (*keep)(struct rf_ctx *);
    /* Waiting; NULL where everything is done when its call returns. sync: for everything; the first
     * error is in ctx->error. */
    rf_event (*record)(struct rf_ctx *);
    void (*wait)(struct rf_ctx *, rf_event);
    void (*sync)(struct rf_ctx *);
    /* Of memory that MPI cannot reach, its own way between ranks; NULL: there is none. */
    const struct rf_transport *transport;
} rf_memory;

/* What matrix products multiply. Sums are f32 or better in any case. bf16 rounds both operands of a
 * product; `cpu` then keeps activations in memory as bf16, `cuda` weights too (rf_backend_with). Packed int8
 * weights are not rounded. */
typedef enum rf_compute { RF_COMPUTE_F32, RF_COMPUTE_BF16 } rf_compute;

typedef struct rf_backend {
    const char *name; /* "ref32", "ref64", "cpu", "cuda" */
    const char *isa;  /* "portable", "avx2", "avx512", "avx512bf16", "amx"; "sm_90a" of cuda; "" of
                         ref. A run records it (contract, 4) */
    rf_type type[RF_N_CLASSES];
    const struct rf_kernels *kernels;
    const rf_memory *memory;
    rf_compute int8; /* what products of RF_PACKED_INT8 multiply: see rf_backend_compute */
} rf_backend;

/* Largest sizes that kernels of one program will see; from it scratch is sized once. */
typedef struct rf_limits {
    int64_t places;     /* N: queries of one forward pass */
    int64_t keys;       /* M: key places visible to one forward pass (= N in training) */
    int64_t width;      /* D */
    int64_t n_heads;    /* H */
    int64_t n_kv_heads; /* G */
    int64_t head_dim;   /* K */
    int64_t ffn;        /* F */
    int64_t vocab;      /* V */
    int64_t head_bytes; /* budget for the logits of one chunk of the head; 0: the backend's own */
    int64_t rank;       /* of adapters; 0: none */
    int backward;       /* 0: forward kernels only */
    rf_compute compute; /* "F32" means the backend's own type on ref64 */
    rf_layout weights;  /* of the matrices; a packed layout is for forward kernels only */
} rf_limits;

/* Is the backend cuda part of this program (make CUDA=1)? */
#if defined(RF_CUDA)
enum { RF_HAS_CUDA = 1 };
#else
enum { RF_HAS_CUDA = 0 };
#endif

/* First argument of every kernel. One per thread of control; not shared. */
typedef struct rf_ctx {
    const rf_backend *backend;
    int n_threads;
    rf_limits limits;
    void *scratch; /* backend memory, owned */
    size_t scratch_bytes;
    void *state;    /* the backend's own, between its open and close */
    rf_error error; /* the first asynchronous error; rf_ctx_sync reports it */
} rf_ctx;

/* The backend of that name ("cpu", "cuda", "ref32", "ref64", for tests "apart"); for NULL, "" or
 * "auto" what RF_BACKEND names, else the best of this machine: cuda where the program has it and
 * finds a GPU that it can use, else cpu. A backend that is named is never replaced: cuda without
 * such a GPU is an error. RF_ISA (portable, avx2, avx512, avx512bf16, amx) chooses the instruction
 * set of `cpu` and `apart`; one that the machine or its operating system lacks is an error.
 */
RF_MUST_CHECK int rf_backend_choose(const rf_backend **out, const char *name, rf_error *err);
/* The number of this rank among those of its host: of several devices a backend takes the one of this
 * number, counted round, where RF_DEVICE (0 is the first) names no other. Before anything else of a
 * backend; 0 where nobody says so. */
void rf_backend_set_seat(int seat);
int rf_backend_seat(void);
/* The same backend with the types of its classes for products of `compute`; contexts have it so. */
const rf_backend *rf_backend_with(const rf_backend *backend, rf_compute compute);
/* What a context for matrices of this layout is to compute in: bf16 for RF_PACKED_BF16; for RF_PACKED_INT8
 * what the backend is made for (cuda: bf16, the others f32); else `compute`. */
rf_compute rf_backend_compute(const rf_backend *backend, rf_layout weights, rf_compute compute);
/* "cpu (avx512), 2 threads; CPU features: ..." on one line; a device's name behind the instruction
 * set; of cpu where cuda was looked for and not found, why. */
void rf_backend_describe(const rf_ctx *ctx, char *text, size_t bytes);

/* *n = what OMP_NUM_THREADS asks for, 0: it is not set. An error where it is no number of threads. */
RF_MUST_CHECK int rf_backend_threads(int *n, rf_error *err);
/* A context with scratch for `limits`; its backend is rf_backend_with of limits->compute. n_threads
 * 0: OMP_NUM_THREADS or the cores this process may use. Caller frees with rf_ctx_free. */
RF_MUST_CHECK int rf_ctx_new(rf_ctx **out, const rf_backend *backend, int n_threads,
                             const rf_limits *limits, rf_error *err);
void rf_ctx_free(rf_ctx *ctx); /* NULL is fine */
/* Scratch bytes that rf_ctx_new would take; 0 where it would refuse the arguments. */
size_t rf_ctx_scratch_bytes(const rf_backend *backend, int n_threads, const rf_limits *limits);
/* Waits for everything that ctx was given and returns the first asynchronous error. */
RF_MUST_CHECK int rf_ctx_sync(rf_ctx *ctx, rf_error *err);

/* "rows", "f32", "bf16", "int8", and back: RF_N_LAYOUTS for another name. */
const char *rf_layout_name(rf_layout layout);
rf_layout rf_layout_find(const char *name);

size_t rf_type_bytes(rf_type type);
/* "f32", "f64", "i32", "bf16", "f16", "int8", and back: RF_N_TYPES for another name. */
const char *rf_type_name(rf_type type);
rf_type rf_type_find(const char *name);
/* Bytes of n elements of a class on the context's backend. */
size_t rf_backend_bytes(const rf_backend *backend, rf_class cls, int64_t n);
/* Address of element i of an operand of that class. */
void *rf_backend_at(const rf_backend *backend, rf_class cls, const void *base, int64_t i);

/* Bytes of a device that are free now; 0: the backend's memory is the host's. */
size_t rf_backend_available(const rf_backend *backend);
/* Backend memory: 64-byte aligned, cleared (touched, so that a later step meets no page fault).
 * From 4 MiB on: in huge pages where the system allows, touched by all threads in turn. */
RF_MUST_CHECK int rf_backend_alloc(void **out, rf_ctx *ctx, size_t bytes, rf_error *err);
void rf_backend_free(rf_ctx *ctx, void *memory); /* NULL is fine */
/* Host to backend and back, n elements, converting between the host type (RF_F32 or RF_F64 for real
 * classes, RF_I32 for RF_INDEX) and the class's own (to bf16: to nearest, ties to even). */
void rf_backend_upload(rf_ctx *ctx, void *dst, rf_class cls, const void *src, rf_type host,
                       int64_t n);
/* Waits, for this and all that ctx was given before: dst is there when it returns. */
void rf_backend_download(rf_ctx *ctx, void *dst, rf_type host, const void *src, rf_class cls,
                         int64_t n);
/* Does not wait; several small ones are one copy on a device. */
void rf_backend_download_later(rf_ctx *ctx, void *dst, rf_type host, const void *src, rf_class cls,
                               int64_t n);
/* Within backend memory; n elements. The regions do not overlap; convert goes from one class to
 * another and rounds as an upload does. */
void rf_backend_copy(rf_ctx *ctx, void *dst, const void *src, rf_class cls, int64_t n);
void rf_backend_convert(rf_ctx *ctx, void *dst, rf_class to, const void *src, rf_class from,
                        int64_t n);
void rf_backend_zero(rf_ctx *ctx, void *dst, rf_class cls, int64_t n);
/* A series of kernels that is called again and again with the same arguments costs a device less when it
 * is given as a whole. The caller names the series by a key; with another key anything may differ. True:
 * the series of this key was given again, all of it. False: the caller calls its kernels (nothing else:
 * no memory is moved), then rf_backend_keep. Backends that have no use for it always answer false. */
enum { RF_SERIES_KEY = 6 };
bool rf_backend_replay(rf_ctx *ctx, const int64_t key[RF_SERIES_KEY]);
void rf_backend_keep(rf_ctx *ctx);
/* An event behind all that ctx was given so far, and waiting for it. Errors wait for rf_ctx_sync. */
rf_event rf_backend_record(rf_ctx *ctx);
void rf_backend_wait(rf_ctx *ctx, rf_event event);

#endif
