// SPDX-License-Identifier: MIT
// SwiGLU on its own, for gates and ups that no single kernel reads.
#include "kernel/cuda.h"
#include "kernel/cuda/activations.cuh"
#include "kernel/cuda/epilogue.cuh"
#include "kernel/cuda/launch.cuh"
#include "kernel/cuda/mma.cuh"

namespace
{

__global__ void silu_kernel(void *h, int h_type, const float *gate, const float *up, int64_t n)
{
    gqmm::wait_for_previous();
    gqmm::let_next_start();
    const int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step)
        gqmm::store_number(h, i, h_type, gqmm::silu(gate[i]) * up[i]);
}

} // namespace

extern "C" int32_t gqmm_cuda_best_path(void)
{
    cudaFuncAttributes a;
    if (cudaFuncGetAttributes(&a, (const void *)silu_kernel) != cudaSuccess) {
        (void)cudaGetLastError();
        return GQMM_CUDA_SM80;
    }
    return a.ptxVersion == 90 ? GQMM_CUDA_SM90 : GQMM_CUDA_SM80;
}

extern "C" int gqmm_cuda_silu(void *h, int32_t h_type, const float *gate, const float *up,
                              int64_t n, int path, gqmm_stream s)
{
    const int64_t blocks = (n + 255) / 256;
    return gqmm::launch(silu_kernel, dim3((unsigned)(blocks < 2112 ? blocks : 2112)), dim3(256), 0,
                        s, path, h, (int)h_type, gate, up, n);
}
