// SPDX-License-Identifier: MIT
// Attention over the cache in fp32, for one token or a few: positions are cut into splits, a block
// takes one split and the queries that share its keys, and the block that ends last blends them.
// Where the sequence ends is read on the device, so a captured launch serves every position.
#include "model/cuda/attention.cuh"

namespace gqmm_model
{

namespace
{

constexpr int WARPS = 4;  // of a block
constexpr int UNROLL = 4; // keys of a warp that are under way together
constexpr int MOST_SPLITS = 64;
constexpr int LEAST_SPAN = 64; // positions of a split
constexpr int BLOCKS = 264;    // about two for each multiprocessor of the largest devices
constexpr int FEW_TOKENS = 8;

struct few_args {
    attention_view v;
    float *part;     // [token, split, head, head_dim + 2]
    unsigned *count; // [token, blockIdx.y] splits that are done, back to 0 at the end
    int queries;     // of a block, of those that share keys
    int chunks;      // blocks for all of them
    int most_splits;
};

// A running maximum (in powers of 2), sum and weighted sum of values of one query.
template <int V> struct state {
    float max, sum, y[V];
};

template <int V> __device__ void load_row(float (&r)[V], const float *row, int dim, int lane)
{
#pragma unroll
    for (int i = 0; i < V; i++)
        r[i] = lane + 32 * i < dim ? row[lane + 32 * i] : 0.0f;
}

// Positions [begin, end) that this warp takes, blended into s.
template <int V, int G>
__device__ void walk(const few_args &a, const float (&q)[G][V], state<V> (&s)[G], int group,
                     int64_t begin, int64_t end)
{
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, dim = a.v.head_dim;
    const float *keys = a.v.k + group * a.v.capacity * dim;
    const float *values = a.v.v + group * a.v.capacity * dim;
    for (int64_t at = begin + warp * UNROLL; at < end; at += WARPS * UNROLL) {
        float k[UNROLL][V], v[UNROLL][V], score[UNROLL][G];
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            const int64_t row = at + u < end ? at + u : end - 1;
            load_row<V>(k[u], keys + row * dim, dim, lane);
            load_row<V>(v[u], values + row * dim, dim, lane);
        }
#pragma unroll
        for (int u = 0; u < UNROLL; u++)
#pragma unroll
            for (int g = 0; g < G; g++) {
                float dot = 0;
#pragma unroll
                for (int i = 0; i < V; i++)
                    dot = fmaf(q[g][i], k[u][i], dot);
                dot = warp_sum(dot);
                score[u][g] = at + u < end ? dot : -INFINITY;
            }
#pragma unroll
        for (int g = 0; g < G; g++) {
            float max = s[g].max; // finite after this: the first position is always seen
#pragma unroll
            for (int u = 0; u < UNROLL; u++)
                max = fmaxf(max, score[u][g]);
            const float shrink = exp2f(s[g].max - max);
            s[g].max = max;
            s[g].sum *= shrink;
#pragma unroll
            for (int i = 0; i < V; i++)
                s[g].y[i] *= shrink;
#pragma unroll
            for (int u = 0; u < UNROLL; u++) {
                const float p = exp2f(score[u][g] - max);
                s[g].sum += p;
#pragma unroll
                for (int i = 0; i < V; i++)
                    s[g].y[i] = fmaf(p, v[u][i], s[g].y[i]);
            }
        }
    }
}

// The last block of a group: all splits' sums into y.
template <int G>
__device__ void blend(const few_args &a, int token, int first_head, int n, int active)
{
    __shared__ float weight[MOST_SPLITS][G];
    const int dim = a.v.head_dim, step = a.v.n_heads * (dim + 2);
    const float *part =
        a.part + ((int64_t)token * a.most_splits * a.v.n_heads + first_head) * (dim + 2);
    for (int g = threadIdx.x; g < n; g += blockDim.x) {
        const float *p = part + g * (dim + 2);
        float max = -INFINITY, sum = 0;
        for (int s = 0; s < active; s++)
            max = fmaxf(max, __ldcg(p + (int64_t)s * step));
        for (int s = 0; s < active; s++) {
            weight[s][g] = exp2f(__ldcg(p + (int64_t)s * step) - max);
            sum += weight[s][g] * __ldcg(p + (int64_t)s * step + 1);
        }
        for (int s = 0; s < active; s++)
            weight[s][g] /= sum;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < n * dim; i += blockDim.x) {
        const int g = i / dim, d = i % dim;
        const float *p = part + g * (dim + 2) + 2 + d;
        float y = 0;
        for (int s = 0; s < active; s++)
            y = fmaf(weight[s][g], __ldcg(p + (int64_t)s * step), y);
        a.v.y[((int64_t)token * a.v.n_heads + first_head + g) * dim + d] = y;
    }
}

// What the warps of a block found, as one; then to y, or to `part` and the block that ends last.
template <int V, int G>
__device__ void store(const few_args &a, const state<V> (&s)[G], int token, int first_head, int n,
                      int split, int active)
{
    __shared__ float max[WARPS][G], sum[WARPS][G], y[WARPS][G][32 * V];
    __shared__ bool last;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, dim = a.v.head_dim;
#pragma unroll
    for (int g = 0; g < G; g++) {
        if (lane == 0) {
            max[warp][g] = s[g].max;
            sum[warp][g] = s[g].sum;
        }
#pragma unroll
        for (int i = 0; i < V; i++)
            y[warp][g][lane + 32 * i] = s[g].y[i];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < n * dim; i += blockDim.x) {
        const int g = i / dim, d = i % dim, head = first_head + g;
        float top = max[0][g], total = 0, value = 0;
        for (int w = 1; w < WARPS; w++)
            top = fmaxf(top, max[w][g]);
        for (int w = 0; w < WARPS; w++) {
            const float scale = exp2f(max[w][g] - top); // 0 where a warp had no position
            total = fmaf(sum[w][g], scale, total);
            value = fmaf(y[w][g][d], scale, value);
        }
        if (active == 1) {
            a.v.y[((int64_t)token * a.v.n_heads + head) * dim + d] = value / total;
            continue;
        }
        float *part =
            a.part + (((int64_t)token * a.most_splits + split) * a.v.n_heads + head) * (dim + 2);
        part[2 + d] = value;
        if (d == 0) {
            part[0] = top;
            part[1] = total;
        }
    }
    if (active == 1)
        return;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        unsigned *count = a.count + (int64_t)token * gridDim.y + blockIdx.y;
        last = atomicAdd(count, 1u) == (unsigned)active - 1;
        if (last)
            *count = 0;
    }
    __syncthreads();
    if (last) {
        __threadfence();
        blend<G>(a, token, first_head, n, active);
    }
}

