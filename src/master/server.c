/* SPDX-License-Identifier: Apache-2.0
 * The HTTPS server; see server.h. Only this file knows libmicrohttpd. */
#include "master/server.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "base/must.h"
#include "base/num.h"
#include "master/auth.h"
#include "master/ca.h"
#include "master/hold.h"

#include <errno.h>
#include <fcntl.h>
#include <microhttpd.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum {
    SERVER_THREADS = 12, /* some of them are always in fsync */
    SERVER_CONNECTIONS = 12 * 1024,
    SERVER_IDLE_S = 75,
    SERVER_DRAIN_BYTES = 64 << 20,
    SERVER_LINGER_MS = 2000,
    SERVER_LINGERING = 16,               /* at most so many at a time */
    SERVER_CONNECTION_BYTES = 64 * 1024, /* read at once of an upload */
};

struct server {
    struct master *m;
    struct MHD_Daemon *daemon;
    int listen_fd;
    atomic_int lingering; /* threads that drain a refused body */
};

/* ---- one request ---------------------------------------------------------------------------- */

static void req_free(struct req *r)
{
    if (r->upload)
        r->route->upload->drop(r->upload);
    if (r->free_data)
        r->free_data(r->data);
    req_reset(r);
    for (unsigned i = 0; i < REQ_ARGS_MAX; i++)
        free(r->args[i]);
    buf_deinit(&r->body);
    free(r);
}

/* One pattern against one path. What the {} matched goes to args. */
static bool route_match(const char *pattern, const char *path, char *args[REQ_ARGS_MAX])
{
    unsigned count = 0;
    while (*pattern) {
        if (*pattern == '{') {
            size_t n = strcspn(path, "/");
            if (n == 0 || count == REQ_ARGS_MAX)
                break;
            args[count++] = xstrndup(path, n);
            path += n;
            pattern += strcspn(pattern, "}") + 1;
        } else if (*pattern++ != *path++) {
            pattern = "?";
            break;
        }
    }
    if (*pattern == '\0' && *path == '\0')
        return true;
    for (unsigned i = 0; i < count; i++) {
        free(args[i]);
        args[i] = NULL;
    }
    return false;
}

static void find_route(struct req *r, const char *method, const char *path)
{
    bool path_known = false;
    for (const struct route *t = routes; t->method; t++) {
        char *args[REQ_ARGS_MAX] = {0};
        if (!route_match(t->path, path, args))
            continue;
        path_known = true;
        if (strcmp(t->method, method) == 0) {
            r->route = t;
            memcpy(r->args, args, sizeof args);
            return;
        }
        for (unsigned i = 0; i < REQ_ARGS_MAX; i++)
            free(args[i]);
    }
    char shown[100], verb[16];
    str_sanitize(path, shown, sizeof shown);
    str_sanitize(method, verb, sizeof verb);
    if (path_known)
        (void)req_reply_error(r, 405, "method_not_allowed", "%s is not possible on %s", verb,
                              shown);
    else
        (void)req_reply_error(r, 404, "not_found", "there is nothing at %s", shown);
}

/* The body's announced length against what the route takes. */
static void check_length(struct req *r)
{
    uint64_t max = r->route->auth == REQ_ANYONE ? REQ_ANYONE_MAX : REQ_JSON_MAX;
    bool unsized = r->route->upload && r->route->upload->unsized;
    if (req_header_in(r, "Transfer-Encoding") && !unsized)
        (void)req_reply_error(r, 411, "length_required",
                              "send the body with Content-Length, not in chunks");
    else if (!r->route->upload && r->content_length > max)
        (void)req_reply_error(r, 413, "too_large",
                              "the body has %llu bytes; at most %llu are taken here. "
                              "Send large data as blobs (inputs)",
                              (unsigned long long)r->content_length, (unsigned long long)max);
}

static void begin(struct req *r, const char *method, const char *path)
{
    const char *length = req_header_in(r, "Content-Length");
    if (length && num_parse_u64(length, UINT64_MAX, &r->content_length) < 0) {
        (void)req_reply_error(r, 400, "bad_request", "Content-Length is not a number");
        return;
    }
    find_route(r, method, path);
    if (r->status == 0)
        auth_check(r);
    if (r->status == 0)
        check_length(r);
    if (r->status == 0 && r->route->upload)
        r->route->upload->begin(r);
    r->next = r->route ? r->route->handle : NULL;
}

