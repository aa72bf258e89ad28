/* SPDX-License-Identifier: MIT */
/* Memory of the device under test, each piece with a host image of what it should hold: canaries on
 * both sides, inputs that must stay as they are, outputs that start as NaN. */
#ifndef TESTS_DEVICE_MEMORY_H
#define TESTS_DEVICE_MEMORY_H

#include "harness.h"
#include "reference.h"

/* What is being looked at. */
static struct {
    gqmm_context *ctx;  /* of the device */
    const char *device; /* "cuda" */
    const char *path;   /* "sm_80", "sm_90"; NULL on a CPU, where the walk tests itself */
    bool cuda;
    int tight;    /* no canaries, so that a memory checker sees the ends, but planes of
                   * weights end at a multiple of this; 0: canaries */
    bool lost;    /* the device failed: nothing after it says anything */
    double worst; /* largest error, but for y's rounding, over its bound */
    int calls;
} on;

static gqmm_error fault;

/* A step of the test itself, which must succeed. */
static inline bool step(gqmm_status status)
{
    if (status == GQMM_OK)
        return true;
    on.lost = on.lost || status == GQMM_E_DEVICE;
    return fail("%s: %s", gqmm_status_name(status), fault.text);
}

/* Puts how a call looked in front of why it failed; false. */
__attribute__((format(printf, 1, 2))) static inline bool fail_in(const char *format, ...)
{
    char how[sizeof h.why], explain[160];
    va_list args;
    gqmm_explain(on.ctx, explain, sizeof explain);
    va_start(args, format);
    vsnprintf(how, sizeof how, format, args);
    va_end(args);
    snprintf(how + strlen(how), sizeof how - strlen(how), ": %.300s {%s}", h.why, explain);
    memcpy(h.why, how, sizeof how);
    return false;
}

/* ------------------------------------------------------------------ spans */

enum { GUARD = 512, CANARY = 0x7f, BLANK = 0xff };

typedef struct span {
    uint8_t *memory;       /* of the device, all of it */
    uint8_t *image, *seen; /* what was put there; what span_get() found */
    size_t front, bytes, total;
} span;

/* `shift` bytes past an address that is a multiple of 256. A canary is NaN, huge, or an id that is
 * out of range; contents start as it too. */
static inline bool span_make(span *s, int64_t bytes, int64_t shift)
{
    const size_t guard = on.tight ? 0 : GUARD;
    void *memory = NULL;
    *s = (span){.front = guard + (size_t)shift, .bytes = (size_t)bytes};
    s->total = s->front + s->bytes + guard + (guard == 0 && s->bytes == 0);
    s->image = must(malloc(s->total));
    s->seen = must(malloc(s->total));
    memset(s->image, CANARY, s->total);
    if (!step(gqmm_device_alloc(on.ctx, s->total, &memory, &fault)))
        return false;
    s->memory = memory;
    NEED((uintptr_t)memory % 256 == 0, "gqmm_device_alloc gave an address that is not aligned");
    return true;
}

static inline void span_free(span *s)
{
    if (s->memory)
        gqmm_device_free(on.ctx, s->memory, s->total);
    free(s->image);
    free(s->seen);
    *s = (span){0};
}

static inline uint8_t *span_at(const span *s)
{
    return s->memory ? s->memory + s->front : NULL;
}

static inline uint8_t *span_image(const span *s)
{
    return s->image + s->front;
}

static inline bool span_put(span *s)
{
    return !s->memory || step(gqmm_device_copy(on.ctx, s->memory, s->image, s->total, &fault));
}

/* Outputs start as NaN of every type. */
static inline bool span_blank(span *s)
{
    if (s->image)
        memset(span_image(s), BLANK, s->bytes);
    return span_put(s);
}

/* Not before the next gqmm_synchronize(). */
static inline bool span_get(span *s)
{
    return !s->memory || step(gqmm_device_copy(on.ctx, s->seen, s->memory, s->total, &fault));
}

static inline bool span_intact(const span *s, const char *name)
{
    for (size_t i = 0; s->memory && i < s->total; i++)
        NEED(s->seen[i] == s->image[i], "byte %lld of %s, which has %zu, was written",
             (long long)i - (long long)s->front, name, s->bytes);
    return true;
}

