/* temp_folder.h - a folder of a test program's own under $TMPDIR or /tmp, and whole files in it.
 *
 *     if (!temp_folder_create("test_name"))
 *         return 1;
 *     ...
 *     temp_folder_remove();
 */
#ifndef OCTET_TEMP_FOLDER_H
#define OCTET_TEMP_FOLDER_H

#include <ftw.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

static char temp_folder[1024];
static int temp_found;

static inline bool temp_folder_create(const char *name)
{
    const char *base = getenv("TMPDIR");

    snprintf(temp_folder, sizeof temp_folder, "%s/%s.XXXXXX", base && *base ? base : "/tmp", name);
    if (mkdtemp(temp_folder))
        return true;
    perror(temp_folder);
    return false;
}

static inline int temp_remove_one(const char *path, const struct stat *info, int kind,
                                  struct FTW *place)
{
    (void)info, (void)kind, (void)place;
    return remove(path);
}

static inline void temp_folder_remove(void)
{
    nftw(temp_folder, temp_remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

/* Remove all that is in it. */
static inline void temp_folder_empty(void)
{
    temp_folder_remove();
    if (mkdir(temp_folder, 0700) != 0)
        perror(temp_folder);
}

static inline int temp_count_one(const char *path, const struct stat *info, int kind,
                                 struct FTW *place)
{
    (void)path, (void)info, (void)kind;
    temp_found += place->level > 0;
    return 0;
}

/* How many files and folders are in it, at all levels. */
static inline int temp_folder_count(void)
{
    temp_found = 0;
    nftw(temp_folder, temp_count_one, 8, FTW_PHYS);
    return temp_found;
}

/* The path of a name in the folder; valid until the eighth call from here. */
static inline const char *temp_path(const char *name)
{
    static char paths[8][sizeof temp_folder + 256];
    static int next;

    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", temp_folder, name);
    return path;
}

/* Write a whole file. */
static inline bool temp_put(const char *path, const void *data, size_t size)
{
    FILE *file = fopen(path, "wb");

    if (!file)
        return false;
    const bool written = fwrite(data, 1, size, file) == size;
    return fclose(file) == 0 && written;
}

/* Read a whole file; a NUL follows that `size` does not count. NULL if it can't be read. The
 * caller frees. */
static inline char *temp_get(const char *path, size_t *size)
{
    struct stat info;
    char *data = NULL;

    *size = 0;
    FILE *file = fopen(path, "rb");
    if (!file)
        return NULL;
    if (fstat(fileno(file), &info) == 0 && (data = malloc((size_t)info.st_size + 1))) {
        *size = fread(data, 1, (size_t)info.st_size, file);
        data[*size] = '\0';
    }
    fclose(file);
    return data;
}

#endif
