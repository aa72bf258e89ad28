/* SPDX-License-Identifier: MIT */
/* What this CPU can run. A room is one enumerator, one name and one test here. */
#include "gqmm.h"
#include "kernel/kernel.h"

#include <string.h>

static const char *const names[GQMM_ISA_COUNT] = {"scalar"};

const char *gqmm_isa_name(int32_t isa)
{
    return isa >= 0 && isa < GQMM_ISA_COUNT ? names[isa] : NULL;
}

int32_t gqmm_isa_by_name(const char *name)
{
    for (int32_t i = 0; i < GQMM_ISA_COUNT; i++)
        if (strcmp(names[i], name) == 0)
            return i;
    return -1;
}

bool gqmm_isa_runs(int32_t isa)
{
    return isa == GQMM_ISA_SCALAR;
}

int32_t gqmm_isa_best(void)
{
    int32_t best = GQMM_ISA_SCALAR;
    for (int32_t i = 0; i < GQMM_ISA_COUNT; i++)
        best = gqmm_isa_runs(i) ? i : best;
    return best;
}

const char *gqmm_isa_at(int32_t i)
{
    return gqmm_isa_name(i);
}

int32_t gqmm_isa_available(const char *isa)
{
    const int32_t i = isa ? gqmm_isa_by_name(isa) : -1;
    return i >= 0 && gqmm_isa_runs(i);
}

#if defined(__x86_64__) && defined(__GNUC__)
/* Masks of subsets index the table of texts, so that the answer is static storage. */
const char *gqmm_cpu_features(void)
{
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi"))
        return "sse4.2 avx2 fma f16c avx512f avx512bw avx512vl avx512vnni avx512vbmi";
    if (__builtin_cpu_supports("avx512vnni"))
        return "sse4.2 avx2 fma f16c avx512f avx512bw avx512vl avx512vnni";
    if (__builtin_cpu_supports("avx512bw"))
        return "sse4.2 avx2 fma f16c avx512f avx512bw avx512vl";
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return "sse4.2 avx2 fma f16c";
    return __builtin_cpu_supports("sse4.2") ? "sse4.2" : "sse2";
}
#elif defined(__aarch64__)
const char *gqmm_cpu_features(void)
{
    return "neon";
}
#else
const char *gqmm_cpu_features(void)
{
    return "";
}
#endif
