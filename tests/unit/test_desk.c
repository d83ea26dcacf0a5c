/* SPDX-License-Identifier: Apache-2.0
 *
 * The desk: what programs say to it and hear from it, byte by byte, and that whoever carries the
 * mail may lose what is under way at any moment.
 */
#include "base/cursor.h"
#include "base/rng.h"
#include "libyado/desk.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- a program ------------------------------------------------------------------------------- */

static int say(struct desk *d, struct desk_client *c, uint8_t type, const void *payload, size_t len)
{
    struct buf b = {0};
    int r;

    buf_put_u32(&b, (uint32_t)len + 1);
    buf_put_u8(&b, type);
    buf_put(&b, payload, len);
    r = desk_feed(d, c, b.data, b.len);
    buf_deinit(&b);
    return r;
}

static struct desk_client *program(struct desk *d)
{
    struct desk_client *c = desk_open(d, NULL);

    assert_int_equal(say(d, c, DESK_HELLO, "\1", 1), 0);
    assert_int_equal(c->out.len, 14);
    buf_clear(&c->out);
    return c;
}

static int send_to(struct desk *d, struct desk_client *c, uint32_t to, uint8_t tag,
                   const void *data, size_t len)
{
    struct buf b = {0};
    int r;

    buf_put_u32(&b, to);
    buf_put_u8(&b, tag);
    buf_put(&b, data, len);
    r = say(d, c, DESK_SEND, b.data, b.len);
    buf_deinit(&b);
    return r;
}

static void ask(struct desk *d, struct desk_client *c, uint32_t number, uint8_t tag, uint32_t from)
{
    struct buf b = {0};

    buf_put_u32(&b, number);
    buf_put_u8(&b, tag);
    buf_put_u32(&b, from);
    assert_int_equal(say(d, c, DESK_RECV, b.data, b.len), 0);
    buf_deinit(&b);
}

static void take(struct desk *d, struct desk_client *c)
{
    assert_int_equal(say(d, c, DESK_TAKE, "\0\0\0\1", 4), 0);
}

/* The next frame for the program; its payload is valid until the next call. False: there is none.
 */
static bool hear(struct desk_client *c, uint8_t type, struct cursor *ret)
{
    static struct buf kept;
    struct cursor in = cursor_of(c->out.data, c->out.len);
    uint32_t len = cursor_u32(&in);

    if (c->out.len == 0)
        return false;
    assert_int_equal(cursor_u8(&in), type);
    buf_deinit(&kept);
    buf_put(&kept, cursor_bytes(&in, len - 1), len - 1);
    assert_false(in.bad);
    buf_consume(&c->out, 4 + len);
    *ret = cursor_of(kept.data, kept.len);
    return true;
}

static void expect_sent(struct desk_client *c, uint32_t error)
{
    struct cursor in;

    assert_true(hear(c, DESK_SENT, &in));
    assert_int_equal(cursor_u32(&in), error);
}

/* A message of that ask and text; from, kind. */
static void expect(struct desk_client *c, uint32_t number, uint32_t from, uint8_t kind,
                   const char *text)
{
    struct cursor in;

    assert_true(hear(c, DESK_MESSAGE, &in));
    assert_int_equal(cursor_u32(&in), number);
    assert_int_equal(cursor_u32(&in), from);
    assert_int_equal(cursor_u8(&in), kind);
    assert_int_equal(cursor_left(&in), strlen(text));
    assert_memory_equal(in.p, text, strlen(text));
}

static void expect_none(struct desk_client *c)
{
    assert_int_equal(c->out.len, 0);
}

static void deliver(struct desk *d, uint64_t pos, uint32_t from, uint8_t kind, uint8_t tag,
                    const char *text)
{
    char *body = xasprintf("%c%s", tag, text);
    const struct mail_in m = {.pos = pos,
                              .from = from,
                              .kind = kind,
                              .len = kind == MAIL_GONE ? 0 : (uint32_t)strlen(text) + 1,
                              .body = (const uint8_t *)body};

    desk_deliver(d, &m);
    free(body);
}

/* ---- tests ----------------------------------------------------------------------------------- */

