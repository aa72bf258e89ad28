// SPDX-License-Identifier: MIT
// Activations rounded to int8, in the order in which the int8 product's operands meet them.
#ifndef GQMM_KERNEL_CUDA_WIDE_INT8_X_CUH
#define GQMM_KERNEL_CUDA_WIDE_INT8_X_CUH

#include "kernel/cuda.h"
#include "kernel/cuda/launch.cuh"
#include "kernel/cuda/wide_int8_load.cuh"

#include <float.h>

namespace gqmm
{
namespace int8_product
{

// A block's scale, and what its numbers are multiplied by before they are rounded; `most`: the bits
// of the largest magnitude. As gqmm_act_quantize_block() has it, with the scale a sixteenth: codes
// of weights count 16 times, as they stand in the high bits of a byte.
struct block_scale {
    float scale, inverse;

    __device__ __forceinline__ explicit block_scale(uint32_t most)
    {
        const float amax = __uint_as_float(most);
        scale = __fdiv_rn(amax, 127.0f);
        inverse = most < 0x7f800000 && scale >= FLT_MIN ? __fdiv_rn(127.0f, amax) : 0.0f;
        scale = most >= 0x7f800000 ? __uint_as_float(0x7fc00000) : inverse == 0.0f ? 0.0f : scale;
        scale *= 0.0625f;
    }
};

// In the low byte; the others are not zero.
__device__ __forceinline__ uint32_t rounded(float v, float inverse)
{
    return __float_as_uint(__fadd_rn(__fmul_rn(v, inverse), 12582912.0f));
}

// Row blockIdx.x of x, bf16: codes to y, rows of k, and scales, rows of k / 128. Half a warp takes
// a block of 128.
static __global__ void __launch_bounds__(256)
    round_kernel(int8_t *y, float *scales, const uint16_t *x, int64_t x_row, int64_t x_mat,
                 uint32_t m, int64_t k)
{
    wait_for_previous();
    let_next_start();
    const uint32_t row = blockIdx.x, matrix = m == 1 ? row : row / m;
    const int64_t blocks = k / 128;
    const int64_t mine = ((int64_t)blockIdx.y * blockDim.x + threadIdx.x) / 16;
    const int64_t block = mine < blocks ? mine : blocks - 1, at = row * blocks + block;
    const int lane = (int)threadIdx.x & 15;
    const uint16_t *from =
        x + matrix * x_mat + (m == 1 ? 0 : row % m) * x_row + block * 128 + lane * 8;
    uint32_t w[4];
    if (((uintptr_t)from & 15) == 0) {
        const uint4 v = *(const uint4 *)from;
        w[0] = v.x, w[1] = v.y, w[2] = v.z, w[3] = v.w;
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++)
            w[i] = from[2 * i] | (uint32_t)from[2 * i + 1] << 16;
    }
    uint32_t most = 0;
#pragma unroll
    for (int i = 0; i < 4; i++)
        most = max(most, max(w[i] << 16 & 0x7fff0000, w[i] & 0x7fff0000));
#pragma unroll
    for (int i = 1; i < 16; i *= 2)
        most = max(most, __shfl_xor_sync(0xffffffffu, most, i));
    const block_scale s(most);
    if (mine >= blocks)
        return;
    uint32_t even[4], odd[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        even[i] = rounded(__uint_as_float(w[i] << 16), s.inverse);
        odd[i] = rounded(__uint_as_float(w[i] & 0xffff0000), s.inverse);
    }
    uint32_t *to = (uint32_t *)(y + at * 128) + word_of(8 * lane);
    to[0] = __byte_perm(__byte_perm(even[0], even[1], 0x0040),
                        __byte_perm(even[2], even[3], 0x0040), 0x5410);
    to[4] = __byte_perm(__byte_perm(odd[0], odd[1], 0x0040), __byte_perm(odd[2], odd[3], 0x0040),
                        0x5410);
    if (lane == 0)
        scales[at] = s.scale;
}

inline int round_rows(const gqmm_cuda_product *p, int8_t *codes, float *scales, gqmm_stream s)
{
    const int64_t rows = p->n_x * p->m;
    if (rows == 0)
        return 0;
    return launch(round_kernel, dim3((unsigned)rows, (unsigned)((p->k / 128 + 15) / 16)), dim3(256),
                  0, s, GQMM_CUDA_SM90, codes, scales, (const uint16_t *)p->x, p->x_row, p->x_mat,
                  (uint32_t)p->m, p->k);
}

} // namespace int8_product
} // namespace gqmm

#endif
