/* disk_shim.c - a disk that is small, fails or is slow, for one program (LD_PRELOAD):
 *
 *     OCTET_SHIM_FREE=BYTES                   so much is free on every file system
 *     OCTET_SHIM_FAULT=CALL:ERROR:FIRST-LAST[:BYTES]
 *                                             checkpoints FIRST to LAST, counted from 1, fail at CALL
 *                                             with errno ERROR; pwrite only behind the first BYTES
 *     OCTET_SHIM_HOLD=CALL:FILE               CALL waits as long as FILE exists; FILE.held is there as
 *                                             soon as it does
 *
 * CALL is posix_fallocate, with which each checkpoint begins, pwrite, fsync or rename of a checkpoint;
 * to be held also statvfs. ERROR is a number, or KILL, which ends the process instead. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

static _Atomic int n_saves;

static bool is_checkpoint(const char *path)
{
    return strstr(path, ".safetensors.tmp.") != NULL;
}

static bool is_open_checkpoint(int fd)
{
    char link[64], path[PATH_MAX];

    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    const ssize_t length = readlink(link, path, sizeof path - 1);
    path[length > 0 ? length : 0] = '\0';
    return is_checkpoint(path);
}

static void hold(const char *call)
{
    const char *rule = getenv("OCTET_SHIM_HOLD");
    const struct timespec moment = {.tv_nsec = 5000000};
    const size_t length = strlen(call);
    char held[PATH_MAX];

    if (!rule || strncmp(rule, call, length) != 0 || rule[length] != ':')
        return;
    const char *file = rule + length + 1;
    if (access(file, F_OK) != 0)
        return;
    snprintf(held, sizeof held, "%s.held", file);
    close(open(held, O_WRONLY | O_CREAT | O_CLOEXEC, 0666));
    while (access(file, F_OK) == 0)
        nanosleep(&moment, NULL);
}

/* The error with which this call of a checkpoint ends, 0 for none; `end` of what it would write. */
static int fault(const char *call, long end)
{
    const char *rule = getenv("OCTET_SHIM_FAULT");
    char name[32], error[8];
    int first, last;
    long bytes = 0;

    hold(call);
    if (!rule || sscanf(rule, "%31[^:]:%7[^:]:%d-%d:%ld", name, error, &first, &last, &bytes) < 4 ||
        strcmp(name, call) != 0 || n_saves < first || n_saves > last || end <= bytes)
        return 0;
    if (strcmp(error, "KILL") == 0)
        raise(SIGKILL);
    return atoi(error);
}

int posix_fallocate64(int fd, off64_t offset, off64_t size)
{
    int (*real)(int, off64_t, off64_t) =
        (int (*)(int, off64_t, off64_t))dlsym(RTLD_NEXT, "posix_fallocate64");

    if (is_open_checkpoint(fd)) {
        n_saves++;
        const int error = fault("posix_fallocate", 1);
        if (error)
            return error;
    }
    return real(fd, offset, size);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset)
{
    ssize_t (*real)(int, const void *, size_t, off64_t) =
        (ssize_t (*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
    const int error = is_open_checkpoint(fd) ? fault("pwrite", (long)offset + (long)size) : 0;

    if (!error)
        return real(fd, data, size, offset);
    errno = error;
    return -1;
}

int fsync(int fd)
{
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    const int error = is_open_checkpoint(fd) ? fault("fsync", 1) : 0;

    if (!error)
        return real(fd);
    errno = error;
    return -1;
}

int rename(const char *from, const char *to)
{
    int (*real)(const char *, const char *) =
        (int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename");
    const int error = is_checkpoint(from) ? fault("rename", 1) : 0;

    if (!error)
        return real(from, to);
    errno = error;
    return -1;
}

int statvfs64(const char *path, struct statvfs64 *info)
{
    int (*real)(const char *, struct statvfs64 *) =
        (int (*)(const char *, struct statvfs64 *))dlsym(RTLD_NEXT, "statvfs64");
    const char *bytes = getenv("OCTET_SHIM_FREE");

    hold("statvfs");
    const int status = real(path, info);
    if (status == 0 && bytes) {
        info->f_bavail = (fsblkcnt64_t)strtoull(bytes, NULL, 10);
        info->f_frsize = 1;
        info->f_blocks = info->f_bavail + 1;
    }
    return status;
}
