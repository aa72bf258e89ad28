/* SPDX-License-Identifier: MIT */
#include "op/job.h"

#include <sched.h>

void gqmm_job_init(gqmm_job *job, void *state)
{
    job->state = state;
    job->n_phases = 0;
}

int32_t gqmm_job_add_ahead(gqmm_job *job, void (*run)(void *state, int64_t task, int64_t upcoming),
                           int64_t n_tasks)
{
    gqmm_phase *p = &job->phase[job->n_phases];
    p->run = NULL;
    p->run_ahead = run;
    p->n_tasks = n_tasks;
    atomic_store_explicit(&p->next, 0, memory_order_relaxed);
    atomic_store_explicit(&p->done, 0, memory_order_relaxed);
    return job->n_phases++;
}

int32_t gqmm_job_add(gqmm_job *job, void (*run)(void *state, int64_t task), int64_t n_tasks)
{
    const int32_t phase = gqmm_job_add_ahead(job, NULL, n_tasks);
    job->phase[phase].run = run;
    return phase;
}

void gqmm_relax(unsigned *n)
{
    if (++*n < 1024) {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    } else {
        sched_yield(); /* more workers than CPUs: the one we wait for needs this one */
    }
}

static int64_t claim(gqmm_phase *p)
{
    return atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed);
}

/* Runs tasks until all are claimed; returns how many. n_tasks is stable here: earlier phases, which
 * may set it, are done. */
static int64_t run_phase(void *state, gqmm_phase *p)
{
    int64_t n_done = 0, task = claim(p);
    for (; task < p->n_tasks; n_done++) {
        if (p->run) {
            p->run(state, task);
            task = claim(p);
        } else {
            const int64_t upcoming = claim(p);
            p->run_ahead(state, task, upcoming < p->n_tasks ? upcoming : -1);
            task = upcoming;
        }
    }
    return n_done;
}

void gqmm_job_work(gqmm_job *job)
{
    for (int32_t i = 0; i < job->n_phases; i++) {
        gqmm_phase *p = &job->phase[i];
        unsigned waited = 0;
        const int64_t n_done = run_phase(job->state, p);
        if (n_done)
            atomic_fetch_add_explicit(&p->done, n_done, memory_order_acq_rel);
        while (atomic_load_explicit(&p->done, memory_order_acquire) < p->n_tasks)
            gqmm_relax(&waited);
    }
}
