//! What an NVIDIA device says of itself, through the driver's management library.
//!
//! The library is looked for when asked, so one binary runs with and without a GPU. What a device or its driver
//! cannot tell is `Ok(None)`; an `Err` means that it should have been able to.

mod sampler;

use std::fmt;
use std::sync::Arc;

use nvml_wrapper::enum_wrappers::device::Clock;
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::ProcessInfo;
use nvml_wrapper::{Device, Nvml as Library};
use serde::{Deserialize, Serialize};

use crate::MeterError;

pub use sampler::{NvmlPeak, NvmlSampler};

/// One NVIDIA device. Cloning is cheap and keeps the baseline.
///
/// Open it before the device is first used: the device's memory at that moment is the baseline of
/// [`MemorySource::DeviceLessBaseline`].
#[derive(Clone)]
pub struct Nvml {
    library: Arc<Library>,
    index: u32,
    /// Bytes in use on the device when it was opened.
    baseline: Option<u64>,
    /// Whether a process listed under our number is us.
    pid_is_ours: bool,
}

/// Where the memory of this process was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemorySource {
    /// The driver's account of this process.
    Process,
    /// The driver does not list this process (it has not used the device yet, or runs in a container whose process
    /// numbers the driver does not know): what the device uses more than when it was opened. Other programs that
    /// began or ended since are in it.
    DeviceLessBaseline,
}

/// Device memory of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessMemory {
    /// Bytes, with the driver's context and its libraries' workspaces.
    pub bytes: u64,
    /// Where the number was read.
    pub source: MemorySource,
}

/// Memory of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceMemory {
    /// Bytes in use, by all programs.
    pub used_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
}

/// How fast a device runs at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clocks {
    /// MHz of the multiprocessors.
    pub sm_mhz: u32,
    /// MHz of the memory.
    pub memory_mhz: u32,
}

/// Which device this is, and what drives it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceIdentity {
    /// NVML's index. Counted by PCI bus: CUDA counts the fastest first unless `CUDA_DEVICE_ORDER=PCI_BUS_ID`, and
    /// only those in `CUDA_VISIBLE_DEVICES`.
    pub index: u32,
    /// The product's name.
    pub name: String,
    /// The identifier of this very device, `GPU-...`.
    pub uuid: String,
    /// Bytes of its memory.
    pub memory_bytes: Option<u64>,
    /// The driver's version, such as `570.124.06`.
    pub driver_version: String,
    /// The newest CUDA that the driver supports, such as `12.8`.
    pub cuda_driver_version: Option<String>,
}

impl Nvml {
    /// The device that NVML (and `nvidia-smi`) counts as `index`; see [`DeviceIdentity::index`] for how CUDA's count
    /// may differ.
    ///
    /// # Errors
    /// [`MeterError::NvmlNotFound`] without a driver; [`MeterError::NoSuchDevice`].
    pub fn open(index: u32) -> Result<Self, MeterError> {
        Self::find(&index.to_string(), |library| library.device_by_index(index))
    }

    /// The device with this UUID (`GPU-...`), wherever it is counted.
    ///
    /// # Errors
    /// [`MeterError::NvmlNotFound`] without a driver; [`MeterError::NoSuchDevice`].
    pub fn open_uuid(uuid: &str) -> Result<Self, MeterError> {
        Self::find(uuid, |library| library.device_by_uuid(uuid))
    }

    fn find(
        asked: &str,
        find: impl FnOnce(&Library) -> Result<Device<'_>, NvmlError>,
    ) -> Result<Self, MeterError> {
        let library = Library::init().map_err(|error| match error {
            NvmlError::LibRmVersionMismatch => MeterError::DriverMismatch,
            error => MeterError::NvmlNotFound { reason: error.to_string() },
        })?;
        let device = find(&library).map_err(|source| match source {
            NvmlError::InvalidArg | NvmlError::NotFound => MeterError::NoSuchDevice {
                asked: asked.to_owned(),
                found: library.device_count().unwrap_or(0),
            },
            source => MeterError::Nvml { asked: "device", source },
        })?;
        let index = device.index().map_err(|source| MeterError::Nvml { asked: "device's index", source })?;
        let mut opened = Self { library: Arc::new(library), index, baseline: None, pid_is_ours: true };
        opened.baseline = opened.device_memory()?.map(|memory| memory.used_bytes);
        // In a container the driver may list processes under numbers of the host. Our number, listed before we
        // used the device, is then somebody else's.
        opened.pid_is_ours = is_initial_namespace() || opened.listed(&opened.device()?)?.is_none();
        Ok(opened)
    }

    /// Device memory of this process, and where that was read. Graphics contexts (Vulkan) count as well.
    ///
    /// # Errors
    /// [`MeterError::Nvml`].
    pub fn process_memory(&self) -> Result<Option<ProcessMemory>, MeterError> {
        Ok(self.sample()?.0)
    }

    /// Memory of the device, as used by all programs.
    ///
    /// # Errors
    /// [`MeterError::Nvml`].
    pub fn device_memory(&self) -> Result<Option<DeviceMemory>, MeterError> {
        let memory = answer("device's memory", self.device()?.memory_info())?;
        Ok(memory.map(|memory| DeviceMemory { used_bytes: memory.used, total_bytes: memory.total }))
    }

