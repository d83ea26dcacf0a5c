/* SPDX-License-Identifier: Apache-2.0
 *
 * A job's description: defaults, bounds, and its JSON form (jobspec.h).
 */
#include "wire/jobspec.h"
#include "base/buf.h"
#include "base/num.h"
#include "wire/record.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct jobspec *jobspec_new(void)
{
    return xcalloc(1, sizeof(struct jobspec));
}

void jobspec_free(struct jobspec *spec)
{
    if (!spec)
        return;
    for (size_t i = 0; i < spec->count_argv; i++)
        free(spec->argv[i]);
    for (size_t i = 0; i < spec->count_env; i++) {
        free(spec->env[i].name);
        free(spec->env[i].value);
    }
    for (size_t i = 0; i < spec->count_inputs; i++)
        free(spec->inputs[i].path);
    free(spec->name);
    free(spec->image);
    free(spec->argv);
    free(spec->env);
    free(spec->inputs);
    jobsplit_free(spec->split);
    jobspec_free(spec->then);
    free(spec);
}

static void set_env(struct jobspec *spec, const char *name, const char *value)
{
    for (size_t i = 0; i < spec->count_env; i++) {
        if (strcmp(spec->env[i].name, name) != 0)
            continue;
        free(spec->env[i].value);
        spec->env[i].value = xstrdup(value);
        return;
    }
    spec->env = xreallocarray(spec->env, spec->count_env + 1, sizeof *spec->env);
    spec->env[spec->count_env++] = (struct jobspec_env){xstrdup(name), xstrdup(value)};
}

void jobspec_take_split(struct jobspec *spec, const struct plan_candidate *c)
{
    char x[32];

    snprintf(x, sizeof x, "%.15g", c->x);
    spec->parts = (uint32_t)c->parts;
    spec->memory_bytes = c->memory_bytes;
    for (struct jobspec *s = spec; s; s = s->then) {
        set_env(s, "YADO_SPLIT", x);
        set_env(s, "YADO_SPLIT_NAME", c->shape);
    }
    spec->planned = true;
}

void jobspec_drop_split(struct jobspec *spec)
{
    jobsplit_free(spec->split);
    spec->split = NULL;
    spec->planned = false;
}

/* ---- defaults and bounds -------------------------------------------------------------------- */

/* "/usr/bin/Some Tool" gives "some-tool". */
static char *name_from(const char *program)
{
    const char *slash = strrchr(program, '/');
    char *name = xstrndup(slash && slash[1] ? slash + 1 : program, 63);

    for (char *p = name; *p; p++)
        if (!isalnum((unsigned char)*p) && !strchr("._-", *p))
            *p = '-';
        else
            *p = (char)tolower((unsigned char)*p);
    if (!str_is_name(name)) {
        free(name);
        name = xstrdup("job");
    }
    return name;
}

/* What is out of range stays as it is, to be refused. */
static uint64_t round_up(uint64_t bytes, uint64_t min, uint64_t max, uint64_t step)
{
    return bytes >= min && bytes <= max ? (bytes + step - 1) / step * step : bytes;
}

void jobspec_defaults(struct jobspec *spec)
{
    if (!spec->name)
        spec->name = name_from(spec->count_argv ? spec->argv[0] : "job");
    if (!spec->image)
        spec->image = xstrdup("tiny");
    if (!spec->parts)
        spec->parts = 1;
    if (!spec->memory_bytes)
        spec->memory_bytes = JOBSPEC_MEMORY_DEFAULT;
    spec->memory_bytes =
        round_up(spec->memory_bytes, JOBSPEC_MEMORY_MIN, JOBSPEC_MEMORY_MAX, JOBSPEC_MEMORY_STEP);
    spec->disk_bytes =
        round_up(spec->disk_bytes, JOBSPEC_DISK_MIN, JOBSPEC_DISK_MAX, JOBSPEC_DISK_STEP);
    if (!spec->cpus)
        spec->cpus = 1;
    if (spec->then)
        jobspec_defaults(spec->then);
}

uint64_t jobspec_split_memory(const struct plan_candidate *c)
{
    return (c->memory_bytes + JOBSPEC_SYSTEM_BYTES + JOBSPEC_MEMORY_STEP - 1) /
           JOBSPEC_MEMORY_STEP * JOBSPEC_MEMORY_STEP;
}

