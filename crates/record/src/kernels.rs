//! Where a device's time goes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The kernels of some training steps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct KernelProfile {
    /// Steps that were watched.
    pub steps: u64,
    /// What they took, in seconds. Timing a kernel costs time on the host: without it steps are faster.
    pub seconds: f64,
    /// Each kind of kernel, the one that took most first; none where the backend launches none.
    pub kernels: Vec<KernelTime>,
}

/// A kind of kernel.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct KernelTime {
    /// Its name in the backend.
    pub name: String,
    /// How often it was launched.
    pub launches: u64,
    /// What that took on the device, in seconds.
    pub seconds: f64,
}
