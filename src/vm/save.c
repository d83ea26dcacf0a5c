/* SPDX-License-Identifier: Apache-2.0
 *
 * Writes a stopped guest as a layer, in two halves: vm_save_begin() while the guest waits, which
 * copies, and vm_save_finish() at any time after, which compresses and writes and needs no QEMU.
 *
 * What changed is found by prints of all pages that QEMU has made copies of (memory.c, capture.c).
 * The arena is bounded; where more has changed, the guest waits until it has been written out.
 *
 * Prints say what the chain holds. They are set while pages are copied: when a save fails or is
 * dropped, the pages that it had taken are forgotten, so that the next save takes them again.
 */
#include "vm/vm.h"

#include "base/must.h"
#include "layer/chain.h"
#include "vm/clock.h"
#include "vm/out.h"
#include "vm/pack.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { DRAIN_MS = 15000 };
/* What 100 MB that changed need, with what each thread holds ready: the guest of a checkpoint then
 * stands for copying alone. */
#define ARENA_BYTES_MIN (128ull << 20)

struct vm_save {
    struct layer_prints *prints;
    struct layer_meta meta;
    struct qemu_state state;
    struct vm_arena arena;
    struct vm_out out;
    struct layer_writer *writer; /* once something has been written */
    struct layer_page *pages;    /* in the arena */
    size_t count_pages;
    uint64_t *spilled; /* numbers of pages that have left the arena */
    size_t count_spilled;
    size_t threads;
    struct vm_save_stats stats;
};

/* ---- memory to copy into ----------------------------------------------------------------------
 */

static uint64_t arena_bytes(const struct vm *vm)
{
    uint64_t quarter = vm->memory_bytes / 4;

    return quarter > ARENA_BYTES_MIN ? quarter : ARENA_BYTES_MIN;
}

void vm_save_prepare(struct vm *vm)
{
    uint64_t pages = 2 * vm->last_changed_pages;
    struct vm_memory memory;

    if (vm->arena.data || vm_arena_init(&vm->arena, arena_bytes(vm)))
        return;
    if (!pages && vm_memory_open(vm, &memory, NULL) == 0) {
        struct vm_runs runs = {0};

        if (vm_memory_private(&memory, &runs) == 0)
            pages = runs.count_pages;
        vm_runs_deinit(&runs);
        vm_memory_close(&memory);
    }
    vm_arena_touch(&vm->arena, pages * LAYER_PAGE_BYTES + VM_THREADS_MAX * VM_ARENA_BLOCK_BYTES);
}

static int take_arena(struct vm *vm, struct vm_arena *ret_arena, struct err *err)
{
    int r = vm->arena.data ? 0 : vm_arena_init(&vm->arena, arena_bytes(vm));

    if (r)
        return err_set(err, r, "no memory to copy the guest's into: %s", strerror(-r));
    *ret_arena = vm->arena;
    vm->arena = (struct vm_arena){0};
    return 0;
}

/* ---- writing ----------------------------------------------------------------------------------
 */

static int make_meta(const struct vm *vm, const struct vm_save_info *info,
                     struct layer_meta *ret_meta, struct err *err)
{
    struct layer_meta m = {.full = !info->parent,
                           .memory_bytes = vm->memory_bytes,
                           .output_offset = info->output_offset,
                           .run_ms = info->run_ms,
                           .disk_cut = info->disk_cut,
                           .qemu_version = vm->cls.qemu_version,
                           .cpus = vm->cpus};

    memcpy(m.machine, vm->cls.machine, sizeof m.machine);
    memcpy(m.cpu, vm->cls.cpu, sizeof m.cpu);
    memcpy(m.accel, vm->cls.accel, sizeof m.accel);
    if (info->parent && str_unhex(info->parent, m.parent, sizeof m.parent))
        return err_set(err, -EINVAL, "\"%s\" is not the digest of a layer", info->parent);
    *ret_meta = m;
    return 0;
}

/* Writes what is in the arena. */
static int write_pages(struct vm_save *s)
{
    int r = 0;

    if (!s->writer)
        r = layer_writer_new(&s->meta, &s->state, vm_out_put, &s->out, &s->writer);
    return r ? r : vm_pack(s->writer, s->pages, s->count_pages, s->threads);
}

/* The arena is full: what it holds goes to the file, only the page numbers stay. */
static int spill(struct vm_save *s)
{
    int r = write_pages(s);

    s->spilled = xreallocarray(s->spilled, s->count_spilled + s->count_pages, sizeof *s->spilled);
    for (size_t i = 0; i < s->count_pages; i++)
        s->spilled[s->count_spilled++] = s->pages[i].number;
    free(s->pages);
    s->pages = NULL;
    s->count_pages = 0;
    return r;
}

/* ---- the first half ---------------------------------------------------------------------------
 */

static int capture(struct vm_save *s, const struct vm_memory *memory, const struct vm_runs *runs)
{
    struct vm_capture *c = vm_capture_new(memory, runs, s->prints, &s->arena, s->threads);
    bool done;
    int r;

    do {
        r = vm_capture_fill(c);
        done = vm_capture_is_done(c);
        vm_capture_take(c, &s->pages, &s->count_pages);
        s->stats.pages += s->count_pages;
        if (!r && !done)
            r = spill(s);
    } while (!r && !done);
    vm_capture_free(c);
    return r;
}

