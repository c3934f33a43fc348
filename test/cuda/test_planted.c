/* test_planted.c - the tests of the CUDA backend find mistakes: each of a list, planted into the
 * kernels and the collectives (planted.cpp), makes one of them fail.
 *
 * The argument is the folder of the programs test_NAME_races, which pass if nothing is planted. */
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

enum { MAX_WORDS = 3 };

struct mistake {
    const char *name;
    const char *program;                /* test_PROGRAM_races must fail ... */
    const char *arguments[MAX_WORDS];
    const char *settings[MAX_WORDS];    /* of the emulator, "NAME=VALUE" */
    const char *said;                   /* ... and say this; NULL: that a kernel or case is wrong */
    int n_places;                       /* planted at each of so many; 0: at all of them at once */
};

enum { EVERYWHERE = 1000 };

static const struct mistake mistakes[] = {
    {"missing __syncthreads", "cuda_ops", {"each"}, {0}, NULL, EVERYWHERE},
    {"missing __syncthreads", "matmul", {"linear_layers"}, {0}, NULL, EVERYWHERE},
    {"missing __syncthreads", "attention", {0}, {0}, NULL, 6},
    {"missing __syncwarp", "cuda_ops", {"each"}, {0}, NULL, EVERYWHERE},
    {"missing cp.async wait", "attention", {0}, {0}, NULL, 0},
    {"shuffle that half a warp skips", "cuda_ops", {"each"}, {0}, NULL, 0},
    {"store beyond an array", "cuda_ops", {"each"}, {0}, "wrote where it must not", 0},
    {"store beyond shared memory", "attention", {0}, {0}, "bytes of dynamic shared memory", 0},
    {"read of memory never written", "cuda_ops", {"each"}, {0}, "nan, expected", 0},
    {"missing event wait before a collective", "nccl", {"nccl_sums"},
     {"OCTET_EMULATOR_STREAMS=random"}, " ranks, step ", 0},
    {"missing wait after a collective", "nccl", {"nccl_sums"}, {0}, " ranks, step ", 0},
    {"buckets in another order on one rank", "nccl", {"nccl_sums"}, {0}, "came with", 0},
    {"another count on one rank", "nccl", {"nccl_sums"}, {0}, "ranks do not agree", 0},
    {"another type on one rank", "nccl", {"nccl_sums"}, {0}, "ranks do not agree", 0},
    {"allocation between collectives", "nccl", {"nccl_sums"}, {0}, "cudaMalloc on device", 0},
    {"result of a collective not looked at", "nccl", {"nccl_fails_at_once"},
     {"OCTET_EMULATOR_TIMEOUT=0.2"}, NULL, 0},
    {"asynchronous errors not looked at", "nccl", {"nccl_fails_later"},
     {"OCTET_EMULATOR_TIMEOUT=0.2"}, NULL, 0},
};

/* One place in each of these files where the mistake shows nowhere, and why. */
static struct {
    const char *name, *file, *why;
    bool used;
} spare[] = {
    {.name = "missing __syncthreads", .file = "/sort.cuh:", .why = "sort_scan() has another"},
    {.name = "missing __syncthreads", .file = "/reduce.cuh:",
     .why = "no kernel calls block_max() twice"},
    {.name = "missing __syncthreads", .file = "/top_logits.cu:",
     .why = "keep_largest() has another, behind which it only fills up lists"},
    {.name = "missing __syncwarp", .file = "/cross_entropy.cu:",
     .why = "the checker knows shared memory only"},
};

static const char *folder;

/* What a program has printed, on both streams. */
static char output[1 << 18];

/* Become the program; `planted` as planted.cpp reads it. */
static void run_program(const struct mistake *m, char *planted)
{
    char path[1024];
    char *arguments[MAX_WORDS + 2] = {path};

    snprintf(path, sizeof path, "%s/test_%s_races", folder, m->program);
    putenv(planted);
    for (int i = 0; i < MAX_WORDS && m->settings[i]; i++)
        putenv((char *)m->settings[i]);
    for (int i = 0; i < MAX_WORDS && m->arguments[i]; i++)
        arguments[i + 1] = (char *)m->arguments[i];
    execv(path, arguments);
    perror(path);
    _exit(1);
}

