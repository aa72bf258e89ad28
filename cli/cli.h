/* SPDX-License-Identifier: MIT */
/*
 * The command gqmm: what its subcommands share. A subcommand is one `command` record (its options,
 * its words of help and its function); main.c lists them all. Standard output carries data only;
 * everything about the work goes to standard error.
 */
#ifndef GQMM_CLI_H
#define GQMM_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Exit codes. */
enum { CLI_OK = 0, CLI_FAILURE = 1, CLI_USAGE = 2, CLI_INTERRUPTED = 130 };

/* Kinds of options and the type of the field that `at` points to. */
typedef enum {
    OPT_FLAG,  /* bool */
    OPT_TEXT,  /* const char *, NULL when absent */
    OPT_INT,   /* int64_t in [low, high] */
    OPT_REAL,  /* double in [low, high] */
    OPT_CHOICE /* int32_t, index into `arg`, whose words are separated by '|' */
} option_kind;

/* One option: parser and help both read it. A default outside [low, high] stands for "absent". */
typedef struct option {
    const char *name; /* without dashes */
    char letter;      /* 0: none */
    option_kind kind;
    size_t at; /* offset in the command's settings */
    double low, high;
    const char *arg; /* how help calls the value */
    const char *help;
} option;

typedef struct command {
    const char *name, *summary;
    const char *operands; /* as help shows them: "MODEL", "IN.gguf OUT.gguf" */
    int min_operands, max_operands;
    const option *options; /* ends with a NULL name */
    const void *defaults;  /* settings before parsing, settings_size bytes */
    size_t settings_size;
    const char *details;  /* paragraphs, already broken into lines */
    const char *examples; /* one command per line */
    int (*run)(const void *settings, const char *const *operands, int n_operands);
} command;

extern const command run_command, chat_command, inspect_command, quantize_command, info_command,
    eval_command;

/* Parses argv[0..n) into settings (which holds the defaults) and operands (room for n). Returns
 * CLI_OK, or CLI_USAGE after saying what is wrong; *help is set when help was asked for. */
int options_parse(const command *cmd, int n, char **argv, void *settings, const char **operands,
                  int *n_operands, bool *help);
void command_help(const command *cmd);

/* Edit distance of two words; and whether `word` looks like a misspelt `target`. */
int word_distance(const char *a, const char *b);
bool word_near(const char *word, const char *target);

#endif