template <int V, int G> __global__ void __launch_bounds__(32 * WARPS) few_kernel(few_args a)
{
    const int split = blockIdx.x, token = blockIdx.z, lane = threadIdx.x % 32, dim = a.v.head_dim;
    const int group = blockIdx.y / a.chunks, shared = a.v.n_heads / a.v.n_kv_heads;
    const int from = blockIdx.y % a.chunks * a.queries;
    const int n = shared - from < a.queries ? shared - from : a.queries;
    const int first_head = group * shared + from;
    enter();
    const int64_t length = *a.v.length + a.v.ahead + token + 1;
    int64_t span = (length + gridDim.x - 1) / gridDim.x;
    span = span < LEAST_SPAN ? LEAST_SPAN : (span + 31) / 32 * 32;
    const int64_t begin = split * span, end = begin + span < length ? begin + span : length;
    if (begin >= length)
        return;
    float q[G][V];
    state<V> s[G];
#pragma unroll
    for (int g = 0; g < G; g++) {
        const int head = first_head + (g < n ? g : 0);
        load_row<V>(q[g], a.v.q + token * a.v.q_stride + head * dim, dim, lane);
#pragma unroll
        for (int i = 0; i < V; i++) {
            q[g][i] *= a.v.scale;
            s[g].y[i] = 0;
        }
        s[g].max = -INFINITY;
        s[g].sum = 0;
    }
    walk<V, G>(a, q, s, group, begin, end);
    store<V, G>(a, s, token, first_head, n, split, (int)((length + span - 1) / span));
}

typedef void (*few_kernel_t)(few_args);

template <int V> few_kernel_t few_of(int queries)
{
    return queries == 1   ? few_kernel<V, 1>
           : queries == 2 ? few_kernel<V, 2>
           : queries == 4 ? few_kernel<V, 4>
                          : few_kernel<V, 8>;
}

void attend_few(gqmm_context *ctx, const attention_view &v, float *scratch, int64_t n_tokens)
{
    const int shared = v.n_heads / v.n_kv_heads;
    few_args a = {};
    a.v = v;
    a.queries = v.head_dim > 256 ? 1 : shared > 4 ? 8 : shared > 2 ? 4 : shared;
    a.chunks = (shared + a.queries - 1) / a.queries;
    const int parts = v.n_kv_heads * a.chunks;
    const int64_t want = BLOCKS / (parts * n_tokens);
    a.most_splits = want < 1 ? 1 : want > MOST_SPLITS ? MOST_SPLITS : (int)want;
    // Counters first: where they lie must not depend on the call, as they are left at 0.
    a.count = (unsigned *)scratch;
    a.part = scratch + FEW_TOKENS * v.n_heads;
    const few_kernel_t kernel = v.head_dim > 256   ? few_kernel<32, 1>
                                : v.head_dim > 128 ? few_of<8>(a.queries)
                                : v.head_dim > 64  ? few_of<4>(a.queries)
                                : v.head_dim > 32  ? few_of<2>(a.queries)
                                                   : few_of<1>(a.queries);
    launch(ctx, kernel, dim3(a.most_splits, parts, (unsigned)n_tokens), dim3(32 * WARPS), 0, a);
}

} // namespace

// Counters, then parts.
int64_t attend_scratch(int64_t positions, int32_t n_heads, int32_t head_dim)
{
    (void)positions;
    return FEW_TOKENS * n_heads * (1 + (int64_t)MOST_SPLITS * (head_dim + 2));
}

void attend(gqmm_context *ctx, const gqmm_attention *op)
{
    const on_device here(ctx);
    attention_view v = {};
    v.y = op->y;
    v.q = op->q;
    v.k = op->kv.k;
    v.v = op->kv.v;
    v.length = op->kv.length;
    v.capacity = op->kv.capacity;
    v.n_heads = op->n_heads;
    v.n_kv_heads = op->kv.n_kv_heads;
    v.head_dim = op->kv.head_dim;
    v.q_stride = op->q_stride ? op->q_stride : (int64_t)op->n_heads * v.head_dim;
    v.scale = op->scale * 1.44269504f; // scores are exponents of 2
    if (op->n_tokens > FEW_TOKENS && v.head_dim <= 256) {
        attend_many(ctx, v, op->n_tokens);
        return;
    }
    const int64_t row = (int64_t)op->n_heads * v.head_dim;
    for (int64_t t = 0; t < op->n_tokens; t += FEW_TOKENS) {
        const int64_t n = op->n_tokens - t < FEW_TOKENS ? op->n_tokens - t : FEW_TOKENS;
        attention_view some = v;
        some.y += t * row;
        some.q += t * v.q_stride;
        some.ahead = t;
        attend_few(ctx, some, op->scratch, n);
    }
}

} // namespace gqmm_model
