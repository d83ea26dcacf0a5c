/* SPDX-License-Identifier: Apache-2.0
 *
 * Chains of layers against plain memories: finding, walking, prints, merging.
 */
#include "layer_make.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { PAGES = 400, BYTES = PAGES * LAYER_PAGE_BYTES };

static int paste(void *arg, uint64_t offset, const uint8_t *data, size_t len)
{
    uint8_t *memory = arg;

    if (data)
        memcpy(memory + offset, data, len);
    else
        memset(memory + offset, 0, len);
    return 0;
}

static void check_walk(const struct layer_chain *chain, size_t from, const uint8_t *below,
                       const uint8_t *want)
{
    uint8_t *memory = xcalloc(1, BYTES);
    struct err err;

    if (below)
        memcpy(memory, below, BYTES);
    if (layer_chain_walk(chain, from, paste, memory, &err))
        fail_msg("%s", err.text);
    assert_memory_equal(memory, want, BYTES);
    free(memory);
}

static int refuse(void *arg, uint64_t offset, const uint8_t *data, size_t len)
{
    return ++*(int *)arg == 2 ? -EXDEV : 0;
}

static void test_composes(void **state)
{
    uint64_t seed = make_seed();

    for (uint64_t i = 0; i < 40; i++) {
        struct rng r = rng_seed(seed + i);
        struct made_chain m;

        make_chain(&r, &m, BYTES, 1 + rng_below(&r, MAKE_LAYERS_MAX));
        check_walk(m.chain, 0, NULL, m.memory[m.count - 1]);
        for (size_t from = 1; from < m.count; from++)
            check_walk(m.chain, from, m.memory[from - 1], m.memory[m.count - 1]);
        make_chain_deinit(&m);
    }
}

/* Every page, alone and with all that follow, is where it says and as long as it says. */
static void test_finds(void **state)
{
    uint8_t *frame = xmalloc(LAYER_FRAME_BYTES_MAX);
    uint64_t seed = make_seed();
    struct err err;

    for (uint64_t i = 0; i < 4; i++) {
        struct rng r = rng_seed(seed + i);
        struct made_chain m;

        make_chain(&r, &m, BYTES, 5);
        for (uint64_t page = 0; page < PAGES; page++) {
            uint64_t max = 1 + rng_below(&r, PAGES - page);
            struct layer_place p = layer_chain_find(m.chain, 0, page, max);
            const uint8_t *want = m.memory[4] + page * LAYER_PAGE_BYTES;
            size_t len = p.count_pages * LAYER_PAGE_BYTES;

            assert_in_range(p.count_pages, 1, max);
            memset(frame, 0, LAYER_FRAME_BYTES_MAX);
            if (layer_place_is_zeros(&p)) {
                for (size_t k = 0; k < len; k++)
                    assert_int_equal(want[k], 0);
                continue;
            }
            assert_ptr_equal(p.layer, m.layers[p.layer_number]);
            assert_int_equal(layer_read_frame(p.layer, p.frame, frame, &err), 0);
            assert_memory_equal(frame + p.frame_page * LAYER_PAGE_BYTES, want, len);
        }
        make_chain_deinit(&m);
    }
    free(frame);
}

static void test_walk_ends_where_told(void **state)
{
    struct rng r = rng_seed(5);
    struct made_chain m;
    struct err err;
    int calls = 0;

    make_chain(&r, &m, BYTES, 3);
    assert_int_equal(layer_chain_walk(m.chain, 0, refuse, &calls, &err), -EXDEV);
    assert_int_equal(calls, 2);
    make_chain_deinit(&m);
}

static void test_refuses_strangers(void **state)
{
    struct rng r = rng_seed(make_seed());
    struct made_chain a, b;
    uint8_t digest[LAYER_DIGEST_BYTES];
    AUTO_BUF struct buf file = {0};
    struct layer_chain *chain = layer_chain_new();
    struct err err;

    make_chain(&r, &a, BYTES, 3);
    make_chain(&r, &b, BYTES, 2);
    memcpy(digest, layer_chain_digest(a.chain, 0), sizeof digest);
    assert_int_equal(layer_chain_add(chain, a.layers[1], digest, &err), -EINVAL);
    assert_non_null(strstr(err.text, "full"));
    assert_int_equal(layer_chain_add(chain, a.layers[0], digest, &err), 0);
    assert_int_equal(layer_chain_add(chain, a.layers[2], digest, &err), -EINVAL);
    assert_int_equal(layer_chain_add(chain, b.layers[1], digest, &err), -EINVAL);
    assert_non_null(strstr(err.text, "layer 1 "));
    assert_int_equal(layer_chain_add(chain, b.layers[0], digest, &err), -EINVAL);
    /* The right parent, another size of memory. */
    uint8_t *memory = xcalloc(2, BYTES);
    make_layer(&r, &file, memory, memory, 2 * BYTES, digest);
    struct layer *wide = make_open(&file);
    assert_int_equal(layer_chain_add(chain, wide, digest, &err), -EINVAL);
    assert_non_null(strstr(err.text, "another machine"));
    assert_int_equal(layer_chain_add(chain, a.layers[1], digest, &err), 0);
    assert_int_equal(layer_chain_count(chain), 2);
    layer_close(wide);
    free(memory);
    layer_chain_free(chain);
    make_chain_deinit(&a);
    make_chain_deinit(&b);
}

