// SPDX-License-Identifier: MIT
// The wide product's weights: where their rows stand, and the warps that bring them as they lie in
// the file.
#ifndef GQMM_KERNEL_CUDA_WIDE_WEIGHTS_CUH
#define GQMM_KERNEL_CUDA_WIDE_WEIGHTS_CUH

#include "kernel/cuda/wide_load.cuh"

namespace gqmm
{
namespace wide_product
{

// Sixteen bytes, kept in the first-level cache as well: the next step's are among them.
__device__ __forceinline__ void copy_16_near(void *to, const void *from, int valid)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
                 "l"(from), "r"(valid)
                 : "memory");
}

// `valid` bytes of a row, of a step at `slip` + 16 `chunk`.
__device__ __forceinline__ int bytes_here(int valid, int slip, int chunk)
{
    const int n = valid + slip - 16 * chunk;
    return n < 0 ? 0 : n < 16 ? n : 16;
}

// A loader's part: rows `first`, `first` + 16, ... of a block, all of one matrix, and of the codes
// chunks `chunk`, `chunk` + 8, ...
struct loader {
    int first, chunk;
    const uint8_t *from[3]; // of the step at hand in the block's first row
    const uint8_t *codes;   // from[0] at the chunk
    int stride[3];
};

__device__ __forceinline__ const uint8_t *row_at(const loader &l, int plane, uint32_t row,
                                                 const uint8_t *from)
{
    const uint8_t *at; // one instruction, which the compiler does not find
    asm("mad.wide.s32 %0, %1, %2, %3;" : "=l"(at) : "r"(row), "r"(l.stride[plane]), "l"(from));
    return at;
}

// Codes of a step, `valid` bytes of each row. ALL: whole chunks.
template <class D, class S, bool ALL>
__device__ __forceinline__ void load_codes(const block_memory &mem, uint8_t *stage, const loader &l,
                                           int valid)
{
    constexpr int chunks = code_chunks<D>(), passes = S::ROWS / 16;
    const uint32_t *rows = mem.rows + l.first * passes;
    uint8_t *to = stage + l.first * pitch<D>() + 16 * l.chunk;
#pragma unroll
    for (int p0 = 0; p0 < passes; p0 += 4) {
        const uint4 r = *(const uint4 *)(rows + p0);
        const uint32_t row[4] = {r.x, r.y, r.z, r.w};
#pragma unroll
        for (int p = p0; p < p0 + 4; p++) {
            const uint8_t *from = ALL ? l.codes + (uint64_t)row[p - p0] * (uint32_t)l.stride[0]
                                      : row_at(l, 0, row[p - p0], l.from[0]);
            const int slip = slips<D>() ? (int)((uintptr_t)from & 15) : 0;
            from -= slip;
#pragma unroll
            for (int c = 0; c < chunks; c += 8) {
                if (c + 8 > chunks && l.chunk + c >= chunks)
                    break;
                uint8_t *here = to + p * 16 * pitch<D>() + 16 * c;
                if (ALL) {
                    copy_16(here, from + 16 * c, 16);
                } else {
                    const int n = bytes_here(valid, slip, l.chunk + c);
                    copy_16(here, from + (n ? 16 * (l.chunk + c) : 0), n);
                }
            }
        }
    }
}

// A plane of scales: thread (first, chunk) brings rows `first` + 16 `chunk` and 128 further.
template <class S>
__device__ __forceinline__ void load_scales(const block_memory &mem, uint8_t *to, const loader &l,
                                            int plane, int chunks, int valid)
{
    constexpr int passes = S::ROWS / 16;
#pragma unroll
    for (int p = 0; p < passes; p += 8) {
        const uint8_t *from =
            row_at(l, plane, mem.rows[l.first * passes + p + l.chunk], l.from[plane]);
        const int slip = (int)((uintptr_t)from & 15);
        uint8_t *here = to + (l.first + 16 * (p + l.chunk)) * chunks * 16;
        from -= slip;
#pragma unroll 1
        for (int c = 0; c < chunks; c++) {
            const int n = bytes_here(valid, slip, c);
            copy_16_near(here + 16 * c, from + (n ? 16 * c : 0), n);
        }
    }
}

