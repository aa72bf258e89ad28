/* SPDX-License-Identifier: MIT */
/* The bits of a result do not depend on who computes it: pools of any size, a caller's parallel_for
 * in any order, threads that enter together, contexts side by side, any split of the tokens. Built
 * with -fsanitize=thread as well. */
#include "thread_items.h"

#include <pthread.h>

/* All calls on a context, into `out`, against the reference. NULL or what differs. */
static const char *differs(gqmm_context *ctx, uint8_t *out)
{
    for (int i = 0; i < n_items; i++) {
        const item a = aimed(&items[i], out);
        memset(out, 0xcd, most_bytes);
        if (run(ctx, &a) != GQMM_OK || memcmp(out, a.want, item_bytes(&a)) != 0)
            return a.name;
    }
    return NULL;
}

/* ------------------------------------------------------------------ pools */

static gqmm_context *context(int n_threads)
{
    gqmm_context_desc d;
    gqmm_context *ctx = NULL;
    GQMM_INIT(d);
    d.n_threads = n_threads;
    gqmm_context_create(&d, &ctx, NULL);
    return must(ctx);
}

static bool pools(void)
{
    static const int sizes[] = {1, 2, 3, 7};
    uint8_t *out = make((int64_t)most_bytes, 1);
    const char *wrong = NULL;
    int i = 0;
    for (; !wrong && i < COUNT(sizes); i++) {
        gqmm_context *ctx = context(sizes[i]);
        for (int t = 0; !wrong && t < (h.quick ? 1 : 5); t++)
            wrong = differs(ctx, out);
        gqmm_context_destroy(ctx);
    }
    free(out);
    return wrong ? fail("%s has other bits with %d threads", wrong, sizes[i - 1]) : true;
}

/* Small jobs with pauses, so that the pool falls asleep and wakes. */
static bool wake_and_sleep(void)
{
    gqmm_context *ctx = context(3);
    const item *it = &items[n_items - 4]; /* a quantisation of 37 rows */
    uint8_t *out = make((int64_t)most_bytes, 1);
    bool ok = true;
    for (int i = 0; ok && i < 200; i++) {
        const item a = aimed(it, out);
        memset(out, 0xcd, most_bytes);
        ok = run(ctx, &a) == GQMM_OK && memcmp(out, a.want, item_bytes(&a)) == 0;
        if (i % 3)
            usleep((useconds_t)rnd_below(i % 10 == 0 ? 3000 : 300));
    }
    gqmm_context_destroy(ctx);
    for (int i = 0; i < 20; i++)
        gqmm_context_destroy(context(1 + i % 5)); /* stopped before, while or after they start */
    free(out);
    return ok ? true : fail("%s has other bits after a pause", it->name);
}

static void count_task(void *arg, int32_t i)
{
    __atomic_fetch_add(&((int32_t *)arg)[i], 1, __ATOMIC_RELAXED);
}

/* Jobs of few tasks, one right behind the other: a thread that is late for one must not reach into
 * the next. */
static bool back_to_back(void)
{
    gqmm_context *ctx = context(7);
    bool ok = true;
    for (int i = 0; ok && i < (h.quick ? 300 : 3000); i++) {
        int32_t counts[8] = {0};
        const int n = 1 + i % COUNT(counts);
        gqmm_parallel_for(ctx, n, count_task, counts);
        for (int j = 0; j < COUNT(counts); j++)
            if (counts[j] != (j < n))
                ok = fail("job %d of %d tasks: task %d ran %d times", i, n, j, counts[j]);
    }
    gqmm_context_destroy(ctx);
    return ok;
}

typedef struct side {
    pthread_t thread;
    gqmm_context *ctx;
    const char *wrong;
} side;

static void *run_side(void *arg)
{
    side *s = arg;
    uint8_t *out = make((int64_t)most_bytes, 1);
    for (int i = 0; !s->wrong && i < (h.quick ? 2 : 8); i++)
        s->wrong = differs(s->ctx, out);
    free(out);
    return NULL;
}

static bool two_contexts(void)
{
    side sides[2] = {{.ctx = context(2)}, {.ctx = context(3)}};
    for (int i = 0; i < 2; i++)
        pthread_create(&sides[i].thread, NULL, run_side, &sides[i]);
    for (int i = 0; i < 2; i++) {
        pthread_join(sides[i].thread, NULL);
        gqmm_context_destroy(sides[i].ctx);
    }
    for (int i = 0; i < 2; i++)
        NEED(!sides[i].wrong, "%s has other bits beside another context", sides[i].wrong);
    return true;
}