static bool is_env_name(const char *s)
{
    if (!isalpha((unsigned char)*s) && *s != '_')
        return false;
    for (; *s; s++)
        if (!isalnum((unsigned char)*s) && *s != '_')
            return false;
    return true;
}

/* Relative, without empty, "." or ".." components: it cannot leave /in. */
static bool is_inner_path(const char *s)
{
    for (;;) {
        size_t n = strcspn(s, "/");

        if (n == 0 || n > 255 || (n == 1 && s[0] == '.') || (n == 2 && s[0] == '.' && s[1] == '.'))
            return false;
        if (!s[n])
            return true;
        s += n + 1;
    }
}

static int check_command(const struct jobspec *spec, struct err *e)
{
    size_t bytes = 0;

    if (!spec->count_argv || !spec->argv[0][0])
        return err_set(e, -EINVAL, "command: say what to run");
    if (spec->count_argv > JOBSPEC_ARGS_MAX)
        return err_set(e, -EINVAL, "command: at most %d words, not %zu", JOBSPEC_ARGS_MAX,
                       spec->count_argv);
    for (size_t i = 0; i < spec->count_argv; i++)
        bytes += strlen(spec->argv[i]) + 1;
    for (size_t i = 0; i < spec->count_env; i++) {
        if (!is_env_name(spec->env[i].name))
            return err_set(e, -EINVAL, "env: \"%.60s\" is not a name of letters, digits and _",
                           spec->env[i].name);
        bytes += strlen(spec->env[i].name) + strlen(spec->env[i].value) + 2;
    }
    if (bytes > JOBSPEC_ARG_BYTES_MAX)
        return err_set(e, -EINVAL,
                       "command and env: at most %d bytes together, not %zu; use an input file",
                       JOBSPEC_ARG_BYTES_MAX, bytes);
    return 0;
}

static int check_inputs(const struct jobspec *spec, struct err *e)
{
    if (spec->count_inputs > JOBSPEC_INPUTS_MAX)
        return err_set(e, -EINVAL, "inputs: at most %d, not %zu; give a folder as one input",
                       JOBSPEC_INPUTS_MAX, spec->count_inputs);
    for (size_t i = 0; i < spec->count_inputs; i++) {
        const struct jobspec_input *in = &spec->inputs[i];

        if (strlen(in->path) > 1000 || !is_inner_path(in->path))
            return err_set(e, -EINVAL,
                           "inputs[%zu].path: a path below /in without \"..\", not \"%.100s\"", i,
                           in->path);
        if (in->mode & ~0777u)
            return err_set(e, -EINVAL, "inputs[%zu].mode: permission bits only (0 to 511)", i);
        for (size_t k = 0; k < i; k++)
            if (strcmp(spec->inputs[k].path, in->path) == 0)
                return err_set(e, -EINVAL, "inputs: two are called \"%.100s\"; name one otherwise",
                               in->path);
    }
    return 0;
}

int jobspec_check(const struct jobspec *spec, struct err *ret_err)
{
    char size[NUM_TEXT_MAX];
    int r;

    if (!str_is_name(spec->name))
        return err_set(ret_err, -EINVAL, "name: 1 to 63 of a-z 0-9 . _ -, not \"%.100s\"",
                       spec->name);
    if (!str_is_name(spec->image))
        return err_set(ret_err, -EINVAL,
                       "image: the name of an image, not \"%.100s\"; see yado image list",
                       spec->image);
    r = check_command(spec, ret_err);
    if (r == 0)
        r = check_inputs(spec, ret_err);
    if (r < 0)
        return r;
    if (spec->parts < 1 || spec->parts > JOBSPEC_PARTS_MAX)
        return err_set(ret_err, -EINVAL, "parts: 1 to %d, not %" PRIu32, JOBSPEC_PARTS_MAX,
                       spec->parts);
    if (spec->memory_bytes < JOBSPEC_MEMORY_MIN || spec->memory_bytes > JOBSPEC_MEMORY_MAX)
        return err_set(ret_err, -EINVAL, "memory: 96M to 1T, such as \"512M\", not %s",
                       num_format_size(spec->memory_bytes, size));
    if (spec->disk_bytes &&
        (spec->disk_bytes < JOBSPEC_DISK_MIN || spec->disk_bytes > JOBSPEC_DISK_MAX))
        return err_set(ret_err, -EINVAL, "disk: 16M to 1T, such as \"4G\", not %s",
                       num_format_size(spec->disk_bytes, size));
    if (spec->cpus < 1 || spec->cpus > JOBSPEC_CPUS_MAX)
        return err_set(ret_err, -EINVAL, "cpus: 1 to %d, not %" PRIu32, JOBSPEC_CPUS_MAX,
                       spec->cpus);
    if (spec->retries > 1000)
        return err_set(ret_err, -EINVAL, "retries: 0 to 1000, not %" PRIu32, spec->retries);
    if (spec->then) {
        char deeper[sizeof ret_err->text] = "";

        if (spec->then->then)
            return err_set(ret_err, -EINVAL,
                           "then.then: a combining job cannot have one of its own");
        r = jobspec_check(spec->then, ret_err);
        if (r < 0 && ret_err) {
            memcpy(deeper, ret_err->text, sizeof deeper);
            return err_set(ret_err, r, "then.%s", deeper);
        }
    }
    return r;
}

