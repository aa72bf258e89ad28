// SPDX-License-Identifier: MIT
// The decoders of the CUDA room against the definitions of src/format: every format, every code and
// scale of a step, at every alignment, between pages that may not be touched. Runs on the host, and
// once more on the device where there is one.
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <type_traits>
#include <unistd.h>

#include "base/num.h"
#include "gqmm.h"

extern "C" {
#include "format/format.h"
}
#include "direct_plans.h"
#include "few_plans.h"
#include "int8_plans.h"
#include "kernel/cuda.h"
#include "kernel/cuda/decode_blocks.cuh"
#include "kernel/cuda/decode_float.cuh"
#include "kernel/cuda/decode_k_quants.cuh"
#include "kernel/cuda/decode_low.cuh"
#include "kernel/cuda/decode_mlx.cuh"
#include "kernel/cuda/product.cuh"
#include "single_plans.h"
#include "small_plans.h"
#include "wide_plans.h"

using namespace gqmm;

// A step has at most 256 bytes of codes and 32 of scales; 64 bytes more let it start anywhere.
enum { SLOT = 512, PIECES = 8, GROUPS = 16, PARTS = 3, LANES = 4, ROUNDS = 1088 };

static int n_passed, n_failed, n_skipped;
static char why[200];

static bool fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    if (!why[0])
        vsnprintf(why, sizeof why, format, args);
    va_end(args);
    return false;
}

static void report(const char *test, const char *name, bool ok)
{
    printf(ok ? "ok %s%s\n" : "FAIL %s%s: %s\n", test, name, why);
    n_passed += ok;
    n_failed += !ok;
    why[0] = 0;
}

static uint64_t random_state = 88172645463325252u;

static uint32_t random_bits(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 16);
}

// Rounds count through all 16-bit patterns, or are random, or repeat one byte or two.
static void fill(uint8_t *p, int n, int round)
{
    const uint32_t r = random_bits();
    for (int i = 0; i < n; i++) {
        const int count = round / 2 * (n / 2) + i / 2;
        const uint32_t odd = round % 8 == 1   ? (r >> (i & 1) * 8)
                             : round % 8 == 3 ? (i & 1 ? 0x3c : r) // sane f16 and f32 scales
                                              : random_bits();
        p[i] = (uint8_t)(round % 2 == 0 ? count >> (i & 1) * 8 : (int)odd);
    }
}

// ---- what a decoder says of one step

struct results {
    uint32_t codes[PIECES][LANES][PARTS][4];
    uint32_t raw[PIECES][LANES][4];
    uint32_t low[PIECES][LANES][2][4];
    float2 low_scales[GROUPS];
    float2 scales[GROUPS];
};

// Raw codes of the decoders that have them.
template <class D, class = void> struct raw_of {
    static constexpr bool has = false;
};

template <class D> struct raw_of<D, std::void_t<decltype(D::raw_bias)>> {
    static constexpr bool has = true;
};

// Codes as they lie, likewise.
template <class D, class = void> struct low_of {
    static constexpr bool has = false;
};

template <class D> struct low_of<D, std::void_t<decltype(low_codes<D>::parts)>> {
    static constexpr bool has = true;
};

template <class D, bool ALIGNED>
GQMM_HD static void decode(results *out, const step_row &r, int j, int t, const format_args &f)
{
    uint32_t a[D::parts][4];
    D::template codes<ALIGNED>(a, r, j, t, f);
    for (int part = 0; part < D::parts; part++)
        for (int i = 0; i < 4; i++)
            out->codes[j][t][part][i] = a[part][i];
    if constexpr (raw_of<D>::has) {
        D::template raw_codes<ALIGNED>(a, r, j, t, f);
        for (int i = 0; i < 4; i++)
            out->raw[j][t][i] = a[0][i];
    }
    if constexpr (ALIGNED && low_of<D>::has) {
        uint32_t v[low_codes<D>::parts][4];
        low_codes<D>::template get<true>(v, r, j, t, f);
        for (int part = 0; part < low_codes<D>::parts; part++)
            for (int i = 0; i < 4; i++)
                out->low[j][t][part][i] = v[part][i];
    }
    if constexpr (ALIGNED && has_low_scales<D>) {
        constexpr int N = 64 / D::piece;
        float2 s[N];
        low_scales<D, true>(s, r, t);
        for (int i = 0; i < N; i++)
            out->low_scales[N * t + i] = s[i];
    }
    for (int g = j * 32 / D::piece; t == 0 && g < (j + 1) * 32 / D::piece; g++)
        out->scales[g] = D::template scale<ALIGNED>(r, g, f);
}