/* ------------------------------------------------------------------ a caller's parallel_for */

typedef void (*task_fn)(void *arg, int32_t i);

static void in_order(void *user, int32_t n, task_fn task, void *arg)
{
    (void)user;
    for (int32_t i = 0; i < n; i++)
        task(arg, i);
}

static void reversed(void *user, int32_t n, task_fn task, void *arg)
{
    (void)user;
    while (n-- > 0)
        task(arg, n);
}

typedef struct one_task {
    pthread_t thread;
    task_fn task;
    void *arg;
    int32_t i;
} one_task;

static void *run_task(void *p)
{
    const one_task *t = p;
    t->task(t->arg, t->i);
    return NULL;
}

static void on_threads(void *user, int32_t n, task_fn task, void *arg)
{
    one_task tasks[16];
    (void)user;
    for (int32_t i = 0; i < n; i++) {
        tasks[i] = (one_task){.task = task, .arg = arg, .i = i};
        pthread_create(&tasks[i].thread, NULL, run_task, &tasks[i]);
    }
    for (int32_t i = 0; i < n; i++)
        pthread_join(tasks[i].thread, NULL);
}

static bool parallel_for(void)
{
    static void (*const ways[])(void *, int32_t, task_fn, void *) = {in_order, reversed, on_threads,
                                                                     NULL};
    uint8_t *out = make((int64_t)most_bytes, 1);
    for (int i = 0; i < COUNT(ways); i++) {
        gqmm_context_desc d;
        gqmm_context *ctx;
        int32_t counts[100] = {0};
        GQMM_INIT(d);
        d.n_threads = 4;
        d.parallel_for = ways[i];
        NEED(gqmm_context_create(&d, &ctx, NULL) == GQMM_OK, "no context");
        const char *wrong = differs(ctx, out);
        gqmm_parallel_for(ctx, 100, count_task, counts);
        gqmm_parallel_for(ctx, 0, count_task, NULL);
        gqmm_context_destroy(ctx);
        NEED(!wrong, "%s has other bits with parallel_for number %d", wrong, i);
        for (int j = 0; j < 100; j++)
            NEED(counts[j] == 1, "task %d ran %d times", j, counts[j]);
    }
    free(out);
    return true;
}

/* ------------------------------------------------------------------ threads that enter together */

typedef struct enterer {
    pthread_t thread;
    gqmm_context *ctx;
    const item *aims;
    int n_aims;
    int32_t ith, nth;
    gqmm_status status[64];
    gqmm_error err;
} enterer;

static void *run_enterer(void *arg)
{
    enterer *e = arg;
    for (int i = 0; i < e->n_aims; i++) /* back to back, nothing else in between */
        e->status[i] = gqmm_enter(e->ctx, e->aims[i].op, &e->aims[i].d, e->ith, e->nth, &e->err);
    return NULL;
}

static void enter_all(enterer *e, int nth, gqmm_context *ctx, const item *aims, int n)
{
    for (int i = 0; i < nth; i++) {
        e[i] = (enterer){.ctx = ctx, .aims = aims, .n_aims = n, .ith = i, .nth = nth};
        pthread_create(&e[i].thread, NULL, run_enterer, &e[i]);
    }
    for (int i = 0; i < nth; i++)
        pthread_join(e[i].thread, NULL);
}

