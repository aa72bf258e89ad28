/* SPDX-License-Identifier: MIT */
#include "interrupt.h"

#include <signal.h>
#include <stddef.h>

static volatile sig_atomic_t signalled;

static void on_signal(int number)
{
    signalled = number;
}

void interrupt_watch(bool all)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
    /* The handler is used up by one signal. No SA_RESTART, so that a pending read returns. */
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};
    struct sigaction old;

    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < (all ? sizeof numbers / sizeof *numbers : 1); i++)
        if (sigaction(numbers[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
            sigaction(numbers[i], &action, NULL);
}

bool interrupted(void)
{
    return signalled != 0;
}

void interrupt_forget(void)
{
    signalled = 0;
    interrupt_watch(false);
}
