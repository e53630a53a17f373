/* gpu_nvml.h: what NVIDIA's driver tells of its GPUs, by the vendor's library, opened at run time. It makes no CUDA context.
 *
 * Any call may take as long as a broken GPU likes: only the thread of host/gpu_watch calls these. */
#ifndef LSV_HOST_GPU_NVML_H
#define LSV_HOST_GPU_NVML_H

#include <stdatomic.h>

#include "host/gpu.h"

struct nvml;

/* library: a name or a path for dlopen. 0; -ENOENT: there is no such library; -EIO: it is of no use now. why gets words. */
int nvml_open(const char *library, char *why, size_t size, struct nvml **ret);
struct nvml *nvml_close(struct nvml *n); /* takes NULL, always NULL */

/* Asks for what has happened since the last call (Xid), without waiting. True: something has, or a GPU was lost. */
bool nvml_poll(struct nvml *n);

/* Adds to s, whose gpus are those of gpu_scan: figures, missing names, parts (MIG), GPUs that the files did not show; those that the library
 * does not reach are taken out, since no program of ours could. at: place of the GPU that is being asked, for those who wait.
 * 0; -EIO: the driver has gone or was replaced, nvml_open anew. */
int nvml_sample(struct nvml *n, struct gpu_snapshot *s, atomic_int *at);

#endif
