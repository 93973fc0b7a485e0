//! The grid: every cell in a process of its own, what is done is not done again, and runs that share a results folder
//! share the work.

mod claim;
mod executor;
mod job;
mod process;
mod remove;
mod rescore;
mod settle;
mod store;
mod worker;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::io::Read;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use peftlab_record::{Manifest, RUNS, Record, Status, TRIALS};
use sha2::{Digest, Sha256};

use crate::error::HarnessError;
use crate::plan::{Cell, Plan};
use crate::run::empty_record;
use claim::Claim;
use store::Store;

pub use executor::{Ended, Executor, Failure, Line};
pub use job::Job;
pub use process::Processes;
pub(crate) use process::threads;
pub use remove::{files, remove, running};
pub use store::Why;
pub(crate) use store::changed;
pub use worker::{Worked, said_path, work};

/// The exit code of a cell's process that did nothing, for another one works on the cell.
pub const CLAIMED: i32 = 75;

/// What is run after one another: the trials of a search, then the cells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Whether it is the one of the trials.
    pub trials: bool,
    /// Trials or cells in it.
    pub count: usize,
    /// Those of them that had been done before.
    pub done: usize,
    /// Those that wait for trials of theirs that were stopped.
    pub waiting: usize,
    /// Why the others are run: how many for which reason.
    pub reasons: BTreeMap<Why, usize>,
    /// Cells of the stage that is still to come.
    pub later: usize,
}

impl Stage {
    /// What it consists of, in words.
    pub fn what(&self, count: usize) -> &'static str {
        match (self.trials, count) {
            (true, 1) => "trial",
            (true, _) => "trials",
            (false, 1) => "cell",
            (false, _) => "cells",
        }
    }
}

/// Who is told how the grid goes.
pub trait Progress: Send {
    /// A stage begins.
    fn start(&mut self, stage: &Stage);
    /// A cell begins.
    fn cell(&mut self, cell: &Cell);
    /// Something happened in it.
    fn line(&mut self, cell: &Cell, line: &Line);
    /// It ended, well or not.
    fn finish(&mut self, cell: &Cell, record: &Record);
    /// It was stopped, and has no record; in words.
    fn stopped(&mut self, cell: &Cell, why: &str);
    /// All that is left of the stage is what another run works on: so many cells.
    fn waits(&mut self, cells: usize);
}

/// Which cells are asked for; with nothing in it, all.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Labels of rows, or names of methods.
    pub methods: Vec<String>,
    /// Names of tasks.
    pub tasks: Vec<String>,
    /// Seeds.
    pub seeds: Vec<u64>,
}

impl Wanted {
    /// Everything that is named must be in the plan.
    ///
    /// # Errors
    /// Where it is not; with what there is.
    pub fn check(&self, plan: &Plan) -> Result<(), HarnessError> {
        let experiment = &plan.experiment;
        let labels: Vec<&str> = experiment.methods.iter().map(|method| method.label.as_str()).collect();
        let names = experiment.methods.iter().map(|method| method.method.card().name);
        let methods: Vec<&str> = labels.iter().copied().chain(names).collect();
        let tasks: Vec<&str> = experiment.tasks.iter().map(|task| task.name.as_str()).collect();
        let refused = |flag: &str, what: &str, given: &str, there: &[&str]| {
            let there: Vec<_> = there.iter().map(|name| format!("`{name}`")).collect();
            let message = format!("{flag}: no {what} `{given}`; there are {}", there.join(", "));
            Err(HarnessError::input(&experiment.path, message))
        };
        if let Some(method) = self.methods.iter().find(|method| !methods.contains(&method.as_str())) {
            return refused("--only", "method is labelled or named", method, &labels);
        }
        if let Some(task) = self.tasks.iter().find(|task| !tasks.contains(&task.as_str())) {
            return refused("--task", "task is named", task, &tasks);
        }
        if let Some(seed) = self.seeds.iter().find(|seed| !experiment.seeds.contains(seed)) {
            let seeds: Vec<String> = experiment.seeds.iter().map(u64::to_string).collect();
            let seeds: Vec<&str> = seeds.iter().map(String::as_str).collect();
            return refused("--seed", "seed is", &seed.to_string(), &seeds);
        }
        Ok(())
    }

