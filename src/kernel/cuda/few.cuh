// SPDX-License-Identifier: MIT
// What the kernels of few columns share: what warps take in turn, weights on their way.
#ifndef GQMM_KERNEL_CUDA_FEW_CUH
#define GQMM_KERNEL_CUDA_FEW_CUH

#include "kernel/cuda/product.cuh"

namespace gqmm
{

// Pairs (major, minor), minor < n, of which every `stride`-th is taken.
struct few_items {
    int major, minor, by_major, by_minor, n;

    __device__ __forceinline__ few_items(int first, int stride, int n_)
        : major(first / n_), minor(first % n_), by_major(stride / n_), by_minor(stride % n_), n(n_)
    {
    }
    // The same without divisions: the stride in whole and in rest, and 1 / n.
    __device__ __forceinline__ few_items(int first, int by_major_, int by_minor_, int n_,
                                         float part)
        : major((int)(((float)first + 0.5f) * part)), minor(first - major * n_),
          by_major(by_major_), by_minor(by_minor_), n(n_)
    {
    }
    __device__ __forceinline__ void move(int &major_, int &minor_) const
    {
        major_ += by_major;
        minor_ += by_minor;
        if (minor_ >= n) {
            minor_ -= n;
            major_++;
        }
    }
    __device__ __forceinline__ void advance()
    {
        move(major, minor);
    }
};

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

// Whether rows of a plane start at multiples of `align`.
inline bool rows_at(const gqmm_cuda_matrix &w, int plane, int align)
{
    return (uintptr_t)w.plane[plane] % align == 0 && w.row_stride[plane] % align == 0;
}

} // namespace gqmm

#endif
