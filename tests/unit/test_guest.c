/* SPDX-License-Identifier: Apache-2.0
 *
 * The parts of yado-guest that need no machine of their own: START, the output ring, the tar of
 * /out at any offset, unpacking tars that mean harm.
 */
#include "base/buf.h"
#include "base/rng.h"
#include "guest/inputs.h"
#include "guest/output.h"
#include "guest/start.h"
#include "guest/tar_read.h"
#include "guest/tar_write.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static int parse(const char *json, struct start *s)
{
    struct err e;

    return start_parse(json, strlen(json), s, &e);
}

static void test_start(void **unused)
{
    struct start s;

    assert_int_equal(
        parse(
            "{\"argv\": [\"sh\", \"-c\", \"a\\u00e9\\n\\ud83d\\ude00\"], \"env\": {\"A\": \"b=c\"},"
            " \"hostname\":\"h\", \"memory_bytes\": 5, \"time_limit_ms\": 7, \"out_limit_bytes\": "
            "9,"
            " \"network\": \"nat\", \"disk\": true, \"mail\": \"immediate\", \"part\": 2, "
            "\"parts\": 3, \"later\": [{\"x\": -1.5e3}, null, true, \"\"],"
            " \"inputs\": [{\"path\": \"./a//b\", \"offset\": 4096, \"size\": 3, \"mode\": 33261},"
            " {\"path\": \".\", \"offset\": 0, \"size\": 1, \"tar\": true}]}",
            &s),
        0);
    assert_string_equal(s.argv[2], "a\xc3\xa9\n\xf0\x9f\x98\x80");
    assert_null(s.argv[3]);
    assert_string_equal(s.env[0], "A=b=c");
    assert_true(s.network_nat && s.disk && s.time_limit_ms == 7 && s.out_limit_bytes == 9);
    assert_true(s.mail && s.part == 2 && s.parts == 3);
    assert_int_equal(s.count_inputs, 2);
    assert_string_equal(s.inputs[0].path, "a/b");
    assert_int_equal(s.inputs[0].mode, 0755);
    assert_true(s.inputs[1].tar && !s.inputs[0].tar);
    start_deinit(&s);
}

static void test_start_bad(void **unused)
{
    static const char *const bad[] = {
        "",
        "{",
        "[]",
        "{}",
        "{\"argv\": []}",
        "{\"argv\": [\"\"]}",
        "{\"argv\": [\"a\"]} x",
        "{\"argv\": [\"a\",]}",
        "{\"argv\": [\"a\"],}",
        "{\"argv\": [\"a\" \"b\"]}",
        "{\"argv\": \"a\"}",
        "{\"argv\": [\"a\\u0000\"]}",
        "{\"argv\": [\"a\\ud800\"]}",
        "{\"argv\": [\"a\n\"]}",
        "{\"argv\": [\"a\"], \"env\": {\"A=B\": \"c\"}}",
        "{\"argv\": [\"a\"], \"env\": {\"\": \"c\"}}",
        "{\"argv\": [\"a\"], \"time_limit_ms\": -1}",
        "{\"argv\": [\"a\"], \"time_limit_ms\": 1.5}",
        "{\"argv\": [\"a\"], \"time_limit_ms\": 99999999999999999999}",
        "{\"argv\": [\"a\"], \"time_limit_ms\": 01}",
        "{\"argv\": [\"a\"], \"inputs\": [{\"path\": \"../x\"}]}",
        "{\"argv\": [\"a\"], \"inputs\": [{\"path\": \"/x\"}]}",
        "{\"argv\": [\"a\"], \"inputs\": [{\"path\": \"a/../../x\"}]}",
        "{\"argv\": [\"a\"], \"inputs\": [{\"path\": \"\"}]}",
        "{\"argv\": [\"a\"], \"inputs\": [{}]}",
        "{\"argv\": [\"a\"], \"mail\": true}",
        "{\"argv\": [\"a\"], \"mail\": \"immediate\", \"part\": 3, \"parts\": 3}",
        "{\"argv\": [\"a\"], \"mail\": \"immediate\", \"part\": 0, \"parts\": 99999999}",
        "{\"argv\": [\"a\"], \"inputs\": [{\"path\": \"x\", \"offset\": 1}]}",
        "{\"argv\": [\"a\"], \"inputs\": [{\"path\": \"x\", \"offset\": 4096,"
        " \"size\": 18446744073709551615}]}",
        "{\"argv\": [\"a\"], \"x\": [[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]}",
    };

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct start s;

        if (parse(bad[i], &s) != -EINVAL)
            fail_msg("taken: %s", bad[i]);
        start_deinit(&s);
    }
}

