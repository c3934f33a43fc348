/* replay.c - one harness over its corpus, without a fuzzer. Inputs named good_* must be accepted,
 * those named bad_* refused; others only must do no harm. */
#include <dirent.h>

#include "check.h"
#include "fuzz.h"
#include "temp_folder.h"

static char folder[1024];
static const char *input;       /* of the current case */

static int is_input(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

static void replay(void)
{
    char path[sizeof folder + sizeof ((struct dirent *)0)->d_name];
    size_t size;

    snprintf(path, sizeof path, "%s/%s", folder, input);
    char *data = temp_get(path, &size);
    CHECK(data != NULL);
    if (!data)
        return;
    const enum status status = fuzz_run((const uint8_t *)data, size);
    if (strncmp(input, "good_", 5) == 0 && status != OK)
        check_report(__FILE__, __LINE__, "refused: %s", status_message());
    CHECK(strncmp(input, "bad_", 4) != 0 || status != OK);
    free(data);
}

int main(void)
{
    struct dirent **entries;

    snprintf(folder, sizeof folder, "%s/test/fuzz/corpus/%s", OCTET_SOURCE_DIR, FUZZ_NAME);
    const int n = scandir(folder, &entries, is_input, alphasort);
    if (n <= 0) {
        fprintf(stderr, "%s: no inputs\n", folder);
        return 1;
    }
    for (int i = 0; i < n; i++) {
        input = entries[i]->d_name;
        check_run(input, replay);
        free(entries[i]);
    }
    free(entries);
    return check_finish();
}
