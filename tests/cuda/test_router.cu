// SPDX-License-Identifier: MIT
// The router against sums in double precision, and the choice of one token's experts.
//
//   test_router          all checks
//   test_router small    the smaller ones, for compute-sanitizer
#include "cuda/launches.h"
#include "kernel/cuda/choose.cuh"

static void check_router(int64_t tokens, int32_t experts, int64_t k, int w_type, int x_type,
                         int path)
{
    char name[200];
    snprintf(name, sizeof name, "router T=%lld E=%d K=%lld types %d %d", (long long)tokens, experts,
             (long long)k, w_type, x_type);
    const int32_t rows = experts;
    const size_t w_size = gqmm_type_size(w_type), x_size = gqmm_type_size(x_type);
    const int64_t w_row = k + 8, x_row = k + 16; // neither is dense
    std::vector<float> w((size_t)(rows * w_row)), x((size_t)(tokens * x_row));
    for (std::vector<float> *v : {&w, &x})
        for (float &f : *v)
            f = gaussian();
    std::vector<uint8_t> w_bytes(w.size() * w_size), x_bytes(x.size() * x_size);
    gqmm_narrow(w_bytes.data(), w_type, w.data(), (int64_t)w.size());
    gqmm_narrow(x_bytes.data(), x_type, x.data(), (int64_t)x.size());
    gqmm_widen(w.data(), w_bytes.data(), w_type, (int64_t)w.size());
    gqmm_widen(x.data(), x_bytes.data(), x_type, (int64_t)x.size());
    const buffer d_w(w_bytes), d_x(x_bytes);
    gqmm_cuda_router r = {};
    r.w = d_w.as<uint8_t>();
    r.w_row = w_row * (int64_t)w_size;
    r.w_type = w_type;
    r.x_type = x_type;
    r.x = d_x.at();
    r.x_row = x_row;
    r.k = k;
    r.choice.n_tokens = tokens;
    r.choice.n_experts = experts;
    const int32_t parts = r.parts = gqmm_cuda_router_parts(&r, path);
    const buffer logits((size_t)(parts * tokens * experts) * 4);
    r.choice.logits = logits.as<float>();
    if (parts == 0 || !gqmm_cuda_router_fits(&r, path)) {
        report(false, name, "sizes are refused");
        return;
    }
    CUDA(gqmm_cuda_route(&r, path, stream));
    CUDA(cudaStreamSynchronize(stream));
    const std::vector<float> got = logits.read<float>();
    double worst = 0; // of what is allowed
    for (int64_t t = 0; t < tokens; t++)
        for (int32_t e = 0; e < rows; e++) {
            double sum = 0.0, size = 0.0, have = 0.0;
            for (int64_t i = 0; i < k; i++) {
                const double v = (double)w[(size_t)(e * w_row + i)] * x[(size_t)(t * x_row + i)];
                sum += v;
                size += fabs(v);
            }
            for (int32_t p = 0; p < parts; p++)
                have += got[(size_t)((p * tokens + t) * experts + e)];
            const double error = fabs(have - sum) / (1e-6 * size + 1e-30);
            worst = error <= worst ? worst : error;
        }
    char what[60];
    snprintf(what, sizeof what, "logits are off %.2f of what is allowed", worst);
    report(worst <= 1, name, what);
    report(logits.intact(), name, "guards");
}

static void check_routers(bool small)
{
    for (int path : {GQMM_CUDA_SM80, GQMM_CUDA_SM90})
        for (int64_t tokens : {1, 2, 3, 8, 9, 64, 200})
            for (int32_t experts : {1, 37, 256})
                for (int64_t k : {8, 520, 2048})
                    for (int types = 0; types < 9; types++)
                        if (!small || tokens * experts * k < 300000)
                            check_router(tokens, experts, k, types / 3, types % 3, path);
    for (int64_t tokens : {257, 300, 1100}) // as a dense product, in parts or as a whole
        for (int32_t experts : {7, 37, 256, 600})
            for (int64_t k : {72, 520, 2048})
                if (!small || tokens * experts * k < 1000000)
                    check_router(tokens, experts, k, GQMM_BF16, GQMM_BF16, GQMM_CUDA_SM90);
}

constexpr int WARPS = 16;

__global__ void __launch_bounds__(WARPS * 32) choose_one_kernel(gqmm_cuda_topk t)
{
    extern __shared__ __align__(16) uint8_t scratch[];
    gqmm::choose_one<WARPS>(
        scratch, t, [&](int e) { return t.logits[e]; }, [&](int slot, int e) { t.ids[slot] = e; });
}

// kind of logits: 0 all different, 1 with ties, 2 with what is no number too, 3 all alike. The ids
// have to be those of gqmm_cuda_choose(), which test_route holds to the CPU.
static void check_choice(int32_t experts, int32_t slots, int scoring, int kind)
{
    char name[100];
    snprintf(name, sizeof name, "choice E=%d S=%d scoring=%d kind=%d", experts, slots, scoring,
             kind);
    std::vector<float> logits((size_t)experts);
    for (float &v : logits) {
        v = kind == 0 ? gaussian() : kind == 3 ? 0.5f : rintf(gaussian() * 8.0f) / 4.0f;
        const uint32_t r = random_bits();
        if (kind == 2 && r % 4 == 0)
            v = r & 8 ? NAN : r & 16 ? INFINITY : -INFINITY;
    }
    const buffer d_logits(logits), want((size_t)slots * 4), got((size_t)slots * 4),
        weights((size_t)slots * 4);
    gqmm_cuda_topk t = {};
    t.logits = d_logits.as<float>();
    t.ids = want.as<int32_t>();
    t.weights = weights.as<float>();
    t.n_tokens = 1;
    t.n_experts = experts;
    t.n_slots = slots;
    t.scoring = scoring;
    CUDA(gqmm_cuda_choose(&t, GQMM_CUDA_SM80, stream));
    t.ids = got.as<int32_t>();
    choose_one_kernel<<<1, WARPS * 32, gqmm::few_scratch<WARPS>(experts, slots), stream>>>(t);
    CUDA(cudaGetLastError());
    CUDA(cudaStreamSynchronize(stream));
    report(got.read<int32_t>() == want.read<int32_t>(), name, "ids");
    report(got.intact(), name, "guards");
}

static void check_choices()
{
    for (int32_t experts : {1, 8, 31, 60, 128, 256, 512, 1000, 1024})
        for (int32_t slots : {1, 3, 8, 10, 17, 32})
            for (int scoring : {GQMM_SOFTMAX, GQMM_SIGMOID})
                for (int kind = 0; slots <= experts && kind < 4; kind++)
                    check_choice(experts, slots, scoring, kind);
}

int main(int argc, char **argv)
{
    CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    check_routers(argc > 1 && strcmp(argv[1], "small") == 0);
    check_choices();
    return finish("test_router");
}
