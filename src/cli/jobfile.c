/* SPDX-License-Identifier: Apache-2.0
 *
 * Job files; see jobfile.h. One table names the keys and what each may hold; every complaint
 * bears the line of the offending node. libyaml parses; a node is converted only where the table
 * expects its kind, so aliases cannot make the result larger than the limits of the table.
 */
#include "cli/jobfile.h"
#include "cli/text.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/num.h"
#include "wire/jobspec.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

enum { FILE_BYTES_MAX = 1024 * 1024, THEN_DEPTH_MAX = 1 };

struct reader {
    const char *name;
    const char *folder;
    yaml_document_t *doc;
    int depth;     /* in `then`s */
    bool to_probe; /* memory and work of a split may be missing */
    struct err *err;
};

struct field {
    const char *key;
    int (*read)(struct reader *r, const struct field *f, const yaml_node_t *node, json_t *job);
    int64_t min, max;
    const char *want; /* for texts */
};

static int complain(struct reader *r, const yaml_node_t *node, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static int complain(struct reader *r, const yaml_node_t *node, const char *fmt, ...)
{
    AUTO_FREE char *text = NULL;
    va_list ap;

    va_start(ap, fmt);
    text = xvasprintf(fmt, ap);
    va_end(ap);
    return err_set(r->err, -EINVAL, "%s:%zu: %s%s", r->name, node->start_mark.line + 1,
                   r->depth ? "then: " : "", text);
}

static const char *kind_of(const yaml_node_t *node)
{
    return node->type == YAML_SEQUENCE_NODE  ? "a list"
           : node->type == YAML_MAPPING_NODE ? "keys with values"
                                             : "a single value";
}

/* The text of a scalar, or NULL when it is none (or holds a NUL, which no program can be given). */
static const char *scalar(const yaml_node_t *node)
{
    const char *s = (const char *)node->data.scalar.value;

    return node->type == YAML_SCALAR_NODE && strlen(s) == node->data.scalar.length ? s : NULL;
}

static int want(struct reader *r, const struct field *f, const yaml_node_t *node)
{
    if (node->type != YAML_SCALAR_NODE)
        return complain(r, node, "%s: should be %s, not %s", f->key, f->want, kind_of(node));
    return complain(r, node, "%s: should be %s, not \"%s\"", f->key, f->want,
                    (const char *)node->data.scalar.value);
}

/* ---- the kinds of values --------------------------------------------------------------------- */

static int read_text(struct reader *r, const struct field *f, const yaml_node_t *node, json_t *job)
{
    const char *s = scalar(node);

    if (!s || !*s)
        return want(r, f, node);
    json_object_set_new(job, f->key, json_string(s));
    return 0;
}

static int read_name(struct reader *r, const struct field *f, const yaml_node_t *node, json_t *job)
{
    const char *s = scalar(node);

    return s && str_is_name(s) ? read_text(r, f, node, job) : want(r, f, node);
}

static int read_number(struct reader *r, const struct field *f, const yaml_node_t *node,
                       json_t *job)
{
    const char *s = scalar(node);
    uint64_t v;
    int64_t n;

    if (!s || num_parse_u64(s[0] == '-' ? s + 1 : s, INT32_MAX, &v) < 0)
        return want(r, f, node);
    n = s[0] == '-' ? -(int64_t)v : (int64_t)v;
    if (n < f->min || n > f->max)
        return want(r, f, node);
    json_object_set_new(job, f->key, json_integer(n));
    return 0;
}

static int read_size(struct reader *r, const struct field *f, const yaml_node_t *node, json_t *job)
{
    const char *s = scalar(node);
    uint64_t v;

    if (!s || num_parse_size(s, &v) < 0 || v < JOBSPEC_MEMORY_MIN || v > JOBSPEC_MEMORY_MAX)
        return want(r, f, node);
    json_object_set_new(job, f->key, json_integer((json_int_t)v));
    return 0;
}

static int read_duration(struct reader *r, const struct field *f, const yaml_node_t *node,
                         json_t *job)
{
    const char *s = scalar(node);
    uint64_t v;

    if (!s || num_parse_duration(s, &v) < 0 || v == 0 || v > INT64_MAX)
        return want(r, f, node);
    json_object_set_new(job, f->key, json_integer((json_int_t)v));
    return 0;
}

static int read_checkpoint(struct reader *r, const struct field *f, const yaml_node_t *node,
                           json_t *job)
{
    const char *s = scalar(node);

    if (!s || (strcmp(s, "auto") != 0 && strcmp(s, "never") != 0))
        return read_duration(r, f, node, job);
    json_object_set_new(job, f->key, json_string(s));
    return 0;
}

/* One of the words that `want` names. */
static int read_word(struct reader *r, const struct field *f, const yaml_node_t *node, json_t *job)
{
    const char *s = scalar(node), *at = f->want;
    size_t len = s ? strlen(s) : 0;

    for (; s && *at; at += strncmp(at, " or ", 4) == 0 ? 4 : 0) {
        size_t n = strcspn(at, " ");

        if (n == len && strncmp(at, s, n) == 0) {
            json_object_set_new(job, f->key, json_string(s));
            return 0;
        }
        at += n;
    }
    return want(r, f, node);
}

static int read_command(struct reader *r, const struct field *f, const yaml_node_t *node,
                        json_t *job)
{
    const char *s = scalar(node);
    json_t *argv;

    if (s && *s) {
        json_object_set_new(job, f->key, json_pack("[s, s, s]", "sh", "-c", s));
        return 0;
    }
    if (node->type != YAML_SEQUENCE_NODE)
        return want(r, f, node);
    argv = json_array();
    for (yaml_node_item_t *i = node->data.sequence.items.start; i < node->data.sequence.items.top;
         i++) {
        const yaml_node_t *item = yaml_document_get_node(r->doc, *i);
        const char *word = scalar(item);

        if (!word || json_array_size(argv) >= JOBSPEC_ARGS_MAX) {
            json_decref(argv);
            return word ? complain(r, item, "command: more than %d words", JOBSPEC_ARGS_MAX)
                        : want(r, f, item);
        }
        json_array_append_new(argv, json_string(word));
    }
    json_object_set_new(job, f->key, argv);
    return json_array_size(argv) ? 0 : want(r, f, node);
}

static int read_env(struct reader *r, const struct field *f, const yaml_node_t *node, json_t *job)
{
    json_t *env;

    if (node->type != YAML_MAPPING_NODE)
        return want(r, f, node);
    env = json_object();
    json_object_set_new(job, f->key, env);
    for (yaml_node_pair_t *p = node->data.mapping.pairs.start; p < node->data.mapping.pairs.top;
         p++) {
        const yaml_node_t *value = yaml_document_get_node(r->doc, p->value);
        const char *k = scalar(yaml_document_get_node(r->doc, p->key)), *v = scalar(value);

        if (!k || !v)
            return complain(r, value, "env: %s should be a single value", k ? k : "a name");
        if (json_object_get(env, k))
            return complain(r, value, "env: %s is given twice", k);
        json_object_set_new(env, k, json_string(v));
    }
    return 0;
}

/* Adds {"path", "name"} with the path seen from the file's folder. */
static void add_input(struct reader *r, json_t *inputs, const char *path, const char *name)
{
    AUTO_FREE char *full =
        path[0] == '/' || !r->folder ? xstrdup(path) : xasprintf("%s/%s", r->folder, path);
    json_t *input = json_pack("{s:s}", "path", full);

    if (name)
        json_object_set_new(input, "name", json_string(name));
    json_array_append_new(inputs, input);
}

static const char *input_key_at(const void *arg, size_t i)
{
    static const char *const keys[] = {"path", "name", NULL};

    return keys[i];
}

static int read_input(struct reader *r, const struct field *f, const yaml_node_t *node,
                      json_t *inputs)
{
    const char *path = scalar(node), *name = NULL;

    if (node->type == YAML_MAPPING_NODE) {
        for (yaml_node_pair_t *p = node->data.mapping.pairs.start; p < node->data.mapping.pairs.top;
             p++) {
            const yaml_node_t *key = yaml_document_get_node(r->doc, p->key);
            const char *k = scalar(key), *near = NULL;
            const char **to = k && strcmp(k, "path") == 0   ? &path
                              : k && strcmp(k, "name") == 0 ? &name
                                                            : NULL;

            if (!to) {
                near = k ? text_nearest(k, input_key_at, NULL) : NULL;
                return complain(r, key, "inputs: unknown key \"%s\"%s%s%s", k ? k : "?",
                                near ? " (did you mean \"" : " (there are path and name",
                                near ? near : "", near ? "\"?)" : ")");
            }
            if (*to)
                return complain(r, key, "inputs: %s is given twice", k);
            *to = scalar(yaml_document_get_node(r->doc, p->value));
            if (!*to || !**to)
                return complain(r, key, "inputs: %s should be a single value", k);
        }
    }
    if (!path || !*path)
        return want(r, f, node);
    if (json_array_size(inputs) >= JOBSPEC_INPUTS_MAX)
        return complain(r, node, "inputs: more than %d; put them into one folder",
                        JOBSPEC_INPUTS_MAX);
    add_input(r, inputs, path, name);
    return 0;
}

static int read_inputs(struct reader *r, const struct field *f, const yaml_node_t *node,
                       json_t *job)
{
    json_t *inputs;

    if (node->type != YAML_SEQUENCE_NODE)
        return want(r, f, node);
    inputs = json_array();
    json_object_set_new(job, f->key, inputs);
    for (yaml_node_item_t *i = node->data.sequence.items.start; i < node->data.sequence.items.top;
         i++) {
        int e = read_input(r, f, yaml_document_get_node(r->doc, *i), inputs);

        if (e < 0)
            return e;
    }
    return 0;
}

static int read_job(struct reader *r, const yaml_node_t *node, json_t **ret_job);

static int read_then(struct reader *r, const struct field *f, const yaml_node_t *node, json_t *job)
{
    json_t *then = NULL;
    int e;

    if (r->depth >= THEN_DEPTH_MAX)
        return complain(r, node, "a combining job has no \"then\" of its own");
    if (node->type != YAML_MAPPING_NODE)
        return want(r, f, node);
    r->depth++;
    e = read_job(r, node, &then);
    r->depth--;
    if (e == 0)
        json_object_set_new(job, f->key, then);
    return e;
}

/* ---- split: ---------------------------------------------------------------------------------- */

/* "2..8" as numbers. */
static bool read_range(const char *s, json_t *values)
{
    AUTO_FREE char *low = xstrdup(s);
    char *dots = strstr(low, "..");
    uint64_t from, to;

    if (!dots)
        return false;
    *dots = '\0';
    if (num_parse_u64(low, INT32_MAX, &from) < 0 || num_parse_u64(dots + 2, INT32_MAX, &to) < 0 ||
        to < from || to - from >= SPLIT_VALUES_MAX)
        return false;
    for (; from <= to; from++)
        json_array_append_new(values, json_integer((json_int_t)from));
    return true;
}

static int read_values(struct reader *r, const yaml_node_t *node, json_t *shape)
{
    static const struct field f = {.key = "split: x",
                                   .want = "a range such as 2..8, or a list of numbers"};
    json_t *values = json_array();

    json_object_set_new(shape, "x", values);
    if (scalar(node))
        return read_range(scalar(node), values) ? 0 : want(r, &f, node);
    if (node->type != YAML_SEQUENCE_NODE)
        return want(r, &f, node);
    for (yaml_node_item_t *i = node->data.sequence.items.start; i < node->data.sequence.items.top;
         i++) {
        const yaml_node_t *item = yaml_document_get_node(r->doc, *i);
        char *end = NULL;
        double v = scalar(item) ? strtod(scalar(item), &end) : 0;

        if (!end || *end || end == scalar(item) || json_array_append_new(values, json_real(v)) < 0)
            return want(r, &f, item);
    }
    return 0;
}

static int read_shape(struct reader *r, const yaml_node_t *node, json_t *shapes)
{
    static const struct field let = {.key = "let", .want = "names with expressions"};
    json_t *shape = json_object();

    json_array_append_new(shapes, shape);
    if (node->type != YAML_MAPPING_NODE)
        return complain(r, node, "split: a way to split has keys such as \"parts:\", not %s",
                        kind_of(node));
    for (yaml_node_pair_t *p = node->data.mapping.pairs.start; p < node->data.mapping.pairs.top;
         p++) {
        const yaml_node_t *key = yaml_document_get_node(r->doc, p->key);
        const yaml_node_t *value = yaml_document_get_node(r->doc, p->value);
        const char *k = scalar(key);
        int e = 0;

        if (!k || json_object_get(shape, k))
            return complain(r, key, "split: %s is given twice", k ? k : "a key");
        if (strcmp(k, "x") == 0)
            e = read_values(r, value, shape);
        else if (strcmp(k, "let") == 0)
            e = read_env(r, &let, value, shape);
        else if (scalar(value))
            json_object_set_new(shape, k, json_string(scalar(value)));
        else
            e = complain(r, value, "split: %s should be an expression, not %s", k, kind_of(value));
        if (e)
            return e;
    }
    return 0;
}

/* The value of that key, or the node itself. */
static const yaml_node_t *value_of(struct reader *r, const yaml_node_t *node, const char *key)
{
    for (yaml_node_pair_t *p = node->data.mapping.pairs.start; p < node->data.mapping.pairs.top;
         p++) {
        const char *k = scalar(yaml_document_get_node(r->doc, p->key));

        if (k && strcmp(k, key) == 0)
            return yaml_document_get_node(r->doc, p->value);
    }
    return node;
}

/* An expression's mistake, with its line and column. */
static int complain_of_split(struct reader *r, const yaml_node_t *node, bool one,
                             const struct split_where *where, const char *text)
{
    const yaml_node_item_t *items = one ? NULL : node->data.sequence.items.start;
    const yaml_node_t *shape = items ? yaml_document_get_node(r->doc, items[where->shape]) : node;
    const yaml_node_t *value;
    size_t column;

    if (where->key == SPLIT_KEYS)
        return complain(r, shape, "split: %s", text);
    value = value_of(r, shape, *where->name ? "let" : split_key_name(where->key));
    if (*where->name)
        value = value_of(r, value, where->name);
    column = value->start_mark.column + 1;
    if (value != shape) /* in the text, behind its quote if it has one */
        column += where->column + (value->data.scalar.style != YAML_PLAIN_SCALAR_STYLE);
    return err_set(r->err, -EINVAL, "%s:%zu:%zu: split: %s", r->name, value->start_mark.line + 1,
                   column, text);
}

/* Guesses, for what is to be measured. */
static void fill_in(json_t *shapes)
{
    json_t *shape;
    size_t i;

    json_array_foreach(shapes, i, shape)
    {
        if (!json_object_get(shape, "memory"))
            json_object_set_new(shape, "memory", json_string("256M"));
        if (!json_object_get(shape, "work"))
            json_object_set_new(shape, "work", json_string("1"));
    }
}

static int read_split(struct reader *r, const struct field *f, const yaml_node_t *node, json_t *job)
{
    bool one = node->type == YAML_MAPPING_NODE;
    struct jobsplit *split = NULL;
    json_t *shapes = json_array();
    struct split_where where;
    struct err why;
    int e = 0;

    json_object_set_new(job, f->key, shapes);
    if (r->depth)
        return complain(r, node, "a combining job is not split");
    if (one)
        e = read_shape(r, node, shapes);
    else if (node->type != YAML_SEQUENCE_NODE)
        return want(r, f, node);
    for (yaml_node_item_t *i = one ? NULL : node->data.sequence.items.start;
         i && e == 0 && i < node->data.sequence.items.top; i++)
        e = read_shape(r, yaml_document_get_node(r->doc, *i), shapes);
    if (e)
        return e;
    if (r->to_probe)
        fill_in(shapes);
    if (jobsplit_new(shapes, &split, &where, &why) != 0)
        return json_array_size(shapes) ? complain_of_split(r, node, one, &where, why.text)
                                       : want(r, f, node);
    jobsplit_free(split);
    return 0;
}

static const struct field fields[] = {
    {"name", read_name, .want = "1 to 63 of a-z 0-9 . _ -"},
    {"command", read_command, .want = "a list of words, or one text for sh -c"},
    {"image", read_name, .want = "the name of an image (yado image list)"},
    {"parts", read_number, 1, JOBSPEC_PARTS_MAX, "a number from 1 to 100000"},
    {"memory", read_size, .want = "a size from 96M to 1T such as \"512M\""},
    {"disk", read_size, .want = "a size from 16M to 1T such as \"4G\""},
    {"cpus", read_number, 1, JOBSPEC_CPUS_MAX, "a number from 1 to 64"},
    {"env", read_env, .want = "names with values"},
    {"inputs", read_inputs, .want = "a list of paths, or of {path, name}"},
    {"network", read_word, .want = "none or nat"},
    {"mail", read_word, .want = "immediate or committed"},
    {"on_part_failure", read_word, .want = "continue or fail"},
    {"retries", read_number, 0, 1000, "a number from 0 to 1000"},
    {"time_limit", read_duration, .want = "a duration such as \"2h\""},
    {"checkpoint", read_checkpoint, .want = "auto, never, or a duration such as \"10m\""},
    {"priority", read_number, -1000, 1000, "a number from -1000 to 1000"},
    {"split", read_split, .want = "x, parts, memory, work, ... or a list of such"},
    {"then", read_then, .want = "the keys of a combining job"},
    {NULL, NULL, 0, 0, NULL},
};

static const char *field_at(const void *arg, size_t i)
{
    return fields[i].key;
}

static int read_pair(struct reader *r, const yaml_node_pair_t *p, json_t *job)
{
    const yaml_node_t *key = yaml_document_get_node(r->doc, p->key);
    const char *k = scalar(key), *near;

    if (!k)
        return complain(r, key, "a key should be a single word");
    for (const struct field *f = fields; f->key; f++) {
        if (strcmp(f->key, k) != 0)
            continue;
        if (json_object_get(job, k))
            return complain(r, key, "%s is given twice", k);
        return f->read(r, f, yaml_document_get_node(r->doc, p->value), job);
    }
    near = text_nearest(k, field_at, NULL);
    if (near)
        return complain(r, key, "unknown key \"%s\" (did you mean \"%s\"?)", k, near);
    return complain(r, key, "unknown key \"%s\"; yado-job(5) lists them", k);
}

static int read_job(struct reader *r, const yaml_node_t *node, json_t **ret_job)
{
    json_t *job = json_object();
    int e = 0;

    if (node->type != YAML_MAPPING_NODE)
        e = complain(r, node, "a job file holds keys such as \"command:\", not %s", kind_of(node));
    for (yaml_node_pair_t *p = e ? NULL : node->data.mapping.pairs.start;
         e == 0 && p < node->data.mapping.pairs.top; p++)
        e = read_pair(r, p, job);
    if (e == 0 && r->depth && !json_object_get(job, "command"))
        e = complain(r, node, "a combining job needs a \"command\"");
    if (e) {
        json_decref(job);
        return e;
    }
    *ret_job = job;
    return 0;
}

/* ---- files ----------------------------------------------------------------------------------- */

static int syntax_error(const char *name, const yaml_parser_t *parser, struct err *ret_err)
{
    if (parser->error == YAML_READER_ERROR)
        return err_set(ret_err, -EINVAL, "%s: %s (byte %zu); job files are UTF-8 text", name,
                       parser->problem, parser->problem_offset);
    return err_set(ret_err, -EINVAL, "%s:%zu: %s%s%s", name, parser->problem_mark.line + 1,
                   parser->problem ? parser->problem : "no YAML", parser->context ? " " : "",
                   parser->context ? parser->context : "");
}

static int parse(struct reader r, const void *data, size_t len, json_t **ret_job)
{
    yaml_parser_t parser;
    yaml_document_t doc, second;
    struct err *ret_err = r.err;
    const char *name = r.name;
    const yaml_node_t *root;
    json_t *job = NULL;
    int e;

    r.doc = &doc;
    if (!yaml_parser_initialize(&parser))
        return err_set(ret_err, -ENOMEM, "%s: out of memory", name);
    yaml_parser_set_input_string(&parser, data, len);
    if (!yaml_parser_load(&parser, &doc)) {
        e = syntax_error(name, &parser, ret_err);
        yaml_parser_delete(&parser);
        return e;
    }
    root = yaml_document_get_root_node(&doc);
    e = root ? read_job(&r, root, &job)
             : err_set(ret_err, -EINVAL, "%s: the file is empty; it needs at least \"command:\"",
                       name);
    if (e == 0 && !yaml_parser_load(&parser, &second)) {
        e = syntax_error(name, &parser, ret_err);
    } else if (e == 0) {
        root = yaml_document_get_root_node(&second);
        if (root)
            e = complain(&r, root, "a second document; a job file holds one job");
        yaml_document_delete(&second);
    }
    yaml_document_delete(&doc);
    yaml_parser_delete(&parser);
    if (e)
        json_decref(job);
    else
        *ret_job = job;
    return e;
}

int jobfile_parse(const char *name, const char *folder, const void *data, size_t len,
                  json_t **ret_job, struct err *ret_err)
{
    return parse((struct reader){.name = name, .folder = folder, .err = ret_err}, data, len,
                 ret_job);
}

static int load(const char *path, bool to_probe, json_t **ret_job, struct err *ret_err)
{
    bool in = strcmp(path, "-") == 0;
    AUTO_CLOSE int fd = in ? dup(STDIN_FILENO) : open(path, O_RDONLY | O_CLOEXEC);
    AUTO_BUF struct buf text = {0};
    AUTO_FREE char *folder = NULL;
    const char *slash = strrchr(path, '/');
    ssize_t n;

    if (fd < 0)
        return err_set(ret_err, -errno, "%s: %s", path, strerror(errno));
    while ((n = read(fd, buf_reserve(&text, 65536), 65536)) != 0) {
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set(ret_err, -errno, "%s: %s", path, strerror(errno));
        text.len += (size_t)n;
        if (text.len > FILE_BYTES_MAX)
            return err_set(ret_err, -EFBIG, "%s: larger than 1 MiB; is it a job file?", path);
    }
    if (slash && !in)
        folder = slash == path ? xstrdup("") : xstrndup(path, (size_t)(slash - path));
    return parse((struct reader){.name = in ? "standard input" : path,
                                 .folder = folder,
                                 .to_probe = to_probe,
                                 .err = ret_err},
                 text.data ? text.data : (void *)"", text.len, ret_job);
}

int jobfile_load(const char *path, json_t **ret_job, struct err *ret_err)
{
    return load(path, false, ret_job, ret_err);
}

int jobfile_load_to_probe(const char *path, json_t **ret_job, struct err *ret_err)
{
    return load(path, true, ret_job, ret_err);
}
