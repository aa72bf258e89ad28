// SPDX-License-Identifier: MIT
// The middle product against sums in double of the definition's weights, rounded as the kernel
// rounds them, on random ragged shapes and for every way to share the work out.
//
// usage: test_middle [ROUNDS [FORMAT [SEED]]]
#include "base/num.h"
extern "C" {
#include "format/format.h"
}
#include "kernel/cuda/middle.cuh"
#include "product_data.h"

#include <cmath>
#include <cstring>
#include <string>

using namespace gqmm::middle_product;

// Every size has a plan whose rings are within shared memory and as the kernel wants them.
template <class D> static bool has_plan(const gqmm_cuda_product *p)
{
    using W = middle_weights<D>;
    middle_plan plan;
    middle_args a = {};
    if (!plan_for<W>(&plan, p))
        return false;
    a.scales = scales_of<W>(p);
    a.steps = (int)((p->k + STEP - 1) / STEP);
    a.cluster = plan.cluster, a.groups = plan.groups, a.split = plan.split;
    lay_out<W>(&a, plan);
    const int most = (a.steps + a.cluster - 1) / a.cluster;
    return a.cluster <= a.steps && a.groups << a.split <= most_groups(plan.width) &&
           a.bytes <= (SHARED + RESERVED) / plan.blocks - RESERVED &&
           a.weight_stages >= (most < 2 ? most : 2) && a.weight_stages <= MOST_WEIGHTS &&
           a.column_stages >= 2 && a.column_stages <= MOST_COLUMNS &&
           a.column_stages <= PARTS * a.weight_stages && (!a.split || a.column_stages % PARTS == 0);
}

// -1: no room in shared memory for this plan.
template <class D> static int run(const gqmm_cuda_product *p, const middle_plan &plan)
{
    using W = middle_weights<D>;
    return has_room<W>(scales_of<W>(p), plan, (int)((p->k + STEP - 1) / STEP))
               ? start<D>(p, plan, 0)
               : -1;
}

struct entry {
    const char *format;
    bool (*has_plan)(const gqmm_cuda_product *);
    int (*run)(const gqmm_cuda_product *, const middle_plan &);
};

static const entry entries[] = {
    {"int4_g32", has_plan<gqmm::dec_int4>, run<gqmm::dec_int4>},
    {"int4_g64", has_plan<gqmm::dec_int4>, run<gqmm::dec_int4>},
    {"int4_g128", has_plan<gqmm::dec_int4>, run<gqmm::dec_int4>},
    {"affine4_g64_bf16", has_plan<gqmm::dec_affine4>, run<gqmm::dec_affine4>},
    {"affine4_g128_bf16", has_plan<gqmm::dec_affine4>, run<gqmm::dec_affine4>},
    {"q4_k", has_plan<gqmm::dec_q4_k>, run<gqmm::dec_q4_k>},
    {"q5_k", has_plan<gqmm::dec_q5_k>, run<gqmm::dec_q5_k>},
    {"q6_k", has_plan<gqmm::dec_q6_k>, run<gqmm::dec_q6_k>},
    {"q4_0", has_plan<gqmm::dec_q4_0>, run<gqmm::dec_q4_0>},
    {"q8_0", has_plan<gqmm::dec_q8_0>, run<gqmm::dec_q8_0>},
    {"mxfp4", has_plan<gqmm::dec_mxfp4>, run<gqmm::dec_mxfp4>},
};

// ---- weights

struct weights {
    const gqmm_format_info *f;
    int64_t row[3];
    std::vector<uint8_t> plane[3];
    gqmm_cuda_matrix device;
};

static void put(uint8_t *p, uint16_t v)
{
    memcpy(p, &v, 2);
}

// Random codes and scales such that weights are of order one. Rows lie `gap` multiples of 16 bytes
// further apart than they need; what lies between is NaN. Two experts, of which the second is used.
static weights make_weights(const char *format, int64_t n, int64_t k, int gap)
{
    weights w = {};
    w.f = gqmm_format_by_name(format);
    for (int i = 0; i < w.f->pub.n_planes; i++) {
        const int64_t bytes = k / w.f->pub.block_elems * w.f->pub.plane_bytes[i];
        w.row[i] = (bytes + 15) / 16 * 16 + gap * 16;
        w.plane[i].assign(2 * n * w.row[i], 0xff);
        for (int64_t r = 0; r < 2 * n; r++) {
            uint8_t *row = &w.plane[i][r * w.row[i]];
            for (int64_t at = 0; at < bytes; at++)
                row[at] = (uint8_t)random_bits();
            if (i > 0)
                for (int64_t at = 0; at < bytes; at += 2)
                    put(row + at, gqmm_f32_to_bf16(0.1f * random_float()));
            else if (w.f->pub.n_planes == 1)
                for (int64_t at = 0; at < bytes; at += w.f->pub.plane_bytes[0]) {
                    if (!strcmp(format, "mxfp4")) {
                        row[at] = (uint8_t)(120 + random_below(8));
                    } else if (!strcmp(format, "q6_k")) {
                        put(row + at + 208, gqmm_f32_to_f16(0.0005f * random_float()));
                    } else {
                        put(row + at, gqmm_f32_to_f16(0.01f * random_float()));
                        if (w.f->has_offset)
                            put(row + at + 2, gqmm_f32_to_f16(0.01f * random_float()));
                    }
                }
        }
        w.device.plane[i] = to_device(w.plane[i]);
        w.device.row_stride[i] = w.row[i];
        w.device.expert_stride[i] = n * w.row[i];
    }
    w.device.n_rows = n, w.device.n_cols = k, w.device.n_experts = 2;
    w.device.group = w.f->pub.group_elems;
    w.device.scale_type = w.f->scale_type;
    w.device.aligned = 1;
    return w;
}

