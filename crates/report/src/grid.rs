//! Records, put together as rows and columns.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use peftlab_metrics::{Metric, Predictions};
use peftlab_record::{
    DevicePeakSource, Look, Parameters, Prediction, Record, RecordError, Score, Status, Step,
    predictions_path, read_table, steps_path,
};

use crate::costs::{Costs, Extras};
use crate::marks::{Mark, Marks, marks};
use crate::stats::{deviation, mean, median};

/// All of an experiment's records.
pub(crate) struct Grid {
    /// The experiment's name.
    pub(crate) name: String,
    /// The model's name and size.
    pub(crate) model: String,
    /// Where the runs ran.
    pub(crate) place: String,
    /// Number of seeds.
    pub(crate) seeds: usize,
    /// Columns.
    pub(crate) tasks: Vec<Task>,
    /// Rows, in the experiment's order.
    pub(crate) rows: Vec<Row>,
    /// Whether the memory column is the device's, not the host's.
    pub(crate) on_device: bool,
    /// Whether some of the device's numbers are differences of the whole device's, not the driver's account of the
    /// process.
    pub(crate) by_difference: bool,
    /// What stands in one row or column and was not made alike, in words.
    pub(crate) mixtures: Vec<String>,
    /// Columns that not every experiment has.
    pub(crate) extras: Extras,
    /// All that it is made of, with their files.
    pub(crate) records: Vec<(PathBuf, Record)>,
}

pub(crate) struct Task {
    pub(crate) name: String,
    pub(crate) kind: String,
    /// Tokens at which its examples are cut, or to which they are packed.
    pub(crate) max_length: Option<u64>,
    pub(crate) metric: String,
    pub(crate) higher_is_better: bool,
    pub(crate) in_points: bool,
    /// Whether the scores are of the validation set: some run has none on a test set.
    pub(crate) on_validation: bool,
    /// What is told apart in the column; none before it was marked.
    pub(crate) marks: Option<Marks>,
}

impl Task {
    /// The split that scores are of.
    pub(crate) fn split(&self) -> &'static str {
        if self.on_validation { "validation" } else { "test" }
    }

    /// What a header says of the task.
    pub(crate) fn header(&self) -> String {
        let split = if self.on_validation { ", validation" } else { "" };
        format!("{} ({}{split})", self.name, self.short())
    }

    /// The metric's short name for a header.
    pub(crate) fn short(&self) -> &str {
        match self.metric.as_str() {
            "accuracy" => "acc",
            "pearson" => "r",
            "spearman" => "rho",
            "matthews" => "mcc",
            "perplexity" => "ppl",
            other => other,
        }
    }

    /// A value as it is shown.
    pub(crate) fn shown(&self, value: f64) -> f64 {
        if self.in_points { 100.0 * value } else { value }
    }
}

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
}

/// A method on a task, over seeds.
#[derive(Default)]
pub(crate) struct Cell {
    /// One for each seed that went well; all are finite.
    pub(crate) scores: Vec<f64>,
    /// Mean over seeds of the error from the finite test set.
    pub(crate) standard_error: Option<f64>,
    /// Whether it cannot be told from the best of the column; none where that was not tested.
    pub(crate) tied: Option<bool>,
    /// Whether it is the best of the column.
    pub(crate) best: bool,
    /// What is shown in place of a score, and why.
    pub(crate) failure: Option<(String, String)>,
    /// What it cost.
    pub(crate) costs: Costs,
    /// Its runs, whether they went well or not: places in [`Grid::records`].
    pub(crate) runs: Vec<usize>,
    /// Steps of each run that went well.
    pub(crate) losses: Vec<Vec<Step>>,
    /// Looks at the validation set of each run that went well.
    pub(crate) looks: Vec<Vec<Look>>,
    /// Whether the table of a run's predictions is gone, so that nothing can be compared with it.
    pub(crate) lacks_predictions: bool,
    predictions: Vec<Vec<Prediction>>,
}

impl Cell {
    pub(crate) fn mean(&self) -> Option<f64> {
        (!self.scores.is_empty()).then(|| mean(&self.scores))
    }

