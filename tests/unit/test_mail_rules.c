/* SPDX-License-Identifier: Apache-2.0
 *
 * The rules of mail, one by one; test_mail_histories.c mixes them.
 */
#include "mail/mail.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { JOB = 7, PARTS = 3 };

/* A log in memory and what is told of three ranks. */
struct bench {
    struct mail *mail;
    struct buf log;
    struct mail_sink sink;
    struct mail_told told[PARTS];
    uint64_t now_ms;
};

static uint64_t append(void *arg, const struct mail_record *r, uint64_t copy_of)
{
    struct bench *b = arg;
    uint64_t where = b->log.len + 1;
    struct mail_record record = *r;
    struct buf body = {0};

    if (copy_of)
        buf_put(&body, b->log.data + copy_of - 1 + MAIL_RECORD_HEADER_BYTES, r->len);
    if (copy_of)
        record.body = body.data;
    mail_record_put(&b->log, &record);
    buf_deinit(&body);
    return where;
}

static void tell(struct bench *b, uint32_t rank)
{
    mail_tell(b->mail, &b->told[rank], b->now_ms, &b->sink);
}

static struct bench *begin(bool committed, const struct mail_config *config)
{
    struct mail_config fallback = mail_config_default();
    struct bench *b = xcalloc(1, sizeof *b);

    b->mail = mail_new(config ? config : &fallback);
    b->sink = (struct mail_sink){append, b};
    b->now_ms = 1000000;
    for (uint32_t i = 0; i < PARTS; i++) {
        b->told[i] = (struct mail_told){
            .job = JOB, .parts = PARTS, .committed = committed, .rank = i, .epoch = i + 1};
        tell(b, i);
    }
    return b;
}

static void end(struct bench *b)
{
    mail_free(b->mail);
    buf_deinit(&b->log);
    free(b);
}

/* The master died and comes back. */
static void reload(struct bench *b)
{
    struct mail_config config = mail_config_default();
    struct mail_record r;

    mail_free(b->mail);
    b->mail = mail_new(&config);
    for (size_t at = 0; at < b->log.len; at += MAIL_RECORD_HEADER_BYTES + r.len) {
        assert_int_equal(mail_record_get(b->log.data + at, b->log.len - at, &r), 0);
        assert_int_equal(mail_load(b->mail, &r, at + 1), 0);
    }
    mail_load_done(b->mail);
    for (uint32_t i = 0; i < PARTS; i++)
        tell(b, i);
}

static enum mail_outcome send(struct bench *b, uint32_t from, uint64_t seq, uint32_t to,
                              const char *text)
{
    struct mail_out out = {seq, to, (uint32_t)strlen(text), (const uint8_t *)text};
    struct mail_rank *r = mail_find(b->mail, JOB, from, b->told[from].epoch);

    assert_non_null(r);
    return mail_send(b->mail, r, &out, b->now_ms, &b->sink);
}

/* "POSITION:FROM:text ..." of what rank reads from `from` on; gone ranks are "!". */
static const char *reads(struct bench *b, uint32_t rank, uint64_t from)
{
    static char text[300];
    struct mail_found found[10];
    struct mail_record r;
    size_t count = 0;
    enum mail_outcome o = mail_read(b->mail, mail_find(b->mail, JOB, rank, b->told[rank].epoch),
                                    from, 1 << 20, found, 10, &count);

    text[0] = '\0';
    if (o == MAIL_LOST)
        return "lost";
    assert_int_equal(o, count ? MAIL_TAKEN : MAIL_NONE);
    for (size_t i = 0; i < count; i++) {
        size_t at = found[i].where - 1, used = strlen(text);

        assert_int_equal(mail_record_get(b->log.data + at, b->log.len - at, &r), 0);
        snprintf(text + used, sizeof text - used, "%s%d:%u:%.*s", i ? " " : "", (int)found[i].pos,
                 found[i].from, (int)r.len, found[i].kind == MAIL_GONE ? "" : (const char *)r.body);
        if (found[i].kind == MAIL_GONE)
            strcat(text, "!");
    }
    return text;
}

static bool has_news(struct bench *b, enum mail_news_kind kind, uint32_t rank)
{
    struct mail_news n;
    bool found = false;

    while (mail_take_news(b->mail, &n))
        found |= n.kind == kind && n.rank == rank && n.job == JOB;
    return found;
}

