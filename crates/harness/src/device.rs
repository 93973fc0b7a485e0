//! Devices by the names that experiment files use.

use burn::tensor::Device;

use crate::error::HarnessError;

/// Opens the device `name`: `cpu`, `cuda:N` or `auto`, the first GPU where there is one and the CPU elsewhere.
///
/// # Errors
/// Where there is no such device, or the build has no support for it; the error says what is missing.
pub fn open(name: &str) -> Result<Device, HarnessError> {
    match name {
        "cpu" => Ok(Device::flex()),
        "auto" => Ok(cuda(0).unwrap_or_else(|_| Device::flex())),
        _ => match name.strip_prefix("cuda:").and_then(|index| index.parse().ok()) {
            Some(index) => cuda(index),
            None => Err(HarnessError::Device(format!("`{name}` is not one; use cpu, cuda:0 or auto"))),
        },
    }
}

/// What tables call the device.
pub fn describe(device: &Device) -> String {
    if is_cpu(device) { "cpu".to_owned() } else { format!("{device:?}") }
}

/// Whether it is the host's processor.
pub fn is_cpu(device: &Device) -> bool {
    *device == Device::flex()
}

#[cfg(not(feature = "cuda"))]
fn cuda(index: usize) -> Result<Device, HarnessError> {
    Err(HarnessError::Device(format!(
        "cuda:{index} is asked for, but this build has no CUDA; build with `--features cuda` on a machine with an \
         NVIDIA GPU, or set device = \"cpu\""
    )))
}

#[cfg(feature = "cuda")]
fn cuda(index: usize) -> Result<Device, HarnessError> {
    match peftlab_meter::Nvml::open(index as u32) {
        Ok(_) => Ok(Device::cuda(index)),
        Err(error) => Err(HarnessError::Device(format!(
            "cuda:{index} is asked for, but there is none: {error}; or set device = \"cpu\""
        ))),
    }
}
