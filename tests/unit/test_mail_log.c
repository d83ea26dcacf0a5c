/* SPDX-License-Identifier: Apache-2.0
 *
 * The log of mail on a real disk: files follow each other, a torn end is cut off wherever it was
 * torn, damage elsewhere is refused, the oldest file goes, a full disk is refused beforehand.
 */
#include "master/mail_log.h"
#include "scratch.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/stat.h>

#include <cmocka.h>

struct seen {
    uint64_t count, last_seq, where[2000];
};

static int see(void *arg, const struct mail_record *r, uint64_t where)
{
    struct seen *s = arg;

    s->where[s->count++ % 2000] = where;
    s->last_seq = r->seq;
    return 0;
}

static struct mail_log *open_log(const struct scratch *s, uint32_t file_bytes, struct seen *seen)
{
    struct mail_log *l = NULL;
    struct err e;

    memset(seen, 0, sizeof *seen);
    if (mail_log_open(s->path, file_bytes, see, seen, &l, &e) < 0)
        fail_msg("%s", e.text);
    return l;
}

static uint64_t put(struct mail_log *l, uint64_t seq, const char *body)
{
    struct mail_sink sink = mail_log_sink(l);
    struct mail_record r = {.kind = MAIL_RECORD_MESSAGE,
                            .job = 1,
                            .seq = seq,
                            .pos = seq,
                            .len = (uint32_t)strlen(body),
                            .body = (const uint8_t *)body};

    return sink.append(sink.arg, &r, 0);
}

static void sync_all(struct mail_log *l)
{
    assert_true(mail_log_is_dirty(l));
    assert_int_equal(mail_log_sync(l), 0);
    assert_false(mail_log_is_dirty(l));
}

static void reserve(struct mail_log *l)
{
    assert_int_equal(mail_log_reserve(l, 4096), 0);
}

static void messages_are_read_back(void **state)
{
    struct scratch s = scratch_new();
    struct seen seen;
    struct mail_log *l = open_log(&s, 1 << 20, &seen);
    struct mail_found found[4];
    AUTO_BUF struct buf got = {0};
    struct cursor c;
    struct mail_in m;

    reserve(l);
    for (uint64_t i = 0; i < 3; i++)
        found[i] = (struct mail_found){put(l, i + 1, "hello"), i + 1, 0, 5, MAIL_MESSAGE};
    sync_all(l);
    reserve(l);
    struct mail_sink sink = mail_log_sink(l);
    struct mail_record copy = {.kind = MAIL_RECORD_MESSAGE, .job = 1, .seq = 9, .pos = 4, .len = 5};
    found[3] = (struct mail_found){sink.append(sink.arg, &copy, found[0].where), 4, 0, 5, 0};
    copy.pos = 5; /* a copy of what is not written yet */
    (void)sink.append(sink.arg, &copy, found[3].where);
    sync_all(l);
    assert_int_equal(mail_log_read(l, found, 4, &got), 0);
    c = cursor_of(got.data, got.len);
    for (uint64_t i = 1; i <= 4; i++) {
        assert_int_equal(mail_in_get(&c, &m), 0);
        assert_int_equal(m.pos, i);
        assert_memory_equal(m.body, "hello", 5);
    }
    assert_int_equal(cursor_left(&c), 0);
    found[1].pos = 7;
    assert_int_equal(mail_log_read(l, found, 4, &got), -EBADMSG);
    mail_log_close(l);
    l = open_log(&s, 1 << 20, &seen);
    assert_int_equal(seen.count, 5);
    assert_int_equal(seen.where[3], found[3].where);
    mail_log_close(l);
    scratch_remove(&s);
}

static uint64_t size_of(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 ? (uint64_t)st.st_size : 0;
}

