#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/bus_error.h"

/* A name that can't be is the user's to mend; a disk that fails is not. */
static enum status status_of_name(int error)
{
    switch (error) {
    case ENOENT:
    case ENOTDIR:
    case EISDIR:
    case EACCES:
    case EPERM:
    case EROFS:
    case ELOOP:
    case ENAMETOOLONG:
        return ERR_INVALID;
    default:
        return ERR_IO;
    }
}

static int open_retrying(const char *path, int flags)
{
    int fd;

    do {
        fd = open(path, flags | O_CLOEXEC, 0666);
    } while (fd < 0 && errno == EINTR);
    return fd;
}

/* The folder that holds `path`; NULL without memory. */
static char *folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');

    if (!slash)
        return strdup(".");
    if (slash == path)
        return strdup("/");
    return strndup(path, (size_t)(slash - path));
}

/* A device, a folder or a pipe must not be replaced by a file, nor a link to one. */
static enum status check_replaceable(const char *path)
{
    struct stat info;

    if (path[0] == '\0')
        return fail(ERR_INVALID, "cannot write a file without a name: expected a path");
    if (stat(path, &info) != 0)
        return errno == ENOENT ? OK : fail_errno(status_of_name(errno), "%s: cannot be written",
                                                 path);
    if (S_ISDIR(info.st_mode))
        return fail(ERR_INVALID, "%s: is a folder, expected the name of a file to write", path);
    if (!S_ISREG(info.st_mode))
        return fail(ERR_INVALID, "%s: is not a regular file and cannot be replaced", path);
    return OK;
}

static int reserve_space(int fd, uint64_t size)
{
    int error;

    if (size > INT64_MAX)
        return EFBIG;
    do {
        error = posix_fallocate(fd, 0, (off_t)size);
    } while (error == EINTR);
    /* Not every file system can; a full disk is then found by a write. */
    return error == EOPNOTSUPP || error == EINVAL ? 0 : error;
}

static enum status fail_reserve(int error, const char *path, uint64_t size)
{
    char *folder = folder_of(path);
    uint64_t available;

    if (folder && folder_free_bytes(folder, &available) == OK && available != UINT64_MAX) {
        errno = error;
        fail_errno(ERR_IO, "%s: cannot reserve %" PRIu64 " bytes on the disk, %" PRIu64
                   " are free", path, size, available);
    } else {
        errno = error;
        fail_errno(ERR_IO, "%s: cannot reserve %" PRIu64 " bytes on the disk", path, size);
    }
    free(folder);
    return ERR_IO;
}

enum status atomic_file_open(struct atomic_file *file, const char *path, uint64_t reserve)
{
    enum status status;

    *file = (struct atomic_file){.fd = -1};
    TRY(check_replaceable(path));

    file->path = strdup(path);
    if (!file->path || asprintf(&file->temporary, "%s.tmp.%ld", path, (long)getpid()) < 0) {
        file->temporary = NULL;
        status = fail(ERR_NOMEM, "%s: not enough memory to open it", path);
        goto failed;
    }
    /* A killed run with this process's number may have left one. */
    unlink(file->temporary);
    file->fd = open_retrying(file->temporary, O_WRONLY | O_CREAT | O_EXCL);
    if (file->fd < 0) {
        status = fail_errno(status_of_name(errno), "%s: cannot create files in its folder", path);
        goto failed;
    }
    if (reserve > 0) {
        const int error = reserve_space(file->fd, reserve);
        if (error) {
            /* What was reserved in part is given back before the free bytes are counted. */
            atomic_file_discard(file);
            return fail_reserve(error, path, reserve);
        }
        file->reserved = reserve;
    }
    return OK;

failed:
    atomic_file_discard(file);
    return status;
}

enum status atomic_file_write(struct atomic_file *file, const void *data, size_t size)
{
    TRY(atomic_file_write_at(file, data, size, file->position));
    file->position += size;
    return OK;
}

enum status atomic_file_write_at(struct atomic_file *file, const void *data, size_t size,
                                 uint64_t offset)
{
    const char *bytes = data;
    uint64_t end;

    if (__builtin_add_overflow(offset, size, &end) || end > INT64_MAX)
        return fail(ERR_INVALID, "%s: cannot write beyond the largest file offset", file->path);
    while (size > 0) {
        const ssize_t written = pwrite(file->fd, bytes, size, (off_t)offset);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return fail_errno(ERR_IO, "%s: cannot write %zu bytes", file->path, size);
        if (written == 0)
            return fail(ERR_IO, "%s: the system wrote none of %zu bytes", file->path, size);
        bytes += written;
        offset += (uint64_t)written;
        size -= (size_t)written;
    }
    if (end > file->end)
        file->end = end;
    return OK;
}

