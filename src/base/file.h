/* file.h - files that are whole or absent: written under a temporary name, then renamed. */
#ifndef OCTET_FILE_H
#define OCTET_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

/* A new file that takes the place of `path` only when it is complete. */
struct atomic_file {
    int fd;                 /* -1 while nothing is open */
    char *path;
    char *temporary;        /* "PATH.tmp.PID", in the same folder */
    uint64_t reserved;      /* bytes allocated in advance */
    uint64_t position;      /* where atomic_file_write() goes on */
    uint64_t end;           /* of what was written; the rest of `reserved` is cut off by commit */
};

/* Create the temporary file; `reserve` bytes are allocated on the disk first (0 for none), so that
 * a full disk is found before anything is written. ERR_IO names the path and the bytes needed.
 * ERR_INVALID if `path` is a folder, a device or the like. A symbolic link to a file is replaced
 * itself; the file stays. */
enum status atomic_file_open(struct atomic_file *file, const char *path, uint64_t reserve);

/* Write all of it at the current position; ERR_IO names the path. */
enum status atomic_file_write(struct atomic_file *file, const void *data, size_t size);
/* The same at an offset, for a header that is known last. */
enum status atomic_file_write_at(struct atomic_file *file, const void *data, size_t size,
                                 uint64_t offset);

/* fsync, rename over `path`, fsync the folder. The older file stays whole until the rename. */
enum status atomic_file_commit(struct atomic_file *file);

/* Remove the temporary file; needed unless commit succeeded. Safe after commit, after a failure and
 * on a zeroed struct whose fd is -1. */
void atomic_file_discard(struct atomic_file *file);

/* A whole file mapped read-only. Empty files are refused. */
struct mapped_file {
    const unsigned char *data;
    size_t size;
    int fd;
};
enum status mapped_file_open(struct mapped_file *file, const char *path);
void mapped_file_close(struct mapped_file *file);
/* False once the file has been cut short: what was behind its end may have been read as zeros, or ends
 * in a bus error (bus_error.h). */
bool mapped_file_is_whole(const struct mapped_file *file);

/* Create a folder and its parents, durably; fine when it exists. */
enum status folder_create(const char *path);
/* Make the names in a folder durable. One that may not be read is passed over. */
enum status folder_make_durable(const char *path);
/* Create a folder that was not there: "-2", "-3", ... is put behind `path` (a buffer of `size` bytes)
 * until the name is free. */
enum status folder_create_new(char *path, size_t size);
/* Keep other runs out of a folder until unlocked, or until the process ends. ERR_INVALID names the
 * process that has it. *lock is -1 after an error, which folder_unlock() accepts. */
enum status folder_lock(const char *path, int *lock);
/* If another folder has that name since then, or none: lock that one in its place, which is created if
 * need be, and *changed is set. */
enum status folder_lock_again(const char *path, int *lock, bool *changed);
void folder_unlock(int lock);
/* ERR_INVALID or ERR_IO unless files can be created in this folder (tried by creating one). */
enum status folder_check_writable(const char *path);
/* Bytes free for this user on the file system that holds `path`; UINT64_MAX where it does not say. */
enum status folder_free_bytes(const char *path, uint64_t *bytes);

bool file_exists(const char *path);

#endif