static void on_upgrade(void *cls, struct MHD_Connection *conn, void *con_cls, const char *extra,
                       size_t extra_bytes, MHD_socket fd, struct MHD_UpgradeResponseHandle *stream)
{
    struct req *r = con_cls;
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(conn, MHD_CONNECTION_INFO_CONNECTION_FD);
    struct stream *s = xmalloc(sizeof *s);
    int at_once = 1, corked = 0;
    *s = (struct stream){fd, fcntl(info->connect_fd, F_DUPFD_CLOEXEC, 0), stream};
    /* Short answers would wait for the peer's acknowledgement of others: 40 ms each. */
    (void)setsockopt(s->peer_fd, IPPROTO_TCP, TCP_CORK, &corked, sizeof corked);
    (void)setsockopt(s->peer_fd, IPPROTO_TCP, TCP_NODELAY, &at_once, sizeof at_once);
    if (extra_bytes || s->peer_fd < 0) /* nobody may speak before our answer */
        stream_close(s);
    else
        r->take_stream(r, s);
}

static struct MHD_Response *make_response(struct req *r)
{
    if (r->upgrade) {
        struct MHD_Response *m = MHD_create_response_for_upgrade(on_upgrade, NULL);
        if (m)
            MHD_add_response_header(m, "Upgrade", r->upgrade);
        return m;
    }
    if (r->fd >= 0) {
        struct MHD_Response *m =
            MHD_create_response_from_fd_at_offset64(r->fd_bytes, r->fd, r->fd_offset);
        if (m)
            r->fd = -1; /* the response closes it */
        return m;
    }
    if (r->json) {
        char *text = json_dumps(r->json, JSON_COMPACT);
        MUST(text);
        return MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_FREE);
    }
    size_t len = r->raw.len;
    return MHD_create_response_from_buffer(len, len ? buf_take_str(&r->raw) : (char *)"",
                                           len ? MHD_RESPMEM_MUST_FREE : MHD_RESPMEM_PERSISTENT);
}

static enum MHD_Result send_reply(struct req *r)
{
    const char *type = r->json ? "application/json" : r->content_type;
    struct MHD_Response *m = make_response(r);
    if (!m)
        return MHD_NO;
    if (type)
        MHD_add_response_header(m, "Content-Type", type);
    if (r->step) {
        char step[24];
        snprintf(step, sizeof step, "%llu", (unsigned long long)r->step);
        MHD_add_response_header(m, "Yado-Step", step);
    }
    for (unsigned i = 0; i < r->count_headers; i++)
        MHD_add_response_header(m, r->headers[i].name, r->headers[i].value);
    enum MHD_Result ok = MHD_queue_response(r->conn, r->status, m);
    MHD_destroy_response(m);
    return ok;
}

/* ---- refusing what is still being sent ------------------------------------------------------ */

/* Closing a socket on which unread bytes lie resets the connection, and a client that is still
 * sending then never sees our refusal. So bodies of a bearable size are read to their end, and
 * after a refusal of a larger one a thread keeps the socket for a moment and drains it. */
static bool worth_reading(struct req *r)
{
    return r->content_length && r->content_length <= SERVER_DRAIN_BYTES &&
           !req_header_in(r, "Expect");
}

struct drain {
    struct server *server;
    int fd;
};

static void *linger_main(void *arg)
{
    struct drain *l = arg;
    char bin[16384];
    uint64_t end_ms = holds_now() + SERVER_LINGER_MS;
    struct pollfd p = {.fd = l->fd, .events = POLLIN};
    while (holds_now() < end_ms && poll(&p, 1, SERVER_LINGER_MS) > 0 &&
           recv(l->fd, bin, sizeof bin, MSG_DONTWAIT) > 0)
        ;
    close(l->fd);
    l->server->lingering--;
    free(l);
    return NULL;
}

static void linger(struct server *s, struct req *r)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(r->conn, MHD_CONNECTION_INFO_CONNECTION_FD);
    int fd = info ? fcntl(info->connect_fd, F_DUPFD_CLOEXEC, 0) : -1;
    if (fd < 0)
        return;
    struct drain *l = xmalloc(sizeof *l);
    *l = (struct drain){s, fd};
    pthread_t thread;
    if (++s->lingering <= SERVER_LINGERING && pthread_create(&thread, NULL, linger_main, l) == 0) {
        pthread_detach(thread);
        return;
    }
    s->lingering--;
    close(fd);
    free(l);
}

