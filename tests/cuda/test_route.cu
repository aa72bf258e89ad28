// SPDX-License-Identifier: MIT
// The routing kernels against the CPU's code.
//
//   test_route          all checks
//   test_route small    the smaller ones, for compute-sanitizer
//   test_route race     a few of the kernels that share memory, for racecheck
#include "cuda/launches.h"

// ---- sort

struct sort_case {
    int64_t n_pairs, m, n_x;
    int32_t n_experts, columns;
    int32_t pattern; // of the ids: 0 any, 1 all on one, 2 few, 3 with -1 and bad ones
    int64_t rhs_stride, lhs_stride; // 0: NULL
    int32_t expert, path;
};

static void ids_of(const sort_case &c, std::vector<int32_t> &rhs, std::vector<int32_t> &lhs)
{
    const int32_t e = c.n_experts;
    rhs.assign((size_t)(c.n_pairs * (c.rhs_stride ? c.rhs_stride : 1)), 1 << 30);
    lhs.assign((size_t)(c.n_pairs * (c.lhs_stride ? c.lhs_stride : 1)), 1 << 30);
    for (int64_t p = 0; p < c.n_pairs; p++) {
        const uint32_t r = random_bits();
        int32_t id = (int32_t)(r % (uint32_t)e);
        id = c.pattern == 1 ? e / 2 : c.pattern == 2 ? id / 16 * 16 : id;
        if (c.pattern == 3 && r >> 28 == 0)
            id = r >> 27 & 1 ? -1 : r >> 26 & 1 ? e : r >> 25 & 1 ? -7 : INT32_MAX;
        rhs[(size_t)(p * c.rhs_stride)] = id;
        int32_t x = (int32_t)(random_bits() % (uint32_t)c.n_x);
        if (c.pattern == 3 && r >> 27 == 3)
            x = r >> 26 & 1 ? -1 : r >> 25 & 1 ? (int32_t)c.n_x : -2;
        lhs[(size_t)(p * c.lhs_stride)] = x;
    }
}

// Beside the sort: x in a decoder's order inside every 32 numbers, as decode.cuh defines it.
struct order_case {
    int32_t code; // 0: no
    int64_t rows, k, x_row;
    std::vector<uint16_t> x;

    explicit order_case(const sort_case &c)
    {
        const bool may = c.path == GQMM_CUDA_SM90 && c.n_pairs <= GQMM_CUDA_SORT_BRINGS;
        code = may ? (int32_t)(random_bits() % 7) : 0;
        rows = c.n_x * c.m;
        k = 96;
        x_row = k + (random_bits() & 8) + random_bits() % 2;
        x.resize((size_t)(rows * x_row));
        for (uint16_t &v : x)
            v = (uint16_t)random_bits();
    }
    static int source_of(int order, int q)
    {
        const int t = (q & 7) / 2, i = q / 16 * 4 + (q / 8 % 2) * 2 + q % 2;
        switch (order) {
        case 0:
            return 8 * t + i;
        case 1:
            return 8 * t + i / 2 + i % 2 * 4;
        case 2:
            return 4 * t + i % 4 + i / 4 * 16;
        case 3:
            return 4 * t + i % 4 / 2 + i % 2 * 2 + i / 4 * 16;
        case 4:
            return 2 * t + i % 2 + i / 2 * 8;
        }
        return 8 * t + i % 4 / 2 + i % 2 * 2 + i / 4 * 4;
    }
    bool is(const std::vector<uint16_t> &y) const
    {
        bool good = true;
        for (int64_t i = 0; code && i < rows * k; i++) {
            const int64_t from = i / k * x_row + i % k / 32 * 32 + source_of(code - 1, i % 32);
            good &= y[(size_t)i] == x[(size_t)from];
        }
        return good;
    }
};

