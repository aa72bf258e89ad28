/* SPDX-License-Identifier: MIT */
/* gqmm chat: a conversation. The cache only grows; when the context is full, the oldest turns are
 * forgotten and what remains is computed again. */
#include "cli.h"
#include "engine.h"
#include "generate.h"
#include "interrupt.h"
#include "output.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct chat_settings {
    machine_settings machine;
    sampling_settings sampling;
    const char *system;
    int64_t limit;
} chat_settings;

static const chat_settings chat_defaults = {
    .machine = MACHINE_DEFAULTS,
    .sampling = SAMPLING_DEFAULTS,
    .limit = -1,
};

static const option chat_options[] = {
    {"system", 0, OPT_TEXT, offsetof(chat_settings, system), 0, 0, "TEXT",
     "a system message that stays at the beginning"},
    {"tokens", 'n', OPT_INT, offsetof(chat_settings, limit), -1, 16777216, "N",
     "most tokens of one answer; -1: until it ends"},
    SAMPLING_OPTIONS(chat_settings),
    MACHINE_OPTIONS(chat_settings),
    {NULL, 0, OPT_FLAG, 0, 0, 0, NULL, NULL},
};

/* The default context: long models would ask for gigabytes of cache. */
enum { CHAT_CONTEXT = 8192 };

typedef struct conversation {
    engine e;
    gqmm_sampler *sampler;
    int64_t context, limit;
    tokens all;      /* everything said, the system message first */
    int64_t *turns;  /* where each turn begins in `all` */
    int64_t n_turns; /* the last one is being said */
    int64_t n_system;
    int64_t said, answered; /* tokens computed: prompts, answers */
    double said_seconds, answer_seconds;
} conversation;

/* Room that an answer should find, or old turns go. */
static int64_t reserve(const conversation *c)
{
    return c->context / 4 < 256 ? c->context / 4 : 256;
}

/* Forgets the oldest turn: the session keeps the system message. */
static bool forget_oldest(conversation *c)
{
    gqmm_error err = {0};
    const int64_t gone = c->turns[1] - c->turns[0];

    memmove(c->all.ids + c->turns[0], c->all.ids + c->turns[1],
            (size_t)(c->all.n - c->turns[1]) * sizeof *c->all.ids);
    c->all.n -= gone;
    for (int64_t i = 1; i < c->n_turns; i++)
        c->turns[i - 1] = c->turns[i] - gone;
    c->n_turns--;
    if (gqmm_session_length(c->e.session) <= c->n_system ||
        gqmm_session_truncate(c->e.session, c->n_system, &err) == GQMM_OK)
        return true;
    say_error(c->e.path, &err);
    return false;
}

/* Takes back the turn that does not fit. */
static void drop_last(conversation *c)
{
    c->n_turns--;
    c->all.n = c->turns[c->n_turns];
}

/* Makes room for the new turn and its answer; false when the turn is too long or a call failed. */
static bool make_room(conversation *c)
{
    const int64_t alone = c->n_system + c->all.n - c->turns[c->n_turns - 1];
    int64_t forgotten = 0;

    if (alone >= c->context) {
        say("this message makes %" PRId64 " tokens, the context holds %" PRId64
            "; it is left out, and --ctx makes more room",
            alone, c->context);
        drop_last(c);
        return false;
    }
    while (c->n_turns > 1 && c->all.n + reserve(c) > c->context) {
        if (!forget_oldest(c))
            return false;
        forgotten++;
    }
    if (forgotten)
        say("the context of %" PRId64 " tokens is full: the oldest %s forgotten", c->context,
            forgotten == 1 ? "turn is" : "turns are");
    return true;
}