/* ---- reading JSON --------------------------------------------------------------------------- */

static int wrong_kind(struct err *e, const char *key, const char *wanted, const json_t *got)
{
    return err_set(e, -EINVAL, "%s: %s, not %s", key, wanted, record_json_kind(got));
}

static int get_text(const char *key, const json_t *json, char **ret_text, struct err *e)
{
    if (!json_is_string(json))
        return wrong_kind(e, key, "a text", json);
    if (strlen(json_string_value(json)) != json_string_length(json))
        return err_set(e, -EINVAL, "%s: a text without NUL bytes", key);
    free(*ret_text);
    *ret_text = xstrdup(json_string_value(json));
    return 0;
}

static int get_number(const char *key, const json_t *json, int64_t min, int64_t max,
                      int64_t *ret_value, struct err *e)
{
    if (!json_is_integer(json))
        return wrong_kind(e, key, "a whole number", json);
    if (json_integer_value(json) < min || json_integer_value(json) > max)
        return err_set(e, -EINVAL, "%s: %" PRId64 " to %" PRId64 ", not %lld", key, min, max,
                       (long long)json_integer_value(json));
    *ret_value = json_integer_value(json);
    return 0;
}

/* A number, or a text with a unit. */
static int get_measure(const char *key, const json_t *json, const char *example,
                       int (*parse)(const char *, uint64_t *), uint64_t *ret_value, struct err *e)
{
    if (json_is_integer(json) && json_integer_value(json) >= 0) {
        *ret_value = (uint64_t)json_integer_value(json);
        return 0;
    }
    /* Past INT64_MAX no JSON and no row can hold it. */
    if (json_is_string(json) && parse(json_string_value(json), ret_value) == 0 &&
        *ret_value <= INT64_MAX)
        return 0;
    if (json_is_string(json))
        return err_set(e, -EINVAL, "%s: such as \"%s\", not \"%.60s\"", key, example,
                       json_string_value(json));
    return err_set(e, -EINVAL, "%s: such as \"%s\", not %s", key, example,
                   json_is_integer(json) ? "a negative number" : record_json_kind(json));
}

static int get_checkpoint(const json_t *json, uint64_t *ret_ms, struct err *e)
{
    const char *text = json_is_string(json) ? json_string_value(json) : "";
    int r = 0;

    if (strcmp(text, "auto") == 0)
        *ret_ms = 0;
    else if (strcmp(text, "never") == 0)
        *ret_ms = JOBSPEC_CHECKPOINT_NEVER;
    else
        r = get_measure("checkpoint", json, "10m", num_parse_duration, ret_ms, e);
    if (r < 0)
        return err_set(e, r, "checkpoint: auto, never, or a duration such as \"10m\"");
    if (*ret_ms && *ret_ms < JOBSPEC_CHECKPOINT_MIN_MS)
        return err_set(e, -EINVAL, "checkpoint: at least 1s between two of them");
    return 0;
}

