// SPDX-License-Identifier: MIT
// The rounding quantisers on the device against the CPU's bytes: test_round [small]
#include "cuda/launches.h"

// Rows of x whose blocks are of every kind: plain, zero, constant, small, large, near powers of
// two.
static std::vector<float> values(int64_t n, int32_t type, bool odd)
{
    std::vector<float> x((size_t)n);
    for (int64_t i = 0; i < n; i += 16) {
        const uint32_t kind = random_bits() % 10;
        const float range = ldexpf(1.0f, (int)(random_bits() % 30) - 15), constant = gaussian();
        for (int64_t j = i; j < i + 16 && j < n; j++) {
            const float g = gaussian();
            const float power = ldexpf(1.0f + (float)(random_bits() % 7) * 1.1920929e-7f - 3e-7f,
                                       (int)(random_bits() % 8) - 4);
            x[(size_t)j] = kind == 0   ? 0.0f
                           : kind == 1 ? constant
                           : kind == 2 ? g * 1e-39f
                           : kind == 3 ? g * 1e37f
                           : kind == 4 ? power
                           : kind == 5 ? rintf(g * 4.0f) * range
                           : kind == 6 ? fabsf(g)
                           : kind == 7 ? -0.0f
                                       : g * range;
            const uint32_t r = random_bits();
            if (odd && r % 40 == 0)
                x[(size_t)j] = r & 256 ? NAN : r & 512 ? INFINITY : -INFINITY;
        }
    }
    if (type != GQMM_F32 && !odd) { // stay finite as f16
        for (float &v : x)
            v = fabsf(v) > 6e4f ? 6e4f : v;
    }
    return x;
}

static void check_rounding(int32_t format, int64_t rows, const std::vector<float> &x_,
                           int32_t x_type, const float *global, int skew, bool odd)
{
    const gqmm_format_info *f = &gqmm_formats[format];
    const size_t size = gqmm_type_size(x_type);
    const int64_t cols = (int64_t)x_.size() / rows, x_row = cols + skew;
    const int64_t blocks = cols / f->pub.block_elems;
    char name[200];
    snprintf(name, sizeof name, "round %s %lld x %lld type=%d global=%g skew=%d odd=%d",
             f->pub.name, (long long)rows, (long long)cols, x_type, global ? *global : 0.0, skew,
             odd);
    std::vector<float> x((size_t)cols);
    std::vector<uint8_t> bytes((size_t)(rows * x_row) * size);
    for (int64_t r = 0; r < rows; r++)
        gqmm_narrow(&bytes[(size_t)(r * x_row) * size], x_type, &x_[(size_t)(r * cols)], cols);
    const buffer d_x(bytes), d_global(std::vector<float>(1, global ? *global : 0.0f));
    gqmm_cuda_quantize q = {};
    q.format = format;
    q.x_type = x_type;
    q.x = d_x.at();
    q.x_row = x_row;
    q.n_rows = rows;
    q.n_cols = cols;
    q.global = global ? d_global.as<float>() : NULL;
    std::vector<std::vector<uint8_t>> want;
    std::vector<buffer *> planes;
    for (int i = 0; i < f->pub.n_planes; i++) {
        q.row_stride[i] = blocks * f->pub.plane_bytes[i] + skew;
        planes.push_back(new buffer((size_t)(rows * q.row_stride[i]), (size_t)skew));
        q.plane[i] = planes.back()->at();
        want.push_back(std::vector<uint8_t>((size_t)(rows * q.row_stride[i]), 0x5a));
    }
    CUDA(gqmm_cuda_round(&q, stream));
    CUDA(cudaStreamSynchronize(stream));
    for (int64_t r = 0; r < rows; r++) {
        gqmm_widen(x.data(), &bytes[(size_t)(r * x_row) * size], x_type, cols);
        for (int64_t b = 0; b < blocks; b++) {
            uint8_t *p[3] = {};
            for (int i = 0; i < f->pub.n_planes; i++)
                p[i] = &want[(size_t)i][(size_t)(r * q.row_stride[i] + b * f->pub.plane_bytes[i])];
            f->quantize(f, p, &x[(size_t)(b * f->pub.block_elems)], NULL, global ? *global : 0.0f,
                        x_type);
        }
    }
    for (int i = 0; i < f->pub.n_planes; i++) {
        const char *what[3] = {"plane 0", "plane 1", "plane 2"};
        const std::vector<uint8_t> got = planes[(size_t)i]->read<uint8_t>();
        // The sign of a NaN differs between processors, and what follows from it; the rest must
        // not.
        report(odd || got == want[(size_t)i], name, what[i]);
        report(planes[(size_t)i]->intact(), name, "guards");
        delete planes[(size_t)i];
    }
}

static void check_roundings(bool small)
{
    for (int32_t i = 0; i < gqmm_n_formats; i++) {
        const gqmm_format_info *f = &gqmm_formats[i];
        report(gqmm_cuda_can_quantize(i) == (f->quantize && !f->pub.takes_importance), f->pub.name,
               "can quantize");
        if (!gqmm_cuda_can_quantize(i))
            continue;
        const int64_t block = f->pub.block_elems == 1 ? 37 : f->pub.block_elems;
        for (int32_t type = 0; type < 3; type++) {
            const float amax = 3.7f;
            check_rounding(i, 1, values(block, type, false), type, NULL, 0, false);
            check_rounding(i, 7, values(7 * 3 * block, type, false), type, NULL, 1, false);
            check_rounding(i, 5, values(5 * 2 * block, type, true), type, NULL, 0, true);
            if (!small)
                check_rounding(i, 40, values(40 * 33 * block, type, false), type, NULL, 0, false);
            if (f->pub.has_global_scale)
                check_rounding(i, 9, values(9 * 20 * block, type, false), type, &amax, 0, false);
        }
    }
    report(!gqmm_cuda_can_quantize(-1) && !gqmm_cuda_can_quantize(gqmm_n_formats), "round",
           "formats outside the table");
}

// Every power of two and its neighbours as the greatest element of a block.
static void check_logarithm()
{
    std::vector<float> x;
    for (int e = -149; e < 128; e++)
        for (int j = -100; j <= 20; j++) {
            const uint32_t u = gqmm_f32_to_bits(ldexpf(1.0f, e)) + (uint32_t)j;
            for (int i = 0; i < 32; i++)
                x.push_back(i == 5 && u < 0x7f800000u ? gqmm_bits_to_f32(u) : 0.0f);
        }
    for (int32_t i = 0; i < gqmm_n_formats; i++)
        if (strcmp(gqmm_formats[i].pub.name, "mxfp4") == 0 ||
            strcmp(gqmm_formats[i].pub.name, "mlx_mxfp4") == 0)
            check_rounding(i, 1, x, GQMM_F32, NULL, 0, false);
}

int main(int argc, char **argv)
{
    const bool small = argc > 1 && strcmp(argv[1], "small") == 0;
    CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    check_roundings(small);
    if (!small)
        check_logarithm();
    return finish("test_round");
}
