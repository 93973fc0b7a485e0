use std::path::PathBuf;

use peftlab_metrics::{Metric, Predictions};
use peftlab_record::{
    Look, Memory, Parameters, PlannedMethod, Record, RecordError, Score, Status, Step, Time, read_table,
    steps_path,
};

use super::conditions::Conditions;
use super::costs::Costs;
use super::predictions;
use super::selection::Slot;
use super::task::Task;
use crate::stats::{deviation, mean, median};

/// A method.
#[derive(Default)]
pub(crate) struct Row {
    pub(crate) label: String,
    pub(crate) family: String,
    /// Trained parameters when training ends: the most of any task.
    pub(crate) trained: u64,
    pub(crate) percent: f64,
    /// One for each task.
    pub(crate) cells: Vec<Cell>,
    /// Bytes, the mean over runs.
    pub(crate) peak_memory: Option<f64>,
    /// Bytes allocated before training began, the mean over runs.
    pub(crate) memory_before: Option<f64>,
    /// Median over runs.
    pub(crate) tokens_per_second: Option<f64>,
    /// Seconds, the median over runs of the median step.
    pub(crate) step_seconds: Option<f64>,
    /// Bytes of the base model at rest, the mean over runs.
    pub(crate) base_bytes: Option<f64>,
    /// How the conditions under which its times were measured differ from those of most runs of the table.
    pub(crate) other_conditions: Option<String>,
}

/// A method on a task, over seeds.
#[derive(Default)]
pub(crate) struct Cell {
    /// One for each seed that went well; all are finite.
    pub(crate) scores: Vec<f64>,
    /// Seeds that there should be.
    pub(crate) planned: usize,
    /// Mean over seeds of the error from the finite test set.
    pub(crate) standard_error: Option<f64>,
    /// Whether it cannot be told from the best of the column; none where that was not tested.
    pub(crate) tied: Option<bool>,
    /// Whether it is the best of the column.
    pub(crate) best: bool,
    /// Whether it is the second best of the column.
    pub(crate) second: bool,
    /// What is shown in place of a score, and why.
    pub(crate) failure: Option<(String, String)>,
    /// What it cost.
    pub(crate) costs: Costs,
    /// Its runs, whether they went well or not: places in [`Grid::records`](super::Grid::records).
    pub(crate) runs: Vec<usize>,
    /// Steps of each run that went well.
    pub(crate) losses: Vec<Vec<Step>>,
    /// Looks at the validation set of each run that went well.
    pub(crate) looks: Vec<Vec<Look>>,
    /// Whether the table of a run's predictions is gone, so that nothing can be compared with it.
    pub(crate) lacks_predictions: bool,
    pub(super) predictions: Vec<Predictions>,
}

impl Cell {
    pub(crate) fn mean(&self) -> Option<f64> {
        (!self.scores.is_empty()).then(|| mean(&self.scores))
    }

    pub(crate) fn deviation(&self) -> Option<f64> {
        deviation(&self.scores)
    }

    /// Predictions of all its runs; none where a run has none.
    pub(super) fn predictions(&self) -> Option<&[Predictions]> {
        let all = !self.predictions.is_empty() && self.predictions.len() == self.scores.len();
        all.then_some(&self.predictions)
    }
}

impl Row {
    /// Mean over tasks, in points, where every task has a score in points.
    pub(crate) fn mean(&self, tasks: &[Task]) -> Option<f64> {
        let all = self.cells.iter().zip(tasks);
        let points: Option<Vec<f64>> = all
            .map(|(cell, task)| cell.mean().filter(|_| task.in_points).map(|score| 100.0 * score))
            .collect();
        points.map(|points| mean(&points))
    }

    /// Whether any of its cells ran.
    pub(crate) fn ran(&self) -> bool {
        self.cells.iter().any(|cell| !cell.runs.is_empty())
    }
}

/// What the rows of a table have in common.
pub(super) struct Shared<'a> {
    pub(super) records: &'a [(PathBuf, Record)],
    pub(super) tasks: &'a [Task],
    pub(super) on_device: bool,
    pub(super) usual: Option<&'a Conditions>,
    /// Whether methods are compared, so that predictions are needed.
    pub(super) compared: bool,
}

