/* SPDX-License-Identifier: Apache-2.0
 *
 * Rows by key, kept in the order of kinds and keys; see grid_store.h.
 */
#include "sim/grid_store.h"

#include "base/buf.h"
#include "base/must.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void then_free(struct grid_job *j)
{
    if (!j)
        return;
    then_free(j->then);
    free(j->name);
    free(j->spec);
    free(j);
}

static void row_clear(struct grid_row *row)
{
    if (row->kind != GRID_ROW_JOB)
        return;
    then_free(row->job.then);
    free(row->job.name);
    free(row->job.spec);
}

static void job_own(struct grid_job *j)
{
    j->name = xstrdup(j->name);
    j->spec = xstrdup(j->spec);
    memset(j->count, 0, sizeof j->count);
    if (j->then) {
        struct grid_job *copy = xmalloc(sizeof *copy);

        *copy = *j->then;
        job_own(copy);
        j->then = copy;
    }
}

static uint64_t key_of(const struct grid_row *row, uint64_t *ret_minor)
{
    *ret_minor = 0;
    switch (row->kind) {
    case GRID_ROW_USER:
        return row->user.id;
    case GRID_ROW_PC:
        return row->pc.id;
    case GRID_ROW_IMAGE:
        return row->image.id;
    case GRID_ROW_GOLDEN:
        return row->golden.id;
    case GRID_ROW_JOB:
        return row->job.id;
    case GRID_ROW_LAYER:
        *ret_minor = (uint64_t)row->layer.part << 32 | row->layer.layer.seq;
        return row->layer.job;
    case GRID_ROW_PIN:
        *ret_minor = row->pin.part;
        return row->pin.job;
    case GRID_ROW_PART:
        *ret_minor = row->part.index;
        return row->part.job;
    default:
        return 0;
    }
}

static int compare(const struct grid_row *a, const struct grid_row *b)
{
    uint64_t minor_a, minor_b, major_a = key_of(a, &minor_a), major_b = key_of(b, &minor_b);

    if (a->kind != b->kind)
        return a->kind < b->kind ? -1 : 1;
    if (major_a != major_b)
        return major_a < major_b ? -1 : 1;
    if (minor_a != minor_b)
        return minor_a < minor_b ? -1 : 1;
    return a->kind == GRID_ROW_PIN ? memcmp(&a->pin.digest, &b->pin.digest, sizeof a->pin.digest)
                                   : 0;
}

static _Noreturn void broken(const char *what, const struct grid_part *p)
{
    fprintf(stderr, "part %" PRIu64 ".%" PRIu32 ": %s\n", p->job, p->index, what);
    abort();
}

/* A step may make several moves of one part; what it shows must be reachable by some of them. */
static bool reachable(enum grid_part_state from, enum grid_part_state to)
{
    bool seen[GRID_PART_STATES] = {false};

    seen[from] = true;
    for (int round = 0; round < GRID_PART_STATES; round++)
        for (int a = 0; a < GRID_PART_STATES; a++)
            for (int b = 0; seen[a] && b < GRID_PART_STATES; b++)
                seen[b] |= grid_part_may((enum grid_part_state)a, (enum grid_part_state)b);
    return seen[to];
}

static void check_part(const struct grid_part *old, const struct grid_part *new)
{
    if (new->epoch < old->epoch)
        broken("its epoch shrinks", new);
    if (new->pc && old->pc != new->pc &&new->epoch == old->epoch)
        broken("placed again under the same epoch", new);
    if (grid_part_is_final(old->state))
        broken("final, and changed all the same", new);
    if (!reachable(old->state, new->state))
        broken("a move that the table does not allow", new);
}

