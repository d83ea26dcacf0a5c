/* SPDX-License-Identifier: Apache-2.0
 *
 * Sending a job; see send.h.
 */
#include "cli/send.h"

#include "base/must.h"
#include "cli/cli.h"
#include "cli/inputs.h"
#include "wire/jobspec.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

/* For a master that is started again. */
enum { RETRY_MS = 500, RETRY_FOR_MS = 60000 };

int send_check(const json_t *job, struct err *ret_err)
{
    AUTO_JSON json_t *copy = json_deep_copy(job);
    struct jobspec *spec = NULL;
    int r;

    json_object_del(copy, "inputs");
    json_object_del(json_object_get(copy, "then"), "inputs");
    r = jobspec_from_json(copy, &spec, ret_err);
    jobspec_free(spec);
    return r;
}

/* An unknown image is refused by the master anyway; asking first saves sending inputs in vain. */
static int check_image(struct client *c, const struct jobspec *spec, struct err *ret_err)
{
    AUTO_JSON json_t *reply = NULL;
    const json_t *image;
    size_t i;
    int r = client_get(c, &reply, ret_err, "/v1/images");

    if (r)
        return r;
    for (; spec; spec = spec->then) {
        bool found = false;

        json_array_foreach(json_object_get(reply, "images"), i, image)
        {
            found |= strcmp(cli_text(image, "name"), spec->image) == 0;
        }
        if (!found)
            return err_set(ret_err, -ENOENT,
                           "there is no image \"%s\"; yado image list shows those there are, yado "
                           "image build makes one",
                           spec->image);
    }
    return 0;
}

/* The answer may be lost on its way here while the job was taken: asked again under the same key,
 * the master says which one it is. */
static int post_job(struct client *c, const json_t *body, json_t **ret_reply, struct err *ret_err)
{
    uint64_t until_ms = 0;
    uint8_t random[16];
    char key[2 * sizeof random + 1];
    struct err why = {""};
    int r;

    MUST(getrandom(random, sizeof random, 0) == (ssize_t)sizeof random);
    str_hex(random, sizeof random, key);
    for (;;) {
        r = client_post_once(c, "/v1/jobs", key, body, ret_reply, &why);
        if (!until_ms && (r == -ETIMEDOUT || r == -ECONNRESET)) {
            until_ms = cli_now_ms() + RETRY_FOR_MS;
            fprintf(stderr, "yado: submit: the master's answer was lost; asking again\n");
        }
        if (r == 0 || !until_ms || !client_may_retry(c) || cli_now_ms() > until_ms)
            break;
        cli_pause_ms(RETRY_MS);
    }
    if (r && until_ms && client_may_retry(c))
        return err_set(ret_err, r,
                       "%.300s; whether it took the job is not known: look at yado jobs before "
                       "you submit it again",
                       why.text);
    *ret_err = why;
    return r;
}

int send_job(struct client *c, json_t *job, json_t **ret_reply, struct err *ret_err)
{
    struct inputs in = {0};
    struct jobspec *spec = NULL;
    json_t *body = NULL;
    int r = inputs_prepare(&in, job, ret_err);

    if (r == 0)
        r = jobspec_from_json(job, &spec, ret_err);
    if (r == 0 && in.count)
        r = check_image(c, spec, ret_err);
    if (r == 0)
        r = inputs_send(&in, c, ret_err);
    if (r == 0) {
        body = jobspec_to_json(spec);
        r = post_job(c, body, ret_reply, ret_err);
    }
    json_decref(body);
    jobspec_free(spec);
    inputs_deinit(&in);
    return r;
}
