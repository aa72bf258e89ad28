// SPDX-License-Identifier: MIT
// The wide product on the host: codes left in low bits are those of the decoder; plans have rings
// within the shared memory of a block, and no more loader warps taking turns at the ring of columns
// than it has stages.
#ifndef TESTS_CUDA_WIDE_PLANS_H
#define TESTS_CUDA_WIDE_PLANS_H

#include "kernel/cuda/wide_plan.cuh"

#include <cmath>

template <class D> static bool check_low_codes(bool (*fail)(const char *, ...))
{
    typedef gqmm::wide_product::wide_codes<D> low;
    if constexpr (low::low) {
        alignas(16) uint8_t bytes[256];
        const gqmm::format_args args = {32, GQMM_BF16};
        const gqmm::step_row row = {{bytes, bytes, bytes}};
        for (int i = 0; i < 256; i++)
            bytes[i] = (uint8_t)(i * 101 + i * i / 7);
        for (int j = 0; j < D::step / 32; j++) {
            double want[32], got[32];
            for (int t = 0; t < 4; t++) {
                uint32_t a[1][4], b[4];
                D::codes(a, row, j, t, args);
                low::get(b, bytes, j, t);
                for (int i = 0; i < 8; i++) {
                    want[gqmm::k_of(D::in_order, t, i)] =
                        gqmm_bf16_to_f32((uint16_t)(a[0][i / 2] >> 16 * (i & 1)));
                    got[gqmm::k_of(low::in_order, t, i)] =
                        ldexp(gqmm_bf16_to_f32((uint16_t)(b[i / 2] >> 16 * (i & 1))),
                              133 - low::bit(j, i / 2)) -
                        low::bias;
                }
            }
            for (int k = 0; k < 32; k++)
                if (want[k] != got[k])
                    return fail("low codes of piece %d, weight %d: %g, not %g", j, k, got[k],
                                want[k]);
        }
    }
    return true;
}

template <class D, class S>
static bool check_wide_plan(const gqmm_cuda_product &p, bool (*fail)(const char *, ...))
{
    using namespace gqmm::wide_product;
    wide_args a = {};
    if (!plan<D, S>(&a, &p, &p, p.k, p.k))
        return fail("%d columns: no plan", S::N);
    const int most = (SHARED_OF_PROCESSOR + RESERVED) / S::BLOCKS - RESERVED;
    if (a.shared_bytes > most ||
        a.scales_at < a.column_stages * S::COLUMN_BYTES + a.weight_stages * a.stage_bytes)
        return fail("%d columns: %d bytes of %d", S::N, a.shared_bytes, most);
    return (a.weight_stages >= 2 && a.weight_stages <= MOST_STAGES && a.column_stages >= 2 &&
            a.column_stages <= MOST_STAGES && a.column_turns >= 1 &&
            a.column_turns <= a.column_stages && a.column_turns <= COLUMN_LOADERS / 32) ||
           fail("%d columns: %d stages of weights, %d of columns, %d warps take turns", S::N,
                a.weight_stages, a.column_stages, a.column_turns);
}

// Rows of weights that start anywhere the family allows make the longest stages.
template <class D, bool WIDE>
static bool check_wide_plans(const gqmm_format_info *f, bool (*fail)(const char *, ...))
{
    if constexpr (WIDE) {
        if (!check_low_codes<D>(fail))
            return false;
        for (int i = 0; i < 4; i++) {
            gqmm_cuda_product p = {};
            p.n = 4096, p.k = 4096;
            p.w.group = f->pub.group_elems, p.w.scale_type = f->scale_type;
            for (int plane = 0; plane < D::planes; plane++) {
                p.w.plane[plane] = (const uint8_t *)(uintptr_t)(i & 1 ? 4096 : 4096 + 4);
                p.w.row_stride[plane] = i & 1 ? 4096 : 4100;
            }
            p.up = i & 2 ? p.w : gqmm_cuda_matrix{};
#define GQMM_WIDTH(n) \
    if (!check_wide_plan<D, gqmm::wide_product::shape<n>>(p, fail)) \
        return false;
            GQMM_WIDTHS(GQMM_WIDTH)
#undef GQMM_WIDTH
        }
    }
    return true;
}

#endif
