//! Scores that an experiment asks for and a record does not have, from the predictions beside it: a metric that is added
//! runs nothing again.

use std::path::Path;

use peftlab_record::{
    Measured, Prediction, Record, Score, predictions_path, read_table, validation_predictions_path,
};
use peftlab_tasks::{Metric, Predictions, TaskKind, score};

use crate::error::HarnessError;
use crate::plan::{Cell, Plan};

/// `record`, which is the cell's and lies at `path`, with what is asked of it now and can be had without running it: scores
/// from its predictions, and what its learning rate was chosen from, which may have grown. None where it has all that.
///
/// # Errors
/// Where a table of predictions is none.
pub(crate) fn completed(
    plan: &Plan,
    cell: &Cell,
    path: &Path,
    record: &Record,
) -> Result<Option<Record>, HarnessError> {
    let Some(measured) = &record.measured else { return Ok(None) };
    let mut more = scored(plan, cell, path, measured)?;
    if measured.training.searched != cell.searched {
        more.get_or_insert_with(|| measured.clone()).training.searched.clone_from(&cell.searched);
    }
    Ok(more.map(|measured| Record { measured: Some(measured), ..record.clone() }))
}

/// `measured` with the scores that it lacks, as far as predictions are there; none where it lacks none.
fn scored(
    plan: &Plan,
    cell: &Cell,
    path: &Path,
    measured: &Measured,
) -> Result<Option<Measured>, HarnessError> {
    let data = &plan.data[cell.task_index];
    let has = |metric: &&Metric| measured.validation.iter().any(|score| score.metric == metric.name());
    let lacking: Vec<Metric> = data.metrics.iter().filter(|metric| !has(metric)).copied().collect();
    if lacking.is_empty() || cell.trial {
        return Ok(None);
    }
    let read = |path: &Path, scores: &[Score]| -> Result<Option<Predictions>, HarnessError> {
        let Some(items) = read_table::<Prediction>(path)? else { return Ok(None) };
        let count = scores.first().map_or(0, |score| score.items);
        predictions(data.kind, &items, data.classes.len(), count).map(Some).map_err(|what| {
            HarnessError::input(
                path,
                format!("{what}; delete the record beside it to have its cell run again"),
            )
        })
    };
    let tested = !measured.test.is_empty();
    let validation = match tested {
        true => read(&validation_predictions_path(path), &measured.validation)?,
        false => read(&predictions_path(path), &measured.validation)?,
    };
    let test = if tested { read(&predictions_path(path), &measured.test)? } else { None };
    let Some(validation) = validation.filter(|_| test.is_some() == tested) else { return Ok(None) };
    let one = |metric: &Metric, predictions: &Predictions| {
        let scored = score(*metric, predictions);
        Score {
            metric: metric.name().to_owned(),
            value: scored.value,
            standard_error: scored.standard_error,
            items: predictions.len() as u64,
        }
    };
    let mut measured = measured.clone();
    measured.validation.extend(lacking.iter().map(|metric| one(metric, &validation)));
    measured.test.extend(test.iter().flat_map(|test| lacking.iter().map(move |metric| one(metric, test))));
    Ok(Some(measured))
}

/// A table of predictions in the form that metrics take. It must have `count` rows, and of classes numbers that there are.
fn predictions(
    kind: TaskKind,
    items: &[Prediction],
    classes: usize,
    count: u64,
) -> Result<Predictions, String> {
    if items.len() as u64 != count {
        return Err(format!("has {} rows, and its record speaks of {count}", items.len()));
    }
    let (predicted, expected) = (|item: &Prediction| item.predicted, |item: &Prediction| item.expected);
    let whole = |of: fn(&Prediction) -> f64, below: usize| {
        let number = |item: &Prediction| match of(item) {
            value if value >= 0.0 && value.fract() == 0.0 && value < below as f64 => Ok(value as usize),
            value => {
                Err(format!("row {} has {value}, which is no number of a class or of tokens", item.item + 1))
            }
        };
        items.iter().map(number).collect::<Result<Vec<usize>, String>>()
    };
    Ok(match kind {
        TaskKind::Classification => Predictions::Classes {
            predicted: whole(predicted, classes)?,
            expected: whole(expected, classes)?,
            classes,
        },
        TaskKind::Regression => Predictions::Values {
            predicted: items.iter().map(predicted).collect(),
            expected: items.iter().map(expected).collect(),
        },
        TaskKind::CausalLm | TaskKind::Instruction => Predictions::Tokens {
            sum_loss: items.iter().map(predicted).collect(),
            tokens: whole(expected, usize::MAX)?,
        },
    })
}
