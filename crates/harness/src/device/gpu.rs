//! What a GPU's driver says of a training run.

use std::cell::RefCell;

use peftlab_meter::{MemorySource, Nvml, NvmlSampler};
use peftlab_record::{DevicePeakSource, Memory};

use crate::device::OpenDevice;
use crate::error::HarnessError;

/// What a GPU says of itself while training, and not while the validation set is looked at in between.
pub(crate) struct Gpu<'a> {
    device: &'a OpenDevice,
    nvml: &'a Nvml,
    sampler: NvmlSampler,
    energy: RefCell<Energy>,
}

/// Readings of a device's energy counter, in millijoules.
#[derive(Default)]
struct Energy {
    /// Spent in the stretches that ended.
    spent: u64,
    /// What the counter said when the running stretch began.
    began: Option<u64>,
}

impl Energy {
    /// Ends a stretch with the counter at `now`.
    fn pause(&mut self, now: Option<u64>) {
        self.spent += now.zip(self.began.take()).map_or(0, |(now, began)| now.saturating_sub(began));
    }
}

impl<'a> Gpu<'a> {
    /// Looks from now on; none on the host's processor. What loading has left unused in the pools is given back
    /// first, so that the peak is that of training.
    pub(crate) fn watch(device: &'a OpenDevice) -> Result<Option<Self>, HarnessError> {
        let Some(nvml) = &device.nvml else { return Ok(None) };
        device.tensors.memory_cleanup();
        let began = nvml.energy_millijoules().map_err(unread)?;
        let sampler = NvmlSampler::start(nvml).map_err(unread)?;
        let energy = RefCell::new(Energy { began, ..Energy::default() });
        Ok(Some(Self { device, nvml, sampler, energy }))
    }

    /// Looks away until [`resume`](Self::resume).
    pub(crate) fn pause(&self) -> Result<(), HarnessError> {
        self.sampler.pause();
        self.energy.borrow_mut().pause(self.nvml.energy_millijoules().map_err(unread)?);
        Ok(())
    }

    /// Looks again, once what the pools hold unused has been given back.
    pub(crate) fn resume(&self) -> Result<(), HarnessError> {
        self.device.tensors.memory_cleanup();
        self.energy.borrow_mut().began = self.nvml.energy_millijoules().map_err(unread)?;
        self.sampler.resume();
        Ok(())
    }

    /// What the driver says, beside what the allocator does. Training is over.
    pub(crate) fn read(&self, allocator: Memory) -> Memory {
        let mut energy = self.energy.borrow_mut();
        let now = self.nvml.energy_millijoules().ok().flatten();
        let known = now.is_some() && energy.began.is_some();
        energy.pause(now);
        let peak = self.sampler.peak();
        Memory {
            device_process_peak: peak.process.map(|memory| memory.bytes),
            device_peak_source: peak.process.map(|memory| match memory.source {
                MemorySource::Process => DevicePeakSource::Process,
                MemorySource::DeviceLessBaseline => DevicePeakSource::Difference,
            }),
            energy_joules: known.then_some(energy.spent as f64 / 1e3),
            device_utilisation: peak.utilisation_percent,
            ..allocator
        }
    }
}

fn unread(error: peftlab_meter::MeterError) -> HarnessError {
    HarnessError::Device(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn energy_is_of_the_stretches_between_pauses() {
        let mut energy = Energy { began: Some(1000), ..Energy::default() };
        energy.pause(Some(1500));
        // a validation that costs 300
        energy.began = Some(1800);
        energy.pause(Some(2000));
        assert_eq!(energy.spent, 700);
        energy.pause(Some(9000));
        assert_eq!(energy.spent, 700, "it is over");
    }
}
