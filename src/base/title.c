/* SPDX-License-Identifier: Apache-2.0
 *
 * See title.h.
 */
#include "base/title.h"

#include <string.h>

void title_set(int argc, char **argv, const char *text)
{
    size_t room, len = strlen(text);

    if (argc < 2)
        return;
    room = (size_t)(argv[argc - 1] + strlen(argv[argc - 1]) - argv[1]);
    memset(argv[1], 0, room);
    memcpy(argv[1], text, len < room ? len : room);
}