static void test_sending(void **unused)
{
    static uint8_t large[MAIL_BODY_MAX];
    const struct desk_message *m;
    struct desk_client *c;
    struct desk d;

    desk_init(&d, 1, 3);
    c = program(&d);
    assert_int_equal(send_to(&d, c, 2, 0, "hello", 5), 0);
    expect_sent(c, 0);
    m = desk_next(&d);
    assert_true(m->number == 1 && m->peer == 2 && m->len == 6 && m->body[0] == 0);
    assert_memory_equal(m->body + 1, "hello", 5);
    assert_null(desk_next(&d));
    assert_int_equal(send_to(&d, c, 3, 0, "", 0), 0);
    expect_sent(c, EINVAL);
    /* The window takes two large ones beside the small one; the third waits, and another program's
     * as well. */
    for (int i = 0; i < 2; i++)
        assert_int_equal(send_to(&d, c, 0, 0, large, sizeof large / 2), 0);
    assert_int_equal(send_to(&d, c, 0, 0, large, sizeof large - 1), 0);
    expect_sent(c, 0);
    expect_sent(c, 0);
    expect_none(c);
    assert_true(c->blocked);
    desk_rewind(&d);
    for (uint64_t n = 1; n <= 3; n++)
        assert_int_equal(desk_next(&d)->number, n);
    desk_ack(&d, 99); /* of what was never sent */
    assert_int_equal(d.acked, 0);
    desk_ack(&d, 1);
    assert_true(c->blocked);
    desk_ack(&d, 2);
    desk_ack(&d, 1);
    expect_sent(c, 0);
    assert_false(c->blocked);
    assert_int_equal(desk_next(&d)->number, 4);
    desk_rewind(&d);
    assert_int_equal(desk_next(&d)->number, 3);
    desk_ack(&d, 4);
    assert_null(desk_next(&d));
    assert_null(d.sent.first);
    desk_deinit(&d);
}

static void test_receiving(void **unused)
{
    struct desk_client *a, *b;
    struct desk d;
    uint64_t next;
    uint32_t room;

    desk_init(&d, 0, 4);
    a = program(&d);
    b = program(&d);
    assert_false(desk_window(&d, true, &next, &room)); /* nobody asked for mail */
    ask(&d, a, 1, 0, DESK_FROM_ANY);
    assert_true(desk_window(&d, false, &next, &room));
    assert_true(next == 1 && room == MAIL_UNREAD_BYTES);
    expect_none(a);
    deliver(&d, 2, 1, 0, 0, "too early");
    deliver(&d, 1, 1, 0, 0, "one");
    expect(a, 1, 1, DESK_KIND_MESSAGE, "one");
    deliver(&d, 1, 1, 0, 0, "one");
    deliver(&d, 2, 2, 0, 0, "two");
    expect_none(a);
    /* Another question: what was lent is there again. */
    ask(&d, a, 2, 0, 2);
    expect(a, 2, 2, DESK_KIND_MESSAGE, "two");
    take(&d, a);
    ask(&d, b, 7, 0, DESK_FROM_ANY);
    expect(b, 7, 1, DESK_KIND_MESSAGE, "one");
    /* It ends without having taken it; the other one was waiting. */
    ask(&d, a, 3, 0, DESK_FROM_ANY);
    expect_none(a);
    desk_close(&d, b);
    expect(a, 3, 1, DESK_KIND_MESSAGE, "one");
    take(&d, a);
    assert_null(d.unread.first);
    ask(&d, a, 4, 0, 4);
    expect(a, 4, 4, DESK_KIND_NONE, "");
    assert_true(desk_window(&d, true, &next, &room));
    assert_int_equal(next, 3);
    assert_false(desk_window(&d, true, &next, &room));
    desk_rewind(&d);
    assert_true(desk_window(&d, false, &next, &room));
    desk_deinit(&d);
}

/* The end of a rank is read once as a message; whoever waits for that rank hears of it always, but
 * not before what it sent. */
