/* SPDX-License-Identifier: Apache-2.0
 *
 * One guest after the other, each with the first part of a split that is finer than any that is
 * wanted: its x is larger, so it is small. Before them a guest that does nothing, whose memory and
 * time are taken off: what is left is the program's.
 *
 * The job file's own expressions are taken for right but for a factor (fit_scale()); where a power
 * of x fits clearly better, as it does when they were only a guess, that is taken (fit_power()).
 */
#include "cli/split_probe.h"

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/num.h"
#include "cli/client.h"
#include "cli/follow.h"
#include "cli/jobfile.h"
#include "cli/listing.h"
#include "cli/send.h"
#include "cli/view.h"
#include "plan/fit.h"
#include "wire/jobspec.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { XS_MAX = 8 };

/* Less cannot be told from nothing. */
#define MEMORY_LEAST 65536.0
#define WORK_LEAST_S 0.001

/* A power law must be that much better than the job file's expression. */
#define BETTER 2
#define DEVIATION_MOST 0.1

struct measured {
    double memory_bytes, work_s;
};

/* One way to split: what was asked for, what it took, and what fits. */
struct probe {
    const json_t *shape; /* of the job file */
    struct plan_candidate candidates[XS_MAX];
    struct measured runs[XS_MAX];
    size_t count;
    char *memory, *work; /* expressions */
    struct measured fitted[XS_MAX];
};

struct job_to_probe {
    struct client *c;
    const json_t *job;
    struct measured idle; /* of a guest that does nothing */
};

static int parse_xs(const char *text, double xs[XS_MAX], size_t *ret_count, struct err *err)
{
    char *end = (char *)text;

    for (*ret_count = 0; *ret_count < XS_MAX; text = end + 1) {
        double x = strtod(text, &end);

        if (end == text || !isfinite(x) || x <= 0 || (*end && *end != ','))
            break;
        xs[(*ret_count)++] = x;
        if (!*end)
            return 0;
    }
    return err_set(err, -EINVAL, "--x: up to %d numbers such as 16,24,32", XS_MAX);
}

/* Two, three and four times the finest split that the job file has. */
static size_t finer_xs(const json_t *shape, double xs[XS_MAX])
{
    double most = 0;
    const json_t *x;
    size_t i;

    json_array_foreach(json_object_get(shape, "x"), i, x)
    {
        most = fmax(most, json_number_value(x));
    }
    for (i = 0; i < 3; i++)
        xs[i] = most * (double)(i + 2);
    return 3;
}

/* The candidates of these x: the job file's expressions must have values there, too. */
static int fill_candidates(struct probe *p, const double *xs, size_t count, struct err *err)
{
    AUTO_JSON json_t *shapes = json_pack("[o]", json_deep_copy(p->shape));
    struct plan_candidate candidates[PLAN_CANDIDATES_MAX];
    json_t *values = json_array();
    struct jobsplit *split = NULL;
    struct split_where where;
    int r;

    for (size_t i = 0; i < count; i++)
        json_array_append_new(values, json_real(xs[i]));
    json_object_set_new(json_array_get(shapes, 0), "x", values);
    r = jobsplit_new(shapes, &split, &where, err);
    if (r)
        return r;
    r = split_candidates(split->shapes, split->count, 0, candidates, &p->count, &where, err);
    for (size_t i = 0; r == 0 && i < p->count; i++) {
        p->candidates[i] = candidates[i];
        p->candidates[i].shape = cli_text(p->shape, "name"); /* the copy's goes */
    }
    jobsplit_free(split);
    return r;
}

/* ---- running --------------------------------------------------------------------------------- */

static void set_env(json_t *job, const char *name, const char *value)
{
    json_t *env = json_object_get(job, "env");

    if (!env)
        json_object_set_new(job, "env", env = json_object());
    json_object_set_new(env, name, json_string(value));
}

/* The job with one part, which takes itself for the first of all. */
static json_t *job_of(const json_t *job, const struct plan_candidate *c)
{
    json_t *one = json_deep_copy(job);
    const char *name = cli_text(job, "name");
    AUTO_FREE char *probe = xasprintf("%.50s%sprobe", name, *name ? "-" : "");
    char number[32];

    json_object_del(one, "split");
    json_object_del(one, "then");
    json_object_set_new(one, "name", json_string(probe));
    json_object_set_new(one, "memory", json_integer((json_int_t)jobspec_split_memory(c)));
    json_object_set_new(one, "checkpoint", json_string("never"));
    snprintf(number, sizeof number, "%.15g", c->x);
    set_env(one, "YADO_SPLIT", number);
    set_env(one, "YADO_SPLIT_NAME", c->shape);
    snprintf(number, sizeof number, "%" PRIu64, c->parts);
    set_env(one, "YADO_PARTS", number);
    return one;
}

