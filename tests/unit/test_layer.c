/* SPDX-License-Identifier: Apache-2.0
 *
 * Layer files: round trips of random memories, and damage: every byte of a file is covered by a
 * check that says what is damaged.
 */
#include "layer_make.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { PAGES = 600, BYTES = PAGES * LAYER_PAGE_BYTES };

static const uint8_t parent[LAYER_DIGEST_BYTES] = {0xd1};

/* A file that is read in ranges, and how much of it was. */
struct ranges {
    const struct buf *file;
    uint64_t bytes_read;
    int error;
};

static int read_range(void *arg, uint64_t offset, void *data, size_t len)
{
    struct ranges *r = arg;

    assert_true(offset <= r->file->len && len <= r->file->len - offset);
    r->bytes_read += len;
    memcpy(data, r->file->data + offset, len);
    return r->error;
}

static int paste(void *arg, uint64_t offset, const uint8_t *data, size_t len)
{
    uint8_t *memory = arg;

    if (data)
        memcpy(memory + offset, data, len);
    else
        memset(memory + offset, 0, len);
    return 0;
}

/* Frame by frame, as the table says. */
static int unpack_all(const struct layer *l, uint8_t *onto, struct err *err)
{
    const struct layer_table *t = layer_table_of(l);
    uint8_t *frame = xmalloc(LAYER_FRAME_BYTES_MAX);
    int r = 0;

    for (size_t i = 0; i < t->count_runs && !r; i++) {
        const struct layer_run *run = &t->runs[i];
        bool zeros = run->frame == LAYER_FRAME_ZERO;

        if (!zeros)
            r = layer_read_frame(l, run->frame, frame, err);
        if (!r)
            (void)paste(onto, run->first_page * LAYER_PAGE_BYTES,
                        zeros ? NULL : frame + run->frame_page * LAYER_PAGE_BYTES,
                        (size_t)run->count_pages * LAYER_PAGE_BYTES);
    }
    free(frame);
    return r;
}

/* Opens and uses everything of a file. */
static int use_all(const struct layer_source *source, uint8_t *onto, struct err *err)
{
    struct layer_prints *prints;
    struct layer_hot_run *hot;
    struct qemu_state s;
    struct layer *l;
    size_t count;
    int r = layer_open(source, &l, err);

    if (r)
        return r;
    r = unpack_all(l, onto, err);
    if (!r && (r = layer_read_state(l, &s, err)) == 0)
        qemu_state_deinit(&s);
    if (!r && (r = layer_read_hot(l, &hot, &count, err)) == 0)
        free(hot);
    if (!r) {
        prints = layer_prints_new(layer_meta_of(l)->memory_bytes);
        r = layer_prints_apply(prints, l, err);
        layer_prints_free(prints);
    }
    layer_close(l);
    return r;
}

/* ---- round trips ------------------------------------------------------------------------------
 */

static void check_rest(const struct layer *l, const uint8_t *want)
{
    struct layer_prints *prints = layer_prints_new(BYTES);
    struct layer_hot_run *hot;
    struct qemu_state s;
    struct err err;
    size_t count;

    assert_int_equal(layer_meta_of(l)->output_offset, MAKE_OUTPUT_OFFSET);
    assert_int_equal(layer_meta_of(l)->disk_cut, 77);
    assert_string_equal(layer_meta_of(l)->cpu, "Nehalem");
    assert_int_equal(layer_read_state(l, &s, &err), 0);
    assert_int_equal(s.device.len, strlen("the device part"));
    assert_true(s.blocks[1].left_out == !layer_meta_of(l)->full);
    qemu_state_deinit(&s);
    assert_int_equal(layer_read_hot(l, &hot, &count, &err), 0);
    assert_in_range(count, 0, 3);
    free(hot);
    assert_int_equal(layer_prints_apply(prints, l, &err), 0);
    for (size_t i = 0; i < layer_table_of(l)->count_runs; i++)
        for (uint64_t k = 0; k < layer_table_of(l)->runs[i].count_pages; k++) {
            uint64_t page = layer_table_of(l)->runs[i].first_page + k;

            assert_true(layer_print_equal(layer_prints_get(prints, page),
                                          layer_print_of(want + page * LAYER_PAGE_BYTES)));
        }
    layer_prints_free(prints);
}

static void check_layer(const struct buf *file, uint8_t *onto, const uint8_t *want)
{
    struct layer *l = make_open(file);
    struct err err;

    assert_int_equal(unpack_all(l, onto, &err), 0);
    assert_memory_equal(onto, want, BYTES);
    check_rest(l, want);
    layer_close(l);
}

