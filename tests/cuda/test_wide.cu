// SPDX-License-Identifier: MIT
// The wide product against sums in double of the definition's weights, rounded as the kernel rounds
// them, on random ragged shapes; with `bench`, its time on a mixture of 256 experts.
//
// usage: test_wide                  checks
//        test_wide I/N              the same of every N-th entry from I on
//        test_wide bench FORMAT...  times formats of wide_entries[]
#include "kernel/cuda/decode_blocks.cuh"
#include "kernel/cuda/decode_k_quants.cuh"
#include "kernel/cuda/decode_mlx.cuh"
#include "kernel/cuda/wide.cuh"
#include "product_weights.h"
#include "wide_lists.h"
#include "wide_times.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include <cuda_runtime.h>

#define ENTRY(format, d) \
    { \
        format, gqmm::wide<gqmm::d, false>, gqmm::wide_fits<gqmm::d>, \
            gqmm::wide_product::order_code<gqmm::d>(), gqmm::wide_product::row_align<gqmm::d>, \
            gqmm::wide_product::wide_codes<gqmm::d>::low, NULL, 0 \
    }
#define ENTRY_FEW(format, d) \
    { \
        format, gqmm::wide<gqmm::d>, gqmm::wide_fits<gqmm::d>, \
            gqmm::wide_product::order_code<gqmm::d>(), gqmm::wide_product::row_align<gqmm::d>, \
            gqmm::wide_product::wide_codes<gqmm::d>::low, gqmm::few_product::fits<gqmm::d>, \
            gqmm::few_product::MOST_COLUMNS<gqmm::d> \
    }
static const wide_entry wide_entries[] = {
    ENTRY_FEW("int4_g128", dec_int4),
    ENTRY_FEW("int4_g64", dec_int4),
    ENTRY_FEW("affine4_g64_bf16", dec_affine4),
    ENTRY_FEW("affine4_g128_bf16", dec_affine4),
    ENTRY_FEW("q4_k", dec_q4_k),
    ENTRY_FEW("affine2_g64_bf16", dec_affine2),
    ENTRY_FEW("affine2_g128_bf16", dec_affine2),
    ENTRY_FEW("q2_k", dec_q2_k),
    ENTRY_FEW("q3_k", dec_q3_k),
    ENTRY_FEW("iq4_xs", dec_iq4_xs),
    ENTRY_FEW("affine3_g64_bf16", dec_affine3),
    ENTRY_FEW("iq4_nl", dec_iq4_nl),
    ENTRY_FEW("q4_0", dec_q4_0),
    ENTRY_FEW("q4_1", dec_q4_1),
    ENTRY_FEW("nvfp4", dec_nvfp4),
    ENTRY_FEW("mlx_mxfp4", dec_mlx_mxfp4),
    ENTRY_FEW("mlx_nvfp4", dec_mlx_nvfp4),
    ENTRY("affine4_g64_bf16", dec_affine4),
    ENTRY("q4_k", dec_q4_k),
    ENTRY("affine4_g32_f32", dec_affine4),
    ENTRY("int4_g128", dec_int4),
    ENTRY("q4_0", dec_q4_0),
    ENTRY("q8_0", dec_q8_0),
    ENTRY("q6_k", dec_q6_k),
    ENTRY("q5_k", dec_q5_k),
    ENTRY("mxfp4", dec_mxfp4),
    ENTRY("nvfp4", dec_nvfp4),
    ENTRY("mlx_mxfp4", dec_mlx_mxfp4),
    ENTRY("mlx_nvfp4", dec_mlx_nvfp4),
    ENTRY("q5_1", dec_q5_1),
    ENTRY("q3_k", dec_q3_k),
    ENTRY("iq4_xs", dec_iq4_xs),
    ENTRY("affine3_g128_f16", dec_affine3),
    ENTRY("affine8_g32_f32", dec_affine8),
    ENTRY("mlx_mxfp8", dec_mlx_mxfp8),
};
static const int n_wide_entries = sizeof wide_entries / sizeof *wide_entries;