static void test_gone(void **unused)
{
    struct desk_client *c;
    struct desk d;

    desk_init(&d, 0, 3);
    c = program(&d);
    ask(&d, c, 1, DESK_TAG_BARRIER, 2);
    deliver(&d, 1, 2, 0, 0, "user's");
    expect_none(c);
    deliver(&d, 2, 2, 0, DESK_TAG_BARRIER, "\1");
    expect(c, 1, 2, DESK_KIND_MESSAGE, "\1");
    take(&d, c);
    deliver(&d, 3, 2, MAIL_GONE, 0, "");
    ask(&d, c, 2, DESK_TAG_BARRIER, 2);
    expect(c, 2, 2, DESK_KIND_GONE, "");
    take(&d, c);
    ask(&d, c, 3, 0, 2);
    expect(c, 3, 2, DESK_KIND_MESSAGE, "user's");
    take(&d, c);
    for (uint32_t i = 4; i < 6; i++) {
        ask(&d, c, i, 0, 2);
        expect(c, i, 2, DESK_KIND_GONE, "");
        take(&d, c);
    }
    assert_null(d.unread.first);
    ask(&d, c, 6, 0, 1);
    expect_none(c);
    desk_deinit(&d);
}

/* Who waits for a message behind many others gets room for them, up to a bound. */
static void test_room(void **unused)
{
    char *text = xmalloc(MAIL_UNREAD_BYTES / 2);
    struct desk_client *c;
    struct desk d;
    uint64_t pos = 0, next, most = 0;
    uint32_t room = 0;
    struct cursor in;

    memset(text, 'x', MAIL_UNREAD_BYTES / 2 - 1);
    text[MAIL_UNREAD_BYTES / 2 - 1] = 0;
    desk_init(&d, 0, 3);
    c = program(&d);
    ask(&d, c, 1, 0, 2);
    while (!c->out.len) {
        (void)desk_window(&d, false, &next, &room);
        assert_true(room > 0);
        deliver(&d, ++pos, 1, 0, 0, text);
        room -= room < MAIL_UNREAD_BYTES / 2 + 64 ? room : MAIL_UNREAD_BYTES / 2 + 64;
        most = d.unread.bytes;
        assert_true(pos < 1000);
    }
    assert_true(hear(c, DESK_MESSAGE, &in));
    assert_int_equal(in.p[8], DESK_KIND_FULL);
    assert_true(most >= DESK_UNREAD_MAX && most < DESK_UNREAD_MAX + 2 * MAIL_UNREAD_BYTES);
    for (uint32_t i = 2; d.unread.first; i++) {
        ask(&d, c, i, 0, DESK_FROM_ANY);
        assert_true(hear(c, DESK_MESSAGE, &in));
        take(&d, c);
    }
    assert_true(desk_window(&d, false, &next, &room));
    assert_int_equal(room, MAIL_UNREAD_BYTES);
    desk_deinit(&d);
    free(text);
}

/* A reader that comes and goes, and a carrier that loses what is under way: every message once, in
 * order, and never much more than the window unread. */
static void test_histories(void **unused)
{
    uint64_t seed = getenv("YADO_SEED") ? strtoull(getenv("YADO_SEED"), NULL, 0) : 5;
    struct rng rng = rng_seed(seed);

    printf("# seed %llu\n", (unsigned long long)seed);
    for (int round = 0; round < 20; round++) {
        uint64_t carried = 0, room = 0, read = 0, next;
        struct desk_client *c = NULL;
        uint32_t number = 0, told;
        bool asked = false;
        struct desk d;

        desk_init(&d, 0, 2);
        for (int i = 0; i < 3000; i++) {
            uint64_t dice = rng_below(&rng, 100);
            struct cursor in;

            if (!c)
                c = program(&d);
            if (dice < 40) {
                if (desk_window(&d, rng_below(&rng, 4) == 0, &next, &told)) {
                    room = told;
                    carried = next - 1;
                }
                if (room) {
                    char text[24], *padded;
                    int pad = rng_below(&rng, 10) ? 1 : 200000;

                    snprintf(text, sizeof text, "%llu", (unsigned long long)++carried);
                    padded = xasprintf("%*s", pad, text);
                    deliver(&d, carried, 1, 0, 0, padded);
                    room -= strlen(padded) + 65 < room ? strlen(padded) + 65 : room;
                    free(padded);
                }
            } else if (dice < 45) {
                desk_rewind(&d); /* what was carried since was lost, or was not */
                room = 0;
            } else if (dice < 50) {
                desk_close(&d, c);
                c = NULL;
                asked = false;
            } else if (!asked) {
                ask(&d, c, ++number, 0, DESK_FROM_ANY);
                asked = true;
            } else if (hear(c, DESK_MESSAGE, &in)) {
                assert_int_equal(strtoull((const char *)in.p + 9, NULL, 10), read + 1);
                asked = false; /* without taking it, it comes again */
                if (rng_below(&rng, 10)) {
                    take(&d, c);
                    read++;
                }
            }
            assert_true(d.unread.bytes <= MAIL_UNREAD_BYTES + 200000 + 65);
        }
        assert_true(read > 100);
        desk_deinit(&d);
    }
}

