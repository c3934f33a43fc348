/* race.cpp - finds shared memory that two threads of a block use without a barrier between them.
 *
 * Link it to kernels that were compiled with -fsanitize=thread, without giving that option to the
 * link: the compiler calls the functions below, and ThreadSanitizer itself is not there. Unlike a
 * wrong result, a race shows in any order of the threads.
 *
 * For each byte of shared memory the last write and the reads since then are kept. Two accesses are
 * in order if a __syncthreads lies between them, or, within a warp, a __syncwarp. Shuffles order
 * nothing (CUDA programming guide, "Warp Shuffle Functions"). A load of what no thread of the block
 * has written yet is reported too; ldmatrix may load it, as rows that are masked later.
 *
 * Compile with -O1: more optimisation may move loads to where the source has none. */
#include <dlfcn.h>
#include <link.h>
#include <stdint.h>
#include <string.h>

#include <memory>
#include <string>
#include <vector>

#include "emulator/block.h"

namespace emulator {

namespace {

enum class access { read, write, atomic };

struct visit {
    unsigned epoch = 0, warp_epoch = 0;     /* of the block, of the thread; epoch 0: none */
    int thread = 0;
    const void *code = nullptr;
};

struct byte_history {
    visit write, read;                      /* the last ones */
    bool write_is_atomic = false;
    bool several_readers = false;           /* in that epoch of the block, other than `read` */
    int other_reader = 0;                   /* one of them, of another warp if there is one */
};

/* Static shared memory is thread-local here: each loaded object's thread-local storage. */
struct region {
    uintptr_t start;
    size_t size;
    std::unique_ptr<byte_history[]> bytes;
};

struct shared_memory {
    std::vector<region> regions;
    std::vector<byte_history> dynamic;

