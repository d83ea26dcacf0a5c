/* SPDX-License-Identifier: Apache-2.0
 *
 * Where the kernel and initrd come from with which a PC proves its class; see class_proof.h.
 */
#include "agent/class_proof.h"

#include "base/buf.h"
#include "base/cleanup.h"
#include "host/http_client.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { IMAGE_BYTES_MAX = 256 << 20 };

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

static int fetch(struct http *h, const struct identity *id, const char *dir, const char *file,
                 struct err *ret_err)
{
    AUTO_FREE char *url = xasprintf("%s/v1/agent/image/%s", id->url, file);
    struct http_request q = {.method = "GET", .url = url, .body_max = IMAGE_BYTES_MAX};
    AUTO_HTTP_RESPONSE struct http_response answer = {0};
    struct err why;
    int r = http_do(h, &q, &answer, ret_err);

    if (r)
        return r;
    if (answer.status != 200) {
        http_error_text(&answer, &why);
        return err_set(ret_err, -ENOENT, "%s: %.300s", url, why.text);
    }
    return identity_write(dir, file, (const char *)answer.body.data, answer.body.len, 0644,
                          ret_err);
}

int class_fetch_images(const struct identity *id, const char *dir, struct err *ret_err)
{
    struct http *h = http_new(&(struct http_config){
        .ca_file = id->ca_file, .cert_file = id->cert_file, .key_file = id->key_file});
    int r = mkdir(dir, 0711) && errno != EEXIST
                ? err_set(ret_err, -errno, "cannot make %s: %s", dir, strerror(errno))
                : 0;

    /* The kernel comes last: by it the folder is known to be whole. */
    if (r == 0)
        r = fetch(h, id, dir, "initrd", ret_err);
    if (r == 0)
        r = fetch(h, id, dir, "vmlinuz", ret_err);
    http_free(h);
    return r;
}
