/* SPDX-License-Identifier: Apache-2.0
 *
 * START of a part: any text either is refused or gives checked paths and a program.
 */
#include "base/must.h"
#include "guest/start.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct start s;
    struct err e;

    if (start_parse((const char *)data, size, &s, &e) == 0) {
        MUST(s.argv && s.argv[0] && s.argv[0][0]);
        for (size_t i = 0; i < s.count_inputs; i++) {
            char again[START_PATH_MAX];

            MUST(path_clean(s.inputs[i].path, again) == 0 && strcmp(again, s.inputs[i].path) == 0);
            MUST(s.inputs[i].path[0] || s.inputs[i].tar);
            MUST(s.inputs[i].mode <= 0777);
        }
        for (char **v = s.env; v && *v; v++)
            MUST(strchr(*v, '=') > *v);
    } else {
        MUST(e.text[0]);
    }
    start_deinit(&s);
    return 0;
}
