// SPDX-License-Identifier: MIT
// Random weights for test_wide.cu and test_middle.cu on host and device, and what their rows are:
// as the definition has them, and as these products round them.
#ifndef TESTS_CUDA_PRODUCT_WEIGHTS_H
#define TESTS_CUDA_PRODUCT_WEIGHTS_H

#include "base/num.h"
extern "C" {
#include "format/format.h"
}
#include "kernel/cuda.h"
#include "product_data.h"

#include <cstring>
#include <string>
#include <vector>

struct weights {
    const gqmm_format_info *f;
    int64_t n_experts, n, k;
    int64_t row[3], expert[3]; // strides
    std::vector<uint8_t> plane[3];
    std::vector<float> global; // of each expert, none without global scales
    gqmm_cuda_matrix device;
};

static void put_number(uint8_t *p, float v, int type)
{
    if (type == GQMM_F32)
        memcpy(p, &v, 4);
    else {
        const uint16_t h = type == GQMM_F16 ? gqmm_f32_to_f16(v) : gqmm_f32_to_bf16(v);
        memcpy(p, &h, 2);
    }
}

// Scales that are bytes: exponents or E4M3, such that weights are of order one.
static void put_byte_scales(uint8_t *p, int64_t n, bool exponents)
{
    for (int64_t i = 0; i < n; i++)
        p[i] = (uint8_t)(exponents ? 121 + random_bits() % 6 : 0x18 + random_bits() % 32);
}

// Where a block has its f16 scale; that of its offsets follows.
static int scale_at(const std::string &family)
{
    return family == "q2_k" ? 80 : family == "q3_k" ? 108 : family == "q6_k" ? 208 : 0;
}

// Random codes; scales such that weights are of order one, and planes of offsets `offsets` times
// as large as those. Rows take multiples of `unit` bytes and `gap` more, which are NaN.
static void make_weights(weights *w, const char *format, int64_t n_experts, int64_t n, int64_t k,
                         int64_t unit, int64_t gap, float offsets)
{
    const gqmm_format_info *f = gqmm_format_by_name(format);
    w->f = f, w->n_experts = n_experts, w->n = n, w->k = k;
    w->device = gqmm_cuda_matrix{};
    const std::string family = f->family;
    for (int i = 0; i < f->pub.n_planes; i++) {
        const int64_t bytes = k / f->pub.block_elems * f->pub.plane_bytes[i];
        w->row[i] = (bytes + unit - 1) / unit * unit + gap;
        w->expert[i] = n * w->row[i];
        w->plane[i].resize(n_experts * w->expert[i]);
        for (int64_t at = 0; at < (int64_t)w->plane[i].size(); at++) {
            w->plane[i][at] = at % w->row[i] < bytes ? (uint8_t)random_bits() : 0xff;
            if (f->values && at % w->row[i] < bytes && (w->plane[i][at] & 0x7f) == 0x7f)
                w->plane[i][at] = 0; // no number
        }
        const int type = family == "int4" ? GQMM_BF16 : f->scale_type;
        const bool exponents = family.find("mxfp") != std::string::npos;
        const bool bytes_only = exponents || family.find("nvfp4") != std::string::npos;
        const bool large = scale_at(family) || family == "iq4_xs"; // of integers times codes
        const float size = family.find('8') != std::string::npos ? 0.01f : 0.1f;
        for (int64_t r = 0; bytes_only && r < n_experts * n; r++)
            if (i > 0)
                put_byte_scales(&w->plane[i][r * w->row[i]], bytes, exponents);
            else if (f->pub.n_planes == 1)
                for (int64_t at = 0; at < bytes; at += f->pub.plane_bytes[0])
                    put_byte_scales(&w->plane[0][r * w->row[0] + at], exponents ? 1 : 4, exponents);
        for (int64_t r = 0; !bytes_only && i > 0 && r < n_experts * n; r++)
            for (int64_t at = 0; at + (type == GQMM_F32 ? 4 : 2) <= bytes;
                 at += type == GQMM_F32 ? 4 : 2)
                put_number(&w->plane[i][r * w->row[i] + at],
                           size * random_float() * (i == 2 ? offsets : 1.0f), type);
        if (!bytes_only && i == 0 &&
            f->pub.n_planes == 1) // blocks: f16 scales in front, or at the end
            for (int64_t r = 0; r < n_experts * n; r++)
                for (int64_t at = 0; at < bytes; at += f->pub.plane_bytes[0]) {
                    uint8_t *b = &w->plane[0][r * w->row[0] + at + scale_at(family)];
                    put_number(b, (large ? 0.001f : size / 8) * random_float(), GQMM_F16);
                    if (f->has_offset)
                        put_number(b + 2, size / 8 * random_float(), GQMM_F16);
                }
        w->device.plane[i] = to_device(w->plane[i]);
        w->device.row_stride[i] = w->row[i];
        w->device.expert_stride[i] = w->expert[i];
    }
    if (f->pub.has_global_scale) {
        for (int64_t e = 0; e < n_experts; e++)
            w->global.push_back(2688.0f * (0.5f + 0.4f * random_float()));
        w->device.global = to_device(w->global);
        w->device.global_stride = 1;
    }
    w->device.n_rows = n, w->device.n_cols = k;
    w->device.n_experts = (int32_t)n_experts;
    w->device.group = f->pub.group_elems;
    w->device.scale_type = f->scale_type;
    w->device.aligned = gap % 16 == 0;
}

static void free_weights(weights *w)
{
    for (int i = 0; i < w->f->pub.n_planes; i++)
        CUDA(cudaFree((void *)w->device.plane[i]));
    CUDA(cudaFree((void *)w->device.global));
}

// A row as a product takes it, and as the definition has it. LOW: scales without offsets are
// rounded to bf16; otherwise to two such numbers.
static void row_values(double *as_used, double *exact, const weights &w, int64_t expert,
                       int64_t row, bool low = false)
{
    const gqmm_format_info *f = w.f;
    int16_t q[GQMM_MAX_BLOCK];
    float s[GQMM_MAX_GROUPS], o[GQMM_MAX_GROUPS] = {};
    const int block = f->pub.block_elems;
    const double factor = w.global.empty() ? 1.0 : w.global[expert] / 2688.0f;
    for (int64_t k = 0; k < w.k; k += block) {
        const uint8_t *p[3] = {};
        for (int i = 0; i < f->pub.n_planes; i++)
            p[i] = &w.plane[i][expert * w.expert[i] + row * w.row[i] +
                               k / block * f->pub.plane_bytes[i]];
        if (f->values) {
            float v[GQMM_MAX_BLOCK];
            f->values(f, v, p);
            for (int i = 0; i < block; i++)
                as_used[k + i] = to_bf16(exact[k + i] = v[i]);
            continue;
        }
        f->unpack(f, q, s, o, p);
        for (int i = 0; i < block; i++) {
            const int g = i / f->pub.group_elems;
            const double x = to_bf16(s[g]);
            exact[k + i] = factor * s[g] * q[i] + (f->has_offset ? o[g] : 0.0);
            if (f->has_offset)
                as_used[k + i] = to_bf16(x * q[i] + to_bf16(o[g]));
            else
                as_used[k + i] =
                    factor *
                    to_bf16(x * q[i] + (low ? 0.0 : to_bf16(to_bf16((double)s[g] - x) * q[i])));
        }
    }
}

#endif
