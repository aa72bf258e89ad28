// SPDX-License-Identifier: MIT
// The int8 product against sums in double of the definition's weights and activations rounded as
// the contract says, on random ragged shapes; and, of a mixture, what is between its products. With
// `bench`, the time of a mixture of 256 experts.
//
// usage: test_int8                    checks
//        test_int8 bench [TOKENS]     times
#include "base/num.h"
#include "kernel/cuda.h"
#include "kernel/cuda/wide_int8.cuh"
#include "product_data.h"
#include "wide_lists.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include <cuda_runtime.h>

static float random_normal() // nearly
{
    float v = -6;
    for (int i = 0; i < 12; i++)
        v += (float)(random_bits() & 0xffffff) / 16777216.0f;
    return v;
}

template <class T> static std::vector<T> to_host(const T *p, int64_t n)
{
    std::vector<T> v(n);
    CUDA(cudaMemcpy(v.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost));
    return v;
}

template <class T> static T *blank(int64_t n)
{
    T *p = NULL;
    CUDA(cudaMalloc((void **)&p, n * sizeof(T) + 16));
    CUDA(cudaMemset(p, 0xff, n * sizeof(T)));
    return p;
}

// ---- weights

struct weights {
    int64_t n, k, row[2], expert[2];
    std::vector<uint8_t> plane[2];
    gqmm_cuda_matrix device;

    double at(int64_t e, int64_t r, int64_t c) const
    {
        const uint8_t code = plane[0][e * expert[0] + r * row[0] + c / 2];
        uint16_t s;
        memcpy(&s, &plane[1][e * expert[1] + r * row[1] + c / 128 * 2], 2);
        return (double)gqmm_bf16_to_f32(s) * ((c & 1 ? code >> 4 : code & 15) - 8);
    }
};

static weights make_weights(int64_t n_experts, int64_t n, int64_t k, int64_t gap)
{
    weights w = {};
    w.n = n, w.k = k;
    w.device = gqmm_cuda_matrix{};
    for (int i = 0; i < 2; i++) {
        w.row[i] = (i ? k / 128 * 2 : k / 2) + gap;
        w.expert[i] = n * w.row[i] + 2 * gap;
        w.plane[i].resize(n_experts * w.expert[i]);
        for (size_t b = 0; b < w.plane[i].size(); b += 1 + i)
            if (i) {
                const uint16_t s = gqmm_f32_to_bf16(0.02f * random_normal());
                memcpy(&w.plane[1][b], &s, 2);
            } else {
                w.plane[0][b] = (uint8_t)random_bits();
            }
        w.device.plane[i] = to_device(w.plane[i]);
        w.device.row_stride[i] = w.row[i];
        w.device.expert_stride[i] = w.expert[i];
    }
    w.device.n_rows = n, w.device.n_cols = k;
    w.device.n_experts = (int32_t)n_experts;
    w.device.group = 128;
    w.device.aligned = 1;
    return w;
}

static void free_weights(weights &w)
{
    for (int i = 0; i < 2; i++)
        CUDA(cudaFree((void *)w.device.plane[i]));
}

// ---- activations as the contract rounds them

struct block {
    float scale;
    int q[128];
};

static block round_block(const float *x)
{
    block b = {};
    float amax = 0;
    for (int i = 0; i < 128; i++) {
        if (!std::isfinite(x[i]))
            b.scale = NAN;
        amax = std::max(amax, fabsf(x[i]));
    }
    if (std::isnan(b.scale) || amax / 127.0f < FLT_MIN)
        return b;
    b.scale = amax / 127.0f;
    for (int i = 0; i < 128; i++)
        b.q[i] = (int)nearbyintf(x[i] * (127.0f / amax));
    return b;
}

// ---- the list, as the sort makes it

struct device_list : list {
    gqmm_cuda_list device;
};

