/* SPDX-License-Identifier: Apache-2.0
 *
 * See identity.h.
 */
#include "agent/identity.h"

#include "base/buf.h"
#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

static int read_line(const char *state, const char *file, char **ret_text, struct err *ret_err)
{
    AUTO_FREE char *path = xasprintf("%s/%s", state, file);
    AUTO_FCLOSE FILE *f = fopen(path, "re");
    char line[1024];

    if (!f || !fgets(line, sizeof line, f))
        return err_set(ret_err, -ENOENT,
                       "%s is not there or empty: enrol this PC first with "
                       "`yado enroll URL TOKEN --name NAME --state %s`",
                       path, state);
    line[strcspn(line, "\n")] = 0;
    *ret_text = xstrdup(line);
    return 0;
}

int identity_load(const char *state, struct identity *ret_identity, struct err *ret_err)
{
    static const char *const files[] = {"ca.pem", "cert.pem", "key.pem"};
    struct identity id = {0};
    char **paths[] = {&id.ca_file, &id.cert_file, &id.key_file};
    int r = read_line(state, "url", &id.url, ret_err);

    if (r == 0)
        r = read_line(state, "name", &id.name, ret_err);
    for (size_t i = 0; i < 3; i++) {
        *paths[i] = xasprintf("%s/%s", state, files[i]);
        if (r == 0 && access(*paths[i], R_OK) < 0)
            r = err_set(ret_err, -errno, "%s: %s: enrol this PC again", *paths[i], strerror(errno));
    }
    if (r < 0)
        identity_deinit(&id);
    else
        *ret_identity = id;
    return r;
}

void identity_deinit(struct identity *id)
{
    free(id->url);
    free(id->name);
    free(id->ca_file);
    free(id->cert_file);
    free(id->key_file);
    *id = (struct identity){0};
}

static int write_all(int fd, const char *text, size_t len)
{
    while (len > 0) {
        ssize_t n = write(fd, text, len);
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n > 0) {
            text += n;
            len -= (size_t)n;
        }
    }
    return fsync(fd) < 0 ? -errno : 0;
}

int identity_write(const char *dir, const char *file, const char *text, size_t len, unsigned mode,
                   struct err *ret_err)
{
    AUTO_FREE char *path = xasprintf("%s/%s", dir, file);
    AUTO_FREE char *temporary = xasprintf("%s.new", path);

    (void)unlink(temporary); /* of an attempt that was cut short */
    AUTO_CLOSE int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    int r = fd < 0 ? -errno : write_all(fd, text, len);
    if (r == 0 && rename(temporary, path) < 0)
        r = -errno;
    AUTO_CLOSE int folder = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (r == 0 && (folder < 0 || fsync(folder) < 0))
        r = -errno;
    return r < 0 ? err_set(ret_err, r, "cannot write %s: %s", path, strerror(-r)) : 0;
}
