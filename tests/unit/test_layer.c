/* SPDX-License-Identifier: Apache-2.0
 *
 * Layers: round trips of random memories, and damage: every byte of a file is covered by a check.
 */
#include "base/buf.h"
#include "base/cursor.h"
#include "base/rng.h"
#include "layer/layer.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include <cmocka.h>

enum { PAGES = 600, BYTES = PAGES * LAYER_PAGE_BYTES };

static int to_buf(void *arg, const void *data, size_t len)
{
    buf_put(arg, data, len);
    return 0;
}

static struct layer_meta meta_of(bool full)
{
    struct layer_meta m = {.full = full,
                           .memory_bytes = BYTES,
                           .output_offset = 1234567,
                           .run_ms = 89,
                           .qemu_version = 70222,
                           .cpus = 2,
                           .machine = "pc-i440fx-7.2",
                           .cpu = "Nehalem",
                           .accel = "tcg"};

    memset(m.base_digest, full ? 0 : 0xd1, sizeof m.base_digest);
    return m;
}

static void make_state(struct qemu_state *s)
{
    *s = (struct qemu_state){.ram_section = 2, .count_blocks = 2};
    buf_put(&s->head, "\x51\x45\x56\x4d\0\0\0\3\7\0\0\0\15pc-i440fx-7.2", 26);
    buf_put_str(&s->device, "the device part");
    strcpy(s->blocks[0].name, "pc.ram");
    s->blocks[0].bytes = BYTES;
    strcpy(s->blocks[1].name, "pc.bios");
    s->blocks[1].bytes = LAYER_PAGE_BYTES;
    s->blocks[1].data = xcalloc(1, LAYER_PAGE_BYTES);
    memcpy(s->blocks[1].data, "firmware", 8);
}

/* What differs from base (NULL: zeros) as a layer file. */
static void write_layer(struct buf *out, const uint8_t *memory, const uint8_t *base, bool full)
{
    struct layer_meta meta = meta_of(full);
    struct qemu_state s;
    struct layer_writer *w;
    uint64_t pages;

    make_state(&s);
    assert_int_equal(layer_writer_new(&meta, &s, to_buf, out, &w), 0);
    /* In pieces of odd sizes, as the scan does it. */
    for (size_t at = 0, n; at < BYTES; at += n) {
        n = (1 + at / LAYER_PAGE_BYTES % 7) * LAYER_PAGE_BYTES;
        n = n < BYTES - at ? n : BYTES - at;
        assert_int_equal(layer_writer_diff(w, at, memory + at, base ? base + at : NULL, n), 0);
    }
    assert_int_equal(layer_writer_finish(w, &pages), 0);
    layer_writer_free(w);
    qemu_state_deinit(&s);
}

/* Writes random pages: noise, a repeated byte, or zeros. */
static void scribble(struct rng *r, uint8_t *memory, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint64_t first = rng_below(r, PAGES), n = 1 + rng_below(r, 80), kind = rng_below(r, 3);

        for (uint64_t p = first; p < PAGES && p < first + n; p++) {
            uint8_t *page = memory + p * LAYER_PAGE_BYTES;

            memset(page, kind == 1 ? (int)(1 + rng_below(r, 255)) : 0, LAYER_PAGE_BYTES);
            for (size_t k = 0; kind == 2 && k < LAYER_PAGE_BYTES; k += 8)
                memcpy(page + k, &(uint64_t){rng_u64(r)}, 8);
        }
    }
}

static void check_layer(const struct buf *file, uint8_t *onto, const uint8_t *want)
{
    struct layer_file *f;
    struct qemu_state s;
    struct err err;

    if (layer_open(file->data, file->len, &f, &err))
        fail_msg("%s", err.text);
    assert_int_equal(layer_meta_of(f)->output_offset, 1234567);
    assert_string_equal(layer_meta_of(f)->cpu, "Nehalem");
    assert_int_equal(layer_apply_mapped(f, onto, &err), 0);
    assert_memory_equal(onto, want, BYTES);
    assert_int_equal(layer_read_state(f, &s, &err), 0);
    assert_int_equal(s.device.len, strlen("the device part"));
    assert_memory_equal(s.blocks[1].data, "firmware", 8);
    qemu_state_deinit(&s);
    layer_close(f);
}

static void test_round_trips(void **state)
{
    uint64_t seed = getenv("YADO_SEED") ? strtoull(getenv("YADO_SEED"), NULL, 10) : 1;
    uint8_t *base = xcalloc(1, BYTES), *memory = xmalloc(BYTES), *composed = xmalloc(BYTES);

    print_message("seed %llu\n", (unsigned long long)seed);
    for (int i = 0; i < 40; i++) {
        struct rng r = rng_seed(seed + (uint64_t)i);
        AUTO_BUF struct buf full = {0};
        AUTO_BUF struct buf diff = {0};

        memset(base, 0, BYTES);
        scribble(&r, base, (size_t)i % 20);
        write_layer(&full, base, NULL, true);
        memset(composed, 0, BYTES);
        check_layer(&full, composed, base);
        memcpy(memory, base, BYTES);
        scribble(&r, memory, rng_below(&r, 12));
        write_layer(&diff, memory, base, false);
        check_layer(&diff, composed, memory);
    }
    free(base);
    free(memory);
    free(composed);
}

