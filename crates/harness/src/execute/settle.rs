//! The search for a learning rate: one trial for each rate, method and task, and the choice among them. It looks
//! at validation alone; what is tested is chosen before the test set is read.

use std::collections::HashMap;

use peftlab_record::{Measured, Record, Status, Trial};
use peftlab_tasks::Metric;

use super::store::{Store, lacks};
use crate::plan::{Cell, Plan};

/// What the trials of a method on a task came to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Choice {
    /// The rate to run every seed with.
    Rate(f64),
    /// None can be used: how their cells end, and why.
    Impossible(Status, String),
}

/// The cells of `plan` with the rates that the records of its trials speak for. A cell whose trials have not all been
/// run is left out: a choice needs all of them. Without a search these are the plan's cells.
pub(crate) fn settled(plan: &Plan, records: &Store) -> Vec<Cell> {
    if plan.trials.is_empty() {
        return plan.cells.clone();
    }
    let mut trials: HashMap<(usize, usize), Vec<&Cell>> = HashMap::new();
    for trial in &plan.trials {
        trials.entry((trial.row, trial.task_index)).or_default().push(trial);
    }
    let settle = |cell: &Cell| {
        let metric = plan.data[cell.task_index].metrics[0];
        let trials = trials.get(&(cell.row, cell.task_index)).into_iter().flatten();
        let record = |trial: &&Cell| {
            let record = records.find(trial).filter(|record| lacks(plan, trial, record).is_none())?;
            Some((trial.training.learning_rate, record))
        };
        let done: Vec<(f64, &Record)> = trials.map(record).collect::<Option<_>>()?;
        let mut cell =
            Cell { searched: Some(done.iter().map(|one| trial(metric, one)).collect()), ..cell.clone() };
        match choose(metric, &done) {
            Choice::Rate(rate) => cell.set_rate(rate),
            Choice::Impossible(status, message) => cell.failure = Some((status, message)),
        }
        Some(cell)
    };
    plan.cells.iter().filter_map(settle).collect()
}

/// The best of the trials of a method on a task, given with their rates: by `metric` on validation; by the
/// validation loss where metrics are equal or no numbers; the earlier in the grid where that is equal, too.
pub(crate) fn choose(metric: Metric, trials: &[(f64, &Record)]) -> Choice {
    let mut best: Option<(f64, (f64, f64))> = None;
    for (rate, record) in trials {
        let Some(worth) = worth(metric, record) else { continue };
        if best.is_none_or(|(_, best)| worth.0 > best.0 || (worth.0 == best.0 && worth.1 > best.1)) {
            best = Some((*rate, worth));
        }
    }
    match (best, trials.first()) {
        (Some((rate, _)), _) => Choice::Rate(rate),
        (None, first) => {
            let memory = trials.iter().all(|(_, record)| record.status == Status::OutOfMemory);
            let status = if memory { Status::OutOfMemory } else { Status::Failed };
            let why =
                first.map_or(String::new(), |(rate, record)| format!("; {rate:e}: {}", message(record)));
            Choice::Impossible(status, format!("every trial of the search for a learning rate failed{why}"))
        }
    }
}

/// Metric and loss on validation so that more is better; none of a trial that failed or diverged.
fn worth(metric: Metric, record: &Record) -> Option<(f64, f64)> {
    let measured = usable(record)?;
    let sign = if metric.higher_is_better() { 1.0 } else { -1.0 };
    let value = validated(metric, measured).map_or(f64::NEG_INFINITY, |value| sign * value);
    Some((value, -measured.training.validation_loss_after))
}

/// What was measured, if training ended well and with numbers: a metric such as accuracy is one even of NaN.
fn usable(record: &Record) -> Option<&Measured> {
    let measured = record.measured.as_ref().filter(|_| record.status == Status::Done)?;
    measured.training.validation_loss_after.is_finite().then_some(measured)
}

/// The metric on validation, where it is a number.
fn validated(metric: Metric, measured: &Measured) -> Option<f64> {
    let score = measured.validation.iter().find(|score| score.metric == metric.name())?;
    Some(score.value).filter(|value| value.is_finite())
}

fn message(record: &Record) -> &str {
    match record.status {
        Status::Done => "the validation loss is not a number: training diverged; give lower rates",
        Status::Failed | Status::OutOfMemory => &record.message,
    }
}

fn trial(metric: Metric, (rate, record): &(f64, &Record)) -> Trial {
    let measured = usable(record);
    Trial {
        learning_rate: *rate,
        seed: record.seed,
        validation: measured.and_then(|measured| validated(metric, measured)),
        validation_loss: measured.map(|measured| measured.training.validation_loss_after),
    }
}

#[cfg(test)]
#[path = "settle_tests.rs"]
mod tests;