// ---- one case

struct job {
    const wide_entry *entry;
    int columns;
    int64_t n_experts, n, k, m, n_pairs, n_x;
    bool two, with_lhs, ordered_x, ordered_y;
    bool large_y; // with ordered_y: as activations of codes in low bits
    int y_type;
    int64_t x_gap, y_gap, w_gap;
    bool tells, follows; // follows what has told already
    float offsets;       // against scales
};

static int source_of(int order, int q) // the definition in decode.cuh, written out again
{
    const int t = (q & 7) / 2, i = q / 16 * 4 + (q / 8 % 2) * 2 + q % 2;
    if (order == 0)
        return 8 * t + i;
    if (order == 1)
        return 8 * t + i / 2 + i % 2 * 4;
    if (order == 2)
        return 4 * t + i % 4 + i / 4 * 16;
    if (order == 3)
        return 4 * t + i % 4 / 2 + i % 2 * 2 + i / 4 * 16;
    if (order == 5)
        return 8 * t + i % 4 / 2 + i % 2 * 2 + i / 4 * 4;
    return 2 * t + i % 2 + i / 2 * 8;
}

static double size_of_code(int code)
{
    return code & 16 ? 0x1p37 : 1.0;
}

static double read_number(const uint8_t *p, int type)
{
    uint32_t u = 0;
    memcpy(&u, p, type == GQMM_F32 ? 4 : 2);
    return type == GQMM_F32   ? gqmm_bits_to_f32(u)
           : type == GQMM_F16 ? gqmm_f16_to_f32((uint16_t)u)
                              : gqmm_bf16_to_f32((uint16_t)u);
}

