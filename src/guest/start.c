/* SPDX-License-Identifier: Apache-2.0
 *
 * Reading and checking START; see start.h.
 */
#include "guest/start.h"

#include "base/buf.h"
#include "guest/json.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int path_clean(const char *path, char out[START_PATH_MAX])
{
    size_t n = 0;

    if (path[0] == '/' || strlen(path) >= START_PATH_MAX)
        return -EINVAL;
    while (*path) {
        size_t len = strcspn(path, "/");

        if (len == 2 && path[0] == '.' && path[1] == '.')
            return -EINVAL;
        if (len > 0 && !(len == 1 && path[0] == '.')) {
            if (n)
                out[n++] = '/';
            memcpy(out + n, path, len);
            n += len;
        }
        path += len;
        path += strspn(path, "/");
    }
    out[n] = 0;
    return 0;
}

static void list_free(char **list)
{
    for (size_t i = 0; list && list[i]; i++)
        free(list[i]);
    free(list);
}

void start_deinit(struct start *s)
{
    list_free(s->argv);
    list_free(s->env);
    free(s->hostname);
    for (size_t i = 0; i < s->count_inputs; i++)
        free(s->inputs[i].path);
    free(s->inputs);
    *s = (struct start){0};
}

static void list_add(char ***list, size_t *count, char *text)
{
    *list = xreallocarray(*list, *count + 2, sizeof **list);
    (*list)[(*count)++] = text;
    (*list)[*count] = NULL;
}

static void read_argv(struct json *j, struct start *s)
{
    size_t count = 0;

    list_free(s->argv);
    s->argv = NULL;
    for (json_open(j, '['); json_more(j, ']');)
        list_add(&s->argv, &count, json_string(j));
}

static void read_env(struct json *j, struct start *s)
{
    size_t count = 0;

    list_free(s->env);
    s->env = NULL;
    for (json_open(j, '{'); json_more(j, '}');) {
        char *name = json_key(j), *value = json_string(j);

        if (!name[0] || strchr(name, '='))
            j->bad = true;
        list_add(&s->env, &count, xasprintf("%s=%s", name, value));
        free(name);
        free(value);
    }
}

static void read_input(struct json *j, struct start_input *in, struct err *e)
{
    char clean[START_PATH_MAX];

    for (json_open(j, '{'); json_more(j, '}');) {
        char *key = json_key(j);

        if (strcmp(key, "path") == 0) {
            free(in->path);
            in->path = json_string(j);
        } else if (strcmp(key, "offset") == 0) {
            in->offset = json_u64(j);
        } else if (strcmp(key, "size") == 0) {
            in->size = json_u64(j);
        } else if (strcmp(key, "mode") == 0) {
            in->mode = (uint32_t)json_u64(j) & 0777;
        } else if (strcmp(key, "tar") == 0) {
            in->tar = json_bool(j);
        } else {
            json_skip(j);
        }
        free(key);
    }
    if (j->bad)
        return;
    /* A tar may go into /in itself. */
    if (!in->path || path_clean(in->path, clean) < 0 || (!clean[0] && !in->tar)) {
        err_format(e, "START: input \"%.100s\" is not a relative path below /in",
                   in->path ? in->path : "");
        j->bad = true;
    } else if (in->offset % START_INPUT_ALIGN || in->offset + in->size < in->offset) {
        err_format(e, "START: input \"%.100s\" lies at an impossible place", in->path);
        j->bad = true;
    } else {
        free(in->path);
        in->path = xstrdup(clean);
    }
}

static void read_inputs(struct json *j, struct start *s, struct err *e)
{
    for (json_open(j, '['); json_more(j, ']');) {
        s->inputs = xreallocarray(s->inputs, s->count_inputs + 1, sizeof *s->inputs);
        s->inputs[s->count_inputs] = (struct start_input){.mode = 0644};
        read_input(j, &s->inputs[s->count_inputs++], e);
    }
}

static uint32_t read_rank(struct json *j)
{
    uint64_t n = json_u64(j);

    j->bad |= n > START_PARTS_MAX;
    return (uint32_t)n;
}

int start_parse(const char *json, size_t len, struct start *ret, struct err *ret_err)
{
    struct json j = json_of(json, len);
    struct start *s = ret;

    *s = (struct start){0};
    err_format(ret_err, "START: not the JSON object that it must be");
    for (json_open(&j, '{'); json_more(&j, '}');) {
        char *key = json_key(&j);

        if (strcmp(key, "argv") == 0) {
            read_argv(&j, s);
        } else if (strcmp(key, "env") == 0) {
            read_env(&j, s);
        } else if (strcmp(key, "hostname") == 0) {
            free(s->hostname);
            s->hostname = json_string(&j);
        } else if (strcmp(key, "time_limit_ms") == 0) {
            s->time_limit_ms = json_u64(&j);
        } else if (strcmp(key, "out_limit_bytes") == 0) {
            s->out_limit_bytes = json_u64(&j);
        } else if (strcmp(key, "network") == 0) {
            char *word = json_string(&j);

            s->network_nat = strcmp(word, "nat") == 0;
            free(word);
        } else if (strcmp(key, "disk") == 0) {
            s->disk = json_bool(&j);
        } else if (strcmp(key, "mail") == 0) {
            free(json_string(&j)); /* which kind is the master's affair */
            s->mail = true;
        } else if (strcmp(key, "group") == 0) {
            s->group = json_u64(&j);
        } else if (strcmp(key, "part") == 0) {
            s->part = read_rank(&j);
        } else if (strcmp(key, "parts") == 0) {
            s->parts = read_rank(&j);
        } else if (strcmp(key, "inputs") == 0) {
            read_inputs(&j, s, ret_err);
        } else {
            json_skip(&j);
        }
        free(key);
    }
    if (!json_end(&j))
        return -EINVAL;
    if (s->mail && s->part >= s->parts)
        return err_set(ret_err, -EINVAL, "START: part %u of %u", s->part, s->parts);
    if (!s->argv || !s->argv[0] || !s->argv[0][0])
        return err_set(ret_err, -EINVAL, "START: no program to run");
    return 0;
}
