/* block.cpp - runs the blocks of a launch: which thread goes on when, barriers, warp-wide meetings,
 * and the mistakes that show there. */
#include "emulator/block.h"

#include <algorithm>
#include <memory>
#include <stdarg.h>
#include <stdio.h>

#include "emulator/fiber.h"
#include "emulator/settings.h"

namespace emulator {

__thread thread *self;
__thread block *self_block;
void (*shared_access)(const void *address, int bytes, bool write);

namespace {

constexpr int WARP = 32;
/* On each side of the dynamic shared memory, to see what is written beyond it. */
constexpr size_t GUARD = 256;
constexpr unsigned char GUARD_BYTE = 0xa5;

enum class state { not_started, ready, at_barrier, at_warp, returned };

struct running_thread : thread {
    state standing;
    fiber *on;
    const char *waits_for;
    place where;
    int barrier_value;
    async_copies copies;
};

/* Literals of the same text need not have the same address, but most have. */
bool same_text(const char *a, const char *b)
{
    return a == b || strcmp(a, b) == 0;
}

/* Whether both wait in the same call. */
bool same_place(const running_thread &a, const running_thread &b)
{
    return a.where.line == b.where.line && same_text(a.where.file, b.where.file) &&
           same_text(a.waits_for, b.waits_for);
}

struct warp {
    unsigned alive, arrived;    /* lanes that have not returned; those that wait here */
    unsigned masks[WARP];
    void *arguments[WARP];
    warp_function functions[WARP];
};

/* One for each OS thread; keeps its fibers and buffers from launch to launch. Static shared memory
 * keeps what the last block left there, as on a GPU. */
class grid_runner {
public:
    void run(const launch &what, const std::function<void()> &thread_body);
    int barrier(int value, const char *name, place where);
    void collective(unsigned mask, void *argument, warp_function function, const char *name,
                    place where);
    unsigned active_lanes() const { return warps[running->warp].alive; }
    async_copies &copies() { return running->copies; }
    [[noreturn]] void stop_here(const char *message);
    const char *kernel() const { return current->kernel.c_str(); }
    const thread *running_or_none() const { return running; }

private:
    void prepare(const launch &what);
    void run_block(uint64_t number);
    void start_threads();
    void check_guards();
    void resume(int number);
    fiber *take_fiber();
    static void fiber_main();
    void run_waiting_threads();
    void thread_returned();
    void wait();
    void release_barrier();
    void meet(int warp_number, int lane);
    void order_memory(int warp_number, unsigned mask);
    void check_meeting(int warp_number, unsigned mask, int lane);
    int take_ready();
    template <class T> void shuffle(std::vector<T> &items);

    const launch *current = nullptr;
    const std::function<void()> *body = nullptr;
    block the_block = {};
    std::vector<running_thread> threads;
    std::vector<warp> warps;
    std::vector<int> start_order;   /* thread numbers; those from next_start on have not begun */
    size_t next_start = 0;
    std::vector<int> ready;         /* threads to resume; the last one goes first */
    int n_alive = 0, n_at_barrier = 0;
    running_thread *running = nullptr;

