//! How long a run will take.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use peftlab_harness::device::OpenDevice;
use peftlab_harness::execute::{Line, Processes, Progress, Stage, Wanted, run_grid};
use peftlab_harness::plan::{Cell, Plan};
use peftlab_harness::{Keep, TrainingSpec};
use peftlab_record::{Measured, RUNS, Record, Status, TRIALS};
use peftlab_tasks::TaskData;
use serde_json::Value;

use super::states::States;
use crate::format::counted;
use crate::run::stop_at_signals;
use crate::say;

/// Steps of which a time is taken.
const STEPS: usize = 6;
/// Those of them that are not counted, for the first are slower.
const WARMUP: usize = 2;
/// Records that a row's time is the mean of.
const RECORDS: usize = 8;

/// What runs of a row on a task take.
#[derive(Clone, Copy, Debug, Default)]
struct Time {
    /// Loading and evaluating, in seconds.
    fixed: f64,
    /// An optimizer step, in seconds.
    step: f64,
}

/// What cells take, by row and task, and of trials apart.
pub(super) struct Times {
    of: HashMap<(bool, usize, usize), Time>,
    /// What they are made of.
    pub(super) source: String,
}

impl Times {
    /// From the records of the results folder `out` that are of the same rows: those that differ from a cell in no more than
    /// its seed, its learning rate and the number of its steps, and were made on the same device.
    pub(super) fn of_records(plan: &Plan, states: &States, out: &Path) -> Result<Self> {
        let mut times = Self { of: HashMap::new(), source: String::new() };
        let mut open: HashMap<(bool, usize, usize), &Cell> = HashMap::new();
        for cell in states.open() {
            open.entry((cell.trial, cell.row, cell.task_index)).or_insert(cell);
        }
        if open.is_empty() {
            return Ok(times);
        }
        let mut records = Record::read_all(out)?;
        records.extend(Record::read_folder(&out.join(TRIALS))?);
        let mut by_data: HashMap<(&str, &str), Vec<&Record>> = HashMap::new();
        let usable = |record: &&Record| {
            let here = record.environment.device == plan.device.describe();
            here && record.environment.jobs == plan.experiment.jobs as u64 && record.status == Status::Done
        };
        for record in records.iter().map(|(_, record)| record).filter(usable) {
            by_data.entry((&record.method, &record.task.digest)).or_default().push(record);
        }
        let mut used = BTreeSet::new();
        for (place, cell) in open {
            let digest = plan.data[cell.task_index].digest.as_str();
            let near = by_data.get(&(cell.method.as_str(), digest)).into_iter().flatten();
            let near = near.filter(|record| alike(&record.inputs, &cell.inputs)).take(RECORDS);
            let found: Vec<(&Record, Time)> =
                near.filter_map(|record| Some((*record, Time::of(record.measured.as_ref()?)?))).collect();
            if let Some(time) = Time::mean(found.iter().map(|(_, time)| *time)) {
                used.extend(found.iter().map(|(record, _)| record.identity.as_str()));
                times.of.insert(place, time);
            }
        }
        times.source = format!("{} of the same rows", counted(used.len(), "record"));
        Ok(times)
    }

    /// From some steps of every row that has something to run, on every task.
    pub(super) fn measured(plan: &Plan, states: &States) -> Result<Self> {
        let mut times =
            Self { of: HashMap::new(), source: format!("{STEPS} steps of each row on each task") };
        let rows: BTreeSet<usize> = states.open().map(|cell| cell.row).collect();
        if rows.is_empty() {
            return Ok(times);
        }
        let mut experiment = plan.experiment.clone();
        let mut row = 0..;
        experiment.methods.retain(|_| row.next().is_some_and(|row| rows.contains(&row)));
        experiment.seeds.truncate(1);
        experiment.search = None;
        experiment.methods.iter_mut().for_each(|method| method.training = short(&method.training));
        experiment.training = short(&experiment.training);
        let device = OpenDevice::named(&experiment.device)?;
        let few = Plan::new(experiment, device)?;
        say(format!("timing {STEPS} steps of {} ..", counted(few.cells.len(), "cell")));
        let dir = tempfile::tempdir().context("no temporary folder can be made")?;
        let executor = Arc::new(Processes::new()?);
        stop_at_signals(&executor)?;
        run_grid(&few, dir.path(), &Wanted::default(), &*executor, &mut OnlyFailures)?;
        for (_, record) in Record::read_folder(&dir.path().join(RUNS))? {
            let row = plan.experiment.methods.iter().position(|method| method.label == record.label);
            let task = plan.experiment.tasks.iter().position(|task| task.name == record.task.name);
            let (Some(row), Some(task), Some(measured)) = (row, task, &record.measured) else { continue };
            let data = &plan.data[task];
            let one = measured.time.evaluate * share_of_validation(data, measured);
            let every = plan.experiment.methods[row].training.evaluate_every;
            for trial in [false, true] {
                let step = measured.time.step.median + every.map_or(0.0, |every| one / every as f64);
                let fixed = measured.time.load + measured.time.evaluate;
                times.of.insert((trial, row, task), Time { fixed, step });
            }
        }
        Ok(times)
    }