template <class D, class S>
__device__ __forceinline__ void load_step(const wide_args &a, const block_memory &mem,
                                          uint8_t *stage, loader &l, int step)
{
    constexpr int bytes = code_bytes<D>();
    const format_args f = {a.p.w.group, a.p.w.scale_type};
    const int64_t left = D::bytes(0, a.p.k, f) - (int64_t)step * bytes;
    if (!slips<D>() && bytes % 16 == 0 && left >= bytes && l.stride[0] >= 0)
        load_codes<D, S, true>(mem, stage, l, bytes);
    else
        load_codes<D, S, false>(mem, stage, l, (int)(left < bytes ? left : bytes));
    l.from[0] += bytes;
    l.codes += bytes;
#pragma unroll
    for (int plane = 1; plane < D::planes; plane++) {
        const int each = a.plane_bytes[plane];
        const int64_t rest = D::bytes(plane, a.p.k, f) - (int64_t)step * each;
        load_scales<S>(mem, stage + a.plane_at[plane], l, plane, a.plane_chunks[plane],
                       (int)(rest < each ? rest : each));
        l.from[plane] += each;
    }
}

// The rows of a block's slots, the same for all blocks but the last.
template <class S>
__device__ __forceinline__ void place_rows(const wide_args &a, const block_memory &mem,
                                           int row_block, int first, int id)
{
    warps_sync(1, WEIGHT_LOADERS);
    for (int slot = id; slot < S::ROWS; slot += WEIGHT_LOADERS)
        mem.rows[(slot & 15) * (S::ROWS / 16) + (slot >> 4)] =
            (uint32_t)(row_of<S>(a, row_block,
                                 output_of<S>(slot, a.p.up.plane[0] != NULL, a.p.y_order)) -
                       first);
    warps_sync(1, WEIGHT_LOADERS);
}

template <class D, class S>
__device__ __forceinline__ void load_weights(const wide_args &a, const block_memory &mem, int id)
{
    const int tiles = *a.p.list.n_tiles, steps = (int)((a.p.k + D::step - 1) / D::step);
    const int outputs = a.p.up.plane[0] ? S::ROWS / 2 : S::ROWS;
    loader l;
    l.first = id >> 3;
    l.chunk = id & 7;
    const gqmm_cuda_matrix &mine = a.p.up.plane[0] && (l.first & 8) ? a.p.up : a.p.w;
#pragma unroll
    for (int plane = 0; plane < D::planes; plane++)
        l.stride[plane] = (int)mine.row_stride[plane];
    ring to = {0, 1};
    int placed = -1; // outputs that the places are for
    item_walk item(a), ahead = item;
    int expert = item.tile < tiles ? a.p.list.tiles[item.tile].expert : -1;
    for (; item.tile < tiles; item.next(a)) {
        const int now = expert, first = item.row_block * outputs;
        ahead.next(a);
        if (ahead.tile < tiles)
            expert = a.p.list.tiles[ahead.tile].expert;
        if (now < 0)
            continue;
        const int left = (int)a.p.n - first < outputs ? (int)a.p.n - first : outputs;
        if (left != placed)
            place_rows<S>(a, mem, item.row_block, first, id);
        placed = left;
#pragma unroll
        for (int plane = 0; plane < D::planes; plane++)
            l.from[plane] = mine.plane[plane] + now * mine.expert_stride[plane] +
                            first * mine.row_stride[plane];
        l.codes = l.from[0] + 16 * l.chunk;
        for (int step = 0; step < steps; step++) {
            barrier_wait_lazily(mem.empty(0, to.stage), to.parity);
            load_step<D, S>(a, mem, mem.weights + to.stage * a.stage_bytes, l, step);
            barrier_arrive_after_copies(mem.full(0, to.stage));
            to.next(a.weight_stages);
        }
    }
}

} // namespace wide_product
} // namespace gqmm

#endif
