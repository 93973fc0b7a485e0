//! The other end of a job: the process that runs one cell.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use peftlab_peft::Registry;
use peftlab_record::Status;

use super::claim::Claim;
use super::executor::Line;
use super::job::Job;
use crate::error::HarnessError;
use crate::run::run_cell;

/// What a worker came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worked {
    /// The cell's record is there.
    Done,
    /// Another process works on the cell.
    Claimed,
}

/// Reads a job from the standard input, and runs it, with `line` for everything that is to be told. This process ends
/// when the other end of its standard input is closed, as it is when the process there ends.
///
/// # Errors
/// Where there is no job, or the cell fails.
pub fn work(registry: &Registry, line: &mut dyn FnMut(&Line)) -> Result<Worked, HarnessError> {
    let input = Path::new("standard input");
    let mut text = String::new();
    let read = std::io::stdin().lock().read_line(&mut text);
    read.map_err(|error| HarnessError::read(input, &error))?;
    let job: Job = serde_json::from_str(&text).map_err(|error| {
        HarnessError::input(input, format!("is no job of `bench run`, which alone starts this: {error}"))
    })?;
    std::thread::spawn(|| {
        // nothing more is ever sent
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(1);
    });
    let Some(_claim) = Claim::take(&job.out, &job.identity)? else { return Ok(Worked::Claimed) };
    show_in_lists(&job);
    // another run may have done it since this one was asked for
    if job.done_elsewhere().is_none_or(|record| record.status != Status::Done) {
        let (plan, cell) = job.plan(registry)?;
        run_cell(&plan, &cell, &job.program, &job.out, &mut |event| line(&Line::from(&event)))?;
        // what it said when it failed before is of no more use; where it did not, there is none
        let _ = std::fs::remove_file(said_path(&job.record_path()));
    }
    Ok(Worked::Done)
}

/// What a cell that failed said on its standard error, beside its record.
pub fn said_path(record: &Path) -> PathBuf {
    record.with_extension("stderr.txt")
}

/// Gives the process the cell's name in lists of processes, where the system has a file for that.
fn show_in_lists(job: &Job) {
    let _ = std::fs::write("/proc/self/comm", format!("cell {}", &job.identity[..8.min(job.identity.len())]));
}
