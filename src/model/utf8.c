/* SPDX-License-Identifier: MIT */
/* UTF-8: what is well-formed, and the stream that turns tokens' bytes into whole characters. */
#include "model/utf8.h"

#include "gqmm-model.h"

#include <string.h>

int32_t gqmm_utf8_char(const uint8_t *s, size_t n)
{
    const uint8_t lead = s[0];
    if (lead < 0x80)
        return 1;
    if (lead < 0xc2 || lead > 0xf4)
        return 0;
    const int32_t need = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    /* The second byte alone keeps out overlong forms, surrogates and what passes U+10FFFF. */
    uint8_t low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    uint8_t high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    for (int32_t i = 1; i < need; i++) {
        if ((size_t)i >= n)
            return -1;
        if (s[i] < low || s[i] > high)
            return 0;
        low = 0x80;
        high = 0xbf;
    }
    return need;
}

size_t gqmm_utf8_valid(const uint8_t *s, size_t n)
{
    size_t i = 0;
    while (i < n) {
        uint64_t eight;
        if (n - i >= 8) {
            memcpy(&eight, s + i, 8);
            if (!(eight & 0x8080808080808080u)) {
                i += 8;
                continue;
            }
        }
        const int32_t step = gqmm_utf8_char(s + i, n - i);
        if (step <= 0)
            break;
        i += (size_t)step;
    }
    return i;
}

static size_t replacement(char *out)
{
    memcpy(out, "\xef\xbf\xbd", 3);
    return 3;
}

/* One more byte behind the held ones, which begin a character. A byte that cannot follow closes
 * them as one U+FFFD (the "maximal subpart" of Unicode 3.9) and is looked at again by itself. */
static size_t take(gqmm_utf8 *state, uint8_t byte, char *out)
{
    size_t written = 0;
    state->held[state->n_held++] = byte;
    int32_t got = gqmm_utf8_char(state->held, (size_t)state->n_held);
    if (got == 0 && state->n_held > 1) {
        written += replacement(out);
        state->held[0] = byte;
        state->n_held = 1;
        got = gqmm_utf8_char(state->held, 1);
    }
    if (got < 0)
        return written;
    if (got == 0) {
        written += replacement(out + written);
    } else {
        memcpy(out + written, state->held, (size_t)got);
        written += (size_t)got;
    }
    state->n_held = 0;
    return written;
}

size_t gqmm_utf8_feed(gqmm_utf8 *state, const char *bytes, size_t length, int32_t finish, char *out)
{
    size_t written = 0;
    if (state->n_held < 0 || state->n_held > 3)
        state->n_held = 0; /* no state of ours: memory that nobody zeroed */
    for (size_t i = 0; i < length; i++)
        written += take(state, (uint8_t)bytes[i], out + written);
    if (finish && state->n_held > 0) {
        written += replacement(out + written);
        state->n_held = 0;
    }
    return written;
}
