/* fiber.cpp - stacks for fibers and the switch between them. */
#include "emulator/fiber.h"

#include <pthread.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#include "emulator/settings.h"

#if defined(__SANITIZE_ADDRESS__)
#define WITH_ADDRESS_SANITIZER 1
#elif defined(__SANITIZE_THREAD__)
#define WITH_THREAD_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WITH_ADDRESS_SANITIZER 1
#elif __has_feature(thread_sanitizer)
#define WITH_THREAD_SANITIZER 1
#endif
#endif

extern "C" {
void __sanitizer_start_switch_fiber(void **fake_stack, const void *bottom, size_t size);
void __sanitizer_finish_switch_fiber(void *fake_stack, const void **bottom, size_t *size);
void *__tsan_get_current_fiber(void);
void *__tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void *fiber);
void __tsan_switch_to_fiber(void *fiber, unsigned flags);
}

namespace emulator {

constexpr size_t STACK_SIZE = 256 << 10;

/* The sanitizers have to know which stack is current. */
void fiber::sanitizer_start(bool is_new)
{
#ifdef WITH_THREAD_SANITIZER
    sanitizer_state = is_new ? __tsan_create_fiber(0) : __tsan_get_current_fiber();
#else
    (void)is_new;
#endif
}

void fiber::sanitizer_end()
{
#ifdef WITH_THREAD_SANITIZER
    if (mapping)
        __tsan_destroy_fiber(sanitizer_state);
#endif
}

void fiber::sanitizer_leave(fiber &from, const fiber &to)
{
#if defined(WITH_ADDRESS_SANITIZER)
    __sanitizer_start_switch_fiber(&from.sanitizer_state, to.stack, to.stack_size);
#elif defined(WITH_THREAD_SANITIZER)
    (void)from;
    __tsan_switch_to_fiber(to.sanitizer_state, 0);
#else
    (void)from, (void)to;
#endif
}

void fiber::sanitizer_arrive(void *state)
{
#ifdef WITH_ADDRESS_SANITIZER
    __sanitizer_finish_switch_fiber(state, nullptr, nullptr);
#else
    (void)state;
#endif
}

#ifdef __x86_64__

/* swapcontext() asks the kernel for the signal mask at each switch, which would take most of the
 * time; this saves what the calling convention asks a function to keep. */
extern "C" void emulator_switch_stack(void **save_pointer, void *load_pointer);
asm(".text\n"
    ".globl emulator_switch_stack\n"
    ".type emulator_switch_stack, @function\n"
    "emulator_switch_stack:\n"
    "    pushq %rbp\n"
    "    pushq %rbx\n"
    "    pushq %r12\n"
    "    pushq %r13\n"
    "    pushq %r14\n"
    "    pushq %r15\n"
    "    movq %rsp, (%rdi)\n"
    "    movq %rsi, %rsp\n"
    "    popq %r15\n"
    "    popq %r14\n"
    "    popq %r13\n"
    "    popq %r12\n"
    "    popq %rbx\n"
    "    popq %rbp\n"
    "    ret\n"
    ".size emulator_switch_stack, . - emulator_switch_stack\n");

#endif

fiber::fiber()
{
    pthread_attr_t attributes;
    void *lowest;

    if (pthread_getattr_np(pthread_self(), &attributes) != 0)
        stop("cannot find the stack of the running thread");
    pthread_attr_getstack(&attributes, &lowest, &stack_size);
    pthread_attr_destroy(&attributes);
    stack = static_cast<char *>(lowest);
    sanitizer_start(false);
}

fiber::fiber(void (*entry)()) : stack_size(STACK_SIZE)
{
    const size_t guard = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    void *memory = mmap(nullptr, guard + STACK_SIZE, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (memory == MAP_FAILED || mprotect(memory, guard, PROT_NONE) != 0)
        stop("no memory for the stack of a CUDA thread");
    mapping = static_cast<char *>(memory);
    stack = mapping + guard;
#ifdef __x86_64__
    /* As if `entry` had been called: a return address (none) on top, then six saved registers. */
    void **top = reinterpret_cast<void **>(stack + STACK_SIZE);
    *--top = nullptr;
    *--top = reinterpret_cast<void *>(entry);
    stack_pointer = top - 6;
#else
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = STACK_SIZE;
    context.uc_link = nullptr;
    makecontext(&context, entry, 0);
#endif
    sanitizer_start(true);
}

fiber::~fiber()
{
    sanitizer_end();
    if (mapping)
        munmap(mapping, static_cast<size_t>(stack - mapping) + stack_size);
}

void fiber::change(fiber &from, fiber &to)
{
    sanitizer_leave(from, to);
#ifdef __x86_64__
    emulator_switch_stack(&from.stack_pointer, to.stack_pointer);
#else
    swapcontext(&from.context, &to.context);
#endif
    sanitizer_arrive(from.sanitizer_state);
}

void fiber::entered()
{
    sanitizer_arrive(nullptr);
}

}
