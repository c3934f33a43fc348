#include "base/resource.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"

const char *const *resource_folders(void)
{
    static char installed[PATH_MAX + 16], beside[PATH_MAX + 16];
    static const char *const folders[] = {"", installed, beside, OCTET_DATA_DIR, NULL};
    char program[PATH_MAX];
    const ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);

    program[length > 0 ? length : 0] = '\0';
    char *slash = strrchr(program, '/');
    if (slash)
        *slash = '\0';
    snprintf(installed, sizeof installed, "%s/../share/octet", slash ? program : ".");
    snprintf(beside, sizeof beside, "%s/..", slash ? program : ".");
    return folders;
}

enum status resource_find(const char *path, const char *const *folders, char **found)
{
    static const char *const here[] = {"", NULL};
    char tried[2048] = "";

    if (path[0] == '/')
        folders = here;
    for (; *folders; folders++) {
        if (asprintf(found, "%s%s%s", *folders, **folders ? "/" : "", path) < 0) {
            *found = NULL;
            return fail(ERR_NOMEM, "no memory to look for %s", path);
        }
        if (file_exists(*found))
            return OK;
        const size_t length = strlen(tried);
        snprintf(tried + length, sizeof tried - length, "%s%s", length ? ", " : "", *found);
        free(*found);
        *found = NULL;
    }
    return fail(ERR_INVALID, "%s: no such file (looked for %s)", path, tried);
}
