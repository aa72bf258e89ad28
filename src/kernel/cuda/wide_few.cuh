// SPDX-License-Identifier: MIT
// The wide product for experts of few columns: the tensor memory accelerator brings codes and
// columns as they lie, and consumers multiply by mma.sync, which with few columns costs less than
// wgmma with a left operand in registers.
#ifndef GQMM_KERNEL_CUDA_WIDE_FEW_CUH
#define GQMM_KERNEL_CUDA_WIDE_FEW_CUH

#include "kernel/cuda/tensor_map.cuh"
#include "kernel/cuda/wide_few_load.cuh"
#include "kernel/cuda/wide_few_low.cuh"
#include "kernel/cuda/wide_few_weights.cuh"
#include "kernel/cuda/wide_plan.cuh"
#include "kernel/cuda/wide_store.cuh"

namespace gqmm
{
namespace few_product
{

// Sums of a warp's rows over k, of 8 PARTS columns.
template <int PARTS, class D, class LANES>
__device__ __forceinline__ void main_loop(float (&acc)[2][N / 2], const few_args &a,
                                          const memory<D> &mem, const LANES &c, ring &at)
{
    const int steps = (int)(a.p.k / STEP);
#pragma unroll 1
    for (int step = 0; step < steps; step++) {
        barrier_wait(mem.full(0, at.stage), at.parity);
        c.template do_step<PARTS>(acc, mem, at.stage, step);
        fence_for_wgmma(); // what was read is written by the accelerator next
        barrier_arrive(mem.empty(0, at.stage));
        at.next(STAGES);
    }
}

// Parts of g = 2 t in the low halves, of g = 2 t + 1 in the high ones.
template <int NEXT> __device__ __forceinline__ uint4 in_a_row(const uint32_t (&u)[4])
{
    if (NEXT == 1)
        return make_uint4(u[0], u[1], u[2], u[3]);
    const uint32_t a = __byte_perm(u[0], u[1], 0x5410), b = __byte_perm(u[0], u[1], 0x7632);
    const uint32_t c = __byte_perm(u[2], u[3], 0x5410), d = __byte_perm(u[2], u[3], 0x7632);
    return NEXT == 2 ? make_uint4(a, b, c, d) : make_uint4(a, c, b, d);
}

// Of one matrix, eight neighbours of a column a lane: see row_of().
template <class D>
__device__ __forceinline__ void store_eights(const float (&acc)[2][N / 2], const few_args &a,
                                             const int64_t *y_at, int row_block, int warp, int lane,
                                             int count, float factor)
{
    const int64_t first = (int64_t)row_block * ROWS + 32 * warp + 8 * (lane & 3);
    const int here = first < a.p.n ? count : 0;
#pragma unroll
    for (int j = 0; j < N / 8; j++)
        if (8 * j < count) {
            uint32_t u[4];
#pragma unroll
            for (int part = 0; part < 4; part++) {
                const float *s = acc[part >> 1] + 4 * j + 2 * (part & 1);
                u[part] = wide_product::turn(make_float2(s[0] * factor, s[1] * factor));
            }
            const int column = 8 * j + (lane >> 2);
            if (column < here)
                *(uint4 *)((uint8_t *)a.p.y + (y_at[column] + first) * 2) =
                    in_a_row<few_layout<D>::NEXT>(u);
        }
}

// The same number by number, for any y. Sums move down in their registers, so that this is short.
template <class D>
__device__ __forceinline__ void store_numbers(float (&acc)[2][N / 2], const few_args &a,
                                              const int64_t *y_at, int row_block, int warp,
                                              int lane, int count, float factor)
{
    const int64_t first = (int64_t)row_block * ROWS;
#pragma unroll 1
    for (int column = 2 * (lane & 3), end = count + column; column < end; column += 8) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const int m = i >> 2, half = i >> 1 & 1, odd = i & 1;
            const int64_t output = first + row_of<D>(false, 0, warp, lane >> 2, m, half);
            if (column + odd < count && output < a.p.n)
                store_number(a.p.y, y_at[column + odd] + output, a.p.y_type,
                             acc[m][2 * half + odd] * factor);
        }
#pragma unroll
        for (int i = 0; i < N / 2 - 4; i++) {
            acc[0][i] = acc[0][i + 4];
            acc[1][i] = acc[1][i + 4];
        }
    }
}

// What sums of an expert are to be multiplied by.
template <class D>
__device__ __forceinline__ float factor_of(const few_args &a, const gqmm_cuda_matrix &w, int expert)
{
    return few_layout<D>::GLOBAL && expert >= 0 ? a.factor * global_of(w, expert) : a.factor;
}

