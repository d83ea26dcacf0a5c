/* SPDX-License-Identifier: Apache-2.0
 *
 * What the tests of layers share; see layer_make.h.
 */
#include "layer_make.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include <cmocka.h>

int make_to_buf(void *arg, const void *data, size_t len)
{
    buf_put(arg, data, len);
    return 0;
}

struct layer_meta make_meta(uint64_t memory_bytes, const uint8_t *parent)
{
    struct layer_meta m = {.full = !parent,
                           .memory_bytes = memory_bytes,
                           .output_offset = MAKE_OUTPUT_OFFSET,
                           .run_ms = 89,
                           .qemu_version = 70222,
                           .cpus = 2,
                           .machine = "pc-i440fx-7.2",
                           .cpu = "Nehalem",
                           .accel = "tcg",
                           .disk_cut = 77};

    if (parent)
        memcpy(m.parent, parent, sizeof m.parent);
    return m;
}

void make_state(struct qemu_state *s, uint64_t memory_bytes)
{
    *s = (struct qemu_state){.ram_section = 2, .count_blocks = 2};
    buf_put(&s->head, "\x51\x45\x56\x4d\0\0\0\3\7\0\0\0\15pc-i440fx-7.2", 26);
    buf_put_str(&s->device, "the device part");
    strcpy(s->blocks[0].name, "pc.ram");
    s->blocks[0].bytes = memory_bytes;
    strcpy(s->blocks[1].name, "pc.bios");
    s->blocks[1].bytes = LAYER_PAGE_BYTES;
    s->blocks[1].data = xcalloc(1, LAYER_PAGE_BYTES);
    memcpy(s->blocks[1].data, "firmware", 8);
}

void make_scribbles(struct rng *r, uint8_t *memory, uint64_t memory_bytes, size_t count)
{
    uint64_t pages = memory_bytes / LAYER_PAGE_BYTES;

    for (size_t i = 0; i < count; i++) {
        uint64_t first = rng_below(r, pages), n = 1 + rng_below(r, 80), kind = rng_below(r, 3);

        for (uint64_t p = first; p < pages && p < first + n; p++) {
            uint8_t *page = memory + p * LAYER_PAGE_BYTES;

            memset(page, kind == 1 ? (int)(1 + rng_below(r, 255)) : 0, LAYER_PAGE_BYTES);
            for (size_t k = 0; kind == 2 && k < LAYER_PAGE_BYTES; k += 8)
                memcpy(page + k, &(uint64_t){rng_u64(r)}, 8);
        }
    }
}

/* The pages that differ; the caller frees them. */
static struct layer_page *changed(const uint8_t *memory, const uint8_t *below,
                                  uint64_t memory_bytes, size_t *ret_count)
{
    uint64_t pages = memory_bytes / LAYER_PAGE_BYTES;
    struct layer_page *found = xcalloc(pages, sizeof *found);
    static const uint8_t zeros[LAYER_PAGE_BYTES];

    *ret_count = 0;
    for (uint64_t p = 0; p < pages; p++) {
        const uint8_t *page = memory + p * LAYER_PAGE_BYTES;

        if (memcmp(page, below ? below + p * LAYER_PAGE_BYTES : zeros, LAYER_PAGE_BYTES) != 0)
            found[(*ret_count)++] = (struct layer_page){p, layer_print_of(page), page};
    }
    return found;
}

void make_layer(struct rng *r, struct buf *out, const uint8_t *memory, const uint8_t *below,
                uint64_t memory_bytes, const uint8_t *parent)
{
    struct layer_meta meta = make_meta(memory_bytes, parent);
    struct layer_hot_run hot[3];
    struct layer_packer *packer = layer_packer_new();
    struct layer_packed packed = {0};
    struct layer_writer *w;
    struct qemu_state s;
    size_t count, count_hot = rng_below(r, 4);
    struct layer_page *pages = changed(memory, below, memory_bytes, &count);
    uint64_t written, way = rng_below(r, 3);

    for (size_t i = 0; i < count_hot; i++)
        hot[i] = (struct layer_hot_run){rng_below(r, memory_bytes / LAYER_PAGE_BYTES), 1};
    make_state(&s, memory_bytes);
    assert_int_equal(layer_writer_new(&meta, &s, make_to_buf, out, &w), 0);
    for (size_t i = 0, n; i < count; i += n) {
        if (way == 0 || (way == 2 && rng_below(r, 2))) {
            n = 1;
            assert_int_equal(layer_writer_page(w, &pages[i]), 0);
            continue;
        }
        n = layer_frame_span(pages + i, count - i);
        layer_pack(packer, pages + i, n, &packed);
        assert_int_equal(layer_writer_add(w, pages + i, n, &packed), 0);
    }
    assert_int_equal(layer_writer_finish(w, hot, count_hot, &written), 0);
    assert_int_equal(written, count);
    layer_writer_free(w);
    layer_packer_free(packer);
    buf_deinit(&packed.stored);
    qemu_state_deinit(&s);
    free(pages);
}

struct layer *make_open(const struct buf *file)
{
    struct layer_source source = {.file_bytes = file->len, .data = file->data};
    struct layer *layer;
    struct err err;

    if (layer_open(&source, &layer, &err))
        fail_msg("%s", err.text);
    return layer;
}

void make_digest(const struct buf *file, uint8_t ret_digest[LAYER_DIGEST_BYTES])
{
    XXH128_hash_t hash = XXH3_128bits(file->data, file->len);

    memcpy(ret_digest, &hash, sizeof hash);
    memset(ret_digest + sizeof hash, 0xd1, LAYER_DIGEST_BYTES - sizeof hash);
}

uint64_t make_seed(void)
{
    const char *given = getenv("YADO_SEED");
    uint64_t seed = given ? strtoull(given, NULL, 10) : 1;

    print_message("seed %llu\n", (unsigned long long)seed);
    return seed;
}

void make_chain(struct rng *r, struct made_chain *m, uint64_t memory_bytes, size_t count)
{
    uint8_t digest[LAYER_DIGEST_BYTES];
    struct err err;

    *m = (struct made_chain){
        .memory_bytes = memory_bytes, .count = count, .chain = layer_chain_new()};
    for (size_t i = 0; i < count; i++) {
        const uint8_t *below = i ? m->memory[i - 1] : NULL;

        m->memory[i] = xcalloc(1, memory_bytes);
        if (below)
            memcpy(m->memory[i], below, memory_bytes);
        /* One layer in four changes back what the one before it did. */
        if (i >= 2 && rng_below(r, 4) == 0)
            memcpy(m->memory[i], m->memory[i - 2], memory_bytes);
        make_scribbles(r, m->memory[i], memory_bytes, rng_below(r, 12));
        make_layer(r, &m->files[i], m->memory[i], below, memory_bytes, i ? digest : NULL);
        make_digest(&m->files[i], digest);
        m->layers[i] = make_open(&m->files[i]);
        if (layer_chain_add(m->chain, m->layers[i], digest, &err))
            fail_msg("%s", err.text);
    }
}

void make_chain_deinit(struct made_chain *m)
{
    layer_chain_free(m->chain);
    for (size_t i = 0; i < m->count; i++) {
        layer_close(m->layers[i]);
        buf_deinit(&m->files[i]);
        free(m->memory[i]);
    }
}
