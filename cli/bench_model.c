/* SPDX-License-Identifier: MIT */
/* Tokens per second of a model file: a prompt, and generation, each from an empty context. */
#include "bench.h"
#include "bench_random.h"
#include "engine.h"
#include "interrupt.h"
#include "output.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Where time goes, as the session counts it; what it does not count is "rest". */
static const struct {
    const char *name;
    size_t at;
} parts[] = {{"experts", offsetof(gqmm_session_times, experts)},
             {"projections", offsetof(gqmm_session_times, projections)},
             {"attention", offsetof(gqmm_session_times, attention)},
             {"norms", offsetof(gqmm_session_times, norms)},
             {"logits", offsetof(gqmm_session_times, logits)},
             {"embed", offsetof(gqmm_session_times, embed)}};
enum { N_PARTS = sizeof parts / sizeof *parts };

/* One test: n tokens in batches, or one after another. */
typedef struct speed {
    char name[24]; /* "pp512", "tg128" */
    int64_t n;
    bool one_by_one;
    double *rates;                  /* tokens per second, [repeat], sorted in the end */
    double seconds, spent[N_PARTS]; /* all runs together */
} speed;

/* The tokens do not matter for speed but for the routing, so they are random; nothing is sampled.
 */
static void make_tokens(const engine *e, int64_t n, int32_t *ids)
{
    uint64_t seed = 7;

    for (int64_t i = 0; i < n; i++)
        ids[i] = (int32_t)random_below(&seed, (uint32_t)e->info.n_vocab);
}

/* Seconds of one run from an empty context; negative after saying what failed. */
static double run_once(engine *e, const int32_t *ids, int64_t n, bool one_by_one)
{
    gqmm_error err = {0};
    gqmm_status st = gqmm_session_truncate(e->session, 0, &err);
    const double start = seconds_now();

    if (st == GQMM_OK && !one_by_one)
        st = gqmm_session_eval(e->session, ids, n, NULL, &err);
    for (int64_t i = 0; i < n && one_by_one && st == GQMM_OK && !interrupted(); i++)
        st = gqmm_session_eval(e->session, ids + i, 1, NULL, &err);
    if (st == GQMM_OK)
        return seconds_now() - start;
    say_error(e->path, &err);
    return -1;
}

/* Adds, or with sign -1 takes away, what the session has spent so far. */
static void count_parts(const engine *e, speed *s, double sign)
{
    gqmm_session_times times;

    GQMM_INIT(times);
    gqmm_session_get_times(e->session, &times);
    for (int i = 0; i < N_PARTS; i++) {
        double seconds;

        memcpy(&seconds, (const char *)&times + parts[i].at, sizeof seconds);
        s->spent[i] += sign * seconds;
    }
}

static int measure(engine *e, speed *s, const int32_t *ids, int64_t repeat)
{
    /* Warm-up: the pages of every expert that comes are read, the threads are awake. */
    if (run_once(e, ids, s->n, false) < 0 ||
        (s->one_by_one && run_once(e, ids, s->n > 4 ? 4 : s->n, true) < 0))
        return CLI_FAILURE;
    count_parts(e, s, -1);
    for (int64_t i = 0; i < repeat; i++) {
        progress("%s, run %" PRId64 " of %" PRId64, s->name, i + 1, repeat);
        const double seconds = run_once(e, ids, s->n, s->one_by_one);

        if (interrupted())
            return CLI_INTERRUPTED;
        if (seconds < 0)
            return CLI_FAILURE;
        s->rates[i] = (double)s->n / seconds;
        s->seconds += seconds;
    }
    count_parts(e, s, 1);
    progress_clear();
    bench_sort(s->rates, repeat);
    return CLI_OK;
}

static double spread_of(const speed *s, int64_t repeat)
{
    const double middle = bench_quantile(s->rates, repeat, 0.5);

    return (bench_quantile(s->rates, repeat, 0.9) - bench_quantile(s->rates, repeat, 0.1)) / middle;
}

/* Share of the time that no part accounts for. */
static double rest_of(const speed *s)
{
    double rest = s->seconds;

    for (int i = 0; i < N_PARTS; i++)
        rest -= s->spent[i];
    return rest / s->seconds;
}

static json_t *parts_json(const speed *s)
{
    json_t *o = json_object();

    for (int i = 0; i < N_PARTS; i++)
        json_object_set_new(o, parts[i].name, json_real(s->spent[i] / s->seconds));
    json_object_set_new(o, "rest", json_real(rest_of(s)));
    return o;
}

static void print_parts(const speed *s)
{
    printf("          ");
    for (int i = 0; i < N_PARTS; i++)
        printf(" %s %.1f%%%s", parts[i].name, 100 * s->spent[i] / s->seconds,
               i + 1 < N_PARTS ? "," : "");
    printf(", rest %.1f%%\n", 100 * rest_of(s));
}

