/* SPDX-License-Identifier: MIT */
#include "generate.h"

#include "interrupt.h"
#include "output.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

bool evaluate(engine *e, const tokens *t, double *seconds)
{
    const double start = seconds_now();
    gqmm_error err = {0};
    bool good = true;

    for (int64_t i = 0; i < t->n && good; i += e->machine.batch) {
        const int64_t left = t->n - i;
        const int64_t n = left < e->machine.batch ? left : e->machine.batch;

        if (interrupted()) {
            good = false;
        } else if (gqmm_session_eval(e->session, t->ids + i, n, NULL, &err) != GQMM_OK) {
            say_error(e->path, &err);
            good = false;
        }
        if (t->n > e->machine.batch)
            progress("prompt %" PRId64 " of %" PRId64 " tokens", i + n, t->n);
    }
    progress_clear();
    *seconds += seconds_now() - start;
    return good;
}

/* A terminal obeys control characters, and what a model writes is not to be trusted with them. */
void show(const char *text, size_t n, FILE *stream)
{
    const bool terminal = isatty(fileno(stream));

    for (size_t i = 0; i < n; i++) {
        const unsigned char c = (unsigned char)text[i];
        const bool c1 = c == 0xc2 && i + 1 < n && (unsigned char)text[i + 1] < 0xa0;

        if (terminal && ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7f || c1)) {
            fputs("\xef\xbf\xbd", stream);
            i += c1;
        } else {
            fputc(c, stream);
        }
    }
    fflush(stream);
}

/* Appends bytes to the text and the stream, as whole characters. */
static void emit(generation *g, gqmm_utf8 *state, const char *bytes, size_t n, int32_t finish,
                 FILE *stream)
{
    g->text = need_more(g->text, g->length + 3 * (n + 3), 1);
    const size_t got = gqmm_utf8_feed(state, bytes, n, finish, g->text + g->length);
    if (stream && got)
        show(g->text + g->length, got, stream);
    g->length += got;
}

/* One token: chosen, shown, appended to the session. STOP_LIMIT here means "go on". */
static stop_reason step(engine *e, gqmm_sampler *sampler, int64_t limit, int64_t context,
                        FILE *stream, gqmm_utf8 *state, generation *g)
{
    gqmm_error err = {0};
    size_t n = 0;

    if (interrupted())
        return STOP_INTERRUPT;
    const int32_t id =
        gqmm_sampler_next(sampler, gqmm_session_logits(e->session), e->info.n_vocab, e->allowed);
    if (id < 0) {
        say("%s: no token can be chosen, the logits are not numbers", e->path);
        return STOP_ERROR;
    }
    if (gqmm_tokenizer_is_end(e->tok, id))
        return STOP_END;
    gqmm_sampler_accept(sampler, id);
    tokens_add(&g->out, &id, 1);
    const char *bytes = gqmm_tokenizer_bytes(e->tok, id, &n);
    if (bytes && !gqmm_tokenizer_is_control(e->tok, id))
        emit(g, state, bytes, n, 0, stream);
    if (g->out.n == limit)
        return STOP_LIMIT;
    if (gqmm_session_length(e->session) >= context)
        return STOP_CONTEXT;
    if (gqmm_session_eval(e->session, &id, 1, NULL, &err) != GQMM_OK) {
        say_error(e->path, &err);
        return STOP_ERROR;
    }
    g->known++;
    return STOP_LIMIT;
}

void generate(engine *e, gqmm_sampler *sampler, int64_t limit, int64_t context, FILE *stream,
              generation *g)
{
    const double start = seconds_now();
    gqmm_utf8 state = {{0}, 0};

    *g = (generation){.stop = STOP_LIMIT};
    while (g->stop == STOP_LIMIT && g->out.n != limit)
        g->stop = step(e, sampler, limit, context, stream, &state, g);
    emit(g, &state, NULL, 0, 1, stream);
    g->seconds = seconds_now() - start;
}

void generation_free(generation *g)
{
    tokens_free(&g->out);
    free(g->text);
    *g = (generation){0};
}

const char *stop_words(stop_reason stop)
{
    switch (stop) {
    case STOP_END:
        return "end of text";
    case STOP_LIMIT:
        return "limit";
    case STOP_CONTEXT:
        return "context full";
    case STOP_INTERRUPT:
        return "interrupted";
    case STOP_ERROR:
        break;
    }
    return "error";
}

double rate(int64_t n, double seconds)
{
    return n > 0 && seconds > 0 ? (double)n / seconds : (double)NAN;
}

void print_rate(const char *what, int64_t n, int64_t computed, double seconds, const char *note)
{
    fprintf(stderr, "%-10s %6" PRId64 " token%s %8.2f s", what, n, n == 1 ? " " : "s", seconds);
    if (computed > 0 && seconds > 0)
        fprintf(stderr, " %9.1f tokens/s", rate(computed, seconds));
    fprintf(stderr, "%s%s%s\n", note ? "  (" : "", note ? note : "", note ? ")" : "");
}
