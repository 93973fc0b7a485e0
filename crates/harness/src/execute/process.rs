//! Cells in processes of their own on this machine.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::executor::{Ended, Executor, Failure, Line};
use super::job::Job;
use super::{CLAIMED, locked};
use crate::error::HarnessError;

/// The variable that tells the CPU backend how many threads to use.
const THREADS: &str = "RAYON_NUM_THREADS";

/// Threads for each of `jobs` cells that run at the same time; the user's own setting comes first.
pub(crate) fn threads(jobs: usize) -> usize {
    let own = std::env::var(THREADS).ok().and_then(|threads| threads.parse().ok());
    own.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from) / jobs).max(1)
}

/// Runs each cell as `bench cell`, which reads its job from the standard input and ends when that does: a cell ends
/// with the process that started it.
pub struct Processes {
    program: PathBuf,
    /// Of the cells that run: closing one ends its cell.
    inputs: Mutex<HashMap<u64, ChildStdin>>,
    next: AtomicU64,
    stopped: AtomicBool,
}

impl Processes {
    /// Processes of this very program, even where its file has been replaced since it was started.
    ///
    /// # Errors
    /// Where the program's own file cannot be told.
    pub fn new() -> Result<Self, HarnessError> {
        Ok(Self {
            program: this_program()?,
            inputs: Mutex::default(),
            next: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
        })
    }

    fn start(&self, job: &Job) -> Result<(Child, u64), HarnessError> {
        let failed = |error: std::io::Error| HarnessError::read(&self.program, &error);
        let mut command = Command::new(&self.program);
        // the stem is for whoever reads a list of processes
        command.arg("cell").arg(&job.stem);
        #[cfg(unix)]
        std::os::unix::process::CommandExt::arg0(&mut command, "bench");
        let mut child = command
            .env(THREADS, threads(job.jobs).to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let mut text = serde_json::to_string(job).map_err(|error| HarnessError::Failed(error.to_string()))?;
        text.push('\n');
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        if let Some(mut input) = child.stdin.take() {
            // one that ended already says why by itself
            let _ = input.write_all(text.as_bytes());
            locked(&self.inputs).insert(id, input);
        }
        // stopped between the look before and now
        if self.stopped() {
            locked(&self.inputs).clear();
        }
        Ok((child, id))
    }
}

impl Executor for Processes {
    fn run(&self, job: &Job, line: &mut dyn FnMut(&Line)) -> Result<Ended, HarnessError> {
        let kills = kills_for_memory();
        let (mut child, id) = self.start(job)?;
        let stderr = child.stderr.take();
        let errors = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut stderr) = stderr {
                // what was read until then is what there is
                let _ = stderr.read_to_end(&mut bytes);
            }
            String::from_utf8_lossy(&bytes).into_owned()
        });
        let (mut panicked, mut failed) = (None, None);
        if let Some(stdout) = child.stdout.take() {
            for text in BufReader::new(stdout).lines().map_while(Result::ok) {
                match serde_json::from_str(&text) {
                    // the first is the cause, and others its consequences
                    Ok(Line::Panicked { message }) => panicked = panicked.or(Some(message)),
                    Ok(Line::Failed { message }) => failed = Some(message),
                    Ok(event) => line(&event),
                    Err(_) => {}
                }
            }
        }
        let status = child.wait().map_err(|error| HarnessError::read(&self.program, &error))?;
        locked(&self.inputs).remove(&id);
        let said = errors.join().unwrap_or_default();
        if status.success() {
            return Ok(Ended::Well);
        }
        if status.code() == Some(CLAIMED) {
            return Ok(Ended::Claimed);
        }
        if self.stopped() {
            return Ok(Ended::Stopped("the run was stopped".to_owned()));
        }
        let message = panicked.or(failed);
        Ok(ended(status, message, said, kills_for_memory() > kills))
    }

    fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        locked(&self.inputs).clear();
    }

    fn stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
}