template <class D, bool TWO>
__device__ __forceinline__ void consume(const few_args &a, const memory<D> &mem)
{
    int lane = (int)threadIdx.x & 31, warp = (int)threadIdx.x >> 5;
    asm volatile("" : "+r"(lane), "+r"(warp)); // not to be made again in the loop
    const lanes_for<D, TWO> c(a, warp, lane);
    ring at = {0, 0}, infos = {0, 0};
    float acc[2][N / 2];
    for (;;) {
        barrier_wait(mem.full(1, infos.stage), infos.parity);
        const tile_info info = mem.info(infos.stage);
        if (info.tile < 0)
            break;
#pragma unroll
        for (int i = 0; i < N / 2; i++)
            acc[0][i] = acc[1][i] = 0.0f;
        if (info.expert >= 0) {
            if (info.count <= 8)
                main_loop<1>(acc, a, mem, c, at);
            else if (info.count <= 16)
                main_loop<2>(acc, a, mem, c, at);
            else if (info.count <= 24)
                main_loop<3>(acc, a, mem, c, at);
            else
                main_loop<4>(acc, a, mem, c, at);
        }
        const int64_t *y_at = mem.y_at(infos.stage);
        const float factor = factor_of<D>(a, a.p.w, info.expert);
        if (TWO)
            wide_product::store_as<shape, true>(
                acc, a, y_at, info.row_block, warp, lane, info.count,
                {-1.44269504f * factor,
                 1.0f / (factor * factor_of<D>(a, a.p.up, info.expert) * a.y_factor)});
        else if (a.whole_y)
            store_eights<D>(acc, a, y_at, info.row_block, warp, lane, info.count, factor);
        else
            store_numbers<D>(acc, a, y_at, info.row_block, warp, lane, info.count, factor);
        barrier_arrive(mem.empty(1, infos.stage));
        infos.next(INFOS);
        wide_product::tell_done(a, info.tile, info.row_block, TWO ? ROWS / 2 : ROWS, lane);
    }
}

template <class D, bool TWO>
__global__ void __launch_bounds__(THREADS, BLOCKS) kernel(const __grid_constant__ few_args a)
{
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) // elsewhere nobody launches it
    constexpr bool straight = few_layout<D>::STRAIGHT;
    extern __shared__ __align__(1024) uint8_t shared[];
    const memory<D> mem(shared);
    if (threadIdx.x == 0) {
        if (mem.at & 1023)
            __trap();
        for (int i = 0; i < MOST_STAGES; i++) {
            barrier_init(mem.full(0, i), // and the accelerator's bytes
                         straight ? i < STAGES ? STRAIGHTENERS + 1 : 1 : WEIGHT_LOADERS + 2);
            barrier_init(mem.full(1, i), COLUMN_LOADERS);
            barrier_init(mem.empty(0, i), CONSUMERS);
            barrier_init(mem.empty(1, i),
                         CONSUMERS + (straight ? 32 + STRAIGHTENERS : WEIGHT_LOADERS));
        }
        fence_for_wgmma();
    }
    __syncthreads();
    const int id = (int)threadIdx.x - CONSUMERS - COLUMN_LOADERS; // of a weight loader
    wide_product::begin(a);
    if (threadIdx.x >= CONSUMERS) {
        registers_down<LOADER_REGISTERS>();
        if (id < 0)
            load_columns(a, mem, (int)threadIdx.x - CONSUMERS);
        else if constexpr (straight)
            id < 32 ? load_crooked<D, TWO>(a, mem, id)
                    : straighten<D, TWO>(a, mem, id / 32 - 1, id & 31);
        else if (id < WEIGHT_LOADERS)
            load_weights<D, TWO>(a, mem, id);
    } else {
        registers_up<CONSUMER_REGISTERS>();
        consume<D, TWO>(a, mem);
        wide_product::end(a);
    }
#endif
}

// ---------------------------------------------------------------- host

// Mean columns of an expert from which wider tiles of wide.cuh are faster.
template <class D> constexpr double MOST_MEAN = D::planes > 1 ? 32 : 24;
template <> constexpr double MOST_MEAN<dec_mlx_mxfp4> = 28;

// Of a tile: most experts have one, and few of them all columns.
template <class D> int columns_for(double mean)
{
    return mean <= 16 ? 24 : MOST_COLUMNS<D>;
}

constexpr int MOST_SPREAD = 3;

// Copies that rows take, as a power of two; above MOST_SPREAD: too many.
inline int spread_of(const gqmm_cuda_matrix &w)
{
    int spread = 0;
    while (spread <= MOST_SPREAD && ((uint64_t)w.row_stride[0] << spread) % 16)
        spread++;
    return spread;
}

constexpr int64_t FAR_ROW = (int64_t)1 << 27; // copies of several rows count bytes in 32 bits

