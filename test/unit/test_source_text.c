/* test_source_text.c - texts from files and pipes, read at any place; files that change. */
#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

#include "check.h"
#include "data/source_text.h"
#include "temp_folder.h"

enum { SIZE = 300000 };

static char content[SIZE];
static volatile sig_atomic_t stop;

/* Writes `content` into the named pipe at *context, in pieces of odd sizes. */
static void *feed(void *context)
{
    const int fd = open(context, O_WRONLY);

    for (size_t done = 0; done < SIZE;) {
        const size_t left = SIZE - done;
        const ssize_t n = write(fd, content + done, left < 4099 ? left : 4099);
        if (n <= 0)
            break;
        done += (size_t)n;
    }
    close(fd);
    return NULL;
}

/* `size` bytes from `offset` on are what `content` has there, as far as it goes. */
static void check_read(struct source_text *text, int64_t offset, size_t size)
{
    static char bytes[SIZE + 1];
    const size_t left = SIZE - (size_t)offset, expected = size < left ? size : left;
    size_t count;

    CHECK_OK(source_text_read(text, offset, bytes, size, &count));
    CHECK(count == expected);
    CHECK(memcmp(bytes, content + offset, count) == 0);
}

static void check_all_places(struct source_text *text)
{
    check_read(text, 0, SIZE);
    check_read(text, 0, SIZE + 1);
    check_read(text, 12345, 6789);
    check_read(text, SIZE - 1, 10);
    check_read(text, SIZE, 10);
    check_read(text, 1, 0);
}

static void from_file(void)
{
    const char *path = temp_path("text.txt");
    struct source_text text;

    CHECK(temp_put(path, content, SIZE));
    CHECK_OK(source_text_open(&text, path, temp_folder, &stop));
    CHECK(text.size == SIZE && text.stream < 0);
    CHECK_TEXT(text.name, path);
    CHECK(source_text_is_file(&text, path));
    CHECK(!source_text_is_file(&text, temp_folder));
    CHECK(!source_text_is_file(&text, temp_path("none")));
    check_all_places(&text);
    CHECK_OK(source_text_check_unchanged(&text));
    source_text_close(&text);
    source_text_close(&text);
}

static void from_pipe(void)
{
    char *path = strdup(temp_path("pipe"));
    struct source_text text;
    pthread_t thread;

    CHECK(mkfifo(path, 0600) == 0);
    CHECK(pthread_create(&thread, NULL, feed, path) == 0);
    CHECK_OK(source_text_open(&text, path, temp_path("folder"), &stop));
    /* The pipe and the folder: the copy in it has no name. */
    CHECK(temp_folder_count() == 2);

    check_read(&text, 0, 1000);
    CHECK(text.size == 1000 && text.stream >= 0);
    check_read(&text, 500, 100);
    CHECK(text.size == 1000);
    /* From the copy on into the pipe. */
    check_read(&text, 997, 70000);
    CHECK(text.size == 70997);
    check_read(&text, 70997, SIZE);
    CHECK(text.size == SIZE && text.stream < 0);
    check_all_places(&text);
    CHECK_OK(source_text_check_unchanged(&text));
    CHECK(!source_text_is_file(&text, path));
    source_text_close(&text);
    pthread_join(thread, NULL);
    free(path);
}

static void from_standard_input(void)
{
    const int saved = dup(STDIN_FILENO);
    struct source_text text;
    int ends[2];
    char bytes[8];
    size_t count;

    CHECK(pipe(ends) == 0);
    CHECK(write(ends[1], "hello", 5) == 5);
    close(ends[1]);
    CHECK(dup2(ends[0], STDIN_FILENO) == STDIN_FILENO);
    CHECK_OK(source_text_open(&text, "-", temp_folder, &stop));
    CHECK_TEXT(text.name, "standard input");
    for (int i = 0; i < 2; i++) {
        CHECK_OK(source_text_read(&text, 0, bytes, sizeof bytes, &count));
        CHECK(count == 5 && memcmp(bytes, "hello", 5) == 0);
    }
    source_text_close(&text);
    dup2(saved, STDIN_FILENO);
    close(saved);
    close(ends[0]);
    CHECK(temp_folder_count() == 0);
}

static void changing_file(void)
{
    const char *path = temp_path("text.txt");
    struct source_text text;
    char bytes[16];
    size_t count;

    CHECK(temp_put(path, "0123456789", 10));
    CHECK_OK(source_text_open(&text, path, temp_folder, &stop));
    CHECK_OK(source_text_read(&text, 4, bytes, sizeof bytes, &count));
    CHECK(count == 6 && memcmp(bytes, "456789", 6) == 0);
    CHECK(truncate(path, 7) == 0);
    CHECK_FAILS(source_text_read(&text, 4, bytes, sizeof bytes, &count), ERR_IO, "became shorter");
    CHECK_FAILS(source_text_check_unchanged(&text), ERR_IO, "was changed");
    source_text_close(&text);

    CHECK(temp_put(path, "0123456789", 10));
    CHECK_OK(source_text_open(&text, path, temp_folder, &stop));
    CHECK(truncate(path, 11) == 0);
    CHECK_FAILS(source_text_check_unchanged(&text), ERR_IO, "was changed");
    source_text_close(&text);
}

static void refusals(void)
{
    struct source_text text;

    CHECK_FAILS(source_text_open(&text, temp_path("none"), temp_folder, &stop), ERR_INVALID,
                "No such file");
    CHECK_FAILS(source_text_open(&text, temp_folder, temp_folder, &stop), ERR_INVALID,
                "is a folder");
    CHECK(!text.name && text.fd < 0 && text.stream < 0);
    /* No copy can be made in a folder that is a file. */
    CHECK(temp_put(temp_path("file"), "x", 1));
    CHECK_FAILS(source_text_open(&text, "/dev/null", temp_path("file"), &stop), ERR_INVALID, "file");
}

static void stopped(void)
{
    const char *path = temp_path("text.txt");
    struct source_text text;
    char bytes[4];
    size_t count;

    CHECK(temp_put(path, "0123456789", 10));
    CHECK_OK(source_text_open(&text, path, temp_folder, &stop));
    stop = 15;
    CHECK_FAILS(source_text_read(&text, 0, bytes, 4, &count), ERR_CANCELED, "stopped");
    stop = 0;
    source_text_close(&text);
}

#define FRESH_CASE(name)        \
    do {                        \
        temp_folder_empty();    \
        CASE(name);             \
    } while (0)

int main(void)
{
    if (!temp_folder_create("test_source_text"))
        return 1;
    for (int i = 0; i < SIZE; i++)
        content[i] = (char)(i * 2654435761u >> 13);
    FRESH_CASE(from_file);
    FRESH_CASE(from_pipe);
    FRESH_CASE(from_standard_input);
    FRESH_CASE(changing_file);
    FRESH_CASE(refusals);
    FRESH_CASE(stopped);
    temp_folder_remove();
    return check_finish();
}
