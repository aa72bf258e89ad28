/* SPDX-License-Identifier: MIT */
#include "base/convert.h"

void gqmm_widen(float *y, const void *x, int32_t type, int64_t n)
{
    const uint8_t *p = x;
    if (type == GQMM_F32) {
        memcpy(y, x, (size_t)n * sizeof *y);
    } else if (type == GQMM_BF16) {
        for (int64_t i = 0; i < n; i++)
            y[i] = gqmm_bf16_to_f32(gqmm_load16(p + 2 * i));
    } else {
        for (int64_t i = 0; i < n; i++)
            y[i] = gqmm_f16_to_f32(gqmm_load16(p + 2 * i));
    }
}

static void store16(uint8_t *p, uint16_t v)
{
    memcpy(p, &v, sizeof v);
}

void gqmm_narrow(void *y, int32_t type, const float *x, int64_t n)
{
    uint8_t *p = y;
    if (type == GQMM_F32) {
        memcpy(y, x, (size_t)n * sizeof *x);
    } else if (type == GQMM_BF16) {
        for (int64_t i = 0; i < n; i++)
            store16(p + 2 * i, gqmm_f32_to_bf16(x[i]));
    } else {
        for (int64_t i = 0; i < n; i++)
            store16(p + 2 * i, gqmm_f32_to_f16(x[i]));
    }
}
