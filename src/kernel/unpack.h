/* SPDX-License-Identifier: MIT */
/* The decoders of the coded families under one signature, for rooms to compile with their own
 * flags: including them, a room serves every format; what it writes by hand is only faster. */
#ifndef GQMM_KERNEL_UNPACK_H
#define GQMM_KERNEL_UNPACK_H

#include "format/affine.h"
#include "format/format.h"
#include "format/int4.h"
#include "format/iq4_nl.h"
#include "format/iq4_xs.h"
#include "format/mlx_fp.h"
#include "format/mxfp4.h"
#include "format/nvfp4.h"
#include "format/q2_k.h"
#include "format/q3_k.h"
#include "format/q4_0.h"
#include "format/q4_1.h"
#include "format/q4_k.h"
#include "format/q5_0.h"
#include "format/q5_1.h"
#include "format/q5_k.h"
#include "format/q6_k.h"
#include "format/q8_0.h"

typedef void gqmm_unpack_fn(const gqmm_format_info *f, int16_t *q, float *scale, float *offset,
                            const uint8_t *const p[3]);

#define GQMM_UNPACK(family, call) \
    static inline void gqmm_unpack_##family(const gqmm_format_info *f, int16_t *q, float *scale, \
                                            float *offset, const uint8_t *const p[3]) \
    { \
        (void)f; \
        call; \
    }
#define GQMM_UNPACK_GGUF(family) GQMM_UNPACK(family, gqmm_##family##_unpack(q, scale, offset, p[0]))
#define GQMM_UNPACK_MLX(family) GQMM_UNPACK(family, gqmm_##family##_unpack(q, scale, offset, p))
#define GQMM_UNPACK_AFFINE(family, bits) \
    GQMM_UNPACK(family, \
                gqmm_affine_unpack(q, scale, offset, p, bits, f->pub.group_elems, f->scale_type))

GQMM_UNPACK_GGUF(q4_0)
GQMM_UNPACK_GGUF(q4_1)
GQMM_UNPACK_GGUF(q5_0)
GQMM_UNPACK_GGUF(q5_1)
GQMM_UNPACK_GGUF(q8_0)
GQMM_UNPACK_GGUF(q2_k)
GQMM_UNPACK_GGUF(q3_k)
GQMM_UNPACK_GGUF(q4_k)
GQMM_UNPACK_GGUF(q5_k)
GQMM_UNPACK_GGUF(q6_k)
GQMM_UNPACK_GGUF(iq4_nl)
GQMM_UNPACK_GGUF(iq4_xs)
GQMM_UNPACK_GGUF(mxfp4)
GQMM_UNPACK_GGUF(nvfp4)
GQMM_UNPACK_AFFINE(affine2, 2)
GQMM_UNPACK_AFFINE(affine3, 3)
GQMM_UNPACK_AFFINE(affine4, 4)
GQMM_UNPACK_AFFINE(affine5, 5)
GQMM_UNPACK_AFFINE(affine6, 6)
GQMM_UNPACK_AFFINE(affine8, 8)
GQMM_UNPACK_MLX(mlx_mxfp4)
GQMM_UNPACK_MLX(mlx_nvfp4)
GQMM_UNPACK(int4, gqmm_int4_unpack(q, scale, offset, p, f->pub.group_elems))

#endif