/* Wishes of that kind for that rank. */
static int wishes(struct bench *b, enum mail_wish_kind kind, uint32_t rank)
{
    struct mail_wish w;
    int count = 0;

    if (b->now_ms >= mail_due_ms(b->mail))
        (void)mail_work(b->mail, b->now_ms, &b->sink);
    while (mail_take_wish(b->mail, &w))
        count += w.kind == kind && w.rank == rank;
    return count;
}

static void set_layer(struct bench *b, uint32_t rank, uint64_t sent, uint64_t read)
{
    struct mail_told *t = &b->told[rank];

    t->below = t->top;
    t->top = (struct mail_layer){t->below.id + 1, t->epoch, sent, read};
    tell(b, rank);
}

/* ---- immediate ------------------------------------------------------------------------------- */

static void test_visible_when_durable(void **unused)
{
    struct bench *b = begin(false, NULL);

    assert_int_equal(send(b, 0, 1, 2, "a"), MAIL_TAKEN);
    assert_string_equal(reads(b, 2, 1), "");
    mail_durable(b->mail);
    assert_true(has_news(b, MAIL_NEWS_MESSAGE, 2));
    assert_string_equal(reads(b, 2, 1), "1:0:a");
    assert_int_equal(send(b, 1, 1, 2, "b"), MAIL_TAKEN);
    assert_int_equal(send(b, 0, 2, 2, ""), MAIL_TAKEN);
    mail_durable(b->mail);
    assert_string_equal(reads(b, 2, 1), "1:0:a 2:1:b 3:0:");
    assert_string_equal(reads(b, 2, 3), "3:0:");
    assert_string_equal(reads(b, 2, 4), "");
    assert_string_equal(reads(b, 2, 5), "lost");
    assert_int_equal(send(b, 0, 4, 1, "gap"), MAIL_GAP);
    assert_int_equal(send(b, 0, 3, PARTS, "nobody"), MAIL_NO_RANK);
    end(b);
}

static void test_sent_again(void **unused)
{
    struct bench *b = begin(false, NULL);

    assert_int_equal(send(b, 0, 1, 2, "a"), MAIL_TAKEN);
    assert_int_equal(send(b, 0, 2, 1, "b"), MAIL_TAKEN);
    mail_durable(b->mail);
    reload(b);
    b->told[0].epoch = 10; /* it goes back to its start */
    tell(b, 0);
    assert_null(mail_find(b->mail, JOB, 0, 1));
    assert_int_equal(send(b, 0, 1, 2, "a"), MAIL_TAKEN);
    assert_int_equal(send(b, 0, 2, 1, "B"), MAIL_DIFFERS);
    assert_int_equal(send(b, 0, 2, 2, "b"), MAIL_DIFFERS);
    assert_int_equal(send(b, 0, 2, 1, "b"), MAIL_TAKEN);
    assert_int_equal(send(b, 0, 3, 2, "c"), MAIL_TAKEN);
    mail_durable(b->mail);
    assert_string_equal(reads(b, 2, 1), "1:0:a 2:0:c");
    end(b);
}

static void test_reads_again(void **unused)
{
    struct bench *b = begin(false, NULL);

    for (uint64_t i = 1; i <= 4; i++)
        assert_int_equal(send(b, 0, i, 2, (char[]){(char)('a' + i - 1), '\0'}), MAIL_TAKEN);
    mail_durable(b->mail);
    assert_string_equal(reads(b, 2, 3), "3:0:c 4:0:d");
    set_layer(b, 2, 0, 3);
    set_layer(b, 2, 0, 4);
    b->told[2].epoch = 20;
    tell(b, 2); /* as after a power cut: the second newest still counts */
    assert_string_equal(reads(b, 2, 4), "4:0:d");
    assert_string_equal(reads(b, 2, 3), "3:0:c 4:0:d");
    assert_string_equal(reads(b, 2, 2), "lost");
    reload(b);
    assert_string_equal(reads(b, 2, 4), "4:0:d");
    end(b);
}

static void test_back_too_far(void **unused)
{
    struct bench *b = begin(false, NULL);

    for (uint64_t i = 1; i <= 4; i++)
        assert_int_equal(send(b, 0, i, 2, "x"), MAIL_TAKEN);
    mail_durable(b->mail);
    (void)reads(b, 2, 5);
    set_layer(b, 2, 0, 3);
    set_layer(b, 2, 0, 4);
    memset(&b->told[2].top, 0, sizeof b->told[2].top);
    memset(&b->told[2].below, 0, sizeof b->told[2].below);
    b->told[2].epoch = 20; /* both its layers are damaged */
    assert_int_equal(wishes(b, MAIL_WISH_FAIL, 2), 0);
    tell(b, 2);
    assert_int_equal(wishes(b, MAIL_WISH_FAIL, 2), 1);
    end(b);
}

