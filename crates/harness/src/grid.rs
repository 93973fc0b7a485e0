//! The grid: every cell in a process of its own, what is done is not done again.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard};

use peftlab_record::{RUNS, Record, Status, Step, TRIALS};
use serde::{Deserialize, Serialize};

use crate::error::HarnessError;
use crate::plan::{Cell, Plan};
use crate::run::empty_record;
use crate::search::settled;
use crate::train::Event;

/// A line that a cell's process prints on its standard output.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Line {
    /// An optimizer step is done.
    Step {
        /// From 1.
        step: u64,
        /// Steps in all.
        steps: u64,
        /// Mean training loss.
        loss: f64,
        /// Rate of this step, padding not counted.
        tokens_per_second: f64,
        /// Bytes in use on the device.
        memory: Option<u64>,
    },
    /// The validation set was looked at.
    Validation {
        /// After this many steps.
        step: u64,
        /// Mean loss.
        loss: f64,
    },
}

impl From<&Event> for Line {
    fn from(event: &Event) -> Self {
        match event {
            Event::Step { step: Step { step, loss, seconds, tokens, used_bytes, .. }, steps } => Self::Step {
                step: *step,
                steps: *steps as u64,
                loss: *loss,
                tokens_per_second: *tokens as f64 / seconds,
                memory: *used_bytes,
            },
            Event::Validation { step, loss } => Self::Validation { step: *step as u64, loss: *loss },
        }
    }
}

/// What is run after one another: the trials of a search, then the cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Whether it is the one of the trials.
    pub trials: bool,
    /// Trials or cells in it.
    pub count: usize,
    /// Those of them that had been done before.
    pub done: usize,
    /// Cells of the stage that is still to come.
    pub later: usize,
}

impl Stage {
    /// What it consists of, in words.
    pub fn what(&self) -> &'static str {
        if self.trials { "trials" } else { "cells" }
    }
}

/// Who is told how the grid goes.
pub trait Progress: Send {
    /// A stage begins.
    fn start(&mut self, stage: Stage);
    /// A cell begins.
    fn cell(&mut self, cell: &Cell);
    /// Something happened in it.
    fn line(&mut self, cell: &Cell, line: &Line);
    /// So many records, which the plan would not make any more, are in this folder now.
    fn put_aside(&mut self, records: usize, folder: &Path);
    /// It ended, well or not.
    fn finish(&mut self, cell: &Cell, record: &Record);
}

/// How a grid came out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The trials of the search.
    pub trials: Count,
    /// The cells.
    pub cells: Count,
}

/// How the cells of a stage came out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// In all.
    pub all: usize,
    /// Done before.
    pub before: usize,
    /// Did not end well.
    pub failed: usize,
}

/// Runs every trial and then every cell of `plan` that has no record with its identity, each as
/// `bench cell FILE INDEX`.
///
/// # Errors
/// Where the results folder is another experiment's or cannot be written. A cell that fails is a result.
pub fn run_grid(
    plan: &Plan,
    program: &str,
    out: &Path,
    only: &[String],
    progress: &mut dyn Progress,
) -> Result<Outcome, HarnessError> {
    let labels = || plan.experiment.methods.iter().map(|method| &method.label);
    if let Some(label) = only.iter().find(|label| !labels().any(|known| known == *label)) {
        let labels: Vec<_> = labels().map(|label| format!("`{label}`")).collect();
        let message = format!("--only: no method is labelled `{label}`; there are {}", labels.join(", "));
        return Err(HarnessError::input(&plan.experiment.path, message));
    }
    prepare(plan, out)?;
    // what the plan would not make any more goes first: no choice and no table mixes it with what it makes
    let (trials, runs) = (out.join(TRIALS), out.join(RUNS));
    let mut aside = stale(&plan.trials, &plan.trials, &trials)?;
    aside.extend(stale(&plan.cells, &[], &runs)?);
    put_aside(&aside, out, progress)?;
    let asked = |cells: Vec<Cell>| -> Vec<Cell> {
        cells.into_iter().filter(|cell| only.is_empty() || only.contains(&cell.label)).collect()
    };
    let mut grid = Grid { plan, program, out, progress };
    let mut outcome = Outcome::default();
    if !plan.trials.is_empty() {
        let later = asked(plan.cells.clone()).len();
        outcome.trials = grid.stage(&asked(plan.trials.clone()), TRIALS, later)?;
    }
    let cells = settled(plan, out)?;
    put_aside(&stale(&plan.cells, &cells, &runs)?, out, grid.progress)?;
    let cells = asked(cells);
    outcome.cells = grid.stage(&cells, RUNS, 0)?;
    Ok(outcome)
}

