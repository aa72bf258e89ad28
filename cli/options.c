/* SPDX-License-Identifier: MIT */
/* Command lines against a table of options, and the help that the same table prints. */
#include "cli.h"
#include "output.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HELP_WIDTH = 92, NAME_WIDTH = 28 };

int word_distance(const char *a, const char *b)
{
    int row[64];
    const int n = (int)strlen(b);

    if (n > 62 || strlen(a) > 62)
        return 64;
    for (int j = 0; j <= n; j++)
        row[j] = j;
    for (int i = 1; a[i - 1]; i++) {
        int diagonal = row[0];

        row[0] = i;
        for (int j = 1; j <= n; j++) {
            const int change = diagonal + (a[i - 1] != b[j - 1]);
            const int add = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;

            diagonal = row[j];
            row[j] = change < add ? change : add;
        }
    }
    return row[n];
}

bool word_near(const char *word, const char *target)
{
    const size_t n = strlen(word);
    const int far = n < 4 ? 1 : 2;

    return word_distance(word, target) <= far || (n >= 3 && strncmp(word, target, n) == 0);
}

/* The i-th of the words "a|b|c", with its length; NULL past the end. */
static const char *choice_word(const char *words, int32_t i, size_t *length)
{
    for (; i > 0 && words; i--) {
        words = strchr(words, '|');
        words = words ? words + 1 : NULL;
    }
    if (words)
        *length = strcspn(words, "|");
    return words;
}

static bool set_int(const option *o, const char *text, int64_t *value)
{
    char *end;

    errno = 0;
    const long long v = strtoll(text, &end, 10);
    if (isspace((unsigned char)*text) || *text == '+' || end == text || *end || errno ||
        (double)v < o->low || (double)v > o->high) {
        say("--%s takes a whole number from %.0f to %.0f, not '%s'", o->name, o->low, o->high,
            text);
        return false;
    }
    *value = v;
    return true;
}

static bool set_real(const option *o, const char *text, double *value)
{
    char *end;
    const double v = strtod(text, &end);

    /* Digits first: strtod also knows "nan", "inf" and blanks. NaN fails the comparison. */
    if (strspn(text, "-.0123456789eE") != strlen(text) || end == text || *end ||
        !(v >= o->low && v <= o->high)) {
        say("--%s takes a number from %g to %g, not '%s'", o->name, o->low, o->high, text);
        return false;
    }
    *value = v;
    return true;
}

static bool set_choice(const option *o, const char *text, int32_t *value)
{
    size_t n = 0;
    const char *word;

    for (int32_t i = 0; (word = choice_word(o->arg, i, &n)); i++)
        if (strlen(text) == n && strncmp(text, word, n) == 0) {
            *value = i;
            return true;
        }
    say("--%s takes %s, not '%s'", o->name, o->arg, text);
    return false;
}

static bool set_value(const option *o, const char *text, void *settings)
{
    void *at = (char *)settings + o->at;

    switch (o->kind) {
    case OPT_INT:
        return set_int(o, text, at);
    case OPT_REAL:
        return set_real(o, text, at);
    case OPT_CHOICE:
        return set_choice(o, text, at);
    case OPT_TEXT:
        *(const char **)at = text;
        return true;
    case OPT_FLAG:
        *(bool *)at = true;
        return true;
    }
    return false;
}

static const option *find_option(const command *cmd, const char *word, size_t length)
{
    for (const option *o = cmd->options; o->name; o++)
        if (strlen(o->name) == length && strncmp(o->name, word, length) == 0)
            return o;
    return NULL;
}

static void say_unknown(const command *cmd, const char *arg)
{
    char word[64];
    const option *best = NULL;

    snprintf(word, sizeof word, "%.*s", (int)strcspn(arg + 2, "="), arg + 2);
    for (const option *o = cmd->options; o->name && arg[1] == '-'; o++)
        if (word_near(word, o->name) &&
            (!best || word_distance(word, o->name) < word_distance(word, best->name)))
            best = o;
    if (best)
        say("%s has no option '%s'; did you mean --%s?", cmd->name, arg, best->name);
    else
        say("%s has no option '%s'; 'gqmm help %s' lists them", cmd->name, arg, cmd->name);
}

