/* SPDX-License-Identifier: Apache-2.0
 *
 * `make_layers FOLDER SEED MIB COUNT FIRST LAST`: a chain of COUNT layers over MIB of memory as
 * files named by their SHA-256, of which those from FIRST to LAST are merged into one (0 0: none),
 * and what the engine composes of them as FOLDER/composed. Prints a line a layer, golden first:
 * "layer DIGEST SIZE STANDS_FOR" ("-": itself), before them, for each frame that the top's hot list
 * needs, "hot DIGEST OFFSET BYTES". For the end-to-end tests of the pager.
 */
#include "base/cleanup.h"
#include "base/rng.h"
#include "layer_make.h"
#include "vm/engine.h"
#include "vm/out.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static struct err err;

static void check(int result)
{
    if (result) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
}

struct file {
    char path[512], digest[65], stands_for[65];
    uint64_t size;
};

/* Under the name that its digest gives it. */
static struct file write_file(const char *folder, const struct buf *data)
{
    AUTO_FREE char *draft = xasprintf("%s/draft", folder);
    struct file f = {.size = data->len, .stands_for = "-"};
    struct vm_out out;

    check(vm_out_open(&out, draft, NULL, NULL, &err));
    check(vm_out_put(&out, data->data, data->len));
    check(vm_out_finish(&out, f.digest, &err));
    snprintf(f.path, sizeof f.path, "%.400s/%s", folder, f.digest);
    check(rename(draft, f.path));
    return f;
}

/* Layers over each other, each with what the seed has it change. */
static void make_all(struct rng *r, const char *folder, uint64_t bytes, struct file *files,
                     size_t count)
{
    AUTO_FREE uint8_t *memory = xcalloc(1, bytes);
    AUTO_FREE uint8_t *below = xcalloc(1, bytes);
    uint8_t parent[LAYER_DIGEST_BYTES];

    for (size_t i = 0; i < count; i++) {
        AUTO_BUF struct buf data = {0};

        make_scribbles(r, memory, bytes, (i ? 1 : bytes >> 18) + rng_below(r, 12));
        make_layer(r, &data, memory, i ? below : NULL, bytes, i ? parent : NULL);
        files[i] = write_file(folder, &data);
        check(str_unhex(files[i].digest, parent, sizeof parent));
        memcpy(below, memory, bytes);
    }
}

static struct layer_chain *open_chain(const struct file *files, size_t count)
{
    struct layer_chain *chain = layer_chain_new();

    for (size_t i = 0; i < count; i++)
        check(vm_chain_push(chain, files[i].path, files[i].digest, &err));
    return chain;
}

/* Puts one file in the place of those from first to last. */
static size_t merge(const char *folder, struct file *files, size_t count, size_t first, size_t last)
{
    struct layer_chain *chain = open_chain(files, last + 1);
    AUTO_BUF struct buf data = {0};
    struct file merged;

    check(layer_merge(chain, first, make_to_buf, &data, &err));
    vm_chain_close(chain);
    merged = write_file(folder, &data);
    memcpy(merged.stands_for, files[last].digest, sizeof merged.stands_for);
    files[first] = merged;
    memmove(files + first + 1, files + last + 1, (count - last - 1) * sizeof *files);
    return count - (last - first);
}

static void print_hot(const struct layer_chain *chain, const struct file *files)
{
    AUTO_FREE struct layer_hot_run *hot = NULL;
    size_t count;

    check(layer_read_hot(layer_chain_top(chain), &hot, &count, &err));
    for (size_t i = 0; i < count; i++) { /* each is one page, see make_layer() */
        struct layer_place place = layer_chain_find(chain, 0, hot[i].first_page, 1);
        const struct layer_extent *e;

        if (layer_place_is_zeros(&place))
            continue;
        e = &layer_table_of(place.layer)->frames[place.frame];
        printf("hot %s %llu %u\n", files[place.layer_number].digest, (unsigned long long)e->offset,
               (unsigned)e->stored_bytes);
    }
}

int main(int argc, char **argv)
{
    struct file files[64];
    struct layer_chain *chain;
    size_t count;
    AUTO_FREE char *composed = NULL;
    struct rng r;

    if (argc != 7 || (count = strtoul(argv[4], NULL, 10)) > 64)
        return 2;
    r = rng_seed(strtoull(argv[2], NULL, 10));
    make_all(&r, argv[1], strtoull(argv[3], NULL, 10) << 20, files, count);
    composed = xasprintf("%s/composed", argv[1]);
    chain = open_chain(files, count);
    check(vm_compose(NULL, chain, composed, &err));
    print_hot(chain, files);
    vm_chain_close(chain);
    if (strtoul(argv[6], NULL, 10))
        count =
            merge(argv[1], files, count, strtoul(argv[5], NULL, 10), strtoul(argv[6], NULL, 10));
    for (size_t i = 0; i < count; i++)
        printf("layer %s %llu %s\n", files[i].digest, (unsigned long long)files[i].size,
               files[i].stands_for);
    return 0;
}