/* ---- a sender whose acknowledgements are lost, late or said twice -----------------------------
 */

enum { SENDER_HISTORIES = 1000, SENDER_STEPS = 200, SENDER_LATE = 4 };

/* The carrier's side, as the master is: it takes the next number, and knows those before. */
struct carrier {
    uint64_t taken, last; /* last: that it was handed since the rewind; 0: none */
    uint64_t late[SENDER_LATE];
    unsigned count_late;
};

static void carry_sent(struct desk *d, struct carrier *k, bool is_lost)
{
    const struct desk_message *m = desk_next(d);
    uint32_t said;

    if (!m)
        return;
    /* None is skipped: a gap would never be mended. */
    assert_int_equal(m->number, (k->last > d->acked ? k->last : d->acked) + 1);
    k->last = m->number;
    assert_in_range(m->len, 9, 70000);
    memcpy(&said, m->body + 5, sizeof said);
    assert_int_equal(said, m->number);
    if (!is_lost && m->number == k->taken + 1)
        k->taken++;
}

static void acknowledge(struct desk *d, struct carrier *k, struct rng *rng)
{
    uint64_t dice = rng_below(rng, 4);

    if (dice == 0)
        k->late[k->count_late++ % SENDER_LATE] = k->taken; /* it comes later, or never */
    else if (dice == 1)
        desk_ack(d, k->late[rng_below(rng, SENDER_LATE)]);
    else
        for (uint64_t i = 0; i < dice - 1; i++)
            desk_ack(d, k->taken);
    assert_true(d->acked <= k->taken);
}

/* The program sends on; what it was told is sent has the numbers from 1 on. */
static void send_some(struct desk *d, struct desk_client *c, bool large, uint32_t *sent)
{
    static uint8_t body[70000];
    struct cursor in;

    while (hear(c, DESK_SENT, &in))
        assert_int_equal(cursor_u32(&in), 0);
    if (c->blocked)
        return;
    ++*sent;
    memcpy(body + 4, sent, sizeof *sent);
    assert_int_equal(send_to(d, c, 1, 0, body, large ? sizeof body - 1 : 8), 0);
}

static void test_sending_histories(void **unused)
{
    uint64_t seed = getenv("YADO_SEED") ? strtoull(getenv("YADO_SEED"), NULL, 0) : 5, waits = 0;
    struct rng rng = rng_seed(seed);

    printf("# seed %llu\n", (unsigned long long)seed);
    for (int round = 0; round < SENDER_HISTORIES; round++) {
        struct carrier k = {0};
        struct desk_client *c;
        uint32_t sent = 0;
        struct desk d;

        desk_init(&d, 0, 2);
        c = program(&d);
        for (int i = 0; i < SENDER_STEPS; i++) {
            uint64_t dice = rng_below(&rng, 100);

            if (dice < 50)
                send_some(&d, c, round % 8 == 0 && rng_below(&rng, 3) == 0, &sent);
            else if (dice < 85)
                carry_sent(&d, &k, dice < 55);
            else if (dice < 95)
                acknowledge(&d, &k, &rng);
            else
                desk_rewind(&d), k.last = 0;
            waits += c->blocked;
            assert_true(d.sent.bytes <= MAIL_WINDOW_BYTES);
        }
        /* Nothing is lost any more: all of it comes, and the desk is empty. */
        for (int turn = 0; d.acked < d.last_seq; turn++) {
            assert_true(turn < SENDER_STEPS);
            desk_rewind(&d), k.last = 0;
            while (d.unsent)
                carry_sent(&d, &k, false);
            desk_ack(&d, k.taken);
        }
        assert_true(!c->blocked && d.last_seq == sent && k.taken == sent && !d.sent.first);
        desk_deinit(&d);
    }
    assert_true(waits > SENDER_HISTORIES / 8);
}

static void put_piece(struct desk *d, struct desk_client *c, uint8_t type, const char *name,
                      uint64_t total, uint64_t at, const char *data)
{
    struct buf b = {0};

    buf_put_u64(&b, total);
    buf_put_u64(&b, at);
    buf_put_u8(&b, (uint8_t)strlen(name));
    buf_put_str(&b, name);
    buf_put_str(&b, data);
    assert_int_equal(say(d, c, type, b.data, b.len), 0);
    buf_deinit(&b);
}

