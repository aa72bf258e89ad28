// SPDX-License-Identifier: MIT
// The product of bf16 activations with one column for each of a few pairs, of any quantised format.
//
// Eight columns of the matrix instruction are there for one. So column j meets piece j of a step,
// 32 weights, and zeros elsewhere: one accumulator then holds the sums of all pieces apart, a lane
// has those of two rows and two pieces, and their scales are its alone. As in small.cuh the warps
// of a block share K and hold their activations in registers, and weights are asked for before the
// launch ahead has ended.
#ifndef GQMM_KERNEL_CUDA_SINGLE_CUH
#define GQMM_KERNEL_CUDA_SINGLE_CUH

#include "kernel/cuda/decode_low.cuh"
#include "kernel/cuda/few.cuh"
#include "kernel/cuda/small.cuh"

namespace gqmm
{

constexpr int SINGLE_WARPS = 8, SINGLE_TILES = 32; // row tiles of a block: a lane knows of each

// Codes of a step, in low_codes of decode_low.cuh or as the other products take them.
template <class D, class = void> struct single_codes : codes_of<D, 1> {
    typedef codes_of<D, 1> base;
    static constexpr bool low = false;
    static constexpr int parts = D::parts;

    GQMM_HD static constexpr int bit(int, int)
    {
        return 0;
    }
    GQMM_HD static constexpr int up(int)
    {
        return 0;
    }
};

template <class D>
struct single_codes<D, std::void_t<decltype(low_codes<D>::parts)>> : low_codes<D> {
    static constexpr bool low = true;
};

// Scale and offset of group g of a step. Affine ones are of two bytes each.
template <class D>
__device__ __forceinline__ float2 single_scale(const step_row &r, int g, const format_args &f)
{
    if constexpr (D::planes == 3) {
        const int i = group_of(g, f.group);
        float v[2];
#pragma unroll
        for (int n = 0; n < 2; n++) {
            const uint32_t h = ((const uint16_t *)r.p[1 + n])[i];
            v[n] = f.scale_type == GQMM_F16 ? half_to_float(h) : __uint_as_float(h << 16);
        }
        return make_float2(v[0], v[1]);
    } else {
        return D::template scale<true>(r, g, f);
    }
}

template <class D, class = void> constexpr bool has_scales = false;
template <class D>
constexpr bool has_scales<D, std::void_t<decltype(&low_codes<D>::scales)>> = true;

// Those of groups 4 t to 4 t + 3, or 2 t and 2 t + 1 of 32 weights.
template <class D, int N>
__device__ __forceinline__ void single_scales(float2 (&s)[N], const step_row &r, int t,
                                              const format_args &f)
{
    if constexpr (has_scales<D>) {
        low_codes<D>::scales(s, r, t);
    } else {
#pragma unroll
        for (int i = 0; i < N; i++)
            s[i] = single_scale<D>(r, N * t + i, f);
    }
}

// Activations of a step, and what meets them there.
template <class S> struct single_x {
    typedef typename S::base D;
    typedef single_codes<D> codes;
    static constexpr int PIECES = S::step / 32, PER = 32 / D::piece; // groups of a piece
    static constexpr int PARTS = codes::parts;
    static constexpr bool BIAS = codes::bias != 0, SUMS = BIAS || D::has_offset;

    uint32_t own[4];       // the lane's numbers of piece lane / 4
    uint32_t x[PIECES][4]; // the same in their place, zeros elsewhere
    float sums[PER][2];    // of groups of pieces 2 t and 2 t + 1
    float up[2];           // of part 1 of these pieces
    float post;            // what results are to be multiplied by

    // A step's numbers begin at `step`.
    __device__ __forceinline__ void load(const uint16_t *step, int g, int t)
    {
        const uint16_t *at = step + g * 32;
        if (codes::in_order == NATIVE) {
#pragma unroll
            for (int i = 0; i < 4; i++)
                own[i] = *(const uint32_t *)(at + 2 * t + 8 * i);
        } else if (codes::in_order == HALVES || codes::in_order == CROSSED) {
            const uint2 v = *(const uint2 *)(at + 4 * t), w = *(const uint2 *)(at + 16 + 4 * t);
            own[0] = v.x, own[1] = v.y, own[2] = w.x, own[3] = w.y;
        } else {
            const uint4 v = *(const uint4 *)(at + 8 * t);
            own[0] = v.x, own[1] = v.y, own[2] = v.z, own[3] = v.w;
        }
    }

    __device__ __forceinline__ void prepare(int g, int t)
    {
        int power = USUALLY;
        if (codes::low)
            power = find_power();
        if (SUMS)
            add_up(power_of_two(power - USUALLY), t);
        post = codes::low ? power_of_two(USUALLY - power) : 1.0f;
        const int beyond = codes::in_order == NIBBLE ? 2 : 1; // pairs are of numbers so far apart
        const uint32_t w[4] = {own[0], own[1], own[2], own[3]};
        uint32_t v[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            v[i] = w[i];
            if (codes::in_order == NIBBLE)
                v[i] = __byte_perm(w[i / 2], w[i / 2 + beyond], i % 2 ? 0x7632 : 0x5410);
            else if (codes::in_order == CROSSED || codes::in_order == BYTES)
                v[i] = __byte_perm(w[i & 2], w[(i & 2) + beyond], i % 2 ? 0x7632 : 0x5410);
            if (codes::low)
                v[i] = pair_mul(v[i], pair_of_powers(power - codes::bit(g, i)));
        }
#pragma unroll
        for (int j = 0; j < PIECES; j++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                x[j][i] = g == j ? v[i] : 0;
#pragma unroll
        for (int e = 0; e < 2; e++)
            up[e] = power_of_two(codes::up(2 * t + e));
    }

    // What 16 rows have of rows g and g + 8 is added to acc.
    __device__ __forceinline__ void multiply(float (&acc)[2], const step_row &r0,
                                             const step_row &r1, int t, const format_args &f) const
    {
        float c[4][4] = {}; // four chains of instructions, as warps are few
#pragma unroll
        for (int j = 0; j < PIECES; j++) {
            uint32_t a[PARTS][4], b[PARTS][4];
            codes::get(a, r0, j, t, f);
            codes::get(b, r1, j, t, f);
#pragma unroll
            for (int part = 0; part < PARTS; part++) {
                const int at = 2 * (PARTS == 2 ? part : j & 1);
                mma(c[at], a[part][0], b[part][0], a[part][1], b[part][1], x[j][0], x[j][1]);
                mma(c[at + 1], a[part][2], b[part][2], a[part][3], b[part][3], x[j][2], x[j][3]);
            }
        }
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float2 all[2 * PER];
            single_scales<D>(all, h ? r1 : r0, t, f);
#pragma unroll
            for (int e = 0; e < 2; e++)
#pragma unroll
                for (int q = 0; q < PER; q++) {
                    const float2 s = all[e * PER + q];
                    const int i = 2 * h + e;
                    const float first = PER == 2 ? c[q][i] : c[0][i] + c[1][i];
                    const float second = PER == 2 ? c[2 + q][i] : c[2][i] + c[3][i];
                    float v = PARTS == 2 ? fmaf(up[e], second, first) : first + second;
                    if (BIAS)
                        v = fmaf(codes::low ? UNIT : 1.0f, v, sums[q][e] * (float)-codes::bias);
                    else if (codes::low)
                        v *= UNIT;
                    acc[h] = fmaf(s.x, v, acc[h]);
                    if (D::has_offset)
                        acc[h] = fmaf(s.y, sums[q][e], acc[h]);
                }
        }
    }

  private:
    // The largest number of the step is about 2^USUALLY then: products neither overflow nor lose
    // bits.
    __device__ __forceinline__ int find_power() const
    {
        const uint32_t two =
            pair_most(pair_most(own[0], own[1]), pair_most(own[2], own[3])) & 0x7fff7fff;
        uint32_t most = two >> 16 > (two & 0xffff) ? two >> 16 : two & 0xffff;
        most = __reduce_max_sync(~0u, most);
        const int above = USUALLY + 127 - (int)(most >> 7);
        return above > 127 ? 127 : above < USUALLY - 126 ? USUALLY - 126 : above;
    }

    __device__ __forceinline__ void add_up(float times, int t)
    {
        float own_sums[PER] = {};
#pragma unroll
        for (int i = 0; i < 4; i++)
            own_sums[i * PER / 4] +=
                times * (__uint_as_float(own[i] << 16) + __uint_as_float(own[i] & 0xffff0000u));
#pragma unroll
        for (int q = 0; q < PER; q++) {
            own_sums[q] += __shfl_xor_sync(~0u, own_sums[q], 1);
            own_sums[q] += __shfl_xor_sync(~0u, own_sums[q], 2);
            sums[q][0] = __shfl_sync(~0u, own_sums[q], 8 * t);
            sums[q][1] = __shfl_sync(~0u, own_sums[q], 8 * t + 4);
        }
    }
};

// Host's choices for a launch.
struct single_plan {
    int blocks;         // of eight warps, one or two to a multiprocessor
    int k_bits;         // 2^this warps share K
    int stages;         // of a warp under way, 1 to 4
    int row_tiles;      // of a pair
    float pairs_of_row; // 1 / row_tiles
    int each, more;     // row tiles of a block; the first `more` blocks have one more
    int bytes;          // of shared memory
};

template <class S> constexpr int single_stage = ROWS *row_pitch<S>();

template <class S>
__global__ void __launch_bounds__(SINGLE_WARPS * 32, 2)
    single_kernel(const __grid_constant__ gqmm_cuda_product p,
                  const __grid_constant__ single_plan plan)
{
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ int64_t y[SINGLE_TILES];
    __shared__ float factor[SINGLE_TILES];
    const int lane = (int)threadIdx.x & 31, warp = (int)threadIdx.x >> 5, g = lane >> 2,
              t = lane & 3;
    const int share = 1 << plan.k_bits, mine = warp & (share - 1), group = warp >> plan.k_bits;
    const int groups = SINGLE_WARPS >> plan.k_bits, k = (int)p.k, steps = k / S::step;
    const int block = (int)blockIdx.x, n = plan.each + (block < plan.more);
    const int first = block * plan.each + (block < plan.more ? block : plan.more);
    const format_args f = {p.w.group, p.w.scale_type};
    int ring = warp * (plan.stages * single_stage<S>); // in shared memory
    keep(ring);
    float *sums = (float *)(shared + SINGLE_WARPS * plan.stages * single_stage<S>);
    const bool early = p.ids_early;

    // Lane i knows row tile i of the block; behind the last one it knows the first.
    const int all = plan.row_tiles * (int)p.n_pairs, behind = first + (lane < n ? lane : 0);
    const int tile = behind < all ? behind : all - 1;
    const int pair = p.n_pairs > 1 ? (int)(((float)tile + 0.5f) * plan.pairs_of_row) : 0;
    const int row = (tile - pair * plan.row_tiles) * ROWS;
    int64_t own_x = p.lhs ? 0 : matrix_of(p, pair) * p.x_mat;
    const uint16_t *x_step = (const uint16_t *)p.x + mine * S::step;
    single_x<S> x;
    const auto begin = [&] { // what the launch ahead may have written is read from here on
        wait_for_previous();
        let_next_start();
        if (p.lhs) {
            const int matrix = matrix_of(p, pair);
            own_x = (matrix < 0 ? 0 : matrix) * p.x_mat;
        }
        x.load(x_step + __shfl_sync(~0u, own_x, group), g, t);
    };
    row_block b = {};
    b.count = ROWS;
#pragma unroll
    for (int i = 0; i < S::planes; i++) {
        b.first[i] = p.w.plane[i];
        b.stride[i] = p.w.row_stride[i];
    }
    loader<S> weights;
    weights.set(b, k, p.w.aligned, true, lane, f);
    if (!early)
        begin();
    const int expert = lane < n ? expert_of(p, pair) : -1;
    const uint32_t present = __ballot_sync(~0u, expert >= 0);
    int64_t from[S::planes]; // from the first row of expert 0
#pragma unroll
    for (int i = 0; i < S::planes; i++) {
        from[i] = expert * p.w.expert_stride[i] + row * p.w.row_stride[i];
        keep(from[i]);
    }
    int ask_tile = group, ask_step = mine;
    const auto ask = [&](int slot) {
        if (ask_step < steps && present >> ask_tile & 1) {
            int64_t by[3];
#pragma unroll
            for (int i = 0; i < S::planes; i++)
                by[i] = __shfl_sync(~0u, from[i], ask_tile);
            loader<S> there = weights;
            there.move(by);
            there.bring(shared + ring + slot * single_stage<S>, ask_step, k, p.w.aligned,
                        4 * p.w.row_stride[0], 8 * p.w.row_stride[0], lane, f);
        }
        copies_commit();
        ask_tile += groups;
        if (ask_tile >= n) {
            ask_tile = group;
            ask_step += share;
        }
    };
#pragma unroll 1
    for (int i = 0; i < plan.stages; i++)
        ask(i);
    if (early)
        begin();
    if (warp == 0 && lane < n) {
        y[lane] = pair * p.y_pair + row;
        factor[lane] = expert < 0 ? 0.0f : global_of(p.w, expert);
    }

    int slot = 0;
#pragma unroll 1
    for (int s = mine; s - mine < steps; s += share, x_step += share * S::step) {
        int codes_at[2], scales_at[2]; // of rows g and g + 8, which lie alike in all row tiles
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const step_row r = weights.at(shared + ring, 1 + h, lane, s);
            codes_at[h] = (int)(r.p[0] - shared);
            scales_at[h] = (int)(r.p[1] - shared);
            keep(codes_at[h]);
            if (S::planes > 1)
                keep(scales_at[h]);
        }
        const auto row_at = [&](int h) {
            const uint8_t *stage = shared + slot * single_stage<S>, *scales = stage + scales_at[h];
            return step_row{{stage + codes_at[h], scales, scales + scale_pitch<S>()}};
        };
        float *to = sums + warp * ROWS + g + 8 * (t & 1);
        int held_pair = -1;
#pragma unroll 1
        for (int i = group; i < n; i += groups, to += SINGLE_WARPS * ROWS) {
            const bool some = s < steps && present >> i & 1;
            const int now = p.n_pairs > 1 ? __shfl_sync(~0u, pair, i) : 0;
            if (some && now != held_pair) {
                held_pair = now;
                if (p.n_pairs > 1 && (s != mine || i != group))
                    x.load(x_step + __shfl_sync(~0u, own_x, i), g, t);
                x.prepare(g, t);
                if (p.n_pairs == 1 && s + share < steps)
                    x.load(x_step + share * S::step + __shfl_sync(~0u, own_x, 0), g, t);
            }
            float acc[2] = {};
            few_wait<1>(plan.stages);
            if (some)
                x.multiply(acc, row_at(0), row_at(1), t, f);
            __syncwarp();
            ask(slot);
            slot = slot + 1 == plan.stages ? 0 : slot + 1;
            if (!some)
                continue;
#pragma unroll
            for (int h = 0; h < 2; h++) {
                acc[h] += __shfl_xor_sync(~0u, acc[h], 1);
                acc[h] += __shfl_xor_sync(~0u, acc[h], 2);
            }
            if (t < 2)
                *to = fmaf(t ? acc[1] : acc[0], x.post, s < share ? 0.0f : *to);
        }
    }
    __syncthreads();
    for (int i = (int)threadIdx.x; i < n * ROWS; i += SINGLE_WARPS * 32) {
        const int u = i / ROWS, r = i % ROWS;
        const float *parts = sums + (u << plan.k_bits) * ROWS + r;
        float sum = 0.0f;
#pragma unroll 4
        for (int part = 0; part < share; part++)
            sum += parts[part * ROWS];
        store_number(p.y, y[u] + r, p.y_type, factor[u] == 0.0f ? 0.0f : factor[u] * sum);
    }
}

