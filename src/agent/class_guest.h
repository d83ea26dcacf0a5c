/* SPDX-License-Identifier: Apache-2.0
 *
 * The experiment behind a class verdict: a tiny guest that counts is booted, stopped and saved; a
 * fresh QEMU resumes it, and is saved at once without having run: both memories must be equal,
 * byte by byte. Then it goes on, and its counter must go on with it: no number lost or repeated.
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
