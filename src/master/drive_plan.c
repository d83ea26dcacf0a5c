/* SPDX-License-Identifier: Apache-2.0
 * Which overlays a drive needs; see drive_plan.h. */
#include "master/drive_plan.h"

#include "base/num.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define SEQ_MASK ((1ull << DRIVE_SEQ_BITS) - 1)
#define SUFFIX ".qcow2"

uint64_t drive_epoch_of(uint64_t number)
{
    return number >> DRIVE_SEQ_BITS;
}

void drive_name(uint64_t number, char ret_name[DRIVE_NAME_MAX])
{
    snprintf(ret_name, DRIVE_NAME_MAX, "%llu-%llu" SUFFIX,
             (unsigned long long)drive_epoch_of(number), (unsigned long long)(number & SEQ_MASK));
}

bool drive_name_parse(const char *name, uint64_t *ret_number)
{
    char epoch_text[DRIVE_NAME_MAX] = "", seq_text[DRIVE_NAME_MAX] = "", again[DRIVE_NAME_MAX];
    uint64_t epoch, seq;

    if (strlen(name) >= DRIVE_NAME_MAX ||
        sscanf(name, "%47[0-9]-%47[0-9]", epoch_text, seq_text) != 2 ||
        num_parse_u64(epoch_text, INT64_MAX >> DRIVE_SEQ_BITS, &epoch) < 0 ||
        num_parse_u64(seq_text, SEQ_MASK, &seq) < 0 || (epoch | seq) == 0)
        return false;
    uint64_t number = epoch << DRIVE_SEQ_BITS | seq;
    drive_name(number, again);
    if (strcmp(again, name) != 0)
        return false;
    *ret_number = number;
    return true;
}

uint64_t drive_plan_top(const struct drive_view *v)
{
    uint64_t top = 0;
    for (size_t i = 0; i < v->count_files; i++)
        if (drive_epoch_of(v->files[i].number) == v->epoch && v->files[i].number > top)
            top = v->files[i].number;
    return top;
}

uint64_t drive_plan_next(const struct drive_view *v)
{
    uint64_t top = drive_plan_top(v);
    return (top ? top : v->epoch << DRIVE_SEQ_BITS) + 1;
}

static const struct drive_file *find(const struct drive_view *v, uint64_t number)
{
    for (size_t i = 0; i < v->count_files; i++)
        if (v->files[i].number == number)
            return &v->files[i];
    return NULL;
}

int drive_plan_chain(const struct drive_view *v, uint64_t number, uint64_t *ret_chain,
                     size_t *ret_count)
{
    size_t count = 0;
    for (uint64_t at = number; at;) {
        const struct drive_file *f = find(v, at);
        if (!f)
            return -ENOENT;
        if (f->backing >= at)
            return -EBADMSG;
        ret_chain[count++] = at;
        at = f->backing;
    }
    for (size_t i = 0; i < count / 2; i++) {
        uint64_t swapped = ret_chain[i];
        ret_chain[i] = ret_chain[count - 1 - i];
        ret_chain[count - 1 - i] = swapped;
    }
    *ret_count = count;
    return 0;
}

static bool is_cut(const struct drive_view *v, uint64_t number)
{
    for (size_t i = 0; i < v->count_cuts; i++)
        if (v->cuts[i] == number)
            return true;
    return false;
}

static bool stands_on(const struct drive_view *v, uint64_t upper, uint64_t lower)
{
    const struct drive_file *f;
    while (upper > lower && (f = find(v, upper)) && f->backing < upper)
        upper = f->backing;
    return upper == lower;
}

bool drive_plan_is_gone(const struct drive_view *v, uint64_t number)
{
    for (size_t i = 0; i < v->count_files; i++) {
        uint64_t n = v->files[i].number;
        bool kept = drive_epoch_of(n) >= v->epoch || is_cut(v, n);
        if (kept && stands_on(v, n, number))
            return false;
    }
    return true;
}

/* Nobody will return to it: rows name what is above it, or it was never cut under its epoch. */
static bool is_passed(const struct drive_view *v, uint64_t number)
{
    uint64_t newest = 0;
    for (size_t i = 0; i < v->count_cuts; i++)
        newest = v->cuts[i] > newest ? v->cuts[i] : newest;
    return !is_cut(v, number) && (number < newest || drive_epoch_of(number) < v->epoch);
}

static size_t count_above(const struct drive_view *v, uint64_t number)
{
    size_t count = 0;
    for (size_t i = 0; i < v->count_files; i++)
        count += v->files[i].backing == number;
    return count;
}

/* The overlay directly below, if nothing keeps it from becoming one with that above; or NULL. */
static const struct drive_file *find_passed_below(const struct drive_view *v,
                                                  const struct drive_file *above)
{
    const struct drive_file *f = above->backing < above->number ? find(v, above->backing) : NULL;
    return f && is_passed(v, f->number) && count_above(v, f->number) == 1 ? f : NULL;
}

bool drive_plan_merge(const struct drive_view *v, uint64_t top, uint64_t *ret_below,
                      uint64_t *ret_above)
{
    const struct drive_file *f = find(v, top), *below;
    while (f && (f->number == top || !find_passed_below(v, f)))
        f = f->backing < f->number ? find(v, f->backing) : NULL;
    if (!f)
        return false;
    *ret_above = f->number;
    while ((below = find_passed_below(v, f)))
        f = below;
    *ret_below = f->number;
    return true;
}
