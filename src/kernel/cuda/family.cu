// SPDX-License-Identifier: MIT
// One family of the CUDA room; compiled once for each row of families.def with GQMM_FAMILY its
// name.
#include "kernel/cuda.h"
#include "kernel/cuda/decode_blocks.cuh"
#include "kernel/cuda/decode_float.cuh"
#include "kernel/cuda/decode_k_quants.cuh"
#include "kernel/cuda/decode_mlx.cuh"
#include "kernel/cuda/product.cuh"
#include "kernel/cuda/rows.cuh"
#include "kernel/cuda/sum.cuh"

#define JOIN(a, b, c) a##b##c
#define OBJECT(name) JOIN(gqmm_, name, _cuda)
#define DECODER(name) JOIN(gqmm::dec_, name, )
#define TEXT_(name) #name
#define TEXT(name) TEXT_(name)

extern "C" const gqmm_cuda_family OBJECT(GQMM_FAMILY) = {TEXT(GQMM_FAMILY),
                                                         gqmm::product<DECODER(GQMM_FAMILY)>,
                                                         NULL,
                                                         gqmm::product_n<DECODER(GQMM_FAMILY)>,
                                                         gqmm::rows<DECODER(GQMM_FAMILY)>,
                                                         gqmm::sum<DECODER(GQMM_FAMILY)>,
                                                         gqmm::sum_fits<DECODER(GQMM_FAMILY)>};
