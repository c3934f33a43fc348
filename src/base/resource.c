#include "base/resource.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

enum status resource_find(const char *path, char **found)
{
    static const char *const folders[] = {OCTET_DATA_DIR, OCTET_SOURCE_DIR};

    *found = strdup(path);
    if (!*found)
        return fail(ERR_NOMEM, "no memory to look for %s", path);
    if (file_exists(*found))
        return OK;
    for (size_t i = 0; path[0] != '/' && i < sizeof folders / sizeof *folders; i++) {
        free(*found);
        if (asprintf(found, "%s/%s", folders[i], path) < 0) {
            *found = NULL;
            return fail(ERR_NOMEM, "no memory to look for %s", path);
        }
        if (file_exists(*found))
            return OK;
    }
    free(*found);
    *found = NULL;
    if (path[0] == '/')
        return fail(ERR_INVALID, "%s: no such file", path);
    return fail(ERR_INVALID, "%s: no such file, neither here nor in %s or %s", path, folders[0],
                folders[1]);
}
