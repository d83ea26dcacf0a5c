/* SPDX-License-Identifier: Apache-2.0
 *
 * QEMU's migration stream: what we write we read, and nothing else.
 */
#include "base/buf.h"
#include "base/cursor.h"
#include "wire/qemu_stream.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static int read_cursor(void *arg, void *data, size_t len)
{
    const uint8_t *p = cursor_bytes(arg, len);

    if (!p)
        return -EPIPE;
    memcpy(data, p, len);
    return 0;
}

static int parse(const void *data, size_t len, struct qemu_state *s, struct err *err)
{
    struct cursor c = cursor_of(data, len);
    struct qemu_source source = {read_cursor, &c};

    return qemu_stream_read(&source, "pc.ram", s, err);
}

static void put_name(struct buf *b, const char *name)
{
    buf_put_u8(b, (uint8_t)strlen(name));
    buf_put_str(b, name);
}

static void put_head(struct buf *b, const char *machine)
{
    buf_put_u32(b, 0x5145564d);
    buf_put_u32(b, 3);
    buf_put_u8(b, 7);
    buf_put_u32(b, (uint32_t)strlen(machine));
    buf_put_str(b, machine);
}

static void put_footer(struct buf *b)
{
    buf_put_u64(b, 0x10);
    buf_put_u8(b, 0x7e);
    buf_put_u32(b, 2);
}

/* A stream as QEMU writes it: main memory of four pages, firmware of two. */
static void put_example(struct buf *b)
{
    uint8_t page[4096];

    put_head(b, "pc-i440fx-7.2");
    buf_put_u8(b, 1);
    buf_put_u32(b, 2);
    put_name(b, "ram");
    buf_put_u32(b, 0);
    buf_put_u32(b, 4);
    buf_put_u64(b, 6 * 4096 | 4);
    put_name(b, "pc.ram");
    buf_put_u64(b, 4 * 4096);
    put_name(b, "pc.bios");
    buf_put_u64(b, 2 * 4096);
    put_footer(b);

    buf_put_u8(b, 2); /* a part: main memory, and the firmware's first page for the first time */
    buf_put_u32(b, 2);
    memset(page, 'm', sizeof page);
    buf_put_u64(b, 0x1000 | 8);
    put_name(b, "pc.ram");
    buf_put(b, page, sizeof page);
    buf_put_u64(b, 0x2000 | 2 | 0x20);
    buf_put_u8(b, 0);
    memset(page, 'x', sizeof page);
    buf_put_u64(b, 0 | 8);
    put_name(b, "pc.bios");
    buf_put(b, page, sizeof page);
    put_footer(b);

    buf_put_u8(b, 3); /* the end: the same page again, the last write wins */
    buf_put_u32(b, 2);
    memset(page, 'b', sizeof page);
    buf_put_u64(b, 0 | 8);
    put_name(b, "pc.bios");
    buf_put(b, page, sizeof page);
    put_footer(b);
    buf_put_str(b, "device sections follow");
}

static void test_reads_what_qemu_writes(void **state)
{
    AUTO_BUF struct buf b = {0};
    struct qemu_state s;
    struct err err;
    char machine[QEMU_NAME_MAX];

    put_example(&b);
    assert_int_equal(parse(b.data, b.len, &s, &err), 0);
    assert_int_equal(qemu_state_machine(&s, machine), 0);
    assert_string_equal(machine, "pc-i440fx-7.2");
    assert_int_equal(s.head.len, 13 + strlen(machine));
    assert_int_equal(s.ram_section, 2);
    assert_int_equal(s.count_blocks, 2);
    assert_string_equal(s.blocks[0].name, "pc.ram");
    assert_null(s.blocks[0].data);
    assert_int_equal(s.blocks[0].bytes, 4 * 4096);
    assert_int_equal(s.blocks[1].data[0], 'b');
    assert_int_equal(s.blocks[1].data[4095], 'b');
    assert_int_equal(s.blocks[1].data[4096], 0);
    qemu_state_deinit(&s);
}

static void test_capabilities_stay_in_the_head(void **state)
{
    AUTO_BUF struct buf b = {0};
    AUTO_BUF struct buf rest = {0};
    struct qemu_state s;
    struct err err;

    put_head(&b, "pc-q35-7.2");
    size_t plain = b.len;
    buf_put_u8(&b, 5);
    put_name(&b, "configuration/capabilities");
    buf_put_u32(&b, 1);
    buf_put_u32(&b, 1);
    put_name(&b, "postcopy-ram");
    size_t head = b.len;
    put_example(&rest);
    buf_consume(&rest, 13 + strlen("pc-i440fx-7.2"));
    buf_put(&b, rest.data, rest.len);
    assert_int_equal(parse(b.data, b.len, &s, &err), 0);
    assert_int_equal(s.head.len, head);
    assert_memory_equal(s.head.data, b.data, head);
    qemu_state_deinit(&s);

    memcpy(b.data + plain + 2, "Configuration", 13);
    assert_int_equal(parse(b.data, b.len, &s, &err), -EINVAL);
    assert_non_null(strstr(err.text, "subsection"));
}

static void make_state(struct qemu_state *s)
{
    AUTO_BUF struct buf b = {0};
    struct err err;
    static const char device[] = "\x51\x45\x56\x4d\0\0\0\3sections";

    put_example(&b);
    assert_int_equal(parse(b.data, b.len, s, &err), 0);
    /* The NUL that ends the text is the end mark. */
    assert_int_equal(qemu_state_set_device(s, device, sizeof device, &err), 0);
    assert_int_equal(s->device.len, strlen("sections"));
}

