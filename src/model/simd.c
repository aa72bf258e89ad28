/* SPDX-License-Identifier: MIT */
#include "model/simd.h"

#include <string.h>

static const gqmm_simd *const table[] = {
    &gqmm_simd_base,
#if defined(__x86_64__)
    &gqmm_simd_avx2,
    &gqmm_simd_avx512,
#endif
};

/* The context's ISA runs here, so those below it do. */
const gqmm_simd *gqmm_simd_of(const gqmm_context *ctx)
{
    const gqmm_simd *best = table[0];
    const char *most = gqmm_context_isa(ctx), *isa;
    for (int32_t i = 0; (isa = gqmm_isa_at(i)) != NULL; i++) {
        for (size_t k = 0; k < sizeof table / sizeof table[0]; k++)
            if (strcmp(table[k]->isa, isa) == 0)
                best = table[k];
        if (strcmp(isa, most) == 0)
            break;
    }
    return best;
}
