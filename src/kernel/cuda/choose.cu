// SPDX-License-Identifier: MIT
// The choice of experts as a launch of its own.
#include "kernel/cuda/choose.cuh"
#include "kernel/cuda/launch.cuh"
#include "kernel/cuda/mma.cuh"

namespace gqmm
{
namespace
{

constexpr int WARPS = 4;

template <class K> __global__ void __launch_bounds__(WARPS * 32) choose_kernel(gqmm_cuda_topk t)
{
    wait_for_previous();
    let_next_start();
    const int64_t token = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    if (token < t.n_tokens)
        choose<K>(t, token);
}

} // namespace
} // namespace gqmm

using namespace gqmm;

int gqmm_cuda_choose(const gqmm_cuda_topk *given, int path, gqmm_stream s)
{
    gqmm_cuda_topk t = *given;
    const int64_t blocks = (t.n_tokens + WARPS - 1) / WARPS;
    if (blocks == 0)
        return 0;
    if (blocks > INT32_MAX)
        return (int)cudaErrorInvalidValue;
    if (t.routed_scale == 0.0f)
        t.routed_scale = 1.0f;
    auto *kernel = t.n_experts <= 32     ? choose_kernel<held_keys<1>>
                   : t.n_experts <= 64   ? choose_kernel<held_keys<2>>
                   : t.n_experts <= 128  ? choose_kernel<held_keys<4>>
                   : t.n_experts <= 256  ? choose_kernel<held_keys<8>>
                   : t.n_experts <= 512  ? choose_kernel<held_keys<16>>
                   : t.n_experts <= 1024 ? choose_kernel<held_keys<32>>
                                         : choose_kernel<sought_keys>;
    return launch(kernel, dim3((unsigned)blocks), dim3(WARPS * 32), 0, s, path, t);
}
