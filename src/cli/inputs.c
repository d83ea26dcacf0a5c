/* SPDX-License-Identifier: Apache-2.0
 *
 * Inputs of jobs; see inputs.h.
 */
#include "cli/cli.h"
#include "cli/inputs.h"
#include "cli/listing.h"
#include "cli/tarball.h"
#include "cli/text.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/num.h"
#include "host/digest.h"
#include "wire/jobspec.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void inputs_deinit(struct inputs *in)
{
    for (size_t i = 0; i < in->count; i++) {
        free(in->blobs[i].source);
        if (in->blobs[i].fd >= 0)
            close(in->blobs[i].fd);
    }
    free(in->blobs);
    *in = (struct inputs){0};
}

/* ---- preparing ------------------------------------------------------------------------------- */

static int temporary_file(void)
{
    const char *dir = getenv("TMPDIR");
    int fd = open(dir && *dir ? dir : "/var/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

    return fd < 0 ? -errno : fd;
}

static int open_source(struct input_blob *b, struct err *ret_err)
{
    AUTO_CLOSE int fd = open(b->source, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat st;
    int r;

    if (fd < 0 || fstat(fd, &st) < 0)
        return err_set(ret_err, -errno, "input %s: %s", b->source, strerror(errno));
    b->mode = (st.st_mode & 0777) | 0444; /* the guest's user is not the one here */
    if (S_ISREG(st.st_mode)) {
        b->fd = take_fd(&fd);
    } else if (S_ISDIR(st.st_mode)) {
        b->tar = true;
        b->fd = temporary_file();
        if (b->fd < 0)
            return err_set(ret_err, b->fd, "no temporary file for the tar of %s: %s", b->source,
                           strerror(-b->fd));
        r = tarball_pack(b->source, b->fd, ret_err);
        if (r)
            return r;
    } else {
        return err_set(ret_err, -EINVAL, "input %s: neither a file nor a folder", b->source);
    }
    r = digest_of_fd(b->fd, b->digest, &b->size);
    return r ? err_set(ret_err, r, "input %s: %s", b->source, strerror(-r)) : 0;
}

/* The blob of a source; a source that both a job and its `then` name is read once. */
static struct input_blob *blob_of(struct inputs *in, const char *source, struct err *ret_err)
{
    struct input_blob *b;

    for (size_t i = 0; i < in->count; i++)
        if (strcmp(in->blobs[i].source, source) == 0)
            return &in->blobs[i];
    in->blobs = xreallocarray(in->blobs, in->count + 1, sizeof *in->blobs);
    b = &in->blobs[in->count++];
    *b = (struct input_blob){.source = xstrdup(source), .fd = -1};
    return open_source(b, ret_err) == 0 ? b : NULL;
}

/* "/x/data/" and "/x/data" are called data; "/", "." and ".." have no name. */
static char *name_of(const char *path)
{
    size_t end = strlen(path), start;
    char *name;

    while (end && path[end - 1] == '/')
        end--;
    for (start = end; start && path[start - 1] != '/';)
        start--;
    name = xstrndup(path + start, end - start);
    if (strcmp(name, "") != 0 && strcmp(name, ".") != 0 && strcmp(name, "..") != 0)
        return name;
    free(name);
    return NULL;
}

static int prepare_list(struct inputs *in, json_t *job, struct err *ret_err)
{
    json_t *list = json_object_get(job, "inputs"), *made, *item;
    size_t i;

    if (!list)
        return 0;
    made = json_array();
    json_array_foreach(list, i, item)
    {
        const char *path = json_string_value(json_object_get(item, "path"));
        const char *given = json_string_value(json_object_get(item, "name"));
        AUTO_FREE char *name = given ? xstrdup(given) : name_of(path);
        struct input_blob *b = blob_of(in, path, ret_err);

        if (!b || !name) {
            json_decref(made);
            return b ? err_set(ret_err, -EINVAL,
                               "input %s: it has no name; give it one in a job file "
                               "(inputs: [{path: %s, name: NAME}])",
                               path, path)
                     : -EIO;
        }
        json_array_append_new(made, json_pack("{s:s, s:s, s:I, s:i, s:b}", "path", name, "digest",
                                              b->digest, "size", (json_int_t)b->size, "mode",
                                              (int)b->mode, "tar", (int)b->tar));
    }
    json_object_set_new(job, "inputs", made);
    return 0;
}

int inputs_prepare(struct inputs *in, json_t *job, struct err *ret_err)
{
    json_t *then = json_object_get(job, "then");
    int r = prepare_list(in, job, ret_err);

    return r == 0 && then ? prepare_list(in, then, ret_err) : r;
}

/* ---- sending --------------------------------------------------------------------------------- */

struct progress {
    const char *label;
    uint64_t size;
    uint64_t shown_ms;
    bool tty;
};

static void show_progress(void *arg, uint64_t sent)
{
    static const char bar[] = "####################";
    struct progress *p = arg;
    char a[NUM_TEXT_MAX], b[NUM_TEXT_MAX];
    uint64_t now = cli_now_ms();
    int part = p->size ? (int)((double)sent / (double)p->size * 20) : 20;

    if (!p->tty || now < p->shown_ms + 100)
        return;
    p->shown_ms = now;
    fprintf(stderr, "\r\033[K%s [%-20.*s] %s of %s", p->label, part, bar, num_format_size(sent, a),
            num_format_size(p->size, b));
}

int inputs_send_blob(struct client *c, const char *label, int fd, const char *digest, uint64_t size,
                     struct err *ret_err)
{
    AUTO_FREE char *path = xasprintf("/v1/blobs/%s", digest);
    AUTO_FREE char *clean = text_clean(label);
    AUTO_HTTP_RESPONSE struct http_response answer = {0};
    /* The bar waits 100 ms, so that small inputs show none. */
    struct progress p = {clean, size, cli_now_ms(), listing_terminal_width(STDERR_FILENO) > 0};
    struct http_request head = {.method = "HEAD", .url = path};
    struct http_request put = {.method = "PUT",
                               .url = path,
                               .body_file = true,
                               .body_fd = fd,
                               .body_bytes = size,
                               .quiet_ms = 120000, /* the master syncs it before it answers */
                               .progress = show_progress,
                               .progress_arg = &p};
    int r = client_do(c, &head, &answer, ret_err);

    if (r == 0 && answer.status == 200)
        return 0;
    if (r == 0 && answer.status != 404)
        return client_refusal(c, &answer, ret_err);
    if (r == 0)
        r = client_do(c, &put, &answer, ret_err);
    if (p.tty)
        fputs("\r\033[K", stderr);
    if (r)
        return r;
    return answer.status >= 200 && answer.status < 300 ? 0 : client_refusal(c, &answer, ret_err);
}

int inputs_send(struct inputs *in, struct client *c, struct err *ret_err)
{
    for (size_t i = 0; i < in->count; i++) {
        const struct input_blob *b = &in->blobs[i];
        int r = inputs_send_blob(c, b->source, b->fd, b->digest, b->size, ret_err);

        if (r)
            return r;
    }
    return 0;
}
