/* SPDX-License-Identifier: MIT */
#include "model/arch.h"

#include "base/status.h"

#include <stdio.h>
#include <string.h>

static const gqmm_arch *const table[] = {
    &gqmm_arch_qwen3moe,
};

enum { N_ARCHS = (int32_t)(sizeof table / sizeof table[0]) };

const char *gqmm_architecture_at(int32_t i)
{
    return i >= 0 && i < N_ARCHS ? table[i]->name : NULL;
}

/* "a, b, c" */
static void list_known(char *text, size_t size)
{
    size_t used = 0;
    text[0] = 0;
    for (int32_t i = 0; i < N_ARCHS && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%s", i ? ", " : "", table[i]->name);
}

void gqmm_printable(char *out, size_t size, const char *text, size_t length)
{
    const size_t n = length < size - 1 ? length : size - 1;
    for (size_t i = 0; i < n; i++)
        out[i] = text[i] >= ' ' && text[i] <= '~' ? text[i] : '?';
    out[n] = 0;
}

gqmm_status gqmm_arch_find(const gqmm_file *file, const gqmm_arch **out, gqmm_error *err)
{
    const gqmm_meta *meta = gqmm_file_meta(file, "general.architecture");
    const char *text = NULL;
    size_t length = 0;
    if (!meta)
        return gqmm_fail(err, GQMM_E_FORMAT, 0,
                         "the file has no general.architecture, so it is no model of this kind");
    if (!gqmm_meta_string(file, meta, 0, &text, &length))
        return gqmm_fail(err, GQMM_E_FORMAT, 0, "general.architecture is no string");
    for (int32_t i = 0; i < N_ARCHS; i++) {
        if (strlen(table[i]->name) == length && memcmp(table[i]->name, text, length) == 0) {
            *out = table[i];
            return GQMM_OK;
        }
    }
    char name[64], known[120];
    gqmm_printable(name, sizeof name, text, length);
    list_known(known, sizeof known);
    return gqmm_fail(err, GQMM_E_UNSUPPORTED, 0, "architecture \"%s\" is unknown; known: %s", name,
                     known);
}