static int capture_memory(struct vm *vm, struct vm_save *s, bool all_pages, struct err *err)
{
    struct vm_memory memory;
    struct vm_runs runs = {0};
    uint64_t start = vm_now_us();
    int r = vm_memory_open(vm, &memory, err);

    if (r)
        return r;
    r = all_pages ? vm_memory_all(&memory, &runs) : vm_memory_private(&memory, &runs);
    s->stats.private_pages = runs.count_pages;
    if (!r)
        r = capture(s, &memory, &runs);
    vm_runs_deinit(&runs);
    vm_memory_close(&memory);
    s->stats.scan_us = vm_now_us() - start;
    vm->last_changed_pages = s->stats.pages;
    return r ? err_set(err, r, "cannot copy the guest's memory: %s", strerror(-r)) : 0;
}

static void save_free(struct vm_save *s)
{
    layer_writer_free(s->writer);
    qemu_state_deinit(&s->state);
    vm_arena_deinit(&s->arena);
    free(s->pages);
    free(s->spilled);
    free(s);
}

static void forget(struct vm_save *s)
{
    for (size_t i = 0; i < s->count_pages; i++)
        layer_prints_forget(s->prints, s->pages[i].number);
    for (size_t i = 0; i < s->count_spilled; i++)
        layer_prints_forget(s->prints, s->spilled[i]);
}

void vm_save_abort(struct vm_save *s)
{
    if (!s)
        return;
    forget(s);
    vm_out_abort(&s->out);
    save_free(s);
}

static int begin(struct vm *vm, struct vm_save *s, bool all_pages, struct err *err)
{
    uint64_t start = vm_now_us();
    int r = vm_read_state(vm, err);

    s->stats.device_us = vm_now_us() - start;
    if (!r)
        r = take_arena(vm, &s->arena, err);
    if (r)
        return r;
    qemu_state_copy(&s->state, &vm->state);
    return capture_memory(vm, s, all_pages, err);
}

int vm_save_begin(struct vm *vm, struct layer_prints *prints, const char *path,
                  const struct vm_save_info *info, struct vm_save **ret_save, struct err *ret_err)
{
    struct vm_save *s = xcalloc(1, sizeof *s);
    int r = make_meta(vm, info, &s->meta, ret_err);

    MUST(layer_prints_memory_bytes(prints) == vm->memory_bytes);
    s->prints = prints;
    s->threads = vm_count_threads();
    if (!r)
        r = vm_stop_drain(vm, DRAIN_MS, ret_err);
    if (!r)
        r = vm_out_open(&s->out, path, info->seal, info->seal_arg, ret_err);
    if (r) {
        save_free(s);
        return r;
    }
    s->out.tell = info->written;
    s->out.tell_arg = info->written_arg;
    r = begin(vm, s, info->all_pages, ret_err);
    if (r)
        vm_save_abort(s);
    else
        *ret_save = s;
    return r;
}

/* ---- the second half --------------------------------------------------------------------------
 */

int vm_save_finish(struct vm_save *s, const struct layer_hot_run *hot, size_t count_hot,
                   struct vm_save_stats *ret_stats, struct err *ret_err)
{
    uint64_t start = vm_now_us(), pages;
    struct vm_save_stats stats = s->stats;
    int r = write_pages(s);

    if (!r)
        r = layer_writer_finish(s->writer, hot, count_hot, &pages);
    if (r) {
        err_format(ret_err, "cannot write %s: %s", s->out.path, strerror(-r));
        vm_save_abort(s);
        return r;
    }
    MUST(pages == stats.pages);
    stats.size_bytes = s->out.bytes;
    r = vm_out_finish(&s->out, stats.digest, ret_err);
    if (r)
        forget(s);
    save_free(s);
    stats.write_us = vm_now_us() - start;
    if (!r)
        *ret_stats = stats;
    return r;
}

int vm_save(struct vm *vm, const struct layer_chain *chain, const char *path,
            const struct vm_save_info *info, struct vm_save_stats *ret_stats, struct err *ret_err)
{
    size_t layers = chain ? layer_chain_count(chain) : 0;
    struct layer_prints *prints = layers ? NULL : layer_prints_new(vm->memory_bytes);
    char parent[2 * LAYER_DIGEST_BYTES + 1];
    struct vm_save_info full = *info;
    struct vm_save *save;
    int r = layers ? layer_chain_prints(chain, layers, &prints, ret_err) : 0;

    if (layers)
        str_hex(layer_chain_digest(chain, layers - 1), LAYER_DIGEST_BYTES, parent);
    full.parent = layers ? parent : NULL;
    if (!r)
        r = vm_save_begin(vm, prints, path, &full, &save, ret_err);
    if (!r)
        r = vm_save_finish(save, NULL, 0, ret_stats, ret_err);
    layer_prints_free(prints);
    return r;
}
