/* test_file.c - atomic replacement, mapping and folders, with faults of the system put in. */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/file.h"
#include "check.h"
#include "temp_folder.h"

/* The calls below replace those of the C library in this program; a zeroed struct lets them
 * through. */
static struct {
    int reserve_interrupts;     /* EINTR so many times first */
    int reserve_error;
    bool interrupt_writes;      /* every second write fails with EINTR */
    bool last_interrupted;
    size_t write_most;          /* bytes of one write; 0 for no limit */
    size_t write_room;          /* with write_error: bytes that still fit */
    int write_error;
    int sync_error;
    int sync_countdown;         /* the fsync that fails: 1 for the next */
    int rename_error;
} fault;
static int n_writes;

int posix_fallocate(int fd, off_t offset, off_t size)
{
    if (fault.reserve_interrupts > 0) {
        fault.reserve_interrupts--;
        return EINTR;
    }
    if (fault.reserve_error)
        return fault.reserve_error;
    return ftruncate(fd, offset + size) == 0 ? 0 : errno;
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset)
{
    n_writes++;
    if (fault.interrupt_writes && !fault.last_interrupted) {
        fault.last_interrupted = true;
        errno = EINTR;
        return -1;
    }
    fault.last_interrupted = false;
    if (fault.write_most > 0 && size > fault.write_most)
        size = fault.write_most;
    if (fault.write_error) {
        if (fault.write_room == 0) {
            errno = fault.write_error;
            return -1;
        }
        if (size > fault.write_room)
            size = fault.write_room;
        fault.write_room -= size;
    }
    return (ssize_t)syscall(SYS_pwrite64, fd, data, size, offset);
}

int fsync(int fd)
{
    if (fault.sync_countdown > 0 && --fault.sync_countdown == 0) {
        errno = fault.sync_error;
        return -1;
    }
    return (int)syscall(SYS_fsync, fd);
}