/// A path to start this program again by.
pub(crate) fn this_program() -> Result<PathBuf, HarnessError> {
    // the file may be replaced by a newer build, or be gone; what runs is still to be had there
    let running = Path::new("/proc/self/exe");
    if cfg!(target_os = "linux") && running.exists() {
        return Ok(running.to_owned());
    }
    std::env::current_exe().map_err(|error| HarnessError::read(Path::new("bench"), &error))
}

/// What Rust's allocator, the CUDA driver and CubeCL say when memory runs out.
const NO_MEMORY: [&str; 6] = [
    "memory allocation of",
    "out of memory",
    "out of device memory",
    "out-of-memory",
    "out_of_memory",
    "allocate buffer of size",
];

/// How a process that did not end well ended: `message` is the reason that it gave, `said` all of its standard error, and
/// `kills` whether the kernel ended a process for want of memory meanwhile.
fn ended(status: ExitStatus, message: Option<String>, said: String, kills: bool) -> Ended {
    let signal = signal(status);
    if let (Some(signal @ (1 | 2 | 15)), _) | (Some(signal @ 9), false) = (signal, kills) {
        return Ended::Stopped(format!("killed by signal {signal}"));
    }
    let everything = format!("{}\n{said}", message.as_deref().unwrap_or_default()).to_lowercase();
    let out_of_memory = signal == Some(9) || NO_MEMORY.iter().any(|phrase| everything.contains(phrase));
    let last = || said.lines().rev().find(|line| !line.trim().is_empty()).map(str::to_owned);
    let message = match (message, signal) {
        (Some(message), _) => message,
        (None, Some(9)) => "killed by the kernel: the machine's memory ran out".to_owned(),
        (None, _) => last().unwrap_or_else(|| format!("ended with {status}")),
    };
    Ended::Failed(Failure { out_of_memory, message, said })
}

/// How often the kernel has ended a process for want of memory, of all that it tells us about; 0 where it does not.
fn kills_for_memory() -> u64 {
    let count = |path: &Path| -> u64 {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let value = |line: &str| line.strip_prefix("oom_kill ")?.trim().parse::<u64>().ok();
        text.lines().filter_map(value).sum()
    };
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"));
    let own = own.map(|group| count(&Path::new("/sys/fs/cgroup").join(group).join("memory.events")));
    count(Path::new("/proc/vmstat")) + own.unwrap_or(0)
}

#[cfg(unix)]
fn signal(status: ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(&status)
}

#[cfg(not(unix))]
fn signal(_: ExitStatus) -> Option<i32> {
    None
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn failed(ended: Ended) -> Failure {
        match ended {
            Ended::Failed(failure) => failure,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_signal_from_outside_says_nothing_of_the_cell() {
        for number in [1, 2, 9, 15] {
            let ended = ended(ExitStatus::from_raw(number), None, String::new(), false);
            assert_eq!(ended, Ended::Stopped(format!("killed by signal {number}")));
        }
        let killed = failed(ended(ExitStatus::from_raw(9), None, String::new(), true));
        assert!(killed.out_of_memory && killed.message.contains("memory ran out"), "{killed:?}");
        let crashed = failed(ended(ExitStatus::from_raw(11), None, "bad\n\n".to_owned(), false));
        assert_eq!((crashed.out_of_memory, crashed.message.as_str()), (false, "bad"));
    }

    #[test]
    fn the_reason_is_what_the_cell_said_it_is() {
        let said = "thread panicked\nstack backtrace:\n   0: frame\n".to_owned();
        let failure = failed(ended(ExitStatus::from_raw(256), Some("why".to_owned()), said.clone(), false));
        assert_eq!((failure.message.as_str(), failure.said), ("why", said));
        let allocation = "memory allocation of 12 bytes failed".to_owned();
        assert!(failed(ended(ExitStatus::from_raw(6), None, allocation, false)).out_of_memory);
    }
}
