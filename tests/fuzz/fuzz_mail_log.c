/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as the records of a mail log. Their checksums would stop a fuzzer at the door, so each
 * record is given a good one; what is loaded must then hold together: it is read, cleaned, told
 * things and forgotten.
 */
#include "base/must.h"
#include "mail/mail.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t append(void *arg, const struct mail_record *r, uint64_t copy_of)
{
    uint64_t *where = arg;

    MUST(copy_of || !r->len || r->body);
    return ++*where;
}

/* 24 bytes of the input make a record. */
static size_t make(const uint8_t *data, size_t size, struct mail_record *ret)
{
    size_t len;

    if (size < 24)
        return 0;
    len = data[23] % 64;
    if (len > size - 24)
        len = size - 24;
    *ret = (struct mail_record){.kind = 1 + data[0] % (MAIL_RECORD_KINDS - 1),
                                .job = data[1] % 4,
                                .epoch = data[2] % 8,
                                .seq = data[3] | (uint64_t)(data[4] == 255) << 40,
                                .pos = data[5] | (uint64_t)(data[6] == 255) << 40,
                                .from = data[7] % 8 | (uint32_t)(data[8] == 255) << 20,
                                .to = data[9] % 8,
                                .at_ms = data[10],
                                .len = (uint32_t)len,
                                .body = data + 24};
    return 24 + len;
}

static void use(struct mail *m, const struct mail_sink *sink, const uint8_t *data, size_t size)
{
    struct mail_found found[8];
    struct mail_news news;
    struct mail_wish wish;
    size_t count;

    for (uint32_t job = 1; job < 4; job++)
        for (uint32_t rank = 0; rank < 4; rank++) {
            struct mail_told t = {.job = job,
                                  .parts = 8,
                                  .committed = size % 2,
                                  .rank = rank,
                                  .epoch = 4,
                                  .top = {2, size % 5, size % 30, size % 20},
                                  .below = {1, size % 3, size % 10, size % 7},
                                  .is_final = rank == 3,
                                  .has_failed = true};
            struct mail_out out = {data[0] + 1u, data[1] % 9, 3, data};
            struct mail_rank *r;

            mail_tell(m, &t, 1000, sink);
            r = mail_find(m, job, rank, 4);
            if (!r)
                continue;
            (void)mail_send(m, r, &out, 1000, sink);
            (void)mail_read(m, r, data[2], 100, found, 8, &count);
        }
    (void)mail_work(m, 2000, sink);
    mail_durable(m);
    while (mail_take_news(m, &news) || mail_take_wish(m, &wish))
        ;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct mail_config config = mail_config_default();
    struct mail *m = mail_new(&config);
    struct mail_record r, got;
    struct buf bytes = {0};
    uint64_t where = 1 << 20;
    struct mail_sink sink = {append, &where};
    size_t at = 0, n, i = 0;

    (void)mail_record_get(data, size, &got);
    for (; (n = make(data + at, size - at, &r)) > 0; at += n, i++) {
        mail_record_put(&bytes, &r);
        MUST(mail_record_get(bytes.data, bytes.len, &got) == 0 && got.len == r.len);
        (void)mail_load(m, &got, i + 1);
        buf_clear(&bytes);
    }
    mail_load_done(m);
    if (size >= 24)
        use(m, &sink, data, size);
    for (at = i = 0; (n = make(data + at, size - at, &r)) > 0; at += n, i++)
        mail_clean(m, &r, i + 1, &sink);
    mail_clean_done(m, &sink);
    mail_durable(m);
    for (uint64_t job = 0; job < 4; job++)
        mail_forget(m, job);
    MUST(mail_live_bytes(m) == 0);
    mail_free(m);
    buf_deinit(&bytes);
    return 0;
}
