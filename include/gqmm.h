/* SPDX-License-Identifier: MIT */
/*
 * gqmm - gather quantized matmul: the matrix products of quantised mixture-of-experts models.
 *
 *     y[p] = W[rhs[p]] . x[lhs[p]]         one call for thousands of (token, expert) pairs
 *
 * Letters used everywhere, in code and prose:
 *   E experts   N output rows of one expert   K reduction length   T tokens
 *   S slots per token (experts used)   P pairs (T * S)   M activation rows of one pair
 *
 * Layout   Matrices are row-major. Strides of activations count elements, strides of weights count
 *          bytes; a stride of 0 in a descriptor means "dense" unless its comment says otherwise.
 *          Activations, ids and floats need the alignment of their element, weights need none.
 * Structs  Every descriptor starts with struct_size; set it to sizeof and zero the rest
 *          (GQMM_INIT does both). Fields added later are zero for older callers.
 * Errors   Every fallible function returns a status and takes a gqmm_error last, which may be NULL.
 *          Bad arguments are found before the first write: on error the outputs are untouched.
 *          The library never prints, aborts, exits or reads the environment.
 * Threads  A context serves one call at a time; weights may be shared by contexts. Work is split
 *          by shape and never by thread count, so the bits of a result do not depend on it.
 * Formats, ISAs and devices are strings ("q4_k", "scalar", "cpu"), enumerable below.
 */
#ifndef GQMM_H
#define GQMM_H

#include <stddef.h>
#include <stdint.h>

#define GQMM_VERSION_MAJOR 0
#define GQMM_VERSION_MINOR 1
#define GQMM_VERSION_PATCH 0

#if defined(_WIN32)
#    define GQMM_API
#else
#    define GQMM_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ------------------------------------------------------------------ status and errors */

typedef int32_t gqmm_status;
enum {
    GQMM_OK = 0,
    GQMM_E_ARG = 1,         /* an argument is NULL, out of range or of an unknown name */
    GQMM_E_SHAPE = 2,       /* sizes or strides do not fit together */
    GQMM_E_INDEX = 3,       /* an expert, row or token id is outside its range */
    GQMM_E_NOMEM = 4,       /* memory could not be had, or the given workspace is too small */
    GQMM_E_UNSUPPORTED = 5, /* valid, but not built for this device or format */
    GQMM_E_FORMAT = 6,      /* a file's bytes break its format; err->offset says where */
    GQMM_E_IO = 7,          /* the operating system refused; the text carries its reason */
    GQMM_E_DEVICE = 8       /* the accelerator failed; destroy the context */
};

/* Filled on failure, untouched on success. Owned by the caller, so no thread shares it. */
typedef struct gqmm_error {
    int32_t status;
    int32_t reserved;
    uint64_t offset; /* byte in the file, for readers; else 0 */
    char text[240];  /* one sentence, no newline */
} gqmm_error;

/* "GQMM_E_SHAPE" for 2; "unknown status" for a number that is none. */
GQMM_API const char *gqmm_status_name(gqmm_status status);

/* "0.1.0", of the library that is loaded (the macros are of the header). */
GQMM_API const char *gqmm_version(void);

/* Zeroes a descriptor and stamps its size:  gqmm_moe d; GQMM_INIT(d); */
#define GQMM_INIT(d) \
    do { \
        unsigned char *gqmm_p_ = (unsigned char *)&(d); \
        for (size_t gqmm_i_ = 0; gqmm_i_ < sizeof(d); gqmm_i_++) \
            gqmm_p_[gqmm_i_] = 0; \
        (d).struct_size = (uint32_t)sizeof(d); \
    } while (0)

/* ------------------------------------------------------------------ enumerations in ABI position
 */

/* Element types of activations and outputs. */
enum { GQMM_F32 = 0, GQMM_F16 = 1, GQMM_BF16 = 2 };