static void assert_same(const struct qemu_state *a, const struct qemu_state *b)
{
    assert_int_equal(a->head.len, b->head.len);
    assert_memory_equal(a->head.data, b->head.data, a->head.len);
    assert_int_equal(a->ram_section, b->ram_section);
    assert_int_equal(a->count_blocks, b->count_blocks);
    for (size_t i = 0; i < a->count_blocks; i++) {
        assert_string_equal(a->blocks[i].name, b->blocks[i].name);
        assert_int_equal(a->blocks[i].bytes, b->blocks[i].bytes);
        assert_int_equal(!a->blocks[i].data, !b->blocks[i].data);
        if (a->blocks[i].data)
            assert_memory_equal(a->blocks[i].data, b->blocks[i].data, a->blocks[i].bytes);
    }
}

static void test_writes_what_it_reads(void **state)
{
    struct qemu_state s, again;
    AUTO_BUF struct buf b = {0};
    struct err err;

    make_state(&s);
    qemu_stream_put(&b, &s);
    assert_int_equal(parse(b.data, b.len, &again, &err), 0);
    assert_same(&s, &again);
    /* Device part, end mark and an empty description stand at the end. */
    static const char end[] = "sections\0\6\0\0\0\2{}";
    assert_memory_equal(b.data + b.len - (sizeof end - 1), end, sizeof end - 1);
    qemu_state_deinit(&again);
    qemu_state_deinit(&s);
}

static void test_record(void **state)
{
    struct qemu_state s, again;
    AUTO_BUF struct buf b = {0};
    struct err err;

    make_state(&s);
    qemu_state_put(&b, &s, true);
    assert_int_equal(qemu_state_get(b.data, b.len, &again, &err), 0);
    assert_same(&s, &again);
    assert_int_equal(again.device.len, s.device.len);
    assert_memory_equal(again.device.data, s.device.data, s.device.len);
    qemu_state_deinit(&again);
    for (size_t n = 0; n < b.len; n += n < 200 ? 1 : 509)
        assert_int_equal(qemu_state_get(b.data, n, &again, &err), -EINVAL);
    buf_put_u8(&b, 0);
    assert_int_equal(qemu_state_get(b.data, b.len, &again, &err), -EINVAL);
    qemu_state_deinit(&s);
}

/* Small blocks left to another state come back from it, and from no other guest's. */
static void test_blocks_left_out(void **state)
{
    struct qemu_state s, again;
    AUTO_BUF struct buf whole = {0};
    AUTO_BUF struct buf b = {0};
    struct err err;

    make_state(&s);
    qemu_state_put(&whole, &s, true);
    qemu_state_put(&b, &s, false);
    assert_true(b.len + s.blocks[1].bytes <= whole.len);
    assert_int_equal(qemu_state_get(b.data, b.len, &again, &err), 0);
    assert_true(again.blocks[1].left_out);
    assert_false(again.blocks[0].left_out);
    s.blocks[1].name[0]++;
    assert_int_equal(qemu_state_complete(&again, &s, &err), -EINVAL);
    assert_non_null(strstr(err.text, again.blocks[1].name));
    s.blocks[1].name[0]--;
    assert_int_equal(qemu_state_complete(&again, &s, &err), 0);
    assert_same(&s, &again);
    buf_clear(&b);
    qemu_state_put(&b, &again, true);
    assert_int_equal(b.len, whole.len);
    assert_memory_equal(b.data, whole.data, b.len);
    qemu_state_deinit(&again);
    qemu_state_deinit(&s);
}

/* Cut off anywhere, or with a wrong byte in its structure: an error that says where. */
static void test_damage(void **state)
{
    AUTO_BUF struct buf b = {0};
    struct qemu_state s;
    struct err err;

    put_example(&b);
    size_t len = b.len - strlen("device sections follow");
    for (size_t n = 0; n < len; n += n < 120 ? 1 : 97) {
        assert_int_equal(parse(b.data, n, &s, &err), -EPIPE);
        assert_non_null(strstr(err.text, "ends at byte"));
        assert_null(s.head.data);
    }
    static const struct {
        size_t at;
        const char *what;
    } wrong[] = {{0, "magic"},
                 {7, "version"},
                 {8, "configuration mark"},
                 {9, "length of the machine"},
                 {26, "section mark"},
                 {32, "first section"},
                 {38, "instance"},
                 {42, "version of the RAM"},
                 {47, "size of a memory block"}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        b.data[wrong[i].at] ^= 0x80;
        assert_int_equal(parse(b.data, b.len, &s, &err), -EINVAL);
        if (!strstr(err.text, wrong[i].what))
            fail_msg("byte %zu: %s", wrong[i].at, err.text);
        b.data[wrong[i].at] ^= 0x80;
    }
}

static void test_device_state(void **state)
{
    struct qemu_state s = {0};
    struct err err;

    assert_int_equal(qemu_state_set_device(&s, "", 0, &err), -EINVAL);
    assert_int_equal(qemu_state_set_device(&s, "\x51\x45\x56\x4d\0\0\0\3x", 9, &err), -EINVAL);
    assert_int_equal(qemu_state_set_device(&s, "\x51\x45\x56\x4d\0\0\0\4x\0", 10, &err), -EINVAL);
    assert_int_equal(qemu_state_set_device(&s, "\x51\x45\x56\x4d\0\0\0\3x\0", 10, &err), 0);
    qemu_state_deinit(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_what_qemu_writes),
        cmocka_unit_test(test_capabilities_stay_in_the_head),
        cmocka_unit_test(test_writes_what_it_reads),
        cmocka_unit_test(test_record),
        cmocka_unit_test(test_blocks_left_out),
        cmocka_unit_test(test_damage),
        cmocka_unit_test(test_device_state),
    };

    return cmocka_run_group_tests_name("qemu_stream", tests, NULL, NULL);
}
