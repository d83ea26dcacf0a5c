/* SPDX-License-Identifier: Apache-2.0
 *
 * QEMU's command line for a guest. Everything that QEMU opens is handed over as a descriptor, so
 * it needs no right to any path. The machine is the same for every guest of a class, whatever it
 * runs: golden layers are resumed with other drives behind the same devices. Only the network drive
 * is a device more, which golden's state says nothing of: it begins as after a reset.
 *
 * Never here, because guest memory is a private file mapping whose holes must not be punched and
 * whose pages nobody else may hold: balloon, discard, free-page reporting, vhost, vfio.
 */
#ifndef YADO_VM_ARGS_H
#define YADO_VM_ARGS_H

#include "vm/engine.h"

#include <stddef.h>

/* Descriptors as the child has them; -1: absent. */
struct vm_fds {
    int qmp;
    int guest;
    int console;
    int memory;
    int kernel;
    int initrd;
    int root;
    int input;
    int drive; /* a socket's name: to be connected to */
};

struct vm_args {
    char **argv; /* NULL-terminated */
    size_t count;
};

/* version decides what this QEMU understands. */
void vm_args_make(const struct vm_config *config, const char *qemu, uint32_t version,
                  const struct vm_fds *fds, struct vm_args *ret_args);
void vm_args_deinit(struct vm_args *args);

#endif