impl Shared<'_> {
    /// The row of a method with the records in `slots`, one for each task.
    pub(super) fn row(&self, method: &PlannedMethod, slots: &[Slot]) -> Result<Row, RecordError> {
        let runs: Vec<&Record> =
            slots.iter().flat_map(|slot| &slot.runs).map(|run| &self.records[*run].1).collect();
        let largest = runs.iter().map(|record| parameters(record)).max_by_key(|p| p.trained);
        let cells: Result<Vec<Cell>, _> =
            slots.iter().zip(self.tasks).map(|(slot, task)| self.cell(slot, task)).collect();
        let measured = || runs.iter().filter_map(|record| record.measured.as_ref());
        let bytes = |pick: fn(&Memory) -> Option<u64>| {
            let values: Vec<f64> =
                measured().filter_map(|m| pick(&m.memory)).map(|bytes| bytes as f64).collect();
            (!values.is_empty()).then(|| mean(&values))
        };
        let over = |pick: fn(&Time) -> f64| {
            let values: Vec<f64> =
                measured().map(|m| pick(&m.time)).filter(|value| value.is_finite()).collect();
            (!values.is_empty()).then(|| median(&values))
        };
        Ok(Row {
            label: method.label.clone(),
            family: method.family.clone(),
            trained: largest.map_or(0, |p| p.trained),
            percent: largest.map_or(0.0, |p| p.percent),
            cells: cells?,
            peak_memory: match self.on_device {
                true => bytes(|memory| memory.device_process_peak),
                false => bytes(|memory| memory.host_allocated_peak),
            },
            memory_before: if self.on_device { None } else { bytes(|memory| memory.host_allocated_before) },
            tokens_per_second: over(|time| time.tokens_per_second.median),
            step_seconds: over(|time| time.step.median),
            base_bytes: bytes(|memory| memory.base_bytes),
            other_conditions: self.other_conditions(&runs),
        })
    }

    fn other_conditions(&self, runs: &[&Record]) -> Option<String> {
        let usual = self.usual?;
        let mut others: Vec<String> = runs
            .iter()
            .filter(|record| record.measured.is_some())
            .map(|record| Conditions::of(record))
            .filter(|conditions| conditions != usual)
            .map(|conditions| conditions.unlike(usual))
            .collect();
        others.sort();
        others.dedup();
        (!others.is_empty()).then(|| others.join("; "))
    }

    fn cell(&self, slot: &Slot, task: &Task) -> Result<Cell, RecordError> {
        let metric = Metric::parse(&task.metric);
        let mut cell = Cell { planned: slot.planned, runs: slot.runs.clone(), ..Cell::default() };
        let mut errors = Vec::new();
        for run in &slot.runs {
            let (path, record) = &self.records[*run];
            match outcome(record, task) {
                Ok(score) => {
                    cell.scores.push(score.value);
                    errors.extend(score.standard_error);
                    cell.looks.extend(record.measured.as_ref().map(|m| m.training.looks.clone()));
                    cell.losses.push(read_table(&steps_path(path))?.unwrap_or_default());
                    if let (Some(metric), Some(measured)) =
                        (metric.filter(|_| self.compared), &record.measured)
                    {
                        let items =
                            predictions::of_run(path, measured, task.on_validation, metric, score.items)?;
                        cell.lacks_predictions |= items.is_none();
                        cell.predictions.extend(items);
                    }
                }
                Err(failure) => cell.failure = Some(failure),
            }
        }
        if slot.runs.is_empty() {
            cell.failure = Some((NOT_RUN.to_owned(), "there is no record of it".to_owned()));
        }
        cell.costs = Costs::new(
            &slot.runs.iter().map(|run| &self.records[*run].1).collect::<Vec<_>>(),
            self.on_device,
        );
        cell.standard_error = (!errors.is_empty()).then(|| mean(&errors));
        Ok(cell)
    }
}

/// What stands in a cell that has no record.
pub(crate) const NOT_RUN: &str = "not run";

/// The score of a run in the column of `task`, or what is shown in its place and why. A number is a score only where
/// the model's answers were numbers: of NaN an older record may say anything, such as an accuracy.
fn outcome<'r>(record: &'r Record, task: &Task) -> Result<&'r Score, (String, String)> {
    let instead = |short: &str, why: String| Err((short.to_owned(), why));
    let Some(measured) = &record.measured else {
        let short = if record.status == Status::OutOfMemory { "OOM" } else { "failed" };
        return instead(short, record.message.clone());
    };
    if !measured.training.validation_loss_after.is_finite() {
        return instead("diverged", "the validation loss is no finite number".to_owned());
    }
    let (split, metric) = (task.split(), &task.metric);
    let scores = if task.on_validation { &measured.validation } else { &measured.test };
    match scores.iter().find(|score| score.metric == *metric) {
        Some(score) if score.value.is_finite() => Ok(score),
        Some(_) => instead("undefined", format!("{metric} on the {split} set is no finite number")),
        None => instead("-", format!("there is no {metric} on the {split} set")),
    }
}

/// A run's sizes when training ended.
fn parameters(record: &Record) -> &Parameters {
    let end = record.measured.as_ref().and_then(|measured| measured.parameters_end.as_ref());
    end.unwrap_or(&record.parameters)
}
