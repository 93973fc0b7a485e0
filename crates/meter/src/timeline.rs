//! What a run spends its time on, one phase at a time.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::{MeterError, ResidentMethod, ResidentPeak, allocated, resident};

/// The phases of a run (`load`, `compile`, `warm-up`, `train`, `evaluate`, `write`), each with its own clock and
/// its own memory peaks.
///
/// Phases do not nest, so that training is never measured together with evaluation, loading or compilation. A
/// phase may be entered again: its seconds add up, its peaks are the highest of its stretches. Peaks are the whole
/// process's, so only one timeline should have a phase open at a time.
///
/// ```
/// # fn main() -> Result<(), peftlab_meter::MeterError> {
/// let mut timeline = peftlab_meter::Timeline::new();
/// for _epoch in 0..3 {
///     let train = timeline.phase("train")?;
///     // ... steps
///     drop(train);
///     timeline.start("evaluate")?;
///     // ... or by hand
///     timeline.stop()?;
/// }
/// assert_eq!(timeline.summary().phases[0].stretches, 3);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Timeline {
    began: Instant,
    phases: Vec<PhaseSummary>,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    name: String,
    allocated_start: Option<u64>,
    resident_start: Option<u64>,
    resident: Option<ResidentPeak>,
    began: Instant,
}

/// One phase of a run. A number that nothing here could measure is `None`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PhaseSummary {
    /// The phase's name.
    pub name: String,
    /// How often it was entered.
    pub stretches: u64,
    /// Wall-clock seconds, all stretches together.
    pub seconds: f64,
    /// Bytes allocated on the host when it was first entered ([`allocated::live`]).
    pub allocated_start_bytes: Option<u64>,
    /// The most bytes allocated on the host at once while it ran ([`allocated::peak`]).
    pub allocated_peak_bytes: Option<u64>,
    /// Bytes resident on the host when it was first entered ([`resident()`]).
    pub resident_start_bytes: Option<u64>,
    /// The most bytes resident on the host while it ran ([`ResidentPeak`]).
    pub resident_peak_bytes: Option<u64>,
    /// How the resident peak was found.
    pub resident_method: Option<ResidentMethod>,
}

/// What a [`Timeline`] has seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TimelineSummary {
    /// Wall-clock seconds since the timeline began.
    pub total_seconds: f64,
    /// Seconds of these that belong to no finished phase.
    pub other_seconds: f64,
    /// The finished phases in the order in which they were first entered.
    pub phases: Vec<PhaseSummary>,
}

impl Default for Timeline {
    fn default() -> Self {
        Self::new()
    }
}

impl Timeline {
    /// A timeline that begins now.
    #[must_use]
    pub fn new() -> Self {
        Self { began: Instant::now(), phases: Vec::new(), open: None }
    }

    /// Begins a phase that ends when the guard is dropped.
    ///
    /// # Errors
    /// [`MeterError::NestedPhase`] while another phase is running.
    pub fn phase(&mut self, name: &str) -> Result<PhaseGuard<'_>, MeterError> {
        self.start(name)?;
        Ok(PhaseGuard { timeline: self })
    }

    /// Begins a phase. Peaks of the whole process ([`allocated::reset_peak`]) begin anew.
    ///
    /// # Errors
    /// [`MeterError::NestedPhase`] while another phase is running.
    pub fn start(&mut self, name: &str) -> Result<(), MeterError> {
        if let Some(open) = &self.open {
            return Err(MeterError::NestedPhase { open: open.name.clone(), asked: name.to_owned() });
        }
        let name = name.to_owned();
        let resident_start = resident();
        let resident = ResidentPeak::start();
        let allocated_start = allocated::live();
        allocated::reset_peak();
        // The clock last: setting up the probes is not the phase's time.
        let began = Instant::now();
        self.open = Some(Open { name, allocated_start, resident_start, resident, began });
        Ok(())
    }

    /// Ends the running phase and returns the seconds of this stretch.
    ///
    /// # Errors
    /// [`MeterError::NoPhase`] if none is running.
    pub fn stop(&mut self) -> Result<f64, MeterError> {
        let Open { name, allocated_start, resident_start, resident, began } =
            self.open.take().ok_or(MeterError::NoPhase)?;
        let seconds = began.elapsed().as_secs_f64();
        let stretch = PhaseSummary {
            name,
            stretches: 1,
            seconds,
            allocated_start_bytes: allocated_start,
            allocated_peak_bytes: allocated::peak(),
            resident_start_bytes: resident_start,
            resident_peak_bytes: resident.as_ref().and_then(ResidentPeak::peak),
            resident_method: resident.as_ref().map(ResidentPeak::method),
        };
        match self.phases.iter_mut().find(|phase| phase.name == stretch.name) {
            Some(phase) => phase.add(&stretch),
            None => self.phases.push(stretch),
        }
        Ok(seconds)
    }

    /// The name of the running phase.
    #[must_use]
    pub fn running(&self) -> Option<&str> {
        self.open.as_ref().map(|open| open.name.as_str())
    }

    /// What was seen so far. A phase that is still running is not in it.
    #[must_use]
    pub fn summary(&self) -> TimelineSummary {
        let total_seconds = self.began.elapsed().as_secs_f64();
        let in_phases: f64 = self.phases.iter().map(|phase| phase.seconds).sum();
        let other_seconds = (total_seconds - in_phases).max(0.0);
        TimelineSummary { total_seconds, other_seconds, phases: self.phases.clone() }
    }
}