// Returns the largest error over what is allowed; above 1 is wrong. rel: |y - exact| / |exact|.
static double run_job(const job &j, double *rel)
{
    weights w, up;
    make_weights(&w, j.entry->format, j.n_experts, j.n, j.k, 1, j.w_gap, j.offsets);
    if (j.two)
        make_weights(&up, j.entry->format, j.n_experts, j.n, j.k, 1, j.w_gap, j.offsets);

    const int64_t x_row = j.k + j.x_gap, x_mat = j.m * x_row + j.x_gap;
    std::vector<uint16_t> x(j.n_x * x_mat + 64), given;
    for (uint16_t &v : x)
        v = gqmm_f32_to_bf16(random_float());
    given = x;
    if (j.ordered_x)
        for (int64_t r = 0; r < j.n_x * j.m; r++)
            for (int64_t k = 0; k < j.k; k++) {
                const int64_t at = r / j.m * x_mat + r % j.m * x_row;
                given[at + k] = gqmm_f32_to_bf16(
                    (float)size_of_code(j.entry->code) *
                    gqmm_bf16_to_f32(
                        x[at + (k & ~31) + source_of((j.entry->code & 15) - 1, (int)(k & 31))]));
            }

    std::vector<int32_t> rhs(j.n_pairs), lhs(j.n_pairs);
    for (int64_t p = 0; p < j.n_pairs; p++) {
        rhs[p] = random_bits() % 23 == 0 ? -1 : (int32_t)(random_bits() % j.n_experts);
        if (random_bits() % 3 == 0)
            rhs[p] = 0; // one expert has more than a tile
        lhs[p] = (int32_t)(random_bits() % j.n_x);
    }
    list l = sort_pairs(rhs, j.m, j.n_experts, j.columns);
    for (gqmm_cuda_tile &t : l.tiles)
        t.done = j.follows ? 8 * (int32_t)j.k : 0;
    const int32_t slots = (int32_t)((j.n_pairs + j.n_x - 1) / j.n_x);

    const int size = j.y_type == GQMM_F32 ? 4 : 2;
    const int64_t y_row = j.n + j.y_gap, y_pair = j.m * y_row + j.y_gap;
    std::vector<uint8_t> y(j.n_pairs * y_pair * size, 0xff);
    std::vector<int32_t> n_tiles(1, (int32_t)l.tiles.size());

    gqmm_cuda_product p = {};
    p.w = w.device;
    if (j.two)
        p.up = up.device;
    p.k = j.k, p.n = j.n;
    p.x = to_device(given);
    p.x_row = x_row, p.x_mat = x_mat;
    p.x_type = GQMM_BF16, p.y_type = j.y_type;
    p.y = to_device(y);
    p.y_row = y_row, p.y_pair = y_pair;
    p.n_pairs = j.n_pairs, p.m = j.m, p.n_x = j.n_x;
    p.lhs = j.with_lhs ? to_device(lhs) : NULL;
    p.rhs = to_device(rhs);
    p.lhs_stride = p.rhs_stride = 1;
    p.slots = slots;
    p.list.order = to_device(l.order);
    p.list.tiles = to_device(l.tiles);
    p.list.n_tiles = to_device(n_tiles);
    p.list.taken = to_device(std::vector<int32_t>(2));
    p.list.tile_columns = j.columns;
    p.list.most_tiles = (int32_t)l.tiles.size() + 3;
    p.x_order = j.ordered_x ? j.entry->code : 0;
    p.y_order = j.ordered_y ? 2 + 16 * j.large_y : 0;
    p.tells = j.tells, p.follows = j.follows;
    CUDA(cudaMalloc(&p.x_ordered, j.n_x * j.m * j.k * 2));
    if (!j.entry->fits(&p) || (j.entry->few && !j.entry->few(&p))) {
        printf("  does not fit\n");
        *rel = 0;
        return 2;
    }
    CUDA(j.entry->wide(&p, 0));
    CUDA(cudaDeviceSynchronize());
    CUDA(cudaMemcpy(y.data(), p.y, y.size(), cudaMemcpyDeviceToHost));

    std::vector<gqmm_cuda_tile> tiles(l.tiles.size());
    std::vector<int32_t> taken(2);
    CUDA(cudaMemcpy(tiles.data(), p.list.tiles, tiles.size() * sizeof tiles[0],
                    cudaMemcpyDeviceToHost));
    CUDA(cudaMemcpy(taken.data(), p.list.taken, 8, cudaMemcpyDeviceToHost));

    double worst = taken[0] || taken[1] ? INFINITY : 0, square = 0, of = 0;
    for (const gqmm_cuda_tile &t : tiles)
        if (t.done != (j.tells ? 8 * (int32_t)j.n : j.follows ? 8 * (int32_t)j.k : 0))
            worst = INFINITY;
    std::vector<std::vector<int64_t>> pairs_of(j.n_experts);
    std::vector<double> row[2] = {std::vector<double>(j.k), std::vector<double>(j.k)};
    std::vector<double> exact[2] = {row[0], row[1]};
    for (int64_t q = 0; q < j.n_pairs; q++)
        if (rhs[q] >= 0)
            pairs_of[rhs[q]].push_back(q);
    std::vector<char> written(y.size() / size, 0);
    const auto at_of = [&](int64_t q, int64_t i, int64_t out) {
        // place of output `out`: y_order puts source_of(order, place) at place
        int64_t place = out;
        if (j.ordered_y)
            for (int b = 0; b < 32; b++)
                if ((out & ~31) + source_of(1, b) == out)
                    place = (out & ~31) + b;
        return q * y_pair + i * y_row + place;
    };
    const double rounding = j.y_type == GQMM_F32   ? 0x1p-23
                            : j.y_type == GQMM_F16 ? 0x1p-10
                                                   : 0x1p-8;
    for (int64_t e = 0; e < j.n_experts; e++)
        for (int64_t out = 0; out < j.n; out++) {
            if (pairs_of[e].empty())
                continue;
            row_values(row[0].data(), exact[0].data(), w, e, out, j.entry->low);
            if (j.two)
                row_values(row[1].data(), exact[1].data(), up, e, out, j.entry->low);
            for (int64_t q : pairs_of[e])
                for (int64_t i = 0; i < j.m; i++) {
                    const uint16_t *xr =
                        &x[(j.with_lhs ? lhs[q] : q / p.slots) * x_mat + i * x_row];
                    double sum[2] = {}, size_of[2] = {}, true_sum[2] = {};
                    for (int h = 0; h < 1 + j.two; h++)
                        for (int64_t k = 0; k < j.k; k++) {
                            const double v = gqmm_bf16_to_f32(xr[k]);
                            sum[h] += row[h][k] * v;
                            size_of[h] += fabs(row[h][k] * v);
                            true_sum[h] += exact[h][k] * v;
                        }
                    double want = sum[0], good = true_sum[0], allowed = 2e-6 * size_of[0];
                    if (j.two) {
                        const double a = sum[0] / (1 + exp(-sum[0]));
                        want = a * sum[1];
                        good = true_sum[0] / (1 + exp(-true_sum[0])) * true_sum[1];
                        allowed = 1.2 * allowed * fabs(sum[1]) + 2e-6 * size_of[1] * fabs(a) +
                                  1e-5 * fabs(want);
                    }
                    allowed += rounding * fabs(want) + 1e-6;
                    const int64_t at = at_of(q, i, out);
                    const double got =
                        read_number(&y[at * size], j.y_type) / size_of_code(p.y_order);
                    double error = fabs(got - want) / allowed;
                    if (j.y_type == GQMM_F16 && fabs(want) + allowed >= 65520 && got * want > 0 &&
                        isinf(got))
                        error = 0; // it rounds to infinity, or may
                    written[at] = 1;
                    worst = error <= worst ? worst : error;
                    if (!(error <= 1) && worst == error && !(error < 1e9))
                        printf("  pair %ld row %ld out %ld: %g, want %g\n", (long)q, (long)i,
                               (long)out, got, want);
                    square += (got - good) * (got - good);
                    of += good * good;
                }
        }
    for (int64_t q = 0; q < j.n_pairs; q++)
        for (int64_t i = 0; i < j.m && rhs[q] < 0; i++)
            for (int64_t out = 0; out < j.n; out++) {
                const int64_t at = at_of(q, i, out);
                written[at] = 1;
                if (read_number(&y[at * size], j.y_type) != 0)
                    worst = INFINITY;
            }
    for (size_t i = 0; i < written.size(); i++)
        for (int b = 0; b < size && !written[i]; b++)
            if (y[i * size + b] != 0xff)
                worst = INFINITY; // wrote where nothing is
    *rel = sqrt(square / of);

    free_weights(&w);
    if (j.two)
        free_weights(&up);
    CUDA(cudaFree((void *)p.x));
    CUDA(cudaFree(p.y));
    CUDA(cudaFree((void *)p.lhs));
    CUDA(cudaFree((void *)p.rhs));
    CUDA(cudaFree(p.list.order));
    CUDA(cudaFree(p.list.tiles));
    CUDA(cudaFree(p.list.n_tiles));
    CUDA(cudaFree(p.list.taken));
    CUDA(cudaFree(p.x_ordered));
    return worst;
}