// The same, and more where it keeps rows that lanes read at once in banks of their own.
template <class D> int spread_for(const gqmm_cuda_product *p)
{
    const bool two = p->up.plane[0] != NULL;
    const int better = few_layout<D>::SPREAD[two], least = spread_of(p->w);
    const bool near = p->w.row_stride[0] < FAR_ROW && (!two || p->up.row_stride[0] < FAR_ROW);
    return better > least && near && p->n % (1 << better) == 0 ? better : least;
}

// Bytes of a step in a plane of scales.
template <class D> int step_scales(const gqmm_cuda_matrix &w)
{
    return D::planes == 1 ? 0 : (int)D::bytes(1, STEP, {w.group, w.scale_type});
}

// What a tensor map takes: experts at multiples of 16 bytes, rows going up, of blocks at least
// every eighth row at such multiples. bf16 scales of a step together.
template <class D> bool matrix_fits(const gqmm_cuda_matrix &w)
{
    constexpr bool blocks = few_layout<D>::SLIPS || few_layout<D>::STRAIGHT;
    const int64_t far = (int64_t)1 << 36;
    const int spread = spread_of(w), most = few_layout<D>::SCALES;
    const int scale_bytes = step_scales<D>(w);
    bool ok = (D::planes == 1 || scale_bytes == most || scale_bytes == most / 2) &&
              (uintptr_t)w.plane[0] % 16 == 0 && w.expert_stride[0] % 16 == 0 &&
              spread <= (blocks ? MOST_SPREAD : 0) && w.n_rows % (1 << spread) == 0 &&
              w.row_stride[0] % D::align == 0 && (few_layout<D>::GLOBAL || !w.global) &&
              (D::planes < 3 || w.scale_type == GQMM_BF16) && w.row_stride[0] > 0 &&
              w.row_stride[0] < (spread ? FAR_ROW : far) &&
              (w.n_experts == 1 || (w.expert_stride[0] > 0 && w.expert_stride[0] < far));
    for (int plane = 1; plane < D::planes; plane++)
        ok = ok && wide_product::multiples(w, plane, scale_bytes) &&
             wide_product::is_short(w, plane);
    return ok;
}

// Scales of w and of up at the same places of their planes, and not far from row 0.
template <class D> bool scales_fit(const gqmm_cuda_product *p)
{
    const int64_t stride = p->w.row_stride[1];
    bool ok = D::planes == 1 || (stride >= 0 && p->n <= UINT32_MAX / (stride + 1));
    for (int plane = 1; plane < D::planes; plane++)
        ok = ok && p->w.row_stride[plane] == stride &&
             (!p->up.plane[0] || p->up.row_stride[plane] == stride);
    return ok;
}

// By sizes and weights, beside what wide_fits() asks.
template <class D> bool suits(const gqmm_cuda_product *p)
{
    return p->k % STEP == 0 && p->n < INT32_MAX && matrix_fits<D>(p->w) &&
           (!p->up.plane[0] || (matrix_fits<D>(p->up) && spread_of(p->up) == spread_of(p->w))) &&
           scales_fit<D>(p);
}

// And by what is asked of the sums: see row_step().
template <class D> bool fits(const gqmm_cuda_product *p)
{
    return suits<D>(p) && p->list.tile_columns <= MOST_COLUMNS<D> &&
           (!p->up.plane[0] ? p->y_order == 0
                            : few_layout<D>::LOW || !few_layout<D>::SWIZZLED ||
                                  (p->y_order & 15) == 1 + NIBBLE);
}

