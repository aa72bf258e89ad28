// SPDX-License-Identifier: MIT
// What the tests of the wide and int8 products and the times share: a format's kernels, and the
// list of tiles that a sort would make.
#ifndef TESTS_CUDA_WIDE_LISTS_H
#define TESTS_CUDA_WIDE_LISTS_H

#include "kernel/cuda.h"

#include <algorithm>
#include <vector>

struct wide_entry {
    const char *format;
    int (*wide)(const gqmm_cuda_product *, gqmm_stream);
    bool (*fits)(const gqmm_cuda_product *);
    int code;                               // of the order of x
    int row_align;                          // of codes
    bool low;                               // codes lie in low bits, see wide_codes.cuh
    bool (*few)(const gqmm_cuda_product *); // whether the product is one of wide_few.cuh, or NULL
    int few_columns;                        // that it has at most
};

struct list {
    std::vector<int32_t> order;
    std::vector<gqmm_cuda_tile> tiles;
};

static list sort_pairs(const std::vector<int32_t> &rhs, int64_t m, int64_t n_experts, int columns)
{
    list l;
    std::vector<std::vector<int32_t>> of(n_experts + 1);
    for (size_t p = 0; p < rhs.size(); p++)
        of[rhs[p] < 0 ? n_experts : rhs[p]].push_back((int32_t)p);
    for (int64_t e = 0; e <= n_experts; e++) {
        const int64_t begin = (int64_t)l.order.size() * m, count = (int64_t)of[e].size() * m;
        const int64_t n = (count + columns - 1) / columns; // tiles of as many columns, or one more
        for (int64_t t = 0, c = 0, size; t < n; t++, c += size) {
            size = count / n + (t < count % n);
            l.tiles.push_back(
                {e == n_experts ? -1 : (int32_t)e, (int32_t)(begin + c), (int32_t)size, 0});
        }
        l.order.insert(l.order.end(), of[e].begin(), of[e].end());
    }
    std::stable_sort(l.tiles.begin(), l.tiles.end(),
                     [](const gqmm_cuda_tile &a, const gqmm_cuda_tile &b) {
                         return (a.expert < 0 ? 0 : a.count) > (b.expert < 0 ? 0 : b.count);
                     });
    return l;
}

#endif
