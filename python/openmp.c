/* SPDX-License-Identifier: MIT */
/* A parallel_for (gqmm_context_desc) on the OpenMP threads of another package in the process, so
 * that two pools do not spin against each other. `user` is the address of that runtime's
 * GOMP_parallel, which libgomp and LLVM's libomp both have; nothing is linked. */
#include <gqmm.h>
#include <stdatomic.h>

typedef void run_team(void (*body)(void *data), void *data, unsigned n_threads, unsigned flags);

typedef struct job {
    void (*task)(void *arg, int32_t i);
    void *arg;
    int32_t n_tasks;
    atomic_int next;
} job;

/* The runtime may give fewer threads than asked for: tasks are taken, not assigned. */
static void take_tasks(void *data)
{
    job *j = data;
    for (int32_t i; (i = atomic_fetch_add(&j->next, 1)) < j->n_tasks;)
        j->task(j->arg, i);
}

GQMM_API void gqmm_openmp_for(void *user, int32_t n_tasks, void (*task)(void *arg, int32_t i),
                              void *arg);
void gqmm_openmp_for(void *user, int32_t n_tasks, void (*task)(void *arg, int32_t i), void *arg)
{
    job j = {task, arg, n_tasks, 0};
    if (n_tasks > 1)
        ((run_team *)user)(take_tasks, &j, (unsigned)n_tasks, 0);
    else
        take_tasks(&j);
}