// ---------------------------------------------------------------- host

template <class S> single_plan plan_single(const gqmm_cuda_product *p, int path)
{
    const int half = (path == GQMM_CUDA_SM90 ? 110 : 47) * 1024; // two blocks share the memory
    single_plan s = {};
    s.row_tiles = (int)(p->n / ROWS);
    s.pairs_of_row = 1.0f / (float)s.row_tiles;
    const int all = s.row_tiles * (int)p->n_pairs, steps = (int)(p->k / S::step);
    // One block for each, so that the next launch has room to ask for its weights, while a warp has
    // eight steps or fewer.
    const bool two = (int64_t)all * steps > 8 * SINGLE_WARPS * multiprocessors();
    s.blocks = multiprocessors() << two;
    s.each = all / s.blocks;
    s.more = all % s.blocks;
    const int most = s.each + (s.more > 0);
    const int todo = best_share(&s.k_bits, SINGLE_WARPS, most, steps);
    const int sums = (most << s.k_bits) * ROWS * (int)sizeof(float);
    s.stages = todo < 4 ? todo : 4;
    while (s.stages > 1 && SINGLE_WARPS * s.stages * single_stage<S> + sums > half)
        s.stages--;
    s.bytes = SINGLE_WARPS * s.stages * single_stage<S> + sums;
    return s;
}

