/* SPDX-License-Identifier: Apache-2.0
 *
 * What starts, stops, saves, resumes and drops a guest. Nothing of QEMU is known outside src/vm.
 *
 * One struct vm is one guest process (QEMU); its caller is the supervisor, which is the parent of
 * the process, so that reading its memory needs no more rights than that. All calls are blocking
 * and made by one thread at a time, except vm_stop_now(), which any thread may call at any
 * moment, also while another call is under way. QEMU dies with the thread that launched it
 * (PR_SET_PDEATHSIG): call vm_launch() from one that lives as long as the process.
 *
 * A guest never ticks before vm_cont(): QEMU is always started with -S.
 */
#ifndef YADO_VM_ENGINE_H
#define YADO_VM_ENGINE_H

#include "base/str.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* What a saved state needs; the same meaning as struct grid_class. */
struct vm_class {
    char machine[64];      /* "pc-i440fx-7.2" */
    char cpu[64];          /* "Nehalem" */
    char accel[16];        /* "tcg" or "kvm" */
    uint32_t qemu_version; /* 70222; of the running process */
};

struct vm_config {
    const char *qemu;   /* binary; NULL: found in PATH */
    const char *dir;    /* private to this VM: sockets, layer files; exists */
    const char *kernel; /* files the guest boots from; not used with memory_file */
    const char *initrd;
    const char *root;  /* read-only erofs image file (may be on the pager's mount), or NULL */
    const char *input; /* read-only raw file behind /dev/vdb, size fixed: VM_INPUT_BYTES */
    /* Socket of an NBD server, or NULL: a writable drive that golden has not seen; its guest finds
     * it when it looks for new devices. It keeps it for life. A write that the server acknowledges
     * is done. When a connection breaks, requests fail, are kept (VM_EVENT_IO_ERROR), and make a
     * new connection when they are issued again. */
    const char *drive;
    const char
        *memory_file;    /* the composed memory of exactly memory_bytes: resume. NULL: cold boot */
    struct vm_class cls; /* machine, cpu, accel; version is filled in by vm_launch() */
    uint64_t memory_bytes; /* a multiple of 2 MiB */
    uint32_t cpus;
    bool network_nat;
    uid_t uid; /* QEMU runs as this user; (uid_t)-1: as we are */
    gid_t gid;
    bool idle_priority; /* SCHED_IDLE and idle I/O class */
    const char *cgroup; /* directory whose cgroup.procs it joins, or up to three with ':' between
                           (version 1 has a tree for each controller), or NULL */
};

/* ---- layer files and plain memory files on disk ---------------------------------------------- */

struct layer;
struct layer_chain;

/* Maps a layer file and checks its header, footer and page table; frames are checked when they are
 * used. layer/layer.h and layer/chain.h have the rest. */
int vm_layer_open(const char *path, struct layer **ret_layer, struct err *ret_err);
void vm_layer_close(struct layer *layer);
/* The same, put on top of a chain; digest: SHA-256 of the file, hexadecimal, which the caller
 * vouches for. vm_chain_close() takes them all down, and the chain. */
int vm_chain_push(struct layer_chain *chain, const char *path, const char *digest,
                  struct err *ret_err);
void vm_chain_close(struct layer_chain *chain);

/* Makes the plain memory file `path` (sparse, replaced when it exists). Without golden_memory: of
 * all layers. With: a copy of it (shared blocks where the file system can), which is the first
 * layer's memory, and the other layers' pages over it. So golden's memory is composed once a PC,
 * and each VM has a file of its own. */
int vm_compose(const char *golden_memory, const struct layer_chain *chain, const char *path,
               struct err *ret_err);

/* Size of the input drive, the same for every guest: golden has seen it at boot. Sparse. */
#define VM_INPUT_BYTES (1ull << 40)

struct vm;

/* Starts the process, stopped (-S). cold boot when memory_file is NULL, else it waits for
 * vm_restore(). The guest's virtio-serial port "yado.0" is a socketpair; vm_guest_fd() is ours. */
int vm_launch(const struct vm_config *config, struct vm **ret_vm, struct err *ret_err);
pid_t vm_pid(const struct vm *vm);
int vm_guest_fd(const struct vm *vm);
const struct vm_class *vm_class_of(const struct vm *vm);

/* Loads the device state of the chain's top layer and golden's small memory blocks; main memory is
 * the memory_file. Afterwards the guest stands stopped at the moment of its save. */
int vm_restore(struct vm *vm, const struct layer_chain *chain, struct err *ret_err);

int vm_cont(struct vm *vm, struct err *ret_err);

/* Stops the vCPUs: QMP stop, and SIGSTOP when no STOP event came within 15 ms. Returns when the
 * vCPUs stand, *ret_us the time it took. Any thread; idempotent. */
