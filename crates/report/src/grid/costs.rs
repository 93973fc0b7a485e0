//! What a method on a task cost and lost, beside its score; and which of it is worth a column.

use std::collections::BTreeSet;

use peftlab_record::{Measured, Record, Trial};

use crate::stats::{mean, median};

/// Costs of a method on a task, over seeds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Costs {
    /// Peak learning rate; none where no rate could be chosen.
    pub(crate) rate: Option<Rate>,
    /// Seconds: the median over seeds of the median step.
    pub(crate) step_seconds: Option<f64>,
    /// Bytes: the mean over seeds of the peak while training.
    pub(crate) peak_memory: Option<f64>,
    /// Mean validation loss after training.
    pub(crate) loss: Option<f64>,
    /// Mean validation loss after merging, by what was merged into.
    pub(crate) merged: Vec<(String, f64)>,
}

/// A learning rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rate {
    pub(crate) value: f64,
    /// Whether it is the lowest or the highest of those that were tried: a better one may lie outside.
    pub(crate) edge: bool,
}

impl Costs {
    pub(crate) fn new(runs: &[&Record], on_device: bool) -> Self {
        let measured: Vec<&Measured> = runs.iter().filter_map(|record| record.measured.as_ref()).collect();
        // what is no finite number stands for a run that diverged
        let over = |middle: fn(&[f64]) -> f64, mut values: Vec<f64>| {
            values.retain(|value| value.is_finite());
            (!values.is_empty()).then(|| middle(&values))
        };
        let peak = |m: &&Measured| {
            let memory = &m.memory;
            if on_device { memory.device_process_peak } else { memory.host_allocated_peak }
        };
        let merges = || measured.iter().flat_map(|m| &m.merged);
        let mut merged: Vec<(String, f64)> = Vec::new();
        for one in merges() {
            if !merged.iter().any(|(into, _)| *into == one.into) {
                let same = merges().filter(|other| other.into == one.into);
                let losses = over(mean, same.map(|other| other.validation_loss).collect());
                merged.extend(losses.map(|loss| (one.into.clone(), loss)));
            }
        }
        Self {
            rate: rate(runs),
            step_seconds: over(median, measured.iter().map(|m| m.time.step.median).collect()),
            peak_memory: over(mean, measured.iter().filter_map(peak).map(|bytes| bytes as f64).collect()),
            loss: over(mean, measured.iter().map(|m| m.training.validation_loss_after).collect()),
            merged,
        }
    }

    /// Mean validation loss after merging into `into`.
    pub(crate) fn merged_into(&self, into: &str) -> Option<f64> {
        self.merged.iter().find(|(name, _)| name == into).map(|(_, loss)| *loss)
    }
}

/// The rate of the runs of a method on a task; the ones that failed do not know what it was chosen from.
fn rate(runs: &[&Record]) -> Option<Rate> {
    let value = runs.iter().find_map(|record| record.settings["training"]["learning_rate"].as_f64())?;
    let tried: Vec<f64> =
        runs.iter().flat_map(|record| trials(record)).map(|trial| trial.learning_rate).collect();
    let many = tried.iter().any(|rate| *rate != tried[0]);
    let edge = tried.iter().all(|rate| *rate >= value) || tried.iter().all(|rate| *rate <= value);
    Some(Rate { value, edge: many && edge })
}

fn trials(record: &Record) -> impl Iterator<Item = &Trial> {
    record.measured.iter().filter_map(|m| m.training.searched.as_ref()).flatten()
}

/// Columns that not every experiment has.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Extras {
    /// The learning rate: it was searched, or is not everywhere the same.
    pub(crate) rates: bool,
    /// The rates that were tried, ascending, and the seeds of the trials.
    pub(crate) tried: (Vec<f64>, BTreeSet<u64>),
    /// The base's bytes, the loss and the time of a step: bases differ, or methods were merged.
    pub(crate) bases: bool,
    /// What methods were merged into, in the order in which records name it.
    pub(crate) merges: Vec<String>,
    /// Time and memory of each task: they are one task at several sizes.
    pub(crate) by_task: bool,
}

impl Extras {
    /// What the table needs of cells with these `costs`, rows with these `bases` (bytes) and tasks of these `kinds`, all of
    /// which are made of `records`.
    pub(crate) fn new<'a>(
        records: impl Iterator<Item = &'a Record> + Clone,
        costs: impl Iterator<Item = &'a Costs> + Clone,
        mut bases: impl Iterator<Item = f64>,
        kinds: &[&str],
    ) -> Self {
        let mut tried: Vec<f64> = records.clone().flat_map(trials).map(|trial| trial.learning_rate).collect();
        tried.sort_by(f64::total_cmp);
        tried.dedup();
        let seeds = records.flat_map(trials).map(|trial| trial.seed).collect();
        let mut values = costs.clone().filter_map(|costs| costs.rate).map(|rate| rate.value);
        let first = values.next();
        let mut merges: Vec<String> = Vec::new();
        for (into, _) in costs.flat_map(|costs| &costs.merged) {
            if !merges.contains(into) {
                merges.push(into.clone());
            }
        }
        let base = bases.next();
        Self {
            rates: !tried.is_empty() || values.any(|value| Some(value) != first),
            tried: (tried, seeds),
            bases: !merges.is_empty() || bases.any(|bytes| Some(bytes) != base),
            merges,
            by_task: kinds.len() > 1 && kinds.iter().all(|kind| *kind == "causal-lm"),
        }
    }
}
