/* SPDX-License-Identifier: MIT */
/* See bench_device.h. The rates are ceilings: reads and copies of gigabytes, and tensor cores that
 * do nothing but multiply random numbers from shared memory. */
#include "bench_device.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <vector>

enum { FLUSH_BYTES = 256 << 20, FLUSHES = 4 }; /* several times any L2 */
static char message[200];

static bool good(cudaError_t status)
{
    if (status != cudaSuccess)
        snprintf(message, sizeof message, "%s", cudaGetErrorString(status));
    return status == cudaSuccess;
}

const char *bench_device_error(void)
{
    return message;
}

static cudaStream_t stream_of(const bench_device *d)
{
    return (cudaStream_t)d->stream;
}

/* ------------------------------------------------------------------ reading */

__global__ void fill(uint4 *p, size_t n)
{
    const size_t step = (size_t)gridDim.x * blockDim.x;
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step)
        p[i] = make_uint4((unsigned)i * 2654435761u, (unsigned)i ^ 0x9e3779b9u, (unsigned)i, 7);
}

/* Eight loads in flight for each thread. */
__global__ void read_all(const uint4 *p, size_t n, unsigned *sink)
{
    const size_t step = (size_t)gridDim.x * blockDim.x;
    unsigned sum = 0;
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += 8 * step) {
        uint4 v[8];
#pragma unroll
        for (int k = 0; k < 8; k++)
            v[k] = i + k * step < n ? __ldcs(p + i + k * step) : make_uint4(0, 0, 0, 0);
#pragma unroll
        for (int k = 0; k < 8; k++)
            sum += v[k].x ^ v[k].y ^ v[k].z ^ v[k].w;
    }
    if (sum == 0x12345678u) /* never, but the compiler cannot know */
        *sink = sum;
}

/* ------------------------------------------------------------------ multiplying */

enum { PEAK_STEPS = 4096, PEAK_THREADS = 256, PEAK_BYTES = 2 * 8192 + 32768 };

static __device__ unsigned random_word(unsigned i)
{
    i = (i ^ 61u ^ i >> 16) * 0x27d4eb2du;
    return i ^ i >> 15;
}