static void check_sort(const sort_case &c)
{
    char name[200];
    snprintf(name, sizeof name,
             "sort P=%lld E=%d m=%lld columns=%d pattern=%d strides %lld %lld expert=%d sm_%d",
             (long long)c.n_pairs, c.n_experts, (long long)c.m, c.columns, c.pattern,
             (long long)c.rhs_stride, (long long)c.lhs_stride, c.expert, c.path);
    std::vector<int32_t> rhs, lhs;
    ids_of(c, rhs, lhs);
    const int32_t E = c.n_experts, most = gqmm_cuda_most_tiles(c.n_pairs, c.m, E, c.columns);
    const buffer d_rhs(rhs), d_lhs(lhs), order((size_t)c.n_pairs * 4), first(((size_t)E + 2) * 4),
        tiles((size_t)most * sizeof(gqmm_cuda_tile)), n_tiles(4),
        scratch(gqmm_cuda_sort_scratch(c.n_pairs, E)), fault(std::vector<uint32_t>(1, 0));

    gqmm_cuda_product p = {};
    p.w.n_experts = E;
    p.n_pairs = c.n_pairs;
    p.m = c.m;
    p.n_x = c.n_x;
    p.slots = 1;
    p.rhs = c.rhs_stride ? d_rhs.as<int32_t>() : NULL;
    p.lhs = c.lhs_stride ? d_lhs.as<int32_t>() : NULL;
    p.rhs_stride = c.rhs_stride;
    p.lhs_stride = c.lhs_stride;
    p.expert = c.expert;
    p.fault = fault.as<uint32_t>();
    p.list.order = order.as<int32_t>();
    p.list.tiles = tiles.as<gqmm_cuda_tile>();
    p.list.n_tiles = n_tiles.as<int32_t>();
    p.list.first = first.as<int32_t>();
    p.list.tile_columns = c.columns;
    p.list.most_tiles = most;
    const order_case order_of_x(c);
    const buffer x(order_of_x.x), ordered((size_t)(order_of_x.rows * order_of_x.k) * 2);
    p.x = x.at();
    p.x_ordered = ordered.at();
    p.x_row = order_of_x.x_row;
    p.x_mat = c.m * p.x_row;
    p.k = order_of_x.k;
    for (int i = 0; i < 2; i++) // the second finds what the first left behind
        CUDA(gqmm_cuda_sort(&p, order_of_x.code, scratch.as<void>(), c.path, stream));
    CUDA(cudaStreamSynchronize(stream));

    uint32_t bits = 0;
    std::vector<std::vector<int32_t>> of((size_t)E + 1);
    for (int64_t i = 0; i < c.n_pairs; i++) {
        int64_t e = c.rhs_stride ? rhs[(size_t)(i * c.rhs_stride)] : c.expert < 0 ? i : c.expert;
        const int64_t x = c.lhs_stride ? lhs[(size_t)(i * c.lhs_stride)] : 0;
        bits |= e < -1 || e >= E ? GQMM_FAULT_EXPERT : 0;
        bits |= x < -1 || x >= c.n_x ? GQMM_FAULT_ROW : 0;
        e = e < 0 || e >= E || x < 0 || x >= c.n_x ? E : e;
        of[(size_t)e].push_back((int32_t)i);
    }
    std::vector<int32_t> want_order, want_first;
    std::vector<gqmm_cuda_tile> want_tiles[4];
    for (int32_t e = 0; e <= E; e++) {
        const std::vector<int32_t> &pairs = of[(size_t)e];
        const int64_t begin = (int64_t)want_order.size() * c.m;
        const int64_t columns = (int64_t)pairs.size() * c.m;
        const int64_t n = (columns + c.columns - 1) / c.columns;
        const int bucket = most >= 1 << 16                      ? 0
                           : e == E || columns <= c.columns / 4 ? 3
                           : columns > c.columns                ? 0
                           : columns > c.columns / 2            ? 1
                                                                : 2;
        int64_t at = begin;
        for (int64_t j = 0; j < n; j++) {
            const int32_t count = (int32_t)(columns / n + (j < columns % n));
            want_tiles[bucket].push_back({e == E ? -1 : e, (int32_t)at, count, 0});
            at += count;
        }
        want_first.push_back((int32_t)want_order.size());
        want_order.insert(want_order.end(), pairs.begin(), pairs.end());
    }
    want_first.push_back((int32_t)want_order.size());
    std::vector<gqmm_cuda_tile> want;
    for (const std::vector<gqmm_cuda_tile> &t : want_tiles)
        want.insert(want.end(), t.begin(), t.end());

    const int32_t n = n_tiles.read<int32_t>()[0];
    report(order.read<int32_t>() == want_order, name, "order");
    report(first.read<int32_t>() == want_first, name, "first");
    report(n == (int32_t)want.size() && n <= most, name, "number of tiles");
    if (n <= most) {
        want.resize((size_t)most, gqmm_cuda_tile{-1, 0, 0, 0}); // no columns past the last
        const std::vector<gqmm_cuda_tile> got = tiles.read<gqmm_cuda_tile>();
        report(memcmp(got.data(), want.data(), want.size() * sizeof want[0]) == 0, name, "tiles");
    }
    report(fault.read<uint32_t>()[0] == bits, name, "fault");
    report(order_of_x.is(ordered.read<uint16_t>()) && ordered.intact(), name, "order of x");
    report(order.intact() && first.intact() && tiles.intact() && n_tiles.intact() &&
               scratch.intact() && fault.intact(),
           name, "guards");
}