    /// Whether `cell` is asked for. Every trial of a method on a task is: a choice needs all of them.
    pub fn has(&self, cell: &Cell) -> bool {
        self.names(&cell.label, &cell.method, &cell.task)
            && (self.seeds.is_empty() || cell.trial || self.seeds.contains(&cell.seed))
    }

    /// Whether a row of this label and method is asked for on this task, whatever the seed.
    pub fn names(&self, label: &str, method: &str, task: &str) -> bool {
        let named = |names: &[String], name: &str| names.iter().any(|known| known == name);
        (self.methods.is_empty() || named(&self.methods, label) || named(&self.methods, method))
            && (self.tasks.is_empty() || named(&self.tasks, task))
    }
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
    /// Have no record: they were stopped, or not begun for a stop or for want of their trials.
    pub open: usize,
}

/// What is to be done with the cells of `plan`, by the records in the results folder `out`: why each has to be run, or
/// none where it is done. Cells whose learning rate has yet to be chosen are missing.
///
/// # Errors
/// Where a record cannot be read.
pub fn states(plan: &Plan, out: &Path) -> Result<Vec<(Cell, Option<Why>)>, HarnessError> {
    let trials = Store::read(&out.join(TRIALS))?;
    let runs = Store::read(&out.join(RUNS))?;
    let settled = settle::settled(plan, &trials);
    let with_reason = |store: &Store, cell: Cell| {
        let why = store.why(plan, &cell)?;
        Ok((cell, why))
    };
    let all = plan.trials.iter().cloned().map(|cell| with_reason(&trials, cell));
    all.chain(settled.into_iter().map(|cell| with_reason(&runs, cell))).collect()
}

/// The cells of `plan` with the learning rates that the trials in the results folder `out` speak for. Those whose trials
/// have not all been run are missing.
///
/// # Errors
/// Where a trial's record cannot be read.
pub fn settled(plan: &Plan, out: &Path) -> Result<Vec<Cell>, HarnessError> {
    Ok(settle::settled(plan, &Store::read(&out.join(TRIALS))?))
}

/// Runs every trial and then every cell of `plan` that is `wanted` and has no record with its identity.
///
/// # Errors
/// Where the results folder is another experiment's or cannot be written. A cell that fails is a result.
pub fn run_grid(
    plan: &Plan,
    out: &Path,
    wanted: &Wanted,
    executor: &dyn Executor,
    progress: &mut dyn Progress,
) -> Result<Outcome, HarnessError> {
    wanted.check(plan)?;
    prepare(plan, out)?;
    let asked =
        |cells: Vec<Cell>| -> Vec<Cell> { cells.into_iter().filter(|cell| wanted.has(cell)).collect() };
    let program = program_digest()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    let planned = now.saturating_sub(COARSE);
    let mut grid = Grid { plan, program, planned, out, executor, progress };
    let mut outcome = Outcome::default();
    let planned_cells = asked(plan.cells.clone()).len();
    if !plan.trials.is_empty() {
        let folder = out.join(TRIALS);
        outcome.trials = grid.stage(&asked(plan.trials.clone()), &folder, planned_cells, 0)?;
    }
    let settled = settle::settled(plan, &Store::read(&out.join(TRIALS))?);
    // before the cells are run: a table drawn meanwhile knows which records it is of
    plan.manifest(&settled).write(out)?;
    let cells = asked(settled.clone());
    let waiting = planned_cells - cells.len();
    outcome.cells = grid.stage(&cells, &out.join(RUNS), 0, waiting)?;
    // another run on this folder may be of an edited experiment: what is drawn now is this one's table
    let manifest = plan.manifest(&settled);
    if Manifest::read(out)?.as_ref() != Some(&manifest) {
        manifest.write(out)?;
    }
    outcome.cells.all += waiting;
    outcome.cells.open += waiting;
    Ok(outcome)
}

/// What all stages of a grid share.
struct Grid<'a> {
    plan: &'a Plan,
    program: String,
    planned: u64,
    out: &'a Path,
    executor: &'a dyn Executor,
    progress: &'a mut dyn Progress,
}