// Row n of the second expert as the kernel takes it.
static void row_values(std::vector<double> &v, const weights &w, int64_t n)
{
    const gqmm_format_info *f = w.f;
    const int block = f->pub.block_elems;
    int16_t q[GQMM_MAX_BLOCK];
    float s[GQMM_MAX_GROUPS], o[GQMM_MAX_GROUPS] = {};
    for (int64_t k = 0; k < (int64_t)v.size(); k += block) {
        const uint8_t *p[3] = {};
        for (int i = 0; i < f->pub.n_planes; i++)
            p[i] =
                &w.plane[i][(w.device.n_rows + n) * w.row[i] + k / block * f->pub.plane_bytes[i]];
        f->unpack(f, q, s, o, p);
        for (int i = 0; i < block; i++) {
            const int g = i / f->pub.group_elems;
            v[k + i] = to_bf16(to_bf16(s[g]) * q[i] + (f->has_offset ? to_bf16(o[g]) : 0.0));
        }
    }
}

// ---- one case

struct job {
    const entry *with;
    middle_plan plan;
    int64_t n, k, m;
    int y_type, x_gap, y_gap, w_gap;
    bool pairs, early; // columns are pairs, not rows of one
};

static double read_number(const uint8_t *p, int type)
{
    uint32_t u = 0;
    memcpy(&u, p, type == GQMM_F32 ? 4 : 2);
    return type == GQMM_F32   ? gqmm_bits_to_f32(u)
           : type == GQMM_F16 ? gqmm_f16_to_f32((uint16_t)u)
                              : gqmm_bf16_to_f32((uint16_t)u);
}

// The largest error over what is allowed; above 1 is wrong.
static double compare(const job &j, const weights &w, const std::vector<uint16_t> &x, int64_t x_row,
                      const std::vector<uint8_t> &y, int64_t y_row)
{
    const int size = j.y_type == GQMM_F32 ? 4 : 2;
    const double rounding = j.y_type == GQMM_F32   ? 0x1p-23
                            : j.y_type == GQMM_F16 ? 0x1p-10
                                                   : 0x1p-8;
    std::vector<double> row(j.k);
    double worst = 0;
    for (int64_t n = 0; n < j.n; n++) {
        row_values(row, w, n);
        for (int64_t m = 0; m < j.m; m++) {
            double sum = 0, size_of = 0;
            for (int64_t k = 0; k < j.k; k++) {
                const double v = row[k] * gqmm_bf16_to_f32(x[m * x_row + k]);
                sum += v;
                size_of += fabs(v);
            }
            const double got = read_number(&y[(m * y_row + n) * size], j.y_type);
            const double error = fabs(got - sum) / (2e-6 * size_of + rounding * fabs(sum) + 1e-6);
            if (!(error <= 1) && worst <= 1)
                printf("  row %ld output %ld: %g, want %g\n", (long)m, (long)n, got, sum);
            worst = error <= worst ? worst : error == error ? error : INFINITY;
        }
    }
    for (int64_t i = 0; i < (int64_t)y.size(); i++)
        if (i / size % y_row >= j.n && y[i] != 0xff)
            return INFINITY; // wrote where nothing is
    return worst;
}