/* One turn: the user's line in, the answer streamed. False ends the conversation. */
static bool turn(conversation *c, const char *line, size_t length)
{
    engine *e = &c->e;
    const int32_t end = gqmm_tokenizer_find(e->tok, "<|im_end|>", 10);
    tokens todo = {0};
    generation g;

    c->turns = need_more(c->turns, (size_t)c->n_turns + 1, sizeof *c->turns);
    c->turns[c->n_turns++] = c->all.n;
    if (!tokens_add_message(&c->all, e, "user", line, length) || !tokens_add_answer(&c->all, e))
        return false;
    if (!make_room(c))
        return true;

    const int64_t known = gqmm_session_length(e->session);
    tokens_add(&todo, c->all.ids + known, c->all.n - known);
    for (int64_t i = 0; i < todo.n; i++)
        gqmm_sampler_accept(c->sampler, todo.ids[i]);
    const bool good = evaluate(e, &todo, &c->said_seconds);
    c->said += gqmm_session_length(e->session) - known;
    tokens_free(&todo);
    if (!good) {
        drop_last(c);
        return interrupted() && gqmm_session_length(e->session) > c->all.n
                   ? gqmm_session_truncate(e->session, c->all.n, NULL) == GQMM_OK
                   : interrupted();
    }
    generate(e, c->sampler, c->limit, c->context, stdout, &g);
    if (!g.length || g.text[g.length - 1] != '\n')
        fputc('\n', stdout);
    fflush(stdout);
    if (g.stop == STOP_CONTEXT)
        say("the context of %" PRId64 " tokens is full: the answer is cut", c->context);
    tokens_add(&c->all, g.out.ids, g.out.n);
    tokens_add(&c->all, &end, 1);
    c->answered += g.known;
    c->answer_seconds += g.seconds;
    const bool go_on = g.stop != STOP_ERROR && tokens_add_text(&c->all, e, "\n", 1, 0);
    generation_free(&g);
    return go_on;
}

static bool start(conversation *c, const chat_settings *set)
{
    engine *e = &c->e;
    sampling_settings sampling = set->sampling;

    c->context = engine_context(e, CHAT_CONTEXT);
    c->limit = set->limit;
    if (!engine_can_chat(e) || engine_session(e, c->context) != CLI_OK ||
        !(c->sampler = engine_sampler(&sampling)))
        return false;
    if (set->system && !tokens_add_message(&c->all, e, "system", set->system, strlen(set->system)))
        return false;
    c->n_system = c->all.n;
    if (c->n_system < c->context)
        return true;
    say("the system message has %" PRId64 " tokens, the context holds %" PRId64, c->n_system,
        c->context);
    return false;
}

static int talk(conversation *c)
{
    const bool person = isatty(STDIN_FILENO);
    char *line = NULL;
    size_t room = 0;
    bool good = true;

    if (person)
        fprintf(stderr, "Ctrl-C stops an answer, Ctrl-D ends the conversation.\n");
    interrupt_watch(false);
    while (good) {
        if (person)
            fprintf(stderr, "\n%s>%s ", bold(stderr), plain(stderr));
        errno = 0;
        ssize_t n = getline(&line, &room, stdin);
        if (n < 0 && interrupted() && person) {
            fprintf(stderr, "\n(Ctrl-D ends the conversation)");
            clearerr(stdin);
            interrupt_forget();
            continue;
        }
        if (n < 0)
            break;
        while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r'))
            n--;
        if (n > 0)
            good = turn(c, line, (size_t)n);
        if (interrupted() && !person)
            break;
        interrupt_forget();
    }
    free(line);
    if (person)
        fputc('\n', stderr);
    if (interrupted())
        return CLI_INTERRUPTED;
    return good ? output_finish() : CLI_FAILURE;
}

static int chat_main(const void *settings, const char *const *operands, int n_operands)
{
    const chat_settings *set = settings;
    conversation c = {0};

    (void)n_operands;
    int code = engine_open(&c.e, operands[0], &set->machine);
    if (code == CLI_OK) {
        code = start(&c, set) ? talk(&c) : CLI_FAILURE;
        if (c.said) {
            fputc('\n', stderr);
            print_rate("prompts", c.said, c.said, c.said_seconds, NULL);
            print_rate("answers", c.answered, c.answered, c.answer_seconds, NULL);
            engine_print_stats(&c.e);
        }
    }
    tokens_free(&c.all);
    free(c.turns);
    gqmm_sampler_destroy(c.sampler);
    engine_close(&c.e);
    return code;
}

const command chat_command = {
    .name = "chat",
    .summary = "a conversation",
    .operands = "MODEL",
    .min_operands = 1,
    .max_operands = 1,
    .options = chat_options,
    .defaults = &chat_defaults,
    .settings_size = sizeof chat_defaults,
    .details =
        "Each line of standard input is one turn. Ctrl-C stops an answer, Ctrl-D ends. The "
        "context\n"
        "holds 8192 tokens, or as many as the model knows; when it is full, the oldest turns are\n"
        "forgotten, and gqmm says so.\n",
    .examples =
        "  gqmm chat model.gguf\n"
        "  gqmm chat model.gguf --system \"You tell short stories.\" --temp 0.5\n"
        "  printf 'What is two plus two?\\nAnd plus three?\\n' | gqmm chat model.gguf --temp 0\n",
    .run = chat_main,
};
