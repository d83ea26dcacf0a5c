/* SPDX-License-Identifier: Apache-2.0
 *
 * Guest frames: what is written is read, in any cut, and a half-sent frame swallows no later one.
 */
#include "base/crc32c.h"
#include "base/rng.h"
#include "wire/guest_frame.h"
#include "wire/guest_mail.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void test_layout(void **unused)
{
    static const uint8_t head[] = {'Y', 'D', 'G', '1', 1, GUEST_ACK, 0, 0, 0, 0, 0, 9};
    struct buf b = {0};

    guest_frame_put(&b, GUEST_ACK, "123456789", 9);
    assert_int_equal(b.len, GUEST_HEADER_BYTES + 9);
    assert_memory_equal(b.data, head, sizeof head);
    /* The check value of RFC 3720 stands where the payload's checksum belongs. */
    assert_memory_equal(b.data + 12, "\xe3\x06\x92\x83\0\0\0\0", 8);
    assert_memory_equal(b.data + GUEST_HEADER_BYTES, "123456789", 9);
    buf_deinit(&b);
}

/* Frames of random sizes, fed in random pieces with rubbish between, come out whole and in order.
 */
static void test_pieces(void **unused)
{
    uint64_t seed = getenv("YADO_SEED") ? strtoull(getenv("YADO_SEED"), NULL, 0) : 7;
    struct rng rng = rng_seed(seed);
    static uint8_t payload[GUEST_PAYLOAD_MAX];

    printf("# seed %llu\n", (unsigned long long)seed);
    for (int round = 0; round < 30; round++) {
        struct guest_reader r = {0};
        struct guest_frame f;
        struct buf b = {0};
        int sent = 1 + (int)rng_below(&rng, 20), got = 0;

        for (int i = 0; i < sent; i++) {
            uint32_t len =
                (uint32_t)rng_below(&rng, rng_below(&rng, 4) ? 300 : GUEST_PAYLOAD_MAX + 1);

            memset(payload, i, len);
            for (uint64_t n = rng_below(&rng, 40); n; n--)
                buf_put_u8(&b, "YDG1\x01\x42\x00"[rng_below(&rng, 7)]);
            guest_frame_put(&b, (uint8_t)(i + 1), payload, len);
        }
        for (size_t at = 0; at < b.len;) {
            size_t n = 1 + rng_below(&rng, rng_below(&rng, 2) ? 30 : 100000);

            if (n > b.len - at)
                n = b.len - at;
            guest_reader_feed(&r, b.data + at, n);
            at += n;
            while (guest_reader_next(&r, &f)) {
                assert_int_equal(f.type, ++got);
                for (uint32_t k = 0; k < f.len; k++)
                    assert_int_equal(f.payload[k], got - 1);
            }
        }
        assert_int_equal(got, sent);
        assert_int_equal(r.bad, 0);
        guest_reader_deinit(&r);
        buf_deinit(&b);
    }
}

static void test_half_frame(void **unused)
{
    struct guest_reader r = {0};
    struct guest_frame f;
    struct buf half = {0}, whole = {0};
    static uint8_t zeros[1000];

    guest_frame_put(&half, GUEST_OUTPUT, zeros, sizeof zeros);
    guest_frame_put(&whole, GUEST_ACK, "0123456789abcdef", 16);
    guest_reader_feed(&r, half.data, 500);
    assert_false(guest_reader_next(&r, &f));
    /* Too little for the first frame: it looks as if more had to come, until it is given up. */
    guest_reader_feed(&r, whole.data, whole.len);
    assert_false(guest_reader_next(&r, &f));
    assert_true(guest_reader_skip(&r));
    assert_true(guest_reader_next(&r, &f));
    assert_int_equal(f.type, GUEST_ACK);
    assert_false(guest_reader_skip(&r));
    assert_int_equal(r.dropped, 500);
    /* Or a frame of the type that is sought. */
    guest_reader_feed(&r, half.data, 500);
    guest_reader_feed(&r, whole.data, whole.len);
    assert_false(guest_reader_next(&r, &f));
    assert_false(guest_reader_seek(&r, GUEST_SYNC));
    assert_true(guest_reader_seek(&r, GUEST_ACK));
    assert_true(guest_reader_next(&r, &f));
    assert_int_equal(f.type, GUEST_ACK);
    assert_false(guest_reader_seek(&r, GUEST_ACK));
    /* Enough of them: the checksum shows that the first is none. */
    guest_reader_feed(&r, half.data, 500);
    for (int i = 0; i < 20; i++)
        guest_reader_feed(&r, whole.data, whole.len);
    for (int i = 0; i < 20; i++)
        assert_true(guest_reader_next(&r, &f));
    assert_int_equal(r.bad, 1);
    assert_false(guest_reader_next(&r, &f));
    guest_reader_deinit(&r);
    buf_deinit(&half);
    buf_deinit(&whole);
}