/* Two bf16 numbers from 0.5 to 2 with random signs. */
static __device__ unsigned random_pair(unsigned i)
{
    return (random_word(i) & 0x80ff80ffu) | 0x3f003f00u;
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
/* Rows of 128 bytes, swizzled: eight of them are 1024 bytes. */
static __device__ unsigned long long tile_at(const void *p)
{
    const unsigned a = (unsigned)__cvta_generic_to_shared(p);
    return (unsigned long long)(a >> 4 & 0x3fffu) | 1ull << 16 | 64ull << 32 | 1ull << 62;
}

#    define NUMBERS \
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, " \
        "%30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, " \
        "%44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, " \
        "%58, %59, %60, %61, %62, %63, %64, %65, %66, %67, %68, %69, %70, %71, " \
        "%72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, " \
        "%86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, " \
        "%100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
        "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, " \
        "%124, %125, %126, %127"
#    define SUMS(i) "+r"(c[i]), "+r"(c[i + 1]), "+r"(c[i + 2]), "+r"(c[i + 3])
#    define SUMS_16(i) SUMS(i), SUMS(i + 4), SUMS(i + 8), SUMS(i + 12)
#    define MULTIPLY(what, how) \
        asm volatile("wgmma.mma_async.sync.aligned.m64n256" what " {" NUMBERS \
                     "}, %128, %129, " how \
                     : SUMS_16(0), SUMS_16(16), SUMS_16(32), SUMS_16(48), SUMS_16(64), \
                       SUMS_16(80), SUMS_16(96), SUMS_16(112) \
                     : "l"(a), "l"(b))

template <bool INT8>
static __device__ void multiply(unsigned (&c)[128], unsigned long long a, unsigned long long b)
{
    if (INT8)
        MULTIPLY("k32.s32.s8.s8", "1;");
    else
        MULTIPLY("k16.f32.bf16.bf16", "1, 1, 1, 0, 0;");
}

/* Two warpgroups of 64 rows each by the same 256 columns; K is 64, of bytes 128, again and again.
 */
template <bool INT8> static __device__ unsigned spin(unsigned char *memory, int steps)
{
    const int group = threadIdx.x / 128;
    const unsigned long long a = tile_at(memory + 8192 * group), b = tile_at(memory + 16384);
    unsigned c[128] = {0}, sum = 0;
    for (int s = 0; s < steps; s++) {
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#    pragma unroll
        for (int k = 0; k < 4; k++)
            multiply<INT8>(c, a + 2 * k, b + 2 * k);
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
        asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    }
    for (int i = 0; i < 128; i++)
        sum += c[i];
    return sum;
}
#else
static __device__ void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* As many multiply-adds as the other one: 128 x 256 x 64 a step for the block's eight warps. Bytes
 * are not measured here. */
template <bool INT8> static __device__ unsigned spin(unsigned char *memory, int steps)
{
    const unsigned *from = (const unsigned *)memory + threadIdx.x * 16;
    unsigned a[4], b[16];
    float c[16][4] = {}, sum = 0;
    for (int i = 0; i < 4; i++)
        a[i] = from[i];
    for (int i = 0; i < 16; i++)
        b[i] = from[i];
    for (int s = 0; s < steps; s++)
#    pragma unroll
        for (int i = 0; i < 128; i++)
            multiply(c[i % 16], a, b[i % 16], b[(i + 5) % 16]);
    for (int i = 0; i < 16; i++)
        sum += c[i][0] + c[i][1] + c[i][2] + c[i][3];
    return __float_as_uint(sum);
}
#endif

template <bool INT8>
__global__ void __launch_bounds__(PEAK_THREADS, 1) peak(int steps, unsigned *sink, int *kind)
{
    extern __shared__ __align__(1024) unsigned char memory[];
    for (unsigned i = threadIdx.x; i < PEAK_BYTES / 4; i += PEAK_THREADS)
        ((unsigned *)memory)[i] = INT8 ? random_word(i) : random_pair(i);
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    const int by = 1;
#else
    const int by = 0;
#endif
    __syncthreads();
    const unsigned sum = spin<INT8>(memory, steps);
    if (blockIdx.x == 0 && threadIdx.x == 0)
        *kind = by;
    if (sum == 0x12345678u)
        *sink = sum;
}

/* ------------------------------------------------------------------ timing */

/* Microseconds of work() by events. */
template <class Work> static bool time_of(const bench_device *d, double *us, Work work)
{
    cudaEvent_t begin = nullptr, end = nullptr;
    float ms = 0;
    bool ok = good(cudaEventCreate(&begin)) && good(cudaEventCreate(&end)) &&
              good(cudaEventRecord(begin, stream_of(d)));
    ok = ok && good(work()) && good(cudaEventRecord(end, stream_of(d))) &&
         good(cudaEventSynchronize(end)) && good(cudaEventElapsedTime(&ms, begin, end));
    if (begin)
        cudaEventDestroy(begin);
    if (end)
        cudaEventDestroy(end);
    *us = 1e3 * ms;
    return ok;
}

/* The median of `n` times. */
template <class Work> static bool median_of(const bench_device *d, int n, double *us, Work work)
{
    std::vector<double> all((size_t)n);
    for (double &one : all)
        if (!time_of(d, &one, work))
            return false;
    std::sort(all.begin(), all.end());
    *us = all[all.size() / 2];
    return true;
}

/* ------------------------------------------------------------------ the interface */

bool bench_device_open(bench_device *d, int index)
{
    cudaStream_t stream;
    int l2 = 0;
    size_t free_bytes = 0, all = 0;
    if (!good(cudaSetDevice(index)) ||
        !good(cudaDeviceGetAttribute(&l2, cudaDevAttrL2CacheSize, index)) ||
        !good(cudaMemGetInfo(&free_bytes, &all)) ||
        !good(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking)))
        return false;
    d->l2_bytes = l2;
    if (!good(cudaMalloc(&d->memory, FLUSH_BYTES)))
        return false;
    d->free_bytes = (int64_t)free_bytes;
    d->stream = stream;
    return true;
}

void bench_device_close(bench_device *d)
{
    if (d->stream)
        cudaStreamDestroy(stream_of(d));
    cudaFree(d->memory);
    d->stream = d->memory = nullptr;
}

