/* cuda_sections.c - sections of work as CUDA graphs: one launch instead of one for each kernel. */
#include <stdlib.h>
#include <string.h>

#include "device/cuda.h"

struct cuda_section {
    bool has_run;               /* so modules are loaded and product algorithms chosen */
    cudaGraphExec_t graph;      /* NULL until recorded */
};

struct cuda_sections {
    struct cuda_section *all;
    int count;
    int current;
    bool recording;
};

static enum status make_room(struct cuda_sections *sections, int section)
{
    if (section < sections->count)
        return OK;
    struct cuda_section *all = realloc(sections->all, (size_t)(section + 1) * sizeof *all);
    if (!all)
        return fail(ERR_NOMEM, "no memory for section %d of a step", section);
    memset(all + sections->count, 0, (size_t)(section + 1 - sections->count) * sizeof *all);
    sections->all = all;
    sections->count = section + 1;
    return OK;
}

/* Kernels that are timed one by one cannot be recorded. */
enum status cuda_section_begin(struct device *dev, int section)
{
    struct cuda_device *cuda = cuda_device(dev);

    if (!cuda->sections && !(cuda->sections = calloc(1, sizeof *cuda->sections)))
        return fail(ERR_NOMEM, "no memory for the sections of a step");
    TRY(make_room(cuda->sections, section));
    cuda->sections->current = section;
    const struct cuda_section *now = &cuda->sections->all[section];
    if (now->graph) {
        dev->replaying = true;
    } else if (now->has_run && !dev->profile) {
        CUDA_TRY(dev, cudaStreamBeginCapture(cuda->stream, cudaStreamCaptureModeThreadLocal));
        cuda->sections->recording = true;
    }
    return OK;
}

static enum status finish_recording(struct device *dev, struct cuda_section *section)
{
    cudaGraph_t graph;

    cuda_device(dev)->sections->recording = false;
    CUDA_TRY(dev, cudaStreamEndCapture(cuda_stream(dev), &graph));
    const cudaError_t error = cudaGraphInstantiate(&section->graph, graph, 0);
    (void)cudaGraphDestroy(graph);
    CUDA_TRY(dev, error);
    return OK;
}

enum status cuda_section_end(struct device *dev)
{
    struct cuda_sections *sections = cuda_device(dev)->sections;
    struct cuda_section *section = &sections->all[sections->current];

    dev->replaying = false;
    section->has_run = true;
    if (sections->recording)
        TRY(finish_recording(dev, section));
    if (section->graph)
        CUDA_TRY(dev, cudaGraphLaunch(section->graph, cuda_stream(dev)));
    return OK;
}

enum status cuda_sections_forget(struct device *dev)
{
    struct cuda_sections *sections = cuda_device(dev)->sections;

    dev->replaying = false;
    if (sections && sections->recording) {
        /* Of what was recorded nothing is wanted; where an error broke it off, that is known. */
        cudaGraph_t graph = NULL;
        sections->recording = false;
        (void)cudaStreamEndCapture(cuda_stream(dev), &graph);
        if (graph)
            (void)cudaGraphDestroy(graph);
        (void)cudaGetLastError();
    }
    for (int i = 0; sections && i < sections->count; i++) {
        struct cuda_section *section = &sections->all[i];
        if (section->graph)
            CUDA_TRY(dev, cudaGraphExecDestroy(section->graph));
        section->graph = NULL;
    }
    return OK;
}

void cuda_sections_free(struct device *dev)
{
    struct cuda_sections *sections = cuda_device(dev)->sections;

    /* After an error this fails too, and nothing is left to do about it. */
    (void)cuda_sections_forget(dev);
    if (sections)
        free(sections->all);
    free(sections);
}
