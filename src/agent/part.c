/* SPDX-License-Identifier: Apache-2.0
 *
 * What a part's guest is told and shown; see part.h.
 */
#include "agent/part.h"
#include "base/buf.h"
#include "base/must.h"

#include <stdio.h>
#include <stdlib.h>

enum { INPUT_ALIGN = 4096 };

uint64_t part_input_offset(const struct jobspec *spec, size_t i)
{
    uint64_t offset = 0;

    for (size_t k = 0; spec && k < i; k++)
        offset += (spec->inputs[k].size + INPUT_ALIGN - 1) / INPUT_ALIGN * INPUT_ALIGN;
    return offset;
}

static json_t *inputs_json(const struct jobspec *spec)
{
    json_t *list = json_array();
    uint64_t offset = 0;

    for (size_t i = 0; i < spec->count_inputs; i++) {
        const struct jobspec_input *in = &spec->inputs[i];

        json_array_append_new(list,
                              json_pack("{s:s, s:I, s:I, s:i, s:b}", "path", in->path, "offset",
                                        (json_int_t)offset, "size", (json_int_t)in->size, "mode",
                                        (int)in->mode, "tar", (int)in->tar));
        offset += (in->size + INPUT_ALIGN - 1) / INPUT_ALIGN * INPUT_ALIGN;
    }
    return list;
}

static json_t *env_json(const struct sync_desired *d)
{
    json_t *env = json_object();
    char number[24];

    snprintf(number, sizeof number, "%llu", (unsigned long long)d->job);
    json_object_set_new(env, "YADO_JOB", json_string(number));
    snprintf(number, sizeof number, "%llu", (unsigned long long)d->part);
    json_object_set_new(env, "YADO_PART", json_string(number));
    snprintf(number, sizeof number, "%u", d->spec->parts);
    json_object_set_new(env, "YADO_PARTS", json_string(number));
    for (size_t i = 0; i < d->spec->count_env; i++)
        json_object_set_new(env, d->spec->env[i].name, json_string(d->spec->env[i].value));
    return env;
}

char *part_start_json(const struct sync_desired *d)
{
    const struct jobspec *spec = d->spec;
    json_t *argv, *root;
    char hostname[64], *text;

    if (!spec)
        return NULL;
    snprintf(hostname, sizeof hostname, "job-%llu-%llu", (unsigned long long)d->job,
             (unsigned long long)d->part);
    argv = json_array();
    for (size_t i = 0; i < spec->count_argv; i++)
        json_array_append_new(argv, json_string(spec->argv[i]));
    root = json_pack("{s:o, s:o, s:s, s:I, s:I, s:s, s:b, s:I, s:I, s:I, s:s, s:o}", "argv", argv,
                     "env", env_json(d), "hostname", hostname, "memory_bytes",
                     (json_int_t)d->memory_bytes, "time_limit_ms", (json_int_t)spec->time_limit_ms,
                     "network", spec->network_nat ? "nat" : "none", "disk", spec->disk_bytes != 0,
                     "group", (json_int_t)d->job, "part", (json_int_t)d->part, "parts",
                     (json_int_t)spec->parts, "mail",
                     spec->mail_committed ? "committed" : "immediate", "inputs", inputs_json(spec));
    MUST(root);
    text = json_dumps(root, JSON_COMPACT);
    json_decref(root);
    return text;
}

static json_t *extent(uint64_t offset, const char *digest, uint64_t length)
{
    return json_pack("{s:I, s:s, s:I}", "offset", (json_int_t)offset, "blob", digest, "length",
                     (json_int_t)length);
}

static json_t *file(const char *name, uint64_t size, json_t *extents)
{
    return json_pack("{s:s, s:I, s:o}", "name", name, "size", (json_int_t)size, "extents", extents);
}

/* The memory of the guest: golden and the layers above it. */
static json_t *memory(const struct sync_desired *d)
{
    json_t *chain = json_array();

    for (size_t i = 0; i <= d->count_chain; i++) {
        const struct sync_layer *l = i ? &d->chain[i - 1] : &d->golden;
        json_t *layer = json_pack("{s:s, s:I}", "digest", l->digest, "size", (json_int_t)l->size);

        if (l->stands_for[0])
            json_object_set_new(layer, "stands_for", json_string(l->stands_for));
        json_array_append_new(chain, layer);
    }
    return json_pack("{s:s, s:I, s:o}", "name", "memory", "size", (json_int_t)d->memory_bytes,
                     "chain", chain);
}

json_t *part_pager_files(const struct sync_desired *d, uint64_t input_bytes)
{
    json_t *files = json_array(), *extents = json_array();
    uint64_t offset = 0;

    for (size_t i = 0; d->spec && i < d->spec->count_inputs; i++) {
        const struct jobspec_input *in = &d->spec->inputs[i];

        json_array_append_new(extents, extent(offset, in->digest, in->size));
        offset += (in->size + INPUT_ALIGN - 1) / INPUT_ALIGN * INPUT_ALIGN;
    }
    json_array_append_new(files, file("input", input_bytes, extents));
    if (d->image.root.digest[0]) {
        extents = json_array();
        json_array_append_new(extents, extent(0, d->image.root.digest, d->image.root.size));
        json_array_append_new(files, file("root", d->image.root.size, extents));
    }
    if (d->golden.digest[0])
        json_array_append_new(files, memory(d));
    return files;
}