static void test_round_trips(void **state)
{
    uint8_t *base = xcalloc(1, BYTES), *memory = xmalloc(BYTES), *composed = xmalloc(BYTES);
    uint64_t seed = make_seed();

    for (size_t i = 0; i < 40; i++) {
        struct rng r = rng_seed(seed + i);
        AUTO_BUF struct buf full = {0};
        AUTO_BUF struct buf diff = {0};

        memset(base, 0, BYTES);
        make_scribbles(&r, base, BYTES, i % 20);
        make_layer(&r, &full, base, NULL, BYTES, NULL);
        memset(composed, 0, BYTES);
        check_layer(&full, composed, base);
        memcpy(memory, base, BYTES);
        make_scribbles(&r, memory, BYTES, rng_below(&r, 12));
        make_layer(&r, &diff, memory, base, BYTES, parent);
        check_layer(&diff, composed, memory);
    }
    free(base);
    free(memory);
    free(composed);
}

static void make_example(struct buf *out, uint64_t memory_bytes, size_t scribbles)
{
    struct rng r = rng_seed(7);
    uint8_t *memory = xcalloc(1, memory_bytes), *base = xcalloc(1, memory_bytes);

    make_scribbles(&r, base, memory_bytes, scribbles);
    memcpy(memory, base, memory_bytes);
    make_scribbles(&r, memory, memory_bytes, scribbles);
    make_layer(&r, out, memory, base, memory_bytes, parent);
    free(memory);
    free(base);
}

/* Header, footer, table and one frame: no more of the file is read. */
static void test_reads_ranges(void **state)
{
    AUTO_BUF struct buf b = {0};
    struct ranges ranges = {.file = &b};
    uint8_t *frame = xmalloc(LAYER_FRAME_BYTES_MAX), *again = xmalloc(LAYER_FRAME_BYTES_MAX);
    struct layer *l, *whole;
    struct err err;

    make_example(&b, BYTES, 30);
    struct layer_source source = {.file_bytes = b.len, .read = read_range, .arg = &ranges};
    assert_int_equal(layer_open(&source, &l, &err), 0);
    const struct layer_extent *f = &layer_table_of(l)->frames[2];
    assert_int_equal(ranges.bytes_read, LAYER_HEADER_BYTES + LAYER_FOOTER_BYTES +
                                            layer_footer_of(l)->sections[LAYER_TABLE].stored_bytes);
    ranges.bytes_read = 0;
    assert_int_equal(layer_read_frame(l, 2, frame, &err), 0);
    assert_int_equal(ranges.bytes_read, f->stored_bytes);
    whole = make_open(&b);
    assert_int_equal(layer_read_frame(whole, 2, again, &err), 0);
    assert_memory_equal(frame, again, f->raw_bytes);
    assert_int_equal(layer_unpack_frame(l, 2, b.data + f->offset, f->stored_bytes, again, &err), 0);
    assert_memory_equal(frame, again, f->raw_bytes);
    /* The source's own trouble comes out as such. */
    ranges.error = -ENOTCONN;
    assert_int_equal(layer_read_frame(l, 2, frame, &err), -ENOTCONN);
    assert_non_null(strstr(err.text, "frame 2"));
    layer_close(whole);
    layer_close(l);
    assert_int_equal(layer_open(&source, &l, &err), -ENOTCONN);
    free(frame);
    free(again);
}

/* ---- damage ------------------------------------------------------------------------------------
 */

/* What stands at a byte of the file. */
static void name_place(const struct layer *l, size_t at, char name[40])
{
    const struct layer_footer *f = layer_footer_of(l);
    const struct layer_table *t = layer_table_of(l);

    strcpy(name, at < LAYER_HEADER_BYTES ? "header" : "footer");
    for (size_t i = 0; i < t->count_frames; i++)
        if (at >= t->frames[i].offset && at < t->frames[i].offset + t->frames[i].stored_bytes)
            snprintf(name, 40, i ? "frame %zu " : "device state", i);
    for (size_t i = 0; i < LAYER_SECTIONS; i++)
        if (at >= f->sections[i].offset && at < f->sections[i].offset + f->sections[i].stored_bytes)
            strcpy(name, layer_section_name(i));
}