/* Close first, so that an error that shows only then (NFS) is seen before the rename. */
static enum status finish_temporary(struct atomic_file *file)
{
    if (file->reserved > file->end &&
        TEMP_FAILURE_RETRY(ftruncate(file->fd, (off_t)file->end)) != 0)
        return fail_errno(ERR_IO, "%s: cannot cut to its size", file->path);
    if (TEMP_FAILURE_RETRY(fsync(file->fd)) != 0)
        return fail_errno(ERR_IO, "%s: cannot make it durable", file->path);

    const int fd = file->fd;
    file->fd = -1;
    /* After EINTR Linux has closed the descriptor all the same. */
    if (close(fd) != 0 && errno != EINTR)
        return fail_errno(ERR_IO, "%s: cannot finish writing", file->path);
    return OK;
}

/* Some network file systems have no fsync for folders. */
static bool sync_folder(int fd)
{
    return TEMP_FAILURE_RETRY(fsync(fd)) == 0 || errno == EINVAL || errno == EOPNOTSUPP;
}

enum status atomic_file_commit(struct atomic_file *file)
{
    enum status status;
    char *folder = NULL;
    int folder_fd = -1;

    if (file->fd < 0)
        return fail(ERR_INVALID, "%s: no file is open to be committed",
                    file->path ? file->path : "atomic file");
    TRY_GOTO(status, finish_temporary(file), done);

    folder = folder_of(file->path);
    if (!folder) {
        status = fail(ERR_NOMEM, "%s: not enough memory to finish it", file->path);
        goto done;
    }
    /* Opened before the rename: while anything can still fail, the older file stays. */
    folder_fd = open_retrying(folder, O_RDONLY | O_DIRECTORY);
    if (folder_fd < 0) {
        status = fail_errno(ERR_IO, "%s: cannot open the folder to make a file in it durable",
                            folder);
        goto done;
    }
    if (rename(file->temporary, file->path) != 0) {
        status = fail_errno(ERR_IO, "%s: cannot be replaced by %s", file->path, file->temporary);
        goto done;
    }
    free(file->temporary);
    file->temporary = NULL;
    if (!sync_folder(folder_fd))
        status = fail_errno(ERR_IO, "%s: is written, but its folder cannot be made durable",
                            file->path);

done:
    if (folder_fd >= 0)
        close(folder_fd);
    free(folder);
    if (status == OK)
        atomic_file_discard(file);
    return status;
}

void atomic_file_discard(struct atomic_file *file)
{
    if (file->fd >= 0)
        close(file->fd);
    if (file->temporary)
        unlink(file->temporary);
    free(file->temporary);
    free(file->path);
    *file = (struct atomic_file){.fd = -1};
}

enum status mapped_file_open(struct mapped_file *file, const char *path)
{
    enum status status = OK;
    struct stat info;

    *file = (struct mapped_file){0};
    /* O_NONBLOCK: a pipe is refused below, not waited for. */
    const int fd = open_retrying(path, O_RDONLY | O_NONBLOCK);
    if (fd < 0)
        return fail_errno(status_of_name(errno), "%s: cannot open", path);
    if (fstat(fd, &info) != 0) {
        status = fail_errno(ERR_IO, "%s: cannot read its size", path);
    } else if (!S_ISREG(info.st_mode)) {
        status = fail(ERR_INVALID, "%s: is not a regular file", path);
    } else if (info.st_size == 0) {
        status = fail(ERR_INVALID, "%s: is empty", path);
    } else {
        void *data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED)
            status = fail_errno(errno == ENOMEM ? ERR_NOMEM : ERR_IO, "%s: cannot map %jd bytes",
                                path, (intmax_t)info.st_size);
        else
            *file = (struct mapped_file){data, (size_t)info.st_size, fd};
        if (file->data)
            bus_error_watch(file->data, file->size, path);
    }
    if (!file->data)
        close(fd);
    return status;
}

void mapped_file_close(struct mapped_file *file)
{
    if (file->data) {
        bus_error_forget(file->data);
        munmap((void *)file->data, file->size);
        close(file->fd);
    }
    *file = (struct mapped_file){0};
}

bool mapped_file_is_whole(const struct mapped_file *file)
{
    struct stat info;

    return fstat(file->fd, &info) == 0 && info.st_size >= 0 && (size_t)info.st_size >= file->size;
}

enum status folder_make_durable(const char *path)
{
    enum status status = OK;

    const int fd = open_retrying(path, O_RDONLY | O_DIRECTORY);
    if (fd < 0 && errno == EACCES)
        return OK;
    if (fd < 0 || !sync_folder(fd))
        status = fail_errno(ERR_IO, "%s: cannot make the folder durable", path);
    if (fd >= 0)
        close(fd);
    return status;
}

static enum status sync_parent(const char *path)
{
    char *folder = folder_of(path);

    if (!folder)
        return fail(ERR_NOMEM, "%s: not enough memory to create the folder", path);
    const enum status status = folder_make_durable(folder);
    free(folder);
    return status;
}

static enum status create_one_folder(const char *path)
{
    struct stat info;

