/* SPDX-License-Identifier: Apache-2.0
 *
 * Reader and writer of QEMU's migration stream; see qemu_stream.h.
 */
#include "wire/qemu_stream.h"

#include "base/cursor.h"
#include "base/must.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    FILE_MAGIC = 0x5145564d,
    FILE_VERSION = 3,
    MARK_EOF = 0x00,
    MARK_START = 0x01,
    MARK_PART = 0x02,
    MARK_END = 0x03,
    MARK_SUBSECTION = 0x05,
    MARK_DESCRIPTION = 0x06,
    MARK_CONFIGURATION = 0x07,
    MARK_FOOTER = 0x7e,
    RAM_VERSION = 4,
    PAGE_ZERO = 0x02,
    PAGE_MEM_SIZE = 0x04,
    PAGE_DATA = 0x08,
    PAGE_EOS = 0x10,
    PAGE_CONTINUE = 0x20,
    PAGE_FLAGS = 0xfff,
};

/* What stands for a block's data in a layer file. */
enum { BLOCK_MAIN, BLOCK_HERE, BLOCK_LEFT_OUT };

static const char ram_name[] = "ram";

/* What a reader knows while it goes through a stream. The first error stays; every later read
 * gives zeros, as a cursor does. */
struct reader {
    const struct qemu_source *source;
    struct qemu_state *state;
    struct buf *keep; /* bytes read are appended here, too: the head */
    const char *main_block;
    struct qemu_block *block; /* of the last page record */
    uint64_t pos;
    int error;
    struct err *err;
};

static void fail(struct reader *r, const char *what, uint64_t value)
{
    if (!r->error)
        r->error = err_set(r->err, -EINVAL, "migration stream: %s (0x%llx) before byte %llu", what,
                           (unsigned long long)value, (unsigned long long)r->pos);
}

static void get_bytes(struct reader *r, void *data, size_t len)
{
    if (!r->error && len) {
        r->error = r->source->read(r->source->arg, data, len);
        if (r->error)
            err_format(r->err, "migration stream: ends at byte %llu: %s",
                       (unsigned long long)r->pos, strerror(-r->error));
    }
    if (r->error) {
        memset(data, 0, len);
        return;
    }
    r->pos += len;
    if (r->keep)
        buf_put(r->keep, data, len);
}

static uint8_t get_u8(struct reader *r)
{
    uint8_t v;

    get_bytes(r, &v, sizeof v);
    return v;
}

static uint32_t get_u32(struct reader *r)
{
    uint32_t v;

    get_bytes(r, &v, sizeof v);
    return __builtin_bswap32(v);
}

static uint64_t get_u64(struct reader *r)
{
    uint64_t v;

    get_bytes(r, &v, sizeof v);
    return __builtin_bswap64(v);
}

/* A name behind its length byte. */
static void get_name(struct reader *r, char name[QEMU_NAME_MAX])
{
    size_t len = get_u8(r);

    get_bytes(r, name, len);
    name[len] = 0;
    if (strlen(name) != len)
        fail(r, "a name with a NUL", len);
}

static void expect(struct reader *r, const char *what, uint64_t got, uint64_t want)
{
    if (got != want)
        fail(r, what, got);
}

/* ---- head ------------------------------------------------------------------------------------ */

/* Subsections of the configuration bear no length, so only known ones can be kept. */
static void skip_subsection(struct reader *r)
{
    char name[QEMU_NAME_MAX], item[QEMU_NAME_MAX];
    uint8_t data[16];

    get_name(r, name);
    expect(r, "version of a configuration subsection", get_u32(r), 1);
    if (strcmp(name, "configuration/target-page-bits") == 0) {
        get_bytes(r, data, 4);
    } else if (strcmp(name, "configuration/uuid") == 0) {
        get_bytes(r, data, 16);
    } else if (strcmp(name, "configuration/capabilities") == 0) {
        uint32_t count = get_u32(r);

        if (count > 64)
            fail(r, "number of capabilities", count);
        for (uint32_t i = 0; i < count && !r->error; i++)
            get_name(r, item);
    } else {
        fail(r, "unknown configuration subsection", name[0]);
    }
}

/* Reads up to and with the mark byte that ends the head; returns that byte. */
static uint8_t read_head(struct reader *r)
{
    char name[QEMU_NAME_MAX];
    uint32_t len;
    uint8_t mark;

    r->keep = &r->state->head;
    expect(r, "magic", get_u32(r), FILE_MAGIC);
    expect(r, "version", get_u32(r), FILE_VERSION);
    expect(r, "configuration mark", get_u8(r), MARK_CONFIGURATION);
    len = get_u32(r);
    if (len == 0 || len >= QEMU_NAME_MAX)
        fail(r, "length of the machine's name", len);
    if (!r->error)
        get_bytes(r, name, len);
    while (mark = get_u8(r), !r->error && mark == MARK_SUBSECTION)
        skip_subsection(r);
    r->keep = NULL;
    if (!r->error)
        r->state->head.len--; /* the mark belongs to what follows */
    return mark;
}