    pub(crate) fn deviation(&self) -> Option<f64> {
        deviation(&self.scores)
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
}

impl Grid {
    pub(crate) fn new(records: Vec<(PathBuf, Record)>) -> Result<Self, RecordError> {
        let Some((_, first)) = records.first() else { return Ok(Self::empty()) };
        let mut grid = Self {
            name: first.experiment.clone(),
            model: format!("{} ({})", first.model.name, size(first.parameters.base_total)),
            place: place(first),
            mixtures: mixtures(&records),
            seeds: records.iter().map(|(_, record)| record.seed).collect::<BTreeSet<_>>().len(),
            ..Self::empty()
        };
        let tasks: BTreeMap<usize, &Record> =
            records.iter().map(|(_, record)| (record.task.index, record)).collect();
        let lacks_test = |index: usize| {
            let mut measured = records
                .iter()
                .filter(|(_, record)| record.task.index == index)
                .filter_map(|(_, record)| record.measured.as_ref());
            measured.any(|measured| measured.test.is_empty())
        };
        grid.tasks = tasks.iter().map(|(index, record)| task(record, lacks_test(*index))).collect();
        let columns: Vec<usize> = tasks.keys().copied().collect();
        let mut rows: BTreeMap<usize, Vec<Run<'_>>> = BTreeMap::new();
        for (index, (path, record)) in records.iter().enumerate() {
            rows.entry(record.row).or_default().push(Run { index, path, record });
        }
        let device =
            |record: &Record| record.measured.as_ref().and_then(|m| m.memory.device_process_peak).is_some();
        grid.on_device = records.iter().any(|(_, record)| device(record));
        let source = |record: &Record| record.measured.as_ref().and_then(|m| m.memory.device_peak_source);
        grid.by_difference =
            records.iter().any(|(_, record)| source(record) == Some(DevicePeakSource::Difference));
        for runs in rows.values() {
            let row = row(runs, &columns, &grid.tasks, grid.on_device)?;
            grid.rows.push(row);
        }
        grid.extras = Extras::new(records.iter().map(|(_, record)| record), &grid.tasks, &grid.rows);
        for column in 0..grid.tasks.len() {
            grid.mark(column);
        }
        grid.records = records;
        Ok(grid)
    }

    fn empty() -> Self {
        Self {
            name: String::new(),
            model: String::new(),
            place: String::new(),
            seeds: 0,
            tasks: Vec::new(),
            rows: Vec::new(),
            on_device: false,
            by_difference: false,
            mixtures: Vec::new(),
            extras: Extras::default(),
            records: Vec::new(),
        }
    }

    /// Finds the best of a column, and what cannot be told from it.
    fn mark(&mut self, column: usize) {
        let task = &self.tasks[column];
        let metric = Metric::parse(&task.metric);
        let means: Vec<Option<f64>> = self.rows.iter().map(|row| row.cells[column].mean()).collect();
        let runs: Vec<Option<Vec<Predictions>>> =
            self.rows.iter().map(|row| predictions(&row.cells[column], metric?)).collect();
        let marks = marks(metric, task.higher_is_better, &means, &runs);
        for (row, mark) in self.rows.iter_mut().zip(&marks.marks) {
            let cell = &mut row.cells[column];
            cell.best = *mark == Mark::Best;
            cell.tied = match mark {
                Mark::Tied(_) => Some(true),
                Mark::Different(_) => Some(false),
                Mark::Best | Mark::NotTested => None,
            };
        }
        self.tasks[column].marks = Some(marks);
    }
}

fn place(record: &Record) -> String {
    let environment = &record.environment;
    let threads = match environment.threads {
        1 => "1 thread".to_owned(),
        threads => format!("{threads} threads"),
    };
    let jobs =
        if environment.jobs > 1 { format!(", {} runs at a time", environment.jobs) } else { String::new() };
    format!("{}, {threads}{jobs}, {}", environment.device, record.model.dtype)
}

fn task(record: &Record, on_validation: bool) -> Task {
    Task {
        name: record.task.name.clone(),
        kind: record.task.kind.clone(),
        max_length: record.settings["task"]["max_length"].as_u64(),
        metric: record.task.metric.clone(),
        higher_is_better: record.task.higher_is_better,
        in_points: record.task.in_points,
        on_validation,
        marks: None,
    }
}

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
    let split = task.split();
    match if task.on_validation { &measured.validation } else { &measured.test }.first() {
        Some(score) if score.value.is_finite() => Ok(score),
        Some(score) => {
            instead("undefined", format!("{} on the {split} set is no finite number", score.metric))
        }
        None => instead("-", format!("there is no score on the {split} set")),
    }
}

/// Seeds of a method on a task that differ in more than their seed, and methods on a task whose model or data differ.
/// `bench run` leaves no such records, but a folder may have been put together of others.
fn mixtures(records: &[(PathBuf, Record)]) -> Vec<String> {
    let mut said = Vec::new();
    let mut cells: BTreeMap<(usize, usize), &Record> = BTreeMap::new();
    let mut columns: BTreeMap<usize, &Record> = BTreeMap::new();
    let data = |record: &Record| (record.model.digest.clone(), record.task.digest.clone());
    for (_, record) in records {
        let column = *columns.entry(record.task.index).or_insert(record);
        let cell = *cells.entry((record.row, record.task.index)).or_insert(record);
        let (label, task) = (&record.label, &record.task.name);
        if data(record) != data(column) {
            said.push(format!(
                "not comparable: {label} on {task} has another model or other data than {} there",
                column.label
            ));
        } else if record.settings != cell.settings {
            said.push(format!("not comparable: {label} on {task} has seeds with different settings"));
        }
    }
    said.sort();
    said.dedup();
    said
}

