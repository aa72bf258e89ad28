/* SPDX-License-Identifier: MIT */
/* The functions of simd.h over the words of the file that includes this:
 *   vec, LANES        a vector of floats; LANES divides 16
 *   KEY_VECS          vectors of a row that scores and values keep in registers, times TILE rows
 *   v_load v_store (any alignment)  v_set  v_add  v_sub  v_mul
 *   v_fma(a, b, c)    a * b + c, fused in every variant but the base, f_fma the same for a float
 *   v_max(a, b)       a > b ? a : b: of a NaN and b, b
 *   v_exponent(x)     the float whose exponent field is the low bits of x plus 127
 * Only norm and soften add across lanes: always sixteen sums, then a tree. */
#include <math.h>

enum { SUMS = 16, SUM_VECS = SUMS / LANES, TILE = 4 };

static inline float tree(float *sum)
{
    for (int32_t half = SUMS / 2; half > 0; half /= 2)
        for (int32_t i = 0; i < half; i++)
            sum[i] += sum[i + half];
    return sum[0];
}

static void norm(float *y, const float *x, const float *weight, float eps, int64_t n)
{
    vec part[SUM_VECS];
    float sum[SUMS];
    int64_t i = 0;
    for (int32_t j = 0; j < SUM_VECS; j++)
        part[j] = v_set(0);
    for (; i + SUMS <= n; i += SUMS)
        for (int32_t j = 0; j < SUM_VECS; j++) {
            const vec v = v_load(x + i + j * LANES);
            part[j] = v_fma(v, v, part[j]);
        }
    for (int32_t j = 0; j < SUM_VECS; j++)
        v_store(sum + j * LANES, part[j]);
    for (int32_t j = 0; i + j < n; j++)
        sum[j] = f_fma(x[i + j], x[i + j], sum[j]);
    const float scale = 1.0f / sqrtf(tree(sum) / (float)n + eps);
    for (i = 0; i + LANES <= n; i += LANES)
        v_store(y + i, v_mul(v_mul(v_load(x + i), v_set(scale)), v_load(weight + i)));
    for (; i < n; i++)
        y[i] = x[i] * scale * weight[i];
}

static void add(float *x, const float *y, int64_t n)
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        v_store(x + i, v_add(v_load(x + i), v_load(y + i)));
    for (; i < n; i++)
        x[i] += y[i];
}

static void rotate(float *x, const float *table, int32_t n_rot)
{
    const int32_t half = n_rot / 2;
    int32_t i = 0;
    for (; i + LANES <= half; i += LANES) {
        const vec a = v_load(x + i), b = v_load(x + half + i);
        const vec c = v_load(table + i), s = v_load(table + half + i);
        v_store(x + i, v_sub(v_mul(a, c), v_mul(b, s)));
        v_store(x + half + i, v_add(v_mul(b, c), v_mul(a, s)));
    }
    for (; i < half; i++) {
        const float a = x[i], b = x[half + i], c = table[i], s = table[half + i];
        x[i] = a * c - b * s;
        x[half + i] = b * c + a * s;
    }
}

static void multiply(float *y, float a, int64_t n)
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        v_store(y + i, v_mul(v_load(y + i), v_set(a)));
    for (; i < n; i++)
        y[i] *= a;
}

static void blend(float *y, float a, const float *x, float b, int64_t n)
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        v_store(y + i, v_fma(v_load(x + i), v_set(b), v_mul(v_load(y + i), v_set(a))));
    for (; i < n; i++)
        y[i] = f_fma(x[i], b, y[i] * a);
}

/* ------------------------------------------------------------------ softmax */

/* x = n ln 2 + r, |r| <= 0.347; the series of e^r ends at r^7, whose next term is below 6e-9.
 * Adding 1.5 * 2^23 leaves n, rounded, in the low bits. NaN passes. */
