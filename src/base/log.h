/* log.h - one place for what a program says: messages, the log file, and a live line below them.
 *
 * A message goes to the terminal stream and, with a time in front, to the log file once that is
 * open. Messages of several threads never mix within a line. A stream that nobody reads keeps no
 * thread waiting for more than LOG_PATIENCE: it loses what it does not take. */
#ifndef OCTET_LOG_H
#define OCTET_LOG_H

#include <stdbool.h>
#include <stdio.h>

#include "base/status.h"

/* Where messages go; stdout unless told. `sample` uses stderr, because its text goes to stdout. */
void log_set_stream(FILE *stream);

/* Also append messages to this file. ERR_IO if it can't be opened. */
enum status log_open_file(const char *path);
void log_close_file(void);

/* A line of information; "notice: " and "warning: " are put in front by the others. */
void log_info(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_notice(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_warning(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* To stderr as "PROGRAM: message", and to the log file. */
void log_error(const char *program, const char *message);

/* Whether this file takes text within so many milliseconds. A pipe that does takes 4096 bytes. */
enum { LOG_PATIENCE = 1000 };
bool log_takes_text(int fd, int milliseconds);

/* To the log file only: the configuration, evaluation details. */
void log_file_only(const char *text);

/* True where the stream is a terminal that can hold a live line. */
bool log_is_terminal(void);

/* Columns of the terminal, 80 where that is unknown. */
int log_columns(void);

/* Show or replace the live line (no newline in it); NULL removes it. Messages appear above it.
 * Does nothing where log_is_terminal() is false. */
void log_live(const char *line);

#endif
