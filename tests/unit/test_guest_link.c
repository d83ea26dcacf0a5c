/* SPDX-License-Identifier: Apache-2.0
 *
 * The host's side of the guest protocol against a guest that the test plays: order, offsets,
 * half frames of before a save, and guests that misbehave.
 */
#include "agent/guest_link.h"
#include "base/cursor.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct world {
    struct guest_link link;
    int guest; /* the guest's end */
    struct guest_reader reader;
    struct buf output, result;
    int result_error;
    int states;
    uint64_t now_ms;
    /* what the guest saw last */
    struct guest_sync sync;
    uint64_t acked_output, acked_result;
    int starts;
};

static void on_output(void *arg, const uint8_t *data, size_t len)
{
    buf_put(&((struct world *)arg)->output, data, len);
}

static int on_result(void *arg, uint64_t offset, const uint8_t *data, size_t len)
{
    struct world *w = arg;

    if (w->result_error)
        return w->result_error;
    assert_int_equal(offset, w->result.len);
    buf_put(&w->result, data, len);
    return 0;
}

static void on_state(void *arg, const struct guest_state *state)
{
    ((struct world *)arg)->states++;
}

static void begin(struct world *w, const char *start, uint64_t have)
{
    const struct guest_link_events events = {on_output, on_result, on_state, w};
    int fds[2];

    *w = (struct world){.now_ms = 1000};
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    w->guest = fds[1];
    guest_link_init(&w->link, fds[0], &events, start, have);
}

static void end(struct world *w)
{
    close(w->guest);
    close(w->link.fd);
    guest_link_deinit(&w->link);
    guest_reader_deinit(&w->reader);
    buf_deinit(&w->output);
    buf_deinit(&w->result);
}

/* The guest reads all frames that the host sent; returns how many. */
static int guest_reads(struct world *w)
{
    struct guest_frame f;
    uint8_t data[8192];
    ssize_t n;
    int count = 0;

    assert_int_equal(guest_link_flush(&w->link), 0);
    while ((n = recv(w->guest, data, sizeof data, MSG_DONTWAIT)) > 0)
        guest_reader_feed(&w->reader, data, (size_t)n);
    for (; guest_reader_next(&w->reader, &f); count++) {
        if (f.type == GUEST_SYNC)
            assert_int_equal(guest_sync_get(f.payload, f.len, &w->sync), 0);
        else if (f.type == GUEST_ACK)
            assert_int_equal(guest_ack_get(f.payload, f.len, &w->acked_output, &w->acked_result),
                             0);
        else if (f.type == GUEST_START)
            w->starts++;
    }
    return count;
}

static void guest_sends(struct world *w, uint8_t type, const struct buf *payload)
{
    struct buf out = {0};

    guest_frame_put(&out, type, payload->data, (uint32_t)payload->len);
    assert_int_equal(write(w->guest, out.data, out.len), (ssize_t)out.len);
    buf_deinit(&out);
}

static void guest_sends_state(struct world *w, uint8_t phase, uint64_t nonce)
{
    struct guest_state s = {.phase = phase, .nonce = nonce};
    struct buf payload = {0};

    guest_state_put(&payload, &s);
    guest_sends(w, GUEST_STATE, &payload);
    buf_deinit(&payload);
    assert_int_equal(guest_link_receive(&w->link), 0);
}

static void guest_sends_bytes(struct world *w, uint8_t type, uint64_t offset, const char *text)
{
    struct buf payload = {0};

    buf_put_u64(&payload, offset);
    buf_put_str(&payload, text);
    guest_sends(w, type, &payload);
    buf_deinit(&payload);
    assert_int_equal(guest_link_receive(&w->link), 0);
}

static void sync_up(struct world *w, uint8_t phase)
{
    guest_link_sync(&w->link, w->now_ms);
    (void)guest_reads(w);
    guest_sends_state(w, phase, w->sync.nonce);
    assert_true(w->link.synced);
}