/* Against a plain buffer that forgets nothing: random writes, sends, acks and rewinds. */
static void test_output(void **unused)
{
    uint64_t seed = getenv("YADO_SEED") ? strtoull(getenv("YADO_SEED"), NULL, 0) : 11;
    struct output *o = xcalloc(1, sizeof *o);
    struct rng rng = rng_seed(seed);
    struct buf all = {0}, host = {0};
    static uint8_t data[GUEST_PAYLOAD_MAX];
    uint64_t off;
    bool was_full = false;

    printf("# seed %llu\n", (unsigned long long)seed);
    for (int i = 0; i < 4000; i++) {
        uint32_t room = output_room(o), n;

        was_full |= room == 0;
        if (room && rng_below(&rng, i / 500 % 2 ? 3 : 50)) {
            n = 1 + (uint32_t)rng_below(&rng, rng_below(&rng, 2) ? 8 : room);
            n = n > room ? room : n;
            for (uint32_t k = 0; k < n; k++)
                data[k] = (uint8_t)rng_u64(&rng);
            output_add(o, 1 + i % 2, data, n);
            buf_put_u8(&all, 1 + i % 2);
            buf_put_u32(&all, n);
            buf_put(&all, data, n);
        } else if (rng_below(&rng, 20) == 0) {
            /* A resume: what the host has not stored by now comes again. */
            assert_int_equal(output_rewind(o, host.len), 0);
            assert_int_equal(o->sent, host.len);
        } else {
            n = output_next(o, &off, data, (uint32_t)(32773 + rng_below(&rng, 30000)));
            assert_true(n || o->sent == o->end);
            assert_int_equal(off, host.len);
            if (rng_below(&rng, 10))
                buf_put(&host, data, n);
            else /* lost with its connection */
                assert_int_equal(output_rewind(o, host.len), 0);
            if (rng_below(&rng, 4) == 0)
                assert_int_equal(output_ack(o, host.len), 0);
        }
        assert_true(o->acked <= o->sent && o->sent <= o->end);
        assert_true(o->end - o->acked <= GUEST_WINDOW_BYTES);
    }
    assert_true(was_full);
    assert_memory_equal(host.data, all.data, host.len);
    assert_int_equal(o->end, all.len);
    assert_int_equal(output_ack(o, o->end + 1), -EINVAL);
    buf_deinit(&all);
    buf_deinit(&host);
    free(o);
}

static void test_output_boundary(void **unused)
{
    struct output *o = xcalloc(1, sizeof *o);

    output_add(o, 1, "hello", 5);
    output_add(o, 1, "world", 5);
    assert_int_equal(output_ack(o, 3), -EINVAL);
    assert_int_equal(o->acked, 0);
    assert_int_equal(output_ack(o, 10), 0);
    assert_int_equal(output_ack(o, 0), 0); /* late news */
    assert_int_equal(o->acked, 10);
    assert_int_equal(o->sent, 10);
    free(o);
}

/* -- tars --------------------------------------------------------------------------------- */

struct bytes {
    const uint8_t *p;
    size_t left;
};

static ssize_t bytes_read(void *ctx, void *buf, size_t n)
{
    struct bytes *b = ctx;

    n = n < b->left ? n : b->left;
    memcpy(buf, b->p, n);
    b->p += n;
    b->left -= n;
    return (ssize_t)n;
}

static int unpack(const struct buf *tar, const char *folder, struct err *e)
{
    struct bytes b = {tar->data, tar->len};
    int fd = open(folder, O_RDONLY | O_DIRECTORY), r;

    r = inputs_unpack(bytes_read, &b, fd, e);
    close(fd);
    return r;
}

