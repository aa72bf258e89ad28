// SPDX-License-Identifier: MIT
// Rounding rows to the formats whose quantiser is `plain`: the definitions of src/format, one
// thread to a block. Compiled with -fmad=false and without fast-math, so that the bytes are those
// of the CPU, which fuses nothing and divides exactly.
//
// The elements of a thread block's weight blocks come to shared memory first and their bytes leave
// through it, so that memory is read and written in order whatever the layout of a block.
#include <math.h>
#include <stdint.h>

#include "base/num.h"
#include "format/affine.h"
#include "format/float.h"
#include "format/int4.h"
#include "format/mlx_fp.h"
#include "format/mxfp4.h"
#include "format/q4_0.h"
#include "format/q4_1.h"
#include "format/q5_0.h"
#include "format/q5_1.h"
#include "format/q8_0.h"
#include "kernel/cuda/launch.cuh"

extern "C" {
#include "format/format.h"
}

namespace gqmm
{
namespace
{

constexpr int THREADS = 128;
constexpr int ELEMENTS = 4096;   // of a thread block: 128 weight blocks of 32
constexpr int MOST_BLOCKS = 256; // weight blocks of 16

struct round_args {
    const uint8_t *x;
    int64_t x_row; // elements
    int64_t blocks, blocks_of_row;
    uint8_t *plane[3];
    int64_t row_stride[3];
    const float *global;
    int32_t x_type, scale_type;
    int32_t group, group_log2; // elements of a weight block, a power of two
    int32_t bytes[3], n_planes;
};

__device__ __forceinline__ float load_x(const round_args &a, int64_t i)
{
    return gqmm_load_float(a.x + i * (a.x_type == GQMM_F32 ? 4 : 2), a.x_type);
}

// ---- one block of each format

template <int BITS> struct affine {
    static __device__ void quantize(uint8_t *const p[3], const float *x, const round_args &a)
    {
        gqmm_affine_quantize(p, x, BITS, a.group, a.scale_type);
    }
};

struct int4 {
    static __device__ void quantize(uint8_t *const p[3], const float *x, const round_args &a)
    {
        gqmm_int4_quantize(p, x, a.group);
    }
};

#define PLAIN_plain(token) \
    struct token { \
        static __device__ void quantize(uint8_t *const p[3], const float *x, const round_args &) \
        { \
            gqmm_##token##_quantize(p[0], x); \
        } \
    };
#define PLAIN_search(token)
#define GQMM_BLOCK(token, gguf, block, group, bytes, offset, quantiser, summary) \
    PLAIN_##quantiser(token)
#define GQMM_MLX_FP(token, group, bytes, kind, global_, summary) \
    struct token { \
        static __device__ void quantize(uint8_t *const p[3], const float *x, const round_args &a) \
        { \
            gqmm_##token##_quantize(p, x, a.global ? *a.global : 0.0f, a.x_type); \
        } \
    };
#include "format/formats.def"

// ---- kernels

template <class F>
__global__ void __launch_bounds__(THREADS) round_kernel(const __grid_constant__ round_args a)
{
    // A group's elements begin a bank further than those of the group before.
    __shared__ float x[ELEMENTS + MOST_BLOCKS];
    __shared__ uint8_t out[ELEMENTS * 9 / 8 + 8 * ELEMENTS / 32];
    __shared__ int64_t row_of[MOST_BLOCKS], block_of[MOST_BLOCKS];
    const int count = ELEMENTS >> a.group_log2;
    for (int64_t b0 = (int64_t)blockIdx.x * count; b0 < a.blocks;
         b0 += (int64_t)gridDim.x * count) {
        const int n = a.blocks - b0 < count ? (int)(a.blocks - b0) : count;
        for (int i = (int)threadIdx.x; i < n; i += THREADS) {
            row_of[i] = (b0 + i) / a.blocks_of_row;
            block_of[i] = (b0 + i) % a.blocks_of_row;
        }
        __syncthreads();
        for (int i = (int)threadIdx.x; i < n * a.group; i += THREADS) {
            const int block = i >> a.group_log2, k = i & (a.group - 1);
            x[i + block] = load_x(a, row_of[block] * a.x_row + block_of[block] * a.group + k);
        }
        __syncthreads();
        uint8_t *const second = out + n * a.bytes[0], *const third = second + n * a.bytes[1];
        for (int i = (int)threadIdx.x; i < n; i += THREADS) {
            uint8_t *const p[3] = {out + i * a.bytes[0], second + i * a.bytes[1],
                                   third + i * a.bytes[2]};
            F::quantize(p, x + i * (a.group + 1), a);
        }
        __syncthreads();
        for (int plane = 0, from = 0; plane < a.n_planes; from += n * a.bytes[plane++]) {
            const int bytes = a.bytes[plane];
            for (int i = (int)threadIdx.x; i < n * bytes; i += THREADS) {
                const int block = i / bytes;
                a.plane[plane][row_of[block] * a.row_stride[plane] + block_of[block] * bytes +
                               i % bytes] = out[from + i];
            }
        }
        __syncthreads();
    }
}

// f32, f16, bf16: elements to elements.
template <int TYPE>
__global__ void __launch_bounds__(THREADS) convert_kernel(const __grid_constant__ round_args a)
{
    constexpr int SIZE = TYPE == GQMM_F32 ? 4 : 2;
    const int64_t threads = (int64_t)gridDim.x * THREADS;
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < a.blocks; i += threads) {
        const int64_t row = i / a.blocks_of_row, k = i % a.blocks_of_row;
        uint8_t *p = a.plane[0] + row * a.row_stride[0] + k * SIZE;
        const float v = load_x(a, row * a.x_row + k);
        if ((uintptr_t)p % SIZE != 0)
            gqmm_store_float(p, v, TYPE);
        else if (TYPE == GQMM_F32)
            *(float *)p = v;
        else
            *(uint16_t *)p = TYPE == GQMM_F16 ? gqmm_f32_to_f16(v) : gqmm_f32_to_bf16(v);
    }
}

typedef void (*round_function)(const round_args);

// The rows of the table of formats, in its order.
const round_function functions[] = {
#define ROUND_plain(token) round_kernel<token>
#define ROUND_search(token) nullptr
#define GQMM_BLOCK(token, gguf, block, group, bytes, offset, quantiser, summary) \
    ROUND_##quantiser(token),
#define GQMM_AFFINE(bits, group) \
    round_kernel<affine<bits>>, round_kernel<affine<bits>>, round_kernel<affine<bits>>,
#define GQMM_MLX_FP(token, group, bytes, kind, global, summary) round_kernel<token>,
#define GQMM_INT4(group) round_kernel<int4>,
#define CONVERT_f32 GQMM_F32
#define CONVERT_f16 GQMM_F16
#define CONVERT_bf16 GQMM_BF16
#define GQMM_FLOAT(token, gguf, bytes, summary) convert_kernel<CONVERT_##token>,
#include "format/formats.def"
};
constexpr int32_t N_FORMATS = (int32_t)(sizeof functions / sizeof functions[0]);

} // namespace
} // namespace gqmm

