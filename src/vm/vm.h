/* SPDX-License-Identifier: Apache-2.0
 *
 * The inside of struct vm, for the files of the engine.
 *
 * Two threads touch it besides the caller's: QMP's reader (events) and whoever calls
 * vm_stop_now(). What they share is under `lock`:
 *
 *   running      QEMU's vCPUs may run: set before `cont` is sent, cleared by the STOP event that
 *                follows the last RESUME
 *   frozen       SIGSTOPped by us: they stand although `running` is set
 *   stop_id      the `stop` under way, 0: none. Its reply comes when disk reads are drained.
 *
 * The vCPUs stand when !running or frozen or gone.
 */
#ifndef YADO_VM_VM_H
#define YADO_VM_VM_H

#include "vm/engine.h"

#include "vm/capture.h"
#include "vm/qmp.h"
#include "wire/qemu_stream.h"

#include <pthread.h>

enum {
    VM_EVENTS_MAX = 64,
    VM_VCPUS_MAX = 64,
    VM_REPLY_MS = 20000, /* for commands that QEMU answers at once unless it hangs */
};

struct vm {
    pid_t pid;
    struct vm_class cls;
    uint64_t memory_bytes;
    uint32_t cpus;
    bool incoming; /* launched to be restored */
    bool idle_priority;
    char *dir;
    int guest_fd;
    int memory_fd;           /* names the mapping in /proc/PID/maps by its inode */
    uint64_t memory_address; /* of the guest's memory in QEMU's address space */
    struct qmp *qmp;
    pid_t vcpus[VM_VCPUS_MAX];
    size_t count_vcpus;
    /* Head and small blocks: known after a restore or a full save. */
    struct qemu_state state;
    bool has_state;
    /* Of the saves: memory taken ahead for the next, and what the last one found changed. */
    struct vm_arena arena;
    uint64_t last_changed_pages;

    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool running;
    bool frozen;
    bool gone;
    bool stop_asked;  /* the next STOP event is our own doing */
    uint64_t conts;   /* sent */
    uint64_t resumes; /* RESUME events seen */
    int64_t stop_id;
    enum vm_event events[VM_EVENTS_MAX];
    size_t first_event, count_events;
    int event_fd;
};

/* probe.c: -EINVAL and a text that names it for a QEMU of before 7.2. */
int vm_check_version(const char *qemu, uint32_t version, struct err *ret_err);

/* run.c: the reader's callback. */
void vm_on_qmp_event(void *arg, const char *name, const json_t *data);

/* launch.c: the scheduling class of the vCPUs, where idle_priority is set. */
void vm_set_urgent(const struct vm *vm, bool urgent);
/* launch.c: an error text with what QEMU itself complained of first, from its log. */
int vm_fail_with_log(const struct vm *vm, int code, struct err *err, const char *what);

/* device.c: fills vm->state from a stopped QEMU. */
int vm_read_state(struct vm *vm, struct err *ret_err);

/* In an argument that madvise(2) does not read: it is not QEMU that asks for huge pages, but us. */
#define VM_ADVICE_MARK 0x7961646f6b617269ull

/* holes.c: maps what the chain has no pages of anonymous, where that can be; the guest has not run
 * yet. */
void vm_open_holes(const struct vm *vm, const struct layer_chain *chain);

/* memory.c: the guest's memory in QEMU's address space. */
int vm_memory_find(struct vm *vm, struct err *ret_err);
struct vm_memory {
    pid_t pid;
    int pagemap_fd;
    uint64_t address; /* of its first byte there */
    uint64_t bytes;
};
int vm_memory_open(const struct vm *vm, struct vm_memory *ret_memory, struct err *ret_err);
void vm_memory_close(struct vm_memory *m);
int vm_memory_read(const struct vm_memory *m, uint64_t offset, void *data, size_t len);

/* Pages in rows, ascending. All zero is none. */
struct vm_run {
    uint64_t first_page, count_pages;
};
struct vm_runs {
    struct vm_run *all;
    size_t count, cap;
    uint64_t count_pages;
};
void vm_runs_deinit(struct vm_runs *runs);

/* The pages that the guest (or QEMU) wrote: copies of the process's own. The second and third are
 * its two ways: by the kernel's PAGEMAP_SCAN (-ENOTTY where there is none), and entry by entry. */
int vm_memory_private(const struct vm_memory *m, struct vm_runs *ret_runs);
int vm_memory_private_scan(const struct vm_memory *m, struct vm_runs *ret_runs);
int vm_memory_private_read(const struct vm_memory *m, struct vm_runs *ret_runs);
/* All pages there are. */
int vm_memory_all(const struct vm_memory *m, struct vm_runs *ret_runs);

/* files.c */
int vm_map_file(const char *path, uint8_t **ret_data, size_t *ret_len, struct err *ret_err);

#endif