static void test_a_whole_part(void **state)
{
    struct world w;

    begin(&w, "{\"argv\":[\"true\"]}", 0);
    sync_up(&w, GUEST_READY);
    (void)guest_reads(&w);
    assert_int_equal(w.starts, 1);
    guest_sends_state(&w, GUEST_READY, w.sync.nonce);
    (void)guest_reads(&w);
    assert_int_equal(w.starts, 1); /* once a SYNC, however often the guest says READY */
    guest_sends_bytes(&w, GUEST_OUTPUT, 0, "hello ");
    guest_sends_bytes(&w, GUEST_OUTPUT, 3, "lo world");
    assert_int_equal(w.output.len, 11);
    assert_memory_equal(w.output.data, "hello world", 11);
    (void)guest_reads(&w);
    assert_int_equal(w.acked_output, 0); /* received is not durable */
    guest_link_ack_output(&w.link, 11);
    (void)guest_reads(&w);
    assert_int_equal(w.acked_output, 11);
    guest_sends_bytes(&w, GUEST_RESULT, 0, "tar");
    (void)guest_reads(&w);
    assert_int_equal(w.acked_result, 3);
    guest_sends_state(&w, GUEST_FINISHED, w.sync.nonce);
    assert_int_equal(w.link.state.phase, GUEST_FINISHED);
    end(&w);
}

/* After a resume: what the saved guest had half sent comes first. */
static void test_half_frame_of_before(void **state)
{
    struct world w;
    struct buf old = {0};
    uint8_t rest[3000] = {0};

    begin(&w, NULL, 100);
    guest_frame_put(&old, GUEST_OUTPUT, rest, sizeof rest);
    assert_int_equal(write(w.guest, old.data + 1000, old.len - 1000), (ssize_t)old.len - 1000);
    guest_sends_bytes(&w, GUEST_OUTPUT, 100, "ignored before the STATE");
    assert_int_equal(w.output.len, 0);
    sync_up(&w, GUEST_RUNNING);
    assert_int_equal(w.sync.output_have, 100);
    guest_sends_bytes(&w, GUEST_OUTPUT, 90, "0123456789new");
    assert_int_equal(w.output.len, 3);
    assert_memory_equal(w.output.data, "new", 3);
    buf_deinit(&old);
    end(&w);
}

/* A header whose payload never comes hides the answer until the link gives it up. */
static void test_header_without_payload(void **state)
{
    struct world w;
    struct buf old = {0};
    uint8_t big[60000] = {0};

    begin(&w, NULL, 0);
    guest_frame_put(&old, GUEST_OUTPUT, big, sizeof big);
    assert_int_equal(write(w.guest, old.data, 100), 100);
    guest_link_sync(&w.link, w.now_ms);
    (void)guest_reads(&w);
    guest_sends_state(&w, GUEST_RUNNING, w.sync.nonce);
    assert_false(w.link.synced);
    assert_int_equal(guest_link_tick(&w.link, w.now_ms + GUEST_LINK_SYNC_MS), 0);
    assert_true(w.link.synced);
    buf_deinit(&old);
    end(&w);
}

static void test_old_nonce_and_silence(void **state)
{
    struct world w;
    uint64_t t;
    int syncs = 0, r = 0;

    begin(&w, NULL, 0);
    guest_link_sync(&w.link, w.now_ms);
    (void)guest_reads(&w);
    guest_sends_state(&w, GUEST_RUNNING, w.sync.nonce + 1);
    assert_false(w.link.synced);
    assert_int_equal(w.states, 0);
    for (t = w.now_ms; r == 0; t += 250) {
        r = guest_link_tick(&w.link, t);
        syncs += guest_reads(&w);
    }
    assert_int_equal(r, -ETIMEDOUT);
    assert_in_range(t - w.now_ms, GUEST_LINK_SILENCE_MS, GUEST_LINK_SILENCE_MS + 1000);
    assert_in_range(syncs, 55, 61);
    end(&w);
}