static void make_example(struct buf *out)
{
    struct rng r = rng_seed(7);
    uint8_t *memory = xcalloc(1, BYTES), *base = xcalloc(1, BYTES);

    scribble(&r, base, 9);
    memcpy(memory, base, BYTES);
    scribble(&r, memory, 9);
    write_layer(out, memory, base, false);
    free(memory);
    free(base);
}

static int ignore_page(void *arg, uint64_t offset, const uint8_t *data, size_t len)
{
    return 0;
}

/* Opens and uses everything of a file. */
static int use_all(const uint8_t *data, size_t len, struct err *err)
{
    struct layer_file *f;
    struct qemu_state s;
    int r = layer_open(data, len, &f, err);

    if (r)
        return r;
    r = layer_apply(f, false, ignore_page, NULL, err);
    if (!r)
        r = layer_read_state(f, &s, err);
    if (!r)
        qemu_state_deinit(&s);
    layer_close(f);
    return r;
}

/* Any single byte that is wrong is found, wherever it is. */
static void test_every_byte_is_covered(void **state)
{
    AUTO_BUF struct buf b = {0};
    struct err err;

    make_example(&b);
    assert_int_equal(use_all(b.data, b.len, &err), 0);
    /* All of header, table and footer; the frames in steps. */
    for (size_t i = 0; i < b.len; i += i < 400 || i > b.len - 400 ? 1 : 331) {
        for (int bit = 0; bit < 8; bit += 7) {
            err.text[0] = 0;
            b.data[i] ^= (uint8_t)(1 << bit);
            if (use_all(b.data, b.len, &err) >= 0 || !err.text[0])
                fail_msg("bit %d of byte %zu of %zu is not covered", bit, i, b.len);
            b.data[i] ^= (uint8_t)(1 << bit);
        }
    }
}

static void test_cut_off(void **state)
{
    AUTO_BUF struct buf b = {0};
    struct err err;

    make_example(&b);
    for (size_t n = 0; n < b.len; n += n < 400 || n > b.len - 100 ? 1 : 997) {
        uint8_t *copy = xmalloc(n ? n : 1); /* its own, so that ASan sees a read beyond */

        memcpy(copy, b.data, n);
        assert_true(use_all(copy, n, &err) < 0);
        free(copy);
    }
    buf_put_u8(&b, 0);
    assert_true(use_all(b.data, b.len, &err) < 0);
}

static void test_names_the_trouble(void **state)
{
    AUTO_BUF struct buf b = {0};
    struct err err;

    make_example(&b);
    assert_int_equal(use_all((const uint8_t *)"hello", 5, &err), -EINVAL);
    assert_non_null(strstr(err.text, "not a layer file"));
    assert_int_equal(use_all(b.data, b.len - 1, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "cut off"));
    b.data[11] = 9;
    assert_int_equal(use_all(b.data, b.len, &err), -EPROTONOSUPPORT);
    assert_non_null(strstr(err.text, "version 9"));
    b.data[11] = 1;
    b.data[300] ^= 1;
    assert_int_equal(use_all(b.data, b.len, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "device state"));
}

/* Tables that lie, under correct checksums: a hostile writer. */
static void test_tables_that_lie(void **state)
{
    struct layer_frame frames[] = {{256, 10, 100, 0}, {266, 10, 8192, 0}, {276, 4, 4096, 0}};
    struct layer_run runs[] = {{3, 1, 1}, {4, 5, LAYER_FRAME_ZERO}, {20, 1, 1}, {21, 1, 2}};
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
    struct layer_meta meta = meta_of(true);
    uint8_t *memory = xmalloc(BYTES);
    struct rng r = rng_seed(3);
    uint64_t pages;

    memset(memory, 1, BYTES);
    scribble(&r, memory, 9);
    for (size_t room = 0; room < 20000; room += 501) {
        struct layer_writer *w;
        struct qemu_state s;
        size_t left = room;

        make_state(&s);
        int error = layer_writer_new(&meta, &s, full_disk, &left, &w);
        qemu_state_deinit(&s);
        if (!error) {
            (void)layer_writer_pages(w, 0, memory, BYTES); /* it sticks */
            error = layer_writer_finish(w, &pages);
            layer_writer_free(w);
        }
        assert_int_equal(error, -ENOSPC);
    }
    free(memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trips),     cmocka_unit_test(test_every_byte_is_covered),
        cmocka_unit_test(test_cut_off),         cmocka_unit_test(test_names_the_trouble),
        cmocka_unit_test(test_tables_that_lie), cmocka_unit_test(test_sink_errors),
    };

    return cmocka_run_group_tests_name("layer", tests, NULL, NULL);
}
