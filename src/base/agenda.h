/* SPDX-License-Identifier: Apache-2.0
 *
 * What is to happen, by time: a binary heap. Events of the same time come in the order in which
 * they were added, so that a run depends on nothing but its seed. An event is never taken out:
 * whoever changes his mind changes the stamp by which he knows it.
 */
#ifndef YADO_BASE_AGENDA_H
#define YADO_BASE_AGENDA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct event {
    uint64_t at_ms;
    uint64_t seq; /* filled in */
    uint32_t kind, who, stamp;
};

/* All zero is empty. */
struct agenda {
    struct event *heap;
    size_t count, cap;
    uint64_t next_seq;
};

void agenda_deinit(struct agenda *a);
void agenda_add(struct agenda *a, uint64_t at_ms, uint32_t kind, uint32_t who, uint32_t stamp);
/* The next one, or NULL; valid until the next call. */
const struct event *agenda_first(const struct agenda *a);
/* False: there is none. */
bool agenda_take(struct agenda *a, struct event *ret_event);

#endif