/* How activations enter the product.
 *   EXACT  float activations, fp32 accumulation, one rounding at the output
 *   INT8   activations rounded to int8 in blocks of 32 along K, fp32 scale amax/127, integer sums
 *          inside a block. On Gaussian activations the normalised mean square error against
 *          EXACT stays below 1e-4 for a product and below 5e-4 for gqmm_moe, which rounds
 *          twice. A block that holds a NaN or an infinity gives NaN. Weights of the formats
 *          without integer codes (f32, f16, bf16, mlx_mxfp8) stay float. A CUDA context has
 *          blocks of 128, and takes some calls for EXACT: see the section on devices. */
enum { GQMM_EXACT = 0, GQMM_INT8 = 1 };

/* Router scores: softmax over the chosen logits, or a sigmoid of each. */
enum { GQMM_SOFTMAX = 0, GQMM_SIGMOID = 1 };

/* Operations, for gqmm_workspace_size() and gqmm_enter(). */
enum {
    GQMM_OP_GATHER_QMM = 1,
    GQMM_OP_QMM = 2,
    GQMM_OP_MOE = 3,
    GQMM_OP_EMBED = 4,
    GQMM_OP_DEQUANTIZE = 5,
    GQMM_OP_QUANTIZE = 6,
    GQMM_OP_REPACK = 7
};

/* ------------------------------------------------------------------ formats and machine */

/* What a weight format is. Source of every number: src/format/formats.def and its headers. */
typedef struct gqmm_format {
    uint32_t struct_size;
    int32_t gguf_type;      /* ggml type id, -1 where GGUF has none */
    const char *name;       /* "q4_k", "affine4_g64_bf16", "mlx_nvfp4", "int4_g32", "f16" */
    const char *summary;    /* one line of prose */
    int32_t block_elems;    /* K must be a multiple of this */
    int32_t group_elems;    /* elements that share one scale */
    int32_t n_planes;       /* 1 (blocks), 2 (codes, scales) or 3 (codes, scales, biases) */
    int32_t plane_bytes[3]; /* bytes of one block in each plane */
    int32_t can_quantize;   /* gqmm_quantize() knows this format */
    int32_t takes_importance;
    int32_t has_global_scale; /* one float per expert multiplies the scales (mlx_nvfp4) */
} gqmm_format;

/* The i-th format, 0 <= i < gqmm_format_count(); NULL outside. Static storage, never freed. */
GQMM_API int32_t gqmm_format_count(void);
GQMM_API const gqmm_format *gqmm_format_at(int32_t i);

/* By name, or by ggml type id; NULL if there is none. */
GQMM_API const gqmm_format *gqmm_format_find(const char *name);
GQMM_API const gqmm_format *gqmm_format_find_gguf(int32_t gguf_type);

/* Bytes of one row of K weights in a plane; -1 if K is no multiple of block_elems, is negative,
 * or the product passes 2^63. */
GQMM_API int64_t gqmm_format_row_bytes(const gqmm_format *format, int32_t plane, int64_t k);

/* ISA rooms from worst to best: "scalar", ... ; NULL past the end. */
GQMM_API const char *gqmm_isa_at(int32_t i);
/* 1 if this machine can run the room, else 0. */
GQMM_API int32_t gqmm_isa_available(const char *isa);
/* The room that serves this format when `isa` (NULL: the best available) is asked for:
 * the best one not above it that has a kernel. NULL for unknown names. */
GQMM_API const char *gqmm_kernel_isa(const char *format, const char *isa);
/* 1 if the table has a kernel of its own for exactly this (format, ISA), else 0. */
GQMM_API int32_t gqmm_kernel_exists(const char *format, const char *isa);

/* CPUs this process may use: the affinity mask, cut to the cgroup's CPU quota; at least 1. */
GQMM_API int32_t gqmm_default_threads(void);
/* Words such as "avx2 fma f16c avx512f ..." of the CPU this runs on; static storage. */
GQMM_API const char *gqmm_cpu_features(void);

/* ------------------------------------------------------------------ memory */

/* Where objects live. `alloc` returns memory of at least the alignment asked for, or NULL;
 * `release` gets the same size back. Calls may come from any thread that calls the library. */