INLINE vec v_exp(vec x)
{
    const vec magic = v_set(12582912.0f);
    x = v_max(v_set(-87.0f), x);
    const vec shifted = v_fma(x, v_set(1.44269504f), magic);
    const vec n = v_sub(shifted, magic);
    vec r = v_fma(n, v_set(-0.693359375f), x); /* ln 2 in two parts */
    r = v_fma(n, v_set(2.12194440e-4f), r);
    vec p = v_set(1.0f / 5040.0f);
    p = v_fma(p, r, v_set(1.0f / 720.0f));
    p = v_fma(p, r, v_set(1.0f / 120.0f));
    p = v_fma(p, r, v_set(1.0f / 24.0f));
    p = v_fma(p, r, v_set(1.0f / 6.0f));
    p = v_fma(p, r, v_set(0.5f));
    p = v_add(v_fma(v_mul(p, r), r, r), v_set(1.0f));
    return v_mul(p, v_exponent(shifted));
}

static float exp_one(float x)
{
    float y[LANES];
    v_store(y, v_exp(v_set(x)));
    return y[0];
}

static float largest(const float *score)
{
    vec most = v_set(-INFINITY);
    float lane[LANES], best = -INFINITY;
    for (int32_t i = 0; i < GQMM_KV_BLOCK; i += LANES)
        most = v_max(v_load(score + i), most);
    v_store(lane, most);
    for (int32_t i = 0; i < LANES; i++)
        best = lane[i] > best ? lane[i] : best;
    return best;
}

static float soften(float *score, int32_t n, gqmm_softmax *s)
{
    vec part[SUM_VECS];
    float sum[SUMS], shrink = 1.0f;
    for (int32_t i = n; i < GQMM_KV_BLOCK; i++)
        score[i] = -INFINITY;
    const float max = largest(score);
    if (max > s->max) {
        shrink = exp_one(s->max - max); /* the first time of -inf, and there is nothing to shrink */
        s->max = max;
    }
    for (int32_t i = 0; i < GQMM_KV_BLOCK; i += LANES)
        v_store(score + i, v_exp(v_sub(v_load(score + i), v_set(s->max))));
    for (int32_t i = n; i < GQMM_KV_BLOCK; i++)
        score[i] = 0;
    for (int32_t j = 0; j < SUM_VECS; j++)
        part[j] = v_load(score + j * LANES);
    for (int32_t i = SUMS; i < GQMM_KV_BLOCK; i += SUMS)
        for (int32_t j = 0; j < SUM_VECS; j++)
            part[j] = v_add(part[j], v_load(score + i + j * LANES));
    for (int32_t j = 0; j < SUM_VECS; j++)
        v_store(sum + j * LANES, part[j]);
    s->sum = s->sum * shrink + tree(sum);
    return shrink;
}

/* ------------------------------------------------------------------ scores and values */

/* Keys [i, i + KEY_VECS * LANES) against `rows` queries: each sum runs along head_dim. */
INLINE void score_tile(float (*score)[GQMM_KV_BLOCK], const float *const *q, const int32_t rows,
                       const float *keys, int32_t i, int32_t head_dim, float scale)
{
    vec sum[TILE][KEY_VECS];
    const float *row[TILE];
    UNROLL(4)
    for (int32_t r = 0; r < rows; r++) {
        row[r] = q[r];
        UNROLL(4)
        for (int32_t j = 0; j < KEY_VECS; j++)
            sum[r][j] = v_set(0);
    }
    for (int32_t d = 0; d < head_dim; d++) {
        const float *k = keys + (int64_t)d * GQMM_KV_BLOCK + i;
        vec key[KEY_VECS];
        UNROLL(4)
        for (int32_t j = 0; j < KEY_VECS; j++)
            key[j] = v_load(k + j * LANES);
        UNROLL(4)
        for (int32_t r = 0; r < rows; r++) {
            const vec x = v_set(row[r][d]);
            UNROLL(4)
            for (int32_t j = 0; j < KEY_VECS; j++)
                sum[r][j] = v_fma(x, key[j], sum[r][j]);
        }
    }
    UNROLL(4)
    for (int32_t r = 0; r < rows; r++) {
        UNROLL(4)
        for (int32_t j = 0; j < KEY_VECS; j++)
            v_store(score[r] + i + j * LANES, v_mul(sum[r][j], v_set(scale)));
    }
}