/// What all stages of a grid share.
struct Grid<'a> {
    plan: &'a Plan,
    program: &'a str,
    out: &'a Path,
    progress: &'a mut dyn Progress,
}

impl Grid<'_> {
    /// Runs those of `cells` that are not done, with their records in `folder`.
    fn stage(&mut self, cells: &[Cell], folder: &str, later: usize) -> Result<Count, HarnessError> {
        let runs = self.out.join(folder);
        let done = finished(cells, &runs)?;
        let (before, open): (Vec<&Cell>, Vec<&Cell>) =
            cells.iter().partition(|cell| done.contains(&cell.identity));
        let mut count = Count { all: cells.len(), before: before.len(), failed: 0 };
        self.progress.start(Stage { trials: folder == TRIALS, count: count.all, done: count.before, later });
        let running = Running {
            plan: self.plan,
            program: self.program,
            out: self.out,
            runs: &runs,
            progress: Mutex::new(self.progress),
            queue: Mutex::new(open.iter()),
        };
        let jobs = self.plan.experiment.jobs;
        let failed: Vec<Result<usize, HarnessError>> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(|| running.work())).collect();
            let lost = || Err(HarnessError::Failed("a thread of the grid ended early".to_owned()));
            workers.into_iter().map(|worker| worker.join().unwrap_or_else(|_| lost())).collect()
        });
        for failed in failed {
            count.failed += failed?;
        }
        Ok(count)
    }
}

/// A stage while it runs: what the threads that wait for cells share.
struct Running<'a, 'p> {
    plan: &'a Plan,
    program: &'a str,
    out: &'a Path,
    runs: &'a Path,
    progress: Mutex<&'p mut dyn Progress>,
    queue: Mutex<std::slice::Iter<'a, &'a Cell>>,
}

impl<'p> Running<'_, 'p> {
    /// Runs cells until none is left; the number of those that did not end well.
    fn work(&self) -> Result<usize, HarnessError> {
        let mut failed = 0;
        loop {
            let next = locked(&self.queue).next().copied();
            let Some(cell) = next else { return Ok(failed) };
            self.progress().cell(cell);
            let path = self.runs.join(format!("{}.json", cell.stem()));
            let ended = match &cell.failure {
                Some((status, message)) => Ended::Badly { status: *status, message: message.clone() },
                None => self.spawn(cell)?,
            };
            let record = match ended {
                Ended::Well => Record::read(&path)?,
                Ended::Badly { status, message } => {
                    let mut record = empty_record(self.plan, cell, self.program);
                    record.status = status;
                    record.message = message;
                    record.write(&path)?;
                    record
                }
            };
            failed += usize::from(record.status != Status::Done);
            self.progress().finish(cell, &record);
        }
    }

    fn spawn(&self, cell: &Cell) -> Result<Ended, HarnessError> {
        let plan = self.plan;
        let program =
            std::env::current_exe().map_err(|error| HarnessError::read(Path::new("bench"), &error))?;
        let mut child = Command::new(&program)
            .arg("cell")
            .arg(&plan.experiment.path)
            .arg(cell.index.to_string())
            .arg(&cell.identity)
            .arg("--out")
            .arg(self.out)
            .args(cell.trial.then_some("--trial"))
            .env(THREADS, threads(plan.experiment.jobs).to_string())
            .arg("--attended")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| HarnessError::read(&program, &error))?;
        // it ends when nobody holds this: a grid that was killed leaves no cell behind
        let _attending = child.stdin.take();
        let mut stderr = child.stderr.take();
        let errors = std::thread::spawn(move || {
            let mut text = String::new();
            if let Some(stderr) = &mut stderr {
                // what is no text any more is no message either
                let _ = stderr.read_to_string(&mut text);
            }
            text
        });
        if let Some(stdout) = child.stdout.take() {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Ok(line) = serde_json::from_str(&line) {
                    self.progress().line(cell, &line);
                }
            }
        }
        let status = child.wait().map_err(|error| HarnessError::read(&program, &error))?;
        let errors = errors.join().unwrap_or_default();
        Ok(if status.success() { Ended::Well } else { ended_badly(status, &errors) })
    }

    fn progress(&self) -> MutexGuard<'_, &'p mut dyn Progress> {
        locked(&self.progress)
    }
}

