/* SPDX-License-Identifier: MIT */
/* Threads of a context: they spin for some microseconds after a job, then sleep. */
#ifndef GQMM_OP_POOL_H
#define GQMM_OP_POOL_H

#include "base/memory.h"
#include "op/job.h"

typedef struct gqmm_pool gqmm_pool;

/* n_threads >= 2, the calling one included; NULL if memory or threads cannot be had. */
gqmm_pool *gqmm_pool_create(const gqmm_allocator *memory, int32_t n_threads);
void gqmm_pool_destroy(gqmm_pool *pool);
/* The calling thread and the pool's work on the job; returns when no thread touches it any more. */
void gqmm_pool_run(gqmm_pool *pool, gqmm_job *job);

#endif
