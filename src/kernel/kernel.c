/* SPDX-License-Identifier: MIT */
#include "kernel/kernel.h"

#include <string.h>

#define GQMM_KERNEL(family, isa, ISA) {#family, GQMM_ISA_##ISA, &gqmm_##family##_##isa},
#define GQMM_KERNEL_ELSEWHERE(family, isa, ISA) {#family, GQMM_ISA_##ISA, NULL},
const gqmm_kernel gqmm_kernels[] = {
#include "kernel/kernels.def"
};
const int32_t gqmm_n_kernels = (int32_t)(sizeof gqmm_kernels / sizeof *gqmm_kernels);

/* The families that both paths of a CUDA device serve, whether this build has them or not. */
#define GQMM_CUDA_FAMILY(name, wide) #name,
static const char *const cuda_families[] = {
#include "kernel/cuda_families.def"
};

static bool serves(const gqmm_kernel *kernel, const char *family)
{
    return strcmp(kernel->family, "any") == 0 || strcmp(kernel->family, family) == 0;
}

const gqmm_kernel *gqmm_kernel_find(const char *family, int32_t max_isa)
{
    const gqmm_kernel *best = NULL;
    for (int32_t i = 0; i < gqmm_n_kernels; i++) {
        const gqmm_kernel *kernel = &gqmm_kernels[i];
        if (serves(kernel, family) && kernel->isa <= max_isa && gqmm_isa_runs(kernel->isa))
            best = kernel;
    }
    return best;
}

const char *gqmm_kernel_isa(const char *format, const char *isa)
{
    const gqmm_format_info *f = format ? gqmm_format_by_name(format) : NULL;
    const int32_t max_isa = isa ? gqmm_isa_by_name(isa) : gqmm_isa_best();
    if (!f || max_isa < 0)
        return NULL;
    if (max_isa >= GQMM_ISA_SM80)
        return gqmm_kernel_exists(format, isa) ? gqmm_isa_name(max_isa) : NULL;
    const gqmm_kernel *kernel = gqmm_kernel_find(f->family, max_isa);
    return kernel ? gqmm_isa_name(kernel->isa) : NULL;
}

int32_t gqmm_kernel_exists(const char *format, const char *isa)
{
    const gqmm_format_info *f = format ? gqmm_format_by_name(format) : NULL;
    const int32_t wanted = isa ? gqmm_isa_by_name(isa) : -1;
    for (int32_t i = 0; f && i < gqmm_n_kernels; i++)
        if (serves(&gqmm_kernels[i], f->family) && gqmm_kernels[i].isa == wanted)
            return 1;
    for (size_t i = 0; f && wanted >= GQMM_ISA_SM80 && i < sizeof cuda_families / sizeof(char *);
         i++)
        if (strcmp(cuda_families[i], f->family) == 0)
            return 1;
    return 0;
}
