// SPDX-License-Identifier: MIT
// How long the launches around the products take, from graphs of many: time_route [sort]
#include "cuda/launches.h"
#include "cuda/timing.h"

static void show(const char *name, const span &t, double bytes)
{
    printf("%-52s %8.2f us (%.2f to %.2f)", name, t.median, t.least, t.most);
    if (bytes > 0)
        printf("  %.0f GB/s", bytes / t.median * 1e-3);
    printf("\n");
    fflush(stdout);
}

static void time_sort(int64_t tokens, int32_t experts, int32_t slots, int path)
{
    const int64_t pairs = tokens * slots;
    const int32_t columns = 64, most = gqmm_cuda_most_tiles(pairs, 1, experts, columns);
    std::vector<int32_t> ids;
    for (int64_t t = 0; t < tokens; t++) {
        std::vector<int32_t> own;
        while ((int32_t)own.size() < slots) {
            const int32_t id = (int32_t)(random_bits() % (uint32_t)experts);
            if (std::find(own.begin(), own.end(), id) == own.end())
                own.push_back(id);
        }
        ids.insert(ids.end(), own.begin(), own.end());
    }
    const buffer d_ids(ids), order((size_t)pairs * 4), first(((size_t)experts + 2) * 4),
        tiles((size_t)most * sizeof(gqmm_cuda_tile)), n(4),
        scratch(gqmm_cuda_sort_scratch(pairs, experts)), fault(std::vector<uint32_t>(1, 0));
    gqmm_cuda_product p = {};
    p.w.n_experts = experts;
    p.n_pairs = pairs;
    p.m = 1;
    p.n_x = tokens;
    p.slots = slots;
    p.rhs = d_ids.as<int32_t>();
    p.rhs_stride = 1;
    p.fault = fault.as<uint32_t>();
    p.list.order = order.as<int32_t>();
    p.list.tiles = tiles.as<gqmm_cuda_tile>();
    p.list.n_tiles = n.as<int32_t>();
    p.list.first = first.as<int32_t>();
    p.list.tile_columns = columns;
    p.list.most_tiles = most;
    char name[100];
    snprintf(name, sizeof name, "sort %lld tokens x %d, E=%d, sm_%d", (long long)tokens, slots,
             experts, path);
    show(name,
         time_of(20, 25,
                 [&](cudaStream_t s, int) {
                     CUDA(gqmm_cuda_sort(&p, 0, scratch.as<void>(), path, s));
                 }),
         0);
}

static void time_router(int64_t tokens, int32_t experts, int64_t k, int path)
{
    const buffer w((size_t)(experts * k) * 2), x((size_t)(tokens * k) * 2);
    gqmm_cuda_router r = {};
    r.w = w.at();
    r.w_row = k * 2;
    r.w_type = r.x_type = GQMM_BF16;
    r.x = x.at();
    r.x_row = r.k = k;
    r.choice.n_tokens = tokens;
    r.choice.n_experts = experts;
    r.parts = gqmm_cuda_router_parts(&r, path);
    if (r.parts == 0)
        return;
    const buffer logits((size_t)(r.parts * tokens * experts) * 4);
    r.choice.logits = logits.as<float>();
    char name[100];
    snprintf(name, sizeof name, "router T=%lld E=%d K=%lld in %d, sm_%d", (long long)tokens,
             experts, (long long)k, r.parts, path);
    show(name, time_of(20, 25, [&](cudaStream_t s, int) { CUDA(gqmm_cuda_route(&r, path, s)); }),
         (double)(tokens + experts) * (double)k * 2);
}

static void time_choose(int64_t tokens, int32_t experts, int32_t slots, int parts)
{
    const int path = GQMM_CUDA_SM90;
    std::vector<float> logits((size_t)(parts * tokens * experts));
    for (float &v : logits)
        v = gaussian();
    const buffer d_logits(logits), ids((size_t)(tokens * slots) * 4),
        weights((size_t)(tokens * slots) * 4);
    const gqmm_cuda_topk t = {d_logits.as<float>(),
                              NULL,
                              ids.as<int32_t>(),
                              weights.as<float>(),
                              tokens,
                              experts,
                              slots,
                              GQMM_SOFTMAX,
                              1,
                              1.0f,
                              parts};
    char name[100];
    snprintf(name, sizeof name, "choose T=%lld E=%d S=%d of %d", (long long)tokens, experts, slots,
             parts);
    show(name, time_of(20, 25, [&](cudaStream_t s, int) { CUDA(gqmm_cuda_choose(&t, path, s)); }),
         (double)tokens * experts * parts * 4);
}

