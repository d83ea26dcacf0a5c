/* SPDX-License-Identifier: Apache-2.0
 *
 * The owner's own word: STATE/owner.sock, one JSON object a line each way. Anyone who works at
 * the PC may speak, but not the users under which guests run. Also what must be remembered of the
 * owner over a restart of the agent: STATE/owner.json.
 *
 *   {"cmd": "leave"|"auto"|"status"} or {"cmd": "snooze", "ms": N}, with "at_us" (CLOCK_MONOTONIC)
 *   -> {"available", "reason", "word", "snooze_ms", "vms", "sources", "master", "class"} or
 * {"error"}
 */
#include "agent/agent.h"
#include "agent/sync_link.h"

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>

enum {
    CLIENTS_MAX = 16,
    EVENT_AGE_MAX_US = 1000000, /* a client's time of its event is not believed beyond that */
    MEMORY_AGE_MAX_MS = 120000, /* owner.json counts when the agent was away for no longer */
    STORE_DELAY_MS = 50,        /* while guests are being stopped, or a store is under way */
};

#define SNOOZE_MAX_MS (366 * 86400000ull)

struct owner_socket {
    struct agent *agent;
    int fd;
    char *path;
    uv_poll_t poll;
    int clients;
};

struct client {
    struct owner_socket *socket;
    struct json_line line;
    uv_poll_t poll;
};

static const char *const words[] = {
    [POLICY_AUTO] = "auto", [POLICY_LEAVE] = "leave", [POLICY_SNOOZE] = "snooze"};

/* ---- what is said -----------------------------------------------------------------------------
 */

static json_t *status(struct agent *a)
{
    char sources[512], trouble[512], cls[256];
    uint64_t now = agent_now_ms(), snooze = 0;

    owner_sources_describe(a->sources, sources, sizeof sources);
    sync_link_trouble(a->link, trouble, sizeof trouble);
    if (a->policy.word == POLICY_SNOOZE && a->policy.snooze_until_ms > now)
        snooze = a->policy.snooze_until_ms - now;
    if (a->cls.ok)
        snprintf(cls, sizeof cls, "%s %s %s", a->cls.cls.machine, a->cls.cls.cpu, a->cls.cls.accel);
    else
        snprintf(cls, sizeof cls, "%.255s", a->cls_known ? a->cls.text : "not yet proven");
    return json_pack("{s:b, s:s, s:s, s:I, s:I, s:s, s:s, s:s}", "available", a->available,
                     "reason", a->reason, "word", words[a->policy.word], "snooze_ms",
                     (json_int_t)snooze, "vms", (json_int_t)a->count_vms, "sources", sources,
                     "master",
                     trouble[0]    ? trouble
                     : a->answered ? "ok"
                                   : "no answer yet",
                     "class", cls);
}

static json_t *refuse(const char *text)
{
    return json_pack("{s:s}", "error", text);
}

static json_t *obey(struct agent *a, const json_t *request)
{
    const char *cmd = json_string_value(json_object_get(request, "cmd"));
    json_int_t ms = json_integer_value(json_object_get(request, "ms"));
    uint64_t at = (uint64_t)json_integer_value(json_object_get(request, "at_us"));
    uint64_t now = owner_now_us();
    int word = -1;

    for (int i = 0; cmd && i < 3; i++)
        if (strcmp(cmd, words[i]) == 0)
            word = i;
    if (at > now || now - at > EVENT_AGE_MAX_US)
        at = now;
    if (word == POLICY_SNOOZE && (ms <= 0 || (uint64_t)ms > SNOOZE_MAX_MS))
        return refuse("snooze for how long? up to a year, such as 2h");
    if (word < 0 && (!cmd || strcmp(cmd, "status") != 0))
        return refuse("unknown command: leave, snooze, auto or status");
    if (word >= 0) {
        policy_say(&a->policy, (enum policy_word)word, (uint64_t)ms, agent_now_ms());
        agent_decide(a, at);
        log_info("the owner says: %s", words[word]);
        owner_memory_store(a, false);
    }
    return status(a);
}

/* ---- the socket -------------------------------------------------------------------------------
 */

static void freed(uv_handle_t *handle)
{
    struct client *c = handle->data;

    json_line_deinit(&c->line);
    c->socket->clients--;
    free(c);
}

static void on_client(uv_poll_t *poll, int poll_status, int events)
{
    struct client *c = poll->data;
    json_t *json = NULL;
    int end = json_line_read(&c->line), r = json_line_flush(&c->line), got;

    while (r == 0 && ((got = json_line_next(&c->line, &json)) < 0 || json)) {
        json_t *answer = got < 0 ? refuse("not a JSON object") : obey(c->socket->agent, json);
        r = json_line_send(&c->line, answer);
        json_decref(answer);
        json_decref(json);
        json = NULL;
    }
    if (end < 0 || r < 0 || poll_status < 0)
        uv_close((uv_handle_t *)poll, freed);
    else
        uv_poll_start(poll, UV_READABLE | (json_line_wants_write(&c->line) ? UV_WRITABLE : 0),
                      on_client);
}

static bool may_speak(const struct agent *a, int fd)
{
    struct ucred peer;
    socklen_t len = sizeof peer;

    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 &&
           (peer.uid == 0 || (peer.uid != a->users.qemu_uid && peer.uid != a->users.pager_uid));
}

