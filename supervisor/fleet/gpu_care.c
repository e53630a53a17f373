/* gpu_care.c: which GPUs take work: cordons, why they are there, and who may lift them. */
#include "base/text.h"
#include "fleet/private.h"

/* A part's whole GPU is where it is plugged in. */
static const struct gpu_note *note_of_whole(const struct fleet *f, const struct gpu *g)
{
        for (size_t i = 0; i < f->n_gpus; i++)
                if (f->gpus[i].vendor == g->vendor && !f->gpus[i].is_mig && streq(f->gpus[i].pci, g->pci))
                        return f->gpu_notes + i;
        return NULL;
}

const struct gpu_cordon *gpus_cordon(const struct fleet *f, const struct gpu *g)
{
        const struct gpu_note *note = f->gpu_notes + (g - f->gpus);

        if (note->cordon.is_set)
                return &note->cordon;
        note = g->is_mig ? note_of_whole(f, g) : NULL;
        return note && note->cordon.is_set ? &note->cordon : NULL;
}

bool gpus_takes_work(const struct fleet *f, const struct gpu *g)
{
        return !g->figures.is_lost && !g->has_mig && !gpus_cordon(f, g);
}