static void check_sorts(bool small)
{
    for (int path : {GQMM_CUDA_SM80, GQMM_CUDA_SM90}) {
        for (int64_t tokens : {0, 1, 2, 7, 513, 4097}) {
            for (int32_t experts : {1, 8, 128, 256, 512, 4096}) {
                if (small && tokens * experts > 513 * 256)
                    continue;
                for (int pattern = 0; pattern < 4; pattern++) {
                    const int64_t rhs = 1 + pattern % 2 * 2, lhs = pattern == 3 ? 2 : 0;
                    const int64_t m = pattern == 2 ? 5 : 1, columns = pattern == 1 ? 16 : 64;
                    check_sort({tokens * 8, m, 1000, experts, (int32_t)columns, pattern, rhs, lhs,
                                -1, path});
                }
            }
        }
        check_sort({300, 1, 7, 299, 8, 0, 0, 1, -1, path}); // pairs name their experts; one is bad
        check_sort({5000, 3, 7, 16, 128, 0, 0, 1, 3, path});
        check_sort({3000, 1, 9, 5000, 8, 0, 1, 0, -1, path});
        check_sort({4096, 1, 9, 256, 64, 3, 1, 0, -1, path});
        check_sort({65540, 1, 9, 300, 64, 3, 1, 0, -1, path});
        if (small)
            continue;
        check_sort({40000, 1, 9, 5000, 8, 0, 1, 0, -1, path});
        check_sort({131073, 1, 9, 256, 128, 3, 1, 1, -1, path});
        check_sort({3000001, 2, 9, 100, 100, 3, 1, 1, -1, path});
        check_sort({3000001, 1, 9, 100, 8, 1, 1, 0, -1, path});
    }
}

// Every kind of sort.
static void check_races()
{
    for (int path : {GQMM_CUDA_SM80, GQMM_CUDA_SM90}) {
        check_sort({700, 1, 9, 256, 64, 3, 1, 1, -1, path});
        check_sort({4096, 1, 9, 256, 16, 3, 1, 0, -1, path});
        check_sort({9001, 1, 9, 600, 8, 1, 1, 0, -1, path});
        check_sort({65540, 1, 9, 600, 8, 0, 1, 0, -1, path});
    }
}

// ---- choose

static bool near(float a, float b, float relative)
{
    return (isnan(a) && isnan(b)) || a == b || fabsf(a - b) <= relative * fabsf(b);
}

static float score(const gqmm_router_rule &r, const float *logits, int32_t e)
{
    float s = r.scoring == GQMM_SIGMOID ? 1.0f / (1.0f + expf(-logits[e])) : logits[e];
    s = r.bias ? s + r.bias[e] : s;
    return isnan(s) ? -INFINITY : s;
}

