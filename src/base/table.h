/* SPDX-License-Identifier: Apache-2.0
 *
 * A hash table from u64 to pointer, iterated in no order of its own: callers that need an order
 * (the pure folders always do) keep a list or an array beside it.
 */
#ifndef YADO_BASE_TABLE_H
#define YADO_BASE_TABLE_H

#include <stddef.h>
#include <stdint.h>

/* All zero is an empty table. Values are borrowed; a value is never NULL. */
struct table {
    struct table_slot *slots;
    size_t cap;
    size_t count;
};

struct table_slot {
    uint64_t key;
    void *value;
};

void table_deinit(struct table *t);
/* NULL when absent. */
void *table_get(const struct table *t, uint64_t key);
/* Inserts or replaces. */
void table_put(struct table *t, uint64_t key, void *value);
/* Returns what was removed, or NULL. */
void *table_remove(struct table *t, uint64_t key);

#endif