/* All that was written until now is the oldest file of the log, and goes. */
static void clean(struct bench *b)
{
    size_t size = b->log.len;
    struct mail_record r;

    for (size_t at = 0; at < size; at += MAIL_RECORD_HEADER_BYTES + r.len) {
        struct buf whole = {0}; /* the log may move while it grows */

        assert_int_equal(mail_record_get(b->log.data + at, b->log.len - at, &r), 0);
        buf_put(&whole, r.body, r.len);
        r.body = whole.data;
        mail_clean(b->mail, &r, at + 1, &b->sink);
        buf_deinit(&whole);
    }
    mail_clean_done(b->mail, &b->sink);
    mail_durable(b->mail);
    buf_consume(&b->log, size);
}

static void test_clean(void **unused)
{
    struct bench *b = begin(false, NULL);
    struct mail_blob blob = {.name = "one", .digest = {1}, .bytes = 5};

    for (uint64_t i = 1; i <= 4; i++)
        assert_int_equal(send(b, 0, i, 2, (char[]){(char)('a' + i - 1), '\0'}), MAIL_TAKEN);
    assert_int_equal(mail_blob_put(b->mail, JOB, &blob, &b->sink), MAIL_BLOB_PUT);
    mail_durable(b->mail);
    (void)reads(b, 2, 3);
    set_layer(b, 2, 0, 3);
    set_layer(b, 2, 0, 3);
    clean(b);
    reload(b);
    clean(b); /* a copy of copies */
    reload(b);
    assert_string_equal(reads(b, 2, 3), "3:0:c 4:0:d");
    assert_string_equal(reads(b, 2, 2), "lost");
    assert_int_equal(mail_blob_find(b->mail, JOB, "one")->bytes, 5);
    b->told[0].epoch = 10; /* what it says again is still compared, read long ago or not */
    tell(b, 0);
    assert_int_equal(send(b, 0, 1, 2, "A"), MAIL_DIFFERS);
    assert_int_equal(send(b, 0, 1, 2, "a"), MAIL_TAKEN);
    assert_int_equal(send(b, 0, 4, 2, "D"), MAIL_DIFFERS);
    assert_int_equal(send(b, 0, 5, 2, "e"), MAIL_TAKEN);
    mail_forget(b->mail, JOB);
    clean(b);
    assert_int_equal(b->log.len, 0);
    end(b);
}

/* ---- committed ------------------------------------------------------------------------------- */

/* A part that ends well has no layer behind its last messages: its end is what they wait for. Those
 * of one that failed are void. */
static void test_release_at_the_end(void **unused)
{
    for (int failed = 0; failed < 2; failed++)
        for (int killed = 0; killed < 2; killed++) {
            struct bench *b = begin(true, NULL);

            assert_int_equal(send(b, 0, 1, 2, "a"), MAIL_TAKEN);
            assert_int_equal(send(b, 0, 2, 2, "b"), MAIL_TAKEN);
            mail_durable(b->mail);
            set_layer(b, 0, 1, 0);
            b->told[0].is_final = true;
            b->told[0].has_failed = failed;
            if (killed)
                reload(b);
            else
                tell(b, 0);
            mail_durable(b->mail);
            assert_string_equal(reads(b, 2, 1), failed ? "1:0:a" : "1:0:a 2:0:b");
            tell(b, 0);
            mail_durable(b->mail);
            assert_string_equal(reads(b, 2, 1), failed ? "1:0:a" : "1:0:a 2:0:b");
            end(b);
        }
}

static void test_release(void **unused)
{
    struct bench *b = begin(true, NULL);

    assert_int_equal(send(b, 0, 1, 2, "a"), MAIL_TAKEN);
    assert_int_equal(send(b, 0, 2, 2, "b"), MAIL_TAKEN);
    mail_durable(b->mail);
    assert_string_equal(reads(b, 2, 1), "");
    assert_int_equal(wishes(b, MAIL_WISH_CHECKPOINT, 0), 1);
    assert_int_equal(wishes(b, MAIL_WISH_CHECKPOINT, 0), 0);
    set_layer(b, 0, 1, 0);
    mail_durable(b->mail);
    assert_string_equal(reads(b, 2, 1), "1:0:a");
    assert_int_equal(wishes(b, MAIL_WISH_CHECKPOINT, 0), 0); /* not more often than that */
    b->now_ms += 1000;
    assert_int_equal(wishes(b, MAIL_WISH_CHECKPOINT, 0), 1);
    reload(b);
    assert_string_equal(reads(b, 2, 1), "1:0:a");
    set_layer(b, 0, 3, 0);
    assert_int_equal(send(b, 0, 3, 2, "c"), MAIL_TAKEN); /* the layer has it already */
    mail_durable(b->mail);
    assert_string_equal(reads(b, 2, 1), "1:0:a 2:0:b 3:0:c");
    assert_int_equal(wishes(b, MAIL_WISH_CHECKPOINT, 0), 0);
    end(b);
}

