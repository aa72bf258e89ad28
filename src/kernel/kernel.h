/* SPDX-License-Identifier: MIT */
/* The contract every kernel signs.
 *
 * Kernels are void and reentrant, allocate nothing, read nothing outside their operands (not one
 * byte past the last block of the last row) and take any alignment of weights. All checking
 * happened in src/op. A row of the result does not depend on m, n0, n1 or which other rows are
 * computed with it: that is what makes results independent of threads and of how T is split. */
#ifndef GQMM_KERNEL_KERNEL_H
#define GQMM_KERNEL_KERNEL_H

#include "format/format.h"
#include "kernel/act.h"

/* ISA rooms from worst to best. */
enum {
    GQMM_ISA_SCALAR,
    GQMM_ISA_AVX2,
    GQMM_ISA_AVX512VNNI,
    GQMM_ISA_NEON,
    GQMM_ISA_NEON_I8MM,
    GQMM_ISA_SM80, /* the paths of a CUDA device: never those of a CPU context */
    GQMM_ISA_SM90,
    GQMM_ISA_COUNT
};

/* One expert. */
typedef struct gqmm_matrix {
    const gqmm_format_info *format;
    const uint8_t *plane[3];
    int64_t stride[3]; /* bytes from stored row to stored row, may be negative */
    float global;      /* multiplies every scale; 1 for formats without a global scale */
} gqmm_matrix;

/* Of f32, f16 and bf16, whose block is one element and whose row therefore is an array. */
static inline int32_t gqmm_element_type(const gqmm_format_info *f)
{
    return f->pub.gguf_type == 0 ? GQMM_F32 : f->pub.gguf_type == 1 ? GQMM_F16 : GQMM_BF16;
}

/* m activation rows times stored rows (transpose) or columns (no transpose) [n0, n1) of w:
 *     y[i][n] = sum over k of W[n, k] * x[i][k]
 * n counts from the start of y[i]. Without transpose, n0 is a multiple of the block. */
typedef struct gqmm_product {
    const gqmm_matrix *w;
    int64_t k, n0, n1, m;
    float *const *y;
    const float *const *x;    /* exact: m rows of k numbers */
    const gqmm_act *const *a; /* int8: m rows of gqmm_act_blocks(k) blocks */
    /* Where the stored rows that this worker needs next start in each plane: a hint for
     * prefetching, NULL where nothing is known. */
    const uint8_t *next[3];
} gqmm_product;

/* What a room does to rows between products, see rows.h. */
typedef struct gqmm_row_fns {
    void (*quantize)(gqmm_act *a, const float *x, int64_t k);
    /* h[i] = silu(gate[i]) * up[i]; y[i] += factor * x[i] */
    void (*swiglu)(float *restrict h, const float *restrict gate, const float *restrict up,
                   int64_t n);
    void (*add)(float *restrict y, float factor, const float *restrict x, int64_t n);
} gqmm_row_fns;

typedef struct gqmm_kernel_fns {
    /* w[i] = stored row's weights k0 + i, i < n; k0 and n are multiples of the block. */
    void (*dequantize)(float *w, const gqmm_matrix *m, int64_t row, int64_t k0, int64_t n);
    void (*qmm)(const gqmm_product *p);      /* float activations */
    void (*qmm_int8)(const gqmm_product *p); /* quantised activations */
    void (*qmm_n)(const gqmm_product *p);    /* float activations, no transpose */
    const gqmm_row_fns *rows;
} gqmm_kernel_fns;

/* One row of kernels.def. */
typedef struct gqmm_kernel {
    const char *family; /* a format family, or "any" */
    int32_t isa;
    const gqmm_kernel_fns *fns; /* NULL: a row of other machines than this build's */
} gqmm_kernel;

extern const gqmm_kernel gqmm_kernels[];
extern const int32_t gqmm_n_kernels;

#define GQMM_KERNEL(family, isa, ISA) extern const gqmm_kernel_fns gqmm_##family##_##isa;
#include "kernel/kernels.def"

/* The last row for the family whose ISA is at most max_isa and runs here. Pure but for the CPU. */
const gqmm_kernel *gqmm_kernel_find(const char *family, int32_t max_isa);

const char *gqmm_isa_name(int32_t isa);
int32_t gqmm_isa_by_name(const char *name); /* -1 if unknown */
bool gqmm_isa_runs(int32_t isa);
int32_t gqmm_isa_best(void);

#endif