// Formats whose small.cuh is better, and plain numbers, whose infinities would meet other pieces'
// zeros, do without.
template <class D>
constexpr bool has_single = std::is_same<typename lanes_of<D>::list, direct_lanes<>>::value &&
                            !std::is_same<D, dec_bf16>::value && !std::is_same<D, dec_f16>::value &&
                            !std::is_same<D, dec_f32>::value;

// Whether rows of a plane start at multiples of `align`, and those of all experts in the same place
// of 16 bytes.
inline bool single_apart(const gqmm_cuda_matrix &w, int plane, int align)
{
    return (uintptr_t)w.plane[plane] % align == 0 && w.row_stride[plane] % align == 0 &&
           w.expert_stride[plane] % 16 == 0;
}

// False: not for these sizes or weights; then there may be no plan.
template <class D> bool single_fits(single_plan *plan, const gqmm_cuda_product *p, int path)
{
    if (p->x_type != GQMM_BF16 || p->list.tiles || p->up.plane[0] || p->m != 1 || p->k <= 0 ||
        p->k % of_256<D>::step != 0 || p->k > INT_MAX / 2 || p->n <= 0 || p->n % ROWS != 0 ||
        p->n_pairs < 1 || p->n_pairs > SMALL_PAIRS || p->n_x < 1 ||
        p->n > (int64_t)SINGLE_TILES * ROWS * multiprocessors() / p->n_pairs || p->x_mat % 8 != 0 ||
        (uintptr_t)p->x % 16 != 0 || !(D::loose || p->w.aligned) ||
        (D::planes == 3 && p->w.scale_type == GQMM_F32) || !single_apart(p->w, 0, D::align) ||
        (scale_bytes_of<D>::value && !single_apart(p->w, 1, 1)))
        return false;
    *plan = plan_single<of_256<D>>(p, path);
    return true;
}

template <class D> int first_product(const gqmm_cuda_product *p, int path, gqmm_stream s)
{
    if constexpr (has_single<D>) {
        single_plan plan;
        if (single_fits<D>(&plan, p, path))
            return launch(single_kernel<of_256<D>>, dim3((unsigned)plan.blocks),
                          dim3(SINGLE_WARPS * 32), (size_t)plan.bytes, s, path, *p, plan);
    }
    return any_product<D>(p, path, s);
}

} // namespace gqmm

#endif
