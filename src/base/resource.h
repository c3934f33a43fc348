/* resource.h - files that come with the program: configurations and the sample text. */
#ifndef OCTET_RESOURCE_H
#define OCTET_RESOURCE_H

#include "base/status.h"

/* Folders that such files may lie below, NULL-ended: the current one (""), share/octet beside the
 * program's own folder (installed), the parent of the program's folder (a build folder in the source
 * tree), share/octet where `meson install` was told to put it. */
const char *const *resource_folders(void);

/* The first of `folders` that has `path` ("config/default.ini"); an absolute path is taken as it is.
 * ERR_INVALID names the places that were looked at. The caller frees *found. */
enum status resource_find(const char *path, const char *const *folders, char **found);

#endif