static device_list sort_on_device(const std::vector<int32_t> &rhs, int64_t m, int64_t n_experts,
                                  int columns)
{
    device_list l;
    (list &)l = sort_pairs(rhs, m, n_experts, columns);
    l.device = {};
    l.device.order = to_device(l.order);
    l.device.tiles = to_device(l.tiles);
    l.device.n_tiles = to_device(std::vector<int32_t>{(int32_t)l.tiles.size()});
    l.device.tile_columns = columns;
    l.device.most_tiles = (int32_t)l.tiles.size();
    return l;
}

static void free_list(device_list &l)
{
    CUDA(cudaFree(l.device.order));
    CUDA(cudaFree(l.device.tiles));
    CUDA(cudaFree(l.device.n_tiles));
}

// ---- one case

struct job {
    int columns;
    int64_t n_experts, n, k, m, n_pairs, n_x;
    bool mixture, with_lhs, bad;
    int y_type;
    int64_t x_gap, w_gap;
};

static double read_number(const uint8_t *p, int type)
{
    uint32_t u = 0;
    memcpy(&u, p, type == GQMM_F32 ? 4 : 2);
    return type == GQMM_F32   ? gqmm_bits_to_f32(u)
           : type == GQMM_F16 ? gqmm_f16_to_f32((uint16_t)u)
                              : gqmm_bf16_to_f32((uint16_t)u);
}

// Whether got is the sum of `magnitude` in all, rounded to a type.
static bool near(double got, double want, double magnitude, int type)
{
    const double unit = type == GQMM_F32 ? 0x1p-24 : type == GQMM_F16 ? 0x1p-11 : 0x1p-8;
    if (std::isnan(want))
        return std::isnan(got);
    return fabs(got - want) <= 3e-6 * magnitude + unit * 1.01 * fabs(want) + 1e-7;
}

struct sums {
    double y, magnitude;
};

static sums sum_of(const weights &w, int64_t e, int64_t r, const std::vector<block> &x)
{
    sums s = {0, 0};
    for (int64_t k = 0; k < w.k; k++) {
        const double v = w.at(e, r, k) * x[k / 128].scale * x[k / 128].q[k % 128];
        s.y += v;
        s.magnitude += fabs(v);
    }
    return s;
}

// h of a tile's column, as the device has it.
static std::vector<block> read_h(const std::vector<int8_t> &codes, const std::vector<float> &scales,
                                 int64_t rows, int64_t first, int c, int64_t f)
{
    std::vector<block> h(f / 128);
    for (int64_t b = 0; b < f / 128; b++) {
        const int64_t row = b * rows + first;
        h[b].scale = 16 * scales[row + gqmm::int8_product::scale_place(c)];
        for (int k = 0; k < 128; k++) {
            const int word = gqmm::int8_product::word_of(k);
            h[b].q[k] =
                codes[(row + c) * 128 + ((word / 4 ^ (c & 7)) * 4 + word % 4) * 4 + k % 8 / 2];
        }
    }
    return h;
}

static bool check_h(const job &j, const weights &gate, const weights &up, int64_t e,
                    const std::vector<block> &x, const std::vector<block> &h)
{
    for (int64_t b = 0; b < j.n / 128; b++) {
        float v[128], far = 0;
        for (int i = 0; i < 128; i++) {
            const double g = sum_of(gate, e, b * 128 + i, x).y, u = sum_of(up, e, b * 128 + i, x).y;
            v[i] = (float)(g / (1 + exp(-g)) * u);
        }
        const block want = round_block(v);
        if (std::isnan(want.scale) != std::isnan(h[b].scale))
            return false;
        if (std::isnan(want.scale))
            continue;
        if (!(fabsf(h[b].scale - want.scale) <= 2e-5f * want.scale))
            return printf("  scale %g, not %g\n", h[b].scale, want.scale), false;
        for (int i = 0; i < 128; i++)
            far = std::max(far, fabsf((float)h[b].q[i] - v[i] / want.scale));
        if (!(far <= 0.51f))
            return printf("  h is %g steps off\n", far), false;
    }
    return true;
}

