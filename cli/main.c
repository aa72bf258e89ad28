/* SPDX-License-Identifier: MIT */
/* The command gqmm: finds the subcommand, parses its options and runs it. */
#include "bench.h"
#include "cli.h"
#include "output.h"
#include "synth.h"

#include <gqmm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const command *const commands[] = {
    &run_command,  &chat_command, &inspect_command, &quantize_command,
    &eval_command, &info_command, &bench_command,   &synth_command,
};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

static const command *find_command(const char *name)
{
    for (int i = 0; i < N_COMMANDS; i++)
        if (strcmp(name, commands[i]->name) == 0)
            return commands[i];
    return NULL;
}

static int unknown_command(const char *name)
{
    const char *best = NULL;

    for (int i = 0; i < N_COMMANDS; i++)
        if (word_near(name, commands[i]->name) &&
            (!best || word_distance(name, commands[i]->name) < word_distance(name, best)))
            best = commands[i]->name;
    if (best)
        say("there is no command '%s'; did you mean '%s'?", name, best);
    else
        say("there is no command '%s'; 'gqmm help' lists them", name);
    return CLI_USAGE;
}

static void print_overview(FILE *to)
{
    fprintf(to,
            "gqmm %s - quantised mixture-of-experts models on the CPU\n\n"
            "%susage:%s gqmm COMMAND [options] ...\n\n%scommands:%s\n",
            gqmm_version(), bold(to), plain(to), bold(to), plain(to));
    for (int i = 0; i < N_COMMANDS; i++)
        fprintf(to, "  %-10s %s\n", commands[i]->name, commands[i]->summary);
    fprintf(to, "\n'gqmm help COMMAND' tells its options and shows examples; 'gqmm --version' the "
                "version.\n");
}

static int help(int n, char **argv)
{
    const command *cmd;

    if (n == 0) {
        print_overview(stdout);
        return output_finish();
    }
    if (!(cmd = find_command(argv[0])))
        return unknown_command(argv[0]);
    command_help(cmd);
    return output_finish();
}

static int run_one(const command *cmd, int n, char **argv)
{
    void *settings = need(1, cmd->settings_size);
    const char **operands = need((size_t)n, sizeof *operands);
    int n_operands = 0;
    bool wants_help = false;

    memcpy(settings, cmd->defaults, cmd->settings_size);
    int code = options_parse(cmd, n, argv, settings, operands, &n_operands, &wants_help);
    if (wants_help) {
        command_help(cmd);
        code = output_finish();
    } else if (code == CLI_OK) {
        code = cmd->run(settings, operands, n_operands);
    }
    free(operands);
    free(settings);
    return code;
}

int main(int argc, char **argv)
{
    const command *cmd;

    if (argc < 2) {
        print_overview(stderr);
        return CLI_USAGE;
    }
    if (strcmp(argv[1], "help") == 0 || strcmp(argv[1], "--help") == 0 ||
        strcmp(argv[1], "-h") == 0)
        return help(argc - 2, argv + 2);
    if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "version") == 0) {
        printf("gqmm %s\n", gqmm_version());
        return output_finish();
    }
    if (!(cmd = find_command(argv[1])))
        return unknown_command(argv[1]);
    return run_one(cmd, argc - 2, argv + 2);
}