int qemu_state_machine(const struct qemu_state *s, char ret_machine[QEMU_NAME_MAX])
{
    const uint8_t *p = s->head.data;
    uint32_t len;

    if (s->head.len < 13 || p[8] != MARK_CONFIGURATION)
        return -EINVAL;
    memcpy(&len, p + 9, sizeof len);
    len = __builtin_bswap32(len);
    if (len >= QEMU_NAME_MAX || len > s->head.len - 13 || memchr(p + 13, 0, len))
        return -EINVAL;
    memcpy(ret_machine, p + 13, len);
    ret_machine[len] = 0;
    return 0;
}

/* ---- RAM ------------------------------------------------------------------------------------- */

static uint64_t small_bytes(const struct qemu_state *s)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < s->count_blocks; i++)
        sum += s->blocks[i].data ? s->blocks[i].bytes : 0;
    return sum;
}

static struct qemu_block *find_block(const struct qemu_state *s, const char *name)
{
    for (size_t i = 0; i < s->count_blocks; i++)
        if (strcmp(s->blocks[i].name, name) == 0)
            return (struct qemu_block *)&s->blocks[i];
    return NULL;
}

/* Adds a block, with zeroed data unless that is elsewhere. NULL when it is none of ours. */
static struct qemu_block *add_block(struct qemu_state *s, const char *name, uint64_t bytes,
                                    bool elsewhere)
{
    struct qemu_block *b = &s->blocks[s->count_blocks];

    if (s->count_blocks == QEMU_BLOCKS_MAX || find_block(s, name) || bytes % QEMU_PAGE_BYTES ||
        bytes == 0 || (!elsewhere && bytes > QEMU_SMALL_BYTES_MAX - small_bytes(s)))
        return NULL;
    *b = (struct qemu_block){.bytes = bytes};
    memcpy(b->name, name, strlen(name) + 1);
    if (!elsewhere)
        b->data = xcalloc(bytes, 1);
    s->count_blocks++;
    return b;
}

static void read_block_list(struct reader *r, uint64_t total)
{
    char name[QEMU_NAME_MAX];

    while (total && !r->error) {
        get_name(r, name);
        uint64_t bytes = get_u64(r);

        if (r->error)
            return;
        if (bytes > total || !add_block(r->state, name, bytes, strcmp(name, r->main_block) == 0)) {
            fail(r, "size of a memory block", bytes);
            return;
        }
        total -= bytes;
    }
}

static void read_page(struct reader *r, uint64_t word)
{
    uint8_t page[QEMU_PAGE_BYTES];
    char name[QEMU_NAME_MAX];
    uint64_t flags = word & PAGE_FLAGS, offset = word - flags;

    if (!(flags & PAGE_CONTINUE)) {
        get_name(r, name);
        r->block = find_block(r->state, name);
    }
    if (!r->block || offset >= r->block->bytes) {
        fail(r, "page outside of all blocks", word);
        return;
    }
    if (flags & PAGE_ZERO)
        memset(page, get_u8(r), sizeof page);
    else
        get_bytes(r, page, sizeof page);
    if (!r->error && r->block->data)
        memcpy(r->block->data + offset, page, sizeof page);
}

/* The records of one RAM section, up to its end mark and footer. */
static void read_records(struct reader *r)
{
    while (!r->error) {
        uint64_t word = get_u64(r), flags = word & PAGE_FLAGS;

        if (flags == PAGE_EOS)
            break;
        if (flags == PAGE_MEM_SIZE && r->state->count_blocks == 0)
            read_block_list(r, word - flags);
        else if ((flags & ~(uint64_t)PAGE_CONTINUE) == PAGE_ZERO ||
                 (flags & ~(uint64_t)PAGE_CONTINUE) == PAGE_DATA)
            read_page(r, word);
        else
            fail(r, "unknown kind of page record", word);
    }
    expect(r, "footer mark", get_u8(r), MARK_FOOTER);
    expect(r, "section of a footer", get_u32(r), r->state->ram_section);
}

