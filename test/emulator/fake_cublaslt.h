/* fake_cublaslt.h - what tests may ask the emulated cuBLASLt. */
#ifndef OCTET_EMULATOR_FAKE_CUBLASLT_H
#define OCTET_EMULATOR_FAKE_CUBLASLT_H

#ifdef __cplusplus
extern "C" {
#endif

struct fake_cublaslt_log {
    long queries;           /* of heuristics, so far, over all devices */
    long products;
    int algorithm;          /* of the latest product: its place in the heuristics' full list */
};
struct fake_cublaslt_log fake_cublaslt_read_log(void);

#ifdef __cplusplus
}
#endif
#endif