static bool memory_rates(bench_device *d, int repeats, int processors)
{
    const size_t bytes = (size_t)1 << (repeats > 1 ? 30 : 28), n = bytes / sizeof(uint4);
    const cudaStream_t s = stream_of(d);
    uint4 *from = nullptr, *to = nullptr;
    double us = 0;
    bool ok = good(cudaMalloc(&from, bytes)) && good(cudaMalloc(&to, bytes));
    if (ok) {
        fill<<<8 * processors, 512, 0, s>>>(from, n);
        ok = good(cudaGetLastError()) && median_of(d, repeats, &us, [&] {
                 return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, s);
             });
        d->copy = 2e6 * (double)bytes / us;
    }
    if (ok) {
        ok = median_of(d, repeats, &us, [&] {
            read_all<<<4 * processors, 512, 0, s>>>(from, n, (unsigned *)to);
            return cudaGetLastError();
        });
        d->read = 1e6 * (double)bytes / us;
    }
    cudaFree(from);
    cudaFree(to);
    return ok;
}

/* Microseconds of the peak kernel; kind: whether by wgmma. */
template <bool INT8>
static bool time_peak(bench_device *d, int repeats, int processors, double *us, int *kind)
{
    const cudaStream_t s = stream_of(d);
    unsigned *sink = nullptr;
    bool ok = good(cudaMalloc(&sink, 64)) &&
              good(cudaFuncSetAttribute(peak<INT8>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        PEAK_BYTES));
    ok = ok && median_of(d, repeats, us, [&] {
             peak<INT8>
                 <<<processors, PEAK_THREADS, PEAK_BYTES, s>>>(PEAK_STEPS, sink, (int *)sink + 4);
             return cudaGetLastError();
         });
    ok = ok && good(cudaMemcpyAsync(kind, (int *)sink + 4, 4, cudaMemcpyDeviceToHost, s)) &&
         good(cudaStreamSynchronize(s));
    cudaFree(sink);
    return ok;
}

static bool matrix_rate(bench_device *d, int repeats, int processors)
{
    const double work = 1e6 * (double)processors * PEAK_STEPS * (128.0 * 256 * 64);
    double us = 0;
    int kind = 0;
    bool ok = time_peak<false>(d, repeats, processors, &us, &kind);
    d->matrix = work / us;
    d->matrix_by = kind ? "wgmma" : "mma.sync";
    if (ok && kind) {
        ok = time_peak<true>(d, repeats, processors, &us, &kind);
        d->int8 = 2 * work / us;
    }
    return ok;
}

bool bench_device_rates(bench_device *d, bool hurry)
{
    int index = 0, processors = 0;
    if (!good(cudaGetDevice(&index)) ||
        !good(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, index)))
        return false;
    /* The first pass is there for the clocks, which rise under load. */
    return (hurry || matrix_rate(d, 40, processors)) &&
           memory_rates(d, hurry ? 1 : 11, processors) &&
           matrix_rate(d, hurry ? 1 : 11, processors);
}

bool bench_graph_begin(const bench_device *d)
{
    return good(cudaStreamBeginCapture(stream_of(d), cudaStreamCaptureModeGlobal));
}

void *bench_graph_end(const bench_device *d)
{
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    if (!good(cudaStreamEndCapture(stream_of(d), &graph)))
        return nullptr;
    if (!good(cudaGraphInstantiate(&exec, graph, 0)) || !good(cudaGraphUpload(exec, stream_of(d))))
        exec = nullptr;
    cudaGraphDestroy(graph);
    return exec;
}

bool bench_graph_time(const bench_device *d, void *graph, double *us)
{
    /* Several passes, so that the graph is in the queue before they end. */
    for (int i = 0; i < FLUSHES; i++)
        read_all<<<512, 512, 0, stream_of(d)>>>((const uint4 *)d->memory,
                                                FLUSH_BYTES / sizeof(uint4), (unsigned *)d->memory);
    if (!good(cudaGetLastError()))
        return false;
    return time_of(d, us, [&] { return cudaGraphLaunch((cudaGraphExec_t)graph, stream_of(d)); });
}

void bench_graph_free(void *graph)
{
    if (graph)
        cudaGraphExecDestroy((cudaGraphExec_t)graph);
}
