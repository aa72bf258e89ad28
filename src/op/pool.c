/* SPDX-License-Identifier: MIT */
#include "op/pool.h"

#include <pthread.h>
#include <stdbool.h>

enum { SPINS = 2048 }; /* about 40 us of pauses, then 1000 yields, before a thread sleeps */

struct gqmm_pool {
    gqmm_allocator memory;
    int32_t n_threads; /* pthreads, without the caller */
    pthread_t *threads;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    gqmm_job *job;         /* written before `turn` is */
    bool stop;             /* likewise */
    atomic_uint turn;      /* one more for every job; the first is 1 */
    atomic_int n_working;  /* pool threads that have not left the job */
    atomic_int n_sleeping; /* that wait on `wake`, or are about to */
};

/* Waits for a turn after `seen`: spinning first, then asleep. */
static unsigned next_turn(gqmm_pool *p, unsigned seen)
{
    unsigned waited = 0, turn;
    while ((turn = atomic_load_explicit(&p->turn, memory_order_acquire)) == seen) {
        if (waited < SPINS) {
            gqmm_relax(&waited);
            continue;
        }
        pthread_mutex_lock(&p->mutex);
        atomic_fetch_add(&p->n_sleeping, 1);
        while ((turn = atomic_load(&p->turn)) == seen)
            pthread_cond_wait(&p->wake, &p->mutex);
        atomic_fetch_sub(&p->n_sleeping, 1);
        pthread_mutex_unlock(&p->mutex);
        break;
    }
    return turn;
}

static void *work(void *arg)
{
    gqmm_pool *p = arg;
    unsigned seen = 0;
    for (;;) {
        seen = next_turn(p, seen);
        if (p->stop)
            return NULL;
        gqmm_job_work(p->job);
        atomic_fetch_sub_explicit(&p->n_working, 1, memory_order_release);
    }
}

/* Sequentially consistent on both sides: either a thread going to sleep sees the new turn, or its
 * count is seen here and it is woken. Spinning threads need neither lock nor system call. */
static void announce(gqmm_pool *p)
{
    atomic_fetch_add(&p->turn, 1);
    if (atomic_load(&p->n_sleeping) == 0)
        return;
    pthread_mutex_lock(&p->mutex);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->mutex);
}

gqmm_pool *gqmm_pool_create(const gqmm_allocator *memory, int32_t n_threads)
{
    gqmm_pool *p = gqmm_alloc(memory, 1, sizeof *p);
    if (!p)
        return NULL;
    p->memory = *memory;
    pthread_mutex_init(&p->mutex, NULL);
    pthread_cond_init(&p->wake, NULL);
    p->threads = gqmm_alloc(memory, (size_t)n_threads - 1, sizeof *p->threads);
    for (int32_t i = 0; p->threads && i < n_threads - 1; i++) {
        if (pthread_create(&p->threads[i], NULL, work, p) != 0)
            break;
        p->n_threads++;
    }
    if (p->n_threads == n_threads - 1)
        return p;
    /* The size to release is that of the request, which destroy() cannot know. */
    const int32_t started = p->n_threads;
    pthread_t *threads = p->threads;
    p->threads = NULL;
    p->n_threads = 0;
    p->stop = true;
    announce(p);
    for (int32_t i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
    gqmm_release(memory, threads, (size_t)n_threads - 1, sizeof *threads);
    gqmm_pool_destroy(p);
    return NULL;
}

void gqmm_pool_destroy(gqmm_pool *p)
{
    if (!p)
        return;
    p->stop = true;
    announce(p);
    for (int32_t i = 0; i < p->n_threads; i++)
        pthread_join(p->threads[i], NULL);
    gqmm_release(&p->memory, p->threads, (size_t)p->n_threads, sizeof *p->threads);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->mutex);
    gqmm_release(&p->memory, p, 1, sizeof *p);
}

void gqmm_pool_run(gqmm_pool *p, gqmm_job *job)
{
    unsigned waited = 0;
    p->job = job;
    atomic_store_explicit(&p->n_working, p->n_threads, memory_order_relaxed);
    announce(p);
    gqmm_job_work(job);
    while (atomic_load_explicit(&p->n_working, memory_order_acquire) > 0)
        gqmm_relax(&waited);
}