static enum MHD_Result refuse(struct server *s, struct req *r)
{
    if (worth_reading(r))
        return MHD_YES;
    if (r->content_length)
        linger(s, r);
    return send_reply(r);
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *conn, const char *url,
                                  const char *method, const char *version, const char *data,
                                  size_t *data_len, void **con_cls)
{
    struct server *s = cls;
    struct req *r = *con_cls;
    if (!r) {
        r = xcalloc(1, sizeof *r);
        r->m = s->m;
        r->conn = conn;
        r->fd = -1;
        *con_cls = r;
        begin(r, method, url);
        return r->status ? refuse(s, r) : MHD_YES;
    }
    if (*data_len) {
        if (r->status)
            ; /* refused already: the body is read only so that the client reads our answer */
        else if (r->route->upload)
            r->route->upload->take(r, data, *data_len);
        else if (r->body.len + *data_len <= REQ_JSON_MAX)
            buf_put(&r->body, data, *data_len);
        *data_len = 0;
        return MHD_YES;
    }
    while (r->status == 0) {
        req_fn step = r->next;
        MUST(step);
        r->next = NULL;
        if (step(r) == REQ_WAITING)
            return MHD_YES; /* somebody else has it now */
    }
    return send_reply(r);
}

static void on_completed(void *cls, struct MHD_Connection *conn, void **con_cls,
                         enum MHD_RequestTerminationCode code)
{
    if (*con_cls)
        req_free(*con_cls);
    *con_cls = NULL;
}

/* ---- what handlers use ---------------------------------------------------------------------- */

void req_reset(struct req *r)
{
    r->status = 0;
    json_decref(r->json);
    r->json = NULL;
    buf_deinit(&r->raw);
    if (r->fd >= 0)
        close(r->fd);
    r->fd = -1;
    r->count_headers = 0;
}

enum req_next req_reply_json(struct req *r, unsigned status, json_t *json)
{
    MUST(r->status == 0 && json);
    r->status = status;
    r->json = json;
    return REQ_REPLIED;
}

json_t *req_text(const char *text)
{
    json_t *json = json_string(text);
    if (json)
        return json;
    char *copy = xstrdup(text);
    for (char *p = copy; *p; p++)
        if (*p & 0x80)
            *p = '?';
    json = json_string(copy);
    free(copy);
    return json;
}

enum req_next req_reply_error(struct req *r, unsigned status, const char *code, const char *fmt,
                              ...)
{
    va_list ap;
    va_start(ap, fmt);
    AUTO_FREE char *text = xvasprintf(fmt, ap);
    va_end(ap);
    log_debug("%u %s: %s", status, code, text);
    json_t *inner = json_pack("{s:s, s:o}", "code", code, "message", req_text(text));
    return req_reply_json(r, status, json_pack("{s:o}", "error", inner));
}

enum req_next req_reply_raw(struct req *r, unsigned status, const char *content_type)
{
    MUST(r->status == 0);
    r->status = status;
    r->content_type = content_type;
    return REQ_REPLIED;
}

enum req_next req_reply_file(struct req *r, unsigned status, int fd, uint64_t offset,
                             uint64_t bytes, const char *content_type)
{
    MUST(r->status == 0);
    r->status = status;
    r->fd = fd;
    r->fd_offset = offset;
    r->fd_bytes = bytes;
    r->content_type = content_type;
    return REQ_REPLIED;
}

enum req_next req_reply_upgrade(struct req *r, const char *protocol,
                                void (*take)(struct req *r, struct stream *stream))
{
    MUST(r->status == 0);
    r->status = MHD_HTTP_SWITCHING_PROTOCOLS;
    r->upgrade = protocol;
    r->take_stream = take;
    return REQ_REPLIED;
}

void stream_close(struct stream *s)
{
    cleanup_close(&s->peer_fd);
    (void)MHD_upgrade_action(s->handle, MHD_UPGRADE_ACTION_CLOSE); /* it is open */
    free(s);
}