static int get_command(const json_t *json, struct jobspec *spec, struct err *e)
{
    size_t count = json_array_size(json);

    if (!json_is_array(json))
        return wrong_kind(e, "command", "a list of texts", json);
    if (count > JOBSPEC_ARGS_MAX)
        return err_set(e, -EINVAL, "command: at most %d words, not %zu", JOBSPEC_ARGS_MAX, count);
    spec->argv = xcalloc(count + 1, sizeof *spec->argv);
    for (size_t i = 0; i < count; i++) {
        int r = get_text("command", json_array_get(json, i), &spec->argv[i], e);

        if (r < 0)
            return r;
        spec->count_argv = i + 1;
    }
    return 0;
}

static int get_env(const json_t *json, struct jobspec *spec, struct err *e)
{
    const char *name;
    json_t *value;

    if (!json_is_object(json))
        return wrong_kind(e, "env", "an object of names and texts", json);
    spec->env = xcalloc(json_object_size(json) + 1, sizeof *spec->env);
    json_object_foreach((json_t *)json, name, value)
    {
        struct jobspec_env *env = &spec->env[spec->count_env];
        int r = get_text("env", value, &env->value, e);

        if (r < 0)
            return r;
        env->name = xstrdup(name);
        spec->count_env++;
    }
    return 0;
}

static int get_input_key(const char *key, const json_t *json, struct jobspec_input *in,
                         struct err *e)
{
    int64_t v = 0;
    uint8_t digest[32];
    int r;

    if (strcmp(key, "path") == 0)
        return get_text("path", json, &in->path, e);
    if (strcmp(key, "digest") == 0) {
        if (!json_is_string(json) || str_unhex(json_string_value(json), digest, 32) < 0)
            return err_set(e, -EINVAL, "digest: a SHA-256 of 64 hexadecimal digits");
        str_hex(digest, 32, in->digest);
        return 0;
    }
    if (strcmp(key, "size") == 0) {
        r = get_number("size", json, 0, INT64_MAX, &v, e);
        in->size = (uint64_t)v;
        return r;
    }
    if (strcmp(key, "mode") == 0) {
        r = get_number("mode", json, 0, 0777, &v, e);
        in->mode = (uint32_t)v;
        return r;
    }
    if (strcmp(key, "tar") == 0) {
        if (!json_is_boolean(json))
            return wrong_kind(e, "tar", "true or false", json);
        in->tar = json_is_true(json);
        return 0;
    }
    return err_set(e, -EINVAL, "%.60s: unknown key; an input has path, digest, size, mode, tar",
                   key);
}

static int get_input(size_t index, const json_t *json, struct jobspec_input *in, struct err *e)
{
    struct err deeper = {.text = ""};
    const char *key;
    json_t *value;
    int r = 0;

    if (!json_is_object(json))
        r = err_set(&deeper, -EINVAL, "an object, not %s", record_json_kind(json));
    in->mode = 0644;
    json_object_foreach((json_t *)json, key, value) if (r == 0) r =
        get_input_key(key, value, in, &deeper);
    if (r == 0 && (!in->path || !in->digest[0]))
        r = err_set(&deeper, -EINVAL, "path and digest must be there");
    if (!in->path)
        in->path = xstrdup("");
    return r < 0 ? err_set(e, r, "inputs[%zu].%s", index, deeper.text) : 0;
}

static int get_inputs(const json_t *json, struct jobspec *spec, struct err *e)
{
    size_t count = json_array_size(json);

    if (!json_is_array(json))
        return wrong_kind(e, "inputs", "a list", json);
    if (count > JOBSPEC_INPUTS_MAX)
        return err_set(e, -EINVAL, "inputs: at most %d, not %zu; give a folder as one input",
                       JOBSPEC_INPUTS_MAX, count);
    spec->inputs = xcalloc(count + 1, sizeof *spec->inputs);
    for (size_t i = 0; i < count; i++) {
        int r;

        spec->count_inputs = i + 1;
        r = get_input(i, json_array_get(json, i), &spec->inputs[i], e);
        if (r < 0)
            return r;
    }
    return 0;
}

/* One of two words; true for the second. */
static int get_choice(const char *key, const json_t *json, const char *no, const char *yes,
                      bool *ret, struct err *e)
{
    const char *text = json_string_value(json);

    *ret = text && strcmp(text, yes) == 0;
    if (!*ret && (!text || strcmp(text, no) != 0))
        return err_set(e, -EINVAL, "%s: \"%s\" or \"%s\"", key, no, yes);
    return 0;
}

