/* SPDX-License-Identifier: Apache-2.0
 *
 * See class_proof.h.
 */
#include "agent/class_proof.h"

#include "base/buf.h"
#include "base/cleanup.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

bool class_find_images(const char *given, char *out, size_t size)
{
    char self[512], beside[600] = "";
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);

    if (n > 0) {
        self[n] = 0;
        char *slash = strrchr(self, '/');
        if (slash)
            *slash = 0;
        snprintf(beside, sizeof beside, "%s/images", self);
    }
    const char *const places[] = {given, given ? NULL : getenv("YADO_IMAGES"),
                                  given ? NULL : beside,
                                  given ? NULL : "/usr/share/yadokari/images"};
    for (size_t i = 0; i < 4; i++) {
        if (!places[i] || !places[i][0])
            continue;
        AUTO_FREE char *kernel = xasprintf("%s/vmlinuz", places[i]);
        if (access(kernel, R_OK) == 0) {
            snprintf(out, size, "%s", places[i]);
            return true;
        }
    }
    return false;
}

void class_prove(const struct class_request *q, struct class_verdict *ret_verdict)
{
    struct class_verdict v = {0};
    struct err err = {0};

    snprintf(v.cls.machine, sizeof v.cls.machine, "%s",
             q->machine && q->machine[0] ? q->machine : CLASS_MACHINE_DEFAULT);
    snprintf(v.cls.cpu, sizeof v.cls.cpu, "%s", q->cpu && q->cpu[0] ? q->cpu : CLASS_CPU_DEFAULT);
    snprintf(v.cls.accel, sizeof v.cls.accel, "tcg");
    if (vm_probe_version(q->qemu, &v.cls.qemu_version, &err) < 0)
        snprintf(v.text, sizeof v.text, "%s", err.text);
    else
        v.ok = true;
    *ret_verdict = v;
}