    shared_memory() { dl_iterate_phdr(add_region, this); }
    static int add_region(dl_phdr_info *object, size_t, void *self);
    byte_history *find(uintptr_t address, const char **kind, size_t *offset);
};

int shared_memory::add_region(dl_phdr_info *object, size_t, void *self)
{
    for (int i = 0; object->dlpi_tls_data && i < object->dlpi_phnum; i++) {
        if (object->dlpi_phdr[i].p_type != PT_TLS)
            continue;
        const size_t size = object->dlpi_phdr[i].p_memsz;
        static_cast<shared_memory *>(self)->regions.push_back(
            {reinterpret_cast<uintptr_t>(object->dlpi_tls_data), size,
             std::make_unique<byte_history[]>(size)});
    }
    return 0;
}

byte_history *shared_memory::find(uintptr_t address, const char **kind, size_t *offset)
{
    const uintptr_t start = reinterpret_cast<uintptr_t>(self_block->shared);

    if (address - start < self_block->shared_size) {
        if (dynamic.size() < self_block->shared_size)
            dynamic.resize(self_block->shared_size);
        *kind = "dynamic";
        *offset = address - start;
        return &dynamic[*offset];
    }
    for (const region &region : regions) {
        if (address - region.start >= region.size)
            continue;
        *kind = "static";
        *offset = address - region.start;
        return &region.bytes[*offset];
    }
    return nullptr;
}

thread_local std::unique_ptr<shared_memory> memory;

bool same_warp(int a, int b)
{
    return a / warpSize == b / warpSize;
}

/* Whether no barrier lies between the visit and now. */
bool unordered(const visit &before)
{
    if (before.epoch != self_block->epoch || before.thread == self->number)
        return false;
    return !same_warp(before.thread, self->number) || before.warp_epoch >= self->warp_epoch;
}

/* For addr2line: the object file and the offset in it. */
std::string code_name(const void *code)
{
    Dl_info object;
    char text[32];

    if (!code || !dladdr(code, &object))
        return "code inside the emulator";
    snprintf(text, sizeof text, " 0x%zx", static_cast<size_t>(static_cast<const char *>(code) -
                                             static_cast<const char *>(object.dli_fbase)) - 1);
    return std::string("addr2line -e ") + object.dli_fname + text;
}

[[noreturn]] void report(const char *kind, size_t offset, access how, const void *code,
                         const char *other_how, const visit &other)
{
    stop_in_kernel("race in %s shared memory at byte %zu: it %s what thread %d %s, without a "
                   "barrier between\n  now:    %s\n  before: %s",
                   kind, offset, how == access::read ? "reads" : "writes", other.thread, other_how,
                   code_name(code).c_str(), code_name(other.code).c_str());
}

/* Of all readers since the last barrier, remember one that a later write is most likely to race
 * with: one of another warp if there are several warps. */
void note_read(byte_history &history, const visit &now)
{
    visit &read = history.read;

    if (read.epoch != now.epoch) {
        history.several_readers = false;
    } else if (read.thread != now.thread) {
        const bool ordered = same_warp(read.thread, now.thread) && read.warp_epoch < now.warp_epoch;
        const bool has_better = history.several_readers &&
                                !same_warp(history.other_reader, now.thread);
        if (!ordered && !has_better) {
            history.several_readers = true;
            history.other_reader = read.thread;
        }
    }
    read = now;
}

/* A reader whose read this write would race with, if there is one. */
bool racing_reader(const byte_history &history, visit *reader)
{
    *reader = history.read;
    if (unordered(*reader))
        return true;
    if (!history.several_readers)
        return false;
    reader->thread = history.other_reader;
    return unordered(*reader);
}

void visit_byte(byte_history &history, const char *kind, size_t offset, access how,
                const void *code)
{
    const visit now = {self_block->epoch, self->warp_epoch, self->number, code};
    visit reader;

    if (unordered(history.write) && !(how == access::atomic && history.write_is_atomic))
        report(kind, offset, how, code, "wrote", history.write);
    if (how == access::read) {
        note_read(history, now);
        return;
    }
    if (racing_reader(history, &reader))
        report(kind, offset, how, code, "read", reader);
    history.write = now;
    history.write_is_atomic = how == access::atomic;
}

/* The emulator writes these behind the kernel's back. */
bool is_emulators_own(uintptr_t address)
{
    return address == reinterpret_cast<uintptr_t>(&self) ||
           address == reinterpret_cast<uintptr_t>(&self_block);
}

void visit_bytes(const void *address, size_t bytes, access how, const void *code)
{
    const uintptr_t first = reinterpret_cast<uintptr_t>(address);
    const char *kind = nullptr;
    size_t offset = 0;

    if (!self || is_emulators_own(first))
        return;
    if (!memory)
        memory = std::make_unique<shared_memory>();
    byte_history *const history = memory->find(first, &kind, &offset);
    if (history && how == access::read && code && history->write.epoch < self_block->first_epoch)
        stop_in_kernel("reads byte %zu of %s shared memory, which no thread has written: a barrier "
                       "or a store is missing\n  now:    %s",
                       offset, kind, code_name(code).c_str());
    for (size_t i = 0; history && i < bytes; i++)
        visit_byte(history[i], kind, offset + i, how, code);
}

void visit_from_emulator(const void *address, int bytes, bool write)
{
    visit_bytes(address, static_cast<size_t>(bytes), write ? access::write : access::read, nullptr);
}

struct registration {
    registration() { shared_access = visit_from_emulator; }
} registration;

}

}

using emulator::access;
using emulator::visit_bytes;

/* What the compiler calls, instead of ThreadSanitizer's own library. */

#define CALLER __builtin_return_address(0)

#define ACCESSES(size)                                                                          \
    void __tsan_read##size(void *p) { visit_bytes(p, size, access::read, CALLER); }             \
    void __tsan_write##size(void *p) { visit_bytes(p, size, access::write, CALLER); }           \
    void __tsan_unaligned_read##size(void *p) { visit_bytes(p, size, access::read, CALLER); }   \
    void __tsan_unaligned_write##size(void *p) { visit_bytes(p, size, access::write, CALLER); } \
    void __tsan_volatile_read##size(void *p) { visit_bytes(p, size, access::read, CALLER); }    \
    void __tsan_volatile_write##size(void *p) { visit_bytes(p, size, access::write, CALLER); }

#define ATOMIC_CHANGE(bits, type, name)                                                         \
    type __tsan_atomic##bits##_##name(type *p, type value, int)                                 \
    {                                                                                           \
        visit_bytes(p, sizeof *p, access::atomic, CALLER);                                      \
        return __atomic_##name(p, value, __ATOMIC_SEQ_CST);                                     \
    }

