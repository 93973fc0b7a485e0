//! The other end of a job: the process that runs one cell.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use peftlab_peft::Registry;
use peftlab_record::{Status, partial_prefix};

use super::claim::Claim;
use super::executor::Line;
use super::job::Job;
use super::store::lacks;
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
    clear(&job);
    let (plan, cell) = job.plan(registry)?;
    // another run may have done it since this one was asked for
    let done = job.written().filter(|record| record.status == Status::Done);
    if done.is_none_or(|record| lacks(&plan, &cell, &record).is_some()) {
        let _shown = Shown::new(&job);
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

/// Removes what was half-written when the cell was killed before: nobody else writes files of a cell that is claimed.
fn clear(job: &Job) {
    let path = job.record_path();
    let entries = path.parent().and_then(|folder| std::fs::read_dir(folder).ok()).into_iter().flatten();
    let partial = partial_prefix(&job.stem);
    for entry in entries.filter_map(Result::ok) {
        if entry.file_name().to_string_lossy().starts_with(&partial) {
            // what cannot be removed does no harm
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// The process has the cell's name in lists of processes while this is there, if the system has a file for that.
struct Shown;

impl Shown {
    fn new(job: &Job) -> Self {
        Self::name(&format!("cell {}", &job.identity[..8.min(job.identity.len())]));
        Self
    }

    fn name(name: &str) {
        let _ = std::fs::write("/proc/self/comm", name);
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        Self::name("bench");
    }
}
