/* fiber.h - a stack of its own that one OS thread can switch to and leave again. */
#ifndef OCTET_EMULATOR_FIBER_H
#define OCTET_EMULATOR_FIBER_H

#include <stddef.h>

#ifndef __x86_64__
#include <ucontext.h>
#endif

namespace emulator {

class fiber {
public:
    /* The running OS thread's own stack, to switch back to. */
    fiber();
    /* A new stack with a guard page below it; the first switch calls `entry`, which never
     * returns. */
    explicit fiber(void (*entry)());
    ~fiber();
    fiber(const fiber &) = delete;
    fiber &operator=(const fiber &) = delete;

    /* Leave the running fiber, `from`, for `to`; returns when something switches back. */
    static void change(fiber &from, fiber &to);
    /* The first thing that `entry` does. */
    static void entered();

private:
    void sanitizer_start(bool is_new);
    void sanitizer_end();
    static void sanitizer_leave(fiber &from, const fiber &to);
    static void sanitizer_arrive(void *state);

    char *mapping = nullptr;    /* guard page and stack, if the fiber owns one */
    char *stack = nullptr;      /* lowest address */
    size_t stack_size = 0;
    /* AddressSanitizer's fake stack, while the fiber is left; ThreadSanitizer's fiber. */
    void *sanitizer_state = nullptr;
#ifdef __x86_64__
    void *stack_pointer = nullptr;
#else
    ucontext_t context;
#endif
};

}

#endif
