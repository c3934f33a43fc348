/* metrics - reads metrics.jsonl for the end-to-end tests: is it what it should be, and what is in
 * it? */
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"

enum { MAX_ROW = 1024 };

static const char *const step_keys[] = {"step", "epoch",  "loss",         "grad_norm",
                                        "lr",   "tokens", "tokens_per_s", NULL};
static const char *const evaluation_keys[] = {"step", "val_loss", "val_perplexity", "val_accuracy",
                                              NULL};

typedef enum status (*row_visitor)(void *context, json_t *row);

static enum status each_row(const char *path, row_visitor visit, void *context)
{
    struct mapped_file file;
    enum status status = OK;
    char source[300];

    TRY(mapped_file_open(&file, path));
    const char *line = (const char *)file.data, *const end = line + file.size;
    for (int number = 1; line < end && status == OK; number++) {
        const char *newline = memchr(line, '\n', (size_t)(end - line));
        json_t *row;
        snprintf(source, sizeof source, "%s:%d", path, number);
        if (!newline) {
            status = fail(ERR_INVALID, "%s: the line has no end", source);
            break;
        }
        status = json_parse(&row, line, (size_t)(newline - line), MAX_ROW, source);
        if (status != OK)
            break;
        status = visit(context, row);
        if (status != OK)
            fail_prefix(status, "%s: ", source);
        json_decref(row);
        line = newline + 1;
    }
    mapped_file_close(&file);
    return status;
}

/* ---- check ---- */

/* Where a run stands behind the rows read so far. */
struct run {
    int64_t n_steps, n_evaluations;
    int64_t step, epoch, tokens;
    bool is_evaluated;          /* after this step */
};

/* Exactly these keys in this order, all of them finite numbers. A step that was skipped says so behind
 * them, and may have no number. */
static enum status check_keys(json_t *row, const char *const *keys)
{
    const bool is_skipped = json_is_true(json_object_get(row, "skipped"));
    const char *key;
    json_t *value;

    json_object_foreach(row, key, value) {
        if (is_skipped && !*keys && strcmp(key, "skipped") == 0)
            continue;
        if (is_skipped && *keys && strcmp(key, *keys) == 0 && json_is_null(value)) {
            keys++;
            continue;
        }
        if (!*keys || strcmp(key, *keys) != 0)
            return fail(ERR_INVALID, "key %s, expected %s", key, *keys ? *keys : "no more");
        if (!json_is_number(value) || !isfinite(json_number_value(value)))
            return fail(ERR_INVALID, "%s is no finite number", key);
        keys++;
    }
    return *keys ? fail(ERR_INVALID, "no key %s", *keys) : OK;
}

static int64_t integer(const json_t *row, const char *key)
{
    return json_integer_value(json_object_get(row, key));
}

static double number(const json_t *row, const char *key)
{
    return json_number_value(json_object_get(row, key));
}

static enum status check_evaluation(struct run *run, json_t *row)
{
    const double loss = number(row, "val_loss"), perplexity = number(row, "val_perplexity");
    const double accuracy = number(row, "val_accuracy");

    TRY(check_keys(row, evaluation_keys));
    if (integer(row, "step") != run->step || run->is_evaluated)
        return fail(ERR_INVALID, "an evaluation of step %" PRId64 " behind step %" PRId64,
                    integer(row, "step"), run->step);
    if (fabs(perplexity / exp(loss) - 1) > 1e-6)
        return fail(ERR_INVALID, "val_perplexity is %g, and exp(val_loss) is %g", perplexity,
                    exp(loss));
    if (!(accuracy >= 0 && accuracy <= 1))
        return fail(ERR_INVALID, "val_accuracy is %g", accuracy);
    run->n_evaluations++;
    run->is_evaluated = true;
    return OK;
}

static enum status check_step(struct run *run, json_t *row)
{
    const int64_t step = integer(row, "step"), epoch = integer(row, "epoch");
    const int64_t tokens = integer(row, "tokens");

    TRY(check_keys(row, step_keys));
    if (step != run->step + 1)
        return fail(ERR_INVALID, "step %" PRId64 " behind step %" PRId64, step, run->step);
    if (epoch < run->epoch || epoch > run->epoch + 1)
        return fail(ERR_INVALID, "epoch %" PRId64 " behind epoch %" PRId64, epoch, run->epoch);
    if (tokens <= run->tokens)
        return fail(ERR_INVALID, "%" PRId64 " tokens behind %" PRId64, tokens, run->tokens);
    if (number(row, "lr") < 0 || number(row, "grad_norm") < 0 || number(row, "tokens_per_s") <= 0)
        return fail(ERR_INVALID, "lr, grad_norm or tokens_per_s is negative");
    *run = (struct run){run->n_steps + 1, run->n_evaluations, step, epoch, tokens, false};
    return OK;
}

static enum status check_row(void *run, json_t *row)
{
    return json_object_get(row, "val_loss") ? check_evaluation(run, row) : check_step(run, row);
}

static enum status check(char **args)
{
    struct run run = {0};

    TRY(each_row(args[0], check_row, &run));
    printf("%" PRId64 " steps, %" PRId64 " evaluations\n", run.n_steps, run.n_evaluations);
    return OK;
}

/* ---- values ---- */

static enum status print_value(void *key, json_t *row)
{
    const json_t *value = json_object_get(row, key);

    if (!value)
        return OK;
    if (!json_is_number(value))
        return fail(ERR_INVALID, "%s is no number", (const char *)key);
    printf("%" PRId64 " %.9g\n", integer(row, "step"), json_number_value(value));
    return OK;
}

static enum status values(char **args)
{
    return each_row(args[0], print_value, args[1]);
}

/* ---- the program ---- */

int main(int argc, char **argv)
{
    enum status status;

    if (argc == 3 && strcmp(argv[1], "check") == 0) {
        status = check(argv + 2);
    } else if (argc == 4 && strcmp(argv[1], "values") == 0) {
        status = values(argv + 2);
    } else {
        fprintf(stderr, "metrics check FILE: is every row right? how many are there?\n"
                        "metrics values FILE KEY: step and value of each row that has KEY\n");
        return 2;
    }
    if (status != OK)
        fprintf(stderr, "metrics: %s\n", status_message());
    return status != OK;
}