static int run(struct client *c, json_t *job, struct measured *ret, struct err *err)
{
    AUTO_JSON json_t *submitted = NULL;
    AUTO_JSON json_t *shown = NULL;
    const json_t *part;
    int status, r = send_job(c, job, &submitted, err);
    uint64_t id = (uint64_t)cli_int(submitted, "id");

    if (r == 0)
        r = follow_job(c, id, &status, err);
    if (r == 0)
        r = client_get(c, &shown, err, "/v1/jobs/%" PRIu64, id);
    if (r)
        return r;
    part = json_array_get(json_object_get(shown, "parts_list"), 0);
    if (status)
        return err_set(err, -ECANCELED, "job %" PRIu64 ", a part to be measured, is %s: %s", id,
                       cli_text(shown, "state"), cli_text(part, "reason"));
    *ret = (struct measured){(double)cli_int(part, "peak_bytes"),
                             (double)cli_int(part, "run_ms") / 1000};
    return 0;
}

static int run_idle(struct job_to_probe *j, const struct plan_candidate *c, struct err *err)
{
    AUTO_JSON json_t *job = job_of(j->job, c);

    json_object_del(job, "inputs");
    json_object_set_new(job, "command", json_pack("[s]", "true"));
    return run(j->c, job, &j->idle, err);
}

static int run_parts(struct job_to_probe *j, struct probe *p, struct err *err)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < p->count; i++) {
        AUTO_JSON json_t *job = job_of(j->job, &p->candidates[i]);
        struct measured *m = &p->runs[i];

        fprintf(stderr, "yado: split: %s%sx = %g\n", p->candidates[i].shape,
                *p->candidates[i].shape ? ": " : "", p->candidates[i].x);
        r = run(j->c, job, m, err);
        m->memory_bytes = fmax(m->memory_bytes - j->idle.memory_bytes, MEMORY_LEAST);
        m->work_s = fmax(m->work_s - j->idle.work_s, WORK_LEAST_S);
    }
    return r;
}

/* ---- fitting --------------------------------------------------------------------------------- */

/* An expression that comes near to all y; `margin`: rather more than one of them. */
static char *fit(const struct probe *p, const char *text, const double *f, const double *y,
                 bool margin, double *ret_fitted)
{
    double x[XS_MAX];
    struct fit scale = fit_scale(f, y, p->count), power;
    bool is_power;

    for (size_t i = 0; i < p->count; i++)
        x[i] = p->candidates[i].x;
    power = fit_power(x, y, p->count);
    is_power = scale.deviation > DEVIATION_MOST && power.deviation * BETTER < scale.deviation;
    if (is_power)
        scale = power;
    if (margin)
        scale.scale *= 1 + scale.deviation;
    for (size_t i = 0; i < p->count; i++)
        ret_fitted[i] = scale.scale * (is_power ? pow(x[i], power.power) : f[i]);
    if (!is_power)
        return xasprintf("%.4g * (%s)", scale.scale, text);
    return xasprintf("%.6g %s x^%.3g", scale.scale, power.power < 0 ? "/" : "*", fabs(power.power));
}

static void fit_all(struct probe *p)
{
    double f[XS_MAX], y[XS_MAX], fitted[XS_MAX];

    for (size_t i = 0; i < p->count; i++) {
        f[i] = (double)p->candidates[i].memory_bytes;
        y[i] = p->runs[i].memory_bytes;
    }
    p->memory = fit(p, cli_text(p->shape, "memory"), f, y, true, fitted);
    for (size_t i = 0; i < p->count; i++) {
        p->fitted[i].memory_bytes = fitted[i];
        f[i] = fmax(p->candidates[i].work_s, WORK_LEAST_S);
        y[i] = p->runs[i].work_s;
    }
    p->work = fit(p, cli_text(p->shape, "work"), f, y, false, fitted);
    for (size_t i = 0; i < p->count; i++)
        p->fitted[i].work_s = fitted[i];
}

/* ---- showing --------------------------------------------------------------------------------- */

static void show_table(const struct probe *p, struct listing *l)
{
    char size[NUM_TEXT_MAX], time[NUM_TEXT_MAX];

    for (size_t i = 0; i < p->count; i++) {
        const struct measured *each[] = {&p->runs[i], &p->fitted[i]};

        listing_add(l, "%s", view_or_dash(p->candidates[i].shape));
        listing_add(l, "%g", p->candidates[i].x);
        for (size_t k = 0; k < 2; k++)
            listing_add(l, "%s", num_format_size((uint64_t)each[k]->memory_bytes, size));
        for (size_t k = 0; k < 2; k++)
            listing_add(l, "%s", num_format_duration((uint64_t)(each[k]->work_s * 1000), time));
    }
}

/* Quoted where YAML would take it for something else; no expression has quotes of its own. */
static void show_text(int indent, const char *key, const char *text)
{
    bool plain = *text && !strchr("*&!|>%@`-?[{", *text) && !strpbrk(text, ":#,{}[]\"\n");

    printf("%*s%s: %s%s%s\n", indent, "", key, plain ? "" : "\"", text, plain ? "" : "\"");
}

