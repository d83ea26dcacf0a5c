/* SPDX-License-Identifier: Apache-2.0
 *
 * Tables and text for terminals: alignment, cutting, and that nothing a terminal obeys passes.
 */
#include "cli/listing.h"
#include "cli/text.h"
#include "base/buf.h"
#include "base/rng.h"

#include <locale.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const struct listing_column columns[] = {
    {"ID", LISTING_RIGHT}, {"NAME", LISTING_SHRINK}, {"STATE", 0}};

static char *print(const struct listing *l, size_t width)
{
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);

    assert_non_null(f);
    listing_print(l, f, width, false);
    fclose(f);
    return text;
}

static void shows(const struct listing *l, size_t width, const char *want)
{
    char *text = print(l, width);

    assert_string_equal(text, want);
    free(text);
}

static void test_table(void **state)
{
    struct listing l = {.columns = columns, .count_columns = 3};

    shows(&l, 0, "ID  NAME  STATE\n");
    listing_add(&l, "%d", 7);
    listing_add(&l, "a-rather-long-name-of-a-job");
    listing_add(&l, "done");
    listing_add(&l, "%d", 1234);
    listing_add(&l, "宿借り");
    listing_add(&l, "queued");
    shows(&l, 0,
          "  ID  NAME                         STATE\n"
          "   7  a-rather-long-name-of-a-job  done\n"
          "1234  宿借り                       queued\n");
    shows(&l, 24,
          "  ID  NAME        STATE\n"
          "   7  a-rather-~  done\n"
          "1234  宿借り      queued\n");
    /* Narrower than can be: columns keep their least width and the terminal wraps. */
    shows(&l, 5,
          "  ID  NAME    STATE\n"
          "   7  a-rat~  done\n"
          "1234  宿借り  queued\n");
    /* A wide character that would straddle the edge goes, and the column stays straight. */
    listing_add(&l, "1");
    listing_add(&l, "宿借り宿借り宿借り宿借り宿借り");
    listing_add(&l, "held");
    shows(&l, 24,
          "  ID  NAME        STATE\n"
          "   7  a-rather-~  done\n"
          "1234  宿借り      queued\n"
          "   1  宿借り宿~   held\n");
    listing_deinit(&l);
}

static void test_cells_are_clean(void **state)
{
    struct listing l = {.columns = columns, .count_columns = 3};

    listing_add(&l, "1");
    listing_add(&l, "%s",
                "\033[2J\033]0;owned\007\r\n\t\xc2\x9b"
                "31m");
    listing_add(&l, "\xff\xc3");
    shows(&l, 0,
          "ID  NAME                       STATE\n"
          " 1  ^[[2J^[]0;owned^G^M  ?31m  ??\n");
    listing_deinit(&l);
}

static char *filtered(const char *a, size_t n, size_t cut)
{
    struct text_filter f = {0};
    struct buf out = {0};

    text_filter_put(&f, a, cut, &out);
    text_filter_put(&f, a + cut, n - cut, &out);
    return buf_take_str(&out);
}

static void test_filter(void **state)
{
    static const struct {
        const char *in, *out;
    } cases[] = {
        {"plain\n\ttext\n", "plain\n\ttext\n"},
        {"\033[31mred\033[0m", "^[[31mred^[[0m"},
        {"progress 1%\rprogress 2%", "progress 1%^Mprogress 2%"},
        {"a\177b", "a^?b"},
        {"宿 é 🦀", "宿 é 🦀"},
        {"\xc2\x9b"
         "31m",
         "?31m"}, /* a C1 control */
        {"\xe2\x80\xae"
         "evil",
         "?evil"},                 /* right-to-left override */
        {"\xc0\x9b", "??"},        /* overlong ESC */
        {"\xed\xa0\x80", "?"},     /* a surrogate */
        {"\xf4\x90\x80\x80", "?"}, /* beyond Unicode */
        {"\xe5\xae!", "?!"},       /* cut short */
        {"\x9b", "?"},
    };

    /* However the bytes are cut into pieces, the text is the same. */
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (size_t cut = 0; cut <= strlen(cases[i].in); cut++) {
            char *out = filtered(cases[i].in, strlen(cases[i].in), cut);

            assert_string_equal(out, cases[i].out);
            free(out);
        }
}

/* Random bytes: whatever comes out is printable, a line feed or a tab. */
static void test_filter_random(void **state)
{
    struct rng rng = rng_seed(20240607);

    for (int round = 0; round < 2000; round++) {
        char in[64];
        char *out;

        for (size_t i = 0; i < sizeof in; i++)
            in[i] = (char)rng_below(&rng, 256);
        out = filtered(in, sizeof in, rng_below(&rng, sizeof in + 1));
        for (const unsigned char *p = (unsigned char *)out; *p; p++) {
            assert_true(*p >= 0x20 || *p == '\n' || *p == '\t');
            assert_true(*p != 0x7f);
            assert_false(p[0] == 0xc2 && p[1] < 0xa0);
        }
        assert_true(mbstowcs(NULL, out, 0) != (size_t)-1);
        free(out);
    }
}

static const char *word_at(const void *arg, size_t i)
{
    static const char *const words[] = {"submit", "jobs", "job", "vms", "logs", "login", NULL};

    return words[i];
}

static void test_nearest(void **state)
{
    assert_string_equal(text_nearest("sumbit", word_at, NULL), "submit");
    assert_string_equal(text_nearest("job s", word_at, NULL), "jobs");
    assert_string_equal(text_nearest("lgos", word_at, NULL), "logs");
    assert_string_equal(text_nearest("vm", word_at, NULL), "vms");
    assert_null(text_nearest("frobnicate", word_at, NULL));
    assert_null(text_nearest("", word_at, NULL));
    assert_null(text_nearest("xyz", word_at, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),   cmocka_unit_test(test_cells_are_clean),
        cmocka_unit_test(test_filter),  cmocka_unit_test(test_filter_random),
        cmocka_unit_test(test_nearest),
    };

    if (!setlocale(LC_CTYPE, "C.UTF-8"))
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