typedef struct gqmm_allocator {
    void *(*alloc)(void *user, size_t size, size_t align);
    void (*release)(void *user, void *memory, size_t size);
    void *user;
} gqmm_allocator;

/* ------------------------------------------------------------------ context */

typedef struct gqmm_context gqmm_context;

typedef struct gqmm_context_desc {
    uint32_t struct_size;
    int32_t n_threads;  /* own pool, the calling thread included; 0: gqmm_default_threads() */
    const char *device; /* NULL or "cpu"; "cuda" or "cuda:1": see the section on devices */
    const char *isa;    /* NULL: best available; otherwise never use a room above this one */

    /* Memory of the context, its weights handles and scratch; NULL: malloc and free. Copied. */
    const gqmm_allocator *allocator;

    /* Threads of the caller in place of a pool: must call task(arg, i) once for each i in
     * [0, n_tasks), in any order, at once or one after another, and then return. With it,
     * n_threads says how many tasks to ask for. */
    void (*parallel_for)(void *user, int32_t n_tasks, void (*task)(void *arg, int32_t i),
                         void *arg);
    void *parallel_user;

    /* "cuda": the cudaStream_t that calls go to; NULL: a stream of the context's own. */
    void *stream;
} gqmm_context_desc;

/* desc may be NULL for all defaults. *out is NULL on failure. Pool threads spin for some
 * microseconds after a call, then sleep.
 * Errors: ARG (unknown isa or device, an allocator with a NULL member), NOMEM. */
GQMM_API gqmm_status gqmm_context_create(const gqmm_context_desc *desc, gqmm_context **out,
                                         gqmm_error *err);
/* Ends the pool and frees scratch. Destroy weights made with this context first. NULL is fine. */
GQMM_API void gqmm_context_destroy(gqmm_context *ctx);
GQMM_API int32_t gqmm_context_threads(const gqmm_context *ctx);
GQMM_API const char *gqmm_context_isa(const gqmm_context *ctx);

/* Runs task(arg, i) for i in [0, n_tasks) on the context's threads; returns when all are done.
 * For the small operations around the products. Not from inside a task. */
GQMM_API void gqmm_parallel_for(gqmm_context *ctx, int32_t n_tasks,
                                void (*task)(void *arg, int32_t i), void *arg);

/* ------------------------------------------------------------------ devices */

/* On a context of device "cuda" every operation is enqueued on its stream and returns at once: no
 * call waits, allocates (given a workspace) or uses the default stream, so calls may be captured in
 * a CUDA graph and replayed with other contents of the same buffers. What differs from the CPU:
 *
 * Memory   All pointers of descriptors (planes, global_scale, x, y, ids, weights, workspace ...)
 *          are memory that the device can reach, else ARG; descriptors are host memory.
 * Weights  of a quantised format, and a router's, may be read as soon as the kernel ahead on the
 *          stream has ended or lets its successor begin (programmatic dependent launch): it must
 *          have written them by then. gqmm_quantize() and gqmm_device_copy() have.
 * Ids      lie on the device, so a bad one cannot be refused: its rows become zero, and the next
 *          gqmm_synchronize() or gqmm_context_fault() reports GQMM_E_INDEX once.
 * EXACT    h of gqmm_moe is kept in x_type, and with more than 4096 pairs so is each slot's row of
 *          y until the sum. With bf16 activations and many columns per expert (sm_90: more than 4,
 *          and in q2_k, q3_k, q4_0, q4_1, q4_k, iq4, nvfp4, MLX's mxfp4, int4 and affine of 2 to 4
 *          bits any with more than 128 pairs) these rows are bf16 too, and weights pass through
 *          bf16, as in MLX and torch: scale, offset and scale * q + offset are each rounded by 2^-9
 *          of their size at most; where q are integers, scales from 2^31 and h from 2^91 on then
 *          overflow. gqmm_qmm() on sm_90 rounds and overflows so from 16 rows on. From 257 rows on
 *          (rows of weights at no multiple of 16 bytes: 65, or 128 of less than 2^22 weights; f32
 *          and f16: 512) it dequantises matrices first (sm_90), but for those of int4, affine of 2
 *          to 4 bits, q4_0, q2_k to q6_k, q8_0, mxfp4 and nvfp4: rounded once, 2 bytes a weight, in
 *          slices of 32 MiB of workspace.
 *          Where up to 128 pairs meet one expert each in the mean or fewer (q4_k: two), and weights
 *          are int4_g128, affine4_g64 or q4_k (sm_90), bf16 activations count as multiples of at
 *          most 2^-29 of the largest of 256 neighbours along K.
 * INT8     has kernels of its own on sm_90 where they pay: int4_g128, bf16 activations (and y, but
 *          of gqmm_moe), K (of gqmm_moe D and F) a multiple of 256, rows of codes at multiples of
 *          16 bytes, and 6 to 32 columns per expert in the mean. Blocks have 128 numbers along K,
 *          weights are exact, and gqmm_explain() says int8. All other calls are EXACT's.
 * Sizes    Up to 2^31 - 1 pairs times M, else SHAPE; with more than 128 pairs, or with many columns
 *          per expert, up to 5000 experts (sm_90: 12000), else UNSUPPORTED.
 * Threads  gqmm_enter() and gqmm_parallel_for() are of the CPU; gqmm_repack() too. The caller's
 *          current CUDA device is as before after every call.
 * Bits     The same input gives the same bits, run after run. They differ from the CPU's. */

