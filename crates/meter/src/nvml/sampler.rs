//! The peak of device memory over a phase, and how busy the device was, by looking often.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{DeviceMemory, MemorySource, Nvml, ProcessMemory};
use crate::MeterError;
use crate::sampler::Sampler;

/// A thread that looks at a device's memory again and again and keeps the peak; it stops when dropped.
///
/// A peak shorter than the interval may pass unseen. Frameworks that keep freed memory for later (Burn's do) have
/// few of these: what they took at the peak is still theirs at the next look.
#[derive(Debug)]
pub struct NvmlSampler {
    nvml: Nvml,
    peaks: Arc<Mutex<Peaks>>,
    _thread: Sampler,
}

/// The highest of several looks at a device.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct NvmlPeak {
    /// Device memory of this process. The driver's own account of it if there was one at any look.
    pub process: Option<ProcessMemory>,
    /// Bytes in use on the device, by all programs.
    pub device_used_bytes: Option<u64>,
    /// Mean of [`Nvml::utilisation_percent`] over the looks.
    pub utilisation_percent: Option<f64>,
    /// How often the device answered.
    pub samples: u64,
    /// How often it did not.
    pub failures: u64,
}

impl NvmlSampler {
    /// The interval of [`start`](Self::start).
    pub const INTERVAL: Duration = Duration::from_millis(20);

    /// Looks every 20 ms, first at once.
    ///
    /// # Errors
    /// [`MeterError::Nvml`] if the device does not answer now; [`MeterError::Thread`].
    pub fn start(nvml: &Nvml) -> Result<Self, MeterError> {
        Self::every(Self::INTERVAL, nvml)
    }

    /// Looks at the interval given, first at once.
    ///
    /// # Errors
    /// [`MeterError::Nvml`] if the device does not answer now; [`MeterError::Thread`].
    pub fn every(interval: Duration, nvml: &Nvml) -> Result<Self, MeterError> {
        let mut first = Peaks::default();
        let (process, device) = nvml.sample()?;
        first.take(process, device);
        let peaks = Arc::new(Mutex::new(first));
        let (probe, kept) = (nvml.clone(), Arc::clone(&peaks));
        let thread = Sampler::spawn(interval, move || look(&probe, &kept))?;
        Ok(Self { nvml: nvml.clone(), peaks, _thread: thread })
    }

    /// Stops looking until [`resume`](Self::resume). Once this returns, what happens on the device is not counted.
    pub fn pause(&self) {
        locked(&self.peaks).paused = true;
    }

    /// Looks again, first at once; what was seen before the pause still counts.
    pub fn resume(&self) {
        locked(&self.peaks).paused = false;
        look(&self.nvml, &self.peaks);
    }

    /// The peak since the start or the last [`reset`](Self::reset), with one more look now unless it is paused.
    #[must_use]
    pub fn peak(&self) -> NvmlPeak {
        look(&self.nvml, &self.peaks);
        locked(&self.peaks).peak()
    }

    /// Begins a new peak at what is in use now.
    pub fn reset(&self) {
        let mut peaks = locked(&self.peaks);
        *peaks = Peaks { paused: peaks.paused, ..Peaks::default() };
        drop(peaks);
        look(&self.nvml, &self.peaks);
    }
}

/// What is looked at: a device, or what a test has in its place.
trait Looked {
    /// Memory of this process and of the device.
    fn memory(&self) -> Result<(Option<ProcessMemory>, Option<DeviceMemory>), MeterError>;
    /// As [`Nvml::utilisation_percent`].
    fn busy(&self) -> Result<Option<u32>, MeterError>;
}

impl Looked for Nvml {
    fn memory(&self) -> Result<(Option<ProcessMemory>, Option<DeviceMemory>), MeterError> {
        self.sample()
    }

    fn busy(&self) -> Result<Option<u32>, MeterError> {
        self.utilisation_percent()
    }
}

/// Looks while holding the lock, so that a look begun before a reset or a pause is not counted after it.
fn look(device: &impl Looked, peaks: &Mutex<Peaks>) {
    let mut peaks = locked(peaks);
    if peaks.paused {
        return;
    }
    match device.memory() {
        Ok((process, device)) => peaks.take(process, device),
        Err(_) => peaks.failures += 1,
    }
    if let Ok(Some(percent)) = device.busy() {
        peaks.busy.push(percent);
    }
}

