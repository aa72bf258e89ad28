// SPDX-License-Identifier: MIT
// A warp's weights on their way, in direct.cuh and direct_stay.cuh.
#ifndef GQMM_KERNEL_CUDA_DIRECT_WALK_CUH
#define GQMM_KERNEL_CUDA_DIRECT_WALK_CUH

#include "kernel/cuda/direct_lanes.cuh"
#include "kernel/cuda/direct_tiles.cuh"

namespace gqmm
{

// The warp's part of its block's work: row tiles `group` and every 2^group_bits-th after of each
// stretch, and of each of these step `mine` of K and every share-th after.
struct direct_share {
    int mine, share, group, group_bits, own_steps, per_tile;
};

// The warp's steps, those of all the block's stretches one after the other. ONE: a row tile has one
// of them.
template <class L, class I, bool ONE> struct direct_asker {
    typename L::rows rows;
    typename L::places places;
    int64_t to_tile[L::planes]; // from the last step of a row tile to the first of the next
    int to_step;                // in steps
    int left, step;             // of this stretch, of this row tile
    I at, end;

    // It has no steps until `at` and `end` are set.
    __device__ __forceinline__ direct_asker(const gqmm_cuda_product &p, const direct_share &w,
                                            int lane)
        : places(lane), to_step(w.share), left(0)
    {
#pragma unroll
        for (int i = 0; i < L::planes; i++) {
            to_tile[i] = (w.per_tile << w.group_bits) * p.w.row_stride[i] -
                         (ONE ? 0 : (w.own_steps - 1) * w.share * L::bytes(i));
            keep(to_tile[i]);
        }
    }

    __device__ __forceinline__ void point_at(const gqmm_cuda_product &p, const direct_share &w,
                                             int expert, int64_t row, int lane)
    {
        int64_t by[L::planes], second[L::planes]; // from the first eight rows to the last
#pragma unroll
        for (int i = 0; i < L::planes; i++) {
            by[i] = expert * p.w.expert_stride[i];
            second[i] = p.up.plane[0]
                            ? p.up.plane[i] - p.w.plane[i] + expert * p.up.expert_stride[i] - by[i]
                            : 8 * p.w.row_stride[i];
            by[i] += w.mine * L::bytes(i);
        }
        rows.set(p.w, row, second, lane);
        rows.move(by);
    }

    // The steps of the next stretch that has any.
    template <class R>
    __device__ __forceinline__ void go_on(const gqmm_cuda_product &p, const direct_share &w,
                                          R row_tiles, int lane, const direct_columns &tiles)
    {
        while (left <= 0 && at < end) {
            const direct_stretch s(at, end, row_tiles);
            const int expert = tiles.expert(p, s.tile);
            at += s.n;
            if (expert < 0 || s.n <= w.group)
                continue;
            left = (((s.n - w.group - 1) >> w.group_bits) + 1) * w.own_steps;
            step = w.own_steps;
            point_at(p, w, expert, (int64_t)(s.first + w.group) * w.per_tile, lane);
        }
    }

    __device__ __forceinline__ void bring(uint32_t stage, const direct_share &w, int lane)
    {
        if (left > 0)
            rows.bring(stage, places, lane);
        copies_commit();
        left--;
        if (!ONE && --step > 0) {
            int64_t by[L::planes];
#pragma unroll
            for (int i = 0; i < L::planes; i++)
                by[i] = to_step * L::bytes(i);
            rows.move(by);
        } else {
            rows.move(to_tile);
            step = w.own_steps;
        }
    }
};

} // namespace gqmm

#endif