#define ATOMIC_EXCHANGE(bits, type)                                                             \
    type __tsan_atomic##bits##_exchange(type *p, type value, int)                               \
    {                                                                                           \
        visit_bytes(p, sizeof *p, access::atomic, CALLER);                                      \
        return __atomic_exchange_n(p, value, __ATOMIC_SEQ_CST);                                 \
    }

#define ATOMIC_COMPARE(bits, type, strength, weak)                                              \
    int __tsan_atomic##bits##_compare_exchange_##strength(type *p, type *expected, type value,  \
                                                          int, int)                             \
    {                                                                                           \
        visit_bytes(p, sizeof *p, access::atomic, CALLER);                                      \
        return __atomic_compare_exchange_n(p, expected, value, weak, __ATOMIC_SEQ_CST,          \
                                           __ATOMIC_SEQ_CST);                                   \
    }

#define ATOMIC_COMPARE_VALUE(bits, type)                                                        \
    type __tsan_atomic##bits##_compare_exchange_val(type *p, type expected, type value, int, int) \
    {                                                                                           \
        visit_bytes(p, sizeof *p, access::atomic, CALLER);                                      \
        __atomic_compare_exchange_n(p, &expected, value, false, __ATOMIC_SEQ_CST,               \
                                    __ATOMIC_SEQ_CST);                                          \
        return expected;                                                                        \
    }

#define ATOMICS(bits, type)                                                                     \
    type __tsan_atomic##bits##_load(const type *p, int)                                         \
    {                                                                                           \
        visit_bytes(p, sizeof *p, access::atomic, CALLER);                                      \
        return __atomic_load_n(p, __ATOMIC_SEQ_CST);                                            \
    }                                                                                           \
    void __tsan_atomic##bits##_store(type *p, type value, int)                                  \
    {                                                                                           \
        visit_bytes(p, sizeof *p, access::atomic, CALLER);                                      \
        __atomic_store_n(p, value, __ATOMIC_SEQ_CST);                                           \
    }                                                                                           \
    ATOMIC_CHANGE(bits, type, fetch_add)                                                        \
    ATOMIC_CHANGE(bits, type, fetch_sub)                                                        \
    ATOMIC_CHANGE(bits, type, fetch_and)                                                        \
    ATOMIC_CHANGE(bits, type, fetch_or)                                                         \
    ATOMIC_CHANGE(bits, type, fetch_xor)                                                        \
    ATOMIC_EXCHANGE(bits, type)                                                                 \
    ATOMIC_COMPARE(bits, type, strong, false)                                                   \
    ATOMIC_COMPARE(bits, type, weak, true)                                                      \
    ATOMIC_COMPARE_VALUE(bits, type)

/* No header declares them. */
#pragma GCC diagnostic ignored "-Wmissing-declarations"
#ifdef __clang__
#pragma GCC diagnostic ignored "-Wmissing-prototypes"
#endif

extern "C" {

ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)
ATOMICS(8, uint8_t)
ATOMICS(32, uint32_t)
ATOMICS(64, uint64_t)

void __tsan_read_range(void *p, size_t bytes)
{
    visit_bytes(p, bytes, access::read, CALLER);
}

void __tsan_write_range(void *p, size_t bytes)
{
    visit_bytes(p, bytes, access::write, CALLER);
}

void *__tsan_memcpy(void *to, const void *from, size_t bytes)
{
    visit_bytes(from, bytes, access::read, CALLER);
    visit_bytes(to, bytes, access::write, CALLER);
    return memcpy(to, from, bytes);
}

void *__tsan_memmove(void *to, const void *from, size_t bytes)
{
    visit_bytes(from, bytes, access::read, CALLER);
    visit_bytes(to, bytes, access::write, CALLER);
    return memmove(to, from, bytes);
}

void *__tsan_memset(void *to, int value, size_t bytes)
{
    visit_bytes(to, bytes, access::write, CALLER);
    return memset(to, value, bytes);
}

void __tsan_vptr_read(void **) {}
void __tsan_vptr_update(void **, void *) {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit(void) {}
void __tsan_init(void) {}

}
