//! The `bench` program as a library, so that a program with methods of its own can be one, too: fill a
//! [`Registry`] and call [`main`]. The crate `peftlab` has a macro that does both, and installs the counting allocator.

mod arguments;
mod check;
mod commands;
mod device;
mod docs;
mod format;
mod init;
mod plan;
mod progress;
mod remove;
mod results;
mod run;
mod show;
mod terminal;
mod version;
mod wanted;

use std::io::Write;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Parser;
use peftlab_peft::Registry;

use arguments::{Arguments, Command};

/// What a program is told whose records will have no peak memory on the host.
const NOT_COUNTED: &str = "warning: this program does not count what it allocates, and peak memory will be missing from \
                           its records and tables; write its `main` with `peftlab::main!`, which installs the allocator \
                           that counts";

/// What a command came to, for the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All is well: exit code 0.
    Done,
    /// Something that was measured failed: exit code 1.
    Failed,
    /// A signal stopped it: exit code 130.
    Interrupted,
    /// Of a cell's process: another one works on the cell.
    Claimed,
}

impl Outcome {
    pub(crate) fn code(self) -> i32 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Interrupted => 130,
            Self::Claimed => peftlab_harness::execute::CLAIMED,
        }
    }
}

/// Runs the program with the methods in `registry`. Exit codes: 0 done, 1 something measured failed, 2 wrong
/// input, 130 stopped by a signal.
///
/// A program without a [`CountingAllocator`](peftlab_meter::CountingAllocator) has no peak memory in its records; it is
/// warned of when it runs an experiment.
pub fn main(registry: &Registry) -> ExitCode {
    peftlab_meter::allocated::keep_freed();
    let arguments = Arguments::parse();
    terminal::set_verbosity(arguments.verbosity());
    if matches!(arguments.command, Command::Run { .. }) && peftlab_meter::allocated::live().is_none() {
        say(NOT_COUNTED);
    }
    match commands::run(&arguments.command, registry) {
        Ok(_) if OUTPUT_LOST.load(Ordering::Relaxed) => ExitCode::from(2),
        Ok(outcome) => ExitCode::from(outcome.code() as u8),
        Err(error) => {
            let measured = error
                .downcast_ref::<peftlab_harness::HarnessError>()
                .is_some_and(|error| matches!(error, peftlab_harness::HarnessError::Failed(_)));
            say(format!("error: {error:#}"));
            ExitCode::from(if measured { 1 } else { 2 })
        }
    }
}

/// Whether something that was to be printed is lost, as on a full disk.
static OUTPUT_LOST: AtomicBool = AtomicBool::new(false);

/// Prints a line; a reader who has gone away is no error. One that cannot be written does not end a run, but the
/// program says so when it ends.
pub(crate) fn print(text: impl std::fmt::Display) {
    if let Err(error) = writeln!(std::io::stdout(), "{text}")
        && error.kind() != std::io::ErrorKind::BrokenPipe
        && !OUTPUT_LOST.swap(true, Ordering::Relaxed)
    {
        say(format!("error: the output cannot be written: {error}"));
    }
}

/// Says something on the standard error; nobody is left to tell if that is gone.
pub(crate) fn say(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Says on standard error what a reader of the numbers should know.
pub(crate) fn warn(warnings: &[String]) {
    for warning in warnings {
        say(format!("warning: {warning}"));
    }
}