static bool run_job(const job &j)
{
    weights w = make_weights(j.n_experts, j.n, j.k, j.w_gap), up = {}, down = {};
    const int64_t d = j.mixture ? 264 : j.n;
    if (j.mixture) {
        up = make_weights(j.n_experts, j.n, j.k, j.w_gap);
        down = make_weights(j.n_experts, d, j.n, j.w_gap);
    }
    const int64_t x_row = j.k + j.x_gap, x_mat = j.m * x_row + j.x_gap;
    std::vector<uint16_t> x(j.n_x * x_mat + 64);
    for (uint16_t &v : x)
        v = gqmm_f32_to_bf16(random_normal());
    if (j.bad)
        x[random_below((int)j.n_x) * x_mat + random_below((int)j.k)] =
            random_bits() & 1 ? 0x7f80 : 0xffc0;
    std::vector<int32_t> rhs(j.n_pairs), lhs(j.n_pairs);
    for (int64_t p = 0; p < j.n_pairs; p++) {
        rhs[p] = random_below(23) == 0 ? -1 : random_below((int)j.n_experts);
        lhs[p] = random_below((int)j.n_x);
    }
    device_list l = sort_on_device(rhs, j.m, j.n_experts, j.columns);
    const int size = j.y_type == GQMM_F32 ? 4 : 2;
    const int64_t total = j.n_pairs * j.m, rows = (int64_t)l.device.most_tiles * j.columns;

    gqmm_cuda_product p = {};
    p.w = w.device, p.up = up.device;
    p.k = j.k, p.n = j.n;
    p.x = to_device(x);
    p.x_row = x_row, p.x_mat = x_mat;
    p.x_type = GQMM_BF16, p.y_type = j.y_type;
    p.y_row = d, p.y_pair = j.m * d;
    p.n_pairs = j.n_pairs, p.m = j.m, p.n_x = j.n_x;
    p.rhs = to_device(rhs);
    p.lhs = j.with_lhs ? to_device(lhs) : NULL;
    p.lhs_stride = p.rhs_stride = 1;
    p.slots = 1, p.expert = -1;
    p.list = l.device;
    p.x8.codes = blank<int8_t>(j.n_x * j.m * j.k);
    p.x8.scales = blank<float>(j.n_x * j.m * j.k / 128);
    uint8_t *y = blank<uint8_t>(total * d * size);
    p.y = y;
    gqmm_cuda_int8 h = {};
    if (j.mixture) {
        h.codes = blank<int8_t>(rows * j.n);
        h.scales = blank<float>(rows * j.n / 128);
        p.y = NULL;
        p.y8 = h;
    }
    bool ok = gqmm::int8_fits(&p);
    if (!ok)
        printf("  does not fit\n");
    CUDA(gqmm::int8(&p, NULL));
    CUDA(cudaDeviceSynchronize());
    if (j.mixture) {
        gqmm_cuda_product q = p;
        q.w = down.device, q.up = gqmm_cuda_matrix{};
        q.k = j.n, q.n = d, q.y = y;
        q.x8 = h, q.x8.sorted = 1;
        q.y8 = gqmm_cuda_int8{};
        ok = ok && gqmm::int8_fits(&q);
        CUDA(gqmm::int8(&q, NULL));
        CUDA(cudaDeviceSynchronize());
    }

    const auto got = to_host(y, total * d * size);
    const auto codes = j.mixture ? to_host(h.codes, rows * j.n) : std::vector<int8_t>();
    const auto scales = j.mixture ? to_host(h.scales, rows * j.n / 128) : std::vector<float>();
    const weights &last = j.mixture ? down : w;
    for (const gqmm_cuda_tile &tile : l.tiles)
        for (int c = 0; ok && c < tile.count; c++) {
            const int64_t pair = l.order[(tile.begin + c) / j.m], row = (tile.begin + c) % j.m;
            const uint8_t *at = &got[(pair * j.m + row) * d * size];
            if (total * d * j.k > 4e7 && random_below(8) != 0)
                continue;
            std::vector<block> given(j.k / 128);
            const uint16_t *from = &x[(j.with_lhs ? lhs[pair] : pair) * x_mat + row * x_row];
            for (int64_t b = 0; b < j.k / 128; b++) {
                float v[128];
                for (int i = 0; i < 128; i++)
                    v[i] = gqmm_bf16_to_f32(from[b * 128 + i]);
                given[b] = round_block(v);
            }
            if (j.mixture && tile.expert >= 0) {
                const auto mine =
                    read_h(codes, scales, rows, (&tile - l.tiles.data()) * j.columns, c, j.n);
                ok = random_below(4) || check_h(j, w, up, tile.expert, given, mine);
                given = mine;
            }
            for (int64_t n = 0; ok && n < d; n++) {
                sums s = {0, 0};
                if (tile.expert >= 0)
                    s = sum_of(last, tile.expert, n, given);
                const double is = read_number(at + n * size, j.y_type);
                ok = near(is, s.y, s.magnitude, j.y_type);
                if (!ok)
                    printf("  y[%lld, %lld, %lld] is %g, not %g (expert %d, column %d of %d)\n",
                           (long long)pair, (long long)row, (long long)n, is, s.y, tile.expert, c,
                           tile.count);
            }
        }
    for (void *memory : {(void *)p.x, (void *)p.rhs, (void *)p.lhs, (void *)p.x8.codes,
                         (void *)p.x8.scales, (void *)y, (void *)h.codes, (void *)h.scales})
        CUDA(cudaFree(memory));
    free_weights(w);
    if (j.mixture) {
        free_weights(up);
        free_weights(down);
    }
    free_list(l);
    return ok;
}

