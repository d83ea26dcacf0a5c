/* SPDX-License-Identifier: Apache-2.0
 *
 * The way to the network drive; see drive_link.h. One connection of QEMU at a time: NBD over it
 * is a session, and so is the upgraded request, so both begin and end together.
 */
#include "agent/drive_link.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/must.h"
#include "host/http_stream.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

struct drive_link {
    const struct blob_source *source;
    int listen_fd;
    int wake_fd; /* eventfd: the connection under way is to end */
    char *path;
    pthread_t thread;
    atomic_bool ended; /* and so are all later ones */
    pthread_mutex_t lock;
    struct http *http; /* open or being opened */
    bool open;         /* for the next connection of QEMU */
    uint64_t attempt;  /* grows; the master refuses what comes late */
};

/* ---- to the master ---- */

static void close_http(struct drive_link *l)
{
    MUST(pthread_mutex_lock(&l->lock) == 0);
    struct http *h = l->http;
    l->http = NULL;
    l->open = false;
    pthread_mutex_unlock(&l->lock);
    http_free(h);
}

/* query begins with "&" or is empty. */
static int open_http(struct drive_link *l, const char *query, struct err *ret_err)
{
    AUTO_FREE char *url = xasprintf("%sdrive?attempt=%llu%s", l->source->url,
                                    (unsigned long long)++l->attempt, query);
    struct http *h = blob_source_open(l->source);
    int status = 0;

    MUST(pthread_mutex_lock(&l->lock) == 0);
    l->http = h;
    pthread_mutex_unlock(&l->lock);
    if (atomic_load(&l->ended))
        http_abort(h);
    int r = http_stream_open(h, url, "nbd", &status, ret_err);
    MUST(pthread_mutex_lock(&l->lock) == 0);
    l->open = r == 0;
    pthread_mutex_unlock(&l->lock);
    if (r < 0)
        close_http(l);
    return r == -EREMOTEIO ? blob_status_error(status) : r;
}

int drive_link_begin(struct drive_link *l, uint64_t cut, struct err *ret_err)
{
    AUTO_FREE char *query = xasprintf("&cut=%llu", (unsigned long long)cut);

    return open_http(l, query, ret_err);
}

int drive_cut(struct http *h, const char *url, uint32_t timeout_ms, uint64_t *ret_cut,
              struct err *ret_err)
{
    AUTO_FREE char *full = xasprintf("%sdrive/cut", url);
    struct http_request q = {.method = "POST", .url = full, .timeout_ms = timeout_ms};
    json_t *json = NULL;
    int status = 0;
    int r = http_json(h, &q, NULL, &json, &status, ret_err);
    json_int_t cut = json_integer_value(json_object_get(json, "cut"));

    json_decref(json);
    if (r == -EREMOTEIO)
        return blob_status_error(status);
    if (r == 0 && cut <= 0)
        return err_set(ret_err, -EPROTO, "%s: the answer names no cut", full);
    *ret_cut = (uint64_t)cut;
    return r;
}

/* ---- QEMU's connections ---- */

static bool is_open(struct drive_link *l)
{
    MUST(pthread_mutex_lock(&l->lock) == 0);
    bool open = l->open;
    pthread_mutex_unlock(&l->lock);
    return open;
}

static void carry(struct drive_link *l, int fd)
{
    struct err err = {""};

    if (!is_open(l) && open_http(l, "", &err) < 0) {
        if (!atomic_load(&l->ended))
            log_info("drive: %s", err.text);
        return;
    }
    struct pump_end master = http_stream_end(l->http);
    struct pump *p = pump_new(&(struct pump_end){.fd = fd, .hangup_fd = -1}, &master);
    int r = pump_run(p, l->wake_fd);

    if (r != 1)
        log_info("drive: the connection ended%s%s", r ? ": " : "", r ? strerror(-r) : "");
    pump_free(p);
    close_http(l);
}

static void *run(void *arg)
{
    struct drive_link *l = arg;

    while (!atomic_load(&l->ended)) {
        struct pollfd p[] = {{l->listen_fd, POLLIN, 0}, {l->wake_fd, POLLIN, 0}};
        uint64_t count;

        if (poll(p, 2, -1) < 0)
            continue;                                  /* a signal: none is for us */
        (void)!read(l->wake_fd, &count, sizeof count); /* what it was for is over */
        AUTO_CLOSE int fd = accept4(l->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0)
            carry(l, fd);
    }
    close(l->listen_fd); /* who connects from now on is refused, not left to wait */
    return NULL;
}

/* ---- begin and end ---- */

static int listen_at(const char *path, uid_t uid, int *ret_fd, struct err *ret_err)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    AUTO_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (snprintf(a.sun_path, sizeof a.sun_path, "%s", path) >= (int)sizeof a.sun_path)
        return err_set(ret_err, -ENAMETOOLONG, "%s: the path is too long for a socket", path);
    (void)unlink(a.sun_path); /* of a supervisor that was killed */
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) < 0 || chmod(a.sun_path, 0600) < 0 ||
        (uid != (uid_t)-1 && chown(a.sun_path, uid, (gid_t)-1) < 0) || listen(fd, 4) < 0)
        return err_set(ret_err, -errno, "%s: %s", a.sun_path, strerror(errno));
    *ret_fd = take_fd(&fd);
    return 0;
}

/* A supervisor after us, of the same placement, must begin above. */
static uint64_t first_attempt(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_REALTIME, &ts);
    return ((uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000) << 20;
}

int drive_link_new(const char *dir, const struct blob_source *source, uid_t uid,
                   struct drive_link **ret_link, struct err *ret_err)
{
    AUTO_FREE char *path = xasprintf("%s/drive", dir);
    int fd = -1;
    int r = listen_at(path, uid, &fd, ret_err);

    if (r)
        return r;
    struct drive_link *l = xcalloc(1, sizeof *l);
    *l = (struct drive_link){.source = source,
                             .listen_fd = fd,
                             .path = TAKE_PTR(path),
                             .wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
                             .attempt = first_attempt()};
    MUST(l->wake_fd >= 0 && pthread_mutex_init(&l->lock, NULL) == 0);
    r = -pthread_create(&l->thread, NULL, run, l);
    if (r) {
        close(l->listen_fd);
        close(l->wake_fd);
        free(l->path);
        free(l);
        return err_set(ret_err, r, "cannot start a thread: %s", strerror(-r));
    }
    *ret_link = l;
    return 0;
}

const char *drive_link_path(const struct drive_link *l)
{
    return l->path;
}

void drive_link_interrupt(struct drive_link *l)
{
    const uint64_t one = 1;

    if (write(l->wake_fd, &one, sizeof one) < 0)
        MUST(errno == EAGAIN); /* full is readable, too */
    MUST(pthread_mutex_lock(&l->lock) == 0);
    if (l->http)
        http_abort(l->http);
    pthread_mutex_unlock(&l->lock);
}

void drive_link_cut_off(struct drive_link *l)
{
    atomic_store(&l->ended, true);
    drive_link_interrupt(l);
}

void drive_link_free(struct drive_link *l)
{
    if (!l)
        return;
    drive_link_cut_off(l);
    pthread_join(l->thread, NULL);
    close_http(l);
    close(l->wake_fd);
    pthread_mutex_destroy(&l->lock);
    (void)unlink(l->path); /* else the next one does, or the folder goes */
    free(l->path);
    free(l);
}