static void scores(float (*score)[GQMM_KV_BLOCK], const float *const *q, int32_t n_rows,
                   const float *keys, int32_t head_dim, float scale)
{
    for (int32_t i = 0; i < GQMM_KV_BLOCK; i += KEY_VECS * LANES) {
        int32_t r = 0;
        for (; r + TILE <= n_rows; r += TILE)
            score_tile(score + r, q + r, TILE, keys, i, head_dim, scale);
        for (; r < n_rows; r++)
            score_tile(score + r, q + r, 1, keys, i, head_dim, scale);
    }
}

/* Values [first, n) of dimensions [d, d + vecs * LANES) for `rows` outputs, in order of position.
 */
INLINE void value_tile(float *const *y, float (*weight)[GQMM_KV_BLOCK], const float *shrink,
                       const int32_t rows, int32_t first, int32_t n, const float *values, int32_t d,
                       const int32_t vecs, int32_t head_dim)
{
    vec sum[TILE][KEY_VECS];
    UNROLL(4)
    for (int32_t r = 0; r < rows; r++) {
        UNROLL(4)
        for (int32_t j = 0; j < vecs; j++) {
            sum[r][j] = v_load(y[r] + d + j * LANES);
            if (first == 0)
                sum[r][j] = v_mul(sum[r][j], v_set(shrink[r]));
        }
    }
    for (int32_t i = first; i < n; i++) {
        const float *v = values + (int64_t)i * head_dim + d;
        vec value[KEY_VECS];
        UNROLL(4)
        for (int32_t j = 0; j < vecs; j++)
            value[j] = v_load(v + j * LANES);
        UNROLL(4)
        for (int32_t r = 0; r < rows; r++) {
            const vec w = v_set(weight[r][i]);
            UNROLL(4)
            for (int32_t j = 0; j < vecs; j++)
                sum[r][j] = v_fma(w, value[j], sum[r][j]);
        }
    }
    UNROLL(4)
    for (int32_t r = 0; r < rows; r++) {
        UNROLL(4)
        for (int32_t j = 0; j < vecs; j++)
            v_store(y[r] + d + j * LANES, sum[r][j]);
    }
}

INLINE void value_rows(float *const *y, float (*weight)[GQMM_KV_BLOCK], const float *shrink,
                       const int32_t rows, int32_t first, int32_t n, const float *values,
                       int32_t head_dim)
{
    int32_t d = 0;
    for (; d + KEY_VECS * LANES <= head_dim; d += KEY_VECS * LANES)
        value_tile(y, weight, shrink, rows, first, n, values, d, KEY_VECS, head_dim);
    for (; d + LANES <= head_dim; d += LANES)
        value_tile(y, weight, shrink, rows, first, n, values, d, 1, head_dim);
    for (; d < head_dim; d++)
        for (int32_t r = 0; r < rows; r++) {
            float sum = first == 0 ? y[r][d] * shrink[r] : y[r][d];
            for (int32_t i = first; i < n; i++)
                sum = f_fma(weight[r][i], values[(int64_t)i * head_dim + d], sum);
            y[r][d] = sum;
        }
}

/* Rows of a tile share the positions that all of them see; the rest each takes alone, because a
 * weight of 0 would still let a NaN of a later token in. */
static void values_of(float *const *y, float (*weight)[GQMM_KV_BLOCK], const float *shrink,
                      const int32_t *n, int32_t n_rows, const float *values, int32_t head_dim)
{
    int32_t r = 0;
    for (; r + TILE <= n_rows; r += TILE) {
        value_rows(y + r, weight + r, shrink + r, TILE, 0, n[r], values, head_dim);
        for (int32_t i = r + 1; i < r + TILE; i++)
            if (n[i] > n[r])
                value_rows(y + i, weight + i, shrink + i, 1, n[r], n[i], values, head_dim);
    }
    for (; r < n_rows; r++)
        value_rows(y + r, weight + r, shrink + r, 1, 0, n[r], values, head_dim);
}

#define SIMD_TABLE(room) \
    { \
        room, norm, add, rotate, scores, soften, values_of, multiply, blend, exp_one \
    }
