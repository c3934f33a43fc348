#include "base/pulse.h"

#include <stdatomic.h>
#include <stddef.h>

static _Thread_local struct pulse *own;

void pulse_attach(struct pulse *pulse)
{
    own = pulse;
}

void pulse_beat(void)
{
    if (own)
        atomic_fetch_add(&own->beats, 1);
}

int pulse_phase(int phase)
{
    if (!own)
        return 0;
    const unsigned before = atomic_load(&own->phases);
    const int old = (int)(before % PULSE_PHASES);
    atomic_store(&own->phases, before - (unsigned)old + PULSE_PHASES + (unsigned)phase);
    pulse_beat();
    return old;
}

void pulse_wait(const char *where)
{
    if (!own)
        return;
    atomic_store(&own->wait, where);
    pulse_beat();
}
