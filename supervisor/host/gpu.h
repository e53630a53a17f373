/* gpu.h: which GPUs this machine has, from /proc and /sys alone, and the variables that pin a child to some of them.
 *
 * NVIDIA: /proc/driver/nvidia/gpus/BUS/information (the driver's own text; memory is not told there). AMD:
 * /sys/class/drm/cardN/device, driver amdgpu (vendor, unique_id, mem_info_vram_*). index counts from 0 within a vendor in
 * the order of PCI addresses, which is CUDA's with CUDA_DEVICE_ORDER=PCI_BUS_ID. A GPU is best named by its uuid: indices move
 * when a card is added or lost.
 * Sources: CUDA programming guide, "CUDA environment variables" (an empty CUDA_VISIBLE_DEVICES: no device is visible; an
 * invalid entry hides those after it); ROCm documentation, "GPU isolation techniques" (ROCR_VISIBLE_DEVICES: indices or
 * "GPU-" and the unique_id; recommended on Linux); ggml-vulkan (GGML_VK_VISIBLE_DEVICES). */
#ifndef LSV_HOST_GPU_H
#define LSV_HOST_GPU_H

#include <stddef.h>
#include <stdint.h>

enum gpu_vendor { GPU_NVIDIA, GPU_AMD };

struct gpu {
        enum gpu_vendor vendor;
        int index;
        char uuid[64]; /* "GPU-fbdb9551-ce05-…", AMD "GPU-6f5c…"; "" when the driver does not tell */
        char name[96]; /* harmless text: "NVIDIA H200" */
        char pci[16];  /* "0000:01:00.0" */
        uint64_t memory_total, memory_used; /* bytes; 0: unknown */
};

/* The GPUs found, NVIDIA first, at most max; root is "" for the real machine, a folder in tests. Their number, 0 when there
 * is no driver; -errno. */
int gpu_scan(const char *root, struct gpu *ret, size_t max);

/* The variables ("NAME=value", NULL-ended, text_list_free) for a child that shall see these GPUs only; none (n is 0) for one
 * that shall see no GPU. GPUs of both vendors at once: each vendor's variable names its own. Vulkan builds follow none of
 * the pinning variables (their order is the loader's), so for these `--device` is the user's business. 0 or -ENOMEM. */
int gpu_env(const struct gpu *const *gpus, size_t n, char ***ret);

#endif
