// SPDX-License-Identifier: MIT
// What the tests of single launches share: counts, random numbers, device memory between guards.
#ifndef TESTS_CUDA_LAUNCHES_H
#define TESTS_CUDA_LAUNCHES_H

#include <cuda_runtime.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <functional>
#include <vector>

#include "base/num.h"
#include "cuda/timing.h"
#include "kernel/cuda.h"

extern "C" {
#include "base/convert.h"
#include "format/format.h"
#include "op/route.h"
}

static int passed, failed, shown;
static cudaStream_t stream;

// A name that a program does not use is fine.
#pragma GCC diagnostic ignored "-Wunused-function"

static void report(bool good, const char *name, const char *what)
{
    good ? passed++ : failed++;
    if (!good && shown++ < 40)
        printf("FAIL %s: %s\n", name, what);
}

static uint32_t seed = 1;

static uint32_t random_bits()
{
    seed ^= seed << 13;
    seed ^= seed >> 17;
    return seed ^= seed << 5;
}

static float uniform()
{
    return (float)(random_bits() >> 8) * (1.0f / 16777216.0f);
}

static float gaussian()
{
    return uniform() + uniform() + uniform() + uniform() - 2.0f;
}

// Device memory between two guards, `skew` bytes off its natural alignment.
struct buffer {
    enum { GUARD = 256 };
    uint8_t *memory;
    size_t size, skew;

    explicit buffer(size_t size_, size_t skew_ = 0) : size(size_), skew(skew_)
    {
        CUDA(cudaMalloc((void **)&memory, size + 2 * GUARD + skew));
        CUDA(cudaMemset(memory, 0x5a, size + 2 * GUARD + skew));
        CUDA(cudaDeviceSynchronize()); // the stream of the tests does not wait for this one
    }
    template <class T> explicit buffer(const std::vector<T> &v) : buffer(v.size() * sizeof(T))
    {
        write(v.data());
    }
    buffer(const buffer &) = delete;
    ~buffer()
    {
        CUDA(cudaFree(memory));
    }
    void write(const void *from) const
    {
        CUDA(cudaMemcpy(at(), from, size, cudaMemcpyHostToDevice));
        CUDA(cudaDeviceSynchronize());
    }
    uint8_t *at() const
    {
        return memory + GUARD + skew;
    }
    template <class T> T *as() const
    {
        return (T *)at();
    }
    template <class T> std::vector<T> read() const
    {
        std::vector<T> v(size / sizeof(T));
        CUDA(cudaMemcpy(v.data(), at(), v.size() * sizeof(T), cudaMemcpyDeviceToHost));
        return v;
    }
    bool intact() const
    {
        std::vector<uint8_t> all(size + 2 * GUARD + skew);
        CUDA(cudaMemcpy(all.data(), memory, all.size(), cudaMemcpyDeviceToHost));
        bool good = true;
        for (size_t i = 0; i < all.size(); i++)
            if (i < GUARD + skew || i >= GUARD + skew + size)
                good &= all[i] == 0x5a;
        return good;
    }
};

static int finish(const char *name)
{
    printf("%s: %d passed, %d failed, 0 skipped\n", name, passed, failed);
    return failed != 0;
}

#endif
