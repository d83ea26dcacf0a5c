/* SPDX-License-Identifier: Apache-2.0
 *
 * Proves what this PC can offer: boots a tiny guest with this PC's own QEMU, saves it, resumes it
 * in a fresh QEMU, and compares its memory and a counter inside it. KVM is tried first, with a
 * deadline (there are machines where /dev/kvm opens and guests hang for ever), then TCG. Nothing
 * is offered that has not passed.
 *
 * A verdict is kept in STATE/class.json and, where it can be written, in a folder for all agents
 * of the PC ($YADO_CLASS_CACHE, else /var/cache/yado); it counts only for the same QEMU (version,
 * file, time), kernel, image, machine type and CPU model, all of which are its key.
 */
#ifndef YADO_AGENT_CLASS_PROOF_H
#define YADO_AGENT_CLASS_PROOF_H

#include "agent/identity.h"
#include "base/str.h"
#include "vm/engine.h"

#include <stdbool.h>
#include <stdint.h>

struct class_request {
    const char *state;   /* folder for scratch files and the verdict; NULL: neither is kept */
    const char *qemu;    /* NULL: found in PATH */
    const char *images;  /* folder with the kernel and initrd of the built-in image */
    const char *machine; /* "": the default */
    const char *cpu;
    uid_t uid; /* QEMU's, (uid_t)-1: ours */
    gid_t gid;
    bool fresh; /* do not believe a kept verdict */
};

struct class_verdict {
    bool ok;
    bool cached;
    struct vm_class cls;
    uint32_t boot_ms, save_ms, resume_ms;
    char kvm[256];  /* "": it is used; else why not */
    char text[512]; /* !ok: why not, and the remedy */
};

#define CLASS_MACHINE_DEFAULT "pc-i440fx-7.2"
#define CLASS_CPU_DEFAULT "Nehalem"

/* Takes seconds; blocking. */
void class_prove(const struct class_request *request, struct class_verdict *ret_verdict);

/* The folder of the built-in image: `given`, $YADO_IMAGES, beside the binary, the installed one.
 * false when none has a kernel. */
bool class_find_images(const char *given, char *out, size_t size);
/* The same from the master into `dir`, which is made. Blocking. */
int class_fetch_images(const struct identity *id, const char *dir, struct err *ret_err);

#endif