static void entry(struct buf *tar, const char *name, char type, const char *target,
                  const char *data)
{
    uint8_t *h = buf_extend(tar, 512);
    unsigned sum = 0;

    memset(h, 0, 512);
    memcpy(h, name, strlen(name));
    memcpy(h + 100, "0000644", 7);
    snprintf((char *)h + 124, 12, "%011o", (unsigned)strlen(data));
    memcpy(h + 136, "00000000000", 11);
    memset(h + 148, ' ', 8);
    h[156] = (uint8_t)type;
    memcpy(h + 157, target, strlen(target));
    memcpy(h + 257,
           "ustar\0"
           "00",
           8);
    for (int i = 0; i < 512; i++)
        sum += h[i];
    snprintf((char *)h + 148, 8, "%06o", sum);
    buf_put_str(tar, data);
    memset(buf_extend(tar, -strlen(data) & 511), 0, -strlen(data) & 511);
}

static void end(struct buf *tar)
{
    memset(buf_extend(tar, 1024), 0, 1024);
}

static void shell(const char *fmt, const char *dir)
{
    char *command = xasprintf("cd '%s' && %s", dir, fmt);

    assert_int_equal(system(command), 0);
    free(command);
}

static struct buf read_index(struct tar_index *t, struct rng *rng)
{
    struct buf b = {0};

    while (b.len < tar_index_size(t)) {
        size_t n = 1 + rng_below(rng, rng_below(rng, 2) ? 700 : 70000);
        size_t got = tar_index_read(t, b.len, buf_reserve(&b, n), n);

        assert_true(got == n || b.len + got == tar_index_size(t));
        b.len += got;
    }
    return b;
}

/* What the guest writes, this reader, GNU tar and the guest's own reader agree on. */
static void test_tar(void **unused)
{
    char dir[] = "/tmp/yado-test-XXXXXX";
    struct rng rng = rng_seed(3);
    struct tar_index *t, *again;
    struct err e;
    struct buf b, c;
    FILE *f;

    assert_non_null(mkdtemp(dir));
    shell("mkdir -p out/d/e out/empty back && printf hello >out/d/e/f && chmod 640 out/d/e/f &&"
          " head -c 100000 /dev/urandom >out/big && : >out/zero && truncate -s 300000 out/sparse &&"
          " ln -s d/e/f out/link && ln out/big out/d/hard && mkfifo out/fifo && touch -d @77 "
          "out/zero &&"
          " n=$(printf %0200d 7) && mkdir out/$n && echo long >out/$n/$n && touch -d @5 out/$n/$n "
          "&& ln -s $n/$n/$n out/l2 &&"
          " printf x >\"out/$(printf 'b\\303\\244 z')\" && head -c 100 /dev/zero >out/d-x",
          dir);
    {
        char *out = xasprintf("%s/out", dir), *back = xasprintf("%s/back", dir);
        char *file = xasprintf("%s/tar", dir);

        assert_int_equal(tar_index_scan(out, 1 << 20, 100, &t, &e), 0);
        b = read_index(t, &rng);
        c = read_index(t, &rng);
        assert_int_equal(b.len, c.len);
        assert_memory_equal(b.data, c.data, b.len);
        f = fopen(file, "w");
        assert_int_equal(fwrite(b.data, 1, b.len, f), b.len);
        fclose(f);
        shell(
            "rm out/fifo && tar --compare -f tar -C out && tar -tf tar | wc -l | grep -qx 14 &&"
            " tar --quoting-style=literal -tf tar | sed 's,/$,,' >names && LC_ALL=C sort -c names",
            dir);
        if (unpack(&b, back, &e) < 0)
            fail_msg("%s", e.text);
        shell("chmod 640 back/d/e/f && diff -r --no-dereference out back && test \"$(stat -c %Y "
              "back/zero)\" = 77 &&"
              " test \"$(readlink back/link)\" = d/e/f",
              dir);
        /* Holes count, and so do entries. */
        assert_int_equal(tar_index_scan(out, 300000, 100, &again, &e), -EFBIG);
        assert_int_equal(tar_index_scan(out, 1 << 20, 13, &again, &e), -EFBIG);
        shell("rm -r out/*", dir);
        tar_index_free(t);
        assert_int_equal(tar_index_scan(out, 1 << 20, 15, &t, &e), 0);
        assert_int_equal(tar_index_size(t), 0);
        tar_index_free(t);
        free(out);
        free(back);
        free(file);
    }
    shell("rm -rf \"$PWD\"", dir);
    buf_deinit(&b);
    buf_deinit(&c);
}

