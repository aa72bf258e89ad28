// SPDX-License-Identifier: MIT
// How every kernel of the room is launched.
#ifndef GQMM_KERNEL_CUDA_LAUNCH_CUH
#define GQMM_KERNEL_CUDA_LAUNCH_CUH

#include "kernel/cuda.h"

#include <cuda_runtime.h>

namespace gqmm
{

// What the present device has of something; `otherwise` where there is none.
inline int device_has(cudaDeviceAttr what, int otherwise)
{
    int device = 0, n = 0;
    if (cudaGetDevice(&device) == cudaSuccess &&
        cudaDeviceGetAttribute(&n, what, device) == cudaSuccess)
        return n;
    (void)cudaGetLastError();
    return otherwise;
}

inline int multiprocessors()
{
    return device_has(cudaDevAttrMultiProcessorCount, 132);
}

// Lets a kernel have more than the 48 KB of dynamic shared memory that need no asking. It asks for
// all that there is and so always for the same, as other threads may launch the kernel meanwhile.
// And a multiprocessor that shares its memory out alike for all kernels can begin one while another
// still runs there. Kernels that have it are remembered: asking costs a third of a launch.
inline cudaError_t allow_shared(const void *kernel)
{
    static uintptr_t allowed[1024];
    cudaFuncAttributes has;
    int device = 0, most = 0;
    cudaError_t error = cudaGetDevice(&device);
    const uintptr_t key = (uintptr_t)kernel * 64 + (uintptr_t)device;
    uintptr_t *slot = &allowed[(uintptr_t)kernel / 16 % 1024];
    if (error != cudaSuccess || __atomic_load_n(slot, __ATOMIC_RELAXED) == key)
        return error;
    if ((error = cudaFuncGetAttributes(&has, kernel)) != cudaSuccess ||
        (error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device)) !=
            cudaSuccess ||
        (error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      most - (int)has.sharedSizeBytes)) != cudaSuccess ||
        (error = cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                      cudaSharedmemCarveoutMaxShared)) != cudaSuccess)
        return error;
    __atomic_store_n(slot, key, __ATOMIC_RELAXED);
    return error;
}

// Enqueues kernel(args...) on s, in clusters of `cluster` blocks (1: none; more needs
// GQMM_CUDA_SM90) with `shared` bytes of dynamic shared memory. On GQMM_CUDA_SM90 the kernel may
// start before the one ahead of it on the stream has ended: it must call wait_for_previous() in
// some thread, and in every thread that touches what others write or read, before it does. Returns
// a cudaError_t and leaves no error behind that a later cudaGetLastError() could meet.
template <class... P, class... A>
int launch_cluster(void (*kernel)(P...), dim3 grid, dim3 block, int cluster, size_t shared,
                   gqmm_stream s, int path, const A &...args)
{
    cudaError_t error = allow_shared((const void *)kernel);
    cudaLaunchAttribute attribute[2] = {};
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    config.stream = s;
    config.attrs = attribute;
    if (path == GQMM_CUDA_SM90) {
        cudaLaunchAttribute *a = &attribute[config.numAttrs++];
        a->id = cudaLaunchAttributeProgrammaticStreamSerialization;
        a->val.programmaticStreamSerializationAllowed = 1;
    }
    if (cluster > 1) {
        cudaLaunchAttribute *a = &attribute[config.numAttrs++];
        a->id = cudaLaunchAttributeClusterDimension;
        a->val.clusterDim.x = (unsigned)cluster;
        a->val.clusterDim.y = a->val.clusterDim.z = 1;
    }
    if (error == cudaSuccess)
        error = cudaLaunchKernelEx(&config, kernel, P(args)...);
    if (error != cudaSuccess)
        (void)cudaGetLastError();
    return (int)error;
}

template <class... P, class... A>
int launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, gqmm_stream s, int path,
           const A &...args)
{
    return launch_cluster(kernel, grid, block, 1, shared, s, path, args...);
}

} // namespace gqmm

#endif