static bool entered(void)
{
    static const int nths[] = {1, 2, 3, 5};
    gqmm_context *ctx = context(2);
    item aims[COUNT(items) + 1];
    enterer e[5];
    bool ok = true;
    for (int t = 0; ok && t < COUNT(nths); t++) {
        for (int i = 0; i < n_items; i++)
            aims[i] = aimed(&items[i], make((int64_t)item_bytes(&items[i]), 1));
        aims[n_items] = aims[0]; /* and one that fails, on all alike, after which life goes on */
        aims[n_items].d.gather.n_pairs = 1000;
        const item last = aims[n_items];
        aims[n_items] = aims[n_items - 1];
        aims[n_items - 1] = last;
        enter_all(e, nths[t], ctx, aims, n_items + 1);
        for (int i = 0; i <= n_items; i++)
            for (int j = 0; ok && j < nths[t]; j++) {
                const gqmm_status want = i == n_items - 1 ? GQMM_E_INDEX : GQMM_OK;
                if (e[j].status[i] != want || !strstr(e[j].err.text, "1000 pairs"))
                    ok = fail("thread %d of %d: %s returned %d, expected %d (%s)", j, nths[t],
                              aims[i].name, e[j].status[i], want, e[j].err.text);
            }
        for (int i = 0; i <= n_items; i++) {
            if (i == n_items - 1)
                continue;
            uint8_t *out = aims[i].op == GQMM_OP_QUANTIZE     ? aims[i].d.quantize.plane[0]
                           : aims[i].op == GQMM_OP_REPACK     ? aims[i].d.repack.plane[0]
                           : aims[i].op == GQMM_OP_GATHER_QMM ? aims[i].d.gather.y
                           : aims[i].op == GQMM_OP_QMM        ? aims[i].d.dense.y
                           : aims[i].op == GQMM_OP_MOE        ? aims[i].d.moe.y
                           : aims[i].op == GQMM_OP_EMBED      ? aims[i].d.embed.y
                                                              : aims[i].d.dequantize.y;
            if (ok && memcmp(out, aims[i].want, item_bytes(&aims[i])) != 0)
                ok = fail("%s has other bits when %d threads enter", aims[i].name, nths[t]);
            free(out);
        }
    }
    gqmm_context_destroy(ctx);
    return ok;
}

/* ------------------------------------------------------------------ splits of the tokens */

/* Tokens [t0, t0 + n) of a call alone. */
static item slice(const item *it, uint8_t *out, int t0, int n)
{
    item a = aimed(it, out);
    if (a.op == GQMM_OP_MOE) {
        const size_t size = gqmm_type_size(a.d.moe.y_type);
        a.d.moe.n_tokens = n;
        a.d.moe.x = x + t0 * 300;
        a.d.moe.y = out + (size_t)(t0 * D) * size;
        a.d.moe.ids += t0 * S;
        a.d.moe.weights += t0 * S;
    } else {
        gqmm_gather *g = &a.d.gather;
        const int64_t row = g->transpose   ? g->w == gate.w ? gate.rows : 0
                            : g->w == up.w ? up.cols
                                           : down.cols;
        g->n_pairs = g->n_x = n * S;
        g->x = x + t0 * S * 64;
        g->y = out + (size_t)(t0 * S * row) * gqmm_type_size(g->y_type);
        g->rhs = ids + t0 * S;
    }
    return a;
}

static bool splits(void)
{
    static const int cuts[][9] = {{1, 36}, {5, 5, 5, 5, 5, 5, 5, 2}, {18, 19}, {36, 1}};
    uint8_t *out = make((int64_t)most_bytes, 1);
    bool ok = true;
    for (int i = 0; i < n_items; i++)
        for (int c = 0;
             c < COUNT(cuts) && (items[i].op == GQMM_OP_MOE || items[i].op == GQMM_OP_GATHER_QMM);
             c++) {
            memset(out, 0xcd, most_bytes);
            for (int j = 0, t = 0; ok && cuts[c][j]; t += cuts[c][j++]) {
                const item a = slice(&items[i], out, t, cuts[c][j]);
                ok = run(one, &a) == GQMM_OK;
            }
            if (!ok || memcmp(out, items[i].want, item_bytes(&items[i])) != 0)
                ok = fail("%s has other bits when 37 tokens come as %d + ...", items[i].name,
                          cuts[c][0]);
        }
    free(out);
    return ok;
}

int main(int argc, char **argv)
{
    static const check_row rows[] = {{"pools", pools},
                                     {"wake_and_sleep", wake_and_sleep},
                                     {"back_to_back", back_to_back},
                                     {"two_contexts", two_contexts},
                                     {"parallel_for", parallel_for},
                                     {"enter", entered},
                                     {"splits", splits}};
    start("check_threads", argc, argv);
    one = context(1);
    make_items();
    run_rows(rows, COUNT(rows));
    stack *all[] = {&gate, &up, &down, &router, &s_gate, &s_down, &s_scale, &wide};
    for (int i = 0; i < COUNT(all); i++)
        stack_free(all[i]);
    for (int i = 0; i < n_items; i++)
        free(items[i].want);
    gqmm_context_destroy(one);
    return finish();
}