// The decoder as most kernels call it: all pieces of a lane, so that its loads are shared.
template <class D, bool ALIGNED>
__global__ void decode_steps(results *out, const uint8_t *slots, const int *slips, format_args f)
{
    const uint8_t *slot = slots + (size_t)blockIdx.x * 3 * SLOT;
    const step_row r = {{slot + slips[3 * blockIdx.x], slot + SLOT + slips[3 * blockIdx.x + 1],
                         slot + 2 * SLOT + slips[3 * blockIdx.x + 2]}};
#pragma unroll
    for (int j = 0; j < D::step / 32; j++)
        decode<D, ALIGNED>(out + blockIdx.x, r, j, (int)threadIdx.x, f);
}

// ---- a step between pages that may not be touched

struct guarded {
    uint8_t *base;
    size_t bytes;
};

static guarded guarded_pages(void)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uint8_t *p =
        (uint8_t *)mmap(NULL, 3 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == (uint8_t *)MAP_FAILED || mprotect(p, page, PROT_NONE) != 0 ||
        mprotect(p + 2 * page, page, PROT_NONE) != 0) {
        perror("guard pages");
        exit(1);
    }
    return {p + page, page};
}

// The format under test.
static const char *current = "";

static void on_fault(int)
{
    // Not the ways of a signal handler, but the process ends here.
    printf("FAIL host %s: reads outside the words of its step\n", current);
    fflush(stdout);
    _exit(1);
}

// Near the first byte of the page or near its last one; the words that hold the bytes end at a
// guard in four cases of 16 each.
static uint8_t *place(const guarded &g, int bytes, int slip, bool at_end)
{
    return at_end ? g.base + g.bytes - bytes - slip : g.base + slip;
}

// ---- against the definition

static float code_of(const results &r, int parts, int j, int t, int i)
{
    volatile float sum = 0.0f; // from the smallest part: exact
    for (int part = parts - 1; part >= 0; part--)
        sum += gqmm_bf16_to_f32((uint16_t)(r.codes[j][t][part][i / 2] >> (i & 1) * 16));
    return sum;
}

// Raw codes are the codes and raw_bias, in raw_order.
template <class D> static bool check_raw(const results &got, const char *how)
{
    if constexpr (raw_of<D>::has) {
        float codes[32];
        for (int j = 0; j < D::step / 32; j++) {
            for (int n = 0; n < 32; n++)
                codes[k_of(D::in_order, n / 8, n % 8)] = code_of(got, D::parts, j, n / 8, n % 8);
            for (int n = 0; n < 32; n++) {
                const uint32_t pair = got.raw[j][n / 8][n % 8 / 2];
                const float raw = gqmm_bf16_to_f32((uint16_t)(pair >> (n & 1) * 16));
                const float code = codes[k_of(D::raw_order, n / 8, n % 8)];
                if (raw != code + D::raw_bias)
                    return fail("%s: piece %d lane %d element %d: raw code %g of %g", how, j, n / 8,
                                n % 8, raw, code);
            }
        }
    }
    return true;
}

// Codes as they lie are the codes and their bias once they are where they belong, and all parts of
// a code are added up.
template <class D> static bool check_low(const results &got, const char *how)
{
    if constexpr (low_of<D>::has) {
        typedef low_codes<D> low;
        float codes[32];
        for (int j = 0; j < D::step / 32; j++) {
            for (int n = 0; n < 32; n++)
                codes[k_of(D::in_order, n / 8, n % 8)] = code_of(got, D::parts, j, n / 8, n % 8);
            for (int n = 0; n < 32; n++) {
                double sum = 0;
                for (int part = 0; part < low::parts; part++) {
                    const uint32_t pair = got.low[j][n / 8][part][n % 8 / 2];
                    const float v = gqmm_bf16_to_f32((uint16_t)(pair >> (n & 1) * 16));
                    sum += ldexp(v, 133 - low::bit(j, n % 8 / 2) + (part ? low::up(j) : 0));
                }
                const float code = codes[k_of(low::in_order, n / 8, n % 8)];
                if (sum != code + low::bias)
                    return fail("%s: piece %d lane %d element %d: %g as it lies of %g", how, j,
                                n / 8, n % 8, sum, code);
            }
        }
    }
    for (int g = 0; has_low_scales<D> && g < D::step / D::piece; g++)
        if (memcmp(&got.low_scales[g], &got.scales[g], sizeof(float2)) != 0 &&
            got.scales[g].x == got.scales[g].x && got.scales[g].y == got.scales[g].y)
            return fail("%s: scale %d is %g", how, g, got.low_scales[g].x);
    return true;
}