impl Grid<'_> {
    /// Runs those of `cells` that are not done, with their records in `folder`.
    fn stage(
        &mut self,
        cells: &[Cell],
        folder: &Path,
        later: usize,
        waiting: usize,
    ) -> Result<Count, HarnessError> {
        let store = Store::read(folder)?;
        let mut reasons = BTreeMap::new();
        let (mut open, mut before, mut seen) = (VecDeque::new(), 0, HashSet::new());
        for cell in cells {
            self.complete(cell, &store)?;
            match store.why(self.plan, cell)? {
                None => before += 1,
                // rows of the same settings under two labels are one run
                Some(why) => {
                    if seen.insert(&cell.identity) {
                        *reasons.entry(why).or_insert(0) += 1;
                        open.push_back(cell);
                    }
                }
            }
        }
        let trials = folder.ends_with(TRIALS);
        let stage = Stage { trials, count: cells.len() + waiting, done: before, waiting, reasons, later };
        self.progress.start(&stage);
        let jobs = self.plan.experiment.jobs;
        let running = Running {
            plan: self.plan,
            program: &self.program,
            planned: self.planned,
            out: self.out,
            executor: self.executor,
            progress: Mutex::new(self.progress),
            queue: Mutex::new(Queue { open, elsewhere: VecDeque::new() }),
        };
        let tallies: Vec<Result<Tally, HarnessError>> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(|| running.work())).collect();
            let lost = || Err(HarnessError::Failed("a thread of the grid ended early".to_owned()));
            workers.into_iter().map(|worker| worker.join().unwrap_or_else(|_| lost())).collect()
        });
        let mut count = Count { all: cells.len(), before, ..Count::default() };
        let left = locked(&running.queue);
        count.open = left.open.len() + left.elsewhere.len();
        for tally in tallies {
            let tally = tally?;
            count.failed += tally.failed;
            count.open += tally.stopped;
        }
        Ok(count)
    }

    /// Brings the record of a cell up to what is asked of it as far as that needs no run.
    fn complete(&self, cell: &Cell, store: &Store) -> Result<(), HarnessError> {
        let done = |record: &Record| record.status == Status::Done;
        let Some((path, record)) = store.entry(cell).filter(|(_, record)| done(record)) else {
            return Ok(());
        };
        if rescore::completed(self.plan, cell, path, record)?.is_none() {
            return Ok(());
        }
        // who works on it writes it; and what was read before the claim may be another by now
        let Some(_claim) = Claim::take(self.out, &cell.identity)? else { return Ok(()) };
        let record = Record::read(path)?;
        match rescore::completed(self.plan, cell, path, &record)?.filter(done) {
            Some(completed) => Ok(completed.write(path)?),
            None => Ok(()),
        }
    }
}

/// Cells that are to be run.
struct Queue<'a> {
    open: VecDeque<&'a Cell>,
    /// Another run works on these.
    elsewhere: VecDeque<&'a Cell>,
}

/// What a thread of a stage came to.
#[derive(Default)]
struct Tally {
    failed: usize,
    stopped: usize,
}

/// A stage while it runs: what the threads that wait for cells share.
struct Running<'a, 'p> {
    plan: &'a Plan,
    program: &'a str,
    planned: u64,
    out: &'a Path,
    executor: &'a dyn Executor,
    progress: Mutex<&'p mut dyn Progress>,
    queue: Mutex<Queue<'a>>,
}

/// Milliseconds by which the clock of a file system may be behind.
const COARSE: u64 = 20;

/// How often a run looks after cells that another one works on.
const LOOK: Duration = Duration::from_millis(200);

impl<'a, 'p> Running<'a, 'p> {
    /// Runs cells until none is left.
    fn work(&self) -> Result<Tally, HarnessError> {
        let mut tally = Tally::default();
        while !self.executor.stopped() {
            let next = locked(&self.queue).open.pop_front();
            match next {
                Some(cell) => self.run(cell, &mut tally)?,
                None if self.look_elsewhere(&mut tally)? => {}
                None => break,
            }
        }
        Ok(tally)
    }

