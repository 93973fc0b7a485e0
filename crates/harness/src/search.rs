//! The search for a learning rate: one trial for each rate, method and task, and the choice among them. It looks
//! at validation alone; what is tested is chosen before the test set is read.

use std::collections::HashMap;
use std::path::Path;

use peftlab_record::{Measured, Record, Status, TRIALS, Trial};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::HarnessError;
use crate::plan::{Cell, Plan};

/// `[search]`: the learning rate is searched, for every method and task with the same number of trials. A trial is a
/// whole training that does not read the test set; the rate with the best main metric on validation runs every seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SearchSpec {
    /// The grid: peak learning rates to try, each above 0. They replace those of `[training]` and of the methods.
    pub learning_rate: Vec<f64>,
    /// Seed of the trials; without it the first of `seeds`.
    pub seed: Option<u64>,
}

impl SearchSpec {
    /// What no single setting shows.
    ///
    /// # Errors
    /// What is wrong with the grid, with the remedy.
    pub fn check(&self) -> Result<(), String> {
        let rates = &self.learning_rate;
        if rates.is_empty() {
            return Err("learning_rate is empty; give rates to try, such as [1e-3, 3e-3]".to_owned());
        }
        if let Some(rate) = rates.iter().find(|rate| !(rate.is_finite() && **rate > 0.0)) {
            return Err(format!("learning_rate has {rate}; every rate must be above 0"));
        }
        let twice = rates.iter().enumerate().find(|(i, rate)| rates[..*i].contains(rate));
        match twice {
            Some((_, rate)) => Err(format!("learning_rate has {rate:e} twice; give every rate once")),
            None => Ok(()),
        }
    }
}

/// What the trials of a method on a task came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Choice {
    /// The rate to run every seed with.
    Rate(f64),
    /// None can be used: how their cells end, and why.
    Impossible(Status, String),
}

/// The cells of `plan` with the rates that the trials in the results folder `out` speak for. A cell whose trials
/// have not all been run is left out. Without a search these are the plan's cells.
///
/// # Errors
/// Where a trial's record cannot be read.
pub fn settled(plan: &Plan, out: &Path) -> Result<Vec<Cell>, HarnessError> {
    if plan.trials.is_empty() {
        return Ok(plan.cells.clone());
    }
    let mut records = HashMap::new();
    for (_, record) in Record::read_folder(&out.join(TRIALS))? {
        records.insert(record.identity.clone(), record);
    }
    let mut trials: HashMap<(usize, usize), Vec<&Cell>> = HashMap::new();
    for trial in &plan.trials {
        trials.entry((trial.row, trial.task_index)).or_default().push(trial);
    }
    let mut cells = Vec::new();
    for cell in &plan.cells {
        let trials = trials.get(&(cell.row, cell.task_index)).into_iter().flatten();
        let done: Option<Vec<(f64, &Record)>> =
            trials.map(|trial| Some((trial.training.learning_rate, records.get(&trial.identity)?))).collect();
        if let Some(done) = done {
            cells.push(plan.settle(cell, choose(&done), done.iter().map(trial).collect()));
        }
    }
    Ok(cells)
}

/// The best of the trials of a method on a task, given with their rates: by the main metric on validation; by the
/// validation loss where metrics are equal or no numbers; the earlier in the grid where that is equal, too.
pub fn choose(trials: &[(f64, &Record)]) -> Choice {
    let mut best: Option<(f64, (f64, f64))> = None;
    for (rate, record) in trials {
        let Some(worth) = worth(record) else { continue };
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
fn worth(record: &Record) -> Option<(f64, f64)> {
    let measured = usable(record)?;
    let metric =
        main_metric(measured).map_or(f64::NEG_INFINITY, |value| match record.task.higher_is_better {
            true => value,
            false => -value,
        });
    Some((metric, -measured.training.validation_loss_after))
}

/// What was measured, if training ended well and with numbers: a metric such as accuracy is one even of NaN.
fn usable(record: &Record) -> Option<&Measured> {
    let measured = record.measured.as_ref().filter(|_| record.status == Status::Done)?;
    measured.training.validation_loss_after.is_finite().then_some(measured)
}

fn main_metric(measured: &Measured) -> Option<f64> {
    measured.validation.first().map(|score| score.value).filter(|value| value.is_finite())
}

fn message(record: &Record) -> &str {
    match record.status {
        Status::Done => "the validation loss is not a number: training diverged; give lower rates",
        Status::Failed | Status::OutOfMemory => &record.message,
    }
}

fn trial((rate, record): &(f64, &Record)) -> Trial {
    let measured = usable(record);
    Trial {
        learning_rate: *rate,
        seed: record.seed,
        validation: measured.and_then(main_metric),
        validation_loss: measured.map(|measured| measured.training.validation_loss_after),
    }
}

#[cfg(test)]
mod tests;
