// SPDX-License-Identifier: MIT
// Pairs by expert: a counting sort that keeps the order of pairs inside an expert, so that results
// and timings repeat, and the tiles that the products walk.
//
// Each warp ranks a contiguous run of pairs, 32 at a time, by matching lanes against each other and
// a histogram of its own in shared memory; sums over the warps before it, over the blocks before it
// and over the classes before make the places. One block serves some thousand pairs, a cluster of
// eight on sm_90 a hundred thousand; for more, or without clusters, three launches count, plan and
// place.
#include "kernel/cuda/launch.cuh"
#include "kernel/cuda/sort.cuh"

namespace gqmm
{
namespace
{

constexpr int CLUSTER = 8;
constexpr int MOST_ROUNDS = 16;     // of 32 pairs, that a warp keeps in registers
constexpr int PAIRS_A_BLOCK = 4096; // of the three launches, until there are MOST_BLOCKS
constexpr int MOST_BLOCKS = 128;

// ---- one launch: a block, or a cluster of them

__device__ __forceinline__ int cluster_rank()
{
    int rank = 0;
#if __CUDA_ARCH__ >= 900
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#endif
    return rank;
}

__device__ __forceinline__ void cluster_arrive()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.release;" ::: "memory");
#endif
}

__device__ __forceinline__ void cluster_wait()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
#endif
}

// The word at p in the shared memory of another block of the cluster.
__device__ __forceinline__ uint32_t load_of_rank(const uint32_t *p, int rank)
{
    uint32_t v = 0;
#if __CUDA_ARCH__ >= 900
    uint32_t at;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;"
                 : "=r"(at)
                 : "r"(shared_address(p)), "r"(rank));
    asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(v) : "r"(at) : "memory");
#endif
    return v;
}

