/* SPDX-License-Identifier: Apache-2.0
 *
 * Bytes of a layer file's header, page table, hot list and footer; see layer_format.h.
 */
#include "wire/layer_format.h"

#include "base/cursor.h"
#include "base/must.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

static const char header_magic[8] = {'Y', 'A', 'D', 'O', 'L', 'A', 'Y', 'R'};
static const char footer_magic[8] = {'Y', 'A', 'D', 'O', 'L', 'E', 'N', 'D'};

enum { FLAG_FULL = 1, EXTENT_BYTES = 24, RUN_BYTES = 16, HOT_RUN_BYTES = 12 };

/* Fills up to `bytes` less 8 with zeros and ends with the checksum of all before. */
static void seal(struct buf *out, size_t start, size_t bytes)
{
    size_t used = out->len - start;

    MUST(used <= bytes - 8);
    memset(buf_extend(out, bytes - 8 - used), 0, bytes - 8 - used);
    buf_put_u64(out, XXH3_64bits(out->data + start, bytes - 8));
}

static bool seal_holds(const uint8_t *data, size_t bytes)
{
    struct cursor c = cursor_of(data + bytes - 8, 8);

    return cursor_u64(&c) == XXH3_64bits(data, bytes - 8);
}

static void put_extent(struct buf *out, const struct layer_extent *e)
{
    buf_put_u64(out, e->offset);
    buf_put_u32(out, e->stored_bytes);
    buf_put_u32(out, e->raw_bytes);
    buf_put_u64(out, e->checksum);
}

static struct layer_extent get_extent(struct cursor *c)
{
    struct layer_extent e = {.offset = cursor_u64(c)};

    e.stored_bytes = cursor_u32(c);
    e.raw_bytes = cursor_u32(c);
    e.checksum = cursor_u64(c);
    return e;
}

void layer_header_put(struct buf *out, const struct layer_meta *m)
{
    size_t start = out->len;

    buf_put(out, header_magic, sizeof header_magic);
    buf_put_u32(out, LAYER_VERSION);
    buf_put_u32(out, m->full ? FLAG_FULL : 0);
    buf_put_u64(out, m->memory_bytes);
    buf_put_u64(out, m->output_offset);
    buf_put_u64(out, m->run_ms);
    buf_put_u32(out, m->qemu_version);
    buf_put_u32(out, m->cpus);
    buf_put(out, m->machine, sizeof m->machine);
    buf_put(out, m->cpu, sizeof m->cpu);
    buf_put(out, m->accel, sizeof m->accel);
    buf_put(out, m->parent, sizeof m->parent);
    buf_put_u64(out, m->disk_cut);
    seal(out, start, LAYER_HEADER_BYTES);
}

/* A text that fills its field with one NUL at least, and is printable. */
static bool get_text(struct cursor *c, char *text, size_t size)
{
    const uint8_t *p = cursor_bytes(c, size);

    if (!p || p[0] == 0 || !memchr(p, 0, size))
        return false;
    memcpy(text, p, size);
    for (size_t i = strlen(text); i < size; i++)
        if (p[i])
            return false;
    for (const char *s = text; *s; s++)
        if (*s <= ' ' || *s > '~')
            return false;
    return true;
}

static bool all_zeros(const uint8_t *data, size_t len)
{
    return data[0] == 0 && memcmp(data, data + 1, len - 1) == 0;
}

int layer_header_get(const uint8_t *data, size_t len, struct layer_meta *ret_meta,
                     struct err *ret_err)
{
    struct cursor c = cursor_of(data, len);
    struct layer_meta m = {0};
    const uint8_t *magic = cursor_bytes(&c, sizeof header_magic);
    uint32_t version = cursor_u32(&c), flags = cursor_u32(&c);

    if (!magic || memcmp(magic, header_magic, sizeof header_magic) != 0)
        return err_set(ret_err, -EINVAL, "not a layer file (its first bytes are not YADOLAYR)");
    if (version != LAYER_VERSION)
        return err_set(ret_err, -EPROTONOSUPPORT,
                       "layer of version %u: this yado reads version %d; upgrade the older side",
                       version, LAYER_VERSION);
    if (len < LAYER_HEADER_BYTES || !seal_holds(data, LAYER_HEADER_BYTES))
        return err_set(ret_err, -EBADMSG, "layer damaged: the header's checksum does not match");
    m.full = flags & FLAG_FULL;
    m.memory_bytes = cursor_u64(&c);
    m.output_offset = cursor_u64(&c);
    m.run_ms = cursor_u64(&c);
    m.qemu_version = cursor_u32(&c);
    m.cpus = cursor_u32(&c);
    bool texts = get_text(&c, m.machine, sizeof m.machine) && get_text(&c, m.cpu, sizeof m.cpu) &&
                 get_text(&c, m.accel, sizeof m.accel);
    const uint8_t *parent = cursor_bytes(&c, sizeof m.parent);
    m.disk_cut = cursor_u64(&c);
    if (!texts || m.full != all_zeros(parent, sizeof m.parent) || flags & ~(uint32_t)FLAG_FULL ||
        m.memory_bytes == 0 || m.memory_bytes % LAYER_PAGE_BYTES ||
        m.memory_bytes > LAYER_MEMORY_BYTES_MAX)
        return err_set(ret_err, -EINVAL, "layer: the header contradicts itself");
    memcpy(m.parent, parent, sizeof m.parent);
    *ret_meta = m;
    return 0;
}