// f32 loses what lies below the least bf16.
static bool same(float got, float want, bool f32)
{
    return got == want || (got != got && want != want) ||
           (f32 && fabsf(want) < 0x1p-100f && fabsf(got - want) < 0x1p-132f);
}

template <class D>
static bool check_step(const gqmm_format_info *f, const results &got, const uint8_t *const p[3],
                       const char *how)
{
    float want[GQMM_MAX_BLOCK];
    const int block = f->pub.block_elems;
    for (int k = 0; k < D::step; k += block) {
        const uint8_t *at[3] = {};
        for (int plane = 0; plane < D::planes; plane++)
            at[plane] = p[plane] + k / block * f->pub.plane_bytes[plane];
        gqmm_format_dequantize_block(f, want + k, at, 1.0f);
    }
    for (int j = 0; j < D::step / 32; j++)
        for (int t = 0; t < LANES; t++)
            for (int i = 0; i < 8; i++) {
                const int k = 32 * j + k_of(D::in_order, t, i);
                const float2 s = got.scales[k / D::piece];
                volatile float w = s.x * code_of(got, D::parts, j, t, i);
                w = D::has_offset ? w + s.y : w;
                if (!D::has_offset && s.y != 0.0f)
                    return fail("%s: offset %g without offsets", how, s.y);
                if (!same(w, want[k], f->values && D::parts == 3))
                    return fail("%s: piece %d lane %d element %d: %a, not %a", how, j, t, i,
                                (float)w, want[k]);
            }
    return true;
}

// What the decoder says of itself agrees with the table of formats.
template <class D> static bool check_constants(const gqmm_format_info *f, const format_args &args)
{
    const int unit = f->pub.block_elems > 32 ? f->pub.block_elems : 32;
    for (int plane = 0; plane < 3; plane++)
        for (int n = unit; plane < D::planes && n <= 4 * unit; n += unit)
            if (D::bytes(plane, n, args) != gqmm_format_row_bytes(&f->pub, plane, n))
                return fail("bytes(%d, %d) is wrong", plane, n);
    if (D::planes != f->pub.n_planes || D::has_offset != (f->has_offset != 0) ||
        D::piece != (f->pub.group_elems == 16 ? 16 : 32) || D::step % unit != 0 ||
        D::block % 32 != 0 || unit % D::block != 0)
        return fail("planes, has_offset, piece, step or block is wrong");
    const int64_t bytes = D::bytes(0, D::step, args);
    if (bytes % D::align != 0 || (D::align < 16 && bytes % (2 * D::align) == 0))
        return fail("align is %d for a step of %d bytes", D::align, (int)bytes);
    if (!D::loose && gqmm_format_row_bytes(&f->pub, 0, f->pub.block_elems) % 16 != 0)
        return fail("not loose, but rows may start at any byte");
    for (int o = 0, seen = 0; o < 32; o++) {
        seen |= (int)(1u << k_of(D::in_order, o / 8, o % 8));
        if (o == 31 && seen != -1)
            return fail("the order leaves weights out");
    }
    for (int t = 0; D::piece == 16 && t < LANES; t++)
        for (int i = 0; i < 8; i++)
            if (k_of(D::in_order, t, i) / 16 != i / 4)
                return fail("groups of 16 share a matrix instruction");
    return true;
}

// Launches of a product: every output once, and no more shared memory than a block may have on any
// device of the path (99 KB on some of sm_80 and later, 227 KB on sm_90).
template <class D, int NT> static bool check_plan(const gqmm_cuda_product &p, int path)
{
    const product_plan plan = plan_product<D, NT>(&p, path);
    const int64_t per_tile = p.up.plane[0] ? 8 : 16;
    const int64_t rows = (plan.warps >> plan.split_bits) * plan.turns * per_tile;
    const int bytes =
        plan.warps * warp_bytes<D, NT>() + x_bytes<D, NT>(plan.phase, NT * 8, plan.x_parts);
    const int most = (path == GQMM_CUDA_SM90 ? 227 : 99) * 1024 - 1024; // the driver's own
    if (plan.bytes < bytes || plan.bytes + (int)sizeof(column_set<NT * 8>) > most)
        return fail("sm_%d: %d bytes of %d", path, plan.bytes, bytes);
    if (plan.warps > most_warps(NT) || plan.warps >> plan.split_bits < 1 ||
        (plan.split_bits && plan.turns > 1) || plan.phase < 256 || plan.phase % 256)
        return fail("sm_%d: %d warps, split %d, %d turns, phase %d", path, plan.warps,
                    plan.split_bits, plan.turns, plan.phase);
    return (plan.row_blocks * rows >= p.n && (plan.row_blocks - 1) * rows < p.n) ||
           fail("sm_%d: %d blocks of %d rows for %d", path, plan.row_blocks, (int)rows, (int)p.n);
}

