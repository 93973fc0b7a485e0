//! Devices by the names that experiment files use.

pub(crate) mod gpu;
pub mod probe;

use std::collections::BTreeMap;

use burn::tensor::Device;
use peftlab_meter::{Nvml, allocated};

use crate::error::HarnessError;

/// A device that is there to be used.
#[derive(Clone, Debug)]
pub struct OpenDevice {
    /// Its name in experiment files: `cpu`, `cuda:0`, `cubecl-cpu` ...
    pub name: String,
    /// Where tensors are made.
    pub tensors: Device,
    /// What the driver says of a GPU. Opened before the device is first used: what was in use then is not ours.
    pub nvml: Option<Nvml>,
}

impl OpenDevice {
    /// The host's processor.
    pub fn cpu() -> Self {
        Self { name: "cpu".to_owned(), tensors: Device::flex(), nvml: None }
    }

    /// Opens the device `name`: `cpu`, `cuda:N` or `auto`, the first GPU where there is one and the CPU elsewhere.
    /// `cubecl-cpu` is the host's processor with the kernels of a GPU: to find mistakes there, not to measure.
    ///
    /// # Errors
    /// Where there is no such device, or the build has no support for it; the error says what is missing.
    pub fn named(name: &str) -> Result<Self, HarnessError> {
        match name {
            "cpu" => Ok(Self::cpu()),
            "cubecl-cpu" => cubecl_cpu(),
            "auto" => Ok(cuda(0).unwrap_or_else(|_| Self::cpu())),
            _ => cuda(index_of(name)?),
        }
    }

    /// Whether there are devices of this name, here or on another machine.
    ///
    /// # Errors
    /// Where there are none.
    pub fn check_name(name: &str) -> Result<(), HarnessError> {
        match name {
            "cpu" | "cubecl-cpu" | "auto" => Ok(()),
            _ => index_of(name).map(drop),
        }
    }

    /// What kind it is, `cpu`, `cuda` or `cubecl-cpu`: which of several it is decides no number.
    pub fn kind(&self) -> &str {
        self.name.split(':').next().unwrap_or_default()
    }

    /// What tables call it: a GPU by its product's name.
    pub fn describe(&self) -> String {
        match self.nvml.as_ref().and_then(|nvml| nvml.identity().ok()) {
            Some(identity) => identity.name,
            None => self.name.clone(),
        }
    }

    /// What it and its driver say of themselves, with units in the values.
    pub fn facts(&self) -> BTreeMap<String, String> {
        let mut facts = BTreeMap::new();
        let mut tell = |key: &str, value: Option<String>| {
            facts.extend(value.map(|value| (key.to_owned(), value)));
        };
        let host = peftlab_meter::environment();
        tell("processor", host.cpu);
        tell("threads", host.threads.map(|threads| threads.to_string()));
        tell("host memory", host.memory_bytes.map(|bytes| format!("{} MiB", bytes >> 20)));
        let Some(nvml) = &self.nvml else { return facts };
        if let Ok(identity) = nvml.identity() {
            tell("name", Some(identity.name));
            tell("UUID", Some(identity.uuid));
            tell("driver", Some(identity.driver_version));
            tell("CUDA of the driver", identity.cuda_driver_version);
        }
        let memory = nvml.device_memory().ok().flatten();
        tell("memory", memory.map(|memory| format!("{} MiB", memory.total_bytes >> 20)));
        tell("memory in use", memory.map(|memory| format!("{} MiB", memory.used_bytes >> 20)));
        let own = nvml.process_memory().ok().flatten();
        tell("memory of this process", own.map(|memory| format!("{} MiB", memory.bytes >> 20)));
        let clocks = nvml.clocks().ok().flatten();
        tell(
            "clocks",
            clocks.map(|clocks| format!("{} MHz, memory {} MHz", clocks.sm_mhz, clocks.memory_mhz)),
        );
        let energy = nvml.energy_millijoules().ok().flatten();
        tell("energy counter", energy.map(|energy| format!("{:.1} J", energy as f64 / 1e3)));
        tell(
            "power",
            nvml.power_milliwatts().ok().flatten().map(|power| format!("{:.1} W", f64::from(power) / 1e3)),
        );
        facts
    }
}

