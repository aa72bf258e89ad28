// SPDX-License-Identifier: MIT
// The product in tiles of few columns on the host: every row of weights has one place, lanes end
// with neighbouring outputs, and what eight lanes read at once lies in banks of their own.
#ifndef TESTS_CUDA_FEW_PLANS_H
#define TESTS_CUDA_FEW_PLANS_H

#include "kernel/cuda/wide_few.cuh"

template <class D> static bool check_few_rows(bool (*fail)(const char *, ...))
{
    namespace few = gqmm::few_product;
    const int order = gqmm::wide_product::order_code<D>(), next = few::few_layout<D>::NEXT;
    for (int two = 0; two < 2; two++) {
        int met[few::ROWS] = {};
        for (int i = 0; i < few::ROWS; i++) {
            const int warp = i >> 5, g = i & 7, m = i >> 4 & 1, half = i >> 3 & 1;
            const int row = few::row_of<D>(two, two ? order : 0, warp, g, m, half);
            if (row < 0 || row >= few::ROWS || met[row]++)
                return fail("few columns: row %d has two places", row);
            // Eight neighbours of a lane: parts in the order of in_a_row().
            const int part = 2 * m + half, eighth = row - 32 * warp - 8 * (g >> 1);
            const int want = next == 4   ? part + 4 * (g & 1)
                             : next == 2 ? part / 2 * 4 + 2 * (g & 1) + part % 2
                                         : 2 * part + (g & 1);
            if (!two && eighth != want)
                return fail("few columns: row %d is not where it is stored", row);
            const int at = 16 * warp + 4 * (g >> 1) + 2 * m + (g & 1); // of its output in h
            if (two && row != (at & ~31) + half * (few::ROWS / 2) +
                                  gqmm::wide_product::place_source(
                                      gqmm::wide_product::order_of_code(order), at & 31))
                return fail("few columns: row %d is not where it is stored", row);
        }
    }
    return true;
}

// Where rows stand that come in several copies: each somewhere, those of a copy together.
template <bool TWO> static bool check_few_places(bool (*fail)(const char *, ...))
{
    namespace few = gqmm::few_product;
    const int height = TWO ? few::ROWS / 2 : few::ROWS;
    for (int spread = 0; spread <= few::MOST_SPREAD; spread++)
        for (int row = 0; row < few::ROWS; row++) {
            const int of = row % height, copies = 1 << spread;
            const int want = row - of + of % copies * (height / copies) + of / copies;
            if (few::place_of<TWO>(row, spread) != want)
                return fail("few columns: row %d of %d copies stands at %d", row, copies,
                            few::place_of<TWO>(row, spread));
        }
    return true;
}

// Of `count` rows that are read at once, where they stand differs in these bits.
template <class D>
static bool check_few_spread(bool (*fail)(const char *, ...), bool two, int count, int bits)
{
    namespace few = gqmm::few_product;
    const int order = gqmm::wide_product::order_code<D>(), spread = few::few_layout<D>::SPREAD[two];
    for (int i = 0; i < few::ROWS; i += count) { // in the order (warp, m, half, g)
        unsigned met = 0;
        for (int g = i & 7; g < (i & 7) + count; g++) {
            const int row = few::row_of<D>(two, two ? order : 0, i >> 5, g, i >> 4 & 1, i >> 3 & 1);
            const int place = (two ? few::place_of<true> : few::place_of<false>)(row, spread);
            if (met >> (place & bits) & 1)
                return fail("few columns: rows that are read at once meet at %d", place);
            met |= 1u << (place & bits);
        }
    }
    return true;
}

// More copies than must be, but not of rows far apart or of rows that do not divide by them.
static bool check_few_copies(bool (*fail)(const char *, ...))
{
    namespace few = gqmm::few_product;
    static const struct {
        int64_t n, stride;
        int want;
    } cases[] = {{1024, 144, 2}, {1026, 144, 0}, {1024, few::FAR_ROW, 0}, {1024, 1 << 26, 2}};
    for (const auto &c : cases) {
        gqmm_cuda_product p = {};
        p.n = c.n;
        p.w.row_stride[0] = c.stride;
        const int got = few::spread_for<gqmm::dec_q4_0>(&p);
        if (got != c.want)
            return fail("few columns: %lld rows %lld bytes apart come in 2^%d copies",
                        (long long)c.n, (long long)c.stride, got);
    }
    return true;
}

// Where nibbles are read by 16 bytes and rows are a step apart.
template <class D> static bool check_few_halves(bool (*fail)(const char *, ...))
{
    namespace few = gqmm::few_product;
    const int order = gqmm::wide_product::order_code<D>();
    for (int two = 0; two < 2; two++)
        for (int i = 0; i < few::ROWS; i++) {
            const int warp = i >> 5, g = i & 7, m = i >> 4 & 1, half = i >> 3 & 1;
            const int row = few::row_of<D>(two, two ? order : 0, warp, g, m, half);
            if ((few::row_of<D>(two, two ? order : 0, warp, g ^ 1, m, half) ^ row) % 8 < 4)
                return fail("few columns: rows %d of the same half of the banks", row);
            if (row !=
                few::row_of<D>(two, two ? order : 0, warp, g, 0, 0) + few::row_step(two, m, half))
                return fail("few columns: row %d is not where it is read", row);
        }
    return true;
}