/// A run's sizes when training ended.
fn parameters(record: &Record) -> &Parameters {
    let end = record.measured.as_ref().and_then(|measured| measured.parameters_end.as_ref());
    end.unwrap_or(&record.parameters)
}

/// A record, and its place among all.
struct Run<'r> {
    index: usize,
    path: &'r Path,
    record: &'r Record,
}

fn row(runs: &[Run<'_>], columns: &[usize], tasks: &[Task], on_device: bool) -> Result<Row, RecordError> {
    let first = runs[0].record;
    let largest = runs.iter().map(|run| parameters(run.record)).max_by_key(|p| p.trained);
    let mut cells = Vec::new();
    for (column, task) in columns.iter().zip(tasks) {
        let metric = Metric::parse(&task.metric);
        let mut cell = Cell::default();
        let mut errors = Vec::new();
        let here: Vec<_> = runs.iter().filter(|run| run.record.task.index == *column).collect();
        cell.runs = here.iter().map(|run| run.index).collect();
        cell.costs = Costs::new(&here.iter().map(|run| run.record).collect::<Vec<_>>(), on_device);
        for Run { path, record, .. } in here {
            match outcome(record, task) {
                Ok(score) => {
                    cell.scores.push(score.value);
                    errors.extend(score.standard_error);
                    cell.looks.extend(record.measured.as_ref().map(|m| m.training.looks.clone()));
                    cell.losses.push(read_table(&steps_path(path))?.unwrap_or_default());
                    // the table beside a record is of the test set where there is one
                    if task.on_validation == record.measured.as_ref().is_some_and(|m| m.test.is_empty()) {
                        let items = read_predictions(&predictions_path(path), metric, score.items)?;
                        cell.lacks_predictions |= items.is_none() && metric.is_some();
                        cell.predictions.extend(items);
                    }
                }
                Err(failure) => cell.failure = Some(failure),
            }
        }
        cell.standard_error = (!errors.is_empty()).then(|| mean(&errors));
        cells.push(cell);
    }
    let measured = || runs.iter().filter_map(|run| run.record.measured.as_ref());
    let bytes = |pick: &dyn Fn(&peftlab_record::Memory) -> Option<u64>| {
        let values: Vec<f64> = measured().filter_map(|m| pick(&m.memory)).map(|bytes| bytes as f64).collect();
        (!values.is_empty()).then(|| mean(&values))
    };
    let over = |pick: &dyn Fn(&peftlab_record::Time) -> f64| {
        let values: Vec<f64> = measured().map(|m| pick(&m.time)).filter(|value| value.is_finite()).collect();
        (!values.is_empty()).then(|| median(&values))
    };
    Ok(Row {
        label: first.label.clone(),
        family: first.family.clone(),
        trained: largest.map_or(0, |p| p.trained),
        percent: largest.map_or(0.0, |p| p.percent),
        cells,
        peak_memory: match on_device {
            true => bytes(&|memory| memory.device_process_peak),
            false => bytes(&|memory| memory.host_allocated_peak),
        },
        memory_before: if on_device { None } else { bytes(&|memory| memory.host_allocated_before) },
        tokens_per_second: over(&|time| time.tokens_per_second.median),
        step_seconds: over(&|time| time.step.median),
        base_bytes: bytes(&|memory| memory.base_bytes),
    })
}

/// The table of predictions at `path`; none where there is no such file. Every number in it must be one that `metric`
/// can take, and there must be `count` of them: a comparison that is left out, or made of fewer items, would look like any
/// other.
pub(crate) fn read_predictions(
    path: &Path,
    metric: Option<Metric>,
    count: u64,
) -> Result<Option<Vec<Prediction>>, RecordError> {
    let (Some(items), Some(metric)) = (read_table::<Prediction>(path)?, metric) else { return Ok(None) };
    let refuse = |what: String| {
        let message = format!("{what}; delete the record beside it to have its cell run again");
        Err(RecordError::File { path: path.to_owned(), message })
    };
    if items.len() as u64 != count {
        return refuse(format!("has {} rows, and its record speaks of {count}", items.len()));
    }
    let number = ("a number", f64::is_finite as fn(f64) -> bool);
    let class = ("the number of a class", is_count as fn(f64) -> bool);
    let (predicted, expected) = match metric {
        Metric::Accuracy | Metric::F1 | Metric::MacroF1 | Metric::Matthews => (class, class),
        Metric::Pearson | Metric::Spearman | Metric::Mse => (number, number),
        Metric::Perplexity | Metric::Loss => (number, ("a number of tokens", is_count as fn(f64) -> bool)),
    };
    for (row, item) in items.iter().enumerate() {
        let fields = [("predicted", item.predicted, predicted), ("expected", item.expected, expected)];
        if let Some((field, value, (what, _))) = fields.iter().find(|(_, value, (_, holds))| !holds(*value)) {
            let row = row + 1;
            return refuse(format!("{field} in row {row} is {value} and not {what}"));
        }
    }
    Ok(Some(items))
}

fn is_count(value: f64) -> bool {
    value >= 0.0 && value.fract() == 0.0
}

/// Predictions of a cell's runs in the form that a metric takes; none where a run has none.
fn predictions(cell: &Cell, metric: Metric) -> Option<Vec<Predictions>> {
    if cell.predictions.is_empty() || cell.predictions.len() != cell.scores.len() {
        return None;
    }
    Some(cell.predictions.iter().map(|items| of_items(items, metric)).collect())
}

/// The predictions of one run in the form that a metric takes.
pub(crate) fn of_items(items: &[Prediction], metric: Metric) -> Predictions {
    let predicted = || items.iter().map(|item| item.predicted);
    let expected = || items.iter().map(|item| item.expected);
    match metric {
        Metric::Accuracy | Metric::F1 | Metric::MacroF1 | Metric::Matthews => {
            let predicted: Vec<usize> = predicted().map(|class| class as usize).collect();
            let expected: Vec<usize> = expected().map(|class| class as usize).collect();
            // as many classes as there are numbers of them, whatever these are: 0 and 1 stay themselves for F1
            let known: BTreeSet<usize> = predicted.iter().chain(&expected).copied().chain([0, 1]).collect();
            let place: BTreeMap<usize, usize> =
                known.into_iter().enumerate().map(|(place, class)| (class, place)).collect();
            let dense = |classes: Vec<usize>| classes.iter().map(|class| place[class]).collect();
            Predictions::Classes {
                predicted: dense(predicted),
                expected: dense(expected),
                classes: place.len(),
            }
        }
        Metric::Pearson | Metric::Spearman | Metric::Mse => {
            Predictions::Values { predicted: predicted().collect(), expected: expected().collect() }
        }
        Metric::Perplexity | Metric::Loss => Predictions::Tokens {
            sum_loss: predicted().collect(),
            tokens: expected().map(|tokens| tokens as usize).collect(),
        },
    }
}

/// A number of parameters, short: `4.39 M`.
pub(crate) fn size(parameters: u64) -> String {
    let value = parameters as f64;
    match parameters {
        0..1_000 => parameters.to_string(),
        1_000..1_000_000 => format!("{:.2} k", value / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} M", value / 1e6),
        _ => format!("{:.2} G", value / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_that_were_not_made_alike_are_told() {
        let made = |row: usize, seed: u64, rate: f64| {
            let made = crate::made::Made { row, seed, rate, ..Default::default() };
            (PathBuf::from("nowhere.json"), made.record())
        };
        assert!(mixtures(&[made(0, 0, 1e-3), made(0, 1, 1e-3), made(1, 0, 1e-2)]).is_empty());
        let told = mixtures(&[made(0, 0, 1e-3), made(0, 1, 1e-2), made(0, 2, 1e-2)]);
        assert!(told.len() == 1 && told[0].contains("seeds with different settings"), "{told:?}");
        let mut other = made(1, 0, 1e-3);
        other.1.task.digest = "other".to_owned();
        let told = mixtures(&[made(0, 0, 1e-3), other]);
        assert!(told.len() == 1 && told[0].contains("other data than method 0"), "{told:?}");
    }

    #[test]
    fn a_prediction_that_is_no_class_is_refused_with_its_row() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.predictions.csv");
        let read = |last: &str, metric| {
            std::fs::write(&path, format!("item,predicted,expected,loss\n0,1.0,0.0,0.5\n1,{last},0.5\n"))
                .unwrap();
            read_predictions(&path, Some(metric), 2).map_err(|error| error.to_string())
        };
        for last in ["-1.0,0.0", "0.5,0.0", "1.0,NaN", "1.0,inf"] {
            let message = read(last, Metric::Accuracy).unwrap_err();
            assert!(message.contains("row 2") && message.contains("run.predictions.csv"), "{message}");
        }
        assert!(read_predictions(&path, Some(Metric::Accuracy), 3).is_err());
        assert!(read("-1.0,0.0", Metric::Accuracy).unwrap_err().contains("predicted"));
        assert!(read("-1.5,0.5", Metric::Pearson).unwrap().is_some());
        assert!(read("NaN,0.5", Metric::Mse).is_err());
        assert!(read("3.5,0.5", Metric::Loss).unwrap_err().contains("expected"));
    }
}
