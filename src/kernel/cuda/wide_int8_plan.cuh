// SPDX-License-Identifier: MIT
// The host's side of the int8 product: which products it takes, and tensor maps of them.
#ifndef GQMM_KERNEL_CUDA_WIDE_INT8_PLAN_CUH
#define GQMM_KERNEL_CUDA_WIDE_INT8_PLAN_CUH

#include "kernel/cuda/tensor_map.cuh"
#include "kernel/cuda/wide_int8_load.cuh"
#include "kernel/cuda/wide_plan.cuh"

namespace gqmm
{
namespace int8_product
{

// Mean columns of an expert up to which this was measured faster than wide.cuh; a tile of more
// columns would need more registers than there are.
constexpr double MOST_MEAN = 32;

// What a tensor map takes: rows at multiples of 16 bytes, going up; scales of two groups a word.
inline bool matrix_fits(const gqmm_cuda_matrix &w)
{
    const int64_t far = (int64_t)1 << 40;
    return w.group == BLOCK && wide_product::multiples(w, 0, 16) &&
           wide_product::multiples(w, 1, 4) && wide_product::is_short(w, 1) &&
           w.row_stride[0] > 0 && w.row_stride[0] < far &&
           (w.n_experts == 1 || (w.expert_stride[0] > 0 && w.expert_stride[0] < far));
}

inline bool fits(const gqmm_cuda_product *p)
{
    const bool two = p->up.plane[0] != NULL;
    const int64_t columns = p->n_pairs * p->m;
    return p->k > 0 && p->k % STEP == 0 && p->n < INT32_MAX && matrix_fits(p->w) &&
           (two ? matrix_fits(p->up) && p->n % BLOCK == 0 : p->y_type == GQMM_BF16) &&
           columns + (int64_t)N * p->w.n_experts <= INT32_MAX && // rows of h
           (p->x8.sorted || (p->x_type == GQMM_BF16 && p->n_x * p->m <= INT32_MAX));
}

// Tiles of `height` rows by 128 bytes, swizzled as wgmma wants them.
inline bool describe(CUtensorMap *map, const void *at, int64_t bytes, int64_t rows, int64_t experts,
                     int64_t row_stride, int64_t expert_stride, int height)
{
    static const auto encode = find_tensor_encoder();
    const cuuint64_t size[] = {(cuuint64_t)bytes, (cuuint64_t)rows, (cuuint64_t)experts};
    const cuuint64_t stride[] = {(cuuint64_t)row_stride, (cuuint64_t)expert_stride};
    const cuuint32_t box[] = {128, (cuuint32_t)height, 1}, step[] = {1, 1, 1};
    return encode && encode(map, CU_TENSOR_MAP_DATA_TYPE_UINT8, experts ? 3 : 2, (void *)at, size,
                            stride, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
                            CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                            CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

inline bool describe_weights(CUtensorMap *map, const gqmm_cuda_matrix &w, int64_t n, int64_t k,
                             int height)
{
    return describe(map, w.plane[0], k / 2, n, w.n_experts, w.row_stride[0],
                    w.n_experts > 1 ? w.expert_stride[0] : w.row_stride[0] * n, height);
}

} // namespace int8_product

// ---- what the room's table takes, beside int8()

inline bool int8_fits(const gqmm_cuda_product *p)
{
    return int8_product::fits(p);
}

// Columns of a tile, for experts of `mean` columns each; 0: float tiles are faster.
inline int int8_columns(double mean)
{
    return mean <= int8_product::MOST_MEAN ? int8_product::N : 0;
}

} // namespace gqmm

#endif
