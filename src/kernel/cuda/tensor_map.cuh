// SPDX-License-Identifier: MIT
// The driver's maker of tensor maps, found at run time: the library links no driver.
#ifndef GQMM_KERNEL_CUDA_TENSOR_MAP_CUH
#define GQMM_KERNEL_CUDA_TENSOR_MAP_CUH

#include <cuda.h>
#include <cuda_runtime.h>

namespace gqmm
{

typedef CUresult (*tensor_encoder)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *,
                                   const cuuint64_t *, const cuuint64_t *, const cuuint32_t *,
                                   const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle,
                                   CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

// NULL: a driver without it.
inline tensor_encoder find_tensor_encoder()
{
    void *found = NULL;
    cudaDriverEntryPointQueryResult how;
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault,
                                         &how) != cudaSuccess ||
        how != cudaDriverEntryPointSuccess) {
        (void)cudaGetLastError();
        return NULL;
    }
    return (tensor_encoder)found;
}

} // namespace gqmm

#endif