fn locked(peaks: &Mutex<Peaks>) -> MutexGuard<'_, Peaks> {
    peaks.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The two ways to know the memory of this process have a peak each: the highest of a mixture would be neither.
#[derive(Debug, Default)]
struct Peaks {
    process: Option<u64>,
    less_baseline: Option<u64>,
    device: Option<u64>,
    /// Percent at each look.
    busy: Vec<u32>,
    samples: u64,
    failures: u64,
    paused: bool,
}

impl Peaks {
    fn take(&mut self, process: Option<ProcessMemory>, device: Option<DeviceMemory>) {
        self.samples += 1;
        if let Some(memory) = process {
            let peak = match memory.source {
                MemorySource::Process => &mut self.process,
                MemorySource::DeviceLessBaseline => &mut self.less_baseline,
            };
            *peak = (*peak).max(Some(memory.bytes));
        }
        self.device = self.device.max(device.map(|memory| memory.used_bytes));
    }

    fn peak(&self) -> NvmlPeak {
        let of = |bytes: Option<u64>, source| bytes.map(|bytes| ProcessMemory { bytes, source });
        NvmlPeak {
            process: of(self.process, MemorySource::Process)
                .or(of(self.less_baseline, MemorySource::DeviceLessBaseline)),
            device_used_bytes: self.device,
            utilisation_percent: (!self.busy.is_empty()).then(|| {
                self.busy.iter().map(|percent| f64::from(*percent)).sum::<f64>() / self.busy.len() as f64
            }),
            samples: self.samples,
            failures: self.failures,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(peaks: &mut Peaks, bytes: u64, source: MemorySource, used_bytes: u64) {
        peaks.take(
            Some(ProcessMemory { bytes, source }),
            Some(DeviceMemory { used_bytes, total_bytes: 1000 }),
        );
    }

    /// A device whose numbers a test sets.
    struct Made {
        bytes: u64,
        percent: u32,
    }

    impl Looked for Made {
        fn memory(&self) -> Result<(Option<ProcessMemory>, Option<DeviceMemory>), MeterError> {
            let process = ProcessMemory { bytes: self.bytes, source: MemorySource::Process };
            Ok((Some(process), Some(DeviceMemory { used_bytes: self.bytes, total_bytes: 1000 })))
        }

        fn busy(&self) -> Result<Option<u32>, MeterError> {
            Ok(Some(self.percent))
        }
    }

    #[test]
    fn what_happens_in_a_pause_is_not_counted() {
        let peaks = Mutex::new(Peaks::default());
        super::look(&Made { bytes: 100, percent: 90 }, &peaks);
        locked(&peaks).paused = true;
        super::look(&Made { bytes: 900, percent: 10 }, &peaks);
        locked(&peaks).paused = false;
        super::look(&Made { bytes: 120, percent: 80 }, &peaks);
        let peak = locked(&peaks).peak();
        assert_eq!(peak.process.map(|memory| memory.bytes), Some(120));
        assert_eq!((peak.device_used_bytes, peak.utilisation_percent), (Some(120), Some(85.0)));
        assert_eq!(peak.samples, 2);
    }

    #[test]
    fn the_two_sources_do_not_mix() {
        let mut peaks = Peaks::default();
        assert_eq!((peaks.peak().process, peaks.peak().device_used_bytes), (None, None));

        // Not listed yet, while another program comes and goes.
        look(&mut peaks, 300, MemorySource::DeviceLessBaseline, 400);
        let guess = ProcessMemory { bytes: 300, source: MemorySource::DeviceLessBaseline };
        assert_eq!(peaks.peak().process, Some(guess));

        for bytes in [50, 80, 60] {
            look(&mut peaks, bytes, MemorySource::Process, 100 + bytes);
        }
        let peak = peaks.peak();
        assert_eq!(peak.process, Some(ProcessMemory { bytes: 80, source: MemorySource::Process }));
        assert_eq!((peak.device_used_bytes, peak.samples, peak.failures), (Some(400), 4, 0));
    }

    #[test]
    fn what_the_device_cannot_tell_stays_unknown() {
        let mut peaks = Peaks::default();
        peaks.take(None, None);
        let nothing = NvmlPeak {
            process: None,
            device_used_bytes: None,
            utilisation_percent: None,
            samples: 1,
            failures: 0,
        };
        assert_eq!(peaks.peak(), nothing);
        peaks.busy.extend([100, 50]);
        assert_eq!(peaks.peak().utilisation_percent, Some(75.0));
    }
}
