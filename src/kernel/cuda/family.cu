// SPDX-License-Identifier: MIT
// One family of the CUDA room; compiled once for each row of cuda_families.def with GQMM_FAMILY its
// name and GQMM_WIDE its number there.
#if GQMM_WIDE == 1
#    define GQMM_WIDTHS(f) f(24) f(64) f(152)
#endif

#include "kernel/cuda.h"
#include "kernel/cuda/decode_blocks.cuh"
#include "kernel/cuda/decode_float.cuh"
#include "kernel/cuda/decode_k_quants.cuh"
#include "kernel/cuda/decode_mlx.cuh"
#include "kernel/cuda/direct.cuh"
#include "kernel/cuda/middle.cuh"
#include "kernel/cuda/mixture.cuh"
#include "kernel/cuda/product.cuh"
#include "kernel/cuda/rows.cuh"
#include "kernel/cuda/single.cuh"
#include "kernel/cuda/small.cuh"
#include "kernel/cuda/sum.cuh"
#if GQMM_WIDE
#    include "kernel/cuda/wide.cuh"
#endif
#if GQMM_WIDE > 2
#    include "kernel/cuda/wide_int8.cuh"
#endif

#define JOIN(a, b, c) a##b##c
#define OBJECT(name) JOIN(gqmm_, name, _cuda)
#define DECODER(name) JOIN(gqmm::dec_, name, )
#define TEXT_(name) #name
#define TEXT(name) TEXT_(name)

typedef DECODER(GQMM_FAMILY) decoder;

// Tiles of eight beat wider ones up to some mean, but those of few columns only where these leave
// blocks without work.
static bool eights_fit(const gqmm_cuda_product *p, double mean)
{
#if GQMM_WIDE
    if (gqmm::few_columns_suit<decoder>(p) && gqmm::few_product::items_fill(p))
        return false;
#endif
    return mean <= gqmm::MOST_OWN<decoder> && gqmm::eights_fit<decoder>(p);
}

static bool few_fits(const gqmm_cuda_few *c, int path)
{
    return gqmm::few_fits<decoder>(c) && !gqmm::fp4_beats_few<decoder>(c, path);
}

extern "C" const gqmm_cuda_family OBJECT(GQMM_FAMILY) = {
    TEXT(GQMM_FAMILY),
    gqmm::first_product<decoder>,
    gqmm::product_n<decoder>,
    gqmm::rows<decoder>,
    gqmm::sum<decoder>,
    gqmm::best_sum_fits<decoder>,
    gqmm::few<decoder>,
    few_fits,
    eights_fit,
    gqmm::middle<decoder>,
    gqmm::middle_fits<decoder>,
#if GQMM_WIDE
    gqmm::wide<decoder>,
    gqmm::wide_fits<decoder>,
    gqmm::wide_columns<decoder>,
    gqmm::wide_product::order_code<decoder>(),
#endif
#if GQMM_WIDE > 2
    gqmm::int8,
    gqmm::int8_fits,
    gqmm::int8_columns,
#endif
};
