//! What the host keeps resident for this process: all of it, whoever allocated it.
//!
//! Read from `/proc` on Linux; elsewhere there is no number. The kernel counts pages per thread or per core and
//! sums them late, so a reading may be off by up to a few hundred KiB.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::sampler::Sampler;

/// Between two looks where the kernel keeps no peak for us. Shorter peaks may pass unseen.
const INTERVAL: Duration = Duration::from_millis(5);

/// Bytes of memory resident for this process now; `None` off Linux.
#[must_use]
pub fn resident() -> Option<u64> {
    status_bytes("VmRSS")
}

/// How a [`ResidentPeak`] came by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResidentMethod {
    /// The kernel's own high-water mark: no peak is too short for it.
    HighWaterMark,
    /// A look every 5 ms, where the kernel does not let the mark be reset: a shorter peak may be missing.
    Sampled,
}

/// The most memory resident for this process since [`start`](Self::start).
///
/// Several may run at once: the kernel has one mark for all, and each reset is first noted by those running.
/// Another program that resets the mark of this process disturbs it.
#[derive(Debug)]
pub struct ResidentPeak {
    seen: Arc<AtomicU64>,
    sampler: Option<Sampler>,
}

impl ResidentPeak {
    /// Begins at what is resident now; `None` off Linux.
    #[must_use]
    pub fn start() -> Option<Self> {
        let mut running = running();
        running.retain(|seen| seen.strong_count() > 0);
        if let Some(mark) = status_bytes("VmHWM") {
            for seen in running.iter().filter_map(Weak::upgrade) {
                seen.fetch_max(mark, Relaxed);
            }
            // 5 sets the high-water mark to what is resident now (proc(5)).
            if fs::write("/proc/self/clear_refs", "5").is_ok() {
                let seen = Arc::new(AtomicU64::new(resident()?));
                running.push(Arc::downgrade(&seen));
                return Some(Self { seen, sampler: None });
            }
        }
        drop(running);
        Self::sampled()
    }

    fn sampled() -> Option<Self> {
        let seen = Arc::new(AtomicU64::new(resident()?));
        let noted = Arc::clone(&seen);
        let look = move || {
            noted.fetch_max(resident().unwrap_or(0), Relaxed);
        };
        // Without a thread there would be no peak to report, so none is.
        let sampler = Sampler::spawn(INTERVAL, look).ok()?;
        Some(Self { seen, sampler: Some(sampler) })
    }

    /// The peak so far in bytes, from the start until now; `None` if the kernel no longer answers.
    #[must_use]
    pub fn peak(&self) -> Option<u64> {
        let now = match self.method() {
            ResidentMethod::HighWaterMark => {
                // A reset has not begun, or has left its note in `seen`.
                let _running = running();
                status_bytes("VmHWM")?
            }
            ResidentMethod::Sampled => resident()?,
        };
        Some(self.seen.fetch_max(now, Relaxed).max(now))
    }

    /// How the number comes about.
    #[must_use]
    pub fn method(&self) -> ResidentMethod {
        if self.sampler.is_some() { ResidentMethod::Sampled } else { ResidentMethod::HighWaterMark }
    }
}

/// Those that rely on the kernel's mark, to be told of it before it is reset.
fn running() -> MutexGuard<'static, Vec<Weak<AtomicU64>>> {
    static RUNNING: Mutex<Vec<Weak<AtomicU64>>> = Mutex::new(Vec::new());
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn status_bytes(key: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    kib(&status, key).filter(|&bytes| bytes > 0)
}

/// The bytes of a `Key:   123 kB` line, as `/proc` writes it (its kB are KiB).
pub(crate) fn kib(text: &str, key: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    value.trim().strip_suffix("kB")?.trim_end().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hint::black_box;

    const SIZE: usize = 64 << 20;
    /// Other tests run beside this one and the kernel counts late.
    const SLACK: u64 = 8 << 20;

    // One after the other: each reads what the whole process holds.
    static ALONE: Mutex<()> = Mutex::new(());

    /// Fills 64 MiB, so that each page is resident, and lets go.
    fn touch() {
        drop(black_box(vec![1_u8; SIZE]));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_peak_grows_when_memory_is_touched_and_a_reset_forgets_it() {
        let _alone = ALONE.lock();
        let outer = ResidentPeak::start().unwrap();
        let before = resident().unwrap();
        touch();
        let grown = outer.peak().unwrap();
        assert!(grown + SLACK >= before + SIZE as u64, "{before} then {grown}");

        let next = ResidentPeak::start().unwrap();
        let fresh = next.peak().unwrap();
        assert!(fresh < before + SIZE as u64 / 2, "the next phase starts anew: {before} then {fresh}");
        let whole = outer.peak().unwrap();
        assert!(whole >= grown, "and the phase around it remembers: {grown} then {whole}");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn sampling_sees_what_lasts() {
        let _alone = ALONE.lock();
        let peak = ResidentPeak::sampled().unwrap();
        assert_eq!(peak.method(), ResidentMethod::Sampled);
        let before = resident().unwrap();
        let held = black_box(vec![1_u8; SIZE]);
        let mut seen = 0;
        // The thread alone must notice, however busy the machine is.
        for _ in 0..1000 {
            seen = peak.seen.load(Relaxed);
            if seen + SLACK >= before + SIZE as u64 {
                break;
            }
            std::thread::sleep(INTERVAL);
        }
        drop(held);
        assert!(seen + SLACK >= before + SIZE as u64, "{before} then {seen}");
        assert!(peak.peak().unwrap() >= seen, "and remembers after it is gone");
    }

    #[test]
    fn reads_the_lines_of_proc() {
        let status = "VmHWMX:\t 1 kB\nVmHWM:\t    1748 kB\nVmRSS:\t  12 pages\n";
        assert_eq!(kib(status, "VmHWM"), Some(1748 * 1024));
        assert_eq!(kib(status, "VmRSS"), None);
        assert_eq!(kib(status, "VmSwap"), None);
    }
}
