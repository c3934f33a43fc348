/* option_find.h - rows by their names, and the nearest known name for one that is not known. */
#ifndef OCTET_OPTION_FIND_H
#define OCTET_OPTION_FIND_H

#include "options/option.h"

/* The row of an INI key. For an ignored key a notice is logged and *row is NULL. ERR_INVALID names
 * the nearest known key. */
enum status option_find_key(const struct option_table *table, const char *section, const char *key,
                            const struct option **row);

/* The same for "section.key=value"; *value points at its end. */
enum status option_find_assignment(const struct option_table *table, const char *assignment,
                                   const struct option **row, const char **value);

/* The row of a flag and its table, or NULL. */
const struct option *option_find_flag(const struct option_table *const *tables, int n_tables,
                                      const char *flag, const struct option_table **table);

/* ERR_INVALID: no such flag; names the nearest, or the INI key that was meant. */
enum status option_unknown_flag(const struct option_table *const *tables, int n_tables,
                                const char *flag);

/* The first table with INI keys, or NULL. */
const struct option_table *option_ini_table(const struct option_table *const *tables, int n_tables);

#endif
