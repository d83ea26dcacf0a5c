/* SPDX-License-Identifier: Apache-2.0
 *
 * Open addressing with linear probing and backward-shift deletion; see table.h.
 */
#include "base/table.h"
#include "base/buf.h"
#include "base/must.h"

#include <stdlib.h>

static size_t home(const struct table *t, uint64_t key)
{
    key ^= key >> 32;
    key *= 0x9e3779b97f4a7c15u;
    key ^= key >> 29;
    return (size_t)key & (t->cap - 1);
}

static size_t find(const struct table *t, uint64_t key)
{
    size_t i = home(t, key);

    while (t->slots[i].value && t->slots[i].key != key)
        i = (i + 1) & (t->cap - 1);
    return i;
}

void table_deinit(struct table *t)
{
    free(t->slots);
    *t = (struct table){0};
}

void *table_get(const struct table *t, uint64_t key)
{
    return t->count ? t->slots[find(t, key)].value : NULL;
}

static void grow(struct table *t)
{
    struct table bigger = {.cap = t->cap ? t->cap * 2 : 16, .count = t->count};

    bigger.slots = xcalloc(bigger.cap, sizeof *bigger.slots);
    for (size_t i = 0; i < t->cap; i++)
        if (t->slots[i].value)
            bigger.slots[find(&bigger, t->slots[i].key)] = t->slots[i];
    free(t->slots);
    *t = bigger;
}

void table_put(struct table *t, uint64_t key, void *value)
{
    size_t i;

    MUST(value);
    if ((t->count + 1) * 4 > t->cap * 3)
        grow(t);
    i = find(t, key);
    if (!t->slots[i].value)
        t->count++;
    t->slots[i] = (struct table_slot){key, value};
}

void *table_remove(struct table *t, uint64_t key)
{
    size_t i, j;
    void *value;

    if (!t->count)
        return NULL;
    i = find(t, key);
    value = t->slots[i].value;
    if (!value)
        return NULL;
    for (j = (i + 1) & (t->cap - 1); t->slots[j].value; j = (j + 1) & (t->cap - 1)) {
        size_t h = home(t, t->slots[j].key);

        if (((j - h) & (t->cap - 1)) >= ((j - i) & (t->cap - 1))) {
            t->slots[i] = t->slots[j];
            i = j;
        }
    }
    t->slots[i] = (struct table_slot){0};
    t->count--;
    return value;
}