static void on_connect(uv_poll_t *poll, int poll_status, int events)
{
    struct owner_socket *s = poll->data;
    int fd = accept4(s->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd < 0)
        return;
    if (s->clients >= CLIENTS_MAX || !may_speak(s->agent, fd)) {
        close(fd);
        return;
    }
    struct client *c = xcalloc(1, sizeof *c);
    c->socket = s;
    s->clients++;
    json_line_init(&c->line, fd);
    uv_poll_init(&s->agent->loop, &c->poll, fd);
    c->poll.data = c;
    uv_poll_start(&c->poll, UV_READABLE, on_client);
}

int owner_socket_open(struct agent *a, struct err *ret_err)
{
    struct owner_socket *s = xcalloc(1, sizeof *s);
    struct sockaddr_un addr = {.sun_family = AF_UNIX};

    a->socket = s;
    s->agent = a;
    s->path = xasprintf("%s/owner.sock", a->config.state);
    if (strlen(s->path) >= sizeof addr.sun_path)
        return err_set(ret_err, -ENAMETOOLONG, "%s: too long for a socket: use a shorter --state",
                       s->path);
    snprintf(addr.sun_path, sizeof addr.sun_path, "%s", s->path);
    (void)unlink(s->path); /* of an agent before us; we hold the lock */
    s->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s->fd < 0 || bind(s->fd, (struct sockaddr *)&addr, sizeof addr) < 0 ||
        chmod(s->path, 0666) < 0 || listen(s->fd, CLIENTS_MAX) < 0)
        return err_set(ret_err, -errno, "cannot listen on %s: %s", s->path, strerror(errno));
    uv_poll_init(&a->loop, &s->poll, s->fd);
    s->poll.data = s;
    uv_poll_start(&s->poll, UV_READABLE, on_connect);
    return 0;
}

void owner_socket_close(struct agent *a)
{
    (void)unlink(a->socket->path);
}

/* ---- memory -----------------------------------------------------------------------------------
 */

static uint64_t realtime_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_REALTIME, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static uint64_t number(const json_t *json, const char *key)
{
    json_int_t n = json_integer_value(json_object_get(json, key));

    return n < 0 ? 0 : (uint64_t)n;
}

void owner_memory_load(struct agent *a)
{
    AUTO_FREE char *path = xasprintf("%s/owner.json", a->config.state);
    json_t *json = json_load_file(path, 0, NULL);
    const char *word = json_string_value(json_object_get(json, "word"));
    uint64_t now = realtime_ms(), mono = agent_now_ms();
    uint64_t seen = number(json, "seen_ms"), until = number(json, "snooze_until_ms");
    uint64_t quiet = number(json, "quiet_ms");

    if (word && strcmp(word, "leave") == 0)
        policy_say(&a->policy, POLICY_LEAVE, 0, mono);
    if (word && strcmp(word, "snooze") == 0 && until > now)
        policy_say(&a->policy, POLICY_SNOOZE, until - now, mono);
    /* A restart of the service does not begin the grace anew; a long absence does, since nobody
     * watched. */
    if (seen && seen <= now && now - seen < MEMORY_AGE_MAX_MS && quiet <= mono)
        a->policy.last_active_ms = mono - quiet;
    json_decref(json);
}

struct memory {
    uv_work_t work;
    struct agent *agent;
    char *state, *text;
};

static void do_store(uv_work_t *work)
{
    struct memory *m = work->data;

    /* Lost at worst: then the grace begins anew, or the owner says his word again. */
    (void)identity_write(m->state, "owner.json", m->text, strlen(m->text), 0600, NULL);
}

static void after_store(uv_work_t *work, int done)
{
    struct memory *m = work->data;

    m->agent->storing = false;
    free(m->state);
    free(m->text);
    free(m);
}

static struct memory *memory_of(struct agent *a)
{
    uint64_t mono = agent_now_ms(), now = realtime_ms(), until = 0;
    struct memory *m = xcalloc(1, sizeof *m);

    if (a->policy.word == POLICY_SNOOZE && a->policy.snooze_until_ms > mono)
        until = now + (a->policy.snooze_until_ms - mono);
    json_t *json = json_pack("{s:s, s:I, s:I, s:I}", "word", words[a->policy.word],
                             "snooze_until_ms", (json_int_t)until, "seen_ms", (json_int_t)now,
                             "quiet_ms", (json_int_t)(mono - a->policy.last_active_ms));
    m->state = xstrdup(a->config.state);
    m->text = json_dumps(json, 0);
    json_decref(json);
    m->work.data = m;
    m->agent = a;
    return m;
}

static void on_store(uv_timer_t *timer)
{
    struct agent *a = timer->data;

    if (a->storing) {
        owner_memory_store(a, false);
        return;
    }
    a->storing = true;
    uv_queue_work(&a->loop, &memory_of(a)->work, do_store, after_store);
}

void owner_memory_store(struct agent *a, bool last)
{
    if (last)
        do_store(&memory_of(a)->work);
    else if (!uv_is_active((uv_handle_t *)&a->store))
        uv_timer_start(&a->store, on_store, a->storing || agent_vm_stopping(a) ? STORE_DELAY_MS : 0,
                       0);
}