// Shared memory: counters [warps, pitch] or the block's pairs in order, whichever is larger; then
// of the classes total and base and, in a cluster, all and starts.
template <int ROUNDS, bool CLUSTERED>
__global__ void __launch_bounds__(MOST_WARPS * 32) sort_kernel(const __grid_constant__ sort_args a)
{
    extern __shared__ __align__(16) uint8_t memory[];
    __shared__ tally shared[2][MOST_WARPS];
    const int warp = (int)threadIdx.x / 32, warps = (int)blockDim.x / 32;
    const int rank = CLUSTERED ? cluster_rank() : 0, blocks = CLUSTERED ? CLUSTER : 1;
    uint16_t *counters = (uint16_t *)memory, *row = counters + warp * a.pitch;
    uint32_t *total = (uint32_t *)(memory + a.counter_bytes), *base = total + a.pitch;
    uint32_t *all = CLUSTERED ? base + a.pitch : total, *starts = CLUSTERED ? all + a.pitch : base;

    clear_counters(row, a.pitch);
    __syncwarp();
    wait_for_previous();
    let_next_start();

    int code[ROUNDS];
    const int64_t p0 = (int64_t)rank * warps * a.rounds * 32;
    load_classes(code, a, p0 + warp * a.rounds * 32 + (int)threadIdx.x % 32, a.n_pairs);
    rank_classes(code, row, a);
    __syncthreads();
    sum_over_warps(counters, total, a.pitch);
    if (CLUSTERED)
        cluster_arrive();
    __syncthreads();
    if (CLUSTERED) {
        start_classes(starts, total, a, shared[0]);
        cluster_wait();
    }
    for (int c = (int)threadIdx.x; c <= a.n_experts; c += (int)blockDim.x) {
        uint32_t before = 0, sum = 0;
        if (CLUSTERED) {
            uint32_t n[CLUSTER];
#pragma unroll
            for (int r = 0; r < CLUSTER; r++)
                n[r] = load_of_rank(total + c, r);
#pragma unroll
            for (int r = 0; r < CLUSTER; r++) {
                before += r < rank ? n[r] : 0;
                sum += n[r];
            }
            all[c] = sum;
        }
        base[c] = before;
    }
    if (CLUSTERED)
        cluster_arrive(); // this block has read the others; it may end when they have read it
    __syncthreads();
    plan_classes(a, all, base, shared[1], rank, blocks, nullptr);
    __syncthreads();
    const int64_t left = a.n_pairs - p0, most = (int64_t)warps * a.rounds * 32;
    place(code, a, row, starts, CLUSTERED ? base : nullptr, (uint32_t *)memory, p0,
          (int)(left < most ? left : most));
    if (CLUSTERED)
        cluster_wait();
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
    const int64_t step = (int64_t)blockDim.x / 32 * a.rounds * 32;
    for (int64_t p = begin; p < end; p += step) {
        int code[4];
        load_classes(code, a, p + threadIdx.x / 32 * a.rounds * 32 + threadIdx.x % 32, end);
#pragma unroll
        for (int i = 0; i < 4; i++)
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
    const int64_t step = (int64_t)warps * a.rounds * 32;
    for (int64_t p = begin; p < end; p += step) {
        int code[4];
        clear_counters(row, a.pitch);
        __syncwarp();
        load_classes(code, a, p + warp * a.rounds * 32 + (int)threadIdx.x % 32, end);
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

// The counters of the warps, or `rounds` of their pairs in their place.
size_t counter_bytes(int32_t n_experts, int warps, int rounds)
{
    const size_t a_warp = (size_t)pitch_of(n_experts) * 2, pairs = (size_t)rounds * 32 * 4;
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
    const size_t words = class_bytes(n_experts, path == GQMM_CUDA_SM90 ? 4 : 3);
    int warps = MOST_WARPS;
    while (warps > 0 && counter_bytes(n_experts, warps, MOST_ROUNDS) + words > most_shared(path))
        warps /= 2;
    return warps;
}

// Pairs that one block sorts no slower than a cluster does, or three launches.
int64_t most_of_block(int32_t n_experts, int path)
{
    const int64_t fast = path == GQMM_CUDA_SM90 ? 1024 : 4096;
    const int64_t most = (int64_t)warps_of(n_experts, path) * 32 * MOST_ROUNDS;
    return fast < most ? fast : most;
}

int blocks_of(int64_t n_pairs)
{
    const int64_t n = (n_pairs + PAIRS_A_BLOCK - 1) / PAIRS_A_BLOCK;
    return n < MOST_BLOCKS ? (int)n : MOST_BLOCKS;
}

template <bool CLUSTERED> int launch_one(sort_args a, int warps, int path, gqmm_stream s)
{
    const dim3 grid(CLUSTERED ? CLUSTER : 1), block((unsigned)warps * 32);
    a.counter_bytes = (int32_t)counter_bytes(a.n_experts, warps, a.rounds);
    const size_t bytes = (size_t)a.counter_bytes + class_bytes(a.n_experts, CLUSTERED ? 4 : 2);
    auto *kernel = a.rounds <= 4   ? sort_kernel<4, CLUSTERED>
                   : a.rounds <= 8 ? sort_kernel<8, CLUSTERED>
                                   : sort_kernel<MOST_ROUNDS, CLUSTERED>;
    return launch_cluster(kernel, grid, block, CLUSTERED ? CLUSTER : 1, bytes, s, path, a);
}

int launch_three(sort_args a, int warps, void *scratch, int path, gqmm_stream s)
{
    const int classes = a.n_experts + 1;
    const dim3 block((unsigned)warps * 32);
    const size_t words = (size_t)a.pitch * sizeof(uint32_t);
    a.n_blocks = blocks_of(a.n_pairs);
    a.chunk = (int32_t)((a.n_pairs + a.n_blocks - 1) / a.n_blocks);
    a.rounds = 4;
    a.counter_bytes = (int32_t)counter_bytes(a.n_experts, warps, a.rounds);
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
    if (n_pairs <= most_of_block(n_experts, GQMM_CUDA_SM80) &&
        n_pairs <= most_of_block(n_experts, GQMM_CUDA_SM90))
        return 0;
    return ((size_t)blocks_of(n_pairs) + 1) * ((size_t)n_experts + 1) * sizeof(uint32_t);
}

int32_t gqmm_cuda_most_tiles(int64_t n_pairs, int64_t m, int32_t n_experts, int32_t tile_columns)
{
    // n classes of x > 0 columns have sum of ceil(x / tile) <= n + (all - n) / tile tiles.
    const int64_t n = n_pairs < (int64_t)n_experts + 1 ? n_pairs : (int64_t)n_experts + 1;
    const int64_t tiles = n + (n_pairs * m - n) / tile_columns;
    return tiles < INT32_MAX ? (int32_t)tiles : INT32_MAX;
}

int gqmm_cuda_sort(const gqmm_cuda_product *p, void *scratch, int path, gqmm_stream s)
{
    const int32_t n_experts = p->w.n_experts;
    const int warps = warps_of(n_experts, path);
    const int64_t lanes = (int64_t)warps * 32, most = lanes * MOST_ROUNDS;
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
    a.tiles = p->list.tiles;
    a.tile_columns = (uint32_t)p->list.tile_columns;
    a.m = (uint32_t)p->m;
    a.pitch = pitch_of(n_experts);
    while (a.bits < 31 && 1 << a.bits <= n_experts + 1)
        a.bits++;
    a.few_tiles = gqmm_cuda_most_tiles(p->n_pairs, p->m, n_experts, p->list.tile_columns) < 1 << 16;
    if (p->n_pairs <= most_of_block(n_experts, path)) {
        a.rounds = (int32_t)((p->n_pairs + lanes - 1) / lanes);
        return launch_one<false>(a, warps, path, s);
    }
    if (path == GQMM_CUDA_SM90 && p->n_pairs <= CLUSTER * most) {
        a.rounds = (int32_t)((p->n_pairs + CLUSTER * lanes - 1) / (CLUSTER * lanes));
        return launch_one<true>(a, warps, path, s);
    }
    return launch_three(a, warps, scratch, path, s);
}
