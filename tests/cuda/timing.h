// SPDX-License-Identifier: MIT
// How long launches take, from graphs of many.
#ifndef TESTS_CUDA_TIMING_H
#define TESTS_CUDA_TIMING_H

#include <cuda_runtime.h>
#include <stdio.h>
#include <stdlib.h>

#include <algorithm>
#include <vector>

#define CUDA(call) \
    do { \
        const int error_ = (int)(call); \
        if (error_) { \
            printf("FAIL %s:%d: %s\n", __FILE__, __LINE__, \
                   cudaGetErrorString((cudaError_t)error_)); \
            exit(1); \
        } \
    } while (0)

struct span {
    double median, least, most;
};

// Microseconds of one call(stream, i), out of `runs` runs of a graph of `calls`.
template <class F> static span time_of(int calls, int runs, const F &call)
{
    cudaStream_t s;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaEvent_t begin, end;
    std::vector<double> us;
    CUDA(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
    CUDA(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < calls; i++)
        call(s, i);
    CUDA(cudaStreamEndCapture(s, &graph));
    CUDA(cudaGraphInstantiate(&exec, graph, 0));
    CUDA(cudaEventCreate(&begin));
    CUDA(cudaEventCreate(&end));
    for (int i = -3; i < runs; i++) {
        float ms;
        CUDA(cudaEventRecord(begin, s));
        CUDA(cudaGraphLaunch(exec, s));
        CUDA(cudaEventRecord(end, s));
        CUDA(cudaEventSynchronize(end));
        CUDA(cudaEventElapsedTime(&ms, begin, end));
        if (i >= 0)
            us.push_back(ms * 1e3 / calls);
    }
    CUDA(cudaEventDestroy(begin));
    CUDA(cudaEventDestroy(end));
    CUDA(cudaGraphExecDestroy(exec));
    CUDA(cudaGraphDestroy(graph));
    CUDA(cudaStreamDestroy(s));
    std::sort(us.begin(), us.end());
    return {us[us.size() / 2], us.front(), us.back()};
}

#endif