/// The variable that tells the CPU backend how many threads to use.
const THREADS: &str = "RAYON_NUM_THREADS";

/// Threads for each of `jobs` cells that run at the same time; the user's own setting comes first.
fn threads(jobs: usize) -> usize {
    let own = std::env::var(THREADS).ok().and_then(|threads| threads.parse().ok());
    own.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from) / jobs).max(1)
}

/// Threads that this process has for tensors.
pub fn threads_here() -> usize {
    threads(1)
}

/// A thread that panicked leaves nothing half-done behind these locks.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Makes the results folder, and checks that it can be written and is this experiment's.
fn prepare(plan: &Plan, out: &Path) -> Result<(), HarnessError> {
    let name = &plan.experiment.name;
    for folder in [RUNS, TRIALS] {
        let folder = out.join(folder);
        if !folder.ends_with(TRIALS) || !plan.trials.is_empty() {
            std::fs::create_dir_all(&folder).map_err(|error| HarnessError::write(&folder, &error))?;
            tempfile::tempfile_in(&folder).map_err(|error| HarnessError::write(&folder, &error))?;
        }
        for (path, record) in Record::read_folder(&folder)? {
            if record.experiment != *name {
                let other = &record.experiment;
                let message = format!(
                    "is a record of the experiment `{other}`, not `{name}`; choose another folder with --out"
                );
                return Err(HarnessError::input(&path, message));
            }
        }
    }
    Ok(())
}

/// Records in `runs` that are of none of the cells `planned`, or stand in the place of one of `settled` and were made
/// with other settings, data, model or program.
fn stale(planned: &[Cell], settled: &[Cell], runs: &Path) -> Result<Vec<PathBuf>, HarnessError> {
    let planned: HashSet<String> = planned.iter().map(Cell::stem).collect();
    let settled: HashMap<String, &str> =
        settled.iter().map(|cell| (cell.stem(), cell.identity.as_str())).collect();
    let is_stale = |(path, record): &(PathBuf, Record)| {
        let stem = stem(path);
        !planned.contains(&stem) || settled.get(&stem).is_some_and(|identity| *identity != record.identity)
    };
    Ok(Record::read_folder(runs)?.into_iter().filter(is_stale).map(|(path, _)| path).collect())
}

