//! What can go wrong, and what to do about it.

use nvml_wrapper::error::NvmlError;

/// Everything this crate can fail with. Each message names the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MeterError {
    /// The NVIDIA management library is absent, or there is no driver behind it.
    #[error(
        "NVML not found: {reason}; install the NVIDIA driver; on a machine without a GPU use the device cpu"
    )]
    NvmlNotFound {
        /// What the loader or the library said.
        reason: String,
    },

    /// The driver was updated under the running kernel.
    #[error(
        "NVML does not start: the NVIDIA kernel module that is loaded and the library that is installed differ in version; restart the machine, or in a container use the host's driver version"
    )]
    DriverMismatch,

    /// NVML works, but has no such device.
    #[error(
        "no NVIDIA device {asked}: NVML finds {found} here; `nvidia-smi -L` lists their indices and UUIDs"
    )]
    NoSuchDevice {
        /// The index or UUID asked for.
        asked: String,
        /// How many devices NVML finds.
        found: u32,
    },

    /// A question that NVML refused for another reason than that the device cannot answer it.
    #[error("NVML could not tell the {asked}: {source}; see whether `nvidia-smi` still answers")]
    Nvml {
        /// What was asked.
        asked: &'static str,
        /// NVML's answer.
        source: NvmlError,
    },

    /// The operating system gave no sampling thread.
    #[error(
        "no thread for sampling memory: {0}; raise the process limit (`ulimit -u`) or stop other programs"
    )]
    Thread(#[from] std::io::Error),

    /// A phase began while another was running.
    #[error(
        "phase \"{asked}\" would begin inside phase \"{open}\"; phases do not nest: stop \"{open}\" first"
    )]
    NestedPhase {
        /// The phase that is running.
        open: String,
        /// The phase that was to begin.
        asked: String,
    },

    /// A stop without a start.
    #[error("no phase is running; call `start` before `stop`")]
    NoPhase,
}
