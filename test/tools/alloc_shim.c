/* alloc_shim.c - a machine without memory, or without threads, for one program (LD_PRELOAD):
 *
 *     OCTET_SHIM_ALLOC=N          the Nth allocation that the program itself makes fails
 *     OCTET_SHIM_ALLOC_ALL=N      the Nth of any made since its own first, libraries' included, but
 *                                 for oneDNN's malloc, whose result it does not always look at
 *     OCTET_SHIM_THREAD=N         the Nth thread cannot be created
 *     OCTET_SHIM_COUNT=FILE       the numbers of these three are written to it at the end
 *
 * The program's own are those from the executable's code: malloc, calloc, realloc, aligned_alloc,
 * posix_memalign, mmap, and the functions of the C library that return new memory. Needs glibc. */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *old, size_t size);
void *__libc_memalign(size_t alignment, size_t size);

enum kind { OWN, ANY, THREAD, N_KINDS };

static const char *const variables[N_KINDS] = {"OCTET_SHIM_ALLOC", "OCTET_SHIM_ALLOC_ALL",
                                               "OCTET_SHIM_THREAD"};
static _Atomic long counts[N_KINDS];
static long failing[N_KINDS];           /* 0: none */
static _Atomic bool is_running;

struct text {
    uintptr_t start, end;
};
static struct text executable, onednn;

static struct text find_text(const struct dl_phdr_info *info)
{
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &info->dlpi_phdr[i];
        const uintptr_t start = info->dlpi_addr + part->p_vaddr;
        if (part->p_type == PT_LOAD && part->p_flags & PF_X)
            return (struct text){start, start + part->p_memsz};
    }
    return (struct text){0};
}

static int look_at(struct dl_phdr_info *info, size_t size, void *context)
{
    (void)size, (void)context;
    if (executable.end == 0)        /* the first */
        executable = find_text(info);
    else if (strstr(info->dlpi_name, "libdnnl"))
        onednn = find_text(info);
    return 0;
}

static bool is_in(const struct text *text, const void *caller)
{
    return (uintptr_t)caller >= text->start && (uintptr_t)caller < text->end;
}

__attribute__((constructor)) static void begin(void)
{
    for (int i = 0; i < N_KINDS; i++) {
        const char *text = getenv(variables[i]);
        failing[i] = text ? atol(text) : 0;
    }
    dl_iterate_phdr(look_at, NULL);
    is_running = true;
}

__attribute__((destructor)) static void end(void)
{
    const char *path = getenv("OCTET_SHIM_COUNT");

    is_running = false;
    FILE *file = path ? fopen(path, "w") : NULL;
    if (file) {
        fprintf(file, "%ld %ld %ld\n", counts[OWN], counts[ANY], counts[THREAD]);
        fclose(file);
    }
}

static bool is_due(enum kind kind)
{
    return ++counts[kind] == failing[kind];
}

static bool fails(const void *caller)
{
    const bool is_own = is_in(&executable, caller);

    if (!is_running || is_in(&onednn, caller) || (!is_own && counts[OWN] == 0))
        return false;
    bool due = is_due(ANY);
    if (is_own)
        due |= is_due(OWN);
    if (due)
        errno = ENOMEM;
    return due;
}

#define FAILS() fails(__builtin_return_address(0))
#define REAL(name) ((__typeof__(name) *)dlsym(RTLD_NEXT, #name))

void *malloc(size_t size)
{
    return FAILS() ? NULL : __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
    return FAILS() ? NULL : __libc_calloc(n, size);
}

void *realloc(void *old, size_t size)
{
    return FAILS() ? NULL : __libc_realloc(old, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
    return FAILS() ? NULL : __libc_memalign(alignment, size);
}

int posix_memalign(void **out, size_t alignment, size_t size)
{
    void *memory = FAILS() ? NULL : __libc_memalign(alignment, size);

    if (!memory)
        return ENOMEM;
    *out = memory;
    return 0;
}

void *mmap64(void *place, size_t size, int protection, int flags, int fd, off64_t offset)
{
    return FAILS() ? MAP_FAILED
                   : (void *)syscall(SYS_mmap, place, size, protection, flags, fd, offset);
}

char *strdup(const char *text)
{
    return FAILS() ? NULL : REAL(strdup)(text);
}

char *strndup(const char *text, size_t size)
{
    return FAILS() ? NULL : REAL(strndup)(text, size);
}

int asprintf(char **out, const char *format, ...)
{
    va_list args;

    if (FAILS()) {
        *out = NULL;
        return -1;
    }
    va_start(args, format);
    const int length = vasprintf(out, format, args);
    va_end(args);
    return length;
}

FILE *fopen64(const char *path, const char *mode)
{
    return FAILS() ? NULL : REAL(fopen64)(path, mode);
}

FILE *open_memstream(char **out, size_t *size)
{
    return FAILS() ? NULL : REAL(open_memstream)(out, size);
}

DIR *opendir(const char *path)
{
    return FAILS() ? NULL : REAL(opendir)(path);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                   void *context)
{
    if (is_due(THREAD))
        return EAGAIN;
    return REAL(pthread_create)(thread, attributes, run, context);
}
