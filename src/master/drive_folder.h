/* SPDX-License-Identifier: Apache-2.0
 *
 * The folder of one part's network drive (docs/formats/drive.md): overlays, and `base.ext4`, the
 * empty file system below them, a link to the one that all drives of its size share.
 *
 * What these functions made is durable when they return; what a crash cut short is made again.
 */
#ifndef YADO_MASTER_DRIVE_FOLDER_H
#define YADO_MASTER_DRIVE_FOLDER_H

#include "base/str.h"
#include "master/drive_plan.h"

#define DRIVE_BASE "base.ext4"
#define DRIVE_SOCKET "nbd"  /* of its daemon */
#define DRIVE_DRAFT "draft" /* an overlay that is not whole yet: whoever lists them sees none */

/* Makes root/JOB.PART with its empty file system of that many bytes where it is missing. */
int drive_folder_make(const char *root, const char *dir, uint64_t bytes, struct err *ret_err);
/* The overlays that are whole, by what their headers say. Of the names of one file the newest. */
int drive_folder_list(const char *dir, struct drive_file **ret_files, size_t *ret_count);
/* The draft is whole: it becomes the overlay of that name, which must be free. The draft stays as a
 * second name. */
int drive_folder_take_draft(const char *dir, const char *name);
/* Data of a file, then the folder's entries. */
int drive_folder_sync(const char *dir, const char *name);
/* A second name, which another file may have had; not yet durable. */
int drive_folder_give_name(const char *dir, const char *name, const char *other);
/* Removes second names; no daemon runs there. */
void drive_folder_tidy(const char *dir);
int drive_folder_remove_file(const char *dir, const char *name);
void drive_folder_remove(const char *dir);
/* Empty file systems that no drive has any more. */
void drive_bases_sweep(const char *root);

#endif
