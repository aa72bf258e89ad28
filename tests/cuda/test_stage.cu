// SPDX-License-Identifier: MIT
// The loader of stage.cuh on the host, lane by lane: every step of 16 rows of every decoder, where
// rows end within a step, start at any byte and are fewer than 16. What at() points to is the rows'
// bytes with zeros behind them, and nothing outside the rows is read. Device functions are plain
// functions here, and asynchronous copies are memcpy.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#undef __device__
#undef __forceinline__
#define __device__
#define __forceinline__ inline

#define GQMM_KERNEL_CUDA_MMA_CUH // ours instead
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace gqmm
{

static const uint8_t *first_byte, *last_byte; // of memory that may be read: [first, last)
static long failures;                         // of copies and of rows
static int n_passed, n_failed;                // decoders
static const char *decoder;

static void copy(void *to, const void *from, int valid, int size)
{
    const uint8_t *p = (const uint8_t *)from;
    const bool here = p >= first_byte && p < last_byte && p + valid <= last_byte;
    const bool even = ((uintptr_t)to | (uintptr_t)from) % (uintptr_t)size == 0;
    memset(to, 0, (size_t)size);
    if (here && even && valid >= 0 && valid <= size)
        memcpy(to, from, (size_t)valid);
    else if (failures++ < 10)
        printf("FAIL %s: a copy of %d of %d bytes at %ld of %ld\n", decoder, valid, size,
               (long)(p - first_byte), (long)(last_byte - first_byte));
}

static inline void copy_16(void *to, const void *from, int valid)
{
    copy(to, from, valid, 16);
}

static inline void copy_4(void *to, const void *from, int valid)
{
    copy(to, from, valid, 4);
}

template <class T> static inline void keep(T &)
{
}

} // namespace gqmm

#include "kernel/cuda/decode_blocks.cuh"
#include "kernel/cuda/decode_float.cuh"
#include "kernel/cuda/decode_k_quants.cuh"
#include "kernel/cuda/decode_low.cuh"
#include "kernel/cuda/decode_mlx.cuh"
#include "kernel/cuda/stage.cuh"

using namespace gqmm;

struct scene {
    int64_t k;
    int rows; // of each matrix: 16, fewer, or 8 of two
    bool halves;
    int shift;   // where plane 0 starts in 16 bytes, and plane 1 where its scales are bytes
    bool padded; // rows lie 16 bytes further apart than they have to
};

// A block of rows, plane after plane in memory of exactly their size, and their loader's steps.
template <class D> struct trial {
    static constexpr int LANES = 32;
    const format_args f;
    const scene &s;
    uint8_t *memory, *start[3];
    int64_t stride[3], size[3];
    bool aligned;

    static int64_t row_bytes(int plane, int64_t k, const format_args &f)
    {
        return plane < D::planes ? D::bytes(plane, k, f) : 0;
    }

    trial(const scene &of, const format_args &args) : f(args), s(of), aligned(true)
    {
        const int all = s.halves ? 2 * s.rows : s.rows;
        int64_t at = 16;
        int64_t place[3];
        for (int i = 0; i < 3; i++) {
            const bool bytes = i == 0 || (i == 1 && scale_bytes_of<D>::value);
            stride[i] = row_bytes(i, s.k, f) + (s.padded ? 16 : 0);
            size[i] = i < D::planes ? stride[i] * (all - 1) + row_bytes(i, s.k, f) : 0;
            place[i] = at + (bytes ? s.shift : 0);
            at = (place[i] + size[i] + 15) / 16 * 16;
            const int64_t step = i == 0 ? 16 : bytes ? 1 : 4;
            if (i < D::planes)
                aligned = aligned && place[i] % step == 0 && stride[i] % step == 0;
        }
        for (int i = D::planes - 1; i >= 0; i--) // the last plane ends where the memory does
            if (i == D::planes - 1)
                at = place[i] + size[i];
        memory = (uint8_t *)aligned_alloc(16, (size_t)(at + 15) / 16 * 16);
        for (int64_t i = 0; i < at; i++)
            memory[i] = (uint8_t)(1 + i * 37 % 251);
        for (int i = 0; i < 3; i++)
            start[i] = memory + place[i];
    }
    ~trial()
    {
        free(memory);
    }

    row_block block() const
    {
        row_block b;
        b.count = s.rows;
        b.halves = s.halves;
        for (int i = 0; i < 3; i++) {
            b.first[i] = start[i];
            b.stride[i] = stride[i];
            b.second[i] = s.rows * stride[i];
        }
        return b;
    }

    // Row r of 16 as a step should have it: what is not there repeats the last one.
    bool same(const uint8_t *got, int plane, int r, int step) const
    {
        const int64_t n = row_bytes(plane, D::step, f), all = row_bytes(plane, s.k, f);
        const uint8_t *row = block().row(plane, r);
        for (int64_t i = 0; i < n; i++) {
            const int64_t at = step * n + i;
            if (got[i] != (at < all ? row[at] : 0))
                return false;
        }
        return true;
    }

    void run(const char *name)
    {
        const row_block b = block();
        const int steps = (int)((s.k + D::step - 1) / D::step);
        const int64_t quarter = 4 * stride[0], half = s.halves ? b.second[0] : 2 * quarter;
        static loader<D> lanes[LANES];
        alignas(128) static uint8_t stage[ROWS * row_pitch<D>()];
        // As mixture.cuh does it: from other rows, whole 16 bytes away in every plane.
        const int64_t by[3] = {48, s.padded ? 80 : -16, 16};
        row_block other = b;
        for (int i = 0; i < 3; i++)
            other.first[i] -= by[i];
        for (int lane = 0; lane < LANES; lane++) {
            lanes[lane].set(other, s.k, aligned, b.regular(), lane, f);
            lanes[lane].move(by);
        }
        // As single.cuh does it, once more: regular rows of whole steps.
        const bool whole = b.regular() && s.k % D::step == 0 && (D::loose || aligned);
        for (int i = 0; i < steps << whole; i++) {
            const int step = i >> whole;
            memset(stage, 0xee, sizeof stage);
            for (int lane = 0; lane < LANES; lane++)
                if (whole && i % 2)
                    lanes[lane].bring(stage, step, s.k, aligned, quarter, half, lane, f);
                else
                    lanes[lane].bring(stage, step, s.k, aligned, quarter, half, lane, f,
                                      [&] { return b; });
            for (int lane = 0; lane < LANES; lane++)
                for (int slot = 0; slot < 3; slot++) {
                    const int r = slot == 0 ? lane & 15 : (lane >> 2) + (slot - 1) * 8;
                    const step_row got = lanes[lane].at(stage, slot, lane, step);
                    for (int plane = 0; plane < D::planes; plane++)
                        if (!same(got.p[plane], plane, r, step) && failures++ < 10)
                            printf("FAIL %s k %ld step %d plane %d row %d: %d rows%s at %d%s\n",
                                   name, (long)s.k, step, plane, r, s.rows,
                                   s.halves ? ", halves," : "", s.shift,
                                   s.padded ? ", padded" : "");
                }
        }
    }
};

