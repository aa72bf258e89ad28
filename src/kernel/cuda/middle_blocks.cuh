// SPDX-License-Identifier: MIT
// The middle product's weights of the GGUF formats, whose scales lie among the codes of one plane.
#ifndef GQMM_KERNEL_CUDA_MIDDLE_BLOCKS_CUH
#define GQMM_KERNEL_CUDA_MIDDLE_BLOCKS_CUH

#include "kernel/cuda/decode_low.cuh"
#include "kernel/cuda/middle_weights.cuh"

namespace gqmm
{
namespace middle_product
{

// What a format of one plane brings:
//   step_bytes    of a row's step in memory; D is its decoder
//   PIECE         numbers that share a scale, 16 or 32
//   SHIFT         of 32 the second 16 count 2^SHIFT times
//   get()         of a row whose numbers 2 t and 2 t + 1 of each eight are the lane's: what piece
//                 2 part + j takes of shared memory, where j - 1 has not; `row` is 2 t bytes on
//   codes()       the four pairs of it
//   scales()      pairs of scale and offset of half a step
template <class F> struct one_plane : low_weights {
    typedef typename F::decoder decoder;
    static constexpr bool swizzled = false;
    static constexpr int step_bytes = F::step_bytes, SLIP = step_bytes % 16;
    static constexpr int row_bytes = pitch_of_step(step_bytes);
    static constexpr int PAIRS = 32 / F::PIECE, WORDS = 8 * PAIRS; // for a piece of 32; half a step
    static constexpr int PITCH = 2 * WORDS + 4;                    // words of a row's scales
    int at, head;              // the lane's first row, and one whose scales it makes
    int slip;                  // where a step begins: tiles do at whole 16 bytes
    uint32_t *scales;          // of the warp, [16][PITCH]
    uint32_t held[2][F::HELD]; // of rows g and g + 8
    uint32_t pairs[2][2 * PAIRS];

    static bool fits(const gqmm_cuda_matrix &)
    {
        return true;
    }

    static int64_t bytes(int64_t k)
    {
        return decoder::bytes(0, k, {32, GQMM_F16});
    }

    static int scale_bytes(const scale_planes &, int rows, int split)
    {
        return rows * PITCH * 4 << split;
    }

    __device__ __forceinline__ void set(const scale_planes &, uint8_t *to, int rows, int64_t,
                                        int64_t, int warp, int half, int, int lane, int first, int)
    {
        slip = first * SLIP & 15;
        at = (warp * 16 + (lane >> 2)) * row_bytes + (lane & 3) * 2;
        head = (warp * 16 + (lane & 15)) * row_bytes;
        scales = (uint32_t *)to + (half * rows + warp * 16) * PITCH;
    }

    __device__ __forceinline__ void start(const uint8_t *stage, int lane)
    {
        uint32_t v[WORDS];
        F::scales(v, {{stage + head + slip, NULL, NULL}}, lane >> 4);
        __syncwarp();
        wide_product::write_words(scales + (lane & 15) * PITCH + (lane >> 4) * WORDS, v);
        __syncwarp();
    }

    __device__ __forceinline__ void finish()
    {
        slip = (slip + SLIP) & 15;
    }

    __device__ __forceinline__ void load(const uint8_t *stage, int part, int j)
    {
        const int g = (int)(threadIdx.x & 31) >> 2;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            wide_product::read_words(pairs[h],
                                     scales + (g + 8 * h) * PITCH + 2 * PAIRS * (2 * part + j));
            F::get(held[h], stage + at + slip + h * (8 * row_bytes), part, j);
        }
    }

    __device__ __forceinline__ void make(uint32_t (&to)[8], int part, int j)
    {
#pragma unroll
        for (int h = 0; h < 2; h++) {
            uint32_t codes[4];
            F::codes(codes, held[h], part, j);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const uint32_t *pair = pairs[h] + (i >= 2 ? 2 * (PAIRS - 1) : 0);
                const uint32_t by =
                    i >= 2 && F::SHIFT ? pair_mul(pair[0], both(bf16_power(-F::SHIFT))) : pair[0];
                to[2 * i + h] =
                    F::HAS_REST ? pair_fma(codes[i], by, pair[1]) : pair_mul(codes[i], by);
            }
        }
    }
};

