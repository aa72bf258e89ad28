/* SPDX-License-Identifier: MIT */
#include "input.h"

#include "output.h"

#include <errno.h>
#include <gqmm-model.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

char *input_read(const char *path, size_t *length)
{
    const bool standard = strcmp(path, "-") == 0;
    FILE *f = standard ? stdin : fopen(path, "rb");
    char *text = NULL;
    size_t n = 0, room = 0, got = 0;

    if (!f) {
        say("cannot open %s: %s", path, strerror(errno));
        return NULL;
    }
    do {
        n += got;
        if (n + 1 >= room) {
            room = room ? 2 * room : 65536;
            text = need_more(text, room, 1);
        }
    } while ((got = fread(text + n, 1, room - n - 1, f)) > 0);
    if (ferror(f)) {
        say("cannot read %s: %s", standard ? "standard input" : path, strerror(errno));
        free(text);
        text = NULL;
    } else {
        text[n] = '\0';
        *length = n;
    }
    if (!standard)
        fclose(f);
    return text;
}

bool input_is_utf8(const char *text, size_t length, size_t *at)
{
    gqmm_utf8 state = {{0}, 0};
    char out[64];

    /* Valid text comes out as it went in; a byte at a time finds the first that does not. */
    size_t in = 0, sure = 0;
    for (; in < length; in++) {
        const size_t n = gqmm_utf8_feed(&state, text + in, 1, 0, out);

        if (n && (sure + n > in + 1 || memcmp(out, text + sure, n) != 0))
            break;
        sure += n;
    }
    if (in == length && state.n_held == 0)
        return true;
    *at = sure;
    return false;
}
