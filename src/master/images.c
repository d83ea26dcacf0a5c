/* SPDX-License-Identifier: Apache-2.0
 * The built-in image and the replacing of images; see images.h. */
#include "master/images.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "base/must.h"
#include "depot/depot.h"
#include "master/master.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

enum grid_outcome images_put(struct core *c, struct req *r, const char *name,
                             const struct state_image *contents)
{
    struct grid_event e = {.kind = GRID_EV_IMAGE, .name = name};
    enum grid_outcome outcome = core_step(c, r, &e);
    if (outcome == GRID_OK)
        core_fail(c, state_image_put(core_write(c, r), core_effects(c)->id, contents));
    return outcome;
}

/* One file into the depot. -ENOENT when it is not there. */
static int import_file(struct master *m, const char *name, struct state_blob *ret, struct err *e)
{
    AUTO_FREE char *path = xasprintf("%s/%s", m->config.images_dir, name);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return -ENOENT;
    int r = fd < 0 ? -errno : depot_put_file(m->depot, fd, ret->digest.bytes, &ret->size_bytes);
    return r < 0 ? err_set(e, r == -ENOENT ? -EIO : r, "cannot take %s into the depot: %s", path,
                           strerror(-r))
                 : 0;
}

int images_import(struct core *c, struct err *ret_err)
{
    struct master *m = core_master(c);
    struct state_image have, want = {0};
    int r = m->config.images_dir ? import_file(m, "vmlinuz", &want.kernel, ret_err) : -ENOENT;
    if (r == 0)
        r = import_file(m, "initrd", &want.initrd, ret_err);
    if (r == -ENOENT) {
        log_warn("no built-in image: %s has no vmlinuz and initrd (make images makes them; "
                 "--images names their folder)",
                 m->config.images_dir ? m->config.images_dir : "the program's folder");
        return 0;
    }
    if (r < 0)
        return r;
    const struct grid_image *image = grid_find_image(core_grid(c), IMAGE_BUILT_IN);
    if (image && core_image(c, image->id, &have) && memcmp(&have, &want, sizeof have) == 0)
        return 0;
    MUST(images_put(c, NULL, IMAGE_BUILT_IN, &want) == GRID_OK);
    log_info("built-in image %s taken from %s", IMAGE_BUILT_IN, m->config.images_dir);
    return 0;
}