static void check_choice(int64_t tokens, int32_t experts, int32_t slots, int scoring, int renorm,
                         bool bias, int odd, int path)
{
    char name[200];
    snprintf(name, sizeof name, "choose T=%lld E=%d S=%d scoring=%d renormalize=%d bias=%d odd=%d",
             (long long)tokens, experts, slots, scoring, renorm, bias, odd);
    std::vector<float> logits((size_t)(tokens * experts)), biases((size_t)experts);
    for (float &v : logits) {
        v = rintf(gaussian() * 128.0f) / 32.0f; // ties
        const uint32_t r = random_bits();
        if (odd == 1 && r % 8 == 0)
            v = r & 8 ? NAN : r & 16 ? INFINITY : -INFINITY;
        if (odd == 2)
            v = r & 8 ? NAN : -0.0f;
        if (odd == 3)
            v = NAN;
    }
    for (float &v : biases)
        v = rintf(gaussian() * 256.0f) / 1024.0f;
    const gqmm_router_rule rule = {experts, slots, scoring,
                                   renorm,  2.5f,  bias ? biases.data() : NULL};
    const buffer d_logits(logits), d_bias(biases), ids((size_t)(tokens * slots) * 4),
        weights((size_t)(tokens * slots) * 4);
    const gqmm_cuda_topk t = {d_logits.as<float>(),
                              bias ? d_bias.as<float>() : NULL,
                              ids.as<int32_t>(),
                              weights.as<float>(),
                              tokens,
                              experts,
                              slots,
                              scoring,
                              renorm,
                              2.5f};
    CUDA(gqmm_cuda_choose(&t, path, stream));
    CUDA(cudaStreamSynchronize(stream));
    const std::vector<int32_t> got = ids.read<int32_t>();
    const std::vector<float> got_weights = weights.read<float>();
    std::vector<int32_t> want((size_t)slots);
    std::vector<float> want_weights((size_t)slots);
    bool good = true, close = true;
    for (int64_t i = 0; i < tokens; i++) {
        const float *l = &logits[(size_t)(i * experts)];
        gqmm_route_token(want.data(), want_weights.data(), l, &rule);
        for (int32_t s = 0; s < slots; s++) {
            const size_t at = (size_t)(i * slots + s);
            const int32_t id = got[at];
            // The two expf differ in the last place: scores that close may change places.
            if (id < 0 || id >= experts)
                good = false;
            else if (id == want[(size_t)s])
                close &= near(got_weights[at], want_weights[(size_t)s], 2e-6f + 4e-9f * experts);
            else
                good &= scoring == GQMM_SIGMOID &&
                        near(score(rule, l, id), score(rule, l, want[(size_t)s]), 1e-6f);
        }
    }
    report(good, name, "ids");
    report(close, name, "weights");
    report(ids.intact() && weights.intact(), name, "guards");
}

static void check_choices(bool small)
{
    if (!small)
        check_choice(4097, 256, 8, GQMM_SOFTMAX, 1, false, 0, GQMM_CUDA_SM90);
    for (int path : {GQMM_CUDA_SM80, GQMM_CUDA_SM90})
        for (int64_t tokens : {0, 1, 2, 7, 513, 4097})
            for (int32_t experts : {1, 8, 31, 60, 128, 256, 512, 1000, 4096})
                for (int32_t slots : {1, 8, 10, 70}) {
                    if (slots > experts || tokens * experts * slots > (small ? 5e4 : 1e6))
                        continue;
                    for (int scoring : {GQMM_SOFTMAX, GQMM_SIGMOID})
                        for (int renorm : {0, 1})
                            for (int odd = 0; odd < 4; odd++)
                                check_choice(tokens, experts, slots, scoring, renorm,
                                             scoring == GQMM_SIGMOID && renorm, odd, path);
                }
}

// ---- add up

