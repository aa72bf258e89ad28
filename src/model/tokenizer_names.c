/* SPDX-License-Identifier: MIT */
/* A table from texts to token ids. */
#include "model/tokenizer.h"

#include "base/memory.h"
#include "base/status.h"

#include <string.h>

enum { LONGEST_CHAIN = 1024 }; /* see bpe.c */

static size_t place(const gqmm_names *names, uint64_t hash)
{
    hash = (hash ^ (hash >> 32)) * 0xd6e8feb86659fd93u; /* the low bits of the steps mix poorly */
    return (size_t)(hash ^ (hash >> 32)) & (names->n_slots - 1);
}

static uint64_t hash_on(uint64_t hash, gqmm_text text)
{
    for (size_t i = 0; i < text.length; i++)
        hash = gqmm_names_step(hash, (uint8_t)text.bytes[i]);
    return hash;
}

static int32_t is(gqmm_text name, gqmm_text head, gqmm_text tail)
{
    return name.length == head.length + tail.length &&
           (head.length == 0 || memcmp(name.bytes, head.bytes, head.length) == 0) &&
           (tail.length == 0 || memcmp(name.bytes + head.length, tail.bytes, tail.length) == 0);
}

gqmm_status gqmm_names_create(gqmm_names *names, const gqmm_allocator *a, const gqmm_text *items,
                              size_t n, gqmm_error *err)
{
    size_t n_slots = 16;
    while (n_slots / 2 < n)
        n_slots *= 2;
    names->items = items;
    names->slots = gqmm_alloc(a, n_slots, sizeof *names->slots);
    if (!names->slots)
        return gqmm_fail(err, GQMM_E_NOMEM, 0, "no memory for the names of %zu tokens", n);
    names->n_slots = n_slots;
    return GQMM_OK;
}

void gqmm_names_destroy(gqmm_names *names, const gqmm_allocator *a)
{
    gqmm_release(a, names->slots, names->n_slots, sizeof *names->slots);
    *names = (gqmm_names){NULL, NULL, 0};
}

/* Slot of the text, or the empty slot where it would be; n_slots if the chain is too long. */
static size_t look(const gqmm_names *names, gqmm_text head, gqmm_text tail, uint64_t hash)
{
    size_t at = place(names, hash);
    for (int32_t step = 0; step < LONGEST_CHAIN; step++, at = (at + 1) & (names->n_slots - 1)) {
        const int32_t slot = names->slots[at];
        if (slot == 0 || is(names->items[slot - 1], head, tail))
            return at;
    }
    return names->n_slots;
}

int32_t gqmm_names_add(gqmm_names *names, int32_t id)
{
    const gqmm_text none = {NULL, 0};
    const gqmm_text text = names->items[id];
    const size_t at = look(names, text, none, hash_on(GQMM_NAMES_SEED, text));
    if (at == names->n_slots)
        return -1;
    if (names->slots[at] == 0)
        names->slots[at] = id + 1;
    return names->slots[at] - 1;
}

static int32_t found(const gqmm_names *names, size_t at)
{
    return at == names->n_slots ? -1 : names->slots[at] - 1;
}

int32_t gqmm_names_find(const gqmm_names *names, gqmm_text head, gqmm_text tail)
{
    const uint64_t hash = hash_on(hash_on(GQMM_NAMES_SEED, head), tail);
    return found(names, look(names, head, tail, hash));
}

int32_t gqmm_names_find_hash(const gqmm_names *names, gqmm_text text, uint64_t hash)
{
    const gqmm_text none = {NULL, 0};
    return found(names, look(names, text, none, hash));
}
