//! Clocks, memory and energy probes, and the timeline of a run.
//!
//! Memory has three columns, each named for what it is: what the device gave ([`Nvml`]), what this program's
//! allocator holds ([`allocated`]) and what the host keeps resident ([`resident`]). A probe that cannot see
//! answers `None`, never zero.
//!
//! Bytes are bytes, never KiB or MB; seconds are wall-clock seconds as `f64`.

#![deny(unsafe_code)]

pub mod allocated;
mod environment;
mod error;
mod nvml;
mod resident;
mod sampler;
mod step;
mod timeline;

pub use allocated::CountingAllocator;
pub use environment::{Environment, environment};
pub use error::MeterError;
pub use nvml::{
    Clocks, DeviceIdentity, DeviceMemory, MemorySource, Nvml, NvmlPeak, NvmlSampler, ProcessMemory,
};
pub use resident::{ResidentMethod, ResidentPeak, resident};
pub use step::{Spread, StepClock, StepCount, StepSummary, StepTimer, percentile};
pub use timeline::{PhaseGuard, PhaseSummary, Timeline, TimelineSummary};