static void read_ram(struct reader *r, uint8_t mark)
{
    char name[QEMU_NAME_MAX];

    expect(r, "section mark", mark, MARK_START);
    r->state->ram_section = get_u32(r);
    get_name(r, name);
    if (!r->error && strcmp(name, ram_name) != 0)
        fail(r, "first section is not that of the memory", name[0]);
    expect(r, "instance of the RAM section", get_u32(r), 0);
    expect(r, "version of the RAM section", get_u32(r), RAM_VERSION);
    read_records(r);
    if (!r->error && (r->state->count_blocks == 0 || !find_block(r->state, r->main_block)))
        fail(r, "no main memory among the blocks", r->state->count_blocks);
    while (!r->error && mark != MARK_END) {
        mark = get_u8(r);
        if (mark != MARK_PART && mark != MARK_END)
            fail(r, "unexpected section mark", mark);
        expect(r, "section of the memory", get_u32(r), r->state->ram_section);
        read_records(r);
    }
}

int qemu_stream_read(const struct qemu_source *source, const char *main_block,
                     struct qemu_state *ret_state, struct err *ret_err)
{
    struct reader r = {
        .source = source, .state = ret_state, .main_block = main_block, .err = ret_err};

    *ret_state = (struct qemu_state){0};
    read_ram(&r, read_head(&r));
    if (r.error)
        qemu_state_deinit(ret_state);
    return r.error;
}

static void put_page(struct buf *out, const struct qemu_block *b, uint64_t offset, bool first)
{
    static const uint8_t zero[QEMU_PAGE_BYTES];
    bool is_zero = memcmp(b->data + offset, zero, sizeof zero) == 0;

    buf_put_u64(out, offset | (is_zero ? PAGE_ZERO : PAGE_DATA) | (first ? 0 : PAGE_CONTINUE));
    if (first) {
        buf_put_u8(out, (uint8_t)strlen(b->name));
        buf_put_str(out, b->name);
    }
    if (is_zero)
        buf_put_u8(out, 0);
    else
        buf_put(out, b->data + offset, QEMU_PAGE_BYTES);
}

static void put_section_end(struct buf *out, const struct qemu_state *s)
{
    buf_put_u64(out, PAGE_EOS);
    buf_put_u8(out, MARK_FOOTER);
    buf_put_u32(out, s->ram_section);
}

void qemu_stream_put(struct buf *out, const struct qemu_state *s)
{
    uint64_t total = 0;

    for (size_t i = 0; i < s->count_blocks; i++) {
        MUST(!s->blocks[i].left_out);
        total += s->blocks[i].bytes;
    }
    buf_put(out, s->head.data, s->head.len);
    buf_put_u8(out, MARK_START);
    buf_put_u32(out, s->ram_section);
    buf_put_u8(out, (uint8_t)strlen(ram_name));
    buf_put_str(out, ram_name);
    buf_put_u32(out, 0);
    buf_put_u32(out, RAM_VERSION);
    buf_put_u64(out, total | PAGE_MEM_SIZE);
    for (size_t i = 0; i < s->count_blocks; i++) {
        buf_put_u8(out, (uint8_t)strlen(s->blocks[i].name));
        buf_put_str(out, s->blocks[i].name);
        buf_put_u64(out, s->blocks[i].bytes);
    }
    put_section_end(out, s);
    buf_put_u8(out, MARK_END);
    buf_put_u32(out, s->ram_section);
    for (size_t i = 0; i < s->count_blocks; i++)
        for (uint64_t at = 0; s->blocks[i].data && at < s->blocks[i].bytes; at += QEMU_PAGE_BYTES)
            put_page(out, &s->blocks[i], at, at == 0);
    put_section_end(out, s);
    buf_put(out, s->device.data, s->device.len);
    buf_put_u8(out, MARK_EOF);
    buf_put_u8(out, MARK_DESCRIPTION);
    buf_put_u32(out, 2);
    buf_put_str(out, "{}");
}

/* ---- the state as a whole -------------------------------------------------------------------- */

void qemu_state_deinit(struct qemu_state *s)
{
    buf_deinit(&s->head);
    buf_deinit(&s->device);
    for (size_t i = 0; i < s->count_blocks; i++)
        free(s->blocks[i].data);
    *s = (struct qemu_state){0};
}

void qemu_state_copy(struct qemu_state *ret_to, const struct qemu_state *from)
{
    *ret_to =
        (struct qemu_state){.ram_section = from->ram_section, .count_blocks = from->count_blocks};
    buf_put(&ret_to->head, from->head.data, from->head.len);
    buf_put(&ret_to->device, from->device.data, from->device.len);
    for (size_t i = 0; i < from->count_blocks; i++) {
        ret_to->blocks[i] = from->blocks[i];
        if (from->blocks[i].data) {
            ret_to->blocks[i].data = xmalloc(from->blocks[i].bytes);
            memcpy(ret_to->blocks[i].data, from->blocks[i].data, from->blocks[i].bytes);
        }
    }
}