static void time_sum(int64_t tokens, int64_t d, int32_t slots, int path)
{
    const int copies = tokens >= 512 ? 4 : 20; // reads stay cold where they are large
    std::vector<int32_t> ids((size_t)(tokens * slots), 1);
    std::vector<float> w(ids.size(), 0.1f);
    const buffer d_ids(ids), d_w(w), x((size_t)(tokens * slots * d) * 2 * copies),
        y((size_t)(tokens * d) * 2);
    char name[100];
    snprintf(name, sizeof name, "add up T=%lld S=%d D=%lld bf16, sm_%d", (long long)tokens, slots,
             (long long)d, path);
    show(name,
         time_of(copies, 25,
                 [&](cudaStream_t s, int i) {
                     gqmm_cuda_combine c = {};
                     c.pairs = x.at() + (size_t)i * tokens * slots * d * 2;
                     c.pairs_type = c.y_type = GQMM_BF16;
                     c.ids = d_ids.as<int32_t>();
                     c.weights = d_w.as<float>();
                     c.y = y.at();
                     c.y_row = c.d = d;
                     c.n_tokens = tokens;
                     c.n_slots = slots;
                     c.n_experts = 20;
                     CUDA(gqmm_cuda_add_up(&c, path, s));
                 }),
         (double)tokens * d * 2 * (slots + 1));
}

static void time_round(const char *format)
{
    const int64_t rows = 8192, cols = 8192;
    for (int32_t i = 0; i < gqmm_n_formats; i++) {
        const gqmm_format *f = &gqmm_formats[i].pub;
        if (strcmp(f->name, format) != 0)
            continue;
        gqmm_cuda_quantize q = {};
        std::vector<buffer *> planes;
        double bytes = (double)rows * cols * 2;
        const buffer x((size_t)(rows * cols) * 2);
        q.format = i;
        q.x_type = GQMM_BF16;
        q.x = x.at();
        q.x_row = q.n_cols = cols;
        q.n_rows = rows;
        for (int j = 0; j < f->n_planes; j++) {
            q.row_stride[j] = cols / f->block_elems * f->plane_bytes[j];
            planes.push_back(new buffer((size_t)(rows * q.row_stride[j])));
            q.plane[j] = planes.back()->at();
            bytes += (double)rows * (double)q.row_stride[j];
        }
        char name[100];
        snprintf(name, sizeof name, "round %s %lld x %lld bf16", format, (long long)rows,
                 (long long)cols);
        show(name, time_of(2, 25, [&](cudaStream_t s, int) { CUDA(gqmm_cuda_round(&q, s)); }),
             bytes);
        for (buffer *b : planes)
            delete b;
    }
}

static void timings(bool only_sort)
{
    for (int path : {GQMM_CUDA_SM90, GQMM_CUDA_SM80}) {
        for (int64_t tokens : {1, 8, 64, 256, 512, 1024, 2048, 4096, 16384})
            time_sort(tokens, 256, 8, path);
    }
    if (only_sort)
        return;
    for (int path : {GQMM_CUDA_SM90, GQMM_CUDA_SM80}) {
        time_sort(512, 512, 10, path);
        time_sort(4096, 512, 10, path);
        time_sort(4096, 4096, 8, path);
    }
    for (int64_t tokens : {1, 8, 64, 256, 512, 1024, 4096, 8192}) {
        time_router(tokens, 256, 2048, GQMM_CUDA_SM90);
        time_choose(tokens, 256, 8, tokens > 1 && tokens <= 512 ? 8 : 1);
        time_sum(tokens, 2048, 8, GQMM_CUDA_SM90);
    }
    time_choose(4096, 512, 10, 1);
    time_choose(512, 4096, 8, 1);
    time_sum(4096, 2880, 4, GQMM_CUDA_SM90);
    for (const char *format :
         {"q4_0", "q8_0", "mxfp4", "affine4_g64_bf16", "mlx_nvfp4", "int4_g128", "f16"})
        time_round(format);
}

int main(int argc, char **argv)
{
    CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    timings(argc > 1 && strcmp(argv[1], "sort") == 0);
    return 0;
}
