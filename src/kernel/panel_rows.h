/* SPDX-License-Identifier: MIT */
/* Every family's row, for a room whose words and add_step functions are defined. */
#ifndef GQMM_KERNEL_PANEL_ROWS_H
#define GQMM_KERNEL_PANEL_ROWS_H

#include "kernel/panel_blocks.h"
#include "kernel/panel_floats.h"
#include "kernel/panel_k_quants.h"
#include "kernel/panel_planes.h"

/* clang-format off */

/*              family      shift  piece  sums    most */
EXPORT_FAMILY(  q4_0,           8,    32, plain,  15   )
EXPORT_FAMILY(  q4_1,           0,    32, offset, 15   )
EXPORT_FAMILY(  q5_0,          16,    32, plain,  31   )
EXPORT_FAMILY(  q5_1,           0,    32, offset, 31   )
EXPORT_FAMILY(  q8_0,           0,    32, plain,  wide )
EXPORT_FAMILY(  iq4_nl,         0,    32, plain,  wide )
EXPORT_FAMILY(  mxfp4,         16,    32, plain,  31   )
EXPORT_FAMILY(  q4_k,           0,    32, offset, 15   )
EXPORT_FAMILY(  q5_k,           0,    32, offset, 31   )
EXPORT_FAMILY(  q6_k,          32,    16, plain,  63   )
EXPORT_FAMILY(  affine4,        0,    32, offset, 15   )
EXPORT_FAMILY(  affine8,     -128,    32, offset, wide )
EXPORT_FAMILY(  int4,           8,    32, plain,  15   )
EXPORT_FAMILY(  mlx_mxfp4,     16,    32, plain,  31   )
EXPORT_FAMILY(  q2_k,           0,    16, offset, 31   )
EXPORT_FAMILY(  q3_k,           4,    16, plain,  31   )
EXPORT_FAMILY(  iq4_xs,         0,    32, plain,  wide )
EXPORT_FAMILY(  nvfp4,         16,    16, plain,  31   )
EXPORT_FAMILY(  affine2,        0,    32, offset, 15   )
EXPORT_FAMILY(  affine3,        0,    32, offset, 15   )
EXPORT_FAMILY(  affine5,        0,    32, offset, 31   )
EXPORT_FAMILY(  affine6,        0,    32, offset, 63   )
EXPORT_FAMILY(  mlx_nvfp4,     16,    16, plain,  31   )
EXPORT_FNS( f32,       product_floats(p, f32_dequantize)       )
EXPORT_FNS( f16,       product_floats(p, f16_dequantize)       )
EXPORT_FNS( bf16,      product_floats(p, bf16_dequantize)      )
EXPORT_FNS( mlx_mxfp8, product_floats(p, mlx_mxfp8_dequantize) )

/* clang-format on */

#endif
