#include "base/memory_error.h"

#include <dlfcn.h>
#include <errno.h>
#include <unistd.h>

#include "base/log.h"

void memory_error_end(void)
{
    log_error(program_invocation_short_name, "no memory for a matrix product on the CPU: a smaller "
              "batch_size or model, or fewer workers, need less");
    _exit(1);
}

void memory_error_handle(void)
{
    /* std::set_new_handler(), which is there if a C++ library is. Its exception could not pass through
     * the C that called the library. */
    typedef void (*handler)(void);
    handler (*set_new_handler)(handler) = (handler (*)(handler))dlsym(RTLD_DEFAULT,
                                                                      "_ZSt15set_new_handlerPFvvE");

    if (set_new_handler)
        set_new_handler(memory_error_end);
}
