/* SPDX-License-Identifier: Apache-2.0
 *
 * Scope-bound release of descriptors and memory, by the compiler's cleanup attribute.
 * Not for the pure folders' long-lived objects, which have explicit deinit functions.
 */
#ifndef YADO_BASE_CLEANUP_H
#define YADO_BASE_CLEANUP_H

#include <stdlib.h>
#include <unistd.h>
#include <stdio.h>

static inline void cleanup_free(void *p)
{
    free(*(void **)p);
}

static inline void cleanup_close(int *fd)
{
    if (*fd >= 0)
        close(*fd);
}

static inline void cleanup_fclose(FILE **f)
{
    if (*f)
        fclose(*f);
}

#define AUTO_FREE __attribute__((cleanup(cleanup_free)))
#define AUTO_CLOSE __attribute__((cleanup(cleanup_close)))
#define AUTO_FCLOSE __attribute__((cleanup(cleanup_fclose)))

/* Hands a value out of a scope: *p is emptied so that its cleanup does nothing. */
static inline void *take_ptr_(void **p)
{
    void *v = *p;
    *p = NULL;
    return v;
}
#define TAKE_PTR(p) ((__typeof__(p))take_ptr_((void **)&(p)))

static inline int take_fd(int *fd)
{
    int v = *fd;
    *fd = -1;
    return v;
}

#endif