// Lanes of columns g and g + 1 that read at once; at: where, of columns and lanes of a quad.
template <class AT> static bool check_few_banks(bool (*fail)(const char *, ...), AT at)
{
    for (int g = 0; g < 8; g += 2) {
        unsigned banks = 0; // of 16 bytes
        for (int lane = 4 * g; lane < 4 * g + 8; lane++)
            banks |= 1u << at(lane >> 2, lane & 3) / 16 % 8;
        if (banks != 0xff)
            return fail("few columns: lanes of columns %d and %d meet in banks", g, g + 1);
    }
    return true;
}

// Turns of few_lane<D>, which meet all of a step once.
template <class D> static bool check_few_turns(bool (*fail)(const char *, ...))
{
    namespace few = gqmm::few_product;
    using lane = few::few_lane<D>;
    int met[few::STEP * 2 / 16] = {};
    for (int i = 0; i < lane::PHASES * lane::TURNS; i++) {
        const auto at = [=](int g, int t) {
            return lane::column(g * few::column_pitch<D> + lane::first_column(t), i / lane::TURNS,
                                i % lane::TURNS);
        };
        if (!check_few_banks(fail, at))
            return false;
        for (int t = 0; t < 4; t++)
            if (at(0, t) >= few::STEP * 2 || met[at(0, t) / 16]++)
                return fail("few columns: lane %d's turn %d", t, i);
    }
    return true;
}

// Where a lane takes pair p of the words of a piece, its 16 bytes of x are of the same k.
static bool check_few_columns(bool (*fail)(const char *, ...))
{
    namespace few = gqmm::few_product;
    for (int turn = 0; turn < 4; turn++) {
        if (!check_few_banks(fail, [=](int g, int t) { return few::column_at(g, t, turn); }))
            return false;
        for (int i = 0; i < 32; i++) {
            const int t = i >> 3, place = few::column_at(0, t, turn) / 2 + (i & 7);
            const int k = gqmm::wide_product::place_source(gqmm::NIBBLE, place & 31);
            if (place >> 5 != t || k != 8 * (i >> 1 & 3) + (turn ^ t >> 1) + 4 * (i & 1))
                return fail("few columns: lane %d meets k %d in turn %d", t, k, turn);
        }
    }
    for (int turn = 0; turn < 8; turn++) {
        const int second = turn >> 2, word = turn >> 1 & 1, piece = turn & 1;
        if (!check_few_banks(
                fail, [=](int g, int t) { return few::block_column_at(g, t, piece, second); }))
            return false;
        for (int i = 0; i < 32; i++) {
            const int t = i >> 3;
            const int place = few::block_column_at(0, t, piece, second) / 2 + 16 * word + (i & 7);
            const int k = gqmm::wide_product::place_source(gqmm::BYTES, place & 31);
            if (place >> 5 != 2 * t + (piece ^ t >> 1) ||
                k != 8 * (i >> 1 & 3) + 4 * word + (second ^ (t & 1)) + 2 * (i & 1))
                return fail("few columns: lane %d meets k %d of a block in turn %d", t, k, turn);
        }
    }
    return true;
}

// Formats whose codes few_lane takes.
template <class... D> static bool check_few_lanes(bool (*fail)(const char *, ...))
{
    return ((check_few_rows<D>(fail) && check_few_turns<D>(fail)) && ...);
}

static bool check_few_plans(bool (*fail)(const char *, ...))
{
    using namespace gqmm;
    // Words of rows four banks apart, 16 bytes of 64, and 16 and 8 of 128 swizzled.
    if (!check_few_spread<dec_q4_0>(fail, false, 8, 7) ||
        !check_few_spread<dec_nvfp4>(fail, false, 8, 7) ||
        !check_few_spread<dec_affine2>(fail, false, 2, 1) ||
        !check_few_spread<dec_affine2>(fail, true, 2, 1) ||
        !check_few_spread<dec_mlx_mxfp4>(fail, false, 2, 1) ||
        !check_few_spread<dec_mlx_nvfp4>(fail, false, 4, 5) ||
        !check_few_spread<dec_mlx_nvfp4>(fail, true, 4, 5))
        return false;
    return check_few_rows<dec_int4>(fail) && check_few_rows<dec_q4_k>(fail) &&
           check_few_halves<dec_int4>(fail) && check_few_copies(fail) &&
           check_few_places<false>(fail) && check_few_places<true>(fail) &&
           check_few_columns(fail) &&
           check_few_lanes<dec_affine2, dec_affine3, dec_q2_k, dec_q3_k, dec_q4_0, dec_q4_1,
                           dec_iq4_nl, dec_iq4_xs, dec_nvfp4, dec_mlx_mxfp4, dec_mlx_nvfp4>(fail);
}

#endif
