// SPDX-License-Identifier: MIT
// The int8 product on the host: activations lie where the nibbles of weights meet them, every row
// of weights has one place, and tiles of h do not overlap.
#ifndef TESTS_CUDA_INT8_PLANS_H
#define TESTS_CUDA_INT8_PLANS_H

#include "kernel/cuda/wide_int8_plan.cuh"

// Byte b of word i of a lane's 16 holds codes of k, low nibble first; wgmma i of four meets low
// nibbles at 4 t of its 32 along k, high ones at 16 + 4 t.
static bool check_int8_order(bool (*fail)(const char *, ...))
{
    namespace i8 = gqmm::int8_product;
    bool seen[i8::N] = {};
    for (int t = 0; t < 4; t++)
        for (int i = 0; i < 4; i++)
            for (int b = 0; b < 4; b++)
                for (int high = 0; high < 2; high++) {
                    const int k = 2 * (16 * t + 4 * i + b) + high;
                    const int met = 32 * i + 16 * high + 4 * t + b,
                              at = 4 * i8::word_of(k) + k % 8 / 2;
                    if (met != at)
                        return fail("int8: k %d is met at %d and lies at %d", k, met, at);
                }
    for (int c = 0; c < i8::N; c++) {
        const int place = i8::scale_place(c);
        if (place < 0 || place >= i8::N || seen[place] || place / 16 != c / 16)
            return fail("int8: the scale of column %d lies at %d", c, place);
        seen[place] = true;
    }
    return true;
}

static bool check_int8_rows(bool (*fail)(const char *, ...))
{
    namespace i8 = gqmm::int8_product;
    for (int two = 0; two < 2; two++) {
        int met[i8::ROWS] = {};
        for (int warp = 0; warp < 8; warp++)
            for (int g = 0; g < 8; g++)
                for (int part = 0; part < 4; part++) {
                    const int row =
                        i8::row_of(two, warp, g, part) + (two && part % 2 ? i8::ROWS / 2 : 0);
                    if (row < 0 || row >= i8::ROWS || met[row]++)
                        return fail("int8: row %d has two places", row);
                    if ((i8::row_of(two, warp, g ^ 1, part) ^ row) % 8 < 4)
                        return fail("int8: rows %d of the same half of the banks", row);
                }
    }
    return true;
}

#endif