impl PhaseSummary {
    /// A later stretch of the same phase: seconds add, peaks take the maximum.
    fn add(&mut self, stretch: &Self) {
        self.stretches += stretch.stretches;
        self.seconds += stretch.seconds;
        self.allocated_peak_bytes = both(self.allocated_peak_bytes, stretch.allocated_peak_bytes);
        self.resident_peak_bytes = both(self.resident_peak_bytes, stretch.resident_peak_bytes);
        // The weaker method is what the maximum can claim.
        self.resident_method = match (self.resident_method, stretch.resident_method) {
            (Some(ResidentMethod::HighWaterMark), Some(ResidentMethod::HighWaterMark)) => {
                Some(ResidentMethod::HighWaterMark)
            }
            (Some(_), Some(_)) => Some(ResidentMethod::Sampled),
            _ => None,
        };
    }
}

/// The higher of two peaks; if one is unknown, so is the highest.
fn both(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    Some(one?.max(other?))
}

/// A running phase; dropping it ends the phase.
#[derive(Debug)]
#[must_use = "the phase ends when this is dropped"]
pub struct PhaseGuard<'a> {
    timeline: &'a mut Timeline,
}

impl PhaseGuard<'_> {
    /// Seconds since this stretch of the phase began.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.timeline.open.as_ref().map_or(0.0, |open| open.began.elapsed().as_secs_f64())
    }
}

impl Drop for PhaseGuard<'_> {
    fn drop(&mut self) {
        // Open since the guard was made: the guard alone could have stopped it.
        let _ = self.timeline.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread::sleep;
    use std::time::Duration;

    #[test]
    fn stretches_add_up_and_phases_stay_apart() {
        let mut timeline = Timeline::new();
        for _ in 0..2 {
            let train = timeline.phase("train").unwrap();
            sleep(Duration::from_millis(20));
            assert!(train.seconds() >= 0.02);
            drop(train);
            timeline.start("evaluate").unwrap();
            assert_eq!(timeline.running(), Some("evaluate"));
            sleep(Duration::from_millis(1));
            assert!(timeline.stop().unwrap() >= 0.001);
        }
        sleep(Duration::from_millis(10));
        let summary = timeline.summary();
        let names: Vec<_> =
            summary.phases.iter().map(|phase| (phase.name.as_str(), phase.stretches)).collect();
        assert_eq!(names, [("train", 2), ("evaluate", 2)]);
        assert!(summary.phases[0].seconds >= 0.04);
        assert!(summary.other_seconds >= 0.01);
        let parts = summary.other_seconds + summary.phases.iter().map(|phase| phase.seconds).sum::<f64>();
        assert!((parts - summary.total_seconds).abs() < 1e-9);
        // No counting allocator in this program.
        assert_eq!(summary.phases[0].allocated_peak_bytes, None);
        assert_eq!(summary.phases[0].resident_peak_bytes.is_some(), cfg!(target_os = "linux"));

        let json = serde_json::to_string(&summary).unwrap();
        assert_eq!(serde_json::from_str::<TimelineSummary>(&json).unwrap(), summary);
    }

    #[test]
    fn phases_do_not_nest() {
        let mut timeline = Timeline::new();
        assert!(matches!(timeline.stop(), Err(MeterError::NoPhase)));
        timeline.start("train").unwrap();
        let refused = timeline.phase("evaluate").unwrap_err().to_string();
        assert!(refused.contains("\"evaluate\" would begin inside phase \"train\""), "{refused}");
        assert_eq!(timeline.running(), Some("train"), "which goes on");
        timeline.stop().unwrap();
        assert_eq!(timeline.summary().phases.len(), 1);
    }
}
