// SPDX-License-Identifier: MIT
// The host's side of the wide product: which products it takes, and the sizes of its rings.
#ifndef GQMM_KERNEL_CUDA_WIDE_PLAN_CUH
#define GQMM_KERNEL_CUDA_WIDE_PLAN_CUH

#include "kernel/cuda/wide_scales.cuh"

namespace gqmm
{
namespace wide_product
{

inline bool multiples(const gqmm_cuda_matrix &w, int plane, int64_t of)
{
    return (int64_t)((uintptr_t)w.plane[plane] % (uintptr_t)of) == 0 &&
           w.row_stride[plane] % of == 0 && w.expert_stride[plane] % of == 0;
}

// The largest power of two up to 16 that all rows, and the steps of `bytes`, start at multiples of.
inline int common_power(const gqmm_cuda_product *p, int plane, int bytes)
{
    int of = 16;
    while (of > 1 && !(bytes % of == 0 && multiples(p->w, plane, of) &&
                       (!p->up.plane[0] || multiples(p->up, plane, of))))
        of /= 2;
    return of;
}

inline bool is_short(const gqmm_cuda_matrix &w, int plane)
{
    return w.row_stride[plane] >= INT32_MIN && w.row_stride[plane] <= INT32_MAX;
}

template <class D> bool fits(const gqmm_cuda_product *p)
{
    const format_args f = {p->w.group, p->w.scale_type};
    // Scales of the planes: bytes, or numbers of 2 or 4 bytes.
    const int unit = D::planes == 3 && f.scale_type == GQMM_F32              ? 4
                     : D::planes > 1 && D::bytes(1, 128, f) == 128 / f.group ? 1
                                                                             : 2;
    bool ok = p->x_type == GQMM_BF16 && p->k > 0 && p->k % 32 == 0 && p->k % D::block == 0 &&
              p->list.tiles && tile_width(p->list.tile_columns) > 0 &&
              (!p->y_order || p->n % 32 == 0);
    for (int plane = 0; plane < D::planes; plane++)
        ok = ok && is_short(p->w, plane) && is_short(p->up, plane) &&
             common_power(p, plane, 16) >= (plane ? unit : row_align<D>);
    if (p->x_order == order_code<D>())
        ok = ok && (uintptr_t)p->x % 16 == 0 && p->x_row % 8 == 0 && p->x_mat % 8 == 0 &&
             p->x_row >= 0 && p->x_mat >= 0 &&
             p->n_x * p->x_mat / 8 + p->m * p->x_row / 8 <= UINT32_MAX;
    else
        ok = ok && p->x_order == 0 && p->x_ordered && p->n_x * p->m * p->k / 8 <= UINT32_MAX;
    return ok;
}

// Sizes and places in shared memory; false: it has too little.
template <class D, class S>
bool plan(wide_args *a, const gqmm_cuda_product *p, const void *x, int64_t x_row, int64_t x_mat)
{
    const format_args f = {p->w.group, p->w.scale_type};
    const int outputs = p->up.plane[0] ? S::ROWS / 2 : S::ROWS;
    a->p = *p;
    a->x = (const uint8_t *)x;
    a->x_row = x_row / 8;
    a->x_mat = x_mat / 8;
    a->row_blocks = (int)((p->n + outputs - 1) / outputs);
    a->whole_y = p->y_type == GQMM_BF16 && (uintptr_t)p->y % 16 == 0 && p->y_row % 8 == 0 &&
                 p->y_pair % 8 == 0 && p->n % 8 == 0;

    a->factor = wide_codes<D>::low && x == p->x_ordered ? LOW_FACTOR : 1.0f;
    a->y_factor = p->y_order & 16 ? LOW_FACTOR : 1.0f;
    if (!p->up.plane[0])
        a->factor *= a->y_factor;

    a->stage_bytes = S::ROWS * pitch<D>();
    a->plane_bytes[0] = code_bytes<D>();
    for (int plane = 1; plane < D::planes; plane++) {
        const int bytes = (int)D::bytes(plane, D::step, f);
        a->plane_at[plane] = a->stage_bytes;
        a->plane_bytes[plane] = bytes;
        a->plane_chunks[plane] = (bytes + 16 - common_power(p, plane, bytes) + 15) / 16;
        a->stage_bytes += S::ROWS * a->plane_chunks[plane] * 16;
    }
    // Rings: two stages of weights and as many of columns, then more of what is the shorter one.
    const int scales = CONSUMERS / 32 * S::MT * scale_bytes_of_rows<D>();
    const int fixed = scales + info_bytes<S>(), column_bytes = S::COLUMN_BYTES;
    const int room = (SHARED_OF_PROCESSOR + RESERVED) / S::BLOCKS - RESERVED - fixed;
    int w = 2, c = 2;
    if (w * a->stage_bytes + c * column_bytes > room)
        return false;
    for (bool more = true; more;) {
        const int left = room - w * a->stage_bytes - c * column_bytes;
        // An eighth of a multiprocessor's memory in weights under way hides the latency of memory.
        const bool weights_short =
            w * D::step < c * 64 * S::SUBS || (w - 1) * a->stage_bytes < 28 * 1024;
        more = false;
        if (w < MOST_STAGES && weights_short && left >= a->stage_bytes)
            w++, more = true;
        else if (c < MOST_STAGES && left >= column_bytes)
            c++, more = true;
    }
    a->weight_stages = w;
    a->column_stages = c;
    // No more warps than stages: a barrier tells only the last two laps apart, and a warp whose
    // turns are further apart than the ring is long could take a stage of two laps ago, not yet
    // read, for one that is free.
    a->column_turns = c < COLUMN_LOADERS / 32 ? c : COLUMN_LOADERS / 32;
    a->scales_at = c * column_bytes + w * a->stage_bytes;
    a->infos_at = a->scales_at + scales;
    a->shared_bytes = a->infos_at + info_bytes<S>();
    return true;
}

} // namespace wide_product
} // namespace gqmm

#endif
