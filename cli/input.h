/* SPDX-License-Identifier: MIT */
/* Texts that come from files and standard input. */
#ifndef GQMM_CLI_INPUT_H
#define GQMM_CLI_INPUT_H

#include <stdbool.h>
#include <stddef.h>

/* The whole of a file ("-": standard input), with a NUL after it; NULL, with a sentence, when it
 * cannot be read. The caller frees it. */
char *input_read(const char *path, size_t *length);
/* False if the text is no UTF-8; *at is then the first bad byte. */
bool input_is_utf8(const char *text, size_t length, size_t *at);

#endif
