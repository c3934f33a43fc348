/* resource.h - files that come with the program: configurations and the sample text. */
#ifndef OCTET_RESOURCE_H
#define OCTET_RESOURCE_H

#include "base/status.h"

/* Where `path` ("config/default.ini") is: as it stands, or else, for a relative path, below the
 * folder the program was installed to, or the source tree it was built from. ERR_INVALID names the
 * places that were looked at. The caller frees *found. */
enum status resource_find(const char *path, char **found);

#endif