/// The number of the GPU that is called `name`.
fn index_of(name: &str) -> Result<usize, HarnessError> {
    let index = name.strip_prefix("cuda:").and_then(|index| index.parse().ok());
    index.ok_or_else(|| HarnessError::Device(format!("`{name}` is not one; use cpu, cuda:0 or auto")))
}

/// Bytes in use now: the device's as its allocator says; on the CPU all that the program has allocated, where that
/// is counted.
pub(crate) fn used_bytes(device: &Device) -> Option<u64> {
    device.memory_pool_usage().map(|pools| pools.bytes_in_use).or_else(allocated::live)
}

#[cfg(feature = "cubecl-cpu")]
#[expect(clippy::unnecessary_wraps, reason = "a build without it has none")]
fn cubecl_cpu() -> Result<OpenDevice, HarnessError> {
    Ok(OpenDevice { name: "cubecl-cpu".to_owned(), tensors: Device::cpu(), nvml: None })
}

#[cfg(not(feature = "cubecl-cpu"))]
fn cubecl_cpu() -> Result<OpenDevice, HarnessError> {
    Err(HarnessError::Device(
        "cubecl-cpu is asked for, but this build does not have it; build with `--features cubecl-cpu`, or use the \
         device cpu"
            .to_owned(),
    ))
}

#[cfg(not(feature = "cuda"))]
fn cuda(index: usize) -> Result<OpenDevice, HarnessError> {
    Err(HarnessError::Device(format!(
        "cuda:{index} is asked for, but this build has no CUDA; build with `--features cuda` on a machine with an \
         NVIDIA GPU, or use the device cpu (in an experiment: device = \"cpu\")"
    )))
}

#[cfg(feature = "cuda")]
fn cuda(index: usize) -> Result<OpenDevice, HarnessError> {
    let missing = |what: String| HarnessError::Device(format!("cuda:{index} is asked for, but {what}"));
    let nvml = nvml(index).map_err(|error| missing(format!("there is none: {error}")))?;
    if let Some(what) = toolkit_gap() {
        return Err(missing(what));
    }
    Ok(OpenDevice { name: format!("cuda:{index}"), tensors: Device::cuda(index), nvml: Some(nvml) })
}

/// The device that CUDA counts as `index`: `CUDA_VISIBLE_DEVICES` hides and reorders devices, for CUDA alone.
#[cfg(feature = "cuda")]
fn nvml(index: usize) -> Result<Nvml, peftlab_meter::MeterError> {
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").unwrap_or_default();
    match visible.split(',').map(str::trim).nth(index).filter(|entry| !entry.is_empty()) {
        Some(uuid) if uuid.starts_with("GPU-") => Nvml::open_uuid(uuid),
        Some(number) => Nvml::open(number.parse().unwrap_or(index as u32)),
        None => Nvml::open(index as u32),
    }
}

/// What the code generator needs of a CUDA toolkit and does not find. Otherwise the first kernel with an exponential
/// would say so, in the middle of a run.
#[cfg(feature = "cuda")]
fn toolkit_gap() -> Option<String> {
    let needed = match cfg!(feature = "cuda-cpp") {
        true => "include/cuda_runtime.h",
        false => "nvvm/libdevice/libdevice.10.bc",
    };
    // where CubeCL looks
    let usual = ["/usr/local/cuda", "/opt/cuda", "/usr/lib/cuda", "/usr"].map(std::path::PathBuf::from);
    let roots = std::env::var("CUDA_PATH").map_or_else(|_| usual.to_vec(), |path| vec![path.into()]);
    let found = roots.iter().any(|root| root.join(needed).is_file());
    (!found).then(|| {
        let looked: Vec<_> = roots.iter().map(|root| root.display().to_string()).collect();
        format!(
            "no CUDA toolkit with {needed} is in {}: install one (nvcc and libdevice are enough), or set CUDA_PATH to \
             where it is",
            looked.join(", ")
        )
    })
}
