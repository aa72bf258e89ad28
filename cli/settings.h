/* SPDX-License-Identifier: MIT */
/* Options that several commands share, as rows for their tables. */
#ifndef GQMM_CLI_SETTINGS_H
#define GQMM_CLI_SETTINGS_H

#include "cli.h"

#include <gqmm.h>

typedef struct machine_settings {
    int64_t threads, context, batch;
    const char *isa, *device;
    int32_t precision; /* GQMM_EXACT, GQMM_INT8 */
    int32_t repacked;
} machine_settings;

typedef struct sampling_settings {
    int64_t top_k, seed;
    double temp, top_p, min_p, repeat_penalty;
} sampling_settings;

/* clang-format off */

#define MACHINE_DEFAULTS {.batch = 512, .precision = GQMM_INT8}
#define MACHINE_OPTIONS(type) \
    {"threads", 't', OPT_INT, offsetof(type, machine.threads), 1, 1024, "N", \
     "threads (default: the CPUs this process may use)"}, \
    {"isa", 0, OPT_TEXT, offsetof(type, machine.isa), 0, 0, "ISA", \
     "use no kernels above this one; 'gqmm info' lists them (default: the best)"}, \
    {"device", 0, OPT_TEXT, offsetof(type, machine.device), 0, 0, "NAME", \
     "cpu, or a device that 'gqmm info' lists, such as cuda or cuda:1 (default: cpu)"}, \
    {"precision", 0, OPT_CHOICE, offsetof(type, machine.precision), 0, 0, "exact|int8", \
     "float activations, or activations rounded to int8 in blocks of 32"}, \
    {"weights", 0, OPT_CHOICE, offsetof(type, machine.repacked), 0, 0, "direct|repacked", \
     "read the file's blocks where they lie, or rewrite them at load, which costs memory"}, \
    {"ctx", 0, OPT_INT, offsetof(type, machine.context), 1, 16777216, "N", \
     "tokens that the context holds, at most what the model knows (default: as above)"}, \
    {"batch", 0, OPT_INT, offsetof(type, machine.batch), 1, 65536, "N", \
     "prompt tokens computed together"}

#define SAMPLING_DEFAULTS \
    {.top_k = 40, .seed = -1, .temp = 0.7, .top_p = 0.95, .min_p = 0, .repeat_penalty = 1}
#define SAMPLING_OPTIONS(type) \
    {"temp", 0, OPT_REAL, offsetof(type, sampling.temp), 0, 100, "T", \
     "temperature; 0 always takes the likeliest token"}, \
    {"top-k", 0, OPT_INT, offsetof(type, sampling.top_k), 0, 1000000, "K", \
     "draw from the K likeliest tokens; 0 is off"}, \
    {"top-p", 0, OPT_REAL, offsetof(type, sampling.top_p), 0, 1, "P", \
     "draw from the likeliest tokens that make up P; 1 is off"}, \
    {"min-p", 0, OPT_REAL, offsetof(type, sampling.min_p), 0, 1, "P", \
     "leave out tokens less than P times as likely as the likeliest; 0 is off"}, \
    {"repeat-penalty", 0, OPT_REAL, offsetof(type, sampling.repeat_penalty), 0, 100, "R", \
     "make tokens of the last 64 less likely; 1 is off"}, \
    {"seed", 0, OPT_INT, offsetof(type, sampling.seed), 0, 9007199254740992.0, "S", \
     "same seed, same text (default: a new one, which the statistics name)"}

/* clang-format on */

#endif
