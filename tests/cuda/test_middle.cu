// SPDX-License-Identifier: MIT
// The middle product against sums in double of the definition's weights, rounded as the kernel
// rounds them, on random ragged shapes and for every way to share the work out.
//
// usage: test_middle [ROUNDS [FORMAT|I/N [SEED]]]    I/N: every N-th format from I on
#include "kernel/cuda/middle.cuh"
#include "product_weights.h"

#include <cmath>

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
    return a.cluster <= a.steps && a.groups << a.split <= most_groups<W>(plan.width) &&
           a.bytes <= (SHARED + RESERVED) / plan.blocks - RESERVED &&
           a.weight_stages >= (most < 2 ? most : 2) && a.weight_stages <= MOST_WEIGHTS &&
           a.column_stages >= 2 && a.column_stages <= MOST_COLUMNS &&
           a.column_stages <= PARTS * a.weight_stages && a.column_stages % PARTS == 0;
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
    bool low; // scales are rounded to bf16
    int least_width, most_width, most_columns, most_split;
    int (*most_groups)(int);
};

template <class D> static entry entry_of(const char *format)
{
    using W = middle_weights<D>;
    return {format,
            has_plan<D>,
            run<D>,
            std::is_base_of<low_weights, W>::value || gqmm::wide_product::wide_codes<D>::low,
            W::least_width,
            W::most_width,
            W::most_columns,
            W::most_split,
            most_groups<W>};
}

static const entry entries[] = {
    entry_of<gqmm::dec_int4>("int4_g32"),
    entry_of<gqmm::dec_int4>("int4_g64"),
    entry_of<gqmm::dec_int4>("int4_g128"),
    entry_of<gqmm::dec_affine4>("affine4_g64_bf16"),
    entry_of<gqmm::dec_affine4>("affine4_g128_bf16"),
    entry_of<gqmm::dec_q4_k>("q4_k"),
    entry_of<gqmm::dec_q5_k>("q5_k"),
    entry_of<gqmm::dec_q6_k>("q6_k"),
    entry_of<gqmm::dec_q4_0>("q4_0"),
    entry_of<gqmm::dec_q8_0>("q8_0"),
    entry_of<gqmm::dec_mxfp4>("mxfp4"),
    entry_of<gqmm::dec_q4_1>("q4_1"),
    entry_of<gqmm::dec_q5_0>("q5_0"),
    entry_of<gqmm::dec_q5_1>("q5_1"),
    entry_of<gqmm::dec_q2_k>("q2_k"),
    entry_of<gqmm::dec_q3_k>("q3_k"),
    entry_of<gqmm::dec_iq4_nl>("iq4_nl"),
    entry_of<gqmm::dec_iq4_xs>("iq4_xs"),
    entry_of<gqmm::dec_nvfp4>("nvfp4"),
    entry_of<gqmm::dec_affine2>("affine2_g64_bf16"),
    entry_of<gqmm::dec_affine3>("affine3_g128_f16"),
    entry_of<gqmm::dec_affine5>("affine5_g32_bf16"),
    entry_of<gqmm::dec_affine6>("affine6_g64_f16"),
    entry_of<gqmm::dec_affine8>("affine8_g64_bf16"),
    entry_of<gqmm::dec_affine8>("affine8_g32_f32"),
    entry_of<gqmm::dec_mlx_mxfp4>("mlx_mxfp4"),
    entry_of<gqmm::dec_mlx_mxfp8>("mlx_mxfp8"),
    entry_of<gqmm::dec_mlx_nvfp4>("mlx_nvfp4"),
};

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
    std::vector<double> row(j.k), exact(j.k);
    double worst = 0;
    for (int64_t n = 0; n < j.n; n++) {
        row_values(row.data(), exact.data(), w, 1, n, j.with->low);
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
    weights w;
    make_weights(&w, j.with->format, 2, j.n, j.k, 16, 16 * j.w_gap, 1.0f);
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
    free_weights(&w);
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
        p.m = MIDDLE_FROM + random_below(e.most_columns - MIDDLE_FROM + 1);
        p.n_pairs = 1;
        p.w.group = f->pub.group_elems;
        p.w.scale_type = f->scale_type;
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
    const int rounds = argc > 1 ? atoi(argv[1]) : 8;
    g_random += argc > 3 ? strtoull(argv[3], NULL, 10) * 7919 : 0;
    int failed = 0, passed = 0, skipped = 0, first = 0, each = 1;
    const bool part = argc > 2 && sscanf(argv[2], "%d/%d", &first, &each) == 2 && each > 0;
    const auto is_chosen = [&](const entry &e) {
        return part ? (&e - entries) % each == first : argc < 3 || strcmp(argv[2], e.format) == 0;
    };
    for (const entry &e : entries)
        check_plans(e) ? passed++ : failed++;
    for (const entry &e : entries)
        for (int round = 0; round < rounds && is_chosen(e); round++) {
            const gqmm_format_info *f = gqmm_format_by_name(e.format);
            const int unit = f->pub.block_elems;
            job j = {};
            j.with = &e;
            j.plan.width = std::min(std::max(widths[round % 4], e.least_width), e.most_width);
            j.plan.split = random_below(e.most_split + 1);
            j.plan.groups = 1 + random_below(std::min(e.most_groups(j.plan.width) >> j.plan.split,
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
