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
    const char *kernel; /* files the guest boots from; needed on resume, too (ROM blocks) */
    const char *initrd;
    const char *root;  /* read-only erofs image file (may be on the pager's mount), or NULL */
    const char *input; /* read-only raw file behind /dev/vdb, size fixed: VM_INPUT_BYTES */
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

struct layer_file;
/* Maps a layer file and checks its header, page table and footer (see layer/layer.h for the rest).
 * Page data is checked frame by frame when it is used. */
int vm_layer_open(const char *path, struct layer_file **ret_layer, struct err *ret_err);
void vm_layer_close(struct layer_file *layer);
/* Makes the plain memory file `path` (sparse, replaced when it exists): first the content of
 * `base_memory` (shared blocks where the file system can; NULL: zeros), then the pages of `layer`
 * (NULL: none). Golden's memory is vm_compose(NULL, golden, path): made once a PC, read only. A
 * VM's own file is vm_compose(golden's memory, its last layer or NULL, path). */
int vm_compose(const char *base_memory, const struct layer_file *layer, const char *path,
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

/* Loads device state and small memory blocks from an opened layer (see layer/layer.h); main
 * memory is the memory_file. Afterwards the guest stands stopped at the moment of its save. */
int vm_restore(struct vm *vm, const struct layer_file *layer, struct err *ret_err);

int vm_cont(struct vm *vm, struct err *ret_err);

/* Stops the vCPUs: QMP stop, and SIGSTOP when no STOP event came within 15 ms. Returns when the
 * vCPUs stand, *ret_us the time it took. Any thread; idempotent. */
int vm_stop_now(struct vm *vm, uint64_t *ret_us);
/* Waits until a stop has drained outstanding disk reads (SIGCONT first when it was SIGSTOPped;
 * the caller has made the pager fail pending image reads). -ETIMEDOUT after deadline_ms. */
int vm_stop_drain(struct vm *vm, uint64_t deadline_ms, struct err *ret_err);

/* Writes a stopped guest's state as a layer file: the pages that differ from `base` (golden's
 * composed memory, NULL: from zeros, a full layer), device state, small blocks.
 * `prior` names the layer this VM was resumed from (its pages are candidates too) or NULL. */
struct vm_save_info {
    uint64_t output_offset; /* goes into the layer's metadata */
    uint64_t run_ms;
    const char *base_digest; /* SHA-256 of the golden layer, hexadecimal; NULL for a full layer */
};
struct vm_save_stats {
    uint64_t pages;      /* pages in the layer */
    uint64_t candidates; /* pages compared */
    uint64_t size_bytes; /* of the file */
    uint64_t device_us, scan_us, write_us;
    char digest[65]; /* SHA-256 of the file */
};
int vm_save(struct vm *vm, const char *base_memory, const struct layer_file *prior,
            const char *path, const struct vm_save_info *info, struct vm_save_stats *ret_stats,
            struct err *ret_err);

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
