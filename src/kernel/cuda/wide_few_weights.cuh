// SPDX-License-Identifier: MIT
// The warps that bring weights to tiles of few columns.
#ifndef GQMM_KERNEL_CUDA_WIDE_FEW_WEIGHTS_CUH
#define GQMM_KERNEL_CUDA_WIDE_FEW_WEIGHTS_CUH

#include "kernel/cuda/wide_few_load.cuh"

namespace gqmm
{
namespace few_product
{

template <int BYTES> __device__ __forceinline__ void copy_few_to(uint32_t to, const void *from)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to), "l"(from), "n"(BYTES)
                 : "memory");
}

// Steps that have lines to themselves leave the second-level cache first, to h and y, which are
// read again.
template <class D>
__device__ __forceinline__ void copy_codes(uint32_t to, const CUtensorMap *map, int byte, int row,
                                           int expert, uint32_t barrier)
{
    if constexpr (!CROSSES<D>)
        asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes"
                     ".L2::cache_hint [%0], [%1, {%3, %4, %5}], [%2], %6;" ::"r"(to),
                     "l"(map), "r"(barrier), "r"(byte), "r"(row), "r"(expert), "l"(read_once())
                     : "memory");
    else
        asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes "
                     "[%0], [%1, {%3, %4, %5}], [%2];" ::"r"(to),
                     "l"(map), "r"(barrier), "r"(byte), "r"(row), "r"(expert)
                     : "memory");
}

// The scales of an item that a loader brings: those of every 64th row of w and then of up, whose
// planes of them have rows of one length. Where they lie is found once for all steps.
template <class D, bool TWO> struct scale_source {
    static constexpr int PLANES = D::planes > 1 ? D::planes - 1 : 1;
    static constexpr int ROWS_OF_ONE = ROWS / (TWO ? 2 : 1) / WEIGHT_LOADERS;
    const uint8_t *from[PLANES][1 + TWO]; // of row 0
    uint32_t row[ROWS_OF_ONE];            // bytes from there to a row, at the next step

    __device__ __forceinline__ scale_source(const few_args &a, int expert, int first)
    {
        const uint32_t end = (uint32_t)a.p.n - 1, stride = (uint32_t)a.p.w.row_stride[1];
#pragma unroll
        for (int plane = 1; plane < D::planes; plane++) {
            from[plane - 1][0] = a.p.w.plane[plane] + expert * a.p.w.expert_stride[plane];
            if (TWO)
                from[plane - 1][TWO] = a.p.up.plane[plane] + expert * a.p.up.expert_stride[plane];
        }
#pragma unroll
        for (int i = 0; i < ROWS_OF_ONE; i++)
            row[i] = min((uint32_t)first + i * WEIGHT_LOADERS, end) * stride;
    }

    // `BYTES` of each row, 4, 8 or 16.
    template <int BYTES> __device__ __forceinline__ void copy(uint32_t to)
    {
#pragma unroll
        for (int i = 0; i < ROWS_OF_ONE; i++) {
#pragma unroll
            for (int plane = 1; plane < D::planes; plane++)
#pragma unroll
                for (int h = 0; h < 1 + TWO; h++)
                    copy_few_to<BYTES>(to + (plane - 1) * PLANE_SCALES<D> +
                                           scale_at<D>(h * (ROWS / 2) + i * WEIGHT_LOADERS),
                                       from[plane - 1][h] + row[i]);
            row[i] += BYTES;
        }
    }
};

// A step of a matrix' rows from `first` on.
template <class D, bool TWO>
__device__ __forceinline__ void copy_matrix(uint32_t to, const few_args &a, const CUtensorMap *map,
                                            int64_t row_stride, int step, int first, int expert,
                                            uint32_t full)
{
    constexpr int height = TWO ? ROWS / 2 : ROWS;
    int64_t byte = step * STEP_BYTES<D>;
    for (int i = 0; i < 1 << a.spread; i++, byte += row_stride)
        copy_codes<D>(to + (i * height >> a.spread) * ROW_BYTES<D>, map, (int)(byte & ~15),
                      first >> a.spread, expert, full);
}

template <class D, bool TWO>
__device__ __forceinline__ void copy_step(uint32_t to, const few_args &a, int step,
                                          const tile_info &info, uint32_t full)
{
    const int first = info.row_block * (TWO ? ROWS / 2 : ROWS);
    barrier_expect(full, WEIGHT_BYTES<D>);
    copy_matrix<D, TWO>(to, a, &a.maps[0], a.p.w.row_stride[0], step, first, info.expert, full);
    if (TWO)
        copy_matrix<D, TWO>(to + WEIGHT_BYTES<D> / 2, a, &a.maps[1], a.p.up.row_stride[0], step,
                            first, info.expert, full);
}