/* "cpu", "cuda:0", "cuda:1", ... of this machine; NULL past the end. Static storage. */
GQMM_API const char *gqmm_device_at(int32_t i);
/* One line about a device ("NVIDIA H200, sm_90, 139.8 GiB, driver 13.0"), or why there is none of
 * its kind ("no CUDA driver on this machine"). At most `size` bytes with the final NUL; returns the
 * length that the whole line needs. */
GQMM_API size_t gqmm_device_text(const char *device, char *text, size_t size);

GQMM_API const char *gqmm_context_device(const gqmm_context *ctx); /* "cpu", "cuda:0" */
/* The stream of the calls that follow, and the present one. Errors: ARG (a CPU context). */
GQMM_API gqmm_status gqmm_context_set_stream(gqmm_context *ctx, void *stream, gqmm_error *err);
GQMM_API void *gqmm_context_stream(const gqmm_context *ctx);
/* Waits for the stream, then tells of bad ids and failures of the calls before. Errors: INDEX,
 * DEVICE. On a CPU context there is nothing to wait for. */
GQMM_API gqmm_status gqmm_synchronize(gqmm_context *ctx, gqmm_error *err);
/* Bad ids that calls which have ended met so far, without waiting; told once. Errors: INDEX. */
GQMM_API gqmm_status gqmm_context_fault(gqmm_context *ctx, gqmm_error *err);

/* Memory of the context's device (a CPU context: of its allocator), 256-byte aligned, and copies in
 * stream order between any two places. For programs that link no CUDA of their own.
 * Errors: NOMEM, DEVICE; of a copy ARG (no memory that CUDA knows). */
GQMM_API gqmm_status gqmm_device_alloc(gqmm_context *ctx, size_t bytes, void **out,
                                       gqmm_error *err);
GQMM_API void gqmm_device_free(gqmm_context *ctx, void *memory, size_t bytes);
GQMM_API gqmm_status gqmm_device_copy(gqmm_context *ctx, void *to, const void *from, size_t bytes,
                                      gqmm_error *err);

/* ------------------------------------------------------------------ weights */

/* A stack of E matrices of N rows and K columns, read where it lies; the bytes stay the caller's
 * and must outlive the handle. */
typedef struct gqmm_weights gqmm_weights;

