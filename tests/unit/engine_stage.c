/* SPDX-License-Identifier: Apache-2.0
 *
 * What the tests of the engine share; see engine_stage.h.
 */
#include "engine_stage.h"

#include "base/cleanup.h"
#include "base/cursor.h"
#include "vm/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pwd.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <cmocka.h>

void stage_check(int r, const struct err *err, const char *what)
{
    if (r)
        fail_msg("%s: %d: %s", what, r, err->text);
}

/* ---- the guest's end, watched ------------------------------------------------------------------
 */

static void send_frame(struct watch *w, uint8_t type, const struct buf *payload)
{
    AUTO_BUF struct buf out = {0};

    guest_frame_put(&out, type, payload->data, (uint32_t)payload->len);
    assert_int_equal(write(w->fd, out.data, out.len), out.len);
}

static void send_sync(struct watch *w)
{
    AUTO_BUF struct buf p = {0};
    struct guest_sync sync = {.output_have = w->have, .nonce = ++w->nonce};
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    sync.wall_ns = (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
    guest_sync_put(&p, &sync);
    send_frame(w, GUEST_SYNC, &p);
}

/* A fresh connection to the same guest: half a frame may be lost, output comes again. */
void watch_connect(struct watch *w, struct vm *vm)
{
    w->fd = vm_guest_fd(vm);
    w->state = (struct guest_state){0};
    guest_reader_reset(&w->reader);
    send_sync(w);
}

static void take_text(struct watch *w, const uint8_t *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (text[i] != '\n') {
            buf_put_u8(&w->line, text[i]);
            continue;
        }
        char *number = buf_take_str(&w->line);
        if (strtoull(number, NULL, 10) != w->next)
            fail_msg("the guest printed %s, %llu was due", number, (unsigned long long)w->next);
        free(number);
        w->next++;
    }
}

static void take_output(struct watch *w, const uint8_t *data, size_t len)
{
    struct cursor c = cursor_of(data, len);
    uint64_t offset = cursor_u64(&c);
    AUTO_BUF struct buf ack = {0};

    if (w->state.nonce != w->nonce || offset + cursor_left(&c) <= w->have)
        return;
    assert_true(offset <= w->have);
    (void)cursor_bytes(&c, w->have - offset);
    w->have += cursor_left(&c);
    while (cursor_left(&c)) {
        assert_int_equal(cursor_u8(&c), 1);
        uint32_t n = cursor_u32(&c);
        const uint8_t *p = cursor_bytes(&c, n);
        assert_non_null(p);
        take_text(w, p, n);
    }
    guest_ack_put(&ack, w->have, 0);
    send_frame(w, GUEST_ACK, &ack);
}

bool watch_once(struct watch *w, int timeout_ms)
{
    uint8_t data[65536];
    struct pollfd p = {w->fd, POLLIN, 0};
    struct guest_frame f;

    if (poll(&p, 1, timeout_ms) <= 0)
        return false;
    ssize_t n = read(w->fd, data, sizeof data);
    if (n <= 0)
        return false;
    guest_reader_feed(&w->reader, data, (size_t)n);
    while (guest_reader_next(&w->reader, &f)) {
        if (f.type == GUEST_STATE)
            assert_int_equal(guest_state_get(f.payload, f.len, &w->state), 0);
        else if (f.type == GUEST_OUTPUT)
            take_output(w, f.payload, f.len);
    }
    return true;
}

void watch_phase(struct watch *w, int phase)
{
    uint64_t until = vm_now_us() + 90000000, again = 0;

    while (w->state.phase != phase || w->state.nonce != w->nonce) {
        if (vm_now_us() > until)
            fail_msg("the guest does not come to phase %d (is in %d: %s)", phase, w->state.phase,
                     w->state.text);
        if (vm_now_us() > again) {
            send_sync(w);
            again = vm_now_us() + 1000000;
        }
        watch_once(w, 100);
    }
}

/* Until so many more numbers came. */
void watch_ticks(struct watch *w, uint64_t more)
{
    uint64_t until = vm_now_us() + 60000000, want = w->next + more;

    while (w->next < want) {
        if (vm_now_us() > until)
            fail_msg("the guest's counter stands at %llu", (unsigned long long)w->next);
        watch_once(w, 100);
    }
}

void watch_deinit(struct watch *w)
{
    guest_reader_deinit(&w->reader);
    buf_deinit(&w->line);
    buf_deinit(&w->record);
}

void watch_start(struct watch *w, const char *script)
{
    AUTO_BUF struct buf p = {0};

    buf_printf(&p,
               "{\"argv\":[\"/bin/sh\",\"-c\",\"%s\"],\"env\":{},\"hostname\":\"c\","
               "\"memory_bytes\":%llu,\"time_limit_ms\":0,\"out_limit_bytes\":1048576,"
               "\"network\":\"none\",\"inputs\":[]}",
               script, STAGE_MEMORY_BYTES);
    send_frame(w, GUEST_START, &p);
}

/* ---- stages ------------------------------------------------------------------------------------
 */

char *stage_path(const struct stage *s, const char *name)
{
    return xasprintf("%s/%s", s->dir, name);
}

static void empty_dir(const char *dir)
{
    AUTO_FREE char *command = xasprintf("rm -rf '%s'", dir);

    assert_int_equal(system(command), 0);
}

static const char *images(void)
{
    const char *dir = getenv("YADO_IMAGES");

    return dir ? dir : "build/images";
}

