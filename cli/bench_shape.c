/* SPDX-License-Identifier: MIT */
#include "bench_shape.h"

#include "cli.h"
#include "output.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const bench_shape shapes[] = {
#define SHAPE(name, e, n, k, top, heads, kv, dim, layers, vocab) \
    {name, e, n, k, top, heads, kv, dim, layers, vocab},
#include "../bench/shapes.def"
#undef SHAPE
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes, LARGEST = 1 << 20 };

/* "E,N,K,top"; attention of heads of 64, a quarter of them with keys of their own. */
static bool from_numbers(const char *text, bench_shape *shape)
{
    int64_t v[4];
    char *end;

    for (int i = 0; i < 4; i++) {
        v[i] = strtoll(text, &end, 10);
        if (end == text || *end != (i < 3 ? ',' : '\0') || v[i] < 1 || v[i] > LARGEST)
            return false;
        text = end + 1;
    }
    const int64_t heads = v[2] >= 64 ? v[2] / 64 : 1;
    *shape = (bench_shape){"custom", v[0], v[1], v[2], v[3], heads, heads, 64, 4, 1024};
    if (heads % 4 == 0)
        shape->n_kv_heads = heads / 4;
    return v[3] <= v[0];
}

bool bench_shape_find(const char *text, bench_shape *shape)
{
    const char *near = NULL;
    char names[400] = "";

    for (int i = 0; i < N_SHAPES; i++) {
        if (strcmp(text, shapes[i].name) == 0) {
            *shape = shapes[i];
            return true;
        }
        if (word_near(text, shapes[i].name) &&
            (!near || word_distance(text, shapes[i].name) < word_distance(text, near)))
            near = shapes[i].name;
        snprintf(names + strlen(names), sizeof names - strlen(names), "%s%s", i ? ", " : "",
                 shapes[i].name);
    }
    if (from_numbers(text, shape))
        return true;
    if (near)
        say("there is no shape '%s'; did you mean '%s'?", text, near);
    else
        say("--shape '%s' is neither E,N,K,top (top at most E) nor one of %s", text, names);
    return false;
}