static void test_tar_gnu(void **unused)
{
    char dir[] = "/tmp/yado-test-XXXXXX";

    assert_non_null(mkdtemp(dir));
    shell("mkdir -p a/b && n=$(printf %0150d 7) && echo 1 >a/b/$n && echo 2 >a/x && ln a/x a/y &&"
          " ln -s $n a/l",
          dir);
    for (const char *const *format = (const char *const[]){"gnu", "pax", "ustar", NULL}; *format;
         format++) {
        char *make = xasprintf("rm -rf to && mkdir to && tar -cf tar --format=%s -C a .", *format);
        char *path = xasprintf("%s/tar", dir), *to = xasprintf("%s/to", dir);
        struct buf b = {0};
        struct err e;
        FILE *f;

        if (strcmp(*format, "ustar") == 0)
            shell("rm -r a/b a/l", dir); /* it cannot hold such names */
        shell(make, dir);
        f = fopen(path, "r");
        b.len = fread(buf_reserve(&b, 1 << 20), 1, 1 << 20, f);
        fclose(f);
        if (unpack(&b, to, &e) < 0)
            fail_msg("%s: %s", *format, e.text);
        shell("diff -r --no-dereference a to", dir);
        buf_deinit(&b);
        free(make);
        free(path);
        free(to);
    }
    shell("rm -rf \"$PWD\"", dir);
}

static void test_tar_hostile(void **unused)
{
    char dir[] = "/tmp/yado-test-XXXXXX";
    char *to;
    struct err e;

    assert_non_null(mkdtemp(dir));
    to = xasprintf("%s/to", dir);
    shell("mkdir to && echo safe >outside", dir);
    for (int kind = 0; kind < 12; kind++) {
        struct buf b = {0};
        char *absolute = xasprintf("%s/outside", dir);

        switch (kind) {
        case 0:
            entry(&b, "../outside", '0', "", "bad");
            break;
        case 1:
            entry(&b, absolute, '0', "", "bad");
            break;
        case 2: /* through a link that it plants */
            entry(&b, "l", '2', "..", "");
            entry(&b, "l/outside", '0', "", "bad");
            break;
        case 3:
            entry(&b, "l", '2', dir, "");
            entry(&b, "l/new", '5', "", "");
            break;
        case 4:
            entry(&b, "h", '1', "../outside", "");
            break;
        case 5: /* a hard link through a planted link, to write through it */
            entry(&b, "l", '2', "..", "");
            entry(&b, "h", '1', "l/outside", "");
            break;
        case 6:
            entry(&b, "dev", '3', "", "");
            break;
        case 7:
            entry(&b, "pax", 'x', "", "22 path=../../outside\n");
            entry(&b, "fine", '0', "", "bad");
            break;
        case 8:
            entry(&b, "pax", 'x', "", "999 path=x\n");
            entry(&b, "fine", '0', "", "bad");
            break;
        case 9:
            entry(&b, "a", '0', "", "cut");
            b.len -= 100;
            break;
        case 10:
            entry(&b, "a", '0', "", "checksum");
            b.data[0] ^= 1;
            break;
        case 11:
            entry(&b, "a/../../outside", '0', "", "bad");
            break;
        }
        if (kind != 9)
            end(&b);
        if (unpack(&b, to, &e) >= 0)
            fail_msg("kind %d was taken", kind);
        assert_true(e.text[0]);
        shell(
            "grep -qx safe outside && test \"$(ls)\" = \"$(printf 'outside\\nto')\" && rm -rf to &&"
            " mkdir to",
            dir);
        buf_deinit(&b);
        free(absolute);
    }
    {
        /* A file in the place of a link replaces the link, not what it points to. */
        struct buf b = {0};

        entry(&b, "l", '2', "../outside", "");
        entry(&b, "l", '0', "", "new");
        end(&b);
        assert_int_equal(unpack(&b, to, &e), 0);
        shell("grep -qx safe outside && test ! -L to/l && grep -qx new to/l", dir);
        buf_deinit(&b);
    }
    shell("rm -rf \"$PWD\"", dir);
    free(to);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_start),       cmocka_unit_test(test_start_bad),
        cmocka_unit_test(test_output),      cmocka_unit_test(test_output_boundary),
        cmocka_unit_test(test_tar),         cmocka_unit_test(test_tar_gnu),
        cmocka_unit_test(test_tar_hostile),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