    /// Millijoules that the device used since the driver was loaded (Volta and later): subtract two readings. The
    /// counter moves some ten times a second, so a window of less than a second says little.
    ///
    /// # Errors
    /// [`MeterError::Nvml`].
    pub fn energy_millijoules(&self) -> Result<Option<u64>, MeterError> {
        answer("energy used", self.device()?.total_energy_consumption())
    }

    /// Milliwatts that the device draws. Since Ampere an average over a second on most models.
    ///
    /// # Errors
    /// [`MeterError::Nvml`].
    pub fn power_milliwatts(&self) -> Result<Option<u32>, MeterError> {
        answer("power drawn", self.device()?.power_usage())
    }

    /// Percent of the last sample period (a sixth of a second to a second) in which a kernel ran. It says nothing of
    /// how much of the device that kernel used.
    ///
    /// # Errors
    /// [`MeterError::Nvml`].
    pub fn utilisation_percent(&self) -> Result<Option<u32>, MeterError> {
        Ok(answer("utilisation", self.device()?.utilization_rates())?.map(|rates| rates.gpu))
    }

    /// The clocks at the moment.
    ///
    /// # Errors
    /// [`MeterError::Nvml`].
    pub fn clocks(&self) -> Result<Option<Clocks>, MeterError> {
        let device = self.device()?;
        let sm = answer("clock of the multiprocessors", device.clock_info(Clock::SM))?;
        let memory = answer("clock of the memory", device.clock_info(Clock::Memory))?;
        Ok(sm.zip(memory).map(|(sm_mhz, memory_mhz)| Clocks { sm_mhz, memory_mhz }))
    }

    /// Which device this is.
    ///
    /// # Errors
    /// [`MeterError::Nvml`].
    pub fn identity(&self) -> Result<DeviceIdentity, MeterError> {
        let device = self.device()?;
        let failed = |asked| move |source| MeterError::Nvml { asked, source };
        let cuda = answer("CUDA version", self.library.sys_cuda_driver_version())?;
        Ok(DeviceIdentity {
            index: self.index,
            name: device.name().map_err(failed("device's name"))?,
            uuid: device.uuid().map_err(failed("device's UUID"))?,
            memory_bytes: self.device_memory()?.map(|memory| memory.total_bytes),
            driver_version: self.library.sys_driver_version().map_err(failed("driver's version"))?,
            cuda_driver_version: cuda.map(cuda_version),
        })
    }

    fn device(&self) -> Result<Device<'_>, MeterError> {
        self.library
            .device_by_index(self.index)
            .map_err(|source| MeterError::Nvml { asked: "device", source })
    }

    /// Memory of this process and of the device, at one moment.
    fn sample(&self) -> Result<(Option<ProcessMemory>, Option<DeviceMemory>), MeterError> {
        let device = self.device_memory()?;
        let listed = if self.pid_is_ours { self.listed(&self.device()?)? } else { None };
        Ok((process_memory(listed, device, self.baseline), device))
    }

    /// Bytes under our process number, if the driver lists it.
    fn listed(&self, device: &Device<'_>) -> Result<Option<u64>, MeterError> {
        let compute = answer("programs on the device", device.running_compute_processes())?;
        let graphics = answer("programs on the device", device.running_graphics_processes())?;
        let pid = std::process::id();
        let used = [compute, graphics].map(|list| used_by(pid, &list.unwrap_or_default()));
        // One that computes and draws is in both lists, each time with all of its memory.
        Ok(used.into_iter().flatten().max())
    }
}

impl fmt::Debug for Nvml {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nvml")
            .field("index", &self.index)
            .field("baseline", &self.baseline)
            .finish_non_exhaustive()
    }
}

/// The driver's account of us where there is one, else what the device uses beyond the baseline.
fn process_memory(
    listed: Option<u64>,
    device: Option<DeviceMemory>,
    baseline: Option<u64>,
) -> Option<ProcessMemory> {
    match listed {
        Some(bytes) => Some(ProcessMemory { bytes, source: MemorySource::Process }),
        None => Some(ProcessMemory {
            bytes: device?.used_bytes.saturating_sub(baseline?),
            source: MemorySource::DeviceLessBaseline,
        }),
    }
}

/// Bytes under a process number in one list; with several instances of a device there are several entries.
fn used_by(pid: u32, list: &[ProcessInfo]) -> Option<u64> {
    list.iter()
        .filter(|process| process.pid == pid)
        .filter_map(|process| match process.used_gpu_memory {
            UsedGpuMemory::Used(bytes) => Some(bytes),
            UsedGpuMemory::Unavailable => None,
        })
        .reduce(|sum, bytes| sum + bytes)
}

/// "This device (or driver) cannot" is an answer; everything else that is not one is an error.
fn answer<T>(asked: &'static str, got: Result<T, NvmlError>) -> Result<Option<T>, MeterError> {
    match got {
        Ok(value) => Ok(Some(value)),
        Err(NvmlError::NotSupported | NvmlError::FunctionNotFound | NvmlError::FailedToLoadSymbol(_)) => {
            Ok(None)
        }
        Err(source) => Err(MeterError::Nvml { asked, source }),
    }
}

fn cuda_version(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

/// Whether our process number is the one that the kernel, and so the driver, knows us by.
fn is_initial_namespace() -> bool {
    // The first namespace of a Linux machine always has this number (PROC_PID_INIT_INO).
    std::fs::read_link("/proc/self/ns/pid").map_or(true, |link| link.as_os_str() == "pid:[4026531836]")
}

#[cfg(test)]
mod tests;