/* Only what lies around the contents. */
static inline bool span_fenced(const span *s, const char *name)
{
    for (size_t i = 0; s->memory && i < s->total; i++)
        if (i < s->front || i >= s->front + s->bytes)
            NEED(s->seen[i] == CANARY, "byte %lld, outside the %zu of %s, was written",
                 (long long)i - (long long)s->front, s->bytes, name);
    return true;
}

/* ------------------------------------------------------------------ weights */

/* A stack of reference.h on the device. */
typedef struct planes {
    span plane[3], amax;
    gqmm_weights *w;
} planes;

static inline void planes_free(planes *d)
{
    gqmm_weights_destroy(d->w);
    for (int i = 0; i < 3; i++)
        span_free(&d->plane[i]);
    span_free(&d->amax);
    *d = (planes){0};
}

static inline int64_t plane_size(const stack *s, int i)
{
    const int64_t dense = gqmm_format_row_bytes(&s->f->pub, i, s->cols), given = s->d.row_stride[i];
    const int64_t row = given < 0 ? -given : given ? given : dense;
    return s->e * (s->d.expert_stride[i] ? s->d.expert_stride[i] : s->rows * row);
}

/* crooked: every plane starts 1 to 15 bytes past what is aligned. */
static inline bool planes_make(planes *d, const stack *s, bool crooked)
{
    gqmm_weights_desc desc = s->d;
    *d = (planes){0};
    for (int i = 0; i < s->f->pub.n_planes; i++) {
        span *p = &d->plane[i];
        const int64_t size = plane_size(s, i), shift = crooked ? 1 + rnd_below(15) : 0;
        const int64_t more = on.tight ? (on.tight - (shift + size) % on.tight) % on.tight : 0;
        if (!span_make(p, size + more, shift))
            return false;
        memcpy(span_image(p), s->memory[i], (size_t)size);
        desc.plane[i] = span_at(p) + ((const uint8_t *)s->d.plane[i] - s->memory[i]);
        if (!span_put(p))
            return false;
    }
    if (s->amax) {
        if (!span_make(&d->amax, s->e * (int64_t)sizeof(float), crooked ? 4 : 0))
            return false;
        memcpy(span_image(&d->amax), s->amax, d->amax.bytes);
        desc.global_scale = (const float *)(const void *)span_at(&d->amax);
        if (!span_put(&d->amax))
            return false;
    }
    return step(gqmm_weights_create(on.ctx, &desc, &d->w, &fault));
}

static inline bool planes_get(planes *d)
{
    for (int i = 0; i < 3; i++)
        if (!span_get(&d->plane[i]))
            return false;
    return span_get(&d->amax);
}

static inline bool planes_intact(const planes *d)
{
    for (int i = 0; i < 3; i++)
        if (!span_intact(&d->plane[i], "a plane"))
            return false;
    return span_intact(&d->amax, "global_scale");
}

/* ------------------------------------------------------------------ numbers */

/* Half a unit of the last place of y, and what lies below its normal numbers. */
static inline double rounding_of(double v, int32_t type)
{
    return type_rounding(type) * fabs(v) * 1.0001 + type_step(type) * (type != GQMM_F32);
}

/* The errors of a case: excess over the rounding of y, as a share of the terms. Their mean square
 * tells a lost bit of the activations from the noise of fp32, which single bounds cannot. */
typedef struct tally {
    double squares, n;
} tally;

static inline void tally_add(tally *t, double error, double size)
{
    if (size > 0 && isfinite(error)) {
        t->squares += error * error / (size * size);
        t->n++;
    }
}

static inline double tally_rms(const tally *t)
{
    return t->n > 0 ? sqrt(t->squares / t->n) : 0;
}

/* |got - want| <= bound, then one rounding to `type`; NaN where the definition says NaN or
 * infinity, or where the terms come near the end of the type. *excess: what the rounding does not
 * explain. */
static inline bool within(double got, double want, double bound, double mag, int32_t type,
                          double *excess)
{
    const double limit = type == GQMM_F16 ? 65504.0 : (double)FLT_MAX;
    const double all = bound + rounding_of(fabs(want) + bound, type);
    *excess = NAN;
    if (!isfinite(want))
        return !isfinite(got);
    if (!isfinite(got))
        return fabs(want) + all >= limit || mag >= (double)FLT_MAX / 4;
    *excess = fmax(0, fabs(got - want) - rounding_of(want, type));
    if (bound > 0)
        on.worst = fmax(on.worst, *excess / bound);
    return fabs(got - want) <= all;
}

#endif