/* Every bit of every byte of a small file, and the message names the place. */
static void test_every_bit_is_covered(void **state)
{
    enum { SMALL = 200 * LAYER_PAGE_BYTES };
    AUTO_BUF struct buf b = {0};
    AUTO_BUF struct buf good = {0};
    uint8_t *onto = xcalloc(1, SMALL), *memory = xcalloc(1, SMALL), *base = xcalloc(1, SMALL);
    struct rng r = rng_seed(11);
    char name[40];
    struct err err;

    /* Pages that compress to nothing, in several frames, and some that become zeros. */
    for (uint64_t p = 0; p < 200; p += 1 + (p % 9 == 0)) {
        memset(base + p * LAYER_PAGE_BYTES, 1, LAYER_PAGE_BYTES);
        memset(memory + p * LAYER_PAGE_BYTES, p % 5 ? (int)(2 + p % 2) : 0, LAYER_PAGE_BYTES);
    }
    make_layer(&r, &b, memory, base, SMALL, parent);
    free(base);
    free(memory);
    buf_put(&good, b.data, b.len);
    struct layer *l = make_open(&good);
    struct layer_source source = {.file_bytes = b.len, .data = b.data};
    assert_int_equal(use_all(&source, onto, &err), 0);
    assert_true(layer_table_of(l)->count_frames > 3);
    print_message("%zu bytes, %zu frames\n", b.len, layer_table_of(l)->count_frames);
    for (size_t i = 0; i < b.len; i++) {
        name_place(l, i, name);
        for (int bit = 0; bit < 8; bit++) {
            b.data[i] ^= (uint8_t)(1 << bit);
            err.text[0] = 0;
            if (use_all(&source, onto, &err) >= 0)
                fail_msg("bit %d of byte %zu of %zu is not covered", bit, i, b.len);
            /* The first bytes say what it is at all. */
            if (i >= 12 && !strstr(err.text, name))
                fail_msg("byte %zu: \"%s\" does not name the %s", i, err.text, name);
            b.data[i] ^= (uint8_t)(1 << bit);
        }
    }
    layer_close(l);
    free(onto);
}

static void test_cut_off_anywhere(void **state)
{
    AUTO_BUF struct buf b = {0};
    uint8_t *onto = xcalloc(1, BYTES);
    struct err err;

    make_example(&b, BYTES, 9);
    for (size_t n = 0; n < b.len; n += n < 2000 || n > b.len - 5000 ? 1 : 397) {
        uint8_t *copy = xmalloc(n ? n : 1); /* its own, so that ASan sees a read beyond */

        memcpy(copy, b.data, n);
        err.text[0] = 0;
        assert_true(use_all(&(struct layer_source){.file_bytes = n, .data = copy}, onto, &err) < 0);
        assert_true(err.text[0]);
        free(copy);
    }
    buf_put_u8(&b, 0);
    assert_true(use_all(&(struct layer_source){.file_bytes = b.len, .data = b.data}, onto, &err) <
                0);
    free(onto);
}

static void test_names_the_trouble(void **state)
{
    AUTO_BUF struct buf b = {0};
    uint8_t *onto = xcalloc(1, BYTES);
    struct err err;

    make_example(&b, BYTES, 9);
    struct layer_source source = {.file_bytes = 5, .data = (const uint8_t *)"hello"};
    assert_int_equal(use_all(&source, onto, &err), -EINVAL);
    assert_non_null(strstr(err.text, "not a layer file"));
    source = (struct layer_source){.file_bytes = b.len - 1, .data = b.data};
    assert_int_equal(use_all(&source, onto, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "cut off"));
    source.file_bytes = b.len;
    b.data[11] = 1;
    assert_int_equal(use_all(&source, onto, &err), -EPROTONOSUPPORT);
    assert_non_null(strstr(err.text, "version 1"));
    free(onto);
}

/* Tables that lie, under correct checksums: a hostile writer. */
static void test_tables_that_lie(void **state)
{
    struct layer_extent frames[] = {{256, 10, 100, 0}, {266, 10, 8192, 0}, {276, 4, 4096, 0}};
    struct layer_run runs[] = {
        {3, 1, 1, 0}, {4, 5, LAYER_FRAME_ZERO, 0}, {20, 1, 1, 1}, {21, 1, 2, 0}};
    struct layer_table t = {frames, 3, runs, 4}, got;
    struct err err;
    struct {
        const char *what;
        uint32_t *field32;
        uint64_t *field64;
        uint64_t value;
    } lies[] = {
        {"gap between frames", NULL, &frames[1].offset, 267},
        {"frame in the header", NULL, &frames[0].offset, 0},
        {"frame beyond the end", &frames[2].stored_bytes, NULL, 5},
        {"hole at the end", &frames[2].stored_bytes, NULL, 3},
        {"empty frame", &frames[1].raw_bytes, NULL, 0},
        {"frame that is too large", &frames[1].raw_bytes, NULL, 65 * 4096},
        {"state that is too large", &frames[0].raw_bytes, NULL, UINT32_MAX},
        {"frame larger than its pages", &frames[1].raw_bytes, NULL, 3 * 4096},
        {"frame smaller than its pages", &frames[2].raw_bytes, NULL, 100},
        {"page beyond the memory", NULL, &runs[3].first_page, 600},
        {"run beyond the memory", &runs[1].count_pages, NULL, UINT32_MAX},
        {"overlap", &runs[1].count_pages, NULL, 17},
        {"backwards", NULL, &runs[3].first_page, 2},
        {"empty run", &runs[0].count_pages, NULL, 0},
        {"pages in the state's frame", &runs[0].frame, NULL, 0},
        {"no such frame", &runs[3].frame, NULL, 3},
        {"frame skipped", &runs[3].frame, NULL, 1},
        {"huge run", &runs[0].count_pages, NULL, 65},
    };
    AUTO_BUF struct buf b = {0};

    layer_table_put(&b, &t);
    assert_int_equal(layer_table_get(b.data, b.len, BYTES, 280, &got, &err), 0);
    assert_int_equal(got.runs[2].frame_page, 1);
    assert_int_equal(layer_table_count_stored(&got), 3);
    layer_table_deinit(&got);
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        uint64_t old = lies[i].field32 ? *lies[i].field32 : *lies[i].field64;

        if (lies[i].field32)
            *lies[i].field32 = (uint32_t)lies[i].value;
        else
            *lies[i].field64 = lies[i].value;
        buf_clear(&b);
        layer_table_put(&b, &t);
        if (layer_table_get(b.data, b.len, BYTES, 280, &got, &err) != -EINVAL)
            fail_msg("taken: %s", lies[i].what);
        if (lies[i].field32)
            *lies[i].field32 = (uint32_t)old;
        else
            *lies[i].field64 = old;
    }
}

