/* SPDX-License-Identifier: MIT */
/* The flag that Ctrl-C raises. */
#ifndef GQMM_CLI_INTERRUPT_H
#define GQMM_CLI_INTERRUPT_H

#include <stdbool.h>

/* From here on Ctrl-C raises the flag once; a second one ends the program. With `all` the signals
 * that end a program do the same, for work that has something to clean up. */
void interrupt_watch(bool all);
bool interrupted(void);
/* Lowers the flag and watches again. */
void interrupt_forget(void);

#endif
