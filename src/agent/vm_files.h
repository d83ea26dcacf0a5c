/* SPDX-License-Identifier: Apache-2.0
 *
 * The blocking half of a VM's life on a PC: its folder, its supervisor's start, and cleaning up
 * after it. Called on the loop's worker threads, one call a VM at a time.
 */
#ifndef YADO_AGENT_VM_FILES_H
#define YADO_AGENT_VM_FILES_H

#include "base/str.h"
#include "host/limits.h"

#include <stdbool.h>
#include <sys/types.h>

/* Written by the supervisor when a layer is whole on the disk; with it a new supervisor can go on
 * with the upload. */
#define VM_SAVED_FILE "saved.json"

/* A supervisor that was started, and has started its pager, before there is a VM for it: to load
 * the two takes as long as all else that a resume waits for until QEMU starts. It ends by itself
 * when the agent does. */
struct vm_spare {
    pid_t pid; /* our child; 0: none */
    int input; /* it waits for the name of its folder here; -1: that was said, or will not be */
};
#define VM_SPARE_NONE \
    {                 \
        .input = -1   \
    }

/* Starts one. title: what its command line shows until it has a folder, and no shorter than that
 * folder's path. */
int vm_spare_start(const char *self, const char *title, struct vm_spare *ret, struct err *ret_err);
/* It ends soon; vm_spare_gone() tells when. */
void vm_spare_end(struct vm_spare *s);
/* True when there is none, or no longer. */
bool vm_spare_gone(struct vm_spare *s);

/* Makes the folder and DIR/config.json (synced, readable by us only), unless config is NULL (they
 * are there), and starts the supervisor in a session of its own: the spare one, or a new one when
 * there is none. Its output goes to DIR/supervisor.log. */
int vm_files_launch(const char *dir, const char *config, const char *self, struct vm_spare *spare,
                    pid_t *ret_pid, struct err *ret_err);

/* Kills what is left of the VM (the supervisor of `pid`, 0 for unknown; whoever names the folder
 * or is in the VM's group), unmounts what it mounted, and removes the folder, unless `keep_saved`
 * and there is a saved layer in it: then *ret_saved is true and the files stay. */
void vm_files_clean(const char *dir, const char *name, pid_t pid, const struct limits *limits,
                    bool keep_saved, bool *ret_saved);

/* The last lines of DIR/supervisor.log, one line, for a report. */
void vm_files_last_words(const char *dir, char *out, size_t size);

#endif