template <class D> static void rows_of(const char *name, format_args f)
{
    static const int64_t lengths[] = {32,  64,  96,  128, 160, 224,  256,  288,
                                      320, 352, 384, 512, 736, 1024, 1280, 2880};
    static const struct {
        int rows;
        bool halves;
    } blocks[] = {{16, false}, {8, true}, {13, false}, {3, true}};
    const long before = failures;
    decoder = name;
    const int64_t group = D::grouped && f.group > D::block ? f.group : D::block;
    for (int64_t k : lengths)
        for (auto b : blocks)
            for (int shift = 0; shift < 16 && k % group == 0; shift += 1 + shift % 4)
                for (int padded = 0; padded < 2; padded++) {
                    const scene s = {k, b.rows, b.halves, shift, padded != 0};
                    trial<D> t(s, f);
                    first_byte = t.memory;
                    last_byte = t.start[D::planes - 1] + t.size[D::planes - 1];
                    t.run(name);
                }
    n_passed += failures == before;
    n_failed += failures != before;
    if (failures == before)
        printf("ok %s, groups of %d\n", name, f.group);
}

int main()
{
#define CHECK(name) rows_of<dec_##name>(#name, {32, 0})
    CHECK(q4_0);
    CHECK(q4_1);
    CHECK(q5_0);
    CHECK(q5_1);
    CHECK(q8_0);
    CHECK(q2_k);
    CHECK(q3_k);
    CHECK(q4_k);
    CHECK(q5_k);
    CHECK(q6_k);
    CHECK(iq4_nl);
    CHECK(iq4_xs);
    CHECK(mxfp4);
    CHECK(nvfp4);
    CHECK(mlx_mxfp4);
    CHECK(mlx_mxfp8);
    CHECK(mlx_nvfp4);
    rows_of<of_256<dec_q8_0>>("q8_0, 256", {32, 0});
    rows_of<of_256<dec_mlx_mxfp8>>("mlx_mxfp8, 256", {32, 0});
    CHECK(f32);
    CHECK(f16);
    CHECK(bf16);
    for (int group = 32; group <= 128; group *= 2) {
        const format_args f = {group, GQMM_BF16};
        rows_of<dec_int4>("int4", f);
        rows_of<dec_affine3>("affine3", f);
        rows_of<dec_affine4>("affine4", f);
        rows_of<dec_affine8>("affine8", f);
        rows_of<of_256<dec_affine8>>("affine8, 256", f);
    }
    printf("check_cuda_stage: %d passed, %d failed, 0 skipped\n", n_passed, n_failed);
    return n_failed != 0;
}