// Two bytes, one in each half.
__device__ __forceinline__ uint32_t two_bytes(uint32_t v)
{
    return permute(v, 0, 0x4140);
}

// Scales of half a step, of codes that are BIAS too much, or have offsets, and count 2^-BITS.
template <class D, int BIAS, int BITS, int words>
__device__ __forceinline__ void make_scales(uint32_t (&v)[words], const step_row &row, int half)
{
#pragma unroll
    for (int i = 0; i < words / 2; i++) {
        const float2 s = D::template scale<true>(row, words / 2 * half + i, {32, GQMM_F16});
        v[2 * i] = wide_product::twice(s.x * power_of_two(LOW_SCALE - BITS));
        v[2 * i + 1] =
            wide_product::twice((D::has_offset ? s.y : -BIAS * s.x) * power_of_two(-LOW_REST));
    }
}

struct q4_k_plane {
    typedef dec_q4_k decoder;
    static constexpr int step_bytes = 144, PIECE = 32, SHIFT = 0, HELD = 4;
    static constexpr bool HAS_REST = true;

    // Of 64 numbers the first 32 are low nibbles, the others high ones.
    static __device__ __forceinline__ void get(uint32_t (&v)[4], const uint8_t *row, int part,
                                               int j)
    {
#pragma unroll
        for (int i = 0; i < 4 && j == 0; i++)
            v[i] = *(const uint16_t *)(row + 16 + part * 32 + i * 8);
    }

    static __device__ __forceinline__ void codes(uint32_t (&a)[4], uint32_t (&v)[4], int, int j)
    {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            v[i] = j == 0 ? two_bytes(v[i]) : v[i];
            a[i] = v[i] & (j ? 0x00f000f0 : 0x000f000f);
        }
    }

    static __device__ __forceinline__ void scales(uint32_t (&v)[8], const step_row &row, int half)
    {
        wide_product::scale_maker<dec_q4_k, 4>::make(v, row, half, {32, GQMM_F16});
    }
};
template <> struct middle_weights<dec_q4_k> : one_plane<q4_k_plane> {
};

// q5_k and q6_k have further bits of the same numbers elsewhere, which two pieces or all share.
template <class D, int PIECE_, int BIAS> struct k_plane {
    typedef D decoder;
    static constexpr int PIECE = PIECE_, SHIFT = 0, HELD = 8;
    static constexpr bool HAS_REST = true;

    static __device__ __forceinline__ void scales(uint32_t (&v)[256 / PIECE], const step_row &row,
                                                  int half)
    {
        make_scales<D, BIAS, 0>(v, row, half);
    }

    // Bits [bit, bit + 4) of the first four, below those [top, ...) of the others that `mask` says.
    static __device__ __forceinline__ void join(uint32_t (&a)[4], const uint32_t (&v)[8], int bit,
                                                int top, uint32_t mask)
    {
#pragma unroll
        for (int i = 0; i < 4; i++)
            a[i] = pick(move_bit(two_bytes(v[4 + i]), top, 4), mask,
                        two_bytes(v[i]) >> bit & 0x000f000f);
    }
};

struct q5_k_plane : k_plane<dec_q5_k, 32, 0> {
    static constexpr int step_bytes = 176;

    static __device__ __forceinline__ void get(uint32_t (&v)[8], const uint8_t *row, int part,
                                               int j)
    {
#pragma unroll
        for (int i = 0; i < 4 && j == 0; i++) {
            v[i] = *(const uint16_t *)(row + 48 + part * 32 + i * 8);
            v[4 + i] = *(const uint16_t *)(row + 16 + i * 8);
        }
    }

    static __device__ __forceinline__ void codes(uint32_t (&a)[4], const uint32_t (&v)[8], int part,
                                                 int j)
    {
        join(a, v, 4 * j, 2 * part + j, 0x00100010);
    }
};
template <> struct middle_weights<dec_q5_k> : one_plane<q5_k_plane> {
};