    fn run(&self, cell: &'a Cell, tally: &mut Tally) -> Result<(), HarnessError> {
        let job = Job::new(self.plan, cell, self.out, self.program, self.planned);
        self.progress().cell(cell);
        let ended = match &cell.failure {
            Some((status, message)) => Ended::Failed(Failure {
                out_of_memory: *status == Status::OutOfMemory,
                message: message.clone(),
                said: String::new(),
            }),
            None => self.executor.run(&job, &mut |line| self.progress().line(cell, line))?,
        };
        match ended {
            Ended::Well => match job.written() {
                Some(record) => self.finish(cell, &record, tally),
                None => {
                    let message = "its process ended well and left no record".to_owned();
                    self.progress().stopped(cell, &message);
                    tally.stopped += 1;
                }
            },
            Ended::Claimed => locked(&self.queue).elsewhere.push_back(cell),
            Ended::Failed(failure) => match self.record_failure(cell, &job, &failure)? {
                Some(record) => self.finish(cell, &record, tally),
                None => locked(&self.queue).elsewhere.push_back(cell),
            },
            Ended::Stopped(why) => match job.written().filter(|record| record.status == Status::Done) {
                // stopped when all was done
                Some(record) => self.finish(cell, &record, tally),
                None => {
                    tally.stopped += 1;
                    self.progress().stopped(cell, &why);
                }
            },
        }
        Ok(())
    }

    fn finish(&self, cell: &Cell, record: &Record, tally: &mut Tally) {
        tally.failed += usize::from(record.status != Status::Done);
        self.progress().finish(cell, record);
    }

    /// Writes what became of a cell that failed; none where another run has taken it up since.
    fn record_failure(
        &self,
        cell: &Cell,
        job: &Job,
        failure: &Failure,
    ) -> Result<Option<Record>, HarnessError> {
        let Some(_claim) = Claim::take(self.out, &cell.identity)? else { return Ok(None) };
        let path = job.record_path();
        let mut record = empty_record(self.plan, cell, self.program);
        record.status = failure.status();
        record.message.clone_from(&failure.message);
        // one that is done and was to be measured once more stays what it is
        if !Record::read(&path).is_ok_and(|before| before.status == Status::Done) {
            record.write(&path)?;
        }
        if !failure.said.trim().is_empty() {
            peftlab_record::write_atomic(&worker::said_path(&path), failure.said.as_bytes())?;
        }
        Ok(Some(record))
    }

    /// Looks after a cell that another run works on: whether it has ended there, or has been given up and is to be run
    /// here. Whether there are any.
    fn look_elsewhere(&self, tally: &mut Tally) -> Result<bool, HarnessError> {
        let (cell, count) = {
            let mut queue = locked(&self.queue);
            let Some(cell) = queue.elsewhere.pop_front() else { return Ok(false) };
            (cell, queue.elsewhere.len() + 1)
        };
        self.progress().waits(count);
        std::thread::sleep(LOOK);
        let claim = Claim::take(self.out, &cell.identity)?;
        let job = Job::new(self.plan, cell, self.out, self.program, self.planned);
        match (claim, job.written()) {
            (None, _) => locked(&self.queue).elsewhere.push_back(cell),
            (Some(_), Some(record)) => self.finish(cell, &record, tally),
            (Some(_), None) => locked(&self.queue).open.push_back(cell),
        }
        Ok(true)
    }

    fn progress(&self) -> MutexGuard<'_, &'p mut dyn Progress> {
        locked(&self.progress)
    }
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
    }
    let planned = Manifest::read(out)?.map(|manifest| manifest.experiment);
    let other = match planned {
        Some(experiment) => Some((out.join(peftlab_record::MANIFEST), experiment)),
        None => Record::read_all(out)?.into_iter().next().map(|(path, record)| (path, record.experiment)),
    };
    match other.filter(|(_, other)| other != name) {
        None => Ok(()),
        Some((path, other)) => {
            let message =
                format!("is of the experiment `{other}`, not `{name}`; choose another folder with --out");
            Err(HarnessError::input(&path, message))
        }
    }
}

/// A digest of the running program, for whoever looks for what made a record.
///
/// # Errors
/// Where the program cannot read its own file.
fn program_digest() -> Result<String, HarnessError> {
    let path = process::this_program()?;
    let mut digest = Sha256::new();
    let mut program = std::fs::File::open(&path).map_err(|error| HarnessError::read(&path, &error))?;
    let mut chunk = vec![0; 1 << 20];
    loop {
        match program.read(&mut chunk).map_err(|error| HarnessError::read(&path, &error))? {
            0 => break Ok(hex::encode(digest.finalize())),
            read => digest.update(&chunk[..read]),
        }
    }
}
