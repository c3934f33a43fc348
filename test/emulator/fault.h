/* fault.h - calls that fail because the environment asks for it, to test what the caller does then.
 *
 *     OCTET_EMULATOR_FAIL=RULE[,RULE...]      RULE: KIND[:NAME]:N[@DEVICE]
 *
 * The N-th call (from 1) of that kind, with that name if one is given, on that device if one is
 * given, fails. A rule for every kernel has no NAME. Kinds:
 *
 *     malloc   cudaMalloc: cudaErrorMemoryAllocation      host     cudaHostAlloc: the same
 *     memcpy   copies and memset: cudaErrorInvalidValue
 *     stream, event   their creation: cudaErrorMemoryAllocation
 *     launch   of kernel NAME, at once: cudaErrorLaunchOutOfResources
 *     kernel   NAME, when it runs: cudaErrorIllegalAddress, and the device is lost
 *     others   what the emulated libraries name (nccl, cublas) */
#ifndef OCTET_EMULATOR_FAULT_H
#define OCTET_EMULATOR_FAULT_H

namespace emulator {

/* Whether this call is one of those; counts it. `name` is compared up to a template's '<'. */
bool fault_due(const char *kind, const char *name, int device);

}

#endif