static void check_sum(int64_t tokens, int64_t d, int32_t slots, int pairs_type, int y_type,
                      int shared, int skew, int path)
{
    char name[200];
    snprintf(name, sizeof name, "add up T=%lld D=%lld S=%d types %d %d shared=%d skew=%d",
             (long long)tokens, (long long)d, slots, pairs_type, y_type, shared, skew);
    const size_t in = gqmm_type_size(pairs_type), out = gqmm_type_size(y_type);
    const int64_t y_row = d + (skew ? 3 : 0), pairs = tokens * slots;
    std::vector<float> x((size_t)(pairs * d)), sh((size_t)(tokens * d)), w((size_t)pairs),
        dot((size_t)tokens);
    std::vector<int32_t> ids((size_t)pairs);
    for (std::vector<float> *v : {&x, &sh, &w, &dot})
        for (float &f : *v)
            f = gaussian();
    for (int32_t &id : ids)
        id = random_bits() % 8 ? (int32_t)(random_bits() % 20) : random_bits() & 1 ? -1 : 20;
    std::vector<uint8_t> x_bytes(x.size() * in), sh_bytes(sh.size() * in);
    gqmm_narrow(x_bytes.data(), pairs_type, x.data(), (int64_t)x.size());
    gqmm_narrow(sh_bytes.data(), pairs_type, sh.data(), (int64_t)sh.size());
    gqmm_widen(x.data(), x_bytes.data(), pairs_type, (int64_t)x.size());
    gqmm_widen(sh.data(), sh_bytes.data(), pairs_type, (int64_t)sh.size());

    const buffer d_x(x_bytes.size(), (size_t)skew * in), d_sh(sh_bytes), d_w(w), d_ids(ids),
        d_dot(dot), y((size_t)(tokens * y_row) * out, (size_t)skew * out);
    d_x.write(x_bytes.data());
    gqmm_cuda_combine c = {};
    c.pairs = d_x.at();
    c.pairs_type = pairs_type;
    c.y_type = y_type;
    c.ids = d_ids.as<int32_t>();
    c.weights = d_w.as<float>();
    c.shared = shared ? d_sh.at() : NULL;
    c.shared_dot = shared == 2 ? d_dot.as<float>() : NULL;
    c.y = y.at();
    c.y_row = y_row;
    c.n_tokens = tokens;
    c.d = d;
    c.n_slots = slots;
    c.n_experts = 20;
    CUDA(gqmm_cuda_add_up(&c, path, stream));
    CUDA(cudaStreamSynchronize(stream));

    const std::vector<uint8_t> got = y.read<uint8_t>();
    bool good = true, kept = true;
    for (int64_t t = 0; t < tokens; t++) {
        std::vector<uint8_t> want_bytes((size_t)d * out);
        std::vector<float> sum((size_t)d, 0.0f), y_f((size_t)d), want((size_t)d);
        for (int64_t p = t * slots; p < (t + 1) * slots; p++)
            for (int64_t i = 0; i < d && ids[(size_t)p] >= 0 && ids[(size_t)p] < 20; i++) {
                volatile float product = w[(size_t)p] * x[(size_t)(p * d + i)];
                sum[(size_t)i] += product;
            }
        for (int64_t i = 0; i < d && shared; i++) {
            const float factor = shared == 2 ? 1.0f / (1.0f + expf(-dot[(size_t)t])) : 1.0f;
            volatile float product = factor * sh[(size_t)(t * d + i)];
            sum[(size_t)i] += product;
        }
        gqmm_narrow(want_bytes.data(), y_type, sum.data(), d);
        gqmm_widen(want.data(), want_bytes.data(), y_type, d);
        const uint8_t *row = &got[(size_t)(t * y_row) * out];
        gqmm_widen(y_f.data(), row, y_type, d);
        if (shared == 2) { // the factors may differ in the last place
            for (size_t i = 0; i < (size_t)d; i++)
                good &= fabsf(y_f[i] - want[i]) <= 1e-6f + fabsf(want[i]) / (out == 4 ? 1e6f : 100);
        } else {
            good &= memcmp(row, want_bytes.data(), want_bytes.size()) == 0;
        }
        for (size_t i = (size_t)d * out; i < (size_t)y_row * out; i++)
            kept &= row[i] == 0x5a;
    }
    report(good, name, "sums");
    report(kept && y.intact(), name, "guards");
}

static void check_sums(bool small)
{
    if (!small)
        check_sum(513, 2048, 8, GQMM_BF16, GQMM_BF16, 1, 0, GQMM_CUDA_SM90);
    for (int path : {GQMM_CUDA_SM80, GQMM_CUDA_SM90})
        for (int64_t tokens : {0, 1, 7, small ? 70 : 513})
            for (int64_t d : {1, 31, 64, 2048, 2880})
                for (int32_t slots : {1, 8, 10})
                    for (int pairs_type = 0; pairs_type < 3; pairs_type++)
                        for (int y_type = 0; y_type < 3; y_type++) {
                            if (tokens * d > (small ? 3000 : 70000))
                                continue;
                            const int k = (int)(tokens + slots) + pairs_type + y_type;
                            check_sum(tokens, d, slots, pairs_type, y_type, k % 3, 0, path);
                            check_sum(tokens, d, slots, pairs_type, y_type, k % 2, 1, path);
                        }
}

int main(int argc, char **argv)
{
    const bool small = argc > 1 && strcmp(argv[1], "small") == 0;
    CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    if (argc > 1 && strcmp(argv[1], "race") == 0) {
        check_races();
        return finish("test_route");
    }
    check_sorts(small);
    check_choices(small);
    check_sums(small);
    return finish("test_route");
}