/* Every byte at which a write may have stopped, and a bit that is wrong behind it. */
static void a_torn_end_is_cut_off(void **state)
{
    struct scratch s = scratch_new();
    struct seen seen;
    struct mail_log *l = open_log(&s, 1 << 20, &seen);
    char path[200];

    reserve(l);
    (void)put(l, 1, "first");
    (void)put(l, 2, "second");
    sync_all(l);
    snprintf(path, sizeof path, "%s/0000000000000001.log", s.path);
    uint64_t whole = size_of(path), one = MAIL_RECORD_HEADER_BYTES + 5;
    mail_log_close(l);
    for (uint64_t at = whole; at-- > 0;) {
        int fd;

        assert_int_equal(truncate(path, (off_t)at), 0);
        l = open_log(&s, 1 << 20, &seen);
        assert_int_equal(seen.count, at >= one);
        assert_int_equal(size_of(path), at >= one ? one : 0);
        reserve(l);
        (void)put(l, 7, "again"); /* it goes on where the good ones end */
        sync_all(l);
        mail_log_close(l);
        l = open_log(&s, 1 << 20, &seen);
        assert_int_equal(seen.count, (at >= one) + 1);
        assert_int_equal(seen.last_seq, 7);
        mail_log_close(l);
        assert_int_equal(truncate(path, 0), 0);
        l = open_log(&s, 1 << 20, &seen);
        reserve(l);
        (void)put(l, 1, "first");
        (void)put(l, 2, "second");
        sync_all(l);
        mail_log_close(l);
        fd = open(path, O_RDWR);
        assert_true(fd >= 0);
        char byte;
        assert_int_equal(pread(fd, &byte, 1, (off_t)at), 1);
        byte ^= 4;
        assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
        l = open_log(&s, 1 << 20, &seen);
        assert_int_equal(seen.count, at >= one);
        mail_log_close(l);
        assert_int_equal(ftruncate(fd, 0), 0);
        close(fd);
        l = open_log(&s, 1 << 20, &seen);
        reserve(l);
        (void)put(l, 1, "first");
        (void)put(l, 2, "second");
        sync_all(l);
        mail_log_close(l);
    }
    scratch_remove(&s);
}

static void count_records(void *arg, const struct mail_record *r, uint64_t where)
{
    (*(int *)arg)++;
}

static void the_oldest_file_goes(void **state)
{
    struct scratch s = scratch_new();
    struct seen seen;
    struct mail_log *l = open_log(&s, 200, &seen);
    char first[200], second[200];
    struct err e;
    bool done = false;
    int records = 0;

    for (uint64_t i = 1; i <= 9; i++) {
        reserve(l);
        (void)put(l, i, "some text of a message");
        sync_all(l);
    }
    assert_int_equal(mail_log_files(l), 3);
    uint64_t bytes = mail_log_bytes(l);
    while (!done)
        assert_int_equal(mail_log_clean(l, 1, count_records, &records, &done), 0);
    assert_int_equal(records, 3);
    assert_int_equal(mail_log_drop_oldest(l), 0);
    assert_int_equal(mail_log_files(l), 2);
    assert_true(mail_log_bytes(l) < bytes);
    mail_log_close(l);
    l = open_log(&s, 200, &seen);
    assert_int_equal(seen.count, 6);
    mail_log_close(l);
    /* Damage that no power cut leaves: a file in the midst, or a byte in one. */
    snprintf(first, sizeof first, "%s/0000000000000002.log", s.path);
    snprintf(second, sizeof second, "%s/0000000000000004.log", s.path);
    int fd = open(first, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, "X", 1, 80), 1);
    assert_int_equal(mail_log_open(s.path, 200, see, &seen, &l, &e), -EBADMSG);
    assert_non_null(strstr(e.text, "0000000000000002.log is damaged at byte 0"));
    close(fd);
    assert_int_equal(unlink(first), 0);
    l = open_log(&s, 200, &seen);
    assert_int_equal(seen.count, 3);
    reserve(l);
    (void)put(l, 10, "x");
    sync_all(l);
    mail_log_close(l);
    snprintf(first, sizeof first, "%s/0000000000000003.log", s.path);
    assert_int_equal(rename(first, second), 0);
    snprintf(second, sizeof second, "%s/0000000000000006.log", s.path);
    fd = open(second, O_RDWR | O_CREAT, 0600);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(mail_log_open(s.path, 200, see, &seen, &l, &e), -EBADMSG);
    assert_non_null(strstr(e.text, "is missing"));
    scratch_remove(&s);
}

static void a_full_disk_is_refused_beforehand(void **state)
{
    struct scratch s = scratch_new();
    struct seen seen;
    struct mail_log *l;
    char *body = xcalloc(1, 1 << 20);
    int r = 0;
    uint64_t seq = 1;

    if (!scratch_small(&s, "40m")) {
        scratch_remove(&s);
        free(body);
        skip();
    }
    memset(body, 'x', (1 << 20) - 1);
    l = open_log(&s, 8 << 20, &seen);
    while ((r = mail_log_reserve(l, 1 << 20)) == 0) {
        (void)put(l, seq++, body);
        sync_all(l);
        assert_true(seq < 100);
    }
    assert_int_equal(r, -ENOSPC);
    assert_true(seq > 10);
    mail_log_close(l);
    l = open_log(&s, 8 << 20, &seen);
    assert_int_equal(seen.last_seq, seq - 1);
    mail_log_close(l);
    free(body);
    scratch_remove(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages_are_read_back),
        cmocka_unit_test(a_torn_end_is_cut_off),
        cmocka_unit_test(the_oldest_file_goes),
        cmocka_unit_test(a_full_disk_is_refused_beforehand),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