static void test_take_back(void **unused)
{
    struct bench *b = begin(true, NULL);

    assert_int_equal(send(b, 0, 1, 2, "a"), MAIL_TAKEN);
    set_layer(b, 0, 1, 0);
    assert_int_equal(send(b, 0, 2, 2, "b"), MAIL_TAKEN);
    assert_int_equal(send(b, 0, 3, 1, "c"), MAIL_TAKEN);
    mail_durable(b->mail);
    b->told[0].epoch = 10;
    tell(b, 0);
    assert_int_equal(send(b, 0, 3, 1, "?"), MAIL_GAP);
    assert_int_equal(send(b, 0, 2, 1, "B"), MAIL_TAKEN); /* something else, elsewhere */
    mail_durable(b->mail);
    reload(b);
    set_layer(b, 0, 2, 0);
    mail_durable(b->mail);
    assert_string_equal(reads(b, 2, 1), "1:0:a");
    assert_string_equal(reads(b, 1, 1), "1:0:B");
    end(b);
}

/* ---- limits ---------------------------------------------------------------------------------- */

static void test_full(void **unused)
{
    struct mail_config config = mail_config_default();

    config.unread_max = 4 * (MAIL_RECORD_HEADER_BYTES + 1);
    struct bench *b = begin(false, &config);
    for (uint64_t i = 1; i <= 4; i++)
        assert_int_equal(send(b, 0, i, 2, "x"), MAIL_TAKEN);
    assert_int_equal(send(b, 0, 5, 2, "x"), MAIL_FULL);
    assert_int_equal(wishes(b, MAIL_WISH_NOTE, 2), 1);
    assert_int_equal(send(b, 1, 1, 0, "x"), MAIL_TAKEN); /* nobody else waits */
    mail_durable(b->mail);
    (void)has_news(b, MAIL_NEWS_ROOM, 2);
    (void)reads(b, 2, 2);
    assert_int_equal(send(b, 0, 5, 2, "x"), MAIL_FULL); /* not before half of it is read */
    assert_false(has_news(b, MAIL_NEWS_ROOM, 2));
    (void)reads(b, 2, 3);
    assert_true(has_news(b, MAIL_NEWS_ROOM, 2));
    assert_int_equal(send(b, 0, 5, 2, "x"), MAIL_TAKEN);
    assert_int_equal(wishes(b, MAIL_WISH_NOTE, 2), 0);
    end(b);
}

static void test_too_much_kept(void **unused)
{
    struct mail_config config = mail_config_default();

    config.kept_max = 2 * (MAIL_RECORD_HEADER_BYTES + 1);
    config.digests_max = 4;
    struct bench *b = begin(false, &config);
    for (uint64_t i = 1; i <= 4; i++)
        assert_int_equal(send(b, 0, i, 2, "x"), MAIL_TAKEN);
    mail_durable(b->mail);
    (void)reads(b, 2, 3);
    assert_int_equal(wishes(b, MAIL_WISH_CHECKPOINT, 2), 0);
    (void)reads(b, 2, 4);
    assert_int_equal(wishes(b, MAIL_WISH_CHECKPOINT, 2), 1);
    assert_int_equal(send(b, 0, 5, 2, "x"), MAIL_TAKEN); /* nobody waits for that */
    assert_int_equal(wishes(b, MAIL_WISH_CHECKPOINT, 0), 1);
    set_layer(b, 2, 0, 4);
    set_layer(b, 2, 0, 4);
    set_layer(b, 0, 5, 0);
    set_layer(b, 0, 5, 0);
    b->now_ms += 100000;
    assert_int_equal(wishes(b, MAIL_WISH_CHECKPOINT, 2), 0);
    assert_int_equal(wishes(b, MAIL_WISH_CHECKPOINT, 0), 0);
    end(b);
}

/* ---- ends ------------------------------------------------------------------------------------ */