static void test_state_comes_together(void **state)
{
    struct rng r = rng_seed(1);
    struct qemu_state s;
    struct made_chain m;
    struct err err;

    make_chain(&r, &m, BYTES, 4);
    assert_int_equal(layer_chain_read_state(m.chain, &s, &err), 0);
    assert_false(s.blocks[1].left_out);
    assert_memory_equal(s.blocks[1].data, "firmware", 8);
    qemu_state_deinit(&s);
    make_chain_deinit(&m);
}

/* ---- prints ------------------------------------------------------------------------------------
 */

static struct layer_prints *prints_of(const struct layer_chain *chain)
{
    struct layer_prints *prints;
    struct err err;

    assert_int_equal(layer_chain_prints(chain, layer_chain_count(chain), &prints, &err), 0);
    return prints;
}

static void test_prints_of_a_chain(void **state)
{
    static const uint8_t zeros[LAYER_PAGE_BYTES];
    struct rng r = rng_seed(make_seed());
    struct made_chain m;

    assert_true(layer_print_is_zeros(layer_print_of(zeros)));
    make_chain(&r, &m, BYTES, MAKE_LAYERS_MAX);
    struct layer_prints *prints = prints_of(m.chain);
    for (uint64_t p = 0; p < PAGES; p++) {
        struct layer_print want = layer_print_of(m.memory[m.count - 1] + p * LAYER_PAGE_BYTES);

        assert_true(layer_print_equal(layer_prints_get(prints, p), want));
        layer_prints_forget(prints, p);
        assert_false(layer_print_equal(layer_prints_get(prints, p), want));
        assert_false(layer_print_is_zeros(layer_prints_get(prints, p)));
    }
    layer_prints_free(prints);
    make_chain_deinit(&m);
}

/* Prints for other memory are refused, and nothing of them is put. */
static void test_prints_of_other_memory(void **state)
{
    struct rng r = rng_seed(1);
    struct layer_prints *prints = layer_prints_new(2 * BYTES);
    struct made_chain m;
    struct err err;

    make_chain(&r, &m, BYTES, 1);
    assert_int_equal(layer_prints_apply(prints, m.layers[0], &err), -EINVAL);
    for (uint64_t p = 0; p < 2 * PAGES; p++)
        assert_true(layer_print_is_zeros(layer_prints_get(prints, p)));
    layer_prints_free(prints);
    make_chain_deinit(&m);
}

/* ---- merging -----------------------------------------------------------------------------------
 */

/* The chain with its layers from `first` on replaced by one. */
static void check_merge(struct made_chain *m, size_t first)
{
    AUTO_BUF struct buf file = {0};
    uint8_t digest[LAYER_DIGEST_BYTES] = {1};
    const uint8_t *below = m->memory[first - 1], *want = m->memory[m->count - 1];
    struct layer_chain *chain = layer_chain_new();
    struct qemu_state s;
    uint64_t differ = 0;
    struct err err;

    if (layer_merge(m->chain, first, make_to_buf, &file, &err))
        fail_msg("%s", err.text);
    struct layer *merged = make_open(&file);
    for (size_t i = 0; i < first; i++)
        assert_int_equal(
            layer_chain_add(chain, m->layers[i], layer_chain_digest(m->chain, i), &err), 0);
    assert_int_equal(layer_chain_add(chain, merged, digest, &err), 0);
    check_walk(chain, 0, NULL, want);
    for (uint64_t p = 0; p < PAGES; p++)
        differ += memcmp(below + p * LAYER_PAGE_BYTES, want + p * LAYER_PAGE_BYTES,
                         LAYER_PAGE_BYTES) != 0;
    assert_int_equal(layer_footer_of(merged)->count_pages, differ);
    struct layer_prints *a = prints_of(chain), *b = prints_of(m->chain);
    for (uint64_t p = 0; p < PAGES; p++)
        assert_true(layer_print_equal(layer_prints_get(a, p), layer_prints_get(b, p)));
    assert_int_equal(layer_chain_read_state(chain, &s, &err), 0);
    qemu_state_deinit(&s);
    layer_prints_free(a);
    layer_prints_free(b);
    layer_chain_free(chain);
    layer_close(merged);
}

static void test_merges(void **state)
{
    uint64_t seed = make_seed();

    for (uint64_t i = 0; i < 12; i++) {
        struct rng r = rng_seed(seed + i);
        struct made_chain m;

        make_chain(&r, &m, BYTES, 2 + rng_below(&r, MAKE_LAYERS_MAX - 1));
        for (size_t first = 1; first < m.count; first++)
            check_merge(&m, first);
        make_chain_deinit(&m);
    }
}

