// SPDX-License-Identifier: MIT
// Pairs by expert: a counting sort that keeps the order of pairs inside an expert, so that results
// and timings repeat, and the tiles that the products walk.
//
// Up to some ten thousand pairs are sorted by one launch of blocks that do not wait for each other:
// each counts the classes of all pairs, those before its own chunk apart, and so knows the places
// of its chunk and of every tile. Further blocks of that launch bring x into the order in which
// wide tiles want it. For more pairs three launches count, plan and place: there each warp ranks a
// contiguous run of pairs, 32 at a time, by matching lanes against each other and a histogram of
// its own in shared memory; sums over the warps before it, over the blocks before it and over the
// classes before make the places.
#include "kernel/cuda/launch.cuh"
#include "kernel/cuda/sort_ranks.cuh"

namespace gqmm
{
namespace
{

constexpr int THREADS = 512;        // of a block of the one launch
constexpr int PAIRS_A_BLOCK = 4096; // of the three launches, until there are MOST_BLOCKS
constexpr int MOST_BLOCKS = 128;

// ---- one launch

// x into the order of a wide product, beside the sort.
__device__ __forceinline__ void bring_x(const sort_args &a)
{
    using namespace wide_product;
    const uint32_t at = ((blockIdx.x - a.n_blocks) * (THREADS * AT_ONCE) + threadIdx.x) / 4;
    switch (a.order_of_x) {
    case SERIAL:
        return bring_pieces<SERIAL>(a.x, at, THREADS / 4);
    case NIBBLE:
        return bring_pieces<NIBBLE>(a.x, at, THREADS / 4);
    case HALVES:
        return bring_pieces<HALVES>(a.x, at, THREADS / 4);
    case CROSSED:
        return bring_pieces<CROSSED>(a.x, at, THREADS / 4);
    case BYTES:
        return bring_pieces<BYTES>(a.x, at, THREADS / 4);
    default:
        return bring_pieces<NATIVE>(a.x, at, THREADS / 4);
    }
}

// Counts all pairs, those from `begin` on in after[], and keeps the classes of [begin, begin +
// count) in own[].
__device__ __forceinline__ void count_pairs(const sort_args &a, uint32_t *before, uint32_t *after,
                                            uint32_t *own, int begin, int count)
{
    const int pairs = (int)a.n_pairs;
    if (!a.plain) {
        const int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
#pragma unroll 1
        for (int p = warp * (ROUNDS * 32); p < pairs; p += THREADS * ROUNDS) {
            int code[ROUNDS];
            load_classes(code, a, p + lane, pairs);
#pragma unroll
            for (int i = 0; i < ROUNDS; i++) {
                const int at = p + lane + 32 * i - begin;
                if (code[i] >= 0)
                    atomicAdd((at < 0 ? before : after) + code[i], 1u);
                if (at >= 0 && at < count)
                    own[at] = (uint32_t)code[i];
            }
        }
        return;
    }
    constexpr int GROUPS = 4; // of four pairs that a thread loads at once
    const uint32_t n = (uint32_t)a.n_experts;
    bool bad = false;
#pragma unroll 1
    for (int p = (int)threadIdx.x * 4; p < pairs; p += GROUPS * THREADS * 4) {
        uint4 v[GROUPS];
#pragma unroll
        for (int i = 0; i < GROUPS; i++)
            if (p + i * THREADS * 4 < pairs)
                v[i] = *(const uint4 *)(a.rhs + p + i * THREADS * 4);
#pragma unroll
        for (int i = 0; i < GROUPS; i++) {
            const int at = p + i * THREADS * 4 - begin;
            uint32_t *counts = at < 0 ? before : after;
            if (p + i * THREADS * 4 >= pairs)
                break;
            bad = bad || v[i].x + 1 > n || v[i].y + 1 > n || v[i].z + 1 > n || v[i].w + 1 > n;
            v[i] = make_uint4(min(v[i].x, n), min(v[i].y, n), min(v[i].z, n), min(v[i].w, n));
            atomicAdd(counts + v[i].x, 1u);
            atomicAdd(counts + v[i].y, 1u);
            atomicAdd(counts + v[i].z, 1u);
            atomicAdd(counts + v[i].w, 1u);
            if (at >= 0 && at < count)
                *(uint4 *)(own + at) = v[i];
        }
    }
    if (bad && a.fault)
        atomicOr(a.fault, GQMM_FAULT_EXPERT);
}

// Shared memory: pairs of each class before the block's chunk and from there on, and the classes of
// the chunk.
__global__ void __launch_bounds__(THREADS) sort_kernel(const __grid_constant__ sort_args a)
{
    extern __shared__ __align__(16) uint8_t memory[];
    __shared__ tally shared[MOST_WARPS];
    uint32_t *base = (uint32_t *)memory, *all = base + a.pitch, *own = all + a.pitch;
    const int lane = (int)threadIdx.x % 32, begin = (int)blockIdx.x * a.chunk;
    const int count = min((int)a.n_pairs - begin, a.chunk);

#pragma unroll 1 // here and below: code that runs once is brought as data is
    for (int c = (int)threadIdx.x; c < 2 * a.pitch; c += THREADS)
        base[c] = 0;
    __syncthreads();
    wait_for_previous();
    let_next_start();
    if ((int)blockIdx.x >= a.n_blocks)
        return bring_x(a);
    count_pairs(a, base, all, own, begin, count);
    __syncthreads();
#pragma unroll 1
    for (int c = (int)threadIdx.x; c <= a.n_experts; c += THREADS)
        all[c] += base[c];
    __syncthreads();
    plan_classes(a, all, base, shared, (int)blockIdx.x, a.n_blocks, nullptr);
    __syncthreads();
#pragma unroll 1
    for (int i = (int)threadIdx.x; i < (count + 31) / 32 * 32; i += THREADS) {
        const uint32_t c = i < count ? own[i] : ~0u;
        uint32_t at = (uint32_t)__popc(__match_any_sync(~0u, c) & ((1u << lane) - 1));
#pragma unroll 2
        for (int j = 0; j < i / 32 * 32; j += 4) {
            const uint4 other = *(const uint4 *)(own + j);
            at += (other.x == c) + (other.y == c) + (other.z == c) + (other.w == c);
        }
        if (i < count)
            a.order[base[c] + at] = begin + i;
    }
}

// ---- three launches

__global__ void __launch_bounds__(MOST_WARPS * 32) count_kernel(const __grid_constant__ sort_args a)
{
    extern __shared__ __align__(16) uint8_t memory[];
    uint32_t *total = (uint32_t *)memory;
    const int classes = a.n_experts + 1;
    for (int c = (int)threadIdx.x; c < classes; c += (int)blockDim.x)
        total[c] = 0;
    __syncthreads();
    wait_for_previous();
    let_next_start();
    const int64_t begin = (int64_t)blockIdx.x * a.chunk;
    const int64_t end = begin + a.chunk < a.n_pairs ? begin + a.chunk : a.n_pairs;
    const int64_t step = (int64_t)blockDim.x / 32 * ROUNDS * 32;
    for (int64_t p = begin; p < end; p += step) {
        int code[ROUNDS];
        load_classes(code, a, p + threadIdx.x / 32 * ROUNDS * 32 + threadIdx.x % 32, end);
#pragma unroll
        for (int i = 0; i < ROUNDS; i++)
            if (code[i] >= 0)
                atomicAdd(&total[code[i]], 1u);
    }
    __syncthreads();
    for (int c = (int)threadIdx.x; c < classes; c += (int)blockDim.x)
        a.counts[(int64_t)blockIdx.x * classes + c] = total[c];
}

// counts become the sums over the blocks before.
__global__ void __launch_bounds__(MOST_WARPS * 32) plan_kernel(const __grid_constant__ sort_args a)
{
    extern __shared__ __align__(16) uint8_t memory[];
    __shared__ tally shared[MOST_WARPS];
    uint32_t *all = (uint32_t *)memory, *base = all + a.pitch;
    const int classes = a.n_experts + 1;
    wait_for_previous();
    let_next_start();
    for (int c = (int)threadIdx.x; c < classes; c += (int)blockDim.x) {
        uint32_t sum = 0;
        for (int b = 0; b < a.n_blocks; b += 8) {
            uint32_t v[8];
#pragma unroll
            for (int i = 0; i < 8; i++)
                v[i] = b + i < a.n_blocks ? a.counts[(int64_t)(b + i) * classes + c] : 0;
#pragma unroll
            for (int i = 0; i < 8; i++) {
                if (b + i < a.n_blocks)
                    a.counts[(int64_t)(b + i) * classes + c] = sum;
                sum += v[i];
            }
        }
        all[c] = sum;
        base[c] = 0;
    }
    __syncthreads();
    plan_classes(a, all, base, shared, 0, 1, a.tile_at);
}

__global__ void __launch_bounds__(MOST_WARPS * 32) place_kernel(const __grid_constant__ sort_args a)
{
    extern __shared__ __align__(16) uint8_t memory[];
    __shared__ tally shared[MOST_WARPS];
    const int warp = (int)threadIdx.x / 32, warps = (int)blockDim.x / 32;
    const int classes = a.n_experts + 1;
    uint16_t *counters = (uint16_t *)memory, *row = counters + warp * a.pitch;
    uint32_t *total = (uint32_t *)(memory + a.counter_bytes), *base = total + a.pitch;
    uint32_t *starts = base + a.pitch;
    wait_for_previous();
    let_next_start();
    for (int c0 = 0; c0 < classes; c0 += (int)blockDim.x) {
        const int c = c0 + (int)threadIdx.x;
        uint32_t first = 0, pairs = 0, tile = 0;
        if (c < classes) {
            first = (uint32_t)a.first[c];
            pairs = (uint32_t)a.first[c + 1] - first;
            tile = (uint32_t)a.tile_at[c];
            base[c] = first + a.counts[(int64_t)blockIdx.x * classes + c];
        }
        write_tiles(a, c, first, pairs, tiles_of(a, pairs), tile, (int)blockIdx.x, a.n_blocks);
    }
    const int64_t begin = (int64_t)blockIdx.x * a.chunk;
    const int64_t end = begin + a.chunk < a.n_pairs ? begin + a.chunk : a.n_pairs;
    const int64_t step = (int64_t)warps * ROUNDS * 32;
    for (int64_t p = begin; p < end; p += step) {
        int code[ROUNDS];
        clear_counters(row, a.pitch);
        __syncwarp();
        load_classes(code, a, p + warp * ROUNDS * 32 + (int)threadIdx.x % 32, end);
        rank_classes(code, row, a);
        __syncthreads();
        sum_over_warps(counters, total, a.pitch);
        __syncthreads();
        start_classes(starts, total, a, shared);
        __syncthreads();
        place(code, a, row, starts, base, (uint32_t *)memory, p,
              (int)(end - p < step ? end - p : step));
        __syncthreads();
        for (int c = (int)threadIdx.x; c < classes; c += (int)blockDim.x)
            base[c] += total[c];
    }
}

// ---- the host's side

int pitch_of(int32_t n_experts)
{
    return (n_experts + 1 + 7) / 8 * 8;
}

// The counters of the warps, or their pairs in their place.
size_t counter_bytes(int32_t n_experts, int warps)
{
    const size_t a_warp = (size_t)pitch_of(n_experts) * 2, pairs = ROUNDS * 32 * 4;
    return (size_t)warps * (a_warp > pairs ? a_warp : pairs);
}

size_t class_bytes(int32_t n_experts, int words)
{
    return (size_t)pitch_of(n_experts) * (size_t)words * 4;
}

// What a block may have: on sm_86 and sm_89 99 KB, on sm_90 227 KB, of which 5 KB are static.
size_t most_shared(int path)
{
    return (size_t)(path == GQMM_CUDA_SM90 ? 222 : 94) * 1024;
}

// As many as shared memory has counters for; 0: not even one.
int warps_of(int32_t n_experts, int path)
{
    int warps = MOST_WARPS;
    while (warps > 0 &&
           counter_bytes(n_experts, warps) + class_bytes(n_experts, 3) > most_shared(path))
        warps /= 2;
    return warps;
}

// Pairs that a block of one launch places.
int32_t chunk_of(int64_t n_pairs)
{
    const int64_t each = (n_pairs + MOST_BLOCKS * 32 - 1) / (MOST_BLOCKS * 32);
    return (int32_t)(each > 1 ? each : 1) * 32;
}

// Whether one launch serves them.
bool one_launch(int64_t n_pairs, int32_t n_experts, int path)
{
    return n_pairs <= GQMM_CUDA_SORT_BRINGS &&
           class_bytes(n_experts, 2) + (size_t)chunk_of(n_pairs) * 4 <= most_shared(path);
}

int blocks_of(int64_t n_pairs)
{
    const int64_t n = (n_pairs + PAIRS_A_BLOCK - 1) / PAIRS_A_BLOCK;
    return n < MOST_BLOCKS ? (int)n : MOST_BLOCKS;
}

int launch_one(sort_args a, int path, gqmm_stream s)
{
    const int64_t bringing = a.order_of_x < 0 ? 0 : wide_product::order_blocks(a.x, THREADS);
    a.chunk = chunk_of(a.n_pairs);
    a.n_blocks = a.n_pairs > 0 ? (int32_t)((a.n_pairs + a.chunk - 1) / a.chunk) : 1;
    a.plain =
        a.rhs && !a.lhs && a.rhs_stride == 1 && a.n_pairs % 4 == 0 && (uintptr_t)a.rhs % 16 == 0;
    return launch(sort_kernel, dim3((unsigned)(a.n_blocks + bringing)), dim3(THREADS),
                  class_bytes(a.n_experts, 2) + (size_t)a.chunk * 4, s, path, a);
}

int launch_three(sort_args a, int warps, void *scratch, int path, gqmm_stream s)
{
    const int classes = a.n_experts + 1;
    const dim3 block((unsigned)warps * 32);
    const size_t words = (size_t)a.pitch * sizeof(uint32_t);
    a.n_blocks = blocks_of(a.n_pairs);
    a.chunk = (int32_t)((a.n_pairs + a.n_blocks - 1) / a.n_blocks);
    a.counter_bytes = (int32_t)counter_bytes(a.n_experts, warps);
    a.counts = (uint32_t *)scratch;
    a.tile_at = (int32_t *)(a.counts + (int64_t)a.n_blocks * classes);
    const dim3 grid((unsigned)a.n_blocks);
    int error = launch(count_kernel, grid, dim3(MOST_WARPS * 32), words, s, path, a);
    if (!error)
        error = launch(plan_kernel, dim3(1), dim3(MOST_WARPS * 32), 2 * words, s, path, a);
    if (!error)
        error = launch(place_kernel, grid, block,
                       (size_t)a.counter_bytes + class_bytes(a.n_experts, 3), s, path, a);
    return error;
}

} // namespace
} // namespace gqmm