void stage_init(struct stage *s)
{
    *s = (struct stage){.dir = "/var/tmp/yado-engine-XXXXXX"};
    assert_non_null(mkdtemp(s->dir));
    s->config = (struct vm_config){.qemu = getenv("YADO_TEST_QEMU"),
                                   .dir = s->dir,
                                   .cls = {"pc-i440fx-7.2", "Nehalem", "tcg", 0},
                                   .memory_bytes = STAGE_MEMORY_BYTES,
                                   .cpus = 1,
                                   .uid = (uid_t)-1,
                                   .gid = (gid_t)-1};
    s->config.kernel = xasprintf("%s/vmlinuz", images());
    s->config.initrd = xasprintf("%s/initrd", images());
    s->golden_memory = stage_path(s, "golden.mem");
    s->chain = layer_chain_new();
}

void stage_deinit(struct stage *s)
{
    vm_chain_close(s->chain);
    free((char *)s->config.kernel);
    free((char *)s->config.initrd);
    free(s->golden_memory);
    empty_dir(s->dir);
}

void stage_use_nobody(struct stage *s)
{
    struct passwd *p = getpwnam("nobody");

    assert_non_null(p);
    s->config.uid = p->pw_uid;
    s->config.gid = p->pw_gid;
}

struct vm *stage_launch(struct stage *s, const char *memory)
{
    struct vm_config config = s->config;
    struct err err;
    struct vm *vm = NULL;

    config.memory_file = memory;
    stage_check(vm_launch(&config, &vm, &err), &err, "launch");
    return vm;
}

void stage_compare_memory(const struct stage *s, struct vm *vm, const char *composed)
{
    struct vm_memory m;
    struct err err;
    size_t len;
    uint8_t *want, *page = xmalloc(1 << 20);

    stage_check(vm_memory_open(vm, &m, &err), &err, "memory");
    stage_check(vm_map_file(composed, &want, &len, &err), &err, "map");
    assert_int_equal(len, s->config.memory_bytes);
    for (uint64_t at = 0; at < len; at += 1 << 20) {
        assert_int_equal(vm_memory_read(&m, at, page, 1 << 20), 0);
        if (memcmp(page, want + at, 1 << 20) != 0)
            fail_msg("composed memory differs from the guest's in the MiB at %llu",
                     (unsigned long long)at);
    }
    free(page);
    vm_memory_close(&m);
    (void)munmap(want, len);
}

struct layer_prints *stage_prints(const struct stage *s)
{
    struct layer_prints *prints;
    struct err err;

    if (layer_chain_count(s->chain) == 0)
        return layer_prints_new(s->config.memory_bytes);
    stage_check(layer_chain_prints(s->chain, layer_chain_count(s->chain), &prints, &err), &err,
                "prints");
    return prints;
}

static char *layer_path(const struct stage *s)
{
    return xasprintf("%s/%zu.layer", s->dir, layer_chain_count(s->chain));
}

struct vm_save *stage_save_begin(struct stage *s, struct vm *vm, struct layer_prints *prints,
                                 uint64_t output_offset)
{
    size_t layers = layer_chain_count(s->chain);
    AUTO_FREE char *path = layer_path(s);
    char parent[2 * LAYER_DIGEST_BYTES + 1];
    struct vm_save_info info = {.output_offset = output_offset, .run_ms = 42};
    struct vm_save *save;
    struct err err;

    if (layers) {
        str_hex(layer_chain_digest(s->chain, layers - 1), LAYER_DIGEST_BYTES, parent);
        info.parent = parent;
    }
    stage_check(vm_save_begin(vm, prints, path, &info, &save, &err), &err, "save");
    return save;
}

void stage_save_finish(struct stage *s, struct vm *vm, struct vm_save *save, const char *memory)
{
    AUTO_FREE char *path = layer_path(s);
    AUTO_FREE char *own = stage_path(s, "compared.mem");
    struct err err;

    stage_check(vm_save_finish(save, NULL, 0, &s->stats, &err), &err, "save");
    stage_check(vm_chain_push(s->chain, path, s->stats.digest, &err), &err, "open");
    bool golden = layer_chain_count(s->chain) == 1;
    stage_check(vm_compose(golden ? NULL : s->golden_memory, s->chain, memory ? memory : own, &err),
                &err, "compose");
    stage_compare_memory(s, vm, memory ? memory : own);
}

void stage_save(struct stage *s, struct vm *vm, const char *memory, uint64_t output_offset)
{
    struct layer_prints *prints = stage_prints(s);

    stage_save_finish(s, vm, stage_save_begin(s, vm, prints, output_offset), memory);
    layer_prints_free(prints);
    assert_int_equal(layer_meta_of(layer_chain_top(s->chain))->output_offset, output_offset);
}

void stage_make_golden(struct stage *s, struct watch *w)
{
    struct vm *vm = stage_launch(s, NULL);
    struct err err;
    uint64_t us;

    assert_false(watch_once(&(struct watch){.fd = vm_guest_fd(vm)}, 100));
    stage_check(vm_cont(vm, &err), &err, "cont");
    watch_connect(w, vm);
    watch_phase(w, GUEST_READY);
    assert_int_equal(vm_stop_now(vm, &us), 0);
    stage_save(s, vm, s->golden_memory, 0);
    print_message("golden: %llu pages, %llu bytes, device %llu us, scan %llu us\n",
                  (unsigned long long)s->stats.pages, (unsigned long long)s->stats.size_bytes,
                  (unsigned long long)s->stats.device_us, (unsigned long long)s->stats.scan_us);
    vm_drop(vm);
}
