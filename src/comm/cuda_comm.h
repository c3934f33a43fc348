/* cuda_comm.h - collectives between the GPUs of one process, one thread each: through NCCL, or, for
 * tests, between several ranks that share one GPU. */
#ifndef OCTET_CUDA_COMM_H
#define OCTET_CUDA_COMM_H

#include "comm/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

struct cuda_group;

/* What the ranks share. `barrier` is of as many threads as ranks; cancelling it makes pending waits
 * return ERR_CANCELED. `timeout`: seconds that comm_wait() gives the GPUs before it names the ranks
 * that hold the others up.
 *
 * Rank r is GPU ordinals[r]; to be called by one thread, before the workers start. */
enum status cuda_group_create_nccl(struct cuda_group **out, int size, const int *ordinals,
                                   struct barrier *barrier, double timeout);
/* Up to 8 ranks on the same GPU, each with its own device object. */
enum status cuda_group_create_loopback(struct cuda_group **out, int size, struct barrier *barrier,
                                       double timeout);

/* On the thread that owns `dev`. */
enum status comm_cuda_create(struct comm **out, struct cuda_group *group, int rank,
                             struct device *dev);

/* On any thread: what the workers wait for with comm_wait() takes too long; each gives up as if
 * its timeout were over. */
void cuda_group_give_up(struct cuda_group *group);

/* When all workers have ended, and while their devices still exist: freeing memory waits for a
 * collective that hangs, so after a failure the communicators are aborted here first. Fails if that
 * takes more than 10 s; then only _exit() is sure to end the process. The comms may be destroyed
 * before or after. NULL is fine. */
enum status cuda_group_destroy(struct cuda_group *group);

#ifdef __cplusplus
}
#endif
#endif