int vm_stop_now(struct vm *vm, uint64_t *ret_us);
/* Waits until a stop has drained outstanding disk reads (SIGCONT first when it was SIGSTOPped;
 * the caller has made the pager fail pending image reads). -ETIMEDOUT after deadline_ms. */
int vm_stop_drain(struct vm *vm, uint64_t deadline_ms, struct err *ret_err);

/* ---- saving -----------------------------------------------------------------------------------
 *
 * A save has two halves. vm_save_begin() copies what changed while the guest stands; then QEMU is
 * not needed for it any more: the guest may go on (a checkpoint) or be dropped (its owner is back).
 * vm_save_finish() compresses and writes; any thread, also while other calls are under way. One
 * save at a time: the next one begins when this one is finished.
 *
 * `prints` are those of all pages as the chain has them: layer_chain_prints() after a resume, zeros
 * before the first save of a guest that booted here. Each save brings them up to date. */
struct layer_prints;
struct layer_hot_run;
struct vm_save;

struct vm_save_info {
    uint64_t output_offset; /* goes into the layer's metadata */
    uint64_t run_ms;
    uint64_t disk_cut;
    const char *parent; /* SHA-256 of the layer directly below, hexadecimal; NULL: a full layer */
    bool all_pages; /* prints are not of what QEMU's memory file holds: look at what the guest has
                     * never written, too */
    /* What is written becomes what the file holds, in place; NULL: it stays as it is. Used until
     * vm_save_finish() or vm_save_abort() returns. */
    void (*seal)(const void *arg, uint64_t offset, void *data, size_t len);
    const void *seal_arg;
    /* So many bytes of the file are written; on any thread, until then as well. NULL: not told. */
    void (*written)(void *arg, uint64_t bytes);
    void *written_arg;
};
struct vm_save_stats {
    uint64_t private_pages; /* pages compared */
    uint64_t pages;         /* of them changed: in the layer */
    uint64_t size_bytes;    /* of the file */
    uint64_t device_us;     /* reading the device state; the guest stands */
    uint64_t scan_us;       /* reading and comparing memory; the guest stands */
    uint64_t write_us;      /* the second half */
    char digest[65];        /* SHA-256 of the file */
};

/* While the guest still runs: takes the memory that the next save copies into, so that the guest
 * need not wait for the kernel to clear it. Not needed, and nothing is lost when it fails. */
void vm_save_prepare(struct vm *vm);
/* Stops and drains the guest if it is not, and copies. After an error there is no save and no
 * file, prints are as the chain is or unknown, and the guest stands. */
int vm_save_begin(struct vm *vm, struct layer_prints *prints, const char *path,
                  const struct vm_save_info *info, struct vm_save **ret_save, struct err *ret_err);
/* Writes the file, not synced. Frees the save, whatever happens; after an error there is no file
 * and the prints of the pages it held are forgotten. hot: see layer/layer.h, may be NULL. */
int vm_save_finish(struct vm_save *save, const struct layer_hot_run *hot, size_t count_hot,
                   struct vm_save_stats *ret_stats, struct err *ret_err);
/* Instead of the second half. Takes NULL. */
void vm_save_abort(struct vm_save *save);
/* A save all at once: what differs from `chain`, which the guest was resumed from (NULL or empty:
 * it booted here). Its top is the parent, whatever info says. */
int vm_save(struct vm *vm, const struct layer_chain *chain, const char *path,
            const struct vm_save_info *info, struct vm_save_stats *ret_stats, struct err *ret_err);

/* A descriptor to poll: readable when vm_events() has something. */
int vm_event_fd(const struct vm *vm);
enum vm_event {
    VM_EVENT_NONE,
    VM_EVENT_STOPPED,  /* vCPUs stand, as asked for */
    VM_EVENT_IO_ERROR, /* vCPUs stand by themselves: a disk request failed and is kept in the
                        * guest's state; vm_cont() issues it again, here or after a resume */
    VM_EVENT_RESUMED,
    VM_EVENT_SHUTDOWN, /* the guest rebooted, powered off or panicked: its part ends */
    VM_EVENT_BROKEN,   /* internal-error: the VM is dead */
    VM_EVENT_GONE,     /* the process ended */
};
enum vm_event vm_next_event(struct vm *vm);

/* Kills the process and waits until its memory is back; frees vm. */
void vm_drop(struct vm *vm);

/* Version of a QEMU binary as major * 10000 + minor * 100 + micro; -ENOENT, or -EINVAL for what is
 * no QEMU or too old. */
int vm_probe_version(const char *qemu, uint32_t *ret_version, struct err *ret_err);

#endif