static int get_spec(const json_t *json, bool may_then, struct jobspec **ret_spec, struct err *e);

static int get_key(const char *key, const json_t *json, bool may_then, struct jobspec *spec,
                   struct err *e)
{
    int64_t v = 0;
    int r;

    if (strcmp(key, "name") == 0)
        return get_text(key, json, &spec->name, e);
    if (strcmp(key, "image") == 0)
        return get_text(key, json, &spec->image, e);
    if (strcmp(key, "command") == 0)
        return get_command(json, spec, e);
    if (strcmp(key, "env") == 0)
        return get_env(json, spec, e);
    if (strcmp(key, "inputs") == 0)
        return get_inputs(json, spec, e);
    if (strcmp(key, "network") == 0)
        return get_choice(key, json, "none", "nat", &spec->network_nat, e);
    if (strcmp(key, "mail") == 0)
        return get_choice(key, json, "immediate", "committed", &spec->mail_committed, e);
    if (strcmp(key, "on_part_failure") == 0)
        return get_choice(key, json, "continue", "fail", &spec->fail_together, e);
    if (strcmp(key, "memory") == 0)
        return get_measure(key, json, "512M", num_parse_size, &spec->memory_bytes, e);
    if (strcmp(key, "disk") == 0)
        return get_measure(key, json, "4G", num_parse_size, &spec->disk_bytes, e);
    if (strcmp(key, "time_limit") == 0)
        return get_measure(key, json, "2h", num_parse_duration, &spec->time_limit_ms, e);
    if (strcmp(key, "checkpoint") == 0)
        return get_checkpoint(json, &spec->checkpoint_ms, e);
    if (strcmp(key, "planned") == 0 && json_is_boolean(json)) {
        spec->planned = json_is_true(json);
        return 0;
    }
    if (strcmp(key, "parts") == 0) {
        r = get_number(key, json, 1, JOBSPEC_PARTS_MAX, &v, e);
        spec->parts = (uint32_t)v;
    } else if (strcmp(key, "cpus") == 0) {
        r = get_number(key, json, 1, JOBSPEC_CPUS_MAX, &v, e);
        spec->cpus = (uint32_t)v;
    } else if (strcmp(key, "retries") == 0) {
        r = get_number(key, json, 0, 1000, &v, e);
        spec->retries = (uint32_t)v;
    } else if (strcmp(key, "priority") == 0) {
        r = get_number(key, json, -1000, 1000, &v, e);
        spec->priority = (int32_t)v;
    } else if (strcmp(key, "planned") == 0) {
        r = wrong_kind(e, key, "true or false", json);
    } else if (strcmp(key, "split") == 0) {
        struct err deeper = {.text = ""};

        if (!may_then)
            return err_set(e, -EINVAL, "split: a combining job is not split");
        jobsplit_free(spec->split);
        spec->split = NULL;
        r = jobsplit_new(json, &spec->split, NULL, &deeper);
        return r < 0 ? err_set(e, r, "split: %s", deeper.text) : 0;
    } else if (strcmp(key, "then") == 0) {
        struct err deeper = {.text = ""};

        if (!may_then)
            return err_set(e, -EINVAL, "then: a combining job cannot have one of its own");
        r = get_spec(json, false, &spec->then, &deeper);
        return r < 0 ? err_set(e, r, "then.%s", deeper.text) : 0;
    } else {
        r = err_set(e, -EINVAL, "%.60s: unknown key", key);
    }
    return r;
}

static int get_spec(const json_t *json, bool may_then, struct jobspec **ret_spec, struct err *e)
{
    struct jobspec *spec;
    const char *key;
    json_t *value;
    int r = 0;

    if (!json_is_object(json))
        return err_set(e, -EINVAL, "a job is an object, not %s",
                       json ? record_json_kind(json) : "nothing");
    if (json_object_get(json, "split") && !json_is_true(json_object_get(json, "planned")) &&
        (json_object_get(json, "parts") || json_object_get(json, "memory")))
        return err_set(e, -EINVAL, "split: says parts and memory already; leave them out");
    spec = jobspec_new();
    json_object_foreach((json_t *)json, key, value)
    {
        r = get_key(key, value, may_then, spec, e);
        if (r < 0)
            break;
    }
    if (r < 0) {
        jobspec_free(spec);
        return r;
    }
    *ret_spec = spec;
    return 0;
}

