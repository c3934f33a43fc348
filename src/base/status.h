/* status.h - what every function that can fail returns, and the one line that says why. */
#ifndef OCTET_STATUS_H
#define OCTET_STATUS_H

enum status {
    OK = 0,
    ERR_INVALID,    /* bad usage, option, or content of a file the user gave */
    ERR_IO,         /* the operating system refused: disk, network, permissions */
    ERR_NOMEM,
    ERR_DEVICE,     /* a device or a kernel on it */
    ERR_COMM,       /* a collective between devices */
    ERR_DIVERGED,   /* training finds no numbers any longer: all ranks alike */
    ERR_CANCELED,   /* another worker failed first, or the user asked to stop */
};

/* Record this thread's error message, "what is wrong: what was expected, what to do", and return
 * `code`. The message is built here, where the fault is seen, and printed once, by main(). It is
 * one line: control characters in it become question marks. */
enum status fail(enum status code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The same with the text of errno appended: "FORMAT: No such file or directory". */
enum status fail_errno(enum status code, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Put words in front of the recorded message, for a caller that knows more: "rank 3: ". */
enum status fail_prefix(enum status code, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* This thread's latest message, "" if it never failed. Valid until the thread's next fail(). */
const char *status_message(void);

/* The exit code of a program that ends with this status: 0 done, 2 bad usage or input, 1 else. */
int status_exit_code(enum status code);

/* Return the status of a call that failed; for functions that hold nothing to release. */
#define TRY(call)                               \
    do {                                        \
        const enum status try_status = (call);  \
        if (try_status != OK)                   \
            return try_status;                  \
    } while (0)

/* Keep the status of a failed call in `status` and leave through the cleanup label. */
#define TRY_GOTO(status, call, label)           \
    do {                                        \
        (status) = (call);                      \
        if ((status) != OK)                     \
            goto label;                         \
    } while (0)

#endif