    fiber home;                     /* the OS thread's stack, where run_block() is */
    fiber *running_fiber = &home;
    std::vector<std::unique_ptr<fiber>> fibers;
    std::vector<fiber *> idle_fibers;
    std::vector<unsigned char> shared_bytes;
    const order thread_order = environment().threads;
    random_source random{environment().seed};
};

thread_local std::unique_ptr<grid_runner> runner;

template <class T> void grid_runner::shuffle(std::vector<T> &items)
{
    for (size_t i = items.size(); i > 1; i--)
        std::swap(items[i - 1], items[random.below(i)]);
}

void grid_runner::run(const launch &what, const std::function<void()> &thread_body)
{
    const uint64_t n_blocks = static_cast<uint64_t>(what.grid.x) * what.grid.y * what.grid.z;
    std::vector<uint64_t> block_order;

    current = &what;
    body = &thread_body;
    prepare(what);
    if (thread_order == order::random) {
        for (uint64_t i = 0; i < n_blocks; i++)
            block_order.push_back(i);
        shuffle(block_order);
    }
    for (uint64_t i = 0; i < n_blocks; i++) {
        if (thread_order == order::forward)
            run_block(i);
        else if (thread_order == order::reversed)
            run_block(n_blocks - 1 - i);
        else
            run_block(block_order[i]);
    }
    self = nullptr;
    self_block = nullptr;
}

void grid_runner::prepare(const launch &what)
{
    const unsigned n_threads = what.block.x * what.block.y * what.block.z;

    threads.resize(n_threads);
    warps.resize((n_threads + WARP - 1) / WARP);
    start_order.resize(n_threads);
    for (unsigned i = 0; i < n_threads; i++) {
        running_thread &thread = threads[i];
        thread.index = {i % what.block.x, i / what.block.x % what.block.y,
                        i / what.block.x / what.block.y};
        thread.number = static_cast<int>(i);
        thread.warp = thread.number / WARP;
        thread.lane = thread.number % WARP;
    }
    shared_bytes.assign(what.shared_bytes + 2 * GUARD + 128, GUARD_BYTE);
    const uintptr_t first = reinterpret_cast<uintptr_t>(shared_bytes.data()) + GUARD;
    the_block.shared = reinterpret_cast<void *>((first + 127) / 128 * 128);
    the_block.shared_size = what.shared_bytes;
    the_block.size = what.block;
    the_block.grid = what.grid;
    self_block = &the_block;
}

void grid_runner::run_block(uint64_t number)
{
    const dim3 grid = current->grid;

    the_block.index = {static_cast<unsigned>(number % grid.x),
                       static_cast<unsigned>(number / grid.x % grid.y),
                       static_cast<unsigned>(number / grid.x / grid.y)};
    the_block.first_epoch = ++the_block.epoch;
    /* Floats of any size read this as NaN. */
    memset(the_block.shared, 0xff, the_block.shared_size);
    start_threads();
    while (n_alive > 0) {
        const bool may_start = next_start < start_order.size();
        const bool start_next = may_start && thread_order == order::random &&
                                random.below(2) == 0;
        if (!ready.empty() && !start_next) {
            resume(take_ready());
        } else if (may_start) {
            fiber *const fresh = take_fiber();
            running_fiber = fresh;
            fiber::change(home, *fresh);
        } else {
            stop_here("not every thread comes to where the others wait");
        }
    }
    check_guards();
}

void grid_runner::start_threads()
{
    for (warp &warp : warps)
        warp = {};
    for (running_thread &thread : threads) {
        thread.standing = state::not_started;
        thread.copies.pending.clear();
        thread.copies.groups = 0;
        thread.warp_epoch = 0;
        warps[thread.warp].alive |= 1u << thread.lane;
        start_order[thread.number] = thread.number;
    }
    if (thread_order == order::reversed)
        std::reverse(start_order.begin(), start_order.end());
    else if (thread_order == order::random)
        shuffle(start_order);
    next_start = 0;
    ready.clear();
    n_alive = static_cast<int>(threads.size());
    n_at_barrier = 0;
}

void grid_runner::check_guards()
{
    const unsigned char *shared = static_cast<unsigned char *>(the_block.shared);
    const unsigned char *after = shared + the_block.shared_size;

    for (size_t i = 1; i <= GUARD; i++)
        if (shared[-static_cast<ptrdiff_t>(i)] != GUARD_BYTE)
            stop_in_kernel("wrote %zu bytes before its dynamic shared memory", i);
    for (size_t i = 0; i < GUARD; i++)
        if (after[i] != GUARD_BYTE)
            stop_in_kernel("wrote at byte %zu of %zu bytes of dynamic shared memory",
                           the_block.shared_size + i, the_block.shared_size);
}

void grid_runner::resume(int number)
{
    running = &threads[number];
    self = running;
    running_fiber = running->on;
    fiber::change(home, *running->on);
}

fiber *grid_runner::take_fiber()
{
    if (idle_fibers.empty()) {
        fibers.push_back(std::make_unique<fiber>(fiber_main));
        return fibers.back().get();
    }
    fiber *const idle = idle_fibers.back();
    idle_fibers.pop_back();
    return idle;
}

void grid_runner::fiber_main()
{
    fiber::entered();
    runner->run_waiting_threads();
}

/* A fiber takes one thread after the other; one that has to wait keeps the fiber until it returns,
 * so a kernel without barriers needs a single fiber and no switches. */
void grid_runner::run_waiting_threads()
{
    for (;;) {
        fiber *const mine = running_fiber;
        while (next_start < start_order.size()) {
            running = &threads[start_order[next_start++]];
            running->standing = state::ready;
            running->on = mine;
            self = running;
            (*body)();
            running_fiber = mine;
            thread_returned();
        }
        idle_fibers.push_back(mine);
        fiber::change(*mine, home);
    }
}

/* Those who wait for everybody wait for those who are left. */
void grid_runner::thread_returned()
{
    warp &warp = warps[running->warp];

    running->standing = state::returned;
    n_alive--;
    warp.alive &= ~(1u << running->lane);
    for (int lane = 0; lane < WARP && warp.arrived; lane++)
        if (warp.arrived >> lane & 1)
            meet(running->warp, lane);
    if (n_at_barrier > 0 && n_at_barrier == n_alive)
        release_barrier();
}

int grid_runner::take_ready()
{
    if (thread_order == order::random)
        std::swap(ready[random.below(ready.size())], ready.back());
    const int number = ready.back();
    ready.pop_back();
    return number;
}

/* Let others run until the running thread is ready again and has its turn. */
void grid_runner::wait()
{
    running_thread *const me = running;
    fiber *const mine = me->on;

    if (ready.empty()) {
        fiber::change(*mine, home);
    } else {
        running = &threads[take_ready()];
        self = running;
        running_fiber = running->on;
        if (running != me)
            fiber::change(*mine, *running->on);
    }
    running = me;
    self = me;
    running_fiber = mine;
}

int grid_runner::barrier(int value, const char *name, place where)
{
    running->standing = state::at_barrier;
    running->waits_for = name;
    running->where = where;
    running->barrier_value = value;
    if (++n_at_barrier == n_alive)
        release_barrier();
    wait();
    return running->barrier_value;
}

void grid_runner::release_barrier()
{
    const running_thread *first = nullptr;
    int sum = 0;

    for (const running_thread &thread : threads) {
        if (thread.standing != state::at_barrier)
            continue;
        if (!first)
            first = &thread;
        if (!same_place(thread, *first))
            stop_here("its threads wait at different barriers");
        sum += thread.barrier_value;
    }
    /* Back to front, since the last one goes first. */
    for (size_t i = start_order.size(); i-- > 0;) {
        running_thread &thread = threads[start_order[i]];
        if (thread.standing != state::at_barrier)
            continue;
        thread.standing = state::ready;
        thread.barrier_value = sum;
        ready.push_back(thread.number);
    }
    n_at_barrier = 0;
    the_block.epoch++;
}

void grid_runner::collective(unsigned mask, void *argument, warp_function function,
                             const char *name, place where)
{
    running_thread *const me = running;
    const int lane = me->lane;
    warp &warp = warps[me->warp];

    if (!(mask >> lane & 1))
        stop_in_kernel("%s:%d: %s by lane %d, which is not in its mask 0x%08x", where.file,
                       where.line, name, lane, mask);
    warp.masks[lane] = mask;
    warp.arguments[lane] = argument;
    warp.functions[lane] = function;
    warp.arrived |= 1u << lane;
    me->standing = state::at_warp;
    me->waits_for = name;
    me->where = where;
    meet(me->warp, lane);
    if (me->standing == state::at_warp) {
        wait();
    } else if (thread_order == order::random && random.below(2) == 0) {
        ready.push_back(me->number);
        wait();
    }
}

/* Complete the operation that the lane waits for, if all its lanes have come. */
void grid_runner::meet(int warp_number, int lane)
{
    warp &warp = warps[warp_number];
    const unsigned mask = warp.masks[lane] & warp.alive;
    const warp_function function = warp.functions[lane];

    if ((warp.arrived & mask) != mask)
        return;
    check_meeting(warp_number, mask, lane);
    if (function)
        function(warp.arguments, mask);
    else
        order_memory(warp_number, mask);
    warp.arrived &= ~mask;
    for (int i = 0; i < WARP; i++) {
        const int next = thread_order == order::reversed ? i : WARP - 1 - i;
        if (!(mask >> next & 1))
            continue;
        running_thread &thread = threads[warp_number * WARP + next];
        thread.standing = state::ready;
        if (&thread != running)
            ready.push_back(thread.number);
    }
}

void grid_runner::order_memory(int warp_number, unsigned mask)
{
    running_thread *const lanes = &threads[warp_number * WARP];
    unsigned latest = 0;

    for (int i = 0; i < WARP; i++)
        if (mask >> i & 1)
            latest = std::max(latest, lanes[i].warp_epoch);
    for (int i = 0; i < WARP; i++)
        if (mask >> i & 1)
            lanes[i].warp_epoch = latest + 1;
}

void grid_runner::check_meeting(int warp_number, unsigned mask, int lane)
{
    const warp &warp = warps[warp_number];
    const running_thread *const lanes = &threads[warp_number * WARP];

    for (int i = 0; i < WARP; i++)
        if (mask >> i & 1 && ((warp.masks[i] & warp.alive) != mask ||
                              warp.functions[i] != warp.functions[lane] ||
                              !same_place(lanes[i], lanes[lane])))
            stop_here("the lanes of a warp wait for different warp-wide operations");
}

/* With the places where threads wait, each once. */
void grid_runner::stop_here(const char *message)
{
    std::vector<const running_thread *> told;

    for (const running_thread &thread : threads) {
        if (thread.standing != state::at_barrier && thread.standing != state::at_warp)
            continue;
        const auto same = [&](const running_thread *other) { return same_place(*other, thread); };
        if (std::any_of(told.begin(), told.end(), same))
            continue;
        told.push_back(&thread);
        fprintf(stderr, "emulator: %s:%d: thread %d waits at %s\n", thread.where.file,
                thread.where.line, thread.number, thread.waits_for);
    }
    running = nullptr;
    stop_in_kernel("%s", message);
}

}

void run_grid(const launch &launch, const std::function<void()> &thread_body)
{
    if (!runner)
        runner = std::make_unique<grid_runner>();
    runner->run(launch, thread_body);
}

int block_barrier(int value, const char *name, place where)
{
    return runner->barrier(value, name, where);
}

void warp_collective(unsigned mask, void *argument, warp_function function, const char *name,
                     place where)
{
    runner->collective(mask, argument, function, name, where);
}

unsigned warp_active(void)
{
    return runner->active_lanes();
}

async_copies &running_thread_copies()
{
    return runner->copies();
}

void stop_in_kernel(const char *format, ...)
{
    char message[512], who[32] = "";
    va_list args;

    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    if (runner->running_or_none())
        snprintf(who, sizeof who, ", thread %d", runner->running_or_none()->number);
    stop("kernel %s, block (%u, %u, %u)%s: %s", runner->kernel(), self_block->index.x,
         self_block->index.y, self_block->index.z, who, message);
}

}