static void test_gone(void **unused)
{
    struct bench *b = begin(false, NULL);

    assert_int_equal(send(b, 1, 1, 2, "last"), MAIL_TAKEN);
    mail_durable(b->mail);
    assert_string_equal(reads(b, 2, 1), "1:1:last");
    b->told[1].is_final = b->told[1].has_failed = true;
    tell(b, 1);
    assert_int_equal(wishes(b, MAIL_WISH_NOTE, 2), 0);
    mail_durable(b->mail);
    assert_string_equal(reads(b, 2, 1), "1:1:last 2:1:!");
    assert_int_equal(send(b, 0, 1, 1, "dropped"), MAIL_TAKEN);
    assert_int_equal(send(b, 0, 2, 2, "kept"), MAIL_TAKEN);
    mail_durable(b->mail);
    reload(b);
    assert_string_equal(reads(b, 2, 1), "1:1:last 2:1:! 3:0:kept");
    assert_string_equal(reads(b, 0, 1), ""); /* who first reads now is told as well */
    (void)wishes(b, MAIL_WISH_NOTE, 0);
    mail_durable(b->mail);
    assert_string_equal(reads(b, 0, 1), "1:1:!");
    (void)wishes(b, MAIL_WISH_NOTE, 0);
    mail_durable(b->mail);
    assert_string_equal(reads(b, 0, 2), "");
    b->told[0].is_final = true; /* it is done, and nobody needs to know */
    tell(b, 0);
    (void)wishes(b, MAIL_WISH_NOTE, 2);
    mail_durable(b->mail);
    assert_string_equal(reads(b, 2, 3), "3:0:kept");
    assert_true(mail_has(b->mail, JOB));
    mail_forget(b->mail, JOB);
    assert_false(mail_has(b->mail, JOB));
    assert_int_equal(mail_live_bytes(b->mail), 0);
    end(b);
}

static void test_blobs(void **unused)
{
    struct bench *b = begin(false, NULL);
    struct mail_blob one = {.name = "one", .digest = {1}, .bytes = 5}, other = one;

    assert_int_equal(mail_blob_put(b->mail, JOB, &one, &b->sink), MAIL_BLOB_PUT);
    assert_int_equal(mail_blob_put(b->mail, JOB, &one, &b->sink), MAIL_BLOB_PUT);
    other.digest[0] = 2;
    assert_int_equal(mail_blob_put(b->mail, JOB, &other, &b->sink), MAIL_BLOB_EXISTS);
    assert_int_equal(mail_blob_put(b->mail, JOB + 1, &one, &b->sink), MAIL_BLOB_NO_GROUP);
    reload(b);
    assert_int_equal(mail_blob_find(b->mail, JOB, "one")->bytes, 5);
    assert_null(mail_blob_find(b->mail, JOB, "two"));
    assert_null(mail_blob_find(b->mail, JOB + 1, "one"));
    assert_true(mail_refers_to(b->mail, one.digest));
    assert_false(mail_refers_to(b->mail, other.digest));
    end(b);
}

static void test_bad_records(void **unused)
{
    struct buf bytes = {0};
    struct mail_record r = {.kind = MAIL_RECORD_MESSAGE,
                            .job = 1,
                            .seq = 1,
                            .len = 3,
                            .body = (const uint8_t *)"abc"},
                       got;
    struct mail_config config = mail_config_default();
    struct mail *m = mail_new(&config);

    mail_record_put(&bytes, &r);
    for (size_t i = 0; i < bytes.len; i++) {
        assert_int_equal(mail_record_get(bytes.data, i, &got), -EBADMSG);
        bytes.data[i] ^= 1;
        assert_int_equal(mail_record_get(bytes.data, bytes.len, &got), -EBADMSG);
        bytes.data[i] ^= 1;
    }
    assert_int_equal(mail_record_get(bytes.data, bytes.len, &got), 0);
    assert_int_equal(mail_load(m, &got, 1), 0);
    got.from = 1 << MAIL_RANK_BITS;
    assert_int_equal(mail_load(m, &got, 1), -EBADMSG);
    mail_load_done(m);
    mail_free(m);
    buf_deinit(&bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_visible_when_durable),
        cmocka_unit_test(test_sent_again),
        cmocka_unit_test(test_reads_again),
        cmocka_unit_test(test_back_too_far),
        cmocka_unit_test(test_clean),
        cmocka_unit_test(test_release),
        cmocka_unit_test(test_release_at_the_end),
        cmocka_unit_test(test_take_back),
        cmocka_unit_test(test_full),
        cmocka_unit_test(test_too_much_kept),
        cmocka_unit_test(test_gone),
        cmocka_unit_test(test_blobs),
        cmocka_unit_test(test_bad_records),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
