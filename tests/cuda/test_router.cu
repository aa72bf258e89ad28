// SPDX-License-Identifier: MIT
// The router against sums in double precision.
//
//   test_router          all checks
//   test_router small    the smaller ones, for compute-sanitizer
#include "cuda/launches.h"

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

int main(int argc, char **argv)
{
    CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    check_routers(argc > 1 && strcmp(argv[1], "small") == 0);
    return finish("test_router");
}