void req_add_header(struct req *r, const char *name, const char *fmt, ...)
{
    MUST(r->count_headers < sizeof r->headers / sizeof *r->headers);
    struct req_header *h = &r->headers[r->count_headers++];
    va_list ap;
    h->name = name;
    va_start(ap, fmt);
    vsnprintf(h->value, sizeof h->value, fmt, ap);
    va_end(ap);
}

enum req_next req_reply_errno(struct req *r, int error, const char *what)
{
    if (error == -ENOSPC || error == -EDQUOT)
        return req_reply_error(r, 507, "disk_full",
                               "%s: the master's disk is full. Make room in its state folder; "
                               "trying again later is safe",
                               what);
    log_error("%s: %s", what, strerror(-error));
    return req_reply_error(r, 500, "internal", "%s: %s; the master's log says more", what,
                           strerror(-error));
}

bool req_json(struct req *r, json_t **ret_json)
{
    json_error_t e;
    const char *text = r->body.len ? (const char *)r->body.data : "";
    json_t *json = json_loadb(text, r->body.len, JSON_REJECT_DUPLICATES, &e);
    if (!json) {
        char shown[sizeof e.text];
        str_sanitize(e.text, shown, sizeof shown);
        (void)req_reply_error(r, 400, "bad_json", "the body is not valid JSON: %s (line %d)", shown,
                              e.line);
        return false;
    }
    if (!json_is_object(json)) {
        json_decref(json);
        (void)req_reply_error(r, 400, "bad_json", "the body must be a JSON object");
        return false;
    }
    *ret_json = json;
    return true;
}

bool req_arg_u64(struct req *r, unsigned arg, uint64_t *ret_value)
{
    if (num_parse_u64(r->args[arg], INT64_MAX, ret_value) == 0)
        return true;
    char shown[40];
    str_sanitize(r->args[arg], shown, sizeof shown);
    (void)req_reply_error(r, 404, "not_found", "\"%s\" is not a number", shown);
    return false;
}

const char *req_query(struct req *r, const char *name)
{
    return MHD_lookup_connection_value(r->conn, MHD_GET_ARGUMENT_KIND, name);
}

bool req_query_u64(struct req *r, const char *name, uint64_t fallback, uint64_t *ret_value)
{
    const char *text = req_query(r, name);
    if (!text) {
        *ret_value = fallback;
        return true;
    }
    if (num_parse_u64(text, INT64_MAX, ret_value) == 0)
        return true;
    (void)req_reply_error(r, 400, "bad_request", "%s: a number is expected", name);
    return false;
}

struct flag_search {
    const char *name;
    bool found;
};

static enum MHD_Result find_flag(void *cls, enum MHD_ValueKind kind, const char *key,
                                 const char *value)
{
    struct flag_search *s = cls;
    if (strcmp(key, s->name) == 0)
        s->found = !value || strcmp(value, "1") == 0 || strcmp(value, "true") == 0;
    return s->found ? MHD_NO : MHD_YES;
}

bool req_query_flag(struct req *r, const char *name)
{
    struct flag_search s = {.name = name};
    MHD_get_connection_values(r->conn, MHD_GET_ARGUMENT_KIND, find_flag, &s);
    return s.found;
}

const char *req_header_in(struct req *r, const char *name)
{
    return MHD_lookup_connection_value(r->conn, MHD_HEADER_KIND, name);
}

const char *req_trailer_in(struct req *r, const char *name)
{
    return MHD_lookup_connection_value(r->conn, MHD_FOOTER_KIND, name);
}

void req_suspend(struct req *r)
{
    MHD_suspend_connection(r->conn);
}

void req_resume(struct req *r)
{
    MHD_resume_connection(r->conn);
}

int req_peer(struct req *r, char ret_name[GRID_NAME_MAX], char ret_serial[48])
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(r->conn, MHD_CONNECTION_INFO_GNUTLS_SESSION);
    return info ? ca_peer(r->m->ca, info->tls_session, ret_name, ret_serial) : -ENOENT;
}

/* ---- listening ------------------------------------------------------------------------------ */

static int bind_one(const struct addrinfo *a)
{
    AUTO_CLOSE int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int on = 1;
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0 ||
        bind(fd, a->ai_addr, a->ai_addrlen) < 0 || listen(fd, 1024) < 0)
        return -errno;
    return take_fd(&fd);
}

