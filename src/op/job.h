/* SPDX-License-Identifier: MIT */
/* A job is a few phases of independent tasks. Workers claim tasks in order from a counter; a phase
 * starts when the one before it is done. Workers may come from the context's pool, from a caller's
 * parallel_for (even one that runs them one after another: the first then does everything) or from
 * gqmm_enter(). What a task computes depends on its number alone, never on the worker. */
#ifndef GQMM_OP_JOB_H
#define GQMM_OP_JOB_H

#include <stdatomic.h>
#include <stdint.h>

enum { GQMM_MAX_PHASES = 12 };

typedef struct gqmm_phase {
    void (*run)(void *state, int64_t task); /* one of the two */
    /* Claims a task ahead: `upcoming` is what this worker does next (-1: nothing), so that its
     * memory can be fetched meanwhile. */
    void (*run_ahead)(void *state, int64_t task, int64_t upcoming);
    /* Set before the job starts, or by a task of an earlier phase. */
    int64_t n_tasks;
    atomic_llong next, done;
} gqmm_phase;

typedef struct gqmm_job {
    void *state;
    int32_t n_phases;
    gqmm_phase phase[GQMM_MAX_PHASES];
} gqmm_job;

void gqmm_job_init(gqmm_job *job, void *state);
/* Appends a phase and returns its number. */
int32_t gqmm_job_add(gqmm_job *job, void (*run)(void *state, int64_t task), int64_t n_tasks);
int32_t gqmm_job_add_ahead(gqmm_job *job, void (*run)(void *state, int64_t task, int64_t upcoming),
                           int64_t n_tasks);

/* Works until every task of the job is claimed, then waits until the last is done. Any number of
 * threads may call it at once. */
void gqmm_job_work(gqmm_job *job);

/* Waits a little: first by pausing, later by yielding the CPU. *n counts, start at 0. */
void gqmm_relax(unsigned *n);

#endif
