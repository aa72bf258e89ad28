/* SPDX-License-Identifier: MIT */
/* Choosing the next token: penalty, temperature, top-k, top-p, min-p, draw. Sums run in a fixed
 * order and in double, so the same seed and logits give the same tokens. */
#include "gqmm-model.h"

#include "base/memory.h"
#include "base/status.h"

#include <math.h>
#include <string.h>

typedef struct gqmm_candidate {
    float logit;
    int32_t id;
} gqmm_candidate;

struct gqmm_sampler {
    gqmm_allocator a;
    gqmm_sampler_desc desc;
    uint64_t state;
    int32_t *recent; /* ring of the last tokens; NULL without a penalty */
    int32_t n_recent, next_recent;
    gqmm_candidate *candidates; /* [capacity] */
    double *weights;            /* [capacity] of the candidates that are left */
    uint8_t *seen;              /* [capacity] 1: in the ring; zero between calls */
    int32_t capacity;
};

static gqmm_status check(const gqmm_sampler_desc *d, gqmm_error *err)
{
    const struct {
        const char *name;
        float value, most;
    } fields[4] = {{"temperature", d->temperature, HUGE_VALF},
                   {"top_p", d->top_p, 1},
                   {"min_p", d->min_p, 1},
                   {"repeat_penalty", d->repeat_penalty, HUGE_VALF}};
    for (int32_t i = 0; i < 4; i++)
        if (!(fields[i].value >= 0 && fields[i].value <= fields[i].most) || isinf(fields[i].value))
            return gqmm_fail(err, GQMM_E_ARG, 0, "%s = %g is out of range", fields[i].name,
                             (double)fields[i].value);
    if (d->top_k < 0 || d->repeat_last < 0)
        return gqmm_fail(err, GQMM_E_ARG, 0, "%s = %d is negative",
                         d->top_k < 0 ? "top_k" : "repeat_last",
                         d->top_k < 0 ? d->top_k : d->repeat_last);
    return GQMM_OK;
}

