// SPDX-License-Identifier: MIT
// Norms, rotation, residuals on the device, and the model layer's table for it.
#include "model/cuda/launch.cuh"

extern "C" {
#include "base/status.h"
}

namespace gqmm_model
{

thread_local cudaError_t failure = cudaSuccess;

namespace
{

// ---- norms and residuals

struct norm_args {
    float *y, *x;
    const float *add, *weight;
    float eps;
    int64_t n;
};

// A block for each row.
__global__ void norm_kernel(norm_args a)
{
    __shared__ float part[32];
    const int64_t row = blockIdx.x * a.n;
    float sum = 0;
    enter();
    for (int64_t i = threadIdx.x; i < a.n; i += blockDim.x) {
        float v = a.x[row + i];
        if (a.add) {
            v += a.add[row + i];
            a.x[row + i] = v;
        }
        sum = fmaf(v, v, sum);
    }
    if (!a.y)
        return;
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0)
        part[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = warp_sum(threadIdx.x % 32 < blockDim.x / 32 ? part[threadIdx.x % 32] : 0.0f);
    const float scale = 1.0f / sqrtf(sum / (float)a.n + a.eps);
    for (int64_t i = threadIdx.x; i < a.n; i += blockDim.x)
        a.y[row + i] = a.x[row + i] * scale * a.weight[i];
}

void norm(gqmm_context *ctx, float *y, float *x, const float *add, const float *weight, float eps,
          int64_t n_rows, int64_t n)
{
    const norm_args a = {y, x, add, weight, eps, n};
    const unsigned threads = n >= 4096 ? 1024 : n >= 1024 ? 512 : 128;
    launch(ctx, norm_kernel, dim3((unsigned)n_rows), dim3(threads), 0, a);
}

void add_rows(gqmm_context *ctx, float *x, const float *y, int64_t n_rows, int64_t n)
{
    norm(ctx, nullptr, x, y, nullptr, 0, n_rows, n);
}

// ---- rotation

struct rope_args {
    float *table;
    const double *inv_freq;
    const int64_t *length;
    int64_t n; // of the table
    int half;
};

// Angles stay in double, as on the CPU.
__global__ void rope_kernel(rope_args a)
{
    const int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
    enter();
    if (i >= a.n)
        return;
    const int64_t t = i / a.half, k = i % a.half;
    double s, c;
    sincos((double)(*a.length + t) * a.inv_freq[k], &s, &c);
    a.table[t * 2 * a.half + k] = (float)c;
    a.table[t * 2 * a.half + a.half + k] = (float)s;
}

void rope(gqmm_context *ctx, float *table, const double *inv_freq, const int64_t *length,
          int64_t n_rows, int32_t n_rot)
{
    const rope_args a = {table, inv_freq, length, n_rows * (n_rot / 2), n_rot / 2};
    launch(ctx, rope_kernel, dim3((unsigned)((a.n + 127) / 128)), dim3(128), 0, a);
}

// ---- heads

struct heads_args {
    gqmm_head_norm_rope q, k;
    const float *v;
    gqmm_kv kv;
    int64_t n; // heads of all tokens: queries, keys, values
};

// x normed and rotated, to `to`; a warp has it in `row` of shared memory.
__device__ void norm_rope_head(float *to, const float *x, const gqmm_head_norm_rope &op,
                               const float *table, float *row)
{
    const int lane = threadIdx.x % 32, half = op.n_rot / 2;
    float sum = 0;
    for (int d = lane; d < op.head_dim; d += 32)
        sum = fmaf(x[d], x[d], sum);
    const float scale = 1.0f / sqrtf(warp_sum(sum) / (float)op.head_dim + op.eps);
    for (int d = lane; d < op.head_dim; d += 32)
        row[d] = x[d] * scale * op.weight[d];
    __syncwarp();
    for (int d = lane; d < op.head_dim; d += 32) {
        if (d >= op.n_rot) {
            to[d] = row[d];
        } else if (d < half) {
            to[d] = row[d] * table[d] - row[d + half] * table[half + d];
        } else {
            to[d] = row[d] * table[d - half] + row[d - half] * table[d];
        }
    }
}

// A warp for each head of queries, keys and values of a token.
__global__ void heads_kernel(heads_args a)
{
    extern __shared__ float rows[];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, dim = a.kv.head_dim;
    const int64_t i = blockIdx.x * (int64_t)(blockDim.x / 32) + warp;
    const int heads = a.q.n_heads, shared = a.kv.n_kv_heads, all = heads + 2 * shared;
    const int64_t t = i / all;
    const int head = (int)(i % all),
              group = head < heads + shared ? head - heads : head - heads - shared;
    float *row = rows + warp * dim;
    enter();
    if (i >= a.n)
        return;
    const float *table = a.q.table + t * a.q.n_rot;
    if (head < heads) {
        float *x = a.q.x + t * a.q.stride + head * dim;
        norm_rope_head(x, x, a.q, table, row);
        return;
    }
    const int64_t to = (group * a.kv.capacity + *a.kv.length + t) * dim;
    const int64_t from = t * a.k.stride + group * dim;
    if (head < heads + shared) {
        norm_rope_head(a.kv.k + to, a.k.x + from, a.k, table, row);
        return;
    }
    for (int d = lane; d < dim; d += 32)
        a.kv.v[to + d] = a.v[from + d];
}

void heads(gqmm_context *ctx, const gqmm_head_norm_rope *q, const gqmm_head_norm_rope *k,
           const gqmm_kv *kv, const float *v)
{
    heads_args a = {*q, *k, v, *kv, q->n_rows * (q->n_heads + 2 * kv->n_kv_heads)};
    if (!q->stride)
        a.q.stride = (int64_t)q->n_heads * q->head_dim;
    if (!k->stride)
        a.k.stride = (int64_t)k->n_heads * k->head_dim;
    const int warps = 4;
    launch(ctx, heads_kernel, dim3((unsigned)((a.n + warps - 1) / warps)), dim3(32 * warps),
           warps * kv->head_dim * sizeof(float), a);
}

// ---- memory, graphs

gqmm_status status_of(cudaError_t error, const char *what, gqmm_error *err)
{
    if (error == cudaSuccess)
        return GQMM_OK;
    (void)cudaGetLastError();
    return gqmm_fail(err, error == cudaErrorMemoryAllocation ? GQMM_E_NOMEM : GQMM_E_DEVICE, 0,
                     "%s: CUDA says %s", what, cudaGetErrorString(error));
}

// What failed since the last time that somebody asked.
cudaError_t take_failure()
{
    const cudaError_t error = failure;
    failure = cudaSuccess;
    return error;
}

gqmm_status finish(gqmm_context *ctx, gqmm_error *err)
{
    const gqmm_status status = status_of(take_failure(), "enqueuing a layer", err);
    const gqmm_status waited = gqmm_synchronize(ctx, status ? nullptr : err);
    return status ? status : waited;
}

void clear(gqmm_context *ctx, void *memory, size_t bytes)
{
    const on_device here(ctx);
    note(cudaMemsetAsync(memory, 0, bytes, stream_of(ctx)));
}

void *host_alloc(size_t bytes)
{
    void *memory = nullptr;
    if (cudaHostAlloc(&memory, bytes, cudaHostAllocDefault) == cudaSuccess)
        return memory;
    (void)cudaGetLastError();
    return nullptr;
}

void host_free(void *memory)
{
    if (memory)
        (void)cudaFreeHost(memory);
}

gqmm_status record_begin(gqmm_context *ctx, gqmm_error *err)
{
    const on_device here(ctx);
    return status_of(cudaStreamBeginCapture(stream_of(ctx), cudaStreamCaptureModeThreadLocal),
                     "beginning a graph", err);
}

gqmm_status record_end(gqmm_context *ctx, void **recording, gqmm_error *err)
{
    const on_device here(ctx);
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    const cudaError_t ended = cudaStreamEndCapture(stream_of(ctx), &graph);
    gqmm_status status = status_of(take_failure(), "enqueuing a layer", err);
    if (status == GQMM_OK)
        status = status_of(ended, "ending a graph", err);
    if (status == GQMM_OK)
        status = status_of(cudaGraphInstantiate(&exec, graph, 0), "making a graph", err);
    if (graph)
        (void)cudaGraphDestroy(graph);
    (void)cudaGetLastError();
    *recording = exec;
    return status;
}

gqmm_status replay(gqmm_context *ctx, void *recording, gqmm_error *err)
{
    const on_device here(ctx);
    return status_of(cudaGraphLaunch((cudaGraphExec_t)recording, stream_of(ctx)),
                     "starting a graph", err);
}

void forget(void *recording)
{
    (void)cudaGraphExecDestroy((cudaGraphExec_t)recording);
}

const gqmm_remote_ops device_ops = {
    rope, heads, clear, host_alloc, host_free, record_begin, record_end, replay, forget,
};

} // namespace

bool may_overlap()
{
    static thread_local int known = -1;
    static thread_local bool overlaps = false;
    cudaFuncAttributes a;
    int device = 0;
    if (cudaGetDevice(&device) == cudaSuccess && device != known &&
        cudaFuncGetAttributes(&a, (const void *)norm_kernel) == cudaSuccess) {
        overlaps = a.ptxVersion >= 90;
        known = device;
    }
    return overlaps;
}

} // namespace gqmm_model

extern "C" const gqmm_ops gqmm_ops_cuda = {
    "cuda",
    gqmm_model::norm,
    gqmm_model::add_rows,
    nullptr, // norm_rope and store are in heads()
    nullptr,
    gqmm_model::attend,
    gqmm_model::attend_scratch,
    gqmm_model::finish,
    &gqmm_model::device_ops,
};
