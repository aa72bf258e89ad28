/* SPDX-License-Identifier: MIT */
/* ChatML, the turns that the Qwen models were trained on. No template language: one format. */
#include "gqmm-model.h"

#include <string.h>

typedef struct gqmm_chat_out {
    char *out;
    size_t size, length;
} gqmm_chat_out;

static void put(gqmm_chat_out *o, const char *text)
{
    const size_t n = strlen(text);
    if (o->length < o->size) {
        const size_t room = o->size - o->length;
        memcpy(o->out + o->length, text, n < room ? n : room);
    }
    o->length += n;
}

size_t gqmm_chat_format(const char *role, const char *text, char *out, size_t size)
{
    gqmm_chat_out o = {out, out ? size : 0, 0};
    put(&o, "<|im_start|>");
    put(&o, role ? role : "user");
    put(&o, "\n");
    if (text) {
        put(&o, text);
        put(&o, "<|im_end|>\n");
    }
    if (o.size > 0) /* cut or whole, what was written ends as a string */
        o.out[o.length < o.size ? o.length : o.size - 1] = '\0';
    return o.length;
}