/* One wrong bit anywhere: no frame, or (in a byte that no checksum binds) none exists. */
static void test_bits(void **unused)
{
    struct buf b = {0};

    guest_frame_put(&b, GUEST_ACK, "0123456789abcdef", 16);
    for (size_t bit = 0; bit < b.len * 8; bit++) {
        struct guest_reader r = {0};
        struct guest_frame f;

        b.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        guest_reader_feed(&r, b.data, b.len);
        assert_false(guest_reader_next(&r, &f));
        b.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        guest_reader_deinit(&r);
    }
    buf_deinit(&b);
}

static void test_start(void **unused)
{
    const size_t sizes[] = {
        0, 1, GUEST_PAYLOAD_MAX, GUEST_PAYLOAD_MAX + 1, 300000, GUEST_START_MAX};
    char *json = xmalloc(GUEST_START_MAX);

    for (size_t i = 0; i < GUEST_START_MAX; i++)
        json[i] = (char)(i * 31 >> 3);
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        struct guest_reader r = {0};
        struct guest_frame f;
        struct buf b = {0}, got = {0};

        guest_start_put(&b, json, sizes[k]);
        guest_reader_feed(&r, b.data, b.len);
        while (guest_reader_next(&r, &f) && f.type == GUEST_START_MORE) {
            uint32_t at = (uint32_t)f.payload[0] << 24 | f.payload[1] << 16 | f.payload[2] << 8 |
                          f.payload[3];

            assert_int_equal(at, got.len);
            buf_put(&got, f.payload + 4, f.len - 4);
        }
        assert_int_equal(f.type, GUEST_START);
        buf_put(&got, f.payload, f.len);
        assert_int_equal(got.len, sizes[k]);
        if (got.len)
            assert_memory_equal(got.data, json, got.len);
        guest_reader_deinit(&r);
        buf_deinit(&b);
        buf_deinit(&got);
    }
    free(json);
}

static void test_records(void **unused)
{
    struct guest_state s = {.phase = GUEST_EXITED,
                            .oom = 1,
                            .nonce = 1ull << 60,
                            .output_end = 7,
                            .result_end = 8,
                            .wait_status = -5,
                            .peak_bytes = 9,
                            .run_ms = 10,
                            .text = "evil \033[2J text",
                            .group = 77};
    struct guest_state t = {0};
    struct guest_sync sync = {.wall_ns = 1, .output_have = 2, .result_have = 3, .nonce = 4}, sync2;
    struct buf b = {0};
    uint64_t o, q;

    memset(sync.entropy, 0x5a, sizeof sync.entropy);
    guest_state_put(&b, &s);
    assert_int_equal(guest_state_get(b.data, (uint32_t)b.len - 9, &t), -EINVAL);
    assert_int_equal(t.phase, 0);
    assert_int_equal(guest_state_get(b.data, (uint32_t)b.len - 8, &t), 0); /* an older guest's */
    assert_int_equal(t.group, 0);
    assert_int_equal(guest_state_get(b.data, (uint32_t)b.len, &t), 0);
    assert_int_equal(t.group, 77);
    assert_string_equal(t.text, "evil ?[2J text");
    assert_int_equal(t.nonce, s.nonce);
    assert_int_equal(t.wait_status, -5);
    assert_true(t.oom && !t.out_full && t.output_end == 7 && t.result_end == 8 && t.run_ms == 10);
    buf_put_u64(&b, 1); /* what a newer guest may add */
    assert_int_equal(guest_state_get(b.data, (uint32_t)b.len, &t), 0);
    b.data[0] = 99;
    assert_int_equal(guest_state_get(b.data, (uint32_t)b.len, &t), -EINVAL);
    buf_clear(&b);
    guest_sync_put(&b, &sync);
    assert_int_equal(guest_sync_get(b.data, (uint32_t)b.len - 1, &sync2), -EINVAL);
    assert_int_equal(guest_sync_get(b.data, (uint32_t)b.len, &sync2), 0);
    assert_true(sync2.wall_ns == 1 && sync2.result_have == 3 && sync2.nonce == 4);
    assert_int_equal(sync2.entropy[63], 0x5a);
    buf_clear(&b);
    guest_ack_put(&b, 5, 6);
    assert_int_equal(guest_ack_get(b.data, 15, &o, &q), -EINVAL);
    assert_int_equal(guest_ack_get(b.data, 16, &o, &q), 0);
    assert_true(o == 5 && q == 6);
    buf_deinit(&b);
}

/* A message of any size goes in frames none of which has what looks like another's beginning in
 * it, and comes out whole; one whose beginning was cut off comes out with its next sending. */