static int check_all(int first, int each)
{
#define GQMM_WIDTH(n) n,
    static const int widths[] = {GQMM_WIDTHS(GQMM_WIDTH)};
#undef GQMM_WIDTH
    int failed = 0, n = 0;
    for (int e = first; e < n_wide_entries; e += each)
        for (int width : widths)
            for (int round = 0; round < 2 + 4 * (wide_entries[e].few != NULL); round++) {
                const wide_entry *entry = &wide_entries[e];
                if (entry->few && width > entry->few_columns)
                    break;
                const gqmm_format_info *f = gqmm_format_by_name(entry->format);
                // Rows that do not start where the decoder wants them are not for wide().
                const std::string family = f->family;
                int unit = entry->few ? 256 : std::max(32, f->pub.block_elems);
                while (unit / f->pub.block_elems * f->pub.plane_bytes[0] % entry->row_align)
                    unit *= 2;
                job j = {};
                j.entry = entry;
                j.columns = round & 1 ? width : width - width / 8;
                j.n_experts = 3;
                // Far below the scales, they decide which way weights in the middle of two numbers
                // are rounded.
                j.offsets = round == 1 ? 0x1p-20f : 1.0f;
                j.ordered_y = random_bits() % 3 == 0;
                j.n = 1 + random_bits() % 290;
                if (j.ordered_y)
                    j.n = 32 * (1 + random_bits() % 9);
                else if (random_bits() % 2) // rows of y may be written in whole pieces
                    j.n = 8 * (1 + random_bits() % 36);
                j.k = unit * (1 + random_bits() % (600 / unit));
                j.m = random_bits() % 3 ? 1 : 1 + random_bits() % 3;
                j.n_pairs = 1 + random_bits() % (3 * width) / j.m;
                j.two = random_bits() % 2;
                j.with_lhs = random_bits() % 2;
                j.ordered_x = random_bits() % 2;
                j.n_x = 1 + random_bits() % 9;
                j.y_type = random_bits() % 3;
                if (entry->few && !j.two) {
                    j.ordered_y = false;
                } else if (entry->few && f->pub.n_planes > 1) { // for nibbles' rows
                    j.ordered_y = true;
                    j.n = 32 * (1 + random_bits() % 9);
                }
                if (entry->few && round < 5) // more steps than stages
                    j.k = 256 * (1 + random_bits() % 7);
                if (entry->few && round == 5 &&
                    width == entry->few_columns) { // several tiles for each block
                    j.n_experts = 60;
                    j.n = 1280 + (j.ordered_y ? 0 : random_bits() % 60);
                    j.m = 1;
                    j.n_pairs = 600;
                }
                // Of rows at no multiple of 16 bytes every second, fourth or eighth is.
                const int64_t bytes = j.k / f->pub.block_elems * f->pub.plane_bytes[0];
                for (int rows = 1; entry->few && rows * bytes % 16 != 0; rows *= 2)
                    j.n = (j.n + 2 * rows - 1) / (2 * rows) * (2 * rows);
                j.follows = j.ordered_x && n % 2;
                j.tells = !j.follows && n % 3;
                j.large_y = j.y_type != GQMM_F16 && random_bits() % 2;
                j.x_gap = j.ordered_x ? 8 * (random_bits() % 3) : random_bits() % 20;
                j.y_gap = random_bits() % 2 ? 0 : random_bits() % 9;
                j.w_gap = random_bits() % 2 ? 0 : family == "mxfp4" ? 1 + random_bits() % 16 : 16;
                double rel = 0;
                const double worst = run_job(j, &rel);
                const bool ok = worst <= 1;
                failed += !ok;
                n++;
                if (!ok || round == 0)
                    printf("%s %s columns %d n %ld k %ld m %ld pairs %ld two %d lhs %d x %d y %d "
                           "type %d gap %ld: %.2f of what is allowed, %.1e of the definition\n",
                           ok ? "ok" : "FAIL", entry->format, j.columns, (long)j.n, (long)j.k,
                           (long)j.m, (long)j.n_pairs, j.two, j.with_lhs, j.ordered_x, j.ordered_y,
                           j.y_type, (long)j.w_gap, worst, rel);
                fflush(stdout);
            }
    printf("test_wide: %d passed, %d failed\n", n - failed, failed);
    return failed;
}

int main(int argc, char **argv)
{
    int first = 0, each = 1;
    if (argc > 1 && strcmp(argv[1], "bench") == 0) {
        for (int i = 0; i < n_wide_entries; i++)
            for (int a = 2; a < argc; a++)
                if (strcmp(argv[a], wide_entries[i].format) == 0)
                    bench(&wide_entries[i]);
        return 0;
    }
    if (argc > 1 && (sscanf(argv[1], "%d/%d", &first, &each) != 2 || first < 0 || each < 1))
        return 2;
    return check_all(first, each) ? 1 : 0;
}