int qemu_state_set_device(struct qemu_state *s, const void *data, size_t len, struct err *ret_err)
{
    struct cursor c = cursor_of(data, len);
    uint32_t magic = cursor_u32(&c), version = cursor_u32(&c);

    if (magic != FILE_MAGIC || version != FILE_VERSION || cursor_left(&c) < 2 ||
        c.end[-1] != MARK_EOF || len > QEMU_DEVICE_BYTES_MAX)
        return err_set(ret_err, -EINVAL, "QEMU wrote a device state of %zu bytes that is none",
                       len);
    buf_clear(&s->device);
    buf_put(&s->device, c.p, cursor_left(&c) - 1);
    return 0;
}

void qemu_state_put(struct buf *out, const struct qemu_state *s, bool with_blocks)
{
    buf_put_u32(out, (uint32_t)s->head.len);
    buf_put(out, s->head.data, s->head.len);
    buf_put_u32(out, s->ram_section);
    buf_put_u32(out, (uint32_t)s->count_blocks);
    for (size_t i = 0; i < s->count_blocks; i++) {
        const struct qemu_block *b = &s->blocks[i];

        buf_put_u8(out, (uint8_t)strlen(b->name));
        buf_put_str(out, b->name);
        buf_put_u64(out, b->bytes);
        if (b->data && with_blocks) {
            buf_put_u8(out, BLOCK_HERE);
            buf_put(out, b->data, b->bytes);
        } else {
            buf_put_u8(out, b->data || b->left_out ? BLOCK_LEFT_OUT : BLOCK_MAIN);
        }
    }
    buf_put_u32(out, (uint32_t)s->device.len);
    buf_put(out, s->device.data, s->device.len);
}

static bool get_block(struct cursor *c, struct qemu_state *s)
{
    char name[QEMU_NAME_MAX] = "";
    uint8_t len = cursor_u8(c);
    const uint8_t *p = cursor_bytes(c, len);
    uint64_t bytes = cursor_u64(c);
    uint8_t kind = cursor_u8(c);
    struct qemu_block *b;

    if (c->bad || memchr(p, 0, len) || kind > BLOCK_LEFT_OUT ||
        (kind == BLOCK_HERE && bytes > cursor_left(c)))
        return false;
    memcpy(name, p, len);
    b = add_block(s, name, bytes, kind != BLOCK_HERE);
    if (b && kind == BLOCK_HERE)
        memcpy(b->data, cursor_bytes(c, bytes), bytes);
    if (b)
        b->left_out = kind == BLOCK_LEFT_OUT;
    return b;
}

int qemu_state_get(const void *data, size_t len, struct qemu_state *ret_state, struct err *ret_err)
{
    struct cursor c = cursor_of(data, len);
    uint32_t n = cursor_u32(&c), count = 0;
    const uint8_t *p = cursor_bytes(&c, n);
    char machine[QEMU_NAME_MAX];
    bool good = p;

    *ret_state = (struct qemu_state){0};
    if (good) {
        buf_put(&ret_state->head, p, n);
        ret_state->ram_section = cursor_u32(&c);
        count = cursor_u32(&c);
        good = count <= QEMU_BLOCKS_MAX && qemu_state_machine(ret_state, machine) == 0;
    }
    for (uint32_t i = 0; good && i < count; i++)
        good = get_block(&c, ret_state);
    n = cursor_u32(&c);
    p = cursor_bytes(&c, n);
    if (!good || c.bad || cursor_left(&c)) {
        qemu_state_deinit(ret_state);
        return err_set(ret_err, -EINVAL, "device state: damaged before byte %zu of %zu",
                       cursor_pos(&c), len);
    }
    buf_put(&ret_state->device, p, n);
    return 0;
}

int qemu_state_complete(struct qemu_state *s, const struct qemu_state *from, struct err *ret_err)
{
    for (size_t i = 0; i < s->count_blocks; i++) {
        struct qemu_block *b = &s->blocks[i];
        const struct qemu_block *other = find_block(from, b->name);

        if (!b->left_out)
            continue;
        if (!other || !other->data || other->bytes != b->bytes)
            return err_set(ret_err, -EINVAL,
                           "device state: memory block %s is missing from the layers below",
                           b->name);
        b->data = xmalloc(b->bytes);
        memcpy(b->data, other->data, b->bytes);
        b->left_out = false;
    }
    return 0;
}
