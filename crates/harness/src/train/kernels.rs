//! Which kernels a training step launches, and what each takes.

use std::collections::BTreeMap;

use peftlab_record::{KernelProfile, KernelTime};

/// Watches the kernels of steps, and sums up what they take.
#[derive(Debug, Default)]
pub(crate) struct KernelWatch {
    steps: u64,
    kernels: BTreeMap<&'static str, (u64, f64)>,
}

impl KernelWatch {
    /// Runs one step, which must wait for the device before it ends.
    pub(crate) fn step<T>(&mut self, step: impl FnOnce() -> T) -> T {
        let (result, launches) = observe(step);
        self.steps += 1;
        for (name, seconds) in launches {
            let (count, sum) = self.kernels.entry(name).or_default();
            *count += 1;
            *sum += seconds;
        }
        result
    }

    /// What was seen; `seconds` is what the steps took in all.
    pub(crate) fn profile(self, seconds: f64) -> KernelProfile {
        let kernel = |(name, (launches, seconds)): (&'static str, _)| KernelTime {
            name: short(name),
            launches,
            seconds,
        };
        let mut kernels: Vec<KernelTime> = self.kernels.into_iter().map(kernel).collect();
        kernels.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        KernelProfile { steps: self.steps, seconds, kernels }
    }
}

/// What `work` gives, and the name and seconds of each kernel that it launched.
#[cfg(feature = "cube")]
fn observe<T>(work: impl FnOnce() -> T) -> (T, Vec<(&'static str, f64)>) {
    use std::sync::{Arc, Mutex, PoisonError};

    use cubecl::logging::{
        Duration, LaunchObservation, LaunchObserver, ProfileDuration, TimingMethod, TimingRequest,
    };

    enum Measured {
        Read(Duration),
        Unread(ProfileDuration),
    }

    /// Measurements are read when all is over: until then kernels follow each other as they always do.
    #[derive(Default)]
    struct Seen(Mutex<Vec<(&'static str, Measured)>>);

    impl Seen {
        fn add(&self, kernel: &'static str, measured: Measured) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push((kernel, measured));
        }
    }

    impl LaunchObserver for Seen {
        fn launched(&self, _: &'static str) {}

        fn timing(&self) -> TimingRequest {
            TimingRequest::Deferred
        }

        fn profiled(&self, kernel: &'static str, profile: ProfileDuration) {
            self.add(kernel, Measured::Unread(profile));
        }

        fn timed(&self, kernel: &'static str, duration: Duration, _: TimingMethod) {
            self.add(kernel, Measured::Read(duration));
        }
    }

    let seen = Arc::new(Seen::default());
    let observation = LaunchObservation::new(seen.clone());
    let result = work();
    drop(observation);
    let measured = std::mem::take(&mut *seen.0.lock().unwrap_or_else(PoisonError::into_inner));
    let launches = measured.into_iter().filter_map(|(kernel, measured)| {
        let duration = match measured {
            Measured::Read(duration) => duration,
            Measured::Unread(profile) => cubecl::future::block_on(profile.resolve())?.duration(),
        };
        Some((kernel, duration.as_secs_f64()))
    });
    (result, launches.collect())
}

/// The CPU backend launches no kernels.
#[cfg(not(feature = "cube"))]
fn observe<T>(work: impl FnOnce() -> T) -> (T, Vec<(&'static str, f64)>) {
    (work(), Vec::new())
}

/// A kernel's name without the paths of its type.
#[cfg(feature = "cube")]
fn short(name: &str) -> String {
    cubecl::config::type_name_format(name, cubecl::config::TypeNameFormatLevel::Balanced)
}

#[cfg(not(feature = "cube"))]
fn short(name: &str) -> String {
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_up_by_kernel() {
        let mut watch = KernelWatch::default();
        assert_eq!(watch.step(|| 7), 7);
        watch.kernels.insert("copy", (3, 0.5));
        watch.kernels.insert("product", (1, 2.0));
        let profile = watch.profile(4.0);
        assert_eq!((profile.steps, profile.seconds), (1, 4.0));
        let names: Vec<&str> = profile.kernels.iter().map(|kernel| kernel.name.as_str()).collect();
        assert_eq!(names, ["product", "copy"]);
    }
}
