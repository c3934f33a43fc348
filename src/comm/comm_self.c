#include "comm/comm.h"

#include <stdlib.h>

static enum status self_all_reduce(struct comm *comm, const struct tensor *x)
{
    (void)comm;
    (void)x;
    return OK;
}

/* all_reduce() leaves nothing to wait for. */
static enum status self_wait(struct comm *comm)
{
    (void)comm;
    return OK;
}

static void self_destroy(struct comm *comm)
{
    free(comm);
}

static const struct comm_ops self_ops = {"self", self_all_reduce, self_wait, self_destroy};

enum status comm_self_create(struct comm **out)
{
    *out = malloc(sizeof **out);
    if (!*out)
        return fail(ERR_NOMEM, "no memory for a communicator");
    **out = (struct comm){&self_ops, 0, 1};
    return OK;
}