static void test_mail(void **unused)
{
    const uint32_t sizes[] = {0, 1, 5, 65000, 70000, MAIL_BODY_MAX};
    uint8_t *body = xmalloc(MAIL_BODY_MAX);

    for (uint32_t i = 0; i < MAIL_BODY_MAX; i++)
        body[i] = i % 50000 < 2000 ? (uint8_t)GUEST_MAGIC[i % 4] : (uint8_t)(i * 7 >> 5);
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        const struct mail_in in = {7, 3, MAIL_MESSAGE, sizes[k], body};
        struct guest_mail_join join = {0};
        struct guest_reader r = {0};
        struct guest_frame f;
        struct mail_in out;
        struct buf b = {0};
        int whole = 0;

        guest_mail_put(&b, &in);
        guest_reader_feed(&r, b.data, b.len);
        for (int n = 0; guest_reader_next(&r, &f); n++) {
            int got;

            assert_null(memmem(f.payload, f.len, GUEST_MAGIC, GUEST_MAGIC_BYTES));
            if (n == 0) /* twice, as when the first sending was cut */
                assert_int_equal(guest_mail_join(&join, f.type, f.payload, f.len, &out),
                                 sizes[k] <= 1);
            got = guest_mail_join(&join, f.type, f.payload, f.len, &out);
            assert_true(got >= 0 && !whole);
            whole += got;
        }
        assert_true(whole == 1 && out.pos == 7 && out.from == 3 && out.len == sizes[k]);
        if (out.len)
            assert_memory_equal(out.body, body, out.len);
        guest_mail_join_deinit(&join);
        guest_reader_deinit(&r);
        buf_deinit(&b);
    }
    free(body);
}

static int join_one(struct guest_mail_join *j, uint64_t number, uint32_t total, uint32_t at,
                    uint32_t bytes)
{
    struct buf b = {0};
    struct mail_in m;
    int r;

    buf_put_u64(&b, number);
    buf_put_u32(&b, 1);
    buf_put_u32(&b, total);
    buf_put_u32(&b, at);
    memset(buf_extend(&b, bytes), 'x', bytes);
    r = guest_mail_join(j, GUEST_MAIL_SEND, b.data, (uint32_t)b.len, &m);
    buf_deinit(&b);
    return r;
}

static void test_mail_pieces(void **unused)
{
    struct guest_mail_join j = {0};
    struct guest_blob blob = {.id = 1, .put = true, .name = "a", .total = 5, .at = 2}, blob2;
    struct guest_reader r = {0};
    struct guest_frame f;
    struct buf b = {0};

    assert_int_equal(join_one(&j, 1, 10, 5, 5), 0); /* its beginning was lost */
    assert_int_equal(join_one(&j, 1, 10, 0, 5), 0);
    assert_int_equal(join_one(&j, 2, 10, 5, 5), 0);
    assert_int_equal(join_one(&j, 1, 10, 5, 5), 0); /* no longer of what was begun */
    assert_int_equal(join_one(&j, 2, 10, 0, 5), 0);
    assert_int_equal(join_one(&j, 2, 10, 5, 5), 1);
    assert_int_equal(join_one(&j, 0, 1, 0, 1), -EINVAL);
    assert_int_equal(join_one(&j, 1, 1, 0, 2), -EINVAL);
    assert_int_equal(join_one(&j, 1, 1, 0, 0), -EINVAL);
    assert_int_equal(join_one(&j, 1, 5, 6, 1), -EINVAL);
    assert_int_equal(join_one(&j, 1, MAIL_BODY_MAX + 1, 0, 1), -EINVAL);
    assert_int_equal(join_one(&j, UINT64_MAX, 1, 0, 1), -EINVAL);
    guest_mail_join_deinit(&j);
    blob.data = (const uint8_t *)"xyz";
    blob.len = 3;
    guest_blob_put(&b, &blob);
    guest_reader_feed(&r, b.data, b.len);
    assert_true(guest_reader_next(&r, &f));
    assert_int_equal(guest_blob_get(f.payload, f.len, &blob2), 0);
    assert_true(blob2.put && blob2.at == 2 && blob2.len == 3 && strcmp(blob2.name, "a") == 0);
    b.data[GUEST_HEADER_BYTES + 6] = '/'; /* the name */
    assert_int_equal(guest_blob_get(b.data + GUEST_HEADER_BYTES, f.len, &blob2), -EINVAL);
    b.data[GUEST_HEADER_BYTES + 6] = 'a';
    b.data[GUEST_HEADER_BYTES + 6 + 8] = 4; /* less than the piece reaches to */
    assert_int_equal(guest_blob_get(b.data + GUEST_HEADER_BYTES, f.len, &blob2), -EINVAL);
    guest_reader_deinit(&r);
    buf_deinit(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layout),     cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_half_frame), cmocka_unit_test(test_bits),
        cmocka_unit_test(test_start),      cmocka_unit_test(test_records),
        cmocka_unit_test(test_mail),       cmocka_unit_test(test_mail_pieces),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
