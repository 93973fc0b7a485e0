"""What the scripts of this folder share: the driver's view of a GPU, as `bench` has it, without a package for it."""
import contextlib
import ctypes
import json
import os
import threading
import time


class Nvml:
    """One device, through the driver's management library; raises OSError where there is none."""

    class _Memory(ctypes.Structure):
        _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]

    class _Utilisation(ctypes.Structure):
        _fields_ = [("gpu", ctypes.c_uint), ("memory", ctypes.c_uint)]

    def __init__(self, index=0):
        self.library = ctypes.CDLL("libnvidia-ml.so.1")
        self.device = ctypes.c_void_p()
        self._call("nvmlInit_v2")
        self._call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(self.device))
        self.baseline = self.used()

    def _call(self, name, *arguments):
        if code := getattr(self.library, name)(*arguments):
            raise OSError(f"{name} answered {code}")

    def used(self):
        memory = self._Memory()
        self._call("nvmlDeviceGetMemoryInfo", self.device, ctypes.byref(memory))
        return memory.used

    def utilisation(self):
        rates = self._Utilisation()
        self._call("nvmlDeviceGetUtilizationRates", self.device, ctypes.byref(rates))
        return rates.gpu

    def energy(self):
        millijoules = ctypes.c_ulonglong()
        self._call("nvmlDeviceGetTotalEnergyConsumption", self.device, ctypes.byref(millijoules))
        return millijoules.value / 1e3


class Watch:
    """Looks at a device every 20 ms: what it uses beyond what others used before us, and how busy it is."""

    def __init__(self, nvml):
        self.nvml, self.peak, self.busy, self.done = nvml, 0, [], threading.Event()
        self.energy = nvml.energy()
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.thread.start()

    def _look(self):
        while not self.done.is_set():
            self.peak = max(self.peak, self.nvml.used() - self.nvml.baseline)
            self.busy.append(self.nvml.utilisation())
            time.sleep(0.02)

    def end(self):
        self.done.set()
        self.thread.join()
        return {
            "device_process_peak": self.peak,
            "device_utilisation": sum(self.busy) / max(len(self.busy), 1),
            "energy_joules": self.nvml.energy() - self.energy,
        }


def nvml(device):
    """The device's driver, or None on the CPU."""
    return Nvml(int(device.split(":")[1])) if device.startswith("cuda") else None


def resident_peak():
    """Bytes: the high-water mark of resident memory since `reset_resident_peak`; None where the system has none."""
    with contextlib.suppress(OSError), open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    return None


def reset_resident_peak():
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def write_json(path, value):
    """So that a reader sees all of it or nothing."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open(path + ".part", "w") as file:
        json.dump(value, file, indent=2)
        file.write("\n")
    os.replace(path + ".part", path)