struct q6_k_plane : k_plane<dec_q6_k, 16, 32> {
    static constexpr int step_bytes = 210;

    static __device__ __forceinline__ void get(uint32_t (&v)[8], const uint8_t *row, int part,
                                               int j)
    {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            v[i] = *(const uint16_t *)(row + 64 * (part >> 1) + 32 * j + i * 8);
            if (j == 0)
                v[4 + i] = *(const uint16_t *)(row + 128 + 32 * (part >> 1) + i * 8);
        }
    }

    static __device__ __forceinline__ void codes(uint32_t (&a)[4], const uint32_t (&v)[8], int part,
                                                 int j)
    {
        join(a, v, 4 * (part & 1), 4 * (part & 1) + 2 * j, 0x00300030);
    }
};
template <> struct middle_weights<dec_q6_k> : one_plane<q6_k_plane> {
};

// Blocks of 32 with a scale ahead of the codes, which are BIAS too much and count 2^-BITS.
template <class D, int BYTES, int BIAS, int BITS> struct block_plane {
    typedef D decoder;
    static constexpr int step_bytes = 8 * BYTES, PIECE = 32;
    static constexpr bool HAS_REST = BIAS > 0;

    static __device__ __forceinline__ void scales(uint32_t (&v)[8], const step_row &row, int half)
    {
        make_scales<D, BIAS, BITS>(v, row, half);
    }
};

// A byte has numbers 16 apart.
struct q4_0_plane : block_plane<dec_q4_0, 18, 8, 0> {
    static constexpr int SHIFT = 4, HELD = 2;

    static __device__ __forceinline__ void get(uint32_t (&v)[2], const uint8_t *row, int part,
                                               int j)
    {
#pragma unroll
        for (int i = 0; i < 2; i++)
            v[i] = *(const uint16_t *)(row + 18 * (2 * part + j) + 2 + 8 * i);
    }

    static __device__ __forceinline__ void codes(uint32_t (&a)[4], const uint32_t (&v)[2], int, int)
    {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            a[i] = two_bytes(v[i]) & 0x000f000f;
            a[i + 2] = two_bytes(v[i]) & 0x00f000f0;
        }
    }
};
template <> struct middle_weights<dec_q4_0> : one_plane<q4_0_plane> {
};

// Every other block lies at odd bytes.
struct mxfp4_plane : block_plane<dec_mxfp4, 17, 0, 6> {
    static constexpr int SHIFT = 0, HELD = 2;

    static __device__ __forceinline__ void get(uint32_t (&v)[2], const uint8_t *row, int part,
                                               int j)
    {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const uint8_t *p = row + 17 * (2 * part + j) + 1 + 8 * i;
            v[i] = j ? *(const uint16_t *)p : p[0] | (uint32_t)p[1] << 8;
        }
    }

    static __device__ __forceinline__ void codes(uint32_t (&a)[4], const uint32_t (&v)[2], int, int)
    {
        uint32_t u[4];
        low_e2m1(u, permute(v[0], v[1], 0x5140));
        a[0] = u[0], a[1] = u[2], a[2] = u[1], a[3] = u[3];
    }
};
template <> struct middle_weights<dec_mxfp4> : one_plane<mxfp4_plane> {
};

struct q8_0_plane : block_plane<dec_q8_0, 34, 128, 0> {
    static constexpr int SHIFT = 0, HELD = 4;

    static __device__ __forceinline__ void get(uint32_t (&v)[4], const uint8_t *row, int part,
                                               int j)
    {
#pragma unroll
        for (int i = 0; i < 4; i++)
            v[i] = *(const uint16_t *)(row + 34 * (2 * part + j) + 2 + 8 * i);
    }

    static __device__ __forceinline__ void codes(uint32_t (&a)[4], const uint32_t (&v)[4], int, int)
    {
#pragma unroll
        for (int i = 0; i < 4; i++)
            a[i] = two_bytes(v[i] ^ 0x8080);
    }
};
template <> struct middle_weights<dec_q8_0> : one_plane<q8_0_plane> {
};

} // namespace middle_product
} // namespace gqmm

#endif