static size_t find(const struct grid_store *s, const struct grid_row *row)
{
    size_t low = 0, high = s->count;

    while (low < high) {
        size_t middle = (low + high) / 2;

        if (compare(&s->rows[middle], row) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void remove_at(struct grid_store *s, size_t i)
{
    row_clear(&s->rows[i]);
    memmove(&s->rows[i], &s->rows[i + 1], (--s->count - i) * sizeof *s->rows);
}

static void put(struct grid_store *s, const struct grid_row *row)
{
    size_t i = find(s, row);

    if (i < s->count && compare(&s->rows[i], row) == 0) {
        if (row->kind == GRID_ROW_PART)
            check_part(&s->rows[i].part, &row->part);
        row_clear(&s->rows[i]);
    } else {
        if (s->count == s->cap) {
            s->cap = s->cap ? s->cap * 2 : 64;
            s->rows = xreallocarray(s->rows, s->cap, sizeof *s->rows);
        }
        memmove(&s->rows[i + 1], &s->rows[i], (s->count++ - i) * sizeof *s->rows);
    }
    s->rows[i] = *row;
    if (row->kind == GRID_ROW_JOB)
        job_own(&s->rows[i].job);
}

static void delete (struct grid_store *s, const struct grid_row *row)
{
    size_t i = find(s, row);

    MUST(i < s->count && compare(&s->rows[i], row) == 0);
    remove_at(s, i);
}

/* Layers and pins of its parts are gone by then. */
static void retire(struct grid_store *s, uint64_t job)
{
    for (size_t i = s->count; i-- > 0;) {
        MUST((s->rows[i].kind != GRID_ROW_LAYER || s->rows[i].layer.job != job) &&
             (s->rows[i].kind != GRID_ROW_PIN || s->rows[i].pin.job != job));
        if ((s->rows[i].kind == GRID_ROW_JOB && s->rows[i].job.id == job) ||
            (s->rows[i].kind == GRID_ROW_PART && s->rows[i].part.job == job))
            remove_at(s, i);
    }
}

static void append_only(uint64_t *next, uint64_t seq)
{
    MUST(seq == (*next ? *next : 1));
    *next = seq + 1;
}

static void apply(struct grid_store *s, const struct grid_fx *fx)
{
    const struct grid_row *row = &fx->row;

    if (fx->kind == GRID_FX_RETIRE)
        retire(s, fx->job);
    if (fx->kind != GRID_FX_ROW)
        return;
    if (row->kind == GRID_ROW_LOG)
        append_only(&s->log_seq, row->log.seq);
    else if (row->kind == GRID_ROW_MOVE)
        append_only(&s->move_seq, row->move.seq);
    else if (row->put)
        put(s, row);
    else
        delete (s, row);
}

void grid_store_apply(struct grid_store *s, const struct grid_effects *fx)
{
    bool rows_over = false;

    for (size_t i = 0; i < fx->count; i++) {
        rows_over |= fx->fx[i].kind != GRID_FX_ROW;
        MUST(!rows_over || fx->fx[i].kind != GRID_FX_ROW); /* all rows come first */
        apply(s, &fx->fx[i]);
    }
}

void grid_store_stage(struct grid_store *s, const struct grid_effects *fx)
{
    struct grid_effects *to = &s->staged;

    for (size_t i = 0; i < fx->count; i++) {
        if (to->count == to->cap) {
            to->cap = to->cap ? to->cap * 2 : 64;
            to->fx = xreallocarray(to->fx, to->cap, sizeof *to->fx);
        }
        to->fx[to->count] = fx->fx[i];
        if (fx->fx[i].kind == GRID_FX_ROW && fx->fx[i].row.kind == GRID_ROW_JOB)
            job_own(&to->fx[to->count].row.job);
        to->count++;
    }
}

void grid_store_commit(struct grid_store *s)
{
    size_t kept = 0;

    for (size_t i = 0; i < s->staged.count; i++) {
        apply(s, &s->staged.fx[i]);
        if (s->staged.fx[i].kind == GRID_FX_ROW)
            row_clear(&s->staged.fx[i].row);
        else
            s->staged.fx[kept++] = s->staged.fx[i];
    }
    s->staged.count = kept;
}

void grid_store_drop(struct grid_store *s)
{
    for (size_t i = 0; i < s->staged.count; i++)
        if (s->staged.fx[i].kind == GRID_FX_ROW)
            row_clear(&s->staged.fx[i].row);
    s->staged.count = 0;
}

const struct grid_part *grid_store_part(const struct grid_store *s, uint64_t job, uint32_t index)
{
    struct grid_row key = {.kind = GRID_ROW_PART, .part = {.job = job, .index = index}};
    size_t i = find(s, &key);

    return i < s->count && compare(&s->rows[i], &key) == 0 ? &s->rows[i].part : NULL;
}

struct grid *grid_store_load(const struct grid_store *s, const struct grid_config *config)
{
    struct grid *g = grid_new(config);
    struct err err = {""};

    for (size_t i = 0; i < s->count; i++)
        if (grid_load(g, &s->rows[i], &err) != 0)
            break;
    if (err.text[0] || grid_load_done(g, &err) != 0) {
        fprintf(stderr, "the rows do not load: %s\n", err.text);
        abort();
    }
    return g;
}

void grid_store_deinit(struct grid_store *s)
{
    for (size_t i = 0; i < s->count; i++)
        row_clear(&s->rows[i]);
    free(s->rows);
    grid_store_drop(s);
    grid_effects_deinit(&s->staged);
    *s = (struct grid_store){0};
}