// Calls item(info) for each that the warp that brings columns tells of.
template <class D, class F>
__device__ __forceinline__ void for_items(const memory<D> &mem, const F &item)
{
    for (ring infos = {0, 0};; infos.next(INFOS)) {
        barrier_wait_lazily(mem.full(1, infos.stage), infos.parity);
        const tile_info info = mem.info(infos.stage);
        barrier_arrive(mem.empty(1, infos.stage));
        if (info.tile < 0)
            break;
        if (info.expert >= 0)
            item(info);
    }
}

// Two warps: the accelerator brings codes, each thread scales.
template <class D, bool TWO>
__device__ __forceinline__ void load_weights(const few_args &a, const memory<D> &mem, int id)
{
    const int steps = (int)(a.p.k / STEP);
    ring to = {0, 1};
    for_items(mem, [&](const tile_info &info) {
        scale_source<D, TWO> scales(a, info.expert, info.row_block * (TWO ? ROWS / 2 : ROWS) + id);
#pragma unroll 1
        for (int step = 0; step < steps; step++) {
            const uint32_t full = mem.full(0, to.stage);
            barrier_wait_lazily(mem.empty(0, to.stage), to.parity);
            if (id == 0)
                copy_step<D, TWO>(mem.weights(to.stage), a, step, info, full);
            constexpr int most = few_layout<D>::SCALES;
            const uint32_t scales_at = mem.scales(to.stage) + scale_at<D>(id);
            if (a.row_scale_bytes == most)
                scales.template copy<most>(scales_at);
            else
                scales.template copy<most / 2>(scales_at);
            barrier_arrive_after_copies(full);
            to.next(STAGES);
        }
    });
}

// One warp, for two others that put straight what comes.
template <class D, bool TWO>
__device__ __forceinline__ void load_crooked(const few_args &a, const memory<D> &mem, int lane)
{
    const int steps = (int)(a.p.k / STEP);
    ring to = {0, 1};
    for_items(mem, [&](const tile_info &info) {
#pragma unroll 1
        for (int step = 0; step < steps; step++) {
            barrier_wait_lazily(mem.empty(0, to.stage), to.parity);
            if (lane == 0)
                copy_step<D, TWO>(mem.weights(to.stage), a, step, info, mem.crooked(to.stage));
            to.next(STAGES);
        }
    });
}

// Rows that a copy brought, eight at once by every second warp: a lane has a word of each. ODD:
// words of the step lie across two.
template <class D, bool ODD>
__device__ __forceinline__ void put_straight(uint32_t at, int rows, int slip, int warp, int lane)
{
    constexpr int AT_ONCE = 8, WORDS = (STEP_BYTES<D> + 3) / 4, ROW = ROW_BYTES<D>;
    static_assert(ROW == 128 && WORDS <= 30, "swizzle and lanes");
    const bool has = lane < WORDS;
    uint32_t from = at + warp * (AT_ONCE * ROW) + (slip & ~3) + (has ? 4 * lane : 0);
    uint32_t to = at + warp * (AT_ONCE * ROW) + 4 * lane;
#pragma unroll 1
    for (int r = warp * AT_ONCE; r < rows; r += 2 * AT_ONCE) {
        uint32_t v[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            v[i] = read_4(from + i * ROW);
            if (ODD)
                v[i] = funnel(v[i], read_4(from + i * ROW + 4), 16);
        }
        __syncwarp();
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++)
            if (has)
                write_4((to ^ i << 4) + i * ROW, v[i]);
        from += 2 * AT_ONCE * ROW;
        to += 2 * AT_ONCE * ROW;
    }
}

// By two warps.
template <class D, bool TWO>
__device__ __forceinline__ void straighten(const few_args &a, const memory<D> &mem, int warp,
                                           int lane)
{
    constexpr int height = TWO ? ROWS / 2 : ROWS;
    static_assert(D::align == 2, "funnel");
    const int steps = (int)(a.p.k / STEP), rows = height >> a.spread;
    ring at = {0, 0};
    for_items(mem, [&](const tile_info &) {
#pragma unroll 1
        for (int step = 0; step < steps; step++) {
            uint32_t to = mem.weights(at.stage);
            barrier_wait_lazily(mem.crooked(at.stage), at.parity);
#pragma unroll 1
            for (int i = 0; i < 1 + TWO << a.spread; i++, to += rows * ROW_BYTES<D>) {
                const int copy = i & ((1 << a.spread) - 1);
                const int slip =
                    slip_of<D>(i == copy ? a.p.w.row_stride[0] : a.p.up.row_stride[0], copy, step);
                if (slip & 3)
                    put_straight<D, true>(to, rows, slip, warp, lane);
                else
                    put_straight<D, false>(to, rows, slip, warp, lane);
            }
            fence_for_wgmma(); // written by the accelerator next
            barrier_arrive(mem.full(0, at.stage));
            at.next(STAGES);
        }
    });
}

} // namespace few_product
} // namespace gqmm

#endif
