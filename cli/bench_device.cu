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

/* Two bf16 numbers from 0.5 to 2 with random signs. */
static __device__ unsigned random_pair(unsigned i)
{
    i = (i ^ 61u ^ i >> 16) * 0x27d4eb2du;
    i ^= i >> 15;
    return (i & 0x80ff80ffu) | 0x3f003f00u;
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
/* Rows of 128 bytes, swizzled: eight of them are 1024 bytes. */
static __device__ unsigned long long tile_at(const void *p)
{
    const unsigned a = (unsigned)__cvta_generic_to_shared(p);
    return (unsigned long long)(a >> 4 & 0x3fffu) | 1ull << 16 | 64ull << 32 | 1ull << 62;
}

static __device__ void multiply(float (&c)[128], unsigned long long a, unsigned long long b)
{
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, "
        "%30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, "
        "%44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, "
        "%58, %59, %60, %61, %62, %63, %64, %65, %66, %67, %68, %69, %70, %71, "
        "%72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, "
        "%86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, "
        "%100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, "
        "%111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, "
        "%122, %123, %124, %125, %126, %127"
        "}, %128, %129, 1, 1, 1, 0, 0;"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]),
          "+f"(c[7]), "+f"(c[8]), "+f"(c[9]), "+f"(c[10]), "+f"(c[11]), "+f"(c[12]), "+f"(c[13]),
          "+f"(c[14]), "+f"(c[15]), "+f"(c[16]), "+f"(c[17]), "+f"(c[18]), "+f"(c[19]), "+f"(c[20]),
          "+f"(c[21]), "+f"(c[22]), "+f"(c[23]), "+f"(c[24]), "+f"(c[25]), "+f"(c[26]), "+f"(c[27]),
          "+f"(c[28]), "+f"(c[29]), "+f"(c[30]), "+f"(c[31]), "+f"(c[32]), "+f"(c[33]), "+f"(c[34]),
          "+f"(c[35]), "+f"(c[36]), "+f"(c[37]), "+f"(c[38]), "+f"(c[39]), "+f"(c[40]), "+f"(c[41]),
          "+f"(c[42]), "+f"(c[43]), "+f"(c[44]), "+f"(c[45]), "+f"(c[46]), "+f"(c[47]), "+f"(c[48]),
          "+f"(c[49]), "+f"(c[50]), "+f"(c[51]), "+f"(c[52]), "+f"(c[53]), "+f"(c[54]), "+f"(c[55]),
          "+f"(c[56]), "+f"(c[57]), "+f"(c[58]), "+f"(c[59]), "+f"(c[60]), "+f"(c[61]), "+f"(c[62]),
          "+f"(c[63]), "+f"(c[64]), "+f"(c[65]), "+f"(c[66]), "+f"(c[67]), "+f"(c[68]), "+f"(c[69]),
          "+f"(c[70]), "+f"(c[71]), "+f"(c[72]), "+f"(c[73]), "+f"(c[74]), "+f"(c[75]), "+f"(c[76]),
          "+f"(c[77]), "+f"(c[78]), "+f"(c[79]), "+f"(c[80]), "+f"(c[81]), "+f"(c[82]), "+f"(c[83]),
          "+f"(c[84]), "+f"(c[85]), "+f"(c[86]), "+f"(c[87]), "+f"(c[88]), "+f"(c[89]), "+f"(c[90]),
          "+f"(c[91]), "+f"(c[92]), "+f"(c[93]), "+f"(c[94]), "+f"(c[95]), "+f"(c[96]), "+f"(c[97]),
          "+f"(c[98]), "+f"(c[99]), "+f"(c[100]), "+f"(c[101]), "+f"(c[102]), "+f"(c[103]),
          "+f"(c[104]), "+f"(c[105]), "+f"(c[106]), "+f"(c[107]), "+f"(c[108]), "+f"(c[109]),
          "+f"(c[110]), "+f"(c[111]), "+f"(c[112]), "+f"(c[113]), "+f"(c[114]), "+f"(c[115]),
          "+f"(c[116]), "+f"(c[117]), "+f"(c[118]), "+f"(c[119]), "+f"(c[120]), "+f"(c[121]),
          "+f"(c[122]), "+f"(c[123]), "+f"(c[124]), "+f"(c[125]), "+f"(c[126]), "+f"(c[127])
        : "l"(a), "l"(b));
}

/* Two warpgroups of 64 rows each by the same 256 columns; K is 64, again and again. */
static __device__ float spin(unsigned char *memory, int steps)
{
    const int group = threadIdx.x / 128;
    const unsigned long long a = tile_at(memory + 8192 * group), b = tile_at(memory + 16384);
    float c[128] = {0}, sum = 0;
    for (int s = 0; s < steps; s++) {
        asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#    pragma unroll
        for (int k = 0; k < 4; k++)
            multiply(c, a + 2 * k, b + 2 * k);
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

/* As many multiply-adds as the other one: 128 x 256 x 64 a step for the block's eight warps. */
static __device__ float spin(unsigned char *memory, int steps)
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
    return sum;
}
#endif

__global__ void __launch_bounds__(PEAK_THREADS, 1) peak(int steps, float *sink, int *kind)
{
    extern __shared__ __align__(1024) unsigned char memory[];
    for (unsigned i = threadIdx.x; i < PEAK_BYTES / 4; i += PEAK_THREADS)
        ((unsigned *)memory)[i] = random_pair(i);
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    const int by = 1;
#else
    const int by = 0;
#endif
    __syncthreads();
    const float sum = spin(memory, steps);
    if (blockIdx.x == 0 && threadIdx.x == 0)
        *kind = by;
    if (sum == 1.2345f)
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

static bool matrix_rate(bench_device *d, int repeats, int processors)
{
    const cudaStream_t s = stream_of(d);
    float *sink = nullptr;
    int kind = 0;
    double us = 0;
    bool ok =
        good(cudaMalloc(&sink, 64)) &&
        good(cudaFuncSetAttribute(peak, cudaFuncAttributeMaxDynamicSharedMemorySize, PEAK_BYTES));
    ok = ok && median_of(d, repeats, &us, [&] {
             peak<<<processors, PEAK_THREADS, PEAK_BYTES, s>>>(PEAK_STEPS, sink, (int *)sink + 4);
             return cudaGetLastError();
         });
    ok = ok && good(cudaMemcpyAsync(&kind, (int *)sink + 4, 4, cudaMemcpyDeviceToHost, s)) &&
         good(cudaStreamSynchronize(s));
    d->matrix = 1e6 * (double)processors * PEAK_STEPS * (128.0 * 256 * 64) / us;
    d->matrix_by = kind ? "wgmma" : "mma.sync";
    cudaFree(sink);
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