/* ---- footer ---------------------------------------------------------------------------------- */

const char *layer_section_name(enum layer_section section)
{
    static const char *const names[LAYER_SECTIONS] = {"hot list", "prints", "page table"};

    return names[section];
}

void layer_footer_put(struct buf *out, const struct layer_footer *f)
{
    size_t start = out->len;

    buf_put(out, footer_magic, sizeof footer_magic);
    for (size_t i = 0; i < LAYER_SECTIONS; i++)
        put_extent(out, &f->sections[i]);
    buf_put_u64(out, f->count_pages);
    seal(out, start, LAYER_FOOTER_BYTES);
}

/* The sections fill what is between the frames and the footer: no byte goes unchecked. */
static bool sections_tile(const struct layer_footer *f, uint64_t end)
{
    for (size_t i = LAYER_SECTIONS; i-- > 0;) {
        const struct layer_extent *e = &f->sections[i];

        if (e->stored_bytes > end || e->offset != end - e->stored_bytes ||
            e->raw_bytes > LAYER_SECTION_BYTES_MAX)
            return false;
        end = e->offset;
    }
    return end >= LAYER_HEADER_BYTES;
}

int layer_footer_get(const uint8_t *data, size_t len, uint64_t file_bytes,
                     struct layer_footer *ret_footer, struct err *ret_err)
{
    struct cursor c = cursor_of(data, len);
    struct layer_footer f;
    const uint8_t *magic = cursor_bytes(&c, sizeof footer_magic);

    if (!magic || len < LAYER_FOOTER_BYTES || memcmp(magic, footer_magic, sizeof footer_magic) != 0)
        return err_set(ret_err, -EBADMSG, "layer damaged: the footer is missing (cut off?)");
    if (!seal_holds(data, LAYER_FOOTER_BYTES))
        return err_set(ret_err, -EBADMSG, "layer damaged: the footer's checksum does not match");
    for (size_t i = 0; i < LAYER_SECTIONS; i++)
        f.sections[i] = get_extent(&c);
    f.count_pages = cursor_u64(&c);
    if (file_bytes < LAYER_FOOTER_BYTES || !sections_tile(&f, file_bytes - LAYER_FOOTER_BYTES))
        return err_set(ret_err, -EBADMSG,
                       "layer damaged: its parts are not where the footer says (cut off?)");
    *ret_footer = f;
    return 0;
}

/* ---- page table ------------------------------------------------------------------------------ */

void layer_table_put(struct buf *out, const struct layer_table *t)
{
    buf_put_u32(out, (uint32_t)t->count_frames);
    for (size_t i = 0; i < t->count_frames; i++)
        put_extent(out, &t->frames[i]);
    buf_put_u32(out, (uint32_t)t->count_runs);
    for (size_t i = 0; i < t->count_runs; i++) {
        buf_put_u64(out, t->runs[i].first_page);
        buf_put_u32(out, t->runs[i].count_pages);
        buf_put_u32(out, t->runs[i].frame);
    }
}

void layer_table_deinit(struct layer_table *t)
{
    free(t->frames);
    free(t->runs);
    *t = (struct layer_table){0};
}

static bool get_frames(struct cursor *c, uint64_t frames_end, struct layer_table *t)
{
    size_t count = cursor_u32(c);

    if (c->bad || count == 0 || count > cursor_left(c) / EXTENT_BYTES)
        return false;
    t->frames = xcalloc(count, sizeof *t->frames);
    t->count_frames = count;
    uint64_t next = LAYER_HEADER_BYTES;

    for (size_t i = 0; i < count; i++) {
        struct layer_extent *f = &t->frames[i];

        *f = get_extent(c);
        /* Frames follow each other without gaps, so no byte of a file goes unchecked. */
        if (f->offset != next || f->offset > frames_end || f->stored_bytes > frames_end - f->offset)
            return false;
        next += f->stored_bytes;
        if (i == LAYER_STATE_FRAME ? f->raw_bytes > LAYER_STATE_BYTES_MAX
                                   : f->raw_bytes == 0 || f->raw_bytes > LAYER_FRAME_BYTES_MAX)
            return false;
    }
    return next == frames_end;
}