/* A guest that answered once and then hangs is asked, and given up; one that speaks is left alone.
 */
static void test_quiet_after_an_answer(void **state)
{
    struct world w;
    uint64_t t;
    int syncs = 0, r = 0;

    begin(&w, NULL, 0);
    sync_up(&w, GUEST_RUNNING);
    for (t = w.now_ms; t < w.now_ms + 10 * GUEST_LINK_QUIET_MS; t += 1000) {
        assert_int_equal(guest_link_tick(&w.link, t), 0);
        guest_sends_state(&w, GUEST_RUNNING, 0);
        assert_true(w.link.synced);
    }
    (void)guest_reads(&w);
    for (w.now_ms = t; w.link.synced; t += 250)
        assert_int_equal(guest_link_tick(&w.link, t), 0);
    assert_in_range(t - w.now_ms, GUEST_LINK_QUIET_MS - 1000, GUEST_LINK_QUIET_MS + 1000);
    assert_int_equal(guest_reads(&w), 1);
    guest_sends_state(&w, GUEST_RUNNING, w.sync.nonce);
    assert_true(w.link.synced);
    for (w.now_ms = t; r == 0; t += 250) {
        r = guest_link_tick(&w.link, t);
        syncs += guest_reads(&w);
    }
    assert_int_equal(r, -ETIMEDOUT);
    assert_in_range(t - w.now_ms, GUEST_LINK_QUIET_MS + GUEST_LINK_SILENCE_MS - 1000,
                    GUEST_LINK_QUIET_MS + GUEST_LINK_SILENCE_MS + 1000);
    assert_in_range(syncs, 55, 62);
    end(&w);
}

/* A gap, more than a window, or damage: nothing is taken, the link asks again. */
static void test_misbehaviour(void **state)
{
    static char block[60001];
    struct world w;
    uint64_t offset = 0, before;
    struct buf frame = {0};

    memset(block, 'x', sizeof block - 1);
    begin(&w, NULL, 0);
    sync_up(&w, GUEST_RUNNING);
    guest_sends_bytes(&w, GUEST_OUTPUT, 1, "gap");
    assert_false(w.link.synced);
    sync_up(&w, GUEST_RUNNING);
    while (w.link.synced) {
        guest_sends_bytes(&w, GUEST_OUTPUT, offset, block);
        offset += sizeof block - 1;
    }
    assert_true(w.output.len <= GUEST_WINDOW_BYTES + GUEST_PAYLOAD_MAX);
    before = w.output.len;
    sync_up(&w, GUEST_RUNNING);
    buf_put_u64(&frame, before);
    guest_frame_put(&frame, GUEST_LOG, "hello", 5);
    buf_consume(&frame, 8);
    frame.data[frame.len - 1] ^= 1;
    assert_int_equal(write(w.guest, frame.data, frame.len), (ssize_t)frame.len);
    guest_sends_state(&w, GUEST_RUNNING, w.sync.nonce);
    assert_false(w.link.synced);
    assert_int_equal(w.output.len, before);
    buf_deinit(&frame);
    end(&w);
}

/* A disk that cannot take the result: not acknowledged, asked for again. */
static void test_result_waits_for_our_disk(void **state)
{
    struct world w;

    begin(&w, NULL, 0);
    sync_up(&w, GUEST_EXITED);
    w.result_error = -ENOSPC;
    guest_sends_bytes(&w, GUEST_RESULT, 0, "tar");
    assert_false(w.link.synced);
    w.result_error = 0;
    sync_up(&w, GUEST_EXITED);
    assert_int_equal(w.sync.result_have, 0);
    guest_sends_bytes(&w, GUEST_RESULT, 0, "tar");
    (void)guest_reads(&w);
    assert_int_equal(w.acked_result, 3);
    end(&w);
}

