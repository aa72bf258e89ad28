/* SPDX-License-Identifier: MIT */
#include "output.h"

#include "cli.h"

#include <errno.h>
#include <gqmm-model.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

void say(const char *format, ...)
{
    va_list args;

    progress_clear();
    fprintf(stderr, "%sgqmm:%s ", bold(stderr), plain(stderr));
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
}

void say_error(const char *path, const gqmm_error *err)
{
    char *text = escaped(err->text, strlen(err->text));
    char *name = escaped(path ? path : "", path ? strlen(path) : 0);
    char where[32] = "";

    if (err->offset)
        snprintf(where, sizeof where, " (byte %" PRIu64 ")", err->offset);
    /* Reasons of the operating system already name the file. */
    if (*name && !strstr(text, name))
        say("%s: %s%s", name, text, where);
    else
        say("%s%s", text, where);
    free(name);
    free(text);
}

bool colours(FILE *stream)
{
    const char *no = getenv("NO_COLOR"), *term = getenv("TERM");

    return isatty(fileno(stream)) && !(no && *no) && term && strcmp(term, "dumb") != 0;
}

const char *bold(FILE *stream)
{
    return colours(stream) ? "\033[1m" : "";
}

const char *plain(FILE *stream)
{
    return colours(stream) ? "\033[0m" : "";
}

static bool progress_shown;

void progress(const char *format, ...)
{
    char line[256];
    va_list args;
    const char *term = getenv("TERM");

    if (!isatty(STDERR_FILENO) || !term || strcmp(term, "dumb") == 0)
        return;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    fprintf(stderr, "\r\033[K%.78s", line);
    fflush(stderr);
    progress_shown = true;
}

void progress_clear(void)
{
    if (progress_shown) {
        fputs("\r\033[K", stderr);
        fflush(stderr);
    }
    progress_shown = false;
}

static text32 scaled(double value, const char *const units[5])
{
    text32 t;
    int unit = 0;

    while (value >= 999.95 && unit < 4) {
        value /= 1000;
        unit++;
    }
    snprintf(t.s, sizeof t.s, unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
    return t;
}

text32 size_text(double bytes)
{
    static const char *const units[5] = {"B", "kB", "MB", "GB", "TB"};

    return scaled(bytes, units);
}

text32 count_text(double count)
{
    static const char *const units[5] = {"", "k", "M", "G", "T"};
    text32 t = scaled(count, units);
    size_t n = strlen(t.s);

    if (n && t.s[n - 1] == ' ')
        t.s[n - 1] = '\0';
    return t;
}

double seconds_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int64_t peak_memory(void)
{
    struct rusage use;

    return getrusage(RUSAGE_SELF, &use) == 0 ? (int64_t)use.ru_maxrss * 1024 : 0;
}

/* Bytes of the character at s and its code point; 0 if the bytes are no UTF-8. */
static size_t decode(const unsigned char *s, size_t left, uint32_t *code)
{
    const size_t n = *s < 0x80 ? 1 : *s >= 0xf0 ? 4 : *s >= 0xe0 ? 3 : *s >= 0xc2 ? 2 : 0;
    static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};

    if (!n || n > left || *s > 0xf4)
        return 0;
    *code = n == 1 ? *s : *s & (0x7fu >> n);
    for (size_t i = 1; i < n; i++) {
        if ((s[i] & 0xc0) != 0x80)
            return 0;
        *code = *code << 6 | (s[i] & 0x3f);
    }
    if (*code < least[n] || *code > 0x10ffff || (*code >= 0xd800 && *code < 0xe000))
        return 0;
    return n;
}

static bool hidden(uint32_t c)
{
    return c < 0x20 || (c >= 0x7f && c < 0xa0) || (c >= 0x200b && c <= 0x200f) ||
           (c >= 0x2028 && c <= 0x202e) || (c >= 0x2060 && c <= 0x206f) || c == 0xfeff;
}

char *escaped(const char *text, size_t length)
{
    char *out = NULL;
    size_t size = 0, n;
    FILE *f = open_memstream(&out, &size);

    if (!f) {
        say("out of memory");
        exit(CLI_FAILURE);
    }
    for (size_t i = 0; i < length; i += n) {
        const unsigned char *s = (const unsigned char *)text + i;
        uint32_t code = 0;

        n = decode(s, length - i, &code);
        if (n == 0) {
            fprintf(f, "\\x%02x", *s);
            n = 1;
        } else if (code == '\n') {
            fputs("\\n", f);
        } else if (code == '\t') {
            fputs("\\t", f);
        } else if (hidden(code)) {
            fprintf(f, code < 0x80 ? "\\x%02" PRIx32 : "\\u%04" PRIx32, code);
        } else {
            fwrite(s, 1, n, f);
        }
    }
    fclose(f);
    return out;
}

void *need_more(void *memory, size_t count, size_t size)
{
    void *grown = size && count > SIZE_MAX / size ? NULL : realloc(memory, count * size + 1);

    if (!grown) {
        say("out of memory: %zu items of %zu bytes cannot be had", count, size);
        exit(CLI_FAILURE);
    }
    return grown;
}

void *need(size_t count, size_t size)
{
    return need_more(NULL, count, size);
}

json_t *json_text(const char *text, size_t length)
{
    gqmm_utf8 state = {{0}, 0};
    char *clean = need(length + 3, 3);
    const size_t n = gqmm_utf8_feed(&state, text, length, 1, clean);
    json_t *value = json_stringn(clean, n);

    free(clean);
    return value;
}

json_t *json_seconds(double seconds)
{
    return json_real(round(seconds * 1e6) / 1e6);
}

json_t *json_ratio(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

int json_finish(json_t *object)
{
    const int bad = json_dumpf(object, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9));

    json_decref(object);
    fputc('\n', stdout);
    if (bad && !ferror(stdout)) {
        say("out of memory while writing JSON");
        return CLI_FAILURE;
    }
    return output_finish();
}

int output_finish(void)
{
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout))
        return CLI_OK;
    say("cannot write standard output: %s", strerror(errno ? errno : EIO));
    return CLI_FAILURE;
}
