// SPDX-License-Identifier: MIT
// How a lane of a warp reads the weights of a format: the contract that every decoder keeps.
//
// A decoder is a struct of static functions over one STEP of one stored row, whose planes lie in
// memory that the lane can read (shared memory in the products, plain memory in tests). 32 weights
// along K are a piece. In the matrix instructions a quad of lanes (t = 0..3) shares a row, and each
// lane holds 8 weights of a piece; as the order of K is free as long as weights and activations
// agree, a decoder takes the order that is cheapest for its bytes:
//
//   SERIAL   lane t holds k = 8 t + i,                 pair p = (2 p, 2 p + 1)
//   NIBBLE   lane t holds k = 8 t + i,                 pair p = (p, p + 4)
//   HALVES   lane t holds k = 4 t + i (i < 4) and 16 + 4 t + i - 4,  pair p = (2 p, 2 p + 1):
//            for bytes whose nibbles lie 16 apart, and for groups of 16, since the first matrix
//            instruction of a piece (pairs 0 and 1) then meets its first 16 weights only
//   CROSSED  lane t holds k as HALVES does,            pairs (0, 2) (1, 3), then 16 further
//   BYTES    lane t holds k = 8 t + i,                 pairs (0, 2) (1, 3) (4, 6) (5, 7)
//   NATIVE   lane t holds k = 2 t, 2 t + 1 and those 8, 16 and 24 further: the order of the
//            instruction itself. Both for groups of 16 whose bytes are few
//
// The codes are small integers (or floats of few bits), exact in bf16; scales and offsets are fp32:
//
//   w = scale * code + offset                      two fp32 roundings: the definition of src/format
//
// Everything compiles for the host too, so that the decoders are tested where there is no GPU.
#ifndef GQMM_KERNEL_CUDA_DECODE_CUH
#define GQMM_KERNEL_CUDA_DECODE_CUH

#include "base/num.h"
#include "gqmm.h"

namespace gqmm
{

enum order { SERIAL, NIBBLE, HALVES, CROSSED, NATIVE, BYTES };

// k in its piece of element i (pair i / 2, low half first) of lane t.
GQMM_HD constexpr int k_of(order o, int t, int i)
{
    return o == SERIAL    ? 8 * t + i
           : o == NIBBLE  ? 8 * t + i / 2 + (i & 1) * 4
           : o == HALVES  ? 4 * t + (i & 3) + (i & 4) * 4
           : o == CROSSED ? 4 * t + (i & 2) / 2 + (i & 1) * 2 + (i & 4) * 4
           : o == BYTES   ? 8 * t + (i & 2) / 2 + (i & 1) * 2 + (i & 4)
                          : 2 * t + (i & 1) + i / 2 * 8;
}

// What is known of a matrix only at run time.
struct format_args {
    int group;      // weights that share a scale
    int scale_type; // of affine scales and biases
};

// One step of one row: where it begins in each plane.
struct step_row {
    const uint8_t *p[3];
};

// A decoder D has
//   D::step           weights of a step, a multiple of 32: 256 where the bytes are few, else fewer
//   D::block          weights of a block: the format's block_elems; 32 where that is smaller or a
//                     matter of the matrix (affine, int4)
//   D::planes         1, 2 or 3
//   D::bytes(plane, n, args)   bytes of n weights in a plane, n a multiple of the block
//   D::parts          bf16 numbers that add up to a code: 1, but 2 for f16 and 3 for f32 weights
//   D::piece          16 where scales change every 16 weights, else 32
//   D::has_offset
//   D::grouped        the group is a matter of the matrix: 32, 64 or 128 (one scale for two or four
//                     pieces); piece is 32
//   D::align          a power of two up to 16 that divides a step's bytes in plane 0: where rows
//                     start at multiples of 16, steps start at multiples of this
//   D::loose          rows may start at any byte, as a block (32 weights) is no multiple of 16
//                     bytes
//   D::in_order       the order above
//   D::codes(a, row, j, t, args)   a[part][4]: the pairs of piece j of the step for lane t
//   D::scale(row, g, args)   float2 {scale, offset} of group-piece g (D::piece weights each) of
//                     the step; without offsets .y is 0. Bits equal the definition's; a global
//                     scale (mlx_nvfp4) is the caller's to multiply
// and may have, where it takes fewer instructions,
//   D::raw_codes      the same as codes, with D::raw_bias (an integer that bf16 has) added to each
//                     and in D::raw_order
//
// and, where plane 1 has a byte for each D::piece weights, so that its rows start anywhere too,
//   D::byte_scales    true
//
// codes, raw_codes and scale are templates of one bool, ALIGNED, by default !D::loose. True: plane
// 0 of the step starts at a multiple of D::align, planes 1 and 2 at one of their element; fewer
// instructions. False: every plane starts anywhere. Every decoder has both:
//
//   D::codes(a, row, j, t, args)   or   D::template codes<true>(a, row, j, t, args)
//
// Only the aligned words that hold bytes of the step are read. j and t need not be constants; with
// a constant j the addresses become immediates, and pieces that share bytes share their loads.

} // namespace gqmm

#endif
