/* scheduler.cpp - queues of operations, run in any order that CUDA allows. */
#include "emulator/scheduler.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>

#include "emulator/runtime.h"
#include "emulator/settings.h"

namespace emulator {

namespace {

/* With random streams, how soon operations run that nobody waits for yet. Chosen anew after each
 * wait: all early finds code that relies on lateness, all late the opposite, and some the rest. */
enum class haste { at_once, some, none };

struct device {
    std::vector<std::shared_ptr<queue>> queues;
    std::shared_ptr<queue> null;
    cudaError_t error = cudaSuccess;
    haste pace = haste::at_once;
    random_source random{0};

    void choose_pace()
    {
        if (environment().random_streams)
            pace = static_cast<haste>(random.below(3));
    }
};

struct scheduler {
    std::mutex mutex;
    std::condition_variable changed;
    uint64_t changes = 1;           /* operations submitted, run, or given another chance */
    uint64_t n_done = 0;
    std::vector<device> devices;

    scheduler() : devices(static_cast<size_t>(environment().devices))
    {
        for (size_t i = 0; i < devices.size(); i++) {
            devices[i].random = random_source(environment().seed * 64 + i);
            devices[i].choose_pace();
        }
    }
};

/* Never destroyed: threads may still be at work when the program ends. */
scheduler &the_scheduler()
{
    static scheduler *const once = new scheduler;

    return *once;
}

bool reached(const point &point)
{
    return !point.on || point.on->completed >= point.number;
}

bool can_run(const scheduler &all, const queue &queue)
{
    if (queue.operations.empty() || queue.running || queue.tried == all.changes)
        return false;
    if (all.devices[queue.device].error != cudaSuccess)
        return true;
    const std::vector<point> &after = queue.operations.front().after;
    return std::all_of(after.begin(), after.end(), reached);
}

void note_change(scheduler &all)
{
    all.changes++;
    all.changed.notify_all();
}

/* Run the first operation of the queue, without the lock. */
void run_first(scheduler &all, std::unique_lock<std::mutex> &lock, std::shared_ptr<queue> queue)
{
    operation &first = queue->operations.front();
    const uint64_t tried = all.changes;
    bool done = true;

    queue->running = true;
    if (all.devices[queue->device].error == cudaSuccess) {
        lock.unlock();
        done = first.run();
        lock.lock();
    }
    queue->running = false;
    if (done) {
        queue->operations.pop_front();
        queue->completed++;
        all.n_done++;
        queue->tried = 0;
        note_change(all);
    } else {
        queue->tried = tried;
    }
}

/* Which queue to prefer for this wait, if any. */
enum class preference { none, target_first, target_last };

std::shared_ptr<queue> pick(scheduler &all, int device_index, const queue *target,
                            preference preference)
{
    device &device = all.devices[device_index];
    std::vector<std::shared_ptr<queue>> candidates;

    for (const std::shared_ptr<queue> &queue : device.queues)
        if (can_run(all, *queue))
            candidates.push_back(queue);
    const auto is_target = [&](const auto &candidate) { return candidate.get() == target; };
    const auto found = std::find_if(candidates.begin(), candidates.end(), is_target);
    if (found != candidates.end() && preference == preference::target_first)
        return *found;
    if (found != candidates.end() && preference == preference::target_last && candidates.size() > 1)
        candidates.erase(found);
    if (candidates.empty())
        return nullptr;
    return candidates[environment().random_streams ? device.random.below(candidates.size()) : 0];
}

/* Run one operation of the device; false if none can run. */
bool run_one(scheduler &all, std::unique_lock<std::mutex> &lock, int device,
             const queue *target = nullptr, preference preference = preference::none)
{
    const std::shared_ptr<queue> next = pick(all, device, target, preference);

    if (next)
        run_first(all, lock, next);
    return next != nullptr;
}

/* What another thread has queued and does not wait for, as a GPU would run it. */
bool run_elsewhere(scheduler &all, std::unique_lock<std::mutex> &lock, int not_this)
{
    const int n_devices = static_cast<int>(all.devices.size());

    for (int i = 0; i < n_devices; i++)
        if (i != not_this && run_one(all, lock, i))
            return true;
    return false;
}

void wait_until(int device_index, const queue *target, const std::function<bool()> &is_reached)
{
    scheduler &all = the_scheduler();
    std::unique_lock<std::mutex> lock(all.mutex);
    device &device = all.devices[device_index];
    preference preference = preference::target_first;

    if (environment().random_streams)
        preference = static_cast<enum preference>(device.random.below(3));
    while (!is_reached()) {
        if (run_one(all, lock, device_index, target, preference) ||
            run_elsewhere(all, lock, device_index))
            continue;
        /* Another thread runs what is missing, or has yet to queue it; an operation that said "not
         * yet" may have a time limit of its own. */
        const uint64_t before = all.changes;
        all.changed.wait_for(lock, std::chrono::milliseconds(10));
        if (all.changes == before)
            all.changes++;
    }
    device.choose_pace();
}

}

std::shared_ptr<queue> queue_create(int device, bool blocking)
{
    scheduler &all = the_scheduler();
    const std::lock_guard<std::mutex> lock(all.mutex);
    auto created = std::make_shared<queue>();

    created->device = device;
    created->blocking = blocking;
    all.devices[device].queues.push_back(created);
    return created;
}

void queue_destroy(const std::shared_ptr<queue> &queue)
{
    scheduler &all = the_scheduler();

    wait_for(queue_end(queue));
    const std::lock_guard<std::mutex> lock(all.mutex);
    auto &queues = all.devices[queue->device].queues;
    queues.erase(std::find(queues.begin(), queues.end(), queue));
}

std::shared_ptr<queue> null_queue(int device_index)
{
    scheduler &all = the_scheduler();
    const std::lock_guard<std::mutex> lock(all.mutex);
    device &device = all.devices[device_index];

    if (!device.null) {
        device.null = std::make_shared<queue>();
        device.null->device = device_index;
        device.queues.push_back(device.null);
    }
    return device.null;
}

void submit(const std::shared_ptr<queue> &queue, operation operation)
{
    scheduler &all = the_scheduler();
    std::unique_lock<std::mutex> lock(all.mutex);
    device &device = all.devices[queue->device];

    if (queue == device.null) {
        for (const std::shared_ptr<struct queue> &other : device.queues)
            if (other->blocking)
                operation.after.push_back({other, other->submitted});
    } else if (queue->blocking && device.null) {
        operation.after.push_back({device.null, device.null->submitted});
    }
    queue->operations.push_back(std::move(operation));
    queue->submitted++;
    note_change(all);
    size_t n_to_run = SIZE_MAX;
    if (device.pace == haste::none)
        n_to_run = 0;
    else if (device.pace == haste::some)
        n_to_run = device.random.below(4);
    while (n_to_run > 0 && run_one(all, lock, queue->device))
        n_to_run--;
}

point queue_end(const std::shared_ptr<queue> &queue)
{
    scheduler &all = the_scheduler();
    const std::lock_guard<std::mutex> lock(all.mutex);

    return {queue, queue->submitted};
}

void wait_for(const point &point)
{
    if (point.on)
        wait_until(point.on->device, point.on.get(), [&] { return reached(point); });
}

void wait_for_device(int device_index)
{
    const auto &queues = the_scheduler().devices[device_index].queues;
    const auto idle = [](const auto &queue) { return queue->operations.empty(); };

    wait_until(device_index, nullptr,
               [&] { return std::all_of(queues.begin(), queues.end(), idle); });
}

bool ask(const point &point)
{
    scheduler &all = the_scheduler();
    std::unique_lock<std::mutex> lock(all.mutex);

    if (!point.on)
        return true;
    const int index = point.on->device;
    size_t n_to_run = SIZE_MAX;
    if (environment().random_streams)
        n_to_run = all.devices[index].random.below(8);
    all.changes++;
    for (; n_to_run > 0 && !reached(point); n_to_run--)
        if (!run_one(all, lock, index) && !run_elsewhere(all, lock, index))
            break;
    return reached(point);
}

uint64_t operations_done(void)
{
    scheduler &all = the_scheduler();
    const std::lock_guard<std::mutex> lock(all.mutex);

    return all.n_done;
}

void fail_device(int device, cudaError_t error)
{
    scheduler &all = the_scheduler();
    const std::lock_guard<std::mutex> lock(all.mutex);

    if (all.devices[device].error == cudaSuccess)
        all.devices[device].error = error;
    note_change(all);
}

cudaError_t device_error(int device)
{
    scheduler &all = the_scheduler();
    const std::lock_guard<std::mutex> lock(all.mutex);

    return all.devices[device].error;
}

}