static void print_json(const engine *e, const speed *s, const bench_machine *m, int64_t repeat)
{
    json_t *o = json_object(), *machine = json_object();

    json_object_set_new(o, "op", json_string("model"));
    json_object_set_new(o, "test", json_string(s->name));
    json_object_set_new(o, "tokens", json_integer(s->n));
    json_object_set_new(o, "tokens_per_second", json_real(bench_quantile(s->rates, repeat, 0.5)));
    json_object_set_new(o, "tokens_per_second_max", json_real(s->rates[repeat - 1]));
    json_object_set_new(o, "spread", json_real(spread_of(s, repeat)));
    json_object_set_new(o, "repeats", json_integer(repeat));
    if (!engine_device(e))
        json_object_set_new(o, "parts", parts_json(s));
    json_object_set_new(o, "batch", json_integer(e->machine.batch));
    engine_json(e, o);
    json_object_set_new(machine, "cpu", json_text(m->cpu, strlen(m->cpu)));
    json_object_set_new(machine, "cache_bytes", json_integer(m->cache_bytes));
    json_object_set_new(machine, "version", json_string(gqmm_version()));
    json_object_set_new(machine, "commit", json_string(GQMM_COMMIT));
    json_object_set_new(o, "machine", machine);
    json_dumpf(o, stdout, JSON_COMPACT | JSON_REAL_PRECISION(7));
    json_decref(o);
    putchar('\n');
    fflush(stdout);
}

static void print_head(const engine *e, const bench_machine *m)
{
    char *kernels = engine_kernels(e);

    printf("gqmm %s, %s, %s\n", gqmm_version(), m->cpu, engine_place(e).text);
    printf("%s, %s weights in %s, %d of %d experts per token\n", e->info.architecture,
           count_text((double)e->info.n_parameters).s, size_text((double)e->info.weight_bytes).s,
           e->info.n_experts_used, e->info.n_experts);
    printf("%s, %s activations\n\n", kernels, engine_precision(e));
    printf("%s%-10s %12s %12s %7s %8s%s\n", bold(stdout), "test", "tokens/s", "best", "spread",
           "repeats", plain(stdout));
    free(kernels);
}

static void print_text(const engine *e, const speed *s, int64_t repeat)
{
    printf("%-10s %12.2f %12.2f %6.1f%% %8" PRId64 "\n", s->name,
           bench_quantile(s->rates, repeat, 0.5), s->rates[repeat - 1], 100 * spread_of(s, repeat),
           repeat);
    if (!engine_device(e))
        print_parts(s);
}

static int measure_both(engine *e, const bench_settings *set, speed tests[2])
{
    const int64_t most = set->prompt > set->gen ? set->prompt : set->gen;
    int32_t *ids = need((size_t)most, sizeof *ids);
    bench_machine machine;
    int code = CLI_OK;

    bench_machine_read(&machine, false);
    make_tokens(e, most, ids);
    if (!set->json)
        print_head(e, &machine);
    for (int i = 0; i < 2 && code == CLI_OK; i++) {
        speed *s = &tests[i];

        if (s->n == 0 || (code = measure(e, s, ids, set->repeat)) != CLI_OK)
            continue;
        if (set->json)
            print_json(e, s, &machine, set->repeat);
        else
            print_text(e, s, set->repeat);
    }
    progress_clear();
    free(ids);
    const int written = output_finish();
    return code != CLI_OK ? code : written;
}

int bench_model(const bench_settings *set, const char *path)
{
    const int64_t most = set->prompt > set->gen ? set->prompt : set->gen;
    speed tests[2] = {{.n = set->prompt}, {.n = set->gen, .one_by_one = true}};
    machine_settings machine = set->machine;
    engine e = {0};
    int code;

    machine.device = set->device;
    if (most == 0) {
        say("--prompt 0 and --gen 0 leave nothing to measure");
        return CLI_USAGE;
    }
    snprintf(tests[0].name, sizeof tests[0].name, "pp%" PRId64, set->prompt);
    snprintf(tests[1].name, sizeof tests[1].name, "tg%" PRId64, set->gen);
    for (int i = 0; i < 2; i++)
        tests[i].rates = need((size_t)set->repeat, sizeof(double));
    if ((code = engine_open(&e, path, &machine)) == CLI_OK) {
        interrupt_watch(false);
        if (most > e.info.context_length) {
            say("this model knows %d tokens, fewer than %" PRId64, e.info.context_length, most);
            code = CLI_FAILURE;
        } else if ((code = engine_session(&e, most)) == CLI_OK) {
            code = measure_both(&e, set, tests);
        }
    }
    engine_close(&e);
    for (int i = 0; i < 2; i++)
        free(tests[i].rates);
    return code;
}
