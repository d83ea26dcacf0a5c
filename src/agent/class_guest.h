/* SPDX-License-Identifier: Apache-2.0
 *
 * The experiment behind a class verdict: a tiny guest that counts is booted and saved whole; a
 * fresh QEMU resumes it and goes on; what changed is saved as a layer; a third QEMU resumes that.
 * After each resume, before the guest runs, its memory must be the saved one, page by page; and
 * over all of it its counter loses and repeats no number.
 */
#ifndef YADO_AGENT_CLASS_GUEST_H
#define YADO_AGENT_CLASS_GUEST_H

#include "agent/class_proof.h"

/* One try with cls->accel; scratch is an empty folder, the caller's to remove. Within deadline_ms
 * a boot must be done (a guest under a broken KVM hangs for ever). Fills in the version and the
 * times. 0 or -errno with text. */
int class_guest_try(const struct class_request *request, const char *scratch, uint32_t deadline_ms,
                    struct class_verdict *verdict, struct err *ret_err);

#endif