/* In a group of its own, with a pipe for what it prints; -1: not started. */
static pid_t start_program(const struct mistake *m, int place, int *from)
{
    char planted[100];
    int ends[2];

    if (pipe(ends) != 0)
        return -1;
    snprintf(planted, sizeof planted, "OCTET_PLANTED=%s:%d", m->name, place);
    const pid_t child = fork();
    if (child == 0) {
        setpgid(0, 0);
        dup2(ends[1], STDOUT_FILENO);
        dup2(ends[1], STDERR_FILENO);
        run_program(m, planted);
    }
    close(ends[1]);
    *from = ends[0];
    return child;
}

/* The first line of the output that holds the text, from its start or from the text on. NULL: none,
 * or its end has not come yet. */
static const char *find_line(const char *text, bool whole)
{
    const char *start = strstr(output, text);

    if (!start || !strchr(start, '\n'))
        return NULL;
    while (whole && start > output && start[-1] != '\n')
        start--;
    return start + strspn(start, " ");
}

static const char *find_planted(void)
{
    return find_line("planted: ", false);
}

static const char *find_failure(const struct mistake *m)
{
    const char *stop = find_line(m->said ? m->said : "emulator: kernel", true);

    return stop || m->said ? stop : find_line("FAILED", true);
}

/* Until the program has said what was planted and what it must say of it, or ends. */
static void read_output(int from, const struct mistake *m)
{
    size_t length = 0;
    ssize_t n;

    while (length < sizeof output - 1 &&
           (n = read(from, output + length, sizeof output - 1 - length)) > 0) {
        length += (size_t)n;
        output[length] = '\0';
        if (find_planted() && find_failure(m))
            break;
    }
    output[length] = '\0';
}

static bool is_spare(const struct mistake *m, const char *planted)
{
    for (size_t i = 0; i < sizeof spare / sizeof *spare; i++)
        if (!spare[i].used && strcmp(spare[i].name, m->name) == 0 &&
            strstr(planted, spare[i].file)) {
            spare[i].used = true;
            printf("  %s: shows nowhere: %s\n", planted, spare[i].why);
            return true;
        }
    return false;
}

static void count_result(const struct mistake *m, const char *planted)
{
    const char *said = find_failure(m);

    if (said) {
        check_passed++;
        printf("ok     %s: caught by test_%s: %.*s\n", planted, m->program,
               (int)strcspn(said, "\n"), said);
    } else if (!is_spare(m, planted)) {
        check_failed++;
        printf("FAILED %s: test_%s did not find it\n", planted, m->program);
    }
    fflush(stdout);
}

/* Returns whether it was made at all. */
static bool try_mistake(const struct mistake *m, int place)
{
    char planted[200];
    int from;
    const pid_t child = start_program(m, place, &from);

    output[0] = '\0';
    if (child < 0)
        return false;
    read_output(from, m);
    close(from);
    kill(-child, SIGKILL);
    waitpid(child, NULL, 0);

    const char *line = find_planted();
    if (!line)
        return false;
    snprintf(planted, sizeof planted, "%.*s", (int)strcspn(line, "\n"), line);
    count_result(m, planted);
    return true;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: test_planted FOLDER\n");
        return 2;
    }
    folder = argv[1];
    for (size_t i = 0; i < sizeof mistakes / sizeof *mistakes; i++) {
        int n_planted = 0;
        while (try_mistake(&mistakes[i], n_planted + 1) && ++n_planted < mistakes[i].n_places)
            continue;
        if (n_planted == 0) {
            check_failed++;
            printf("FAILED planted: %s: test_%s did not come to it\n", mistakes[i].name,
                   mistakes[i].program);
        }
    }
    return check_finish();
}