static bool get_runs(struct cursor *c, uint64_t memory_pages, struct layer_table *t)
{
    size_t count = cursor_u32(c);
    uint64_t next = 0, frame_pages = 0;
    uint32_t frame = LAYER_STATE_FRAME; /* of the last run with data */

    if (c->bad || count > cursor_left(c) / RUN_BYTES)
        return false;
    t->runs = xcalloc(count ? count : 1, sizeof *t->runs);
    t->count_runs = count;
    for (size_t i = 0; i < count; i++) {
        struct layer_run *r = &t->runs[i];

        r->first_page = cursor_u64(c);
        r->count_pages = cursor_u32(c);
        r->frame = cursor_u32(c);
        if (r->first_page < next || r->count_pages == 0 || r->first_page >= memory_pages ||
            r->count_pages > memory_pages - r->first_page)
            return false;
        next = r->first_page + r->count_pages;
        if (r->frame == LAYER_FRAME_ZERO)
            continue;
        /* Frames fill one after another, each exactly. */
        if (r->frame != frame) {
            if (r->frame != frame + 1 || r->frame >= t->count_frames ||
                (frame != LAYER_STATE_FRAME &&
                 frame_pages * LAYER_PAGE_BYTES != t->frames[frame].raw_bytes))
                return false;
            frame = r->frame;
            frame_pages = 0;
        }
        if (frame == LAYER_STATE_FRAME)
            return false;
        r->frame_page = (uint32_t)frame_pages;
        frame_pages += r->count_pages;
        if (frame_pages > LAYER_FRAME_PAGES)
            return false;
    }
    return frame + 1 == t->count_frames &&
           (frame == LAYER_STATE_FRAME ||
            frame_pages * LAYER_PAGE_BYTES == t->frames[frame].raw_bytes);
}

int layer_table_get(const uint8_t *data, size_t len, uint64_t memory_bytes, uint64_t frames_end,
                    struct layer_table *ret_table, struct err *ret_err)
{
    struct cursor c = cursor_of(data, len);

    *ret_table = (struct layer_table){0};
    if (!get_frames(&c, frames_end, ret_table) ||
        !get_runs(&c, memory_bytes / LAYER_PAGE_BYTES, ret_table) || c.bad || cursor_left(&c)) {
        layer_table_deinit(ret_table);
        return err_set(ret_err, -EINVAL, "layer: the page table contradicts itself at byte %zu",
                       cursor_pos(&c));
    }
    return 0;
}

uint64_t layer_table_count_stored(const struct layer_table *t)
{
    uint64_t pages = 0;

    for (size_t i = LAYER_STATE_FRAME + 1; i < t->count_frames; i++)
        pages += t->frames[i].raw_bytes / LAYER_PAGE_BYTES;
    return pages;
}

/* ---- hot list -------------------------------------------------------------------------------- */

void layer_hot_put(struct buf *out, const struct layer_hot_run *runs, size_t count)
{
    MUST(count <= LAYER_HOT_RUNS_MAX);
    buf_put_u32(out, (uint32_t)count);
    for (size_t i = 0; i < count; i++) {
        buf_put_u64(out, runs[i].first_page);
        buf_put_u32(out, runs[i].count_pages);
    }
}

int layer_hot_get(const uint8_t *data, size_t len, uint64_t memory_bytes,
                  struct layer_hot_run **ret_runs, size_t *ret_count, struct err *ret_err)
{
    struct cursor c = cursor_of(data, len);
    uint64_t pages = memory_bytes / LAYER_PAGE_BYTES;
    size_t count = cursor_u32(&c);
    struct layer_hot_run *runs;
    bool good = !c.bad && count <= LAYER_HOT_RUNS_MAX && cursor_left(&c) == count * HOT_RUN_BYTES;

    if (!good)
        return err_set(ret_err, -EINVAL, "layer: the hot list contradicts itself");
    runs = xcalloc(count ? count : 1, sizeof *runs);
    for (size_t i = 0; i < count && good; i++) {
        runs[i].first_page = cursor_u64(&c);
        runs[i].count_pages = cursor_u32(&c);
        good = runs[i].count_pages && runs[i].first_page < pages &&
               runs[i].count_pages <= pages - runs[i].first_page;
    }
    if (!good) {
        free(runs);
        return err_set(ret_err, -EINVAL, "layer: the hot list names pages beyond the memory");
    }
    *ret_runs = runs;
    *ret_count = count;
    return 0;
}
