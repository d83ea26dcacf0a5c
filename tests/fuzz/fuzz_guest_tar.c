/* SPDX-License-Identifier: Apache-2.0
 *
 * A hostile tar: entries have clean paths, data ends where the input ends. The checksum of a
 * header is mended first where the input asks for it, since a fuzzer does not find it.
 */
#include "base/must.h"
#include "guest/tar_read.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct input {
    const uint8_t *p;
    size_t left;
    bool mend;
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static ssize_t read_input(void *ctx, void *buf, size_t n)
{
    struct input *in = ctx;
    uint8_t *h = buf;
    unsigned sum = 0;

    n = n < in->left ? n : in->left;
    memcpy(buf, in->p, n);
    in->p += n;
    in->left -= n;
    if (in->mend && n == 512 && h[0]) {
        memset(h + 148, ' ', 8);
        for (int i = 0; i < 512; i++)
            sum += h[i];
        snprintf((char *)h + 148, 8, "%06o", sum);
    }
    return (ssize_t)n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {.p = data, .left = size};
    struct tar_reader t = {.read = read_input, .ctx = &in};
    static struct tar_entry entry;
    struct err e = {0};
    uint8_t waste[700];
    int r;

    if (size) {
        in.mend = data[0] & 1;
        in.p++;
        in.left--;
    }
    while ((r = tar_next(&t, &entry, &e)) > 0) {
        char again[START_PATH_MAX];
        uint64_t got = 0;
        ssize_t n;

        MUST(path_clean(entry.path, again) == 0 && strcmp(again, entry.path) == 0);
        MUST(entry.path[0] || entry.type == TAR_DIR);
        if (entry.type == TAR_HARDLINK)
            MUST(path_clean(entry.target, again) == 0);
        if (entry.size % 3 == 0)
            continue; /* skipping is reading, too */
        while ((n = tar_data(&t, waste, sizeof waste, &e)) > 0)
            got += (uint64_t)n;
        MUST(n < 0 || got == entry.size);
    }
    MUST(r == 0 || e.text[0]);
    return 0;
}
