/* SPDX-License-Identifier: MIT */
/* Quantisers that search for their scales: least weighted squared error, importance >= 0 per
 * column or NULL (all equal). Infinities count as the largest finite value, NaN as 0. */
#ifndef GQMM_FORMAT_SEARCH_H
#define GQMM_FORMAT_SEARCH_H

#include <stdint.h>

void gqmm_q2_k_search(uint8_t *block, const float *x, const float *importance);
void gqmm_q3_k_search(uint8_t *block, const float *x, const float *importance);
void gqmm_q4_k_search(uint8_t *block, const float *x, const float *importance);
void gqmm_q5_k_search(uint8_t *block, const float *x, const float *importance);
void gqmm_q6_k_search(uint8_t *block, const float *x, const float *importance);
void gqmm_iq4_nl_search(uint8_t *block, const float *x, const float *importance);
void gqmm_iq4_xs_search(uint8_t *block, const float *x, const float *importance);
void gqmm_nvfp4_search(uint8_t *block, const float *x, const float *importance);

#endif
