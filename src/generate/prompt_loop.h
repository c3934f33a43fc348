/* prompt_loop.h - lines from the user, each answered before the next is read. */
#ifndef OCTET_PROMPT_LOOP_H
#define OCTET_PROMPT_LOOP_H

#include <signal.h>
#include <stddef.h>
#include <stdio.h>

#include "base/status.h"

/* `line` has no line end and may hold any bytes. */
typedef enum status (*prompt_answer)(void *context, const char *line, size_t size);

/* Answer lines until "quit", "exit" or the end of the input. On a terminal the line can be edited,
 * earlier ones come back with the arrow keys, and the prompt goes to stderr.
 *
 * A signal handler without SA_RESTART sets *stop to the signal's number. On a terminal SIGINT gives
 * up the line, or the answer if that returns ERR_CANCELED, and the next prompt follows; any other
 * signal, and SIGINT elsewhere, ends the loop with ERR_CANCELED. Other errors of `answer` end it
 * with their status. */
enum status prompt_loop_run(FILE *input, volatile sig_atomic_t *stop, prompt_answer answer,
                            void *context);

#endif