int jobspec_from_json(const json_t *json, struct jobspec **ret_spec, struct err *ret_err)
{
    struct jobspec *spec = NULL;
    int r = get_spec(json, true, &spec, ret_err);

    if (!spec)
        return r;
    jobspec_defaults(spec);
    r = jobspec_check(spec, ret_err);
    if (r < 0) {
        jobspec_free(spec);
        return r;
    }
    *ret_spec = spec;
    return 0;
}

/* ---- writing JSON --------------------------------------------------------------------------- */

static json_t *inputs_to_json(const struct jobspec *spec)
{
    json_t *list = json_array();

    for (size_t i = 0; i < spec->count_inputs; i++) {
        const struct jobspec_input *in = &spec->inputs[i];

        json_array_append_new(list, json_pack("{s:s, s:s, s:I, s:i, s:b}", "path", in->path,
                                              "digest", in->digest, "size", (json_int_t)in->size,
                                              "mode", (int)in->mode, "tar", in->tar));
    }
    return list;
}

bool jobspec_inputs_fit(const struct jobspec *spec)
{
    return !spec->then || spec->then->count_inputs + spec->parts <= JOBSPEC_INPUTS_MAX;
}

json_t *jobspec_checkpoint_json(uint64_t checkpoint_ms)
{
    if (checkpoint_ms == 0 || checkpoint_ms == JOBSPEC_CHECKPOINT_NEVER)
        return json_string(checkpoint_ms ? "never" : "auto");
    return json_integer((json_int_t)checkpoint_ms);
}

/* How it is split is not chosen yet. */
static bool is_open(const struct jobspec *spec)
{
    return spec->split && !spec->planned;
}

json_t *jobspec_to_json(const struct jobspec *spec)
{
    json_t *out = json_object(), *command = json_array(), *env = json_object();

    for (size_t i = 0; i < spec->count_argv; i++)
        json_array_append_new(command, json_string(spec->argv[i]));
    for (size_t i = 0; i < spec->count_env; i++)
        json_object_set_new(env, spec->env[i].name, json_string(spec->env[i].value));
    if (spec->name)
        json_object_set_new(out, "name", json_string(spec->name));
    if (spec->image)
        json_object_set_new(out, "image", json_string(spec->image));
    json_object_set_new(out, "command", command);
    json_object_set_new(out, "env", env);
    json_object_set_new(out, "inputs", inputs_to_json(spec));
    /* Zero is "not given" and stays so; so is what the master is still to choose. */
    if (spec->parts && !is_open(spec))
        json_object_set_new(out, "parts", json_integer(spec->parts));
    if (spec->memory_bytes && !is_open(spec))
        json_object_set_new(out, "memory", json_integer((json_int_t)spec->memory_bytes));
    if (spec->disk_bytes)
        json_object_set_new(out, "disk", json_integer((json_int_t)spec->disk_bytes));
    if (spec->cpus)
        json_object_set_new(out, "cpus", json_integer(spec->cpus));
    json_object_set_new(out, "network", json_string(spec->network_nat ? "nat" : "none"));
    if (spec->mail_committed)
        json_object_set_new(out, "mail", json_string("committed"));
    if (spec->fail_together)
        json_object_set_new(out, "on_part_failure", json_string("fail"));
    json_object_set_new(out, "retries", json_integer(spec->retries));
    json_object_set_new(out, "time_limit", json_integer((json_int_t)spec->time_limit_ms));
    if (spec->checkpoint_ms)
        json_object_set_new(out, "checkpoint", jobspec_checkpoint_json(spec->checkpoint_ms));
    json_object_set_new(out, "priority", json_integer(spec->priority));
    if (spec->split)
        json_object_set(out, "split", spec->split->json);
    if (spec->planned)
        json_object_set_new(out, "planned", json_true());
    if (spec->then)
        json_object_set_new(out, "then", jobspec_to_json(spec->then));
    return out;
}