static uint16_t port_of(int fd)
{
    struct sockaddr_storage addr;
    socklen_t len = sizeof addr;
    char port[8] = "0";
    uint64_t value = 0;
    if (getsockname(fd, (struct sockaddr *)&addr, &len) == 0 &&
        getnameinfo((struct sockaddr *)&addr, len, NULL, 0, port, sizeof port, NI_NUMERICSERV) == 0)
        (void)num_parse_u64(port, UINT16_MAX, &value); /* NI_NUMERICSERV: always a number */
    return (uint16_t)value;
}

int server_bind(const char *host, uint16_t port, int *ret_fd, uint16_t *ret_port,
                struct err *ret_err)
{
    char service[8];
    snprintf(service, sizeof service, "%u", port);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *list;
    int r = getaddrinfo(host, service, &hints, &list);
    if (r != 0)
        return err_set(ret_err, -EINVAL, "--listen: cannot find an address for \"%s\": %s", host,
                       gai_strerror(r));
    int fd = -EADDRNOTAVAIL;
    for (struct addrinfo *a = list; a && fd < 0; a = a->ai_next)
        fd = bind_one(a);
    freeaddrinfo(list);
    if (fd == -EADDRINUSE)
        return err_set(ret_err, fd,
                       "port %u of %s is in use: stop what listens there "
                       "(ss -ltnp 'sport = :%u' names it) or choose another with --listen",
                       port, host, port);
    if (fd < 0)
        return err_set(ret_err, fd, "cannot listen on %s port %u: %s", host, port, strerror(-fd));
    *ret_fd = fd;
    *ret_port = port_of(fd);
    return 0;
}

static void on_mhd_log(void *cls, const char *fmt, va_list ap)
    __attribute__((format(printf, 2, 0)));
static void on_mhd_log(void *cls, const char *fmt, va_list ap)
{
    /* Broken handshakes and connections that were cut: not for the everyday log. */
    AUTO_BUF struct buf text = {0};
    buf_vprintf(&text, fmt, ap);
    while (text.len && text.data[text.len - 1] == '\n')
        text.data[--text.len] = '\0';
    log_debug("http: %s", text.len ? (char *)text.data : "");
}

int server_start(struct master *m, int fd, struct server **ret_server, struct err *ret_err)
{
    struct server *s = xcalloc(1, sizeof *s);
    s->m = m;
    s->listen_fd = fd;
    /* By poll, not epoll: see docs/decisions/0011. */
    s->daemon = MHD_start_daemon(
        MHD_USE_POLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_ALLOW_UPGRADE | MHD_USE_TLS |
            MHD_USE_ERROR_LOG | MHD_USE_ITC,
        0, NULL, NULL, on_request, s, MHD_OPTION_EXTERNAL_LOGGER, on_mhd_log, NULL,
        MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_THREAD_POOL_SIZE, (unsigned)SERVER_THREADS,
        MHD_OPTION_CONNECTION_LIMIT, (unsigned)SERVER_CONNECTIONS, MHD_OPTION_CONNECTION_TIMEOUT,
        (unsigned)SERVER_IDLE_S, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        (size_t)SERVER_CONNECTION_BYTES, MHD_OPTION_NOTIFY_COMPLETED, on_completed, NULL,
        MHD_OPTION_HTTPS_MEM_KEY, ca_server_key_pem(m->ca), MHD_OPTION_HTTPS_MEM_CERT,
        ca_server_cert_pem(m->ca), MHD_OPTION_HTTPS_MEM_TRUST, ca_cert_pem(m->ca),
        MHD_OPTION_HTTPS_PRIORITIES, "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2", MHD_OPTION_END);
    if (!s->daemon) {
        free(s);
        return err_set(ret_err, -EIO, "cannot start the HTTPS server (YADO_LOG=debug says why)");
    }
    *ret_server = s;
    return 0;
}

void server_quiesce(struct server *s)
{
    int fd = MHD_quiesce_daemon(s->daemon);
    if (fd >= 0)
        close(fd);
}

void server_free(struct server *s)
{
    if (!s)
        return;
    MHD_stop_daemon(s->daemon);
    struct timespec pause = {.tv_nsec = 20 * 1000 * 1000};
    while (s->lingering) /* SERVER_LINGER_MS at most */
        nanosleep(&pause, NULL);
    free(s);
}