using namespace gqmm;

int gqmm_cuda_can_quantize(int32_t format)
{
    return format >= 0 && format < N_FORMATS && functions[format];
}

int gqmm_cuda_round(const gqmm_cuda_quantize *q, gqmm_stream s)
{
    if (!gqmm_cuda_can_quantize(q->format))
        return (int)cudaErrorInvalidValue;
    const gqmm_format_info *f = &gqmm_formats[q->format];
    const int block = f->pub.block_elems;
    round_args a = {};
    a.x = (const uint8_t *)q->x;
    a.x_row = q->x_row;
    a.blocks_of_row = q->n_cols / block;
    a.blocks = q->n_rows * a.blocks_of_row;
    a.global = q->global;
    a.x_type = q->x_type;
    a.scale_type = f->scale_type;
    a.group = block;
    while (block >> a.group_log2 > 1)
        a.group_log2++;
    a.n_planes = f->pub.n_planes;
    for (int i = 0; i < a.n_planes; i++) {
        a.plane[i] = q->plane[i];
        a.row_stride[i] = q->row_stride[i];
        a.bytes[i] = f->pub.plane_bytes[i];
    }
    if (a.blocks == 0)
        return 0;
    const int64_t each = block == 1 ? 4 * THREADS : ELEMENTS / block;
    const int64_t grid = (a.blocks + each - 1) / each;
    return launch(functions[q->format], dim3((unsigned)(grid < 1 << 30 ? grid : 1 << 30)),
                  dim3(THREADS), 0, s, GQMM_CUDA_SM80, a);
}
