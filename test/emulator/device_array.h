/* device_array.h - numbers on the current device, for the emulator's tests. */
#ifndef OCTET_EMULATOR_DEVICE_ARRAY_H
#define OCTET_EMULATOR_DEVICE_ARRAY_H

#include <cuda_runtime_api.h>

#include <vector>

/* Copies go over the null stream and wait; streams made with cudaStreamNonBlocking have to be
 * synchronized first. */
template <class T> class device_array {
public:
    explicit device_array(size_t n_values) : n(n_values)
    {
        cudaMalloc(&memory, n * sizeof(T));
    }
    explicit device_array(const std::vector<T> &values) : device_array(values.size())
    {
        cudaMemcpy(memory, values.data(), n * sizeof(T), cudaMemcpyHostToDevice);
    }
    ~device_array() { cudaFree(memory); }
    device_array(const device_array &) = delete;
    device_array &operator=(const device_array &) = delete;

    operator T *() const { return static_cast<T *>(memory); }
    std::vector<T> values() const
    {
        std::vector<T> copy(n);
        cudaMemcpy(copy.data(), memory, n * sizeof(T), cudaMemcpyDeviceToHost);
        return copy;
    }

private:
    void *memory = nullptr;
    size_t n;
};

inline cudaStream_t new_stream(void)
{
    cudaStream_t stream = nullptr;

    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    return stream;
}

inline cudaEvent_t new_event(void)
{
    cudaEvent_t event = nullptr;

    cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
    return event;
}

#endif
