/* nvml.h: as much of the ABI of NVIDIA's management library as we use. These are our own declarations: the library is opened with
 * dlopen, nothing of it is needed to build, and a machine without it is as good as any other.
 *
 * Source: NVIDIA, "NVML API Reference Guide". Names, numbers and the layout of the structs are those of libnvidia-ml.so.1, which keeps
 * what it once exported; functions with a suffix (_v2, _v3) are the forms that the header of the vendor maps the plain names to. */
#ifndef LSV_HOST_NVML_H
#define LSV_HOST_NVML_H

#define NVML_LIBRARY "libnvidia-ml.so.1"

struct nvml_device_handle; /* opaque */
struct nvml_event_set_handle;
typedef struct nvml_device_handle *nvml_device;
typedef struct nvml_event_set_handle *nvml_event_set;

enum nvml_result {
        NVML_OK = 0,
        NVML_UNINITIALIZED = 1,
        NVML_NOT_SUPPORTED = 3,
        NVML_NO_PERMISSION = 4,
        NVML_NOT_FOUND = 6,
        NVML_INSUFFICIENT_SIZE = 7,
        NVML_DRIVER_NOT_LOADED = 9,
        NVML_TIMEOUT = 10,
        NVML_GPU_IS_LOST = 15,
        NVML_RESET_REQUIRED = 16,
        NVML_LIB_RM_VERSION_MISMATCH = 18,
};

enum { NVML_UUID_BYTES = 96, NVML_NAME_BYTES = 96, NVML_VERSION_BYTES = 80 };

struct nvml_pci {
        char bus_id_legacy[16];
        unsigned domain, bus, device, device_id, subsystem_id;
        char bus_id[32]; /* "00000000:01:00.0" */
};
struct nvml_memory {
        unsigned long long total, free, used;
};
struct nvml_utilization {
        unsigned gpu, memory; /* percent */
};
struct nvml_process { /* of _v2 and _v3 of the functions */
        unsigned pid;
        unsigned long long used; /* NVML_NOT_AVAILABLE: not told */
        unsigned gpu_instance, compute_instance;
};
#define NVML_NOT_AVAILABLE (~0ULL)
struct nvml_event {
        nvml_device device;
        unsigned long long type, data; /* data: the number of the Xid */
        unsigned gpu_instance, compute_instance;
};
#define NVML_EVENT_XID 0x8ULL

/* Why its clocks are lower than they could be. */
#define NVML_THROTTLE_POWER_CAP        0x04ULL
#define NVML_THROTTLE_HARDWARE         0x08ULL
#define NVML_THROTTLE_SYNC_BOOST       0x10ULL
#define NVML_THROTTLE_THERMAL          0x20ULL
#define NVML_THROTTLE_HARDWARE_THERMAL 0x40ULL
#define NVML_THROTTLE_POWER_BRAKE      0x80ULL

/* NVML_FUNCTION(member, symbol, needed, parameters): without a needed one the library is of no use; each other one may be missing. */
#define NVML_FUNCTIONS(NVML_FUNCTION)                                                                        \
        NVML_FUNCTION(init, "nvmlInit_v2", 1, (void))                                                        \
        NVML_FUNCTION(shutdown, "nvmlShutdown", 1, (void))                                                   \
        NVML_FUNCTION(driver_version, "nvmlSystemGetDriverVersion", 0, (char *ret, unsigned size))           \
        NVML_FUNCTION(count, "nvmlDeviceGetCount_v2", 1, (unsigned *ret))                                    \
        NVML_FUNCTION(handle, "nvmlDeviceGetHandleByIndex_v2", 1, (unsigned i, nvml_device *ret))            \
        NVML_FUNCTION(uuid, "nvmlDeviceGetUUID", 1, (nvml_device d, char *ret, unsigned size))               \
        NVML_FUNCTION(name, "nvmlDeviceGetName", 1, (nvml_device d, char *ret, unsigned size))               \
        NVML_FUNCTION(pci, "nvmlDeviceGetPciInfo_v3", 1, (nvml_device d, struct nvml_pci * ret))             \
        NVML_FUNCTION(memory, "nvmlDeviceGetMemoryInfo", 1, (nvml_device d, struct nvml_memory * ret))       \
        NVML_FUNCTION(utilization, "nvmlDeviceGetUtilizationRates", 0,                                       \
                      (nvml_device d, struct nvml_utilization * ret))                                        \
        NVML_FUNCTION(temperature, "nvmlDeviceGetTemperature", 0,                                            \
                      (nvml_device d, int sensor, unsigned *ret))                                            \
        NVML_FUNCTION(power, "nvmlDeviceGetPowerUsage", 0, (nvml_device d, unsigned *ret_milliwatts))        \
        NVML_FUNCTION(power_limit, "nvmlDeviceGetEnforcedPowerLimit", 0, (nvml_device d, unsigned *ret))     \
        NVML_FUNCTION(throttle, "nvmlDeviceGetCurrentClocksThrottleReasons", 0,                              \
                      (nvml_device d, unsigned long long *ret))                                              \
        NVML_FUNCTION(ecc_mode, "nvmlDeviceGetEccMode", 0, (nvml_device d, int *ret_now, int *ret_pending))  \
        /* error: 0 corrected, 1 uncorrected; counter: 0 since the driver was loaded, 1 in its life */       \
        NVML_FUNCTION(ecc_errors, "nvmlDeviceGetTotalEccErrors", 0,                                          \
                      (nvml_device d, int error, int counter, unsigned long long *ret))                      \
        /* *n: how many there is room for, then how many there are */                                        \
        NVML_FUNCTION(compute_processes, "nvmlDeviceGetComputeRunningProcesses_v3", 0,                       \
                      (nvml_device d, unsigned *n, struct nvml_process *ret))                                \
        NVML_FUNCTION(graphics_processes, "nvmlDeviceGetGraphicsRunningProcesses_v3", 0,                     \
                      (nvml_device d, unsigned *n, struct nvml_process *ret))                                \
        NVML_FUNCTION(mig_mode, "nvmlDeviceGetMigMode", 0,                                                   \
                      (nvml_device d, unsigned *ret_now, unsigned *ret_next))                                \
        NVML_FUNCTION(mig_count, "nvmlDeviceGetMaxMigDeviceCount", 0, (nvml_device d, unsigned *ret))        \
        NVML_FUNCTION(mig_handle, "nvmlDeviceGetMigDeviceHandleByIndex", 0,                                  \
                      (nvml_device d, unsigned i, nvml_device *ret))                                         \
        NVML_FUNCTION(event_set_new, "nvmlEventSetCreate", 0, (nvml_event_set * ret))                        \
        NVML_FUNCTION(event_register, "nvmlDeviceRegisterEvents", 0,                                         \
                      (nvml_device d, unsigned long long types, nvml_event_set set))                         \
        NVML_FUNCTION(event_wait, "nvmlEventSetWait_v2", 0,                                                  \
                      (nvml_event_set set, struct nvml_event * ret, unsigned timeout_ms))                    \
        NVML_FUNCTION(event_set_free, "nvmlEventSetFree", 0, (nvml_event_set set))

#endif
