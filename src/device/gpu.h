/* gpu.h - the GPUs of this machine, for code that must also build without CUDA.
 *
 * Implemented by cuda_gpu.c where CUDA is there, by no_gpu.c elsewhere. */
#ifndef OCTET_DEVICE_GPU_H
#define OCTET_DEVICE_GPU_H

#include "device/device.h"

/* GPUs that can be used; 0 without a driver or without CUDA support in this build. */
int gpu_count(void);
/* Why there are none, or what supports them: "this build has no CUDA support". */
const char *gpu_support(void);
/* Open GPU `ordinal` for computing in F32, BF16 or F16. */
enum status gpu_open(struct device **out, int ordinal, enum dtype real, bool deterministic);

#endif
