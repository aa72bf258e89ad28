// SPDX-License-Identifier: MIT
// Products with one column. Eight columns of the matrix instruction are there for one: so column j
// meets piece j of a step, 32 weights, and zeros elsewhere. One accumulator then holds the sums of
// all pieces apart, a lane has those of two rows and two pieces, and their scales are its alone.
#ifndef GQMM_KERNEL_CUDA_PIECES_CUH
#define GQMM_KERNEL_CUDA_PIECES_CUH

#include "kernel/cuda/decode_float.cuh"
#include "kernel/cuda/decode_low_affine.cuh"
#include "kernel/cuda/held.cuh"
#include "kernel/cuda/multiply.cuh"

namespace gqmm
{

// Codes of a step, in low_codes of decode_low.cuh if LOW, or as the other products take them.
template <class D, bool LOW, class = void> struct piece_codes : codes_of<D, 1> {
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
    template <bool>
    __device__ __forceinline__ static void get(uint32_t (&a)[parts][4], const step_row &r, int j,
                                               int t, const format_args &f)
    {
        codes_of<D, 1>::get(a, r, j, t, f);
    }
};

template <class D>
struct piece_codes<D, true, std::void_t<decltype(low_codes<D>::parts)>> : low_codes<D> {
    static constexpr bool low = true;
};

// Plain numbers: infinities among them would meet the zeros of other pieces, but they have no
// scales either, so that every column meets all pieces and the first one counts.
template <class D>
constexpr bool is_plain = std::is_same<D, dec_bf16>::value || std::is_same<D, dec_f16>::value ||
                          std::is_same<D, dec_f32>::value;

// Scales and offsets of groups N t to N t + N - 1.
template <class D, bool ALIGNED, int N>
__device__ __forceinline__ void piece_scales(float2 (&s)[N], const step_row &r, int t,
                                             const format_args &f)
{
    if constexpr (has_low_scales<D>) {
        low_scales<D, ALIGNED>(s, r, t);
    } else if constexpr (D::planes == 3) {
#pragma unroll
        for (int i = 0; i < N; i++) {
            float v[2];
#pragma unroll
            for (int n = 0; n < 2; n++) {
                const uint32_t h = ((const uint16_t *)r.p[1 + n])[group_of(N * t + i, f.group)];
                v[n] = f.scale_type == GQMM_F16 ? half_to_float(h) : __uint_as_float(h << 16);
            }
            s[i] = make_float2(v[0], v[1]);
        }
    } else {
#pragma unroll
        for (int i = 0; i < N; i++)
            s[i] = D::template scale<ALIGNED>(r, N * t + i, f);
    }
}

// The eight numbers of a piece of activations that lane t holds, as they lie.
template <order O>
__device__ __forceinline__ void load_eight(uint32_t (&to)[4], const uint16_t *piece, int t)
{
    if (O == NATIVE) {
#pragma unroll
        for (int i = 0; i < 4; i++)
            to[i] = *(const uint32_t *)(piece + 2 * t + 8 * i);
    } else if (O == HALVES || O == CROSSED) {
        const uint2 v = *(const uint2 *)(piece + 4 * t), w = *(const uint2 *)(piece + 16 + 4 * t);
        to[0] = v.x, to[1] = v.y, to[2] = w.x, to[3] = w.y;
    } else {
        const uint4 v = *(const uint4 *)(piece + 8 * t);
        to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
    }
}

// Pair i of them in an order.
template <order O> __device__ __forceinline__ uint32_t pair_in(const uint32_t (&v)[4], int i)
{
    const int beyond = O == NIBBLE ? 2 : 1; // pairs are of numbers so far apart
    if (O == NIBBLE)
        return __byte_perm(v[i / 2], v[i / 2 + beyond], i % 2 ? 0x7632 : 0x5410);
    if (O == CROSSED || O == BYTES)
        return __byte_perm(v[i & 2], v[(i & 2) + beyond], i % 2 ? 0x7632 : 0x5410);
    return v[i];
}

// Activations of a step of STEP weights in a warp's registers, and what meets them there. Affine
// scales and offsets are of two bytes each.
template <class D, int STEP, bool LOW = true> struct piece_x {
    typedef piece_codes<D, LOW> codes;
    static constexpr int PIECES = STEP / 32, PER = 32 / D::piece; // groups of a piece
    static constexpr int PARTS = codes::parts;
    static constexpr bool BIAS = codes::bias != 0, SUMS = BIAS || D::has_offset;

    uint32_t raw[4];    // the lane's numbers of piece lane / 4
    uint32_t own[4];    // the same as codes want them
    float sums[PER][2]; // of groups of pieces 2 t and 2 t + 1
    float up[2];        // of part 1 of these pieces
    float post;         // what results are to be multiplied by

    // A step's numbers begin at `step`, and `left` of them are there.
    __device__ __forceinline__ void load(const uint16_t *step, int left, int g, int t)
    {
        if ((PIECES < 8 && g >= PIECES) || g * 32 >= left)
            raw[0] = raw[1] = raw[2] = raw[3] = 0;
        else
            load_eight<codes::in_order>(raw, step + g * 32, t);
    }

    __device__ __forceinline__ void prepare(int g, int t)
    {
        int power = USUALLY;
        if (codes::low)
            power = find_power();
        if (SUMS)
            add_up(power_of_two(power - USUALLY), t);
        post = codes::low ? power_of_two(USUALLY - power) : 1.0f;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            own[i] = pair_in<codes::in_order>(raw, i);
            if (codes::low)
                own[i] = pair_mul(own[i], pair_of_powers(power - codes::bit(g, i)));
        }
#pragma unroll
        for (int e = 0; e < 2; e++)
            up[e] = power_of_two(codes::up(2 * t + e));
    }

