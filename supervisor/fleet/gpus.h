/* gpus.h: the GPUs of this machine as doors tell of them: what they are, what they do now, and which instances are on them.
 *
 * The figures are of the last snapshot (host/gpu_watch), every 5 s, or every second while somebody asks for them to be fresh. */
#ifndef LSV_FLEET_GPUS_H
#define LSV_FLEET_GPUS_H

#include "base/json.h"
#include "fleet/fleet.h"

/* {"gpus":[…],"driver","problem","at"}: each GPU {"index","vendor","uuid","name","pci","mig","state" ("ok", "cordoned", "lost", "unknown"),"cordon" (null, or {"by" ("xid", "lost", "deaths", "person"),"why","since"}),
 * "memoryTotal","memoryUsed","utilization","temperature","power","powerLimit","throttle","ecc","lastError","instances","processes"}; what
 * is not known is null. Source of the form: docs/api/openapi.json. */
void fleet_put_gpus(struct fleet *f, struct json_writer *w);
/* Another one after each snapshot; 0: there was none. */
uint64_t fleet_gpus_number(const struct fleet *f);
/* Somebody looks: a snapshot each second, until a few seconds from now. */
void fleet_gpus_hurry(struct fleet *f);

/* A driver does not answer, and a thread of ours waits in it, maybe where no signal reaches it: exec would wait for that thread, too. */
bool fleet_gpus_are_silent(const struct fleet *f);

/* A person's orders; id: a uuid, an index, or a PCI address; reason may be NULL. 0 also when it is so already; -ENOENT; -ENOSPC: too many are;
 * -EPERM: only the GPU that it is a part of is cordoned. *ret_message (malloc'd, plain words) is set in every case. */
int fleet_cordon(struct fleet *f, const char *id, const char *reason, char **ret_message);
int fleet_uncordon(struct fleet *f, const char *id, char **ret_message);

/* --- figures for /metrics -------------------------------------------------------------------------------------------- */
struct fleet_gpu {
        const char *uuid; /* or the PCI address, where there is none */
        const char *name, *vendor;
        int index; /* -1: a part of a GPU */
        const char *state;
        bool is_cordoned;
        uint64_t memory_total, memory_used;
        bool has_use, has_temperature, has_power, has_power_limit, has_throttle, has_ecc;
        double use, temperature, power, power_limit;
        unsigned throttle; /* bits of fleet_gpu_throttle_name */
        uint64_t ecc_corrected, ecc_uncorrected, errors;
        unsigned last_error;
};
extern const char *const fleet_gpu_states[]; /* NULL-ended */
size_t fleet_gpu_count(const struct fleet *f);
void fleet_gpu(const struct fleet *f, size_t i, struct fleet_gpu *ret);
const char *fleet_gpu_throttle_name(unsigned bit); /* NULL: no such bit */

#endif