static int check()
{
    int passed = 0, failed = 0;
    for (int i = 0; i < 48; i++) {
        job j = {};
        j.columns = gqmm::int8_product::N;
        j.mixture = i % 2;
        j.n_experts = 1 + random_below(5);
        j.k = 256 * (1 + random_below(4));
        j.n = j.mixture ? 256 * (1 + random_below(2)) : 1 + random_below(600);
        j.m = random_below(3) == 0 ? 1 + random_below(5) : 1;
        j.n_pairs = 1 + random_below(i % 8 < 2 ? 900 : 150) / (int)j.m;
        j.with_lhs = random_bits() & 1;
        j.n_x = j.with_lhs ? 1 + random_below(40) : j.n_pairs;
        j.bad = random_below(4) == 0;
        j.y_type = GQMM_BF16;
        j.x_gap = random_bits() & 1 ? random_below(5) : 0;
        j.w_gap = random_bits() & 1 ? 16 * random_below(3) : 0;
        const bool ok = run_job(j);
        if (!ok)
            printf(
                "FAIL int8 %d: %s, %d columns, %lld pairs of %lld of %lld, E %lld, [%lld, %lld], "
                "type %d\n",
                i, j.mixture ? "mixture" : "product", j.columns, (long long)j.n_pairs,
                (long long)j.m, (long long)j.n_x, (long long)j.n_experts, (long long)j.n,
                (long long)j.k, j.y_type);
        ok ? passed++ : failed++;
    }
    printf("test_int8: %d passed, %d failed, 0 skipped\n", passed, failed);
    return failed != 0;
}

// ---- time

__global__ void fill(uint32_t *p, int64_t n, int scales)
{
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < n;
         i += (int64_t)gridDim.x * blockDim.x) {
        uint32_t x = (uint32_t)i * 2654435761u;
        x ^= x >> 15, x *= 2246822519u, x ^= x >> 13, x *= 3266489917u, x ^= x >> 16;
        p[i] = scales ? (x & 0x007f007f) | 0x3c003c00 : x;
    }
}

static gqmm_cuda_matrix random_matrix(int64_t experts, int64_t n, int64_t k)
{
    gqmm_cuda_matrix m = {};
    for (int i = 0; i < 2; i++) {
        m.row_stride[i] = i ? k / 64 : k / 2;
        m.expert_stride[i] = n * m.row_stride[i];
        uint8_t *p = blank<uint8_t>(experts * m.expert_stride[i]);
        fill<<<1024, 256>>>((uint32_t *)p, experts * m.expert_stride[i] / 4, i);
        m.plane[i] = p;
    }
    m.n_rows = n, m.n_cols = k, m.n_experts = (int32_t)experts, m.group = 128, m.aligned = 1;
    return m;
}

