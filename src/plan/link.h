/* SPDX-License-Identifier: Apache-2.0
 *
 * The master's link, shared evenly by all who send or fetch at the moment. Every flow gets the same
 * rate, so a flow of b bytes ends when the bytes that each flow has been given since it began come
 * to b: one number ("served") grows for all, and the flows are a heap by its value at their end.
 */
#ifndef YADO_PLAN_LINK_H
#define YADO_PLAN_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct flow {
    double end;          /* value of `served` */
    uint32_t who, stamp; /* of its sender */
};

struct link {
    double bytes_per_ms;
    double served; /* bytes that a flow which never ended would have had */
    uint64_t now_ms;
    struct flow *flows; /* heap */
    size_t count, cap;
    double bytes; /* in all, for the report */
    double busy_ms;
};

void link_deinit(struct link *l);
/* Lets time pass. */
void link_advance(struct link *l, uint64_t now_ms);
/* After link_advance(). */
void link_add(struct link *l, double bytes, uint32_t who, uint32_t stamp);
/* Its flow ends early. Linear in the flows. */
void link_cancel(struct link *l, uint32_t who, uint32_t stamp);
/* When the next flow ends; UINT64_MAX: there is none. */
uint64_t link_next_ms(const struct link *l);
/* After link_advance(): a flow that has ended by now; false: none. */
bool link_take(struct link *l, uint32_t *ret_who, uint32_t *ret_stamp);

#endif