static void show_split(const struct probe *p)
{
    const json_t *x, *names = json_object_get(p->shape, "let"), *text;
    const char *name;
    size_t i;

    printf("- x: [");
    json_array_foreach(json_object_get(p->shape, "x"), i, x)
    {
        printf("%s%g", i ? ", " : "", json_number_value(x));
    }
    printf("]\n");
    if (*cli_text(p->shape, "name"))
        show_text(2, "name", cli_text(p->shape, "name"));
    if (names)
        printf("  let:\n");
    json_object_foreach((json_t *)names, name, text)
    {
        show_text(4, name, json_string_value(text));
    }
    for (int k = 0; k < SPLIT_KEYS; k++) {
        const char *key = split_key_name((enum split_key)k), *own = cli_text(p->shape, key);

        if (*own)
            show_text(2, key, k == SPLIT_MEMORY ? p->memory : k == SPLIT_WORK ? p->work : own);
    }
}

static void show(const struct probe *probes, size_t count)
{
    static const struct listing_column columns[] = {{"SPLIT", 0},
                                                    {"X", LISTING_RIGHT},
                                                    {"MEMORY", LISTING_RIGHT},
                                                    {"FITTED", LISTING_RIGHT},
                                                    {"WORK", LISTING_RIGHT},
                                                    {"FITTED", LISTING_RIGHT}};
    struct listing l = {.columns = columns, .count_columns = sizeof columns / sizeof *columns};

    for (size_t i = 0; i < count; i++)
        show_table(&probes[i], &l);
    listing_show(&l);
    listing_deinit(&l);
    printf("split:\n");
    for (size_t i = 0; i < count; i++)
        show_split(&probes[i]);
}

static json_t *fitted_shape(const struct probe *p)
{
    json_t *shape = json_deep_copy(p->shape);

    json_object_set_new(shape, "memory", json_string(p->memory));
    json_object_set_new(shape, "work", json_string(p->work));
    return shape;
}

static int show_json(const struct probe *probes, size_t count, const struct measured *idle)
{
    AUTO_JSON json_t *all = NULL;
    json_t *runs = json_array(), *split = json_array();

    for (size_t i = 0; i < count; i++) {
        const struct probe *p = &probes[i];

        json_array_append_new(split, fitted_shape(p));
        for (size_t k = 0; k < p->count; k++)
            json_array_append_new(
                runs, json_pack("{s:s, s:f, s:f, s:f, s:f, s:f}", "shape", p->candidates[k].shape,
                                "x", p->candidates[k].x, "memory_bytes", p->runs[k].memory_bytes,
                                "fitted_memory_bytes", p->fitted[k].memory_bytes, "work_s",
                                p->runs[k].work_s, "fitted_work_s", p->fitted[k].work_s));
    }
    all = json_pack("{s:{s:f, s:f}, s:o, s:o}", "idle", "memory_bytes", idle->memory_bytes,
                    "work_s", idle->work_s, "runs", runs, "split", split);
    return cli_print_json(all);
}

/* ---- the command ----------------------------------------------------------------------------- */

static int probe_all(struct job_to_probe *j, struct probe *probes, size_t count, const char *xs,
                     struct err *err)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < count; i++) {
        double values[XS_MAX];
        size_t count_values = 0;

        probes[i].shape = json_array_get(json_object_get(j->job, "split"), i);
        if (xs)
            r = parse_xs(xs, values, &count_values, err);
        else
            count_values = finer_xs(probes[i].shape, values);
        if (r == 0)
            r = fill_candidates(&probes[i], values, count_values, err);
    }
    if (r == 0)
        r = client_open(&j->c, err);
    if (r == 0)
        r = run_idle(j, &probes[0].candidates[0], err);
    for (size_t i = 0; r == 0 && i < count; i++)
        r = run_parts(j, &probes[i], err);
    for (size_t i = 0; r == 0 && i < count; i++)
        fit_all(&probes[i]);
    return r;
}

int split_probe(const struct command *cmd, const char *path, const char *xs, bool json)
{
    struct probe probes[SPLIT_SHAPES_MAX] = {0};
    struct job_to_probe j = {0};
    json_t *job = NULL;
    struct err e;
    int r = jobfile_load_to_probe(path, &job, &e), status = CLI_OK;
    size_t count = json_array_size(json_object_get(job, "split"));

    j.job = job;
    if (r == 0 && !count)
        r = err_set(&e, -EINVAL, "%s has no split: to measure", path);
    if (r == 0)
        r = probe_all(&j, probes, count, xs, &e);
    if (r)
        status = cli_fail(cmd, &e);
    else if (json)
        status = show_json(probes, count, &j.idle);
    else
        show(probes, count);
    for (size_t i = 0; i < count; i++) {
        free(probes[i].memory);
        free(probes[i].work);
    }
    client_free(j.c);
    json_decref(job);
    return status;
}
