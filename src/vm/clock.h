/* SPDX-License-Identifier: Apache-2.0
 *
 * Deadlines on the monotonic clock, and threads that take no signals of the process.
 */
#ifndef YADO_VM_CLOCK_H
#define YADO_VM_CLOCK_H

#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <time.h>

static inline uint64_t vm_now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* For conditions made by vm_cond_init(). */
static inline struct timespec vm_deadline_us(uint64_t from_now_us)
{
    uint64_t at = vm_now_us() + from_now_us;

    return (struct timespec){(time_t)(at / 1000000), (long)(at % 1000000) * 1000};
}

static inline void vm_cond_init(pthread_cond_t *c)
{
    pthread_condattr_t attr;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(c, &attr);
    pthread_condattr_destroy(&attr);
}

/* 0 or -errno. */
static inline int vm_thread_start(pthread_t *ret_thread, void *(*run)(void *), void *arg)
{
    sigset_t all, old;
    int r;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    r = pthread_create(ret_thread, NULL, run, arg);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return -r;
}

#endif
