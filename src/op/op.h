/* SPDX-License-Identifier: MIT */
/* What the operations share: the context, weights handles, jobs, and the layout of a workspace.
 * All validation, memory and threads live in this room; kernels below know of none of them. */
#ifndef GQMM_OP_OP_H
#define GQMM_OP_OP_H

#include "base/convert.h"
#include "base/memory.h"
#include "base/num.h"
#include "base/status.h"
#include "gqmm.h"
#include "kernel/kernel.h"
#include "op/job.h"

struct gqmm_weights {
    gqmm_allocator memory;
    const gqmm_format_info *format;
    const gqmm_kernel *kernel; /* on the CPU */
    const void *served_by;     /* on a device: what it has for the format's family */
    int32_t isa;
    int64_t n_experts, n_rows, n_cols;
    const uint8_t *plane[3];
    int64_t row_stride[3], expert_stride[3];
    const float *global;
    int64_t global_stride;
};

/* Expert e as kernels see it. */
gqmm_matrix gqmm_expert(const gqmm_weights *w, int64_t e);

enum { GQMM_MAX_OP_STATE = 2048 };

struct gqmm_device_ops;

struct gqmm_context {
    gqmm_allocator memory;
    const struct gqmm_device_ops *device; /* NULL: the CPU */
    void *device_state;
    int32_t device_index;
    int32_t n_threads;
    int32_t max_isa;
    void (*parallel_for)(void *user, int32_t n_tasks, void (*task)(void *arg, int32_t i),
                         void *arg);
    void *parallel_user;
    struct gqmm_pool *pool; /* NULL with parallel_for or one thread */

    uint8_t *scratch; /* workspace of calls that bring none */
    size_t scratch_bytes;

    /* The call in flight. An operation's own state lies here, so that nothing is allocated. */
    gqmm_job job;
    gqmm_weights dense; /* qmm: the chosen expert alone */
    _Alignas(64) uint8_t state[GQMM_MAX_OP_STATE];

    /* gqmm_enter(): threads of the caller that meet here. */
    atomic_int arrived;
    atomic_uint meetings;
    gqmm_status entered_status;
    gqmm_error entered_error;

    char explain[240];
};

/* ---- workspace: one pass of take() sizes it (base NULL), the same pass then hands it out */

typedef struct gqmm_layout {
    uint8_t *base;
    size_t used;
    bool overflow;
} gqmm_layout;

/* n items of `size` bytes on a cache line of their own. */
void *gqmm_take(gqmm_layout *l, int64_t n, size_t size);

/* Sizes a call's workspace with take_all (*bytes), and when `run` is set lays it out in `given`
 * (NOMEM if too small or not on 64 bytes) or, without one, in the context's scratch, grown when
 * needed. */
gqmm_status gqmm_lay_out(gqmm_context *ctx, void (*take_all)(void *state, gqmm_layout *l),
                         void *state, bool run, void *given, size_t given_bytes, size_t *bytes,
                         gqmm_error *err);

/* ---- one operation: checks and lays out (no writes to outputs), then is a job of phases */

typedef struct gqmm_op {
    const char *name;
    size_t desc_bytes; /* smallest struct_size of its descriptor */
    /* Checks desc. With job NULL only *bytes is wanted and data pointers may be NULL; otherwise
     * fills ctx->state, lays out the workspace and sets up the job. On a context with a device the
     * work is enqueued there instead, and what lies in its memory is not looked at. */
    gqmm_status (*prepare)(gqmm_context *ctx, const void *desc, gqmm_job *job, size_t *bytes,
                           gqmm_error *err);
} gqmm_op;

extern const gqmm_op gqmm_op_gather, gqmm_op_dense, gqmm_op_moe, gqmm_op_embed, gqmm_op_dequantize,
    gqmm_op_quantize, gqmm_op_repack;

gqmm_status gqmm_run(gqmm_context *ctx, const gqmm_op *op, const void *desc, gqmm_error *err);

/* ---- checks that several operations need */

/* "y_type 7 is none of GQMM_F32, GQMM_F16, GQMM_BF16" */
gqmm_status gqmm_check_type(const char *what, int32_t type, gqmm_error *err);
gqmm_status gqmm_check_precision(int32_t precision, gqmm_error *err);
/* The handle is there and of a context on the same kind of device. */
gqmm_status gqmm_check_handle(const gqmm_context *ctx, const char *name, const gqmm_weights *w,
                              gqmm_error *err);

/* n rows of `cols` elements every `stride` elements, at p. */
typedef struct gqmm_span {
    const char *name;
    const void *p;
    int64_t n, cols, stride;
    int32_t type;
} gqmm_span;

/* Resolves a descriptor's stride: 0 is dense, -1 a true 0 where `broadcast` allows it. Checks that
 * the rows do not overlap when they are written (not broadcast). */
gqmm_status gqmm_check_stride(const char *name, int64_t *stride, int64_t cols, bool broadcast,
                              gqmm_error *err);
/* Ids and single floats. */
gqmm_status gqmm_check_aligned(const char *name, const void *p, gqmm_error *err);
/* The pointer is there if it is needed, its bytes fit in 2^63, elements are aligned. */
gqmm_status gqmm_check_span(const gqmm_span *s, gqmm_error *err);
gqmm_status gqmm_check_disjoint(const gqmm_span *a, const gqmm_span *b, gqmm_error *err);

#endif