template <class F> static void measure(const char *name, F launch)
{
    const span t = time_of(8, 21, [&](cudaStream_t s, int) { CUDA(launch(s)); });
    printf("  %-10s %7.1f us (%.1f .. %.1f)\n", name, t.median, t.least, t.most);
    fflush(stdout);
}

static void bench(int64_t tokens)
{
    enum { EXPERTS = 256, SLOTS = 8, HIDDEN = 2048, FF = 512 };
    static const gqmm_cuda_matrix gate = random_matrix(EXPERTS, FF, HIDDEN),
                                  up = random_matrix(EXPERTS, FF, HIDDEN),
                                  down = random_matrix(EXPERTS, HIDDEN, FF);
    const int64_t pairs = tokens * SLOTS;
    std::vector<int32_t> rhs(pairs);
    for (int64_t t = 0; t < tokens; t++)
        for (int s = 0; s < SLOTS; s++) { // distinct ones
            const int e = random_below(EXPERTS);
            const int32_t *mine = &rhs[t * SLOTS];
            rhs[t * SLOTS + s] = e;
            s -= std::find(mine, mine + s, e) != mine + s;
        }
    const int columns = gqmm::int8_product::N;
    device_list l = sort_on_device(rhs, 1, EXPERTS, columns);
    std::vector<uint16_t> x(tokens * HIDDEN);
    for (uint16_t &v : x)
        v = gqmm_f32_to_bf16(random_normal());
    gqmm_cuda_product p = {}, q;
    p.w = gate, p.up = up, p.k = HIDDEN, p.n = FF;
    p.x = to_device(x);
    p.x_row = p.x_mat = HIDDEN, p.x_type = p.y_type = GQMM_BF16;
    p.n_pairs = pairs, p.m = 1, p.n_x = tokens, p.slots = SLOTS, p.expert = -1;
    p.rhs = to_device(rhs), p.rhs_stride = 1;
    p.list = l.device;
    const int64_t rows = (int64_t)l.device.most_tiles * columns;
    p.x8.codes = blank<int8_t>(tokens * HIDDEN);
    p.x8.scales = blank<float>(tokens * HIDDEN / 128);
    p.y8.codes = blank<int8_t>(rows * FF);
    p.y8.scales = blank<float>(rows * FF / 128);
    q = p;
    q.w = down, q.up = gqmm_cuda_matrix{}, q.k = FF, q.n = HIDDEN;
    q.y = blank<uint16_t>(pairs * HIDDEN);
    q.y_row = q.y_pair = HIDDEN;
    q.x8 = p.y8, q.x8.sorted = 1;
    q.y8 = gqmm_cuda_int8{};
    q.ids_early = 1;
    printf("%lld tokens, %d columns, %zu tiles\n", (long long)tokens, columns, l.tiles.size());
    measure("round", [&](cudaStream_t s) {
        return gqmm::int8_product::round_rows(&p, p.x8.codes, p.x8.scales, s);
    });
    measure("gate, up", [&](cudaStream_t s) { return gqmm::int8_product::launch_product(&p, s); });
    measure("down", [&](cudaStream_t s) { return gqmm::int8(&q, s); });
    measure("all", [&](cudaStream_t s) {
        const int error = gqmm::int8(&p, s);
        return error ? error : gqmm::int8(&q, s);
    });
    for (void *memory : {(void *)p.x, (void *)p.rhs, (void *)p.x8.codes, (void *)p.x8.scales,
                         (void *)p.y8.codes, (void *)p.y8.scales, (void *)q.y})
        CUDA(cudaFree(memory));
    free_list(l);
}

int main(int argc, char **argv)
{
    int device = 0;
    if (cudaGetDeviceCount(&device) != cudaSuccess || device == 0) {
        printf("skip test_int8: no CUDA device\n");
        return 0;
    }
    if (argc > 1 && strcmp(argv[1], "bench") == 0)
        bench(argc > 2 ? atoll(argv[2]) : 512);
    else
        return check();
    return 0;
}