typedef struct gqmm_weights_desc {
    uint32_t struct_size;
    uint32_t flags;           /* must be 0 */
    const char *format;       /* a name of gqmm_format_at() */
    int64_t n_experts;        /* E >= 1 */
    int64_t n_rows;           /* stored rows of one expert, >= 1 */
    int64_t n_cols;           /* weights in a stored row, a multiple of block_elems, >= 1 */
    const void *plane[3];     /* n_planes pointers, any alignment */
    int64_t row_stride[3];    /* bytes from row to row; 0: dense */
    int64_t expert_stride[3]; /* bytes from expert to expert; 0: n_rows * |row stride| */
    /* has_global_scale formats only: the tensor amax as MLX means it, one per expert with
     * stride 1, or one for all with stride 0; NULL: no global scale. mlx_nvfp4 weights are then
     * e2m1 * e4m3 * global_scale / (448 * 6). */
    const float *global_scale;
    int64_t global_scale_stride;
} gqmm_weights_desc;

/* Checks the description and chooses kernels once. Negative strides are allowed; |row_stride|
 * must be at least the row's bytes when n_rows > 1, else rows would overlap; expert strides are
 * free (0 experts apart is expressed by n_experts = 1).
 * Errors: ARG (NULL plane, unknown format, global_scale where the format has none),
 * SHAPE (n_cols no multiple of the block, sizes beyond 2^63), NOMEM. */
GQMM_API gqmm_status gqmm_weights_create(gqmm_context *ctx, const gqmm_weights_desc *desc,
                                         gqmm_weights **out, gqmm_error *err);
GQMM_API void gqmm_weights_destroy(gqmm_weights *w);
GQMM_API const gqmm_format *gqmm_weights_format(const gqmm_weights *w);
/* The room whose kernel serves these weights. */
GQMM_API const char *gqmm_weights_isa(const gqmm_weights *w);

/* ------------------------------------------------------------------ gather_qmm, qmm */

/*     y[p, m, n] = sum over k of  W[rhs[p], n, k] * x[lhs[p], m, k]        transpose = 1
 *     y[p, m, n] = sum over k of  W[rhs[p], k, n] * x[lhs[p], m, k]        transpose = 0
 *
 * MLX gather_qmm; with m = 1 ggml mul_mat_id. With transpose = 1 a stored row is one output
 * (N = n_rows, K = n_cols); with 0 a stored row is one k (K = n_rows, N = n_cols).
 *   y   [P, M, N]  written in full; from its first to its last element it must not meet x or ids
 *   x   [X, M, K]
 *   lhs [P]  0 <= id < X;  rhs [P]  0 <= id < E;  -1 in either: y[p] is zero. Repeats are fine.
 *            NULL means 0, 1, 2, ... ; then P must not exceed X (lhs) or E (rhs).
 * Errors: ARG, SHAPE, INDEX (the first bad id is named), NOMEM. */
typedef struct gqmm_gather {
    uint32_t struct_size;
    int32_t precision; /* GQMM_EXACT or GQMM_INT8 */
    const gqmm_weights *w;
    int32_t transpose; /* 1 or 0, see above */
    int32_t sorted;    /* a hint, never changes results */
    int64_t n_pairs;   /* P >= 0 */
    int64_t m;         /* M, 0 means 1 */
    int64_t n_x;       /* X, matrices of x */

    void *y;
    int32_t y_type;
    int32_t x_type;
    const void *x;
    /* Elements. 0: dense (row: N or K; pair: M rows). An x stride given as -1 means a true
     * stride of 0 (every row or every matrix is the same memory). */
    int64_t y_row_stride, y_pair_stride, x_row_stride, x_mat_stride;

    const int32_t *lhs;
    const int32_t *rhs;
    /* Elements; 0: 1. -1 means a true stride of 0 (one id for all pairs). */
    int64_t lhs_stride, rhs_stride;

    void *workspace; /* NULL: scratch of the context, grown when needed */
    size_t workspace_bytes;
} gqmm_gather;
GQMM_API gqmm_status gqmm_gather_qmm(gqmm_context *ctx, const gqmm_gather *op, gqmm_error *err);

/*     y[m, n] = sum over k of  W[n, k] * x[m, k]     (transpose = 1; W[k, n] with 0)
 * The dense product: expert `expert` of w for all M rows. M = 0 is valid.
 * Errors: ARG, SHAPE, INDEX, NOMEM. */