/* A guest that sends and never reads costs a bounded amount of memory. */
static void test_guest_that_never_reads(void **state)
{
    struct world w;

    begin(&w, NULL, 0);
    sync_up(&w, GUEST_EXITED);
    for (uint64_t i = 0; i < 20000; i++) {
        guest_sends_bytes(&w, GUEST_RESULT, i, "x");
        assert_int_equal(guest_link_flush(&w.link), 0);
    }
    assert_true(w.link.out.len < 16384);
    (void)guest_reads(&w);
    (void)guest_reads(&w);
    assert_int_equal(w.acked_result, 20000);
    end(&w);
}

static void test_other_end_gone(void **state)
{
    struct world w;

    begin(&w, NULL, 0);
    close(w.guest);
    assert_int_equal(guest_link_receive(&w.link), -EPIPE);
    guest_link_sync(&w.link, 0);
    assert_true(guest_link_flush(&w.link) < 0);
    w.guest = -1;
    end(&w);
}

/* A layer that is not this job's: nothing that the guest sends gets through. */
static void test_state_of_another_job(void **state)
{
    struct guest_state s = {.phase = GUEST_RUNNING, .group = 8};
    struct buf payload = {0};
    struct world w;

    begin(&w, NULL, 0);
    w.link.group = 7;
    guest_link_sync(&w.link, w.now_ms);
    assert_int_equal(guest_link_flush(&w.link), 0);
    (void)guest_reads(&w);
    s.nonce = w.sync.nonce;
    guest_state_put(&payload, &s);
    guest_sends(&w, GUEST_STATE, &payload);
    buf_deinit(&payload);
    buf_put_u64(&payload, 0);
    buf_put_str(&payload, "secret");
    guest_sends(&w, GUEST_OUTPUT, &payload);
    buf_deinit(&payload);
    assert_int_equal(guest_link_receive(&w.link), -EBADMSG);
    assert_true(!w.link.synced && w.states == 0 && w.output.len == 0);
    end(&w);
    begin(&w, NULL, 0);
    w.link.group = 7;
    sync_up(&w, GUEST_RUNNING); /* an older guest, which says nothing of it */
    end(&w);
}

/* ---- mail ---- */

static int on_sent(void *arg, const struct mail_out *m)
{
    struct world *w = arg;

    if (w->result_error)
        return w->result_error;
    buf_printf(&w->output, "%llu>%u:%.*s ", (unsigned long long)m->seq, m->to, (int)m->len,
               (const char *)m->body);
    return 0;
}

static void on_wanted(void *arg, uint64_t next, uint32_t room, bool anew)
{
    buf_printf(&((struct world *)arg)->output, "want %llu %u%s ", (unsigned long long)next, room,
               anew ? " anew" : "");
}

static void on_blob(void *arg, const struct guest_blob *b)
{
    buf_printf(&((struct world *)arg)->output, "%s %s ", b->put ? "put" : "get", b->name);
}

static void guest_sends_frames(struct world *w, struct buf *frames)
{
    assert_int_equal(write(w->guest, frames->data, frames->len), (ssize_t)frames->len);
    buf_deinit(frames);
    assert_int_equal(guest_link_receive(&w->link), 0);
}

static void guest_sends_mail(struct world *w, uint64_t seq, const char *text)
{
    struct buf b = {0};

    guest_mail_send_put(&b,
                        &(struct mail_out){seq, 2, (uint32_t)strlen(text), (const uint8_t *)text});
    guest_sends_frames(w, &b);
}

static void guest_wants(struct world *w, uint64_t next, uint32_t room)
{
    struct buf b = {0};

    guest_mail_read_put(&b, next, room);
    guest_sends_frames(w, &b);
}

static void expect_events(struct world *w, const char *text)
{
    char *got = buf_take_str(&w->output);

    assert_string_equal(got ? got : "", text);
    free(got);
}

static void begin_mail(struct world *w)
{
    begin(w, "{\"argv\":[\"true\"]}", 0);
    w->link.events.mail_sent = on_sent;
    w->link.events.mail_wanted = on_wanted;
    w->link.events.blob = on_blob;
    sync_up(w, GUEST_RUNNING);
}