static void expect_blob(struct desk_client *c, uint8_t status)
{
    struct cursor in;

    assert_true(hear(c, DESK_BLOB, &in));
    assert_int_equal(cursor_u8(&in), status);
}

static void test_blobs(void **unused)
{
    const struct guest_blob *blob;
    struct desk_client *a, *b;
    struct desk d;
    uint32_t id;

    desk_init(&d, 0, 1);
    a = program(&d);
    b = program(&d);
    put_piece(&d, a, DESK_PUT, "../x", 5, 0, "hello");
    expect_blob(a, DESK_BLOB_NO_NAME);
    put_piece(&d, a, DESK_PUT, "x", 10, 0, "hello");
    put_piece(&d, b, DESK_GET, "y", 0, 0, "");
    blob = desk_next_blob(&d);
    assert_true(blob->put && blob->total == 10 && blob->at == 0 && blob->len == 5);
    assert_string_equal(blob->name, "x");
    assert_null(desk_next_blob(&d));
    id = blob->id;
    desk_rewind(&d); /* asks once more, by the same number */
    assert_int_equal(desk_next_blob(&d)->id, id);
    desk_answer_blob(&d, &(struct guest_blob_reply){.id = id + 1, .status = BLOB_DONE});
    desk_answer_blob(&d, &(struct guest_blob_reply){.id = id, .status = BLOB_MORE});
    desk_answer_blob(&d, &(struct guest_blob_reply){.id = id, .status = BLOB_MORE});
    expect_blob(a, DESK_BLOB_MORE);
    expect_none(a);
    assert_null(desk_next_blob(&d)); /* the other one waits until this blob is whole */
    put_piece(&d, a, DESK_PUT, "x", 10, 5, "world");
    blob = desk_next_blob(&d);
    assert_int_equal(blob->at, 5);
    desk_answer_blob(&d, &(struct guest_blob_reply){.id = blob->id, .status = BLOB_DONE});
    expect_blob(a, DESK_BLOB_DONE);
    blob = desk_next_blob(&d);
    assert_string_equal(blob->name, "y");
    desk_close(&d, b); /* and nobody is there for the answer */
    desk_answer_blob(&d, &(struct guest_blob_reply){.id = d.last_blob, .status = BLOB_ABSENT});
    put_piece(&d, a, DESK_GET, "z", 0, 0, "");
    assert_string_equal(desk_next_blob(&d)->name, "z");
    desk_deinit(&d);
}

static void test_nonsense(void **unused)
{
    static const char *const words[] = {
        "\0\0\0\0",                       /* no type */
        "\xff\0\0\0\1",                   /* much too long */
        "\0\0\0\1\x63",                   /* no such type */
        "\0\0\0\1\2",                     /* SEND to nobody */
        "\0\0\0\5\2\0\0\0\0",             /* SEND without a tag */
        "\0\0\0\2\3\0",                   /* RECV cut short */
        "\0\0\0\x0a\3\0\0\0\0\0\0\0\0\0", /* RECV by number 0 */
        "\0\0\0\3\5\0\0",                 /* PUT cut short */
        "\0\0\0\1\1",                     /* HELLO without a version */
    };
    static const size_t sizes[] = {4, 5, 5, 5, 9, 6, 14, 7, 5};

    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        struct desk_client *c;
        struct desk d;

        desk_init(&d, 0, 1);
        c = program(&d);
        if (desk_feed(&d, c, words[i], sizes[i]) != -EPROTO)
            fail_msg("taken: %zu", i);
        desk_deinit(&d);
    }
    {
        struct desk d;

        desk_init(&d, 0, 1);
        assert_int_equal(say(&d, desk_open(&d, NULL), DESK_TAKE, "\0\0\0\1", 4), -EPROTO);
        desk_deinit(&d);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sending),   cmocka_unit_test(test_receiving),
        cmocka_unit_test(test_gone),      cmocka_unit_test(test_room),
        cmocka_unit_test(test_histories), cmocka_unit_test(test_blobs),
        cmocka_unit_test(test_nonsense),  cmocka_unit_test(test_sending_histories),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