/* splitmix64: any seed, 0 included, gives a full-period sequence of well-mixed numbers. */
static uint64_t random_bits(gqmm_sampler *s)
{
    uint64_t z = s->state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

gqmm_status gqmm_sampler_create(const gqmm_sampler_desc *desc, const gqmm_allocator *allocator,
                                gqmm_sampler **out, gqmm_error *err)
{
    gqmm_allocator a;
    if (!out)
        return gqmm_fail(err, GQMM_E_ARG, 0, "out is NULL");
    *out = NULL;
    if (!desc || desc->struct_size < sizeof *desc)
        return gqmm_fail(err, GQMM_E_ARG, 0, "the sampler's description is NULL or too small");
    gqmm_status st = check(desc, err);
    if (st == GQMM_OK)
        st = gqmm_allocator_init(&a, allocator, err);
    if (st != GQMM_OK)
        return st;
    gqmm_sampler *s = gqmm_alloc(&a, 1, sizeof *s);
    if (!s)
        return gqmm_fail(err, GQMM_E_NOMEM, 0, "no memory for a sampler");
    s->a = a;
    s->desc = *desc;
    s->state = desc->seed;
    if (s->desc.repeat_last == 0)
        s->desc.repeat_last = 64;
    if (desc->repeat_penalty > 0 && desc->repeat_penalty != 1) {
        s->recent = gqmm_alloc_raw(&a, (size_t)s->desc.repeat_last, sizeof *s->recent);
        if (!s->recent) {
            gqmm_sampler_destroy(s);
            return gqmm_fail(err, GQMM_E_NOMEM, 0, "no memory for the last %d tokens",
                             desc->repeat_last);
        }
    }
    *out = s;
    return GQMM_OK;
}

static void drop(gqmm_sampler *s)
{
    const size_t n = (size_t)s->capacity;
    gqmm_release(&s->a, s->candidates, n, sizeof *s->candidates);
    gqmm_release(&s->a, s->weights, n, sizeof *s->weights);
    gqmm_release(&s->a, s->seen, n, 1);
    s->candidates = NULL;
    s->weights = NULL;
    s->seen = NULL;
    s->capacity = 0;
}

void gqmm_sampler_destroy(gqmm_sampler *s)
{
    if (!s)
        return;
    const gqmm_allocator a = s->a;
    drop(s);
    gqmm_release(&a, s->recent, (size_t)s->desc.repeat_last, sizeof *s->recent);
    gqmm_release(&a, s, 1, sizeof *s);
}

static int32_t reserve(gqmm_sampler *s, int32_t n)
{
    if (n <= s->capacity)
        return 1;
    drop(s);
    s->capacity = n;
    s->candidates = gqmm_alloc_raw(&s->a, (size_t)n, sizeof *s->candidates);
    s->weights = gqmm_alloc_raw(&s->a, (size_t)n, sizeof *s->weights);
    s->seen = gqmm_alloc(&s->a, (size_t)n, 1);
    if (s->candidates && s->weights && s->seen)
        return 1;
    drop(s);
    return 0;
}

void gqmm_sampler_accept(gqmm_sampler *s, int32_t id)
{
    if (!s->recent)
        return;
    s->recent[s->next_recent] = id;
    s->next_recent = (s->next_recent + 1) % s->desc.repeat_last;
    if (s->n_recent < s->desc.repeat_last)
        s->n_recent++;
}

static void mark_recent(gqmm_sampler *s, int32_t n, uint8_t value)
{
    for (int32_t i = 0; i < s->n_recent; i++)
        if (s->recent[i] >= 0 && s->recent[i] < n)
            s->seen[s->recent[i]] = value;
}

/* Candidates in the order of their ids, penalties applied; returns how many. */
static int32_t collect(gqmm_sampler *s, const float *logits, int32_t n, const uint8_t *allowed)
{
    int32_t count = 0;
    mark_recent(s, n, 1);
    for (int32_t i = 0; i < n; i++) {
        float x = logits[i];
        if (isnan(x) || (allowed && !allowed[i]))
            continue;
        if (s->seen[i])
            x = x > 0 ? x / s->desc.repeat_penalty : x * s->desc.repeat_penalty;
        s->candidates[count++] = (gqmm_candidate){x, i};
    }
    mark_recent(s, n, 0);
    return count;
}

static int32_t better(gqmm_candidate a, gqmm_candidate b)
{
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

static void sift(gqmm_candidate *c, int32_t n, int32_t i)
{
    const gqmm_candidate moved = c[i];
    for (;;) {
        int32_t child = 2 * i + 1; /* n is at most 2^30: the array would not have been had else */
        if (child >= n)
            break;
        if (child + 1 < n && better(c[child + 1], c[child]))
            child++;
        if (!better(c[child], moved))
            break;
        c[i] = c[child];
        i = child;
    }
    c[i] = moved;
}

/* exp((logit - best) / T). The best has weight 1 even if it is infinite. */
static double weight_of(const gqmm_sampler *s, float logit, float best)
{
    return logit == best ? 1 : exp(((double)logit - (double)best) / (double)s->desc.temperature);
}

/* top-k and top-p: takes the best candidates off a heap until there are enough, so that only
 * those are sorted. On return candidates[*first] and after are left, worst first. */
static int32_t take_best(gqmm_sampler *s, int32_t n, float best)
{
    gqmm_candidate *c = s->candidates;
    const int32_t top_k = s->desc.top_k > 0 && s->desc.top_k < n ? s->desc.top_k : n;
    const int32_t has_p = s->desc.top_p > 0 && s->desc.top_p < 1;
    double total = 0, sum = 0;
    if (has_p && top_k == n)
        for (int32_t i = 0; i < n; i++)
            total += weight_of(s, c[i].logit, best);
    for (int32_t i = n / 2 - 1; i >= 0; i--)
        sift(c, n, i);
    int32_t first = n;
    while (n - first < top_k) {
        if (has_p && top_k == n && first < n && sum >= (double)s->desc.top_p * total)
            break;
        const gqmm_candidate top = c[0];
        c[0] = c[--first];
        sift(c, first, 0);
        c[first] = top;
        sum += weight_of(s, top.logit, best);
    }
    if (!has_p || top_k == n)
        return first;
    /* The probabilities of top-p are those among the k that are left. */
    double kept = 0;
    int32_t last = n;
    do
        kept += weight_of(s, c[--last].logit, best);
    while (last > first && kept < (double)s->desc.top_p * sum);
    return last;
}

static int32_t best_of(const gqmm_candidate *c, int32_t n)
{
    int32_t best = 0;
    for (int32_t i = 1; i < n; i++)
        if (better(c[i], c[best]))
            best = i;
    return best;
}

/* One of candidates[first, n) by its weight; those below min_p of the best have none. */
static int32_t draw(gqmm_sampler *s, int32_t first, int32_t n, float best)
{
    double total = 0;
    for (int32_t i = first; i < n; i++) {
        const double w = weight_of(s, s->candidates[i].logit, best);
        s->weights[i] = w >= (double)s->desc.min_p ? w : 0;
        total += s->weights[i];
    }
    double u = (double)(random_bits(s) >> 11) * 0x1p-53 * total;
    int32_t chosen = -1;
    for (int32_t i = first; i < n; i++) {
        if (s->weights[i] == 0)
            continue;
        chosen = i; /* if rounding leaves u beyond the last weight, the last it is */
        if (u < s->weights[i])
            break;
        u -= s->weights[i];
    }
    return s->candidates[chosen].id;
}

static int32_t greedy(const float *logits, int32_t n, const uint8_t *allowed)
{
    int32_t best = -1;
    for (int32_t i = 0; i < n; i++)
        if (!isnan(logits[i]) && (!allowed || allowed[i]) && (best < 0 || logits[i] > logits[best]))
            best = i;
    return best;
}

int32_t gqmm_sampler_next(gqmm_sampler *s, const float *logits, int32_t n, const uint8_t *allowed)
{
    if (!logits || n <= 0)
        return -1;
    if (s->desc.temperature == 0 && !s->recent)
        return greedy(logits, n, allowed);
    if (n > INT32_MAX / 2 || !reserve(s, n))
        return -1;
    const int32_t count = collect(s, logits, n, allowed);
    if (count == 0)
        return -1;
    const gqmm_candidate best = s->candidates[best_of(s->candidates, count)];
    if (s->desc.temperature == 0)
        return best.id;
    const int32_t sorts =
        (s->desc.top_k > 0 && s->desc.top_k < count) || (s->desc.top_p > 0 && s->desc.top_p < 1);
    const int32_t first = sorts ? take_best(s, count, best.logit) : 0;
    return draw(s, first, count, best.logit);
}
