"""A machine with GPUs that are not there: a library like NVIDIA's (tests/fakes/fake_nvml.c) that tells what a file says, and a tree like /proc
and /sys for what the kernel shows."""
import os
import struct

import harness

LIBRARY = os.path.join(harness.BUILD, "tests", "fakes", "fake_nvml.so")
GIB = 1 << 30


class Machine:
    """gpus: of NVIDIA, dicts of what fake_nvml.c knows; amd: of AMD, as the files of sysfs."""

    def __init__(self, folder):
        self.root, self.file = os.path.join(folder, "root"), os.path.join(folder, "nvml")
        os.makedirs(os.path.join(self.root, "dev"))
        self.gpus, self.parts, self.processes, self.part_processes, self.xids = [], [], [], [], []

    @property
    def config(self):
        return {"gpus": {"nvml": LIBRARY, "root": self.root}}

    @property
    def env(self):
        return {"FAKE_NVML": self.file}

    def put(self, path, text):
        whole = os.path.join(self.root, path)
        os.makedirs(os.path.dirname(whole), exist_ok=True)
        with open(whole, "w") as f:
            f.write(text)

    def add(self, uuid, bus, **figures):
        """One of NVIDIA's: total in bytes, used, use, temp, power (mW) …"""
        self.put("dev/nvidiactl", "")
        self.put("proc/driver/nvidia/gpus/0000:%02x:00.0/information" % bus,
                 "Model: \t\t FAKE %s\nGPU UUID: \t %s\nBus Location: \t 0000:%02x:00.0\n" % (uuid, uuid, bus))
        self.gpus.append(dict(figures, uuid=uuid, bus=bus))
        self.write()
        return self

    def add_amd(self, card, bus, unique_id, **files):
        base = "sys/class/drm/card%d/device/" % card
        for name, text in dict({"vendor": "0x1002", "device": "0x744c", "uevent": "DRIVER=amdgpu\nPCI_SLOT_NAME=0000:%02x:00.0" % bus,
                                "unique_id": unique_id, "product_name": "FAKE Radeon", "mem_info_vram_total": str(24 * GIB),
                                "mem_info_vram_used": str(GIB), "gpu_busy_percent": "12"}, **files).items():
            self.put(base + name.replace("__", "/"), text + "\n")
        return self

    def write(self):
        lines = ["driver 580.1"]
        for gpu in self.gpus:
            words = ["gpu", gpu["uuid"], "00000000:%02X:00.0" % gpu["bus"], "FAKE"]
            words += [key if value is True else "%s=%s" % (key, value) for key, value in gpu.items()
                      if key not in ("uuid", "bus") and value is not False]
            lines.append(" ".join(words))
        lines += ["part %d %s total=%d used=%d" % one for one in self.parts]
        lines += ["process %d %d %s" % one for one in self.processes]
        lines += ["partprocess %d %d %s" % one for one in self.part_processes]
        lines += ["xid %d %d %d" % one for one in self.xids]
        with open(self.file + ".new", "w") as f:
            f.write("\n".join(lines) + "\n")
        os.rename(self.file + ".new", self.file)

    def xid(self, gpu, code):
        self.xids.append((gpu, code, len(self.xids) + 1))
        self.write()


def gguf(path, size, blocks=32, context=8192, embedding=4096, heads=32, heads_kv=8):
    """A model file of that size, nearly all of it a hole: a header that is enough for an estimate, of Llama 3's shape: 128 KiB of KV cache
    a token. Only a fake llama-server can load it."""
    def text(s):
        return struct.pack("<Q", len(s)) + s.encode()

    pairs = [text("general.architecture") + struct.pack("<I", 8) + text("llama")]
    for key, value in (("context_length", context), ("embedding_length", embedding), ("block_count", blocks),
                       ("attention.head_count", heads), ("attention.head_count_kv", heads_kv)):
        pairs.append(text("llama." + key) + struct.pack("<II", 4, value))
    with open(path, "wb") as f:
        f.write(b"GGUF" + struct.pack("<IQQ", 3, 0, len(pairs)) + b"".join(pairs))
        f.truncate(size)
    return path
