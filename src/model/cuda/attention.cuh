// SPDX-License-Identifier: MIT
// What the two kinds of attention share.
#ifndef GQMM_MODEL_CUDA_ATTENTION_CUH
#define GQMM_MODEL_CUDA_ATTENTION_CUH

#include "model/cuda/launch.cuh"

namespace gqmm_model
{

// gqmm_attention as kernels see it. The cache is [n_kv_heads, capacity, head_dim].
struct attention_view {
    float *y;
    const float *q, *k, *v;
    const int64_t *length; // positions before the batch, on the device
    int64_t ahead;         // tokens of the batch before these
    int64_t q_stride;      // elements from token to token
    int64_t capacity;
    int n_heads, n_kv_heads, head_dim;
    float scale; // times log2(e)
};

// Many tokens, head_dim up to 256.
void attend_many(gqmm_context *ctx, const attention_view &v, int64_t n_tokens);

} // namespace gqmm_model

#endif