int rename(const char *from, const char *to)
{
    if (fault.rename_error) {
        errno = fault.rename_error;
        return -1;
    }
    return (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

static void put(const char *path, const char *text)
{
    CHECK(temp_put(path, text, strlen(text)));
}

/* True if the file holds this text. */
static bool holds(const char *path, const char *text)
{
    size_t size;
    char *data = temp_get(path, &size);

    const bool same = data && size == strlen(text) && memcmp(data, text, size) == 0;
    free(data);
    return same;
}

static const char *temporary_of(const char *path)
{
    static char name[sizeof temp_folder + 512];

    snprintf(name, sizeof name, "%s.tmp.%ld", path, (long)getpid());
    return name;
}

static void commit_makes_the_file_appear(void)
{
    const char *path = temp_path("new");
    struct atomic_file file;

    CHECK_OK(atomic_file_open(&file, path, 0));
    CHECK_OK(atomic_file_write(&file, "whole ", 6));
    CHECK_OK(atomic_file_write(&file, "", 0));
    CHECK_OK(atomic_file_write(&file, "text", 4));
    CHECK(!file_exists(path));
    CHECK(holds(temporary_of(path), "whole text"));
    CHECK_OK(atomic_file_commit(&file));
    CHECK(holds(path, "whole text"));
    CHECK(file.fd == -1 && temp_folder_count() == 1);
    atomic_file_discard(&file);
    CHECK(holds(path, "whole text"));
}

static void older_file_stays_until_commit(void)
{
    const char *path = temp_path("old");
    struct atomic_file file;

    put(path, "older");
    CHECK_OK(atomic_file_open(&file, path, 0));
    CHECK_OK(atomic_file_write(&file, "newer", 5));
    CHECK(holds(path, "older"));
    atomic_file_discard(&file);
    CHECK(holds(path, "older"));
    CHECK(temp_folder_count() == 1);
    atomic_file_discard(&file);

    CHECK_OK(atomic_file_open(&file, path, 0));
    CHECK_OK(atomic_file_write(&file, "newer", 5));
    CHECK_OK(atomic_file_commit(&file));
    CHECK(holds(path, "newer"));
    CHECK(temp_folder_count() == 1);
}

static void header_can_come_last(void)
{
    const char *path = temp_path("header");
    struct atomic_file file;

    CHECK_OK(atomic_file_open(&file, path, 9));
    CHECK_OK(atomic_file_write(&file, "....", 4));
    CHECK_OK(atomic_file_write_at(&file, "head", 4, 0));
    CHECK_OK(atomic_file_write(&file, " body", 5));
    CHECK_FAILS(atomic_file_write_at(&file, "x", 1, UINT64_MAX), ERR_INVALID, "offset");
    CHECK_FAILS(atomic_file_write_at(&file, "x", 1, INT64_MAX), ERR_INVALID, "offset");
    CHECK_OK(atomic_file_commit(&file));
    CHECK(holds(path, "head body"));
}

static void reserved_space_not_written_is_cut_off(void)
{
    const char *path = temp_path("reserved");
    struct atomic_file file;

    CHECK_OK(atomic_file_open(&file, path, 100000));
    CHECK_OK(atomic_file_write_at(&file, "three", 5, 0));
    CHECK_OK(atomic_file_commit(&file));
    CHECK(holds(path, "three"));

    CHECK_OK(atomic_file_open(&file, path, 2));
    CHECK_OK(atomic_file_write(&file, "longer than reserved", 20));
    CHECK_OK(atomic_file_commit(&file));
    CHECK(holds(path, "longer than reserved"));
}

static void full_disk_is_found_at_open(void)
{
    const char *path = temp_path("full");
    struct atomic_file file;

    put(path, "older");
    fault.reserve_error = ENOSPC;
    CHECK_FAILS(atomic_file_open(&file, path, 123456789), ERR_IO, "123456789 bytes");
    CHECK(strstr(status_message(), path) && strstr(status_message(), "are free"));
    CHECK(strstr(status_message(), strerror(ENOSPC)) != NULL);
    CHECK(file.fd == -1);
    CHECK(holds(path, "older"));
    CHECK(temp_folder_count() == 1);
    fault.reserve_error = 0;
    CHECK_FAILS(atomic_file_open(&file, path, UINT64_MAX), ERR_IO, "18446744073709551615");
    CHECK(temp_folder_count() == 1);
}

static void file_systems_without_reservation_are_fine(void)
{
    const int errors[] = {EOPNOTSUPP, EINVAL};
    const char *path = temp_path("plain");
    struct atomic_file file;

    for (int i = 0; i < 2; i++) {
        fault.reserve_interrupts = 3;
        fault.reserve_error = errors[i];
        CHECK_OK(atomic_file_open(&file, path, 10));
        CHECK(fault.reserve_interrupts == 0);
        CHECK_OK(atomic_file_write(&file, "short", 5));
        CHECK_OK(atomic_file_commit(&file));
        CHECK(holds(path, "short"));
    }
}

static void short_and_interrupted_writes_go_on(void)
{
    const char *path = temp_path("interrupted");
    struct atomic_file file;

    fault.interrupt_writes = true;
    fault.write_most = 3;
    CHECK_OK(atomic_file_open(&file, path, 0));
    n_writes = 0;
    CHECK_OK(atomic_file_write(&file, "0123456789", 10));
    CHECK(n_writes == 8);
    CHECK_OK(atomic_file_write(&file, "abcdefghij", 10));
    CHECK_OK(atomic_file_commit(&file));
    CHECK(holds(path, "0123456789abcdefghij"));
}

static void failing_write_names_the_file(void)
{
    const char *path = temp_path("failing");
    struct atomic_file file;

    put(path, "older");
    fault.write_error = ENOSPC;
    fault.write_room = 4;
    CHECK_OK(atomic_file_open(&file, path, 0));
    CHECK_FAILS(atomic_file_write(&file, "0123456789", 10), ERR_IO, path);
    CHECK(strstr(status_message(), strerror(ENOSPC)) != NULL);
    atomic_file_discard(&file);
    CHECK(holds(path, "older"));
    CHECK(temp_folder_count() == 1);
}

/* Fill in the faults, then try to replace a file. */
static void check_commit_fails(const char *text)
{
    const char *path = temp_path("kept");
    struct atomic_file file;

    put(path, "older");
    CHECK_OK(atomic_file_open(&file, path, 0));
    CHECK_OK(atomic_file_write(&file, "newer", 5));
    CHECK_FAILS(atomic_file_commit(&file), ERR_IO, text);
    CHECK(strstr(status_message(), path) != NULL);
    CHECK(holds(path, "older"));
    atomic_file_discard(&file);
    CHECK(holds(path, "older"));
    CHECK(temp_folder_count() == 1);
}

static void failing_commit_keeps_the_older_file(void)
{
    fault.sync_error = EIO;
    fault.sync_countdown = 1;
    check_commit_fails(strerror(EIO));
    fault.rename_error = EPERM;
    check_commit_fails(strerror(EPERM));
}

static void folder_sync(void)
{
    const char *path = temp_path("synced");
    struct atomic_file file;

    const int harmless[] = {EINTR, EINVAL, EOPNOTSUPP};
    for (int i = 0; i < 3; i++) {
        CHECK_OK(atomic_file_open(&file, path, 0));
        fault.sync_error = harmless[i];
        fault.sync_countdown = 2;
        CHECK_OK(atomic_file_commit(&file));
        CHECK(fault.sync_countdown == 0);
    }

    CHECK_OK(atomic_file_open(&file, path, 0));
    CHECK_OK(atomic_file_write(&file, "newer", 5));
    fault.sync_error = EIO;
    fault.sync_countdown = 2;
    CHECK_FAILS(atomic_file_commit(&file), ERR_IO, "folder");
    atomic_file_discard(&file);
    CHECK(holds(path, "newer"));
    CHECK(temp_folder_count() == 1);
}

static void what_is_no_file_is_not_replaced(void)
{
    const char *pipe_path = temp_path("pipe"), *sub = temp_path("sub");
    struct atomic_file file;

    CHECK(mkfifo(pipe_path, 0600) == 0 && mkdir(sub, 0700) == 0);
    CHECK_FAILS(atomic_file_open(&file, pipe_path, 0), ERR_INVALID, pipe_path);
    atomic_file_discard(&file);
    CHECK_FAILS(atomic_file_open(&file, sub, 0), ERR_INVALID, "is a folder");
    CHECK_FAILS(atomic_file_open(&file, "", 0), ERR_INVALID, "without a name");
    CHECK_FAILS(atomic_file_open(&file, "/dev/null", 0), ERR_INVALID, "/dev/null");
    CHECK(symlink("/dev/null", temp_path("link")) == 0);
    CHECK_FAILS(atomic_file_open(&file, temp_path("link"), 0), ERR_INVALID, "link");
    CHECK_FAILS(atomic_file_open(&file, temp_path("absent/new"), 0), ERR_INVALID, "absent/new");
    CHECK_FAILS(atomic_file_open(&file, temp_path("absent/"), 0), ERR_INVALID, "absent/");
    CHECK_FAILS(atomic_file_commit(&file), ERR_INVALID, "no file is open");
    atomic_file_discard(&file);
    CHECK(temp_folder_count() == 3);
}

static void links_are_replaced(void)
{
    const char *path = temp_path("link"), *target = temp_path("target");
    struct atomic_file file;

    put(target, "untouched");
    CHECK(symlink(target, path) == 0);
    for (int i = 0; i < 2; i++) {
        CHECK_OK(atomic_file_open(&file, path, 0));
        CHECK_OK(atomic_file_write(&file, "new", 3));
        CHECK_OK(atomic_file_commit(&file));
        CHECK(holds(path, "new") && holds(target, "untouched"));
        /* And a link to nothing. */
        CHECK(remove(path) == 0 && symlink(temp_path("absent"), path) == 0);
    }
    CHECK(temp_folder_count() == 2);
}

/* A killed process may have had the same number, and others may put a link there. */
static void temporary_name_in_use(void)
{
    const char *path = temp_path("target"), *victim = temp_path("victim");
    struct atomic_file file;

    put(victim, "untouched");
    put(temporary_of(path), "rest of a much longer file of an earlier run");
    CHECK_OK(atomic_file_open(&file, path, 0));
    CHECK_OK(atomic_file_write(&file, "new", 3));
    CHECK_OK(atomic_file_commit(&file));
    CHECK(holds(path, "new"));

    CHECK(symlink(victim, temporary_of(path)) == 0);
    CHECK_OK(atomic_file_open(&file, path, 0));
    CHECK_OK(atomic_file_write(&file, "other", 5));
    CHECK_OK(atomic_file_commit(&file));
    CHECK(holds(path, "other"));
    CHECK(holds(victim, "untouched"));
    CHECK(temp_folder_count() == 2);
}

static void relative_names(void)
{
    struct atomic_file file;
    char before[4096];

    CHECK(getcwd(before, sizeof before) != NULL);
    CHECK(chdir(temp_folder) == 0);
    CHECK_OK(atomic_file_open(&file, "relative", 0));
    CHECK_OK(atomic_file_write(&file, "here", 4));
    CHECK_OK(atomic_file_commit(&file));
    CHECK(holds("relative", "here"));
    CHECK_OK(folder_create("a/b"));
    CHECK(chdir(before) == 0);
    CHECK(holds(temp_path("relative"), "here"));
    CHECK(file_exists(temp_path("a/b")));
}

static void mapping(void)
{
    const char *path = temp_path("mapped"), *pipe_path = temp_path("pipe");
    struct mapped_file file;

    put(path, "some bytes");
    CHECK_OK(mapped_file_open(&file, path));
    CHECK(file.size == 10 && memcmp(file.data, "some bytes", 10) == 0);
    mapped_file_close(&file);
    CHECK(file.data == NULL && file.size == 0);
    mapped_file_close(&file);

    put(path, "");
    CHECK_FAILS(mapped_file_open(&file, path), ERR_INVALID, "is empty");
    mapped_file_close(&file);
    CHECK_FAILS(mapped_file_open(&file, temp_path("absent")), ERR_INVALID, strerror(ENOENT));
    CHECK_FAILS(mapped_file_open(&file, temp_folder), ERR_INVALID, "not a regular file");
    CHECK(mkfifo(pipe_path, 0600) == 0);
    CHECK_FAILS(mapped_file_open(&file, pipe_path), ERR_INVALID, pipe_path);
    CHECK_FAILS(mapped_file_open(&file, "/dev/zero"), ERR_INVALID, "/dev/zero");
}

static void creating_folders(void)
{
    struct stat info;

    CHECK_OK(folder_create(temp_path("a/b//c/")));
    CHECK(stat(temp_path("a/b/c"), &info) == 0 && S_ISDIR(info.st_mode));
    CHECK_OK(folder_create(temp_path("a/b/c")));
    CHECK_OK(folder_create("/"));
    CHECK_OK(folder_create("."));
    CHECK(symlink(temp_path("a/b"), temp_path("link")) == 0);
    CHECK_OK(folder_create(temp_path("link/d")));
    CHECK(file_exists(temp_path("a/b/d")));

    put(temp_path("plain"), "text");
    CHECK_FAILS(folder_create(temp_path("plain")), ERR_INVALID, "a file has this name");
    CHECK_FAILS(folder_create(temp_path("plain/x")), ERR_INVALID, "a file has this name");
    CHECK_FAILS(folder_create(""), ERR_INVALID, "without a name");
    CHECK(symlink(temp_path("nowhere"), temp_path("dangling")) == 0);
    CHECK_FAILS(folder_create(temp_path("dangling")), ERR_INVALID, "dangling");
    CHECK(holds(temp_path("plain"), "text"));
}

static void asking_about_folders(void)
{
    uint64_t bytes = 0;

    CHECK_OK(folder_check_writable(temp_folder));
    CHECK(temp_folder_count() == 0);
    CHECK_FAILS(folder_check_writable(temp_path("absent")), ERR_INVALID, "absent");
    put(temp_path("plain"), "");
    CHECK_FAILS(folder_check_writable(temp_path("plain")), ERR_INVALID, "plain");
    /* Nobody can create files here, not even the administrator. */
    CHECK_FAILS(folder_check_writable("/proc/self"), ERR_INVALID, "/proc/self");

    CHECK_OK(folder_free_bytes(temp_folder, &bytes));
    CHECK(bytes > 0);
    CHECK_FAILS(folder_free_bytes(temp_path("absent"), &bytes), ERR_IO, "absent");
    CHECK(file_exists(temp_folder) && file_exists(temp_path("plain")));
    CHECK(!file_exists(temp_path("absent")));
}

/* Each case starts with an empty folder and without faults. */
#define FRESH_CASE(name)                        \
    do {                                        \
        memset(&fault, 0, sizeof fault);        \
        temp_folder_empty();                         \
        CASE(name);                             \
    } while (0)

int main(void)
{
    if (!temp_folder_create("test_file"))
        return 1;
    FRESH_CASE(commit_makes_the_file_appear);
    FRESH_CASE(older_file_stays_until_commit);
    FRESH_CASE(header_can_come_last);
    FRESH_CASE(reserved_space_not_written_is_cut_off);
    FRESH_CASE(full_disk_is_found_at_open);
    FRESH_CASE(file_systems_without_reservation_are_fine);
    FRESH_CASE(short_and_interrupted_writes_go_on);
    FRESH_CASE(failing_write_names_the_file);
    FRESH_CASE(failing_commit_keeps_the_older_file);
    FRESH_CASE(folder_sync);
    FRESH_CASE(what_is_no_file_is_not_replaced);
    FRESH_CASE(links_are_replaced);
    FRESH_CASE(temporary_name_in_use);
    FRESH_CASE(relative_names);
    FRESH_CASE(mapping);
    FRESH_CASE(creating_folders);
    FRESH_CASE(asking_about_folders);
    temp_folder_remove();
    return check_finish();
}