using namespace gqmm;

size_t gqmm_cuda_sort_scratch(int64_t n_pairs, int32_t n_experts)
{
    if (one_launch(n_pairs, n_experts, GQMM_CUDA_SM80))
        return 0; // nor does the other path need any
    return ((size_t)blocks_of(n_pairs) + 1) * ((size_t)n_experts + 1) * sizeof(uint32_t);
}

int32_t gqmm_cuda_most_tiles(int64_t n_pairs, int64_t m, int32_t n_experts, int32_t tile_columns)
{
    // n classes of x > 0 columns have sum of ceil(x / tile) <= n + (all - n) / tile tiles.
    const int64_t n = n_pairs < (int64_t)n_experts + 1 ? n_pairs : (int64_t)n_experts + 1;
    const int64_t tiles = n + (n_pairs * m - n) / tile_columns;
    return tiles < INT32_MAX ? (int32_t)tiles : INT32_MAX;
}

int gqmm_cuda_sort(const gqmm_cuda_product *p, int32_t x_order, void *scratch, int path,
                   gqmm_stream s)
{
    const int32_t n_experts = p->w.n_experts;
    const int warps = warps_of(n_experts, path);
    if (warps == 0 || p->n_pairs > INT32_MAX || p->m < 1 || p->list.tile_columns < 1 ||
        p->n_pairs > INT32_MAX / p->m)
        return (int)cudaErrorInvalidValue;
    sort_args a = {};
    a.rhs = p->rhs;
    a.lhs = p->lhs;
    a.rhs_stride = p->rhs_stride;
    a.lhs_stride = p->lhs_stride;
    a.n_x = p->n_x;
    a.n_pairs = p->n_pairs;
    a.n_experts = n_experts;
    a.expert = p->expert;
    a.fault = p->fault;
    a.order = p->list.order;
    a.first = p->list.first;
    a.n_tiles = p->list.n_tiles;
    a.taken = p->list.taken;
    a.tiles = p->list.tiles;
    a.tile_columns = (uint32_t)p->list.tile_columns;
    a.m = (uint32_t)p->m;
    a.pitch = pitch_of(n_experts);
    while (a.bits < 31 && 1 << a.bits <= n_experts + 1)
        a.bits++;
    a.few_tiles = gqmm_cuda_most_tiles(p->n_pairs, p->m, n_experts, p->list.tile_columns) < 1 << 16;
    a.order_of_x = (x_order & 15) - 1;
    a.x = wide_product::order_of(p);
    if (one_launch(p->n_pairs, n_experts, path))
        return launch_one(a, path, s);
    return launch_three(a, warps, scratch, path, s);
}