/* A layer whose pages do not match their prints under good checksums: made in damaged memory. */
static void test_merge_checks_prints(void **state)
{
    struct layer_meta meta;
    struct rng r = rng_seed(2);
    AUTO_BUF struct buf bad = {0};
    AUTO_BUF struct buf out = {0};
    uint8_t page[LAYER_PAGE_BYTES] = {1}, digest[LAYER_DIGEST_BYTES] = {1};
    struct layer_page p = {3, layer_print_of(page), page};
    struct layer_writer *w;
    struct qemu_state s;
    struct made_chain m;
    struct err err;
    uint64_t pages;

    make_chain(&r, &m, BYTES, 1);
    meta = make_meta(BYTES, layer_chain_digest(m.chain, 0));
    make_state(&s, BYTES);
    assert_int_equal(layer_writer_new(&meta, &s, make_to_buf, &bad, &w), 0);
    page[100] ^= 1;
    assert_int_equal(layer_writer_page(w, &p), 0);
    assert_int_equal(layer_writer_finish(w, NULL, 0, &pages), 0);
    layer_writer_free(w);
    qemu_state_deinit(&s);
    struct layer *layer = make_open(&bad);
    assert_int_equal(layer_chain_add(m.chain, layer, digest, &err), 0);
    assert_int_equal(layer_merge(m.chain, 1, make_to_buf, &out, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "page 3 "));
    assert_int_equal(layer_merge(m.chain, 0, make_to_buf, &out, &err), -EINVAL);
    assert_int_equal(layer_merge(m.chain, 2, make_to_buf, &out, &err), -EINVAL);
    make_chain_deinit(&m);
    layer_close(layer);
}

static int no_room(void *arg, const void *data, size_t len)
{
    size_t *left = arg;

    if (*left < len)
        return -ENOSPC;
    *left -= len;
    return 0;
}

/* Damage anywhere below, and a sink without room: merging says so and leaks nothing. */
static void test_merge_fails_well(void **state)
{
    struct rng r = rng_seed(9);
    AUTO_BUF struct buf out = {0};
    struct made_chain m;
    struct err err;

    make_chain(&r, &m, BYTES, 4);
    for (size_t room = 0; room < 3000; room += 101) {
        size_t left = room;

        assert_int_equal(layer_merge(m.chain, 1, no_room, &left, &err), -ENOSPC);
    }
    for (size_t i = 1; i < 4; i++) {
        const struct layer_table *t = layer_table_of(m.layers[i]);

        for (size_t k = 0; k < t->count_frames; k++) {
            struct layer_extent *f = &t->frames[k];
            uint8_t *byte = &m.files[i].data[f->offset + f->stored_bytes / 2];
            int got;

            *byte ^= 1;
            got = layer_merge(m.chain, 1, make_to_buf, &out, &err);
            /* What newer layers hide is not looked at, nor are older states. */
            assert_true(got == -EBADMSG || (got == 0 && i < 3));
            *byte ^= 1;
        }
    }
    make_chain_deinit(&m);
}

/* What can be done without does not hold a merge up. */
static void test_merge_without_hints(void **state)
{
    struct rng r = rng_seed(11);
    struct made_chain m;

    make_chain(&r, &m, BYTES, 4);
    for (size_t i = 0; i < m.count; i++) {
        const struct layer_footer *f = layer_footer_of(m.layers[i]);

        for (enum layer_section s = LAYER_HOT; s <= LAYER_PRINTS; s++)
            m.files[i].data[f->sections[s].offset + f->sections[s].stored_bytes / 2] ^= 1;
    }
    AUTO_BUF struct buf file = {0};
    struct err err;

    if (layer_merge(m.chain, 1, make_to_buf, &file, &err))
        fail_msg("%s", err.text);
    uint8_t digest[LAYER_DIGEST_BYTES] = {1};
    struct layer *merged = make_open(&file);
    struct layer_chain *chain = layer_chain_new();

    assert_int_equal(layer_chain_add(chain, m.layers[0], layer_chain_digest(m.chain, 0), &err), 0);
    assert_int_equal(layer_chain_add(chain, merged, digest, &err), 0);
    check_walk(chain, 0, NULL, m.memory[m.count - 1]);
    layer_chain_free(chain);
    layer_close(merged);
    make_chain_deinit(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_composes),
        cmocka_unit_test(test_finds),
        cmocka_unit_test(test_walk_ends_where_told),
        cmocka_unit_test(test_refuses_strangers),
        cmocka_unit_test(test_state_comes_together),
        cmocka_unit_test(test_prints_of_a_chain),
        cmocka_unit_test(test_prints_of_other_memory),
        cmocka_unit_test(test_merges),
        cmocka_unit_test(test_merge_checks_prints),
        cmocka_unit_test(test_merge_fails_well),
        cmocka_unit_test(test_merge_without_hints),
    };

    return cmocka_run_group_tests_name("layer_chain", tests, NULL, NULL);
}