typedef struct gqmm_dense {
    uint32_t struct_size;
    int32_t precision;
    const gqmm_weights *w;
    int64_t expert;
    int32_t transpose;
    int32_t y_type;
    int64_t m;
    void *y;
    const void *x;
    int32_t x_type;
    int32_t reserved;
    int64_t y_row_stride, x_row_stride; /* elements; as in gqmm_gather */
    void *workspace;
    size_t workspace_bytes;
} gqmm_dense;
GQMM_API gqmm_status gqmm_qmm(gqmm_context *ctx, const gqmm_dense *op, gqmm_error *err);

/* ------------------------------------------------------------------ moe */

/* The feed-forward block of a mixture-of-experts layer, one call:
 *
 *     y[t] = sum over s of  weight[t, s] * Wdown[id[t, s]] . h        (+ shared expert)
 *     h    = silu(Wgate[id] . x[t]) * (Wup[id] . x[t])
 *     shared: sigmoid(shared_scale . x[t]) * Sdown . (silu(Sgate . x[t]) * (Sup . x[t]))
 *
 * Routing, one of two:
 *   router given   logits = router . x in fp32; the S largest win, ties to the lower id;
 *                  SOFTMAX: weights are the softmax over all E logits (renormalize = 1: divided
 *                  by their sum, which equals the softmax over the S chosen);
 *                  SIGMOID: weights are sigmoid(logit), chosen by sigmoid + router_bias;
 *                  all weights are then multiplied by routed_scale (0 means 1).
 *   router NULL    ids and weights are inputs; id -1 skips the slot.
 * gate, up [E, F, D], down [E, D, F]; up NULL: gate holds [E, 2F, D], gate rows first.
 * router [1, E, D]; shared_gate, shared_up [1, G, D], shared_down [1, D, G]; shared_scale [1, 1,
 * D]. Slots of one token are added in slot order in fp32, the shared expert last; one rounding at
 * y. h is kept in fp32 (EXACT) or requantised like x (INT8). The router always runs EXACT. Errors:
 * ARG, SHAPE, INDEX, NOMEM. */
typedef struct gqmm_moe_desc {
    uint32_t struct_size;
    int32_t precision;
    const gqmm_weights *gate, *up, *down;
    const gqmm_weights *router;
    const float *router_bias; /* [E] or NULL; SIGMOID only, else ARG */
    const gqmm_weights *shared_gate, *shared_up, *shared_down;
    const gqmm_weights *shared_scale; /* NULL: factor 1 */
    int64_t n_tokens;                 /* T >= 0 */
    int32_t n_slots;                  /* S, 1 <= S; S <= E with a router */
    int32_t scoring;                  /* GQMM_SOFTMAX or GQMM_SIGMOID */
    int32_t renormalize;
    float routed_scale;
    int32_t y_type, x_type;
    void *y;                            /* [T, D] */
    const void *x;                      /* [T, D] */
    int64_t y_row_stride, x_row_stride; /* elements; 0: dense */
    int32_t *ids;                       /* [T, S] dense; with a router: output, may be NULL */
    float *weights;                     /* [T, S] dense; likewise */
    void *workspace;
    size_t workspace_bytes;
} gqmm_moe_desc;
GQMM_API gqmm_status gqmm_moe(gqmm_context *ctx, const gqmm_moe_desc *op, gqmm_error *err);

/* ------------------------------------------------------------------ embed, dequantize, quantize */

/* y[t, :] = row ids[t] of expert 0 of w; -1 gives a zero row. Errors: ARG, SHAPE, INDEX. */
typedef struct gqmm_embed_desc {
    uint32_t struct_size;
    int32_t y_type;
    const gqmm_weights *w;
    int64_t n_ids;
    const int32_t *ids;
    int64_t ids_stride; /* elements; 0: 1, -1: one id for all */
    void *y;            /* [n_ids, K] */
    int64_t y_row_stride;
} gqmm_embed_desc;
GQMM_API gqmm_status gqmm_embed(gqmm_context *ctx, const gqmm_embed_desc *op, gqmm_error *err);

