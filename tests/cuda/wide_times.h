// SPDX-License-Identifier: MIT
// The time of the wide product on a mixture of 256 experts.
#ifndef TESTS_CUDA_WIDE_TIMES_H
#define TESTS_CUDA_WIDE_TIMES_H

#include "base/num.h"
#include "kernel/cuda.h"
#include "product_data.h"
#include "product_weights.h"
#include "wide_lists.h"

#include <algorithm>
#include <cstdio>
#include <vector>

static void bench(const wide_entry *entry)
{
    const int64_t E = 256, D = 2048, F = 512, S = 8;
    weights gate, up, down;
    make_weights(&gate, entry->format, E, F, D, 1, 0, 1.0f);
    make_weights(&up, entry->format, E, F, D, 1, 0, 1.0f);
    make_weights(&down, entry->format, E, D, F, 1, 0, 1.0f);
    double bytes = 0;
    for (int i = 0; i < gate.f->pub.n_planes; i++)
        bytes += (double)(gate.plane[i].size() * 2 + down.plane[i].size());

    for (int64_t T : {64, 256, 512, 768, 4096}) {
        std::vector<uint16_t> x(T * D);
        for (uint16_t &v : x)
            v = gqmm_f32_to_bf16(random_float());
        std::vector<int32_t> rhs(T * S);
        std::vector<char> met(E, 0);
        int active = 0;
        for (int64_t t = 0; t < T; t++)
            for (int s = 0; s < S; s++) {
                bool again = true;
                while (again) {
                    rhs[t * S + s] = (int32_t)(random_bits() % E);
                    again = false;
                    for (int i = 0; i < s; i++)
                        again = again || rhs[t * S + i] == rhs[t * S + s];
                }
                met[rhs[t * S + s]] = 1;
            }
        for (char c : met)
            active += c;
        const double read = bytes * active / E, flop = 2.0 * (double)(T * S) * (3 * D * F);
        const double floor = std::max(read / 4.25e6, flop / 694e6);
        std::vector<int> widths;
        if (T == 64)
            widths = {16};
        else if (entry->few && T > 768)
            continue;
        else if (T <= 768)
            widths = {T == 256 ? 16 : 24, 32};
        else
            widths = {128, 152};
        for (int width : widths) {
            const list l = sort_pairs(rhs, 1, E, width);
            std::vector<int32_t> n_tiles(1, (int32_t)l.tiles.size());
            std::vector<uint16_t> h(T * S * F), y(T * S * D);
            gqmm_cuda_product a = {};
            a.w = gate.device, a.up = up.device;
            a.k = D, a.n = F;
            a.x = to_device(x), a.x_row = a.x_mat = D;
            a.x_type = a.y_type = GQMM_BF16;
            a.y = to_device(h), a.y_row = a.y_pair = F;
            a.n_pairs = T * S, a.m = 1, a.n_x = T;
            a.rhs = to_device(rhs), a.rhs_stride = 1, a.slots = S;
            a.list.order = to_device(l.order), a.list.tiles = to_device(l.tiles);
            a.list.n_tiles = to_device(n_tiles);
            a.list.taken = to_device(std::vector<int32_t>(2));
            a.list.tile_columns = width, a.list.most_tiles = (int32_t)l.tiles.size();
            a.y_order = entry->code;
            CUDA(cudaMalloc(&a.x_ordered, T * D * 2));
            gqmm_cuda_product b = a;
            b.w = down.device, b.up = gqmm_cuda_matrix{};
            b.k = F, b.n = D;
            b.x = a.y, b.x_row = b.x_mat = F, b.x_order = entry->code;
            b.y = to_device(y), b.y_row = b.y_pair = D, b.y_order = 0;
            b.n_x = T * S, b.slots = 1, b.ids_early = 1;
            const auto first = [&](cudaStream_t s, int) { CUDA(entry->wide(&a, s)); };
            const auto second = [&](cudaStream_t s, int) { CUDA(entry->wide(&b, s)); };
            gqmm_cuda_product tells = a, follows = b; // as a mixture runs them
            tells.tells = follows.follows = 1;
            gqmm_cuda_tile *fresh = to_device(l.tiles);
            const auto both = [&](cudaStream_t s, int) {
                CUDA(cudaMemcpyAsync(a.list.tiles, fresh, l.tiles.size() * sizeof *fresh,
                                     cudaMemcpyDeviceToDevice, s));
                CUDA(entry->wide(&tells, s));
                CUDA(entry->wide(&follows, s));
            };
            const span all = time_of(8, 20, both), one = time_of(8, 20, first),
                       two = time_of(8, 20, second);
            const double held = T == 4096 ? time_of(8, 200, both).median : 0;
            printf(
                "%-18s%s T %4ld columns %3d tiles %4d: both %7.1f us (spread %.1f), gate/up %7.1f "
                "(%.1f), down %7.1f (%.1f), held %.1f; floor %.1f; %.0f TFLOP/s, %.2f TB/s\n",
                entry->format, entry->few ? " few" : "", (long)T, width, (int)l.tiles.size(),
                all.median, all.most - all.least, one.median, one.most - one.least, two.median,
                two.most - two.least, held, floor, flop / all.median / 1e6,
                read / all.median / 1e6);
            fflush(stdout);
            CUDA(cudaFree((void *)a.x));
            CUDA(cudaFree(a.y));
            CUDA(cudaFree(b.y));
            CUDA(cudaFree(fresh));
            CUDA(cudaFree(a.x_ordered));
            CUDA(cudaFree((void *)a.rhs));
        }
    }
    free_weights(&gate);
    free_weights(&up);
    free_weights(&down);
}

#endif