// -1: no room in shared memory for this plan.
static double run_job(const job &j)
{
    const weights w = make_weights(j.with->format, j.n, j.k, j.w_gap);
    const int64_t x_row = (j.k + 7) / 8 * 8 + 8 * j.x_gap, y_row = j.n + j.y_gap;
    std::vector<uint16_t> x(j.m * x_row, 0x7fff); // NaN between rows
    for (int64_t i = 0; i < j.m * x_row; i++)
        if (i % x_row < j.k)
            x[i] = gqmm_f32_to_bf16(random_float());
    std::vector<uint8_t> y(j.m * y_row * (j.y_type == GQMM_F32 ? 4 : 2), 0xff), again = y;

    gqmm_cuda_product p = {};
    p.w = w.device;
    p.k = j.k, p.n = j.n;
    p.x = to_device(x);
    p.x_row = p.x_mat = x_row;
    p.x_type = GQMM_BF16, p.y_type = j.y_type;
    p.y = to_device(y);
    p.y_row = p.y_pair = y_row;
    p.n_pairs = j.pairs ? j.m : 1;
    p.m = j.pairs ? 1 : j.m;
    p.n_x = p.n_pairs;
    p.slots = 1;
    p.expert = 1;
    p.ids_early = j.early;
    double worst = -1;
    const int error = j.with->run(&p, j.plan);
    if (error >= 0) {
        CUDA(error);
        CUDA(cudaDeviceSynchronize());
        CUDA(cudaMemcpy(y.data(), p.y, y.size(), cudaMemcpyDeviceToHost));
        worst = compare(j, w, x, x_row, y, y_row);
        for (int i = 0; i < 8 && worst <= 1; i++) { // the same bits again
            CUDA(j.with->run(&p, j.plan));
            CUDA(cudaMemcpy(again.data(), p.y, y.size(), cudaMemcpyDeviceToHost));
            worst = again == y ? worst : INFINITY;
        }
    }
    for (int i = 0; i < 3; i++)
        CUDA(cudaFree((void *)w.device.plane[i]));
    CUDA(cudaFree((void *)p.x));
    CUDA(cudaFree(p.y));
    return worst;
}

static bool check_plans(const entry &e)
{
    const gqmm_format_info *f = gqmm_format_by_name(e.format);
    for (int i = 0; i < 3000; i++) {
        gqmm_cuda_product p = {};
        p.n = 1 + random_below(1 << random_below(18));
        p.k = f->pub.block_elems * (1 + random_below(MIDDLE_K / f->pub.block_elems));
        if (i % 2)
            p.k = f->pub.block_elems * (1 + random_below(40));
        p.m = MIDDLE_FROM + random_below(MIDDLE_TO - MIDDLE_FROM + 1);
        p.n_pairs = 1;
        p.w.group = f->pub.group_elems;
        if (!e.has_plan(&p)) {
            printf("FAIL %s: no plan for [%ld, %ld] and %ld columns\n", e.format, (long)p.n,
                   (long)p.k, (long)p.m);
            return false;
        }
    }
    return true;
}

int main(int argc, char **argv)
{
    static const int widths[] = {32, 64, 128, 256};
    const int rounds = argc > 1 ? atoi(argv[1]) : 24;
    g_random += argc > 3 ? strtoull(argv[3], NULL, 10) * 7919 : 0;
    int failed = 0, passed = 0, skipped = 0;
    for (const entry &e : entries)
        check_plans(e) ? passed++ : failed++;
    for (const entry &e : entries)
        for (int round = 0; round < rounds && (argc < 3 || !strcmp(argv[2], e.format)); round++) {
            const gqmm_format_info *f = gqmm_format_by_name(e.format);
            const int unit = f->pub.block_elems;
            job j = {};
            j.with = &e;
            j.plan.width = widths[round % 4];
            j.plan.split = random_below(2);
            j.plan.groups = 1 + random_below(std::min(most_groups(j.plan.width) >> j.plan.split,
                                                      MOST_ROWS / 64));
            j.plan.cluster = 1 + random_below(MOST_CLUSTER);
            j.plan.blocks = 1 + random_below(2);
            if (j.plan.width > 128) // has one form
                j.plan = {256, 2, 0, 1, 1};
            j.n = 1 + random_below(430);
            if (round % 2) // rows of y may be written in whole pieces
                j.n = (j.n + 7) / 8 * 8;
            const int steps = j.plan.cluster + random_below(8);
            j.k = 256 * (steps - 1) + unit * (1 + random_below(256 / unit));
            j.m = 1 + random_below(round % 4 ? j.plan.width : 2 * j.plan.width + 3);
            j.pairs = j.m > 1 && random_below(2);
            j.y_type = random_below(3);
            j.x_gap = random_below(3);
            j.y_gap = random_below(2) ? 0 : random_below(9);
            j.w_gap = random_below(2);
            j.early = random_below(2);
            const double worst = run_job(j);
            const bool ok = worst <= 1;
            failed += !ok;
            passed += ok && worst >= 0;
            skipped += worst < 0;
            if (!ok || round < 4)
                printf("%s %s width %d groups %d split %d cluster %d blocks %d n %ld k %ld m %ld "
                       "pairs %d y "
                       "%d: %.2f of what is allowed\n",
                       ok ? "ok" : "FAIL", e.format, j.plan.width, j.plan.groups, j.plan.split,
                       j.plan.cluster, j.plan.blocks, (long)j.n, (long)j.k, (long)j.m, j.pairs,
                       j.y_type, worst);
            fflush(stdout);
        }
    printf("test_middle: %d passed, %d failed, %d skipped\n", passed, failed, skipped);
    return failed != 0;
}
