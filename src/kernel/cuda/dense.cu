// SPDX-License-Identifier: MIT
// y[m, n] = sum over k of x[m, k] W[n, k], both bf16, for many rows of x: the second half of a
// dense product whose weights were dequantised first. sm_90a.
//
// A block has 64 rows of x for each of its consumers (4 warps) and N rows of W; two blocks of a
// cluster have the same rows of W and bring half of them each, for both. One thread brings tiles of
// 64 along k, several ahead, also of the next of the block's tiles. Both operands lie in shared
// memory in rows of 128 bytes, as the accelerator swizzles them and wgmma reads them.
#include "kernel/cuda.h"
#include "kernel/cuda/activations.cuh"
#include "kernel/cuda/dense_mma.cuh"
#include "kernel/cuda/launch.cuh"
#include "kernel/cuda/tensor_map.cuh"

namespace gqmm
{
namespace dense_product
{

constexpr int BLOCKS = 2;                          // of a cluster
constexpr int STEP = 64;                           // along k
constexpr int OUT = 128, OUT_BYTES = 64 * OUT * 2; // columns that a consumer stores at a time

struct dense_args {
    CUtensorMap x, w, y_map;
    void *y;
    int64_t y_row, m, n;
    int y_type, steps, m_tiles, n_tiles; // tiles of a cluster
    int parts;                           // of K, each to a y of its own
    int y_tiles;                         // y_map may be used
};

template <int CONSUMERS_, int N_> struct dense_shape {
    static constexpr int CONSUMERS = CONSUMERS_, N = N_, ROWS = 64 * CONSUMERS;
    static constexpr int X_BYTES = ROWS * STEP * 2, W_BYTES = N * STEP * 2;
    static constexpr int STAGE = X_BYTES + W_BYTES;
    static constexpr int STAGES = 192 * 1024 / STAGE > 8 ? 8 : 192 * 1024 / STAGE;
    static constexpr int THREADS = 128 * (CONSUMERS + 1);
    static constexpr int BYTES = STAGES * STAGE + CONSUMERS * OUT_BYTES + 1024 + 256;
};

template <class S> struct ring {
    uint32_t data, full, empty;
    int stage = 0;
    uint32_t parity = 0;

    __device__ __forceinline__ explicit ring(uint8_t *shared)
    {
        data = (shared_address(shared) + 1023) & ~1023u;
        full = data + S::STAGES * S::STAGE + S::CONSUMERS * OUT_BYTES;
        empty = full + S::STAGES * 8;
    }
    __device__ __forceinline__ void next()
    {
        if (++stage == S::STAGES) {
            stage = 0;
            parity ^= 1;
        }
    }
};

// What a block of a cluster does in one turn.
struct dense_tile {
    int row, out; // first of the block's rows of x; first of the cluster's rows of W
    int part, begin, end;
};

template <class S>
__device__ __forceinline__ dense_tile tile_at(const dense_args &a, int i, uint32_t rank)
{
    dense_tile t;
    t.part = i % a.parts;
    i /= a.parts;
    // The last rows once more, with the same sums, rather than rows behind the last: the
    // accelerator is slow to fill up what is not there.
    t.row = max(min((i % a.m_tiles * BLOCKS + (int)rank) * S::ROWS, (int)a.m - S::ROWS), 0);
    t.out = i / a.m_tiles * S::N;
    t.begin = a.steps * t.part / a.parts;
    t.end = a.steps * (t.part + 1) / a.parts;
    return t;
}

// Rows `row` and `row` + 8, two columns of every eight.
template <class S>
__device__ __forceinline__ void store_numbers(const float (&c)[S::N / 2], const dense_args &a,
                                              int part, int64_t row, int64_t column)
{
    void *y = (float *)a.y + part * a.m * a.y_row; // one part, unless y is fp32
    const bool pairs = a.y_type == GQMM_F32 && a.y_row % 2 == 0 && (uintptr_t)a.y % 8 == 0;
#pragma unroll
    for (int i = 0; i < S::N / 2; i += 2) {
        const int64_t m = row + (i & 2 ? 8 : 0), n = column + i / 4 * 8;
        if (pairs && m < a.m && n + 1 < a.n) {
            *(float2 *)((float *)y + m * a.y_row + n) = make_float2(c[i], c[i + 1]);
            continue;
        }
        if (m < a.m && n < a.n)
            store_number(y, m * a.y_row + n, a.y_type, c[i]);
        if (m < a.m && n + 1 < a.n)
            store_number(y, m * a.y_row + n + 1, a.y_type, c[i + 1]);
    }
}

template <class S>
__device__ __forceinline__ void bring(ring<S> r, const dense_args &a, uint32_t rank)
{
    const int all = a.m_tiles * a.n_tiles * a.parts;
    r.parity = 1; // stages start empty
    for (int i = blockIdx.x / BLOCKS; i < all; i += gridDim.x / BLOCKS) {
        const dense_tile t = tile_at<S>(a, i, rank);
        const int out = t.out + (int)rank * (S::N / BLOCKS);
        for (int s = t.begin; s < t.end; s++) {
            const uint32_t at = r.data + r.stage * S::STAGE, full = r.full + 8 * r.stage;
            barrier_wait(r.empty + 8 * r.stage, r.parity);
            barrier_expect(full, S::STAGE);
            copy_tile(at, &a.x, s * STEP, t.row, full);
            copy_tile_to(at + S::X_BYTES + rank * (S::W_BYTES / BLOCKS), &a.w, s * STEP, out, full,
                         (1 << BLOCKS) - 1);
            r.next();
        }
    }
}

// The consumer's 64 rows: through shared memory, 128 columns at a time, where 16-bit rows of y are
// aligned, else number by number.
template <class S>
__device__ __forceinline__ void store(const float (&c)[S::N / 2], const ring<S> &r,
                                      const dense_args &a, const dense_tile &t, int who)
{
    const int thread = (int)threadIdx.x % 128, lane = thread % 32, warp = thread / 32;
    const int row0 = t.row + who * 64;
    if (!a.y_tiles) {
        store_numbers<S>(c, a, t.part, row0 + warp * 16 + lane / 4, t.out + lane % 4 * 2);
        return;
    }
    const uint32_t at = r.data + S::STAGES * S::STAGE + who * OUT_BYTES;
    // Rows of 128 bytes, swizzled as the tiles of the operands are.
    const int row = warp * 16 + lane % 16, chunk = lane / 16;
#pragma unroll
    for (int part = 0; part < S::N / OUT; part++) {
        if (thread == 0)
            stores_have_read();
        warps_sync(1 + who, 128);
#pragma unroll
        for (int j = 0; j < OUT / 8; j += 2) {
            const float *from = &c[4 * (part * (OUT / 8) + j)];
            const uint32_t v[4] = {
                pair_of(from[0], from[1], a.y_type), pair_of(from[2], from[3], a.y_type),
                pair_of(from[4], from[5], a.y_type), pair_of(from[6], from[7], a.y_type)};
            const uint32_t swizzled = (uint32_t)((j + chunk) % 8 ^ (row & 7));
            store_8x8x4(at + j / 8 * (OUT_BYTES / 2) + row * 128 + swizzled * 16, v);
        }
        fence_for_wgmma();
        warps_sync(1 + who, 128);
        if (thread == 0) {
            store_tile(&a.y_map, t.out + part * OUT, row0, at);
            store_tile(&a.y_map, t.out + part * OUT + OUT / 2, row0, at + OUT_BYTES / 2);
            stores_commit();
        }
    }
}

template <class S>
__device__ __forceinline__ void consume(ring<S> r, const dense_args &a, uint32_t rank, int who)
{
    const int all = a.m_tiles * a.n_tiles * a.parts, thread = (int)threadIdx.x % 128;
    for (int i = blockIdx.x / BLOCKS; i < all; i += gridDim.x / BLOCKS) {
        const dense_tile t = tile_at<S>(a, i, rank);
        float c[S::N / 2];
        int last = -1;
#pragma unroll
        for (int j = 0; j < S::N / 2; j++)
            c[j] = 0;
        for (int s = t.begin; s < t.end; s++) {
            const uint32_t at = r.data + r.stage * S::STAGE;
            const uint64_t x = wgmma_matrix(at + who * 64 * STEP * 2);
            const uint64_t w = wgmma_matrix(at + S::X_BYTES);
            barrier_wait(r.full + 8 * r.stage, r.parity);
            wgmma_fence();
#pragma unroll
            for (int k = 0; k < STEP / 16; k++)
                wgmma_shared<S::N>::add(c, x + 2 * k, w + 2 * k);
            wgmma_commit();
            // The step before this one has been read, here and so for the other block.
            wgmma_wait<1>();
            if (last >= 0 && thread < BLOCKS)
                barrier_arrive_at(r.empty + 8 * last, thread);
            last = r.stage;
            r.next();
        }
        wgmma_wait<0>();
        if (thread < BLOCKS)
            barrier_arrive_at(r.empty + 8 * last, thread);
        store<S>(c, r, a, t, who);
    }
}

template <class S>
__global__ void __launch_bounds__(S::THREADS, 1) kernel(const __grid_constant__ dense_args a)
{
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    extern __shared__ uint8_t shared[];
    ring<S> r(shared);
    const uint32_t rank = cluster_rank();
    if (threadIdx.x == 0) {
        for (int i = 0; i < S::STAGES; i++) {
            barrier_init(r.full + 8 * i, 1);
            barrier_init(r.empty + 8 * i, BLOCKS * S::CONSUMERS);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    cluster_sync();
    wait_for_previous();
    let_next_start();
    const int who = (int)threadIdx.x / 128;
    if (who == S::CONSUMERS) {
        registers_down<40>();
        if (threadIdx.x % 128 == 0)
            bring<S>(r, a, rank);
    } else {
        registers_up<S::CONSUMERS == 2 ? 232 : 240>();
        consume<S>(r, a, rank, who);
    }
    stores_have_read();
    cluster_sync(); // the other block may still arrive here
#endif
}

// ---------------------------------------------------------------- host

// A matrix of `rows` rows of k bf16, copied in tiles of `height` rows by STEP.
bool describe(CUtensorMap *map, const void *at, int64_t rows, int64_t k, int64_t stride, int height)
{
    static const tensor_encoder encode = find_tensor_encoder();
    const cuuint64_t size[] = {(cuuint64_t)k, (cuuint64_t)rows};
    const cuuint64_t bytes[] = {(cuuint64_t)stride * 2};
    const cuuint32_t box[] = {STEP, (cuuint32_t)height}, step[] = {1, 1};
    return encode && encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, (void *)at, size, bytes, box,
                            step, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                            CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                            CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

template <class S> int start(const gqmm_cuda_dense *d, gqmm_stream s)
{
    dense_args a = {};
    const int64_t size = d->y_type == GQMM_F32 ? 4 : 2;
    int device = 0, blocks = 0;
    a.y = d->y;
    a.y_row = d->y_row;
    a.m = d->m;
    a.n = d->n;
    a.y_type = d->y_type;
    a.steps = (int)((d->k + STEP - 1) / STEP);
    a.m_tiles = (int)((d->m + BLOCKS * S::ROWS - 1) / (BLOCKS * S::ROWS));
    a.n_tiles = (int)((d->n + S::N - 1) / S::N);
    a.parts = d->parts > 1 ? d->parts : 1;
    a.y_tiles = size == 2 && (uintptr_t)d->y % 16 == 0 && d->y_row % 8 == 0;
    if (!describe(&a.x, d->x, d->m, d->k, d->x_row, S::ROWS) ||
        !describe(&a.w, d->w, d->n, d->k, d->w_row, S::N / BLOCKS) ||
        (a.y_tiles && !describe(&a.y_map, d->y, d->m, d->n, d->y_row, 64)))
        return (int)cudaErrorInvalidValue;
    cudaError_t error = cudaGetDevice(&device);
    if (error == cudaSuccess)
        error = cudaDeviceGetAttribute(&blocks, cudaDevAttrMultiProcessorCount, device);
    if (error != cudaSuccess)
        return (int)error;
    blocks = blocks / BLOCKS * BLOCKS;
    const int64_t tiles = (int64_t)a.m_tiles * a.n_tiles * a.parts * BLOCKS;
    return launch_cluster(kernel<S>, dim3((unsigned)(tiles < blocks ? tiles : blocks)),
                          dim3(S::THREADS), BLOCKS, S::BYTES, s, GQMM_CUDA_SM90, a);
}

template <class S> int64_t tiles_of(const gqmm_cuda_dense *d)
{
    return (d->m + BLOCKS * S::ROWS - 1) / (BLOCKS * S::ROWS) * ((d->n + S::N - 1) / S::N);
}

constexpr int MOST_CLUSTERS = 66; // 132 multiprocessors

// In units of a step of the largest tile, `step` of this one.
template <class S> double cost_of(const gqmm_cuda_dense *d, double step)
{
    const int parts = d->parts > 1 ? d->parts : 1;
    const int64_t waves = (tiles_of<S>(d) * parts + MOST_CLUSTERS - 1) / MOST_CLUSTERS;
    return (double)waves * step * ((double)d->k / STEP / parts + 4);
}

} // namespace dense_product
} // namespace gqmm

extern "C" bool gqmm_cuda_dense_fits(const gqmm_cuda_dense *d)
{
    return (uintptr_t)d->x % 16 == 0 && (uintptr_t)d->w % 16 == 0 && d->x_row > 0 &&
           d->x_row % 8 == 0 && d->w_row > 0 && d->w_row % 8 == 0 && d->k > 0 && d->m > 0 &&
           d->n > 0 && d->k <= 1 << 30 && d->m <= 1 << 30 && d->n <= 1 << 30;
}

extern "C" int32_t gqmm_cuda_dense_parts(const gqmm_cuda_dense *d)
{
    using namespace gqmm::dense_product;
    int32_t parts = 4;
    while (parts > 1 &&
           (tiles_of<dense_shape<1, 128>>(d) * parts > MOST_CLUSTERS || d->k < parts * 2 * STEP))
        parts /= 2;
    return parts;
}

// The form whose waves over the multiprocessors end first; what a tile costs beside its steps was
// measured.
extern "C" int gqmm_cuda_dense_product(const gqmm_cuda_dense *d, gqmm_stream s)
{
    using namespace gqmm::dense_product;
    const double big = cost_of<dense_shape<2, 256>>(d, 1.0);
    const double middle = cost_of<dense_shape<2, 128>>(d, 0.53);
    const double small = cost_of<dense_shape<1, 128>>(d, 0.33);
    return small < middle && small < big ? start<dense_shape<1, 128>>(d, s)
           : middle < big                ? start<dense_shape<2, 128>>(d, s)
                                         : start<dense_shape<2, 256>>(d, s);
}