    /// What `cell` takes, in seconds.
    pub(super) fn of(&self, cell: &Cell) -> Option<f64> {
        let time = |trial| self.of.get(&(trial, cell.row, cell.task_index));
        let time = time(cell.trial).or_else(|| time(!cell.trial))?;
        Some(time.fixed + time.step * cell.steps as f64)
    }

    /// What all cells take that are to be run and have a time, one after the other in seconds, and how many have none.
    pub(super) fn total(&self, states: &States) -> (Option<f64>, usize) {
        let (mut total, mut without) = (None, 0);
        for cell in states.open() {
            match self.of(cell) {
                Some(time) => total = Some(total.unwrap_or(0.0) + time),
                None => without += 1,
            }
        }
        (total, without)
    }
}

impl Time {
    fn of(measured: &Measured) -> Option<Self> {
        let steps = measured.training.steps;
        let step = (steps > 0).then(|| measured.time.train / steps as f64)?;
        Some(Self { fixed: measured.time.load + measured.time.evaluate, step })
    }

    fn mean(times: impl Iterator<Item = Self>) -> Option<Self> {
        let (mut sum, mut count) = (Self::default(), 0.0);
        for time in times {
            sum = Self { fixed: sum.fixed + time.fixed, step: sum.step + time.step };
            count += 1.0;
        }
        (count > 0.0).then(|| Self { fixed: sum.fixed / count, step: sum.step / count })
    }
}

/// `training` for a few steps that are looked at in no way but with the clock.
fn short(training: &TrainingSpec) -> TrainingSpec {
    TrainingSpec {
        epochs: None,
        steps: Some(STEPS),
        evaluate_every: None,
        patience: None,
        keep: Keep::Best,
        timing_warmup_steps: WARMUP,
        profile_kernels: false,
        ..training.clone()
    }
}

/// The share of all evaluations of a run without looks that one look at the validation set takes, by tokens.
fn share_of_validation(data: &TaskData, measured: &Measured) -> f64 {
    let tokens = |name: &str| {
        data.splits.iter().filter(|split| split.name == name).map(|split| split.tokens).sum::<u64>() as f64
    };
    let looks = 1 + usize::from(measured.training.validation_loss_before.is_some()) + measured.merged.len();
    let all = looks as f64 * tokens("validation") + tokens("test");
    if all > 0.0 { tokens("validation") / all } else { 0.0 }
}

/// Whether what decided two runs differs in no more than what a step's time does not depend on.
fn alike(one: &Value, other: &Value) -> bool {
    let without = |value: &Value, path: &str, keys: &[&str]| {
        let mut table =
            if path.is_empty() { value } else { &value[path] }.as_object().cloned().unwrap_or_default();
        table.retain(|key, _| !keys.contains(&key.as_str()));
        table
    };
    let same = |path: &str, keys: &[&str]| without(one, path, keys) == without(other, path, keys);
    let (deep, rates) = (["seed", "trial", "training", "numerics"], ["learning_rate", "steps"]);
    same("training", &rates) && same("", &deep)
}

/// Says which cells failed, and nothing else.
struct OnlyFailures;

impl Progress for OnlyFailures {
    fn start(&mut self, _: &Stage) {}

    fn cell(&mut self, _: &Cell) {}

    fn line(&mut self, _: &Cell, _: &Line) {}

    fn finish(&mut self, cell: &Cell, record: &Record) {
        if record.status != Status::Done {
            say(format!("warning: {} on {} failed: {}", cell.label, cell.task, record.message));
        }
    }

    fn stopped(&mut self, cell: &Cell, why: &str) {
        say(format!("warning: {} on {} was stopped: {why}", cell.label, cell.task));
    }

    fn waits(&mut self, _: usize) {}
}