fn stem(record: &Path) -> String {
    record.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Identities of those of `cells` that are done. A grid of rates may have grown without changing what it chose:
/// such a cell is not run again, but its record says what it was chosen from.
fn finished(cells: &[Cell], runs: &Path) -> Result<HashSet<String>, HarnessError> {
    let cells: HashMap<&str, &Cell> = cells.iter().map(|cell| (cell.identity.as_str(), cell)).collect();
    let mut done = HashSet::new();
    for (path, mut record) in Record::read_folder(runs)? {
        let Some(cell) = cells.get(record.identity.as_str()).filter(|_| record.status == Status::Done) else {
            continue;
        };
        if let Some(training) = record.measured.as_mut().map(|measured| &mut measured.training)
            && training.searched != cell.searched
        {
            training.searched.clone_from(&cell.searched);
            record.write(&path)?;
        }
        done.insert(record.identity);
    }
    Ok(done)
}

/// Puts records aside, with what is beside them; nothing is deleted or written over.
fn put_aside(records: &[PathBuf], out: &Path, progress: &mut dyn Progress) -> Result<(), HarnessError> {
    if records.is_empty() {
        return Ok(());
    }
    let folder = out.join("put-aside");
    std::fs::create_dir_all(&folder).map_err(|error| HarnessError::write(&folder, &error))?;
    for record in records {
        let stem = stem(record);
        let names = std::iter::once(stem.clone()).chain((2..).map(|number| format!("{stem}~{number}")));
        let free =
            |name: &String| companions(&folder.join(format!("{name}.json"))).all(|file| !file.exists());
        let Some(name) = names.into_iter().find(free) else { continue };
        let targets: Vec<_> = companions(&folder.join(format!("{name}.json"))).collect();
        for (file, target) in companions(record).zip(targets).filter(|(file, _)| file.is_file()) {
            std::fs::rename(file, &target).map_err(|error| HarnessError::write(&target, &error))?;
        }
    }
    progress.put_aside(records.len(), &folder);
    Ok(())
}

/// The files of a run, its record last: a stop half-way leaves a record that is put aside the next time.
fn companions(record: &Path) -> impl Iterator<Item = PathBuf> {
    [
        peftlab_record::steps_path(record),
        peftlab_record::predictions_path(record),
        record.with_extension("safetensors"),
        record.to_owned(),
    ]
    .into_iter()
}

enum Ended {
    Well,
    Badly { status: Status, message: String },
}

fn ended_badly(status: ExitStatus, errors: &str) -> Ended {
    let lines = causes(errors);
    let mut message = lines[lines.len().saturating_sub(5)..].join("; ");
    let killed = killed_by_kernel(status);
    // what Rust's allocator, the CUDA driver and CubeCL say; the cause comes first, its consequences last
    let said = errors.to_lowercase();
    let phrases = [
        "memory allocation of",
        "out of memory",
        "out of device memory",
        "out-of-memory",
        "out_of_memory",
        "allocate buffer of size",
    ];
    let out_of_memory = killed || phrases.iter().any(|phrase| said.contains(phrase));
    if message.is_empty() {
        message = match killed {
            true => "killed by signal 9, as the kernel does when memory runs out".to_owned(),
            false => format!("ended with {status}"),
        };
    }
    Ended::Badly { status: if out_of_memory { Status::OutOfMemory } else { Status::Failed }, message }
}

/// The lines that say what went wrong: without those of a backtrace, which `RUST_BACKTRACE` puts after a cause.
fn causes(errors: &str) -> Vec<&str> {
    let mut in_trace = false;
    let cause = |line: &&str| {
        in_trace = match line {
            line if line.starts_with("stack backtrace:") => true,
            // a frame, its place, or a note after the frames
            line if line.starts_with([' ', '\t']) || line.starts_with("note: ") => in_trace,
            _ => false,
        };
        !in_trace && !line.trim().is_empty() && !line.starts_with("note: ")
    };
    errors.lines().filter(cause).collect()
}

#[cfg(unix)]
fn killed_by_kernel(status: ExitStatus) -> bool {
    std::os::unix::process::ExitStatusExt::signal(&status) == Some(9)
}

#[cfg(not(unix))]
fn killed_by_kernel(_: ExitStatus) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backtrace_does_not_take_a_causes_place() {
        let errors = "thread 'main' (7) panicked at src/a.rs:1:2:\nindex out of bounds\nstack backtrace:\n   0: core::panicking\n\
                      \x20            at /rustc/a.rs:3\n   1: main\nnote: Some details are omitted\nerror: it ended\n";
        assert_eq!(
            causes(errors),
            ["thread 'main' (7) panicked at src/a.rs:1:2:", "index out of bounds", "error: it ended"]
        );
    }
}