    /* Looked at first, because a read-only file system may refuse what exists. */
    if (stat(path, &info) != 0) {
        if (mkdir(path, 0777) == 0)
            return sync_parent(path);
        if (errno != EEXIST)
            return fail_errno(status_of_name(errno), "%s: cannot create the folder", path);
        /* Another process was faster, or the name is a link to nothing. */
        if (stat(path, &info) != 0)
            return fail_errno(status_of_name(errno), "%s: cannot create the folder", path);
    }
    if (!S_ISDIR(info.st_mode))
        return fail(ERR_INVALID, "%s: cannot create the folder: a file has this name", path);
    return OK;
}

enum status folder_create(const char *path)
{
    enum status status = OK;

    if (path[0] == '\0')
        return fail(ERR_INVALID, "cannot create a folder without a name: expected a path");
    char *part = strdup(path);
    if (!part)
        return fail(ERR_NOMEM, "%s: not enough memory to create the folder", path);
    for (char *slash = strchr(part + 1, '/'); slash && status == OK;
         slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        status = create_one_folder(part);
        *slash = '/';
    }
    free(part);
    return status == OK ? create_one_folder(path) : status;
}

enum status folder_check_writable(const char *path)
{
    enum status status = OK;
    char *name;

    if (asprintf(&name, "%s/.write_test.XXXXXX", path) < 0)
        return fail(ERR_NOMEM, "%s: not enough memory to try the folder", path);
    const int fd = mkostemp(name, O_CLOEXEC);
    if (fd < 0) {
        status = fail_errno(status_of_name(errno), "%s: cannot create files in this folder", path);
    } else {
        close(fd);
        unlink(name);
    }
    free(name);
    return status;
}

/* The process that holds the lock, as /proc/locks lists it by the folder's inode; 0: not found. */
static long lock_holder(const struct stat *folder)
{
    FILE *locks = fopen("/proc/locks", "re");
    char line[256];
    long holder = 0;

    while (locks && holder == 0 && fgets(line, sizeof line, locks)) {
        unsigned long long inode;
        long pid;
        if (sscanf(line, "%*s FLOCK %*s %*s %ld %*x:%*x:%llu", &pid, &inode) == 2 &&
            inode == folder->st_ino)
            holder = pid;
    }
    if (locks)
        fclose(locks);
    return holder;
}

enum status folder_lock(const char *path, int *lock)
{
    struct stat info;

    *lock = open_retrying(path, O_RDONLY | O_DIRECTORY);
    if (*lock < 0)
        return fail_errno(status_of_name(errno), "%s: cannot open the folder", path);
    if (flock(*lock, LOCK_EX | LOCK_NB) == 0)
        return OK;
    /* Some network file systems have no locks; then nothing is promised. */
    if (errno != EWOULDBLOCK)
        return OK;
    const long holder = fstat(*lock, &info) == 0 ? lock_holder(&info) : 0;
    close(*lock);
    *lock = -1;
    if (holder == 0)        /* in another container, perhaps */
        return fail(ERR_INVALID, "%s: in use by another run: wait for it, or choose another folder",
                    path);
    return fail(ERR_INVALID, "%s: in use by another run (process %ld): wait for it, or choose "
                "another folder", path, holder);
}

enum status folder_lock_again(const char *path, int *lock, bool *changed)
{
    struct stat held, here;
    int other;

    *changed = false;
    if (*lock < 0 || fstat(*lock, &held) != 0)
        return OK;
    if (stat(path, &here) != 0) {
        if (errno != ENOENT)
            return OK;
        TRY(folder_create(path));
    } else if (here.st_dev == held.st_dev && here.st_ino == held.st_ino) {
        return OK;
    }
    TRY(folder_lock(path, &other));
    folder_unlock(*lock);
    *lock = other;
    *changed = true;
    return OK;
}

void folder_unlock(int lock)
{
    if (lock >= 0)
        close(lock);
}

enum status folder_create_new(char *path, size_t size)
{
    const size_t length = strlen(path);

    for (int n = 2; mkdir(path, 0777) != 0; n++) {
        if (errno != EEXIST)
            return fail_errno(status_of_name(errno), "%s: cannot create the folder", path);
        if (snprintf(path + length, size - length, "-%d", n) >= (int)(size - length))
            return fail(ERR_INVALID, "%s: the name is too long", path);
    }
    return OK;
}

enum status folder_free_bytes(const char *path, uint64_t *bytes)
{
    struct statvfs info;

    if (TEMP_FAILURE_RETRY(statvfs(path, &info)) != 0)
        return fail_errno(ERR_IO, "%s: cannot read the free space", path);
    if (info.f_blocks == 0 ||
        __builtin_mul_overflow((uint64_t)info.f_bavail, (uint64_t)info.f_frsize, bytes))
        *bytes = UINT64_MAX;
    return OK;
}

bool file_exists(const char *path)
{
    return access(path, F_OK) == 0;
}