    // What meets the weights of piece j.
    __device__ __forceinline__ void operand(uint32_t (&v)[4], int j, int g, int t) const
    {
#pragma unroll
        for (int i = 0; i < 4; i++)
            v[i] = is_plain<D> ? __shfl_sync(~0u, own[i], 4 * j + t) : g == j ? own[i] : 0;
    }

    // What 16 rows have of rows g and g + 8 is added to acc; x(v, j) is operand().
    // FOUR chains of instructions that do not wait for each other, where warps are few, or two.
    template <bool ALIGNED, bool FOUR, class X>
    __device__ __forceinline__ void multiply(float (&acc)[2], const step_row &r0,
                                             const step_row &r1, int t, const format_args &f,
                                             const X &x) const
    {
        float c[4][4] = {};
#pragma unroll
        for (int j = 0; j < PIECES; j++) {
            uint32_t a[PARTS][4], b[PARTS][4], v[4];
            codes::template get<ALIGNED>(a, r0, j, t, f);
            codes::template get<ALIGNED>(b, r1, j, t, f);
            x(v, j);
#pragma unroll
            for (int part = 0; part < PARTS; part++) {
                const int at = PARTS == 2 ? 2 * part : FOUR ? 2 * (j & 1) : 0;
                mma(c[at], a[part][0], b[part][0], a[part][1], b[part][1], v[0], v[1]);
                mma(c[at + 1], a[part][2], b[part][2], a[part][3], b[part][3], v[2], v[3]);
            }
        }
#pragma unroll
        for (int h = 0; h < 2; h++) {
            if (is_plain<D>) {
                acc[h] += t > 0 ? 0.0f : (c[0][2 * h] + c[1][2 * h]) + (c[2][2 * h] + c[3][2 * h]);
                continue;
            }
            float2 all[2 * PER];
            piece_scales<D, ALIGNED>(all, h ? r1 : r0, t, f);
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
            pair_most(pair_most(raw[0], raw[1]), pair_most(raw[2], raw[3])) & 0x7fff7fff;
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
                times * (__uint_as_float(raw[i] << 16) + __uint_as_float(raw[i] & 0xffff0000u));
#pragma unroll
        for (int q = 0; q < PER; q++) {
            own_sums[q] += __shfl_xor_sync(~0u, own_sums[q], 1);
            own_sums[q] += __shfl_xor_sync(~0u, own_sums[q], 2);
            sums[q][0] = __shfl_sync(~0u, own_sums[q], 8 * t);
            sums[q][1] = __shfl_sync(~0u, own_sums[q], 8 * t + 4);
        }
    }
};

// The quad's sums of two rows.
__device__ __forceinline__ void add_quad(float (&acc)[2])
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        acc[h] += __shfl_xor_sync(~0u, acc[h], 1);
        acc[h] += __shfl_xor_sync(~0u, acc[h], 2);
    }
}

} // namespace gqmm

#endif