template <class D> static bool check_plans(void)
{
    static const int64_t sizes[][2] = {{1, 32},      {83, 256},    {2048, 512},   {512, 2048},
                                       {2880, 2880}, {4096, 4096}, {12288, 4096}, {151936, 2048}};
    static const int64_t counts[][2] = {{1, 1}, {1, 8},  {1, 64}, {2, 1},
                                        {8, 3}, {64, 1}, {5, 19}, {4096, 1}};
    bool ok = true;
    for (const auto &size : sizes)
        for (const auto &count : counts)
            for (int i = 0; ok && i < 12; i++) {
                gqmm_cuda_product p = {};
                const int path = i % 2 ? GQMM_CUDA_SM90 : GQMM_CUDA_SM80;
                p.n = size[0], p.k = size[1];
                p.n_pairs = count[0], p.m = count[1];
                p.x_type = i / 2 % 3;
                p.w.n_experts = count[0] > 1 ? 128 : 1;
                p.rhs = count[0] > 1 ? (const int32_t *)&p : NULL;
                p.up.plane[0] = i / 6 ? (const uint8_t *)&p : NULL;
                ok = check_plan<D, 2>(p, path) &&
                     (p.x_type != GQMM_BF16 ||
                      (check_plan<D, 1>(p, path) && check_plan<D, 4>(p, path))) &&
                     check_direct_plans((const typename lanes_of<D>::list *)NULL, p, path, fail) &&
                     check_own_plan<D>(p, path, fail) &&
                     check_small_plans((const typename lanes_of<D>::list *)NULL, p, fail) &&
                     check_small_low_plan<D>(p, path, fail) && check_single_plan<D>(p, path, fail);
            }
    return ok;
}

// Bytes of a scale of plane 1 or 2.
static int scale_size(const gqmm_format_info *f, int plane)
{
    return plane < f->pub.n_planes ? f->pub.plane_bytes[plane] : 1;
}

struct round_of {
    const uint8_t *p[3];
    int bytes[3];
};

template <class D, bool ALIGNED>
static round_of lay_out(const gqmm_format_info *f, const guarded *pages, const format_args &args,
                        int round)
{
    round_of r = {};
    for (int plane = 0; plane < D::planes; plane++) {
        r.bytes[plane] = (int)D::bytes(plane, D::step, args);
        int slip = plane == 0 ? round & 15 : (round >> 5) & 15;
        if (ALIGNED)
            slip = slip / (plane == 0 ? D::align : scale_size(f, plane)) *
                   (plane == 0 ? D::align : scale_size(f, plane));
        uint8_t *at = place(pages[plane], r.bytes[plane], slip, (round >> 4) & 1);
        if (ALIGNED && plane == 0) // ends of pages are multiples of 16, ends of steps need not be
            at = (uint8_t *)((uintptr_t)at & ~(uintptr_t)(D::align - 1));
        if (round % 64 < 2) // nothing of the round before stays around it
            memset(pages[plane].base, round & 1 ? 0xff : 0, pages[plane].bytes);
        fill(at, r.bytes[plane], round);
        r.p[plane] = at;
    }
    return r;
}

template <class D, bool ALIGNED>
static bool check_host(const gqmm_format_info *f, const guarded *pages)
{
    const format_args args = {f->pub.group_elems, f->scale_type};
    for (int round = 0; round < ROUNDS; round++) {
        const round_of r = lay_out<D, ALIGNED>(f, pages, args, round);
        const step_row row = {{r.p[0], r.p[1], r.p[2]}};
        results got = {};
        for (int j = 0; j < D::step / 32; j++)
            for (int t = 0; t < LANES; t++)
                decode<D, ALIGNED>(&got, row, j, t, args);
        const char *how = ALIGNED ? "aligned" : "anywhere";
        if (!check_step<D>(f, got, r.p, how) || !check_raw<D>(got, how) ||
            (ALIGNED && !check_low<D>(got, how)))
            return false;
    }
    return true;
}

// ---- the same rounds on the device

static bool check_cuda(cudaError_t error)
{
    return error == cudaSuccess || fail("CUDA: %s", cudaGetErrorString(error));
}

struct device_memory {
    uint8_t *slots;
    int *slips;
    results *out;
};