/* Handles argv[*i], which starts with '-'. */
static bool parse_one(const command *cmd, int n, char **argv, int *i, void *settings)
{
    const char *arg = argv[*i], *value = NULL;
    const option *o = NULL;

    if (arg[1] == '-') {
        const size_t length = strcspn(arg + 2, "=");

        o = find_option(cmd, arg + 2, length);
        value = arg[2 + length] ? arg + 3 + length : NULL;
    } else {
        for (const option *p = cmd->options; p->name; p++)
            if (p->letter == arg[1])
                o = p;
        value = arg[2] ? arg + 2 : NULL;
    }
    if (!o) {
        say_unknown(cmd, arg);
        return false;
    }
    if (o->kind == OPT_FLAG) {
        if (value)
            say("--%s takes no value", o->name);
        return !value && set_value(o, NULL, settings);
    }
    if (!value && *i + 1 >= n) {
        say("--%s needs a value: %s", o->name, o->arg);
        return false;
    }
    return set_value(o, value ? value : argv[++*i], settings);
}

int options_parse(const command *cmd, int n, char **argv, void *settings, const char **operands,
                  int *n_operands, bool *help)
{
    bool only_operands = false;

    *n_operands = 0;
    for (int i = 0; i < n; i++) {
        const char *arg = argv[i];

        if (only_operands || arg[0] != '-' || arg[1] == '\0') {
            operands[(*n_operands)++] = arg;
        } else if (strcmp(arg, "--") == 0) {
            only_operands = true;
        } else if (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0) {
            *help = true;
            return CLI_OK;
        } else if (!parse_one(cmd, n, argv, &i, settings)) {
            return CLI_USAGE;
        }
    }
    if (*n_operands < cmd->min_operands)
        say("%s needs %s; see 'gqmm help %s'", cmd->name, cmd->operands, cmd->name);
    else if (*n_operands > cmd->max_operands)
        say("%s does not expect '%s'; see 'gqmm help %s'", cmd->name, operands[cmd->max_operands],
            cmd->name);
    else
        return CLI_OK;
    return CLI_USAGE;
}

/* Appends " (default X)" for values that have one. */
static void add_default(const option *o, const void *defaults, char *text, size_t size)
{
    const char *at = (const char *)defaults + o->at;
    const size_t used = strlen(text);
    size_t n = 0;

    if (o->kind == OPT_INT) {
        const int64_t v = *(const int64_t *)(const void *)at;

        if ((double)v >= o->low && (double)v <= o->high)
            snprintf(text + used, size - used, " (default %lld)", (long long)v);
    } else if (o->kind == OPT_REAL) {
        const double v = *(const double *)(const void *)at;

        if (v >= o->low && v <= o->high)
            snprintf(text + used, size - used, " (default %g)", v);
    } else if (o->kind == OPT_CHOICE) {
        const char *word = choice_word(o->arg, *(const int32_t *)(const void *)at, &n);

        if (word)
            snprintf(text + used, size - used, " (default %.*s)", (int)n, word);
    }
}

/* Text from column NAME_WIDTH on, broken between words. */
static void print_wrapped(const char *text)
{
    const int room = HELP_WIDTH - NAME_WIDTH;

    while ((int)strlen(text) > room) {
        int cut = room;

        while (cut > 0 && text[cut] != ' ')
            cut--;
        printf("%.*s\n%*s", cut, text, NAME_WIDTH, "");
        text += cut + 1;
    }
    puts(text);
}

static void print_option(const option *o, const void *defaults)
{
    char left[80], letter[8] = "    ", text[400];

    if (o->letter)
        snprintf(letter, sizeof letter, "-%c, ", o->letter);
    snprintf(left, sizeof left, "  %s--%s%s%s", letter, o->name, o->arg ? " " : "",
             o->arg ? o->arg : "");
    snprintf(text, sizeof text, "%s", o->help);
    add_default(o, defaults, text, sizeof text);
    if (strlen(left) + 2 > NAME_WIDTH)
        printf("%s\n%*s", left, NAME_WIDTH, "");
    else
        printf("%-*s", NAME_WIDTH, left);
    print_wrapped(text);
}

void command_help(const command *cmd)
{
    static const option help = {"help", 'h', OPT_FLAG, 0, 0, 0, NULL, "this text"};
    const char *b = bold(stdout), *p = plain(stdout);

    printf("gqmm %s - %s\n\n%susage:%s gqmm %s%s%s [options]\n", cmd->name, cmd->summary, b, p,
           cmd->name, *cmd->operands ? " " : "", cmd->operands);
    if (cmd->details)
        printf("\n%s", cmd->details);
    printf("\n%soptions:%s\n", b, p);
    for (const option *o = cmd->options; o->name; o++)
        print_option(o, cmd->defaults);
    print_option(&help, cmd->defaults);
    printf("\n%sexamples:%s\n%s", b, p, cmd->examples);
}