/* y[r, :] = stored row first_row + r, where rows count through the experts (expert * n_rows + row).
 * w = scale * q + offset in fp32, then one rounding to y_type. Errors: ARG, SHAPE, INDEX. */
typedef struct gqmm_dequantize_desc {
    uint32_t struct_size;
    int32_t y_type;
    const gqmm_weights *w;
    int64_t first_row, n_rows;
    void *y;
    int64_t y_row_stride;
} gqmm_dequantize_desc;
GQMM_API gqmm_status gqmm_dequantize(gqmm_context *ctx, const gqmm_dequantize_desc *op,
                                     gqmm_error *err);

/* Rounds rows of x to a format. GGUF bytes equal the gguf package's and MLX bytes equal MLX's
 * (CPU) where those have a quantiser; the K-quants and IQ4 formats search for their scales.
 *   importance   [K] or NULL, weight >= 0 of each column's squared error; used by formats with
 *                takes_importance, ARG for others
 *   global_scale mlx_nvfp4 only: the tensor amax to quantise with (one float), or NULL
 * Infinities and NaN in x give some code of the format, never a crash.
 * Errors: ARG, SHAPE, UNSUPPORTED (the format has no quantiser). */
typedef struct gqmm_quantize_desc {
    uint32_t struct_size;
    int32_t x_type;
    const char *format;
    const void *x;
    int64_t n_rows, n_cols;
    int64_t x_row_stride; /* elements; 0: dense */
    void *plane[3];
    int64_t row_stride[3]; /* bytes; 0: dense */
    const float *importance;
    const float *global_scale;
} gqmm_quantize_desc;
GQMM_API gqmm_status gqmm_quantize(gqmm_context *ctx, const gqmm_quantize_desc *op,
                                   gqmm_error *err);

/* Rewrites GGUF blocks as MLX affine planes of the same shape, all experts, dense.
 * The target must keep the source's groups: q4_0, q4_1, q4_k -> affine4_g32_*, q5_0, q5_1, q5_k ->
 * affine5_g32_*, q8_0 -> affine8_g32_* (codes are kept; scale and bias are rounded to the plane's
 * type: exact in f32, and in f16 for the formats of 32-weight blocks); q6_k -> affine8_g32_*
 * (two groups of 16 are requantised as one of 32).
 * Errors: ARG, SHAPE, UNSUPPORTED (no such pair of formats). */
typedef struct gqmm_repack_desc {
    uint32_t struct_size;
    int32_t reserved;
    const gqmm_weights *w;
    const char *format;
    void *plane[3];
} gqmm_repack_desc;
GQMM_API gqmm_status gqmm_repack(gqmm_context *ctx, const gqmm_repack_desc *op, gqmm_error *err);

/* ------------------------------------------------------------------ workspace, caller's threads */

/* Bytes of workspace (alignment 64) with which the call allocates nothing. `desc` is the
 * operation's descriptor; its data pointers are not followed and may be NULL. Operations without a
 * workspace field need 0. */
GQMM_API gqmm_status gqmm_workspace_size(gqmm_context *ctx, int32_t op, const void *desc,
                                         size_t *bytes, gqmm_error *err);

/* One operation entered by nth threads of the caller together: each calls with the same ctx, op,
 * desc and nth and its own ith in [0, nth), and all return the same status. The context's own
 * threads stay asleep. Equal bits to the plain call. */
GQMM_API gqmm_status gqmm_enter(gqmm_context *ctx, int32_t op, const void *desc, int32_t ith,
                                int32_t nth, gqmm_error *err);

/* One line on how the last call on this context ran: operation, format, ISA, precision, pairs,
 * experts touched, scratch bytes. At most `size` bytes with the final NUL; returns the length
 * that the whole line needs. */
GQMM_API size_t gqmm_explain(const gqmm_context *ctx, char *text, size_t size);

#ifdef __cplusplus
}
#endif
#endif
