// SPDX-License-Identifier: MIT
// The pieces of mixture.cuh: experts in use, activations, weights on their way.
#ifndef GQMM_KERNEL_CUDA_FEW_CUH
#define GQMM_KERNEL_CUDA_FEW_CUH

#include "kernel/cuda/choose.cuh"
#include "kernel/cuda/product.cuh"

namespace gqmm
{

constexpr int FEW_WARPS = 16, FEW_THREADS = FEW_WARPS * 32;
constexpr int FEW_COLUMNS = 8; // of the matrix instruction; a token's is the first

// ---------------------------------------------------------------- experts

// Experts in use, in the order of their slots.
struct few_table {
    int count;
    int32_t id[MOST_FEW_SLOTS]; // of the slots; -1: skipped
    int16_t expert[MOST_FEW_SLOTS];
    alignas(16) int16_t pair[MOST_FEW_SLOTS][FEW_COLUMNS]; // slot of a column; -1: none
};

// The token's slots, by one warp.
__device__ __forceinline__ void enter_one(few_table &to, const gqmm_cuda_topk &t)
{
    const int lane = (int)threadIdx.x, id = lane < t.n_slots ? to.id[lane] : -1;
    const uint32_t some = __ballot_sync(~0u, id >= 0);
    const int at = __popc(some & ((1u << lane) - 1));
    if (id >= 0) {
        to.expert[at] = (int16_t)id;
        *(uint4 *)to.pair[at] = make_uint4((uint32_t)lane | 0xffff0000u, ~0u, ~0u, ~0u);
    }
    to.count = __popc(some);
}

// `scratch` has few_scratch() bytes of shared memory.
__device__ __forceinline__ void find_entries(few_table &to, const gqmm_cuda_topk &t,
                                             uint8_t *scratch, uint32_t *fault)
{
    const int p = (int)threadIdx.x, warp = p / 32, slots = t.n_slots;
    if (t.logits) {
        choose_few<FEW_WARPS>(to.id, scratch, t, (int)t.n_tokens, [&](int token, int e) {
            return __ldcg(t.logits + token * t.n_experts + e);
        });
        __syncthreads();
    } else if (p < (int)t.n_tokens * slots) {
        const int id = t.ids[p];
        if ((id < -1 || id >= t.n_experts) && fault)
            atomicOr(fault, (uint32_t)GQMM_FAULT_EXPERT);
        to.id[p] = id < 0 || id >= t.n_experts ? -1 : id;
    }
    __syncwarp();
    if (warp == 0)
        enter_one(to, t);
    __syncthreads();
}

// ---------------------------------------------------------------- activations

// Pairs (major, minor), minor < n, of which every `stride`-th is taken.
struct few_items {
    int major, minor, by_major, by_minor, n, taken;

    __device__ __forceinline__ few_items(int first, int stride, int n_)
        : major(first / n_), minor(first % n_), by_major(stride / n_), by_minor(stride % n_), n(n_),
          taken(0)
    {
    }
    __device__ __forceinline__ bool odd() const
    {
        return taken;
    }
    __device__ __forceinline__ void advance()
    {
        taken ^= 1;
        major += by_major;
        minor += by_minor;
        if (minor >= n) {
            minor -= n;
            major++;
        }
    }
};

// Numbers of a row in shared memory: whole steps, and what lies behind the row is zero.
template <class D> GQMM_HD constexpr int few_columns(int64_t k)
{
    return (int)((k + D::step - 1) / D::step) * D::step;
}

// Bytes between rows in shared memory: the eight lanes of a phase then meet 32 banks.
template <class D> GQMM_HD constexpr int few_pitch(int64_t k)
{
    return few_columns<D>(k) * 2 / 128 * 128 + 64;
}

// Sums of groups between rows.
template <class D> GQMM_HD constexpr int few_sums(int64_t k)
{
    return codes_of<D, 1>::has_offset ? few_columns<D>(k) / D::piece + 4 : 0;
}

template <class D> GQMM_HD constexpr int few_row_bytes(int64_t k)
{
    return few_pitch<D>(k) + few_sums<D>(k) * (int)sizeof(float);
}

// n bf16 rows of k numbers, `stride` numbers apart, in the decoder's order, with the sum of each
// piece where there are offsets; by `warps` warps, of which this is number `warp`. With `id`, rows
// whose id is negative are zero. The sums have a row more than there are, which is written when
// columns are no whole 256.
template <class D>
__device__ __forceinline__ void bring_few(uint8_t *xs, float *sums, const void *rows,
                                          int64_t stride, int n, int k, const int32_t *id,
                                          int group, int warp, int warps)
{
    typedef codes_of<D, 1> codes;
    constexpr int AHEAD = 4;
    const int eighths = few_columns<D>(k) / 8, lane = (int)threadIdx.x % 32;
    const int pitch = few_pitch<D>(k), sum_pitch = few_sums<D>(k);
    // 256 numbers at a time.
    for (few_items at(warp, warps, (eighths + 31) / 32); at.major < n;) {
        bf16_eight v[AHEAD];
        few_items to = at;
#pragma unroll
        for (int j = 0; j < AHEAD; j++, at.advance()) {
            const int e = at.minor * 32 + lane;
            v[j].v = make_uint4(0, 0, 0, 0);
            if (at.major < n && e * 8 < k && (!id || id[at.major] >= 0))
                v[j].v = __ldcg(
                    (const uint4 *)((const uint8_t *)rows + (at.major * stride + e * 8) * 2));
        }
#pragma unroll
        for (int j = 0; j < AHEAD; j++, to.advance()) {
            const int e = to.minor * 32 + lane;
            if (to.major >= n)
                break;
            if (e < eighths)
                place_8<codes::in_order>(xs + to.major * pitch + e / 4 * 64, e & 3, v[j].v);
            if (codes::has_offset)
                keep_sum<D>(sums + (e < eighths ? to.major : n) * sum_pitch, e, v[j].sum(), group);
        }
    }
}

// ---------------------------------------------------------------- steps

// Waits for the oldest of the `stages` steps of a ring, LEAST to 4.
template <int LEAST> __device__ __forceinline__ void few_wait(int stages)
{
    if (stages == 4)
        copies_wait<3>();
    else if (stages == 3)
        copies_wait<2>();
    else if (LEAST == 2 || stages == 2)
        copies_wait<1>();
    else
        copies_wait<0>();
    __syncwarp();
}

template <class D> GQMM_HD constexpr int few_warp_bytes(int stages)
{
    return stages * ROWS * row_pitch<D>() + scale_table<D, 1>::bytes;
}

// 16 rows of an expert from `row` on or, with `up`, 8 of each of two matrices that lie alike.
template <class D>
__device__ __forceinline__ row_block few_rows(const gqmm_cuda_matrix &w, const gqmm_cuda_matrix &up,
                                              int expert, int64_t row, int count)
{
    row_block b;
    b.halves = up.plane[0] != NULL;
    b.count = count;
#pragma unroll
    for (int i = 0; i < D::planes; i++) {
        b.stride[i] = w.row_stride[i];
        b.first[i] = w.plane[i] + expert * w.expert_stride[i] + row * w.row_stride[i];
        b.second[i] = up.plane[i] - w.plane[i];
    }
    return b;
}

} // namespace gqmm

#endif
