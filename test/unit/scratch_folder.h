/* scratch_folder.h - a folder for each test case, removed after it, and what the log says in it. */
#ifndef OCTET_TEST_SCRATCH_FOLDER_H
#define OCTET_TEST_SCRATCH_FOLDER_H

#include <dirent.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "test/check.h"

static char folder[PATH_MAX];
static FILE *said;

/* One of a few buffers in turn, so that one call can take several paths. */
static inline const char *in_folder(const char *name)
{
    static char paths[4][2 * PATH_MAX];
    static int turn;
    char *path = paths[turn++ % 4];

    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

static inline void set_up(void)
{
    const char *parent = getenv("TMPDIR");

    snprintf(folder, sizeof folder, "%s/octet_test.XXXXXX", parent ? parent : "/tmp");
    if (!mkdtemp(folder) || !(said = fopen(in_folder(".said"), "w+"))) {
        perror(folder);
        exit(1);
    }
    log_set_stream(said);
}

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *ftw)
{
    (void)info, (void)type, (void)ftw;
    return remove(path);
}

static inline void tear_down(void)
{
    log_set_stream(NULL);
    fclose(said);
    nftw(folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

/* The whole file and a NUL, which the caller frees; "" and a failed check where there is none. */
static inline char *read_file(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    char *data = calloc(1, 1 << 22);

    *size = 0;
    CHECK(file != NULL);
    if (file) {
        *size = fread(data, 1, (1 << 22) - 1, file);
        fclose(file);
    }
    return data;
}

enum { MAX_FOUND = 8 };

/* Paths of what does not start with a dot but with `prefix`, in the order of names; how many. */
static inline int find_files(char paths[MAX_FOUND][2 * PATH_MAX], const char *sub_folder,
                             const char *prefix)
{
    struct dirent **entries = NULL;
    const int n_entries = scandir(in_folder(sub_folder), &entries, NULL, alphasort);
    int n = 0;

    for (int i = 0; i < n_entries; i++) {
        const char *name = entries[i]->d_name;
        if (name[0] != '.' && strncmp(name, prefix, strlen(prefix)) == 0 && n < MAX_FOUND)
            snprintf(paths[n++], sizeof paths[0], "%s/%.20s/%s", folder, sub_folder, name);
        free(entries[i]);
    }
    free(entries);
    return n;
}

static inline void write_file(const char *path, const char *data, size_t size)
{
    FILE *file = fopen(path, "wb");

    CHECK(file && fwrite(data, 1, size, file) == size);
    if (file)
        fclose(file);
}

static inline void check_path(const char *path, const char *expected)
{
    size_t size;
    char *data = read_file(path, &size);

    CHECK_TEXT(data, expected);
    CHECK(size == strlen(expected));
    free(data);
}

static inline void check_file(const char *name, const char *expected)
{
    check_path(in_folder(name), expected);
}

static inline int count_in(const char *text, const char *word)
{
    int n = 0;

    for (text = strstr(text, word); text; text = strstr(text + 1, word))
        n++;
    return n;
}

/* Everything the log has put on its stream so far. */
static inline const char *all_said(void)
{
    static char text[1 << 16];

    fflush(said);
    rewind(said);
    text[fread(text, 1, sizeof text - 1, said)] = '\0';
    return text;
}

/* Run a case in a folder of its own. */
#define IN_FOLDER(name)     \
    do {                    \
        set_up();           \
        CASE(name);         \
        tear_down();        \
    } while (0)

#endif