static void test_mail(void **state)
{
    struct buf b = {0};
    struct world w;

    begin_mail(&w);
    guest_sends_mail(&w, 7, "a"); /* six of them the master has */
    guest_sends_mail(&w, 8, "b");
    guest_wants(&w, 3, 100);
    guest_wants(&w, 4, 90);
    guest_blob_put(&b, &(struct guest_blob){.id = 1, .name = "x"});
    guest_sends_frames(&w, &b);
    expect_events(&w, "7>2:a 8>2:b want 3 100 anew want 4 90 get x ");
    guest_link_ack_mail(&w.link, 7);
    guest_link_ack_mail(&w.link, 6);
    assert_true(guest_link_wants_write(&w.link));
    assert_int_equal(guest_reads(&w), 2); /* and the ACK of all else */
    /* It was saved and goes on: what it sends once more is not new. */
    sync_up(&w, GUEST_RUNNING);
    assert_true(w.link.mail_ack_due);
    guest_sends_mail(&w, 8, "b");
    guest_sends_mail(&w, 9, "c");
    guest_wants(&w, 4, 90);
    expect_events(&w, "9>2:c want 4 90 anew ");
    end(&w);
}

static void test_mail_for_the_guest(void **state)
{
    static uint8_t body[100000];
    const struct mail_in m = {1, 0, MAIL_MESSAGE, sizeof body, body};
    struct world w;
    int taken = 0;

    begin_mail(&w);
    (void)guest_reads(&w);
    while (guest_link_mail(&w.link, &m))
        assert_true(++taken < 10); /* it does not read: little is queued */
    assert_int_equal(taken, 3);
    w.link.synced = false;
    assert_false(guest_link_blob_reply(&w.link, &(struct guest_blob_reply){.id = 1}));
    end(&w);
}

static void test_mail_that_makes_no_sense(void **state)
{
    for (int kind = 0; kind < 4; kind++) {
        struct world w;

        begin_mail(&w);
        guest_sends_mail(&w, 1, "a");
        if (kind == 0)
            guest_sends_mail(&w, 3, "c"); /* where is 2? */
        else if (kind == 1)
            guest_sends_bytes(&w, GUEST_MAIL_READ, 0, "");
        else if (kind == 2)
            guest_sends_bytes(&w, GUEST_BLOB, 0, "");
        else
            w.result_error = -ENOBUFS, guest_sends_mail(&w, 2, "b");
        assert_false(w.link.synced);
        expect_events(&w, "1>2:a ");
        /* Asked anew, it may do better. */
        w.result_error = 0;
        sync_up(&w, GUEST_RUNNING);
        guest_sends_mail(&w, 2, "b");
        expect_events(&w, "2>2:b ");
        end(&w);
    }
}

/* A host without mail: what a newer guest says of it is nothing. */
static void test_no_mail(void **state)
{
    struct world w;

    begin(&w, NULL, 0);
    sync_up(&w, GUEST_RUNNING);
    guest_sends_mail(&w, 1, "a");
    guest_wants(&w, 1, 100);
    assert_true(w.link.synced);
    end(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_whole_part),
        cmocka_unit_test(test_half_frame_of_before),
        cmocka_unit_test(test_header_without_payload),
        cmocka_unit_test(test_old_nonce_and_silence),
        cmocka_unit_test(test_quiet_after_an_answer),
        cmocka_unit_test(test_misbehaviour),
        cmocka_unit_test(test_result_waits_for_our_disk),
        cmocka_unit_test(test_guest_that_never_reads),
        cmocka_unit_test(test_other_end_gone),
        cmocka_unit_test(test_state_of_another_job),
        cmocka_unit_test(test_mail),
        cmocka_unit_test(test_mail_for_the_guest),
        cmocka_unit_test(test_mail_that_makes_no_sense),
        cmocka_unit_test(test_no_mail),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