template <class D, bool ALIGNED>
static bool check_device(const gqmm_format_info *f, const guarded *pages, const device_memory &m)
{
    const format_args args = {f->pub.group_elems, f->scale_type};
    memset(m.slots, 0, (size_t)ROUNDS * 3 * SLOT);
    memset(m.out, 0, ROUNDS * sizeof *m.out);
    for (int round = 0; round < ROUNDS; round++) {
        const round_of r = lay_out<D, ALIGNED>(f, pages, args, round);
        for (int plane = 0; plane < 3; plane++) {
            const int slip = (int)((uintptr_t)r.p[plane] & 15);
            m.slips[3 * round + plane] = slip;
            if (r.bytes[plane])
                memcpy(m.slots + (size_t)(3 * round + plane) * SLOT + slip, r.p[plane],
                       (size_t)r.bytes[plane]);
        }
    }
    decode_steps<D, ALIGNED><<<ROUNDS, LANES>>>(m.out, m.slots, m.slips, args);
    if (!check_cuda(cudaGetLastError()) || !check_cuda(cudaDeviceSynchronize()))
        return false;
    for (int round = 0; round < ROUNDS; round++) {
        const uint8_t *p[3];
        for (int plane = 0; plane < 3; plane++)
            p[plane] = m.slots + (size_t)(3 * round + plane) * SLOT + m.slips[3 * round + plane];
        const char *how = ALIGNED ? "aligned" : "anywhere";
        if (!check_step<D>(f, m.out[round], p, how) || !check_raw<D>(m.out[round], how) ||
            (ALIGNED && !check_low<D>(m.out[round], how)))
            return false;
    }
    return true;
}

static bool has_device(device_memory *m)
{
    int n = 0;
    return cudaGetDeviceCount(&n) == cudaSuccess && n > 0 &&
           cudaMallocManaged(&m->slots, (size_t)ROUNDS * 3 * SLOT) == cudaSuccess &&
           cudaMallocManaged(&m->slips, ROUNDS * 3 * sizeof(int)) == cudaSuccess &&
           cudaMallocManaged(&m->out, ROUNDS * sizeof(results)) == cudaSuccess;
}

// ---- all formats

struct family_checks {
    const char *name;
    bool (*constants)(const gqmm_format_info *, const format_args &);
    bool (*plans)(void);
    bool (*wide_plans)(const gqmm_format_info *, bool (*)(const char *, ...));
    bool (*host[2])(const gqmm_format_info *, const guarded *);
    bool (*device[2])(const gqmm_format_info *, const guarded *, const device_memory &);
};

#undef GQMM_CUDA_FAMILY
#define GQMM_CUDA_FAMILY(name, wide) \
    {#name, \
     check_constants<dec_##name>, \
     check_plans<dec_##name>, \
     check_wide_plans<dec_##name, (wide > 0)>, \
     {check_host<dec_##name, false>, check_host<dec_##name, true>}, \
     {check_device<dec_##name, false>, check_device<dec_##name, true>}},
static const family_checks families[] = {
#include "kernel/cuda_families.def"
};

static const family_checks *find_family(const char *name)
{
    for (const family_checks &f : families)
        if (strcmp(f.name, name) == 0)
            return &f;
    return NULL;
}

int main(void)
{
    const guarded pages[3] = {guarded_pages(), guarded_pages(), guarded_pages()};
    device_memory memory = {};
    const bool device = has_device(&memory);
    signal(SIGSEGV, on_fault);
    signal(SIGBUS, on_fault);
    for (int i = 0; i < gqmm_n_formats; i++) {
        const gqmm_format_info *f = &gqmm_formats[i];
        const family_checks *c = find_family(f->family);
        const format_args args = {f->pub.group_elems, f->scale_type};
        current = f->pub.name;
        if (!c) {
            report("host ", f->pub.name, fail("no decoder of family %s", f->family));
            continue;
        }
        report("host ", f->pub.name,
               c->constants(f, args) && c->plans() && c->wide_plans(f, fail) &&
                   c->host[0](f, pages) && c->host[1](f, pages));
        if (device)
            report("device ", f->pub.name,
                   c->device[0](f, pages, memory) && c->device[1](f, pages, memory));
    }
    report("host ", "few columns", check_few_plans(fail));
    report("host ", "int8 product", check_int8_order(fail) && check_int8_rows(fail));
    if (!device) {
        printf("skip device: no CUDA device\n");
        n_skipped++;
    }
    printf("check_cuda_decode: %d passed, %d failed, %d skipped\n", n_passed, n_failed, n_skipped);
    return n_failed != 0;
}
