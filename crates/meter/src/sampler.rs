//! A thread that looks at fixed intervals until it is dropped.

use std::io;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

/// Calls a probe every `interval`, first at once; dropping stops the thread and waits for it.
#[derive(Debug)]
pub(crate) struct Sampler {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Sampler {
    pub(crate) fn spawn(interval: Duration, mut probe: impl FnMut() + Send + 'static) -> io::Result<Self> {
        let (stop, stopped) = channel();
        let thread = Builder::new().name("meter".to_owned()).spawn(move || {
            loop {
                probe();
                // Nothing is ever sent: a drop of the sender ends the wait at once, whatever the interval.
                if stopped.recv_timeout(interval) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A probe that panicked has only stopped looking.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
    use std::time::Instant;

    #[test]
    fn looks_again_and_again_and_stops_at_once() {
        let seen = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&seen);
        let sampler = Sampler::spawn(Duration::from_millis(1), move || {
            counter.fetch_add(1, Relaxed);
        })
        .unwrap();
        while seen.load(Relaxed) < 3 {
            std::thread::yield_now();
        }
        drop(sampler);
        let after = seen.load(Relaxed);
        std::thread::sleep(Duration::from_millis(10));
        assert_eq!(seen.load(Relaxed), after, "joined");

        let start = Instant::now();
        drop(Sampler::spawn(Duration::from_secs(3600), || ()).unwrap());
        assert!(start.elapsed() < Duration::from_secs(60), "does not sleep the interval out");
    }
}