static int full_disk(void *arg, const void *data, size_t len)
{
    size_t *left = arg;

    if (len > *left)
        return -ENOSPC;
    *left -= len;
    return 0;
}

/* A sink that fails, at every amount of room: the error comes out, nothing leaks. */
static void test_sink_errors(void **state)
{
    struct layer_meta meta = make_meta(BYTES, NULL);
    uint8_t *memory = xmalloc(BYTES);
    struct rng r = rng_seed(3);
    uint64_t pages;

    memset(memory, 1, BYTES);
    make_scribbles(&r, memory, BYTES, 9);
    for (size_t room = 0; room < 20000; room += 501) {
        struct layer_writer *w;
        struct qemu_state s;
        size_t left = room;

        make_state(&s, BYTES);
        int error = layer_writer_new(&meta, &s, full_disk, &left, &w);
        qemu_state_deinit(&s);
        if (!error) {
            for (uint64_t p = 0; p < PAGES; p++) {
                const uint8_t *data = memory + p * LAYER_PAGE_BYTES;
                struct layer_page page = {p, layer_print_of(data), data};

                (void)layer_writer_page(w, &page); /* it sticks */
            }
            error = layer_writer_finish(w, NULL, 0, &pages);
            layer_writer_free(w);
        }
        assert_int_equal(error, -ENOSPC);
    }
    free(memory);
}

/* A hot list longer than a file takes is cut, one that lies is refused. */
static void test_hot_lists(void **state)
{
    size_t count = LAYER_HOT_RUNS_MAX + 5, got;
    struct layer_hot_run *hot = xcalloc(count, sizeof *hot), *back;
    struct layer_meta meta = make_meta(BYTES, NULL);
    AUTO_BUF struct buf file = {0};
    AUTO_BUF struct buf raw = {0};
    struct qemu_state s;
    struct layer_writer *w;
    struct err err;
    uint64_t pages;

    for (size_t i = 0; i < count; i++)
        hot[i] = (struct layer_hot_run){i * 7919 % PAGES, 1};
    make_state(&s, BYTES);
    assert_int_equal(layer_writer_new(&meta, &s, make_to_buf, &file, &w), 0);
    assert_int_equal(layer_writer_finish(w, hot, count, &pages), 0);
    layer_writer_free(w);
    qemu_state_deinit(&s);
    struct layer *l = make_open(&file);
    assert_int_equal(layer_read_hot(l, &back, &got, &err), 0);
    assert_int_equal(got, LAYER_HOT_RUNS_MAX);
    for (size_t i = 0; i < got; i++)
        assert_int_equal(back[i].first_page, hot[i].first_page);
    layer_close(l);
    free(back);
    hot[2].count_pages = PAGES;
    hot[2].first_page = 1;
    layer_hot_put(&raw, hot, 3);
    assert_int_equal(layer_hot_get(raw.data, raw.len, BYTES, &back, &got, &err), -EINVAL);
    for (size_t n = 0; n < raw.len; n++)
        assert_int_equal(layer_hot_get(raw.data, n, BYTES, &back, &got, &err), -EINVAL);
    free(hot);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trips),          cmocka_unit_test(test_reads_ranges),
        cmocka_unit_test(test_every_bit_is_covered), cmocka_unit_test(test_cut_off_anywhere),
        cmocka_unit_test(test_names_the_trouble),    cmocka_unit_test(test_tables_that_lie),
        cmocka_unit_test(test_sink_errors),          cmocka_unit_test(test_hot_lists),
    };

    return cmocka_run_group_tests_name("layer", tests, NULL, NULL);
}