template <class D>
bool describe(CUtensorMap *map, const gqmm_cuda_matrix &w, int64_t n, int64_t k, int height,
              int spread)
{
    static const auto encode = find_tensor_encoder();
    const int64_t row = w.row_stride[0], last = ((int64_t)1 << spread) - 1;
    const int64_t far = w.n_experts > 1 ? w.expert_stride[0] : row * n;
    const cuuint64_t size[] = {(cuuint64_t)(k / STEP * STEP_BYTES<D> + last * row),
                               (cuuint64_t)(n >> spread), (cuuint64_t)w.n_experts};
    const cuuint64_t stride[] = {(cuuint64_t)(row << spread), (cuuint64_t)far};
    const cuuint32_t box[] = {ROW_BYTES<D>, (cuuint32_t)(height >> spread), 1}, step[] = {1, 1, 1};
    return encode &&
           encode(map, CU_TENSOR_MAP_DATA_TYPE_UINT8, 3, (void *)w.plane[0], size, stride, box,
                  step, CU_TENSOR_MAP_INTERLEAVE_NONE,
                  few_layout<D>::SWIZZLED ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_NONE,
                  // Whole lines are fetched where the next step has its part of them: 64 tokens of
                  // 256 experts of q4_0 take 7 % less. Elsewhere steps are too far apart for more.
                  CROSSES<D> ? CU_TENSOR_MAP_L2_PROMOTION_L2_128B : CU_TENSOR_MAP_L2_PROMOTION_NONE,
                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

// Whether there are as many items as blocks, most experts having columns.
inline bool items_fill(const gqmm_cuda_product *p)
{
    const int64_t outputs = p->up.plane[0] ? ROWS / 2 : ROWS;
    const int64_t experts = p->n_pairs < p->w.n_experts ? p->n_pairs : p->w.n_experts;
    return experts * ((p->n + outputs - 1) / outputs) >= (int64_t)multiprocessors() * BLOCKS;
}

// *done: launched. Else these sizes, or this driver, are for other kernels.
template <class D>
int launch_product(const gqmm_cuda_product *p, const void *x, int64_t x_row, int64_t x_mat,
                   gqmm_stream s, bool *done)
{
    using namespace wide_product;
    static_assert(memory<D>::BYTES <= (SHARED_OF_PROCESSOR + RESERVED) / BLOCKS - RESERVED,
                  "shared memory of a block");
    const int outputs = p->up.plane[0] ? ROWS / 2 : ROWS;
    few_args a = {};
    if (!(*done = fits<D>(p)))
        return 0;
    a.p = *p;
    a.x = (const uint8_t *)x;
    a.x_row = x_row / 8;
    a.x_mat = x_mat / 8;
    a.row_blocks = (int)((p->n + outputs - 1) / outputs);
    a.whole_y = p->y_type == GQMM_BF16 && (uintptr_t)p->y % 16 == 0 && p->y_row % 8 == 0 &&
                p->y_pair % 8 == 0 && p->n % 8 == 0;
    a.factor = (wide_codes<D>::low && x == p->x_ordered ? LOW_FACTOR : 1.0f) *
               (float)(1 << few_layout<D>::DOWN);
    a.y_factor = p->y_order & 16 ? LOW_FACTOR : 1.0f;
    a.row_scale_bytes = step_scales<D>(p->w);
    a.spread = spread_for<D>(p);
    const int64_t items = (int64_t)p->list.most_tiles * a.row_blocks;
    const int64_t blocks = (int64_t)multiprocessors() * BLOCKS;
    *done = items + blocks <= INT32_MAX &&
            describe<D>(&a.maps[0], p->w, p->n, p->k, outputs, a.spread) &&
            (!p->up.plane[0] || describe<D>(&a.maps[1], p->up, p->n, p->k, outputs, a.spread));
    if (!*done)
        return 0;
    return launch(p->up.plane[0] ? kernel<D, true> : kernel<D, false>,
                  dim3((unsigned)(items < blocks ? items : blocks)), dim3(THREADS),
                  memory<D>::BYTES, s, GQMM_CUDA_SM90, a);
}

} // namespace few_product

// Formats whose codes lane_rows of wide_few_rows.cuh or few_lane of wide_few_lanes.cuh take.
template <class D> constexpr bool has_few_columns = false;
template <> constexpr bool has_few_columns<dec_int4> = true;
template <> constexpr bool has_few_columns<dec_affine4> = true;
template <> constexpr bool has_few_columns<dec_q4_k> = true;
template <> constexpr bool has_few_columns<dec_affine2> = true;
template <> constexpr bool has_few_columns<dec_affine3> = true;
template <> constexpr bool has_few_columns<dec_iq4_nl> = true;
template <> constexpr bool has_few_columns<dec_q2_k> = true;
template <> constexpr bool has_few_columns<dec_q3_k> = true;
template <> constexpr bool has_few_columns<dec_iq4_xs> = true;
template <> constexpr bool has_few_columns<dec_q4_0> = true;
template <> constexpr bool has_few_columns<dec_q4_1> = true;
template <> constexpr bool has_few_columns<dec_nvfp4> = true;
template <> constexpr bool has_few_columns<dec_mlx_mxfp4> = true;
template <> constexpr bool has_few_columns<dec_mlx_nvfp4> = true;

// Whether tiles of few columns are those of wide_few.cuh; by sizes and weights.
template <class D> bool few_columns_suit(const gqmm_cuda_product *p)
{
    if constexpr (has_few_columns<D>)
        return few_product::suits<D>(p);
    return false;
}

// list.tile_columns that suits experts of `mean` columns each; 0: so few that others are faster.
template <class D> int wide_columns(const gqmm_cuda_product *p, double mean)
{
    if (mean <= few_product::MOST_MEAN<D> && few_columns_suit<D>(p))
        return few_product::columns_for<D>(mean);
    return mean <= wide_product::MOST_OTHERS ? 0 : wide_product::width_for(mean);
}

} // namespace gqmm

#endif
