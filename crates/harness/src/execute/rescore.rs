//! Scores that an experiment asks for and a record does not have, from the predictions beside it: a metric that is added
//! runs nothing again.

use std::path::Path;

use peftlab_record::{Prediction, Record, Score, predictions_path, read_table, validation_predictions_path};
use peftlab_tasks::{Metric, Predictions, TaskKind, score};

use crate::error::HarnessError;
use crate::plan::{Cell, Plan};

/// Adds to the record at `path` what of the cell's metrics it lacks, as far as predictions are there. Gives the record if
/// that changed it.
pub(crate) fn add_scores(
    plan: &Plan,
    cell: &Cell,
    path: &Path,
    record: &Record,
) -> Result<Option<Record>, HarnessError> {
    let Some(measured) = &record.measured else { return Ok(None) };
    let data = &plan.data[cell.task_index];
    let lacking = |scores: &[Score]| -> Vec<Metric> {
        let has = |metric: &&Metric| scores.iter().any(|score| score.metric == metric.name());
        data.metrics.iter().filter(|metric| !has(metric)).copied().collect()
    };
    let wanted = lacking(&measured.validation);
    if wanted.is_empty() || cell.trial {
        return Ok(None);
    }
    let tested = !measured.test.is_empty();
    let validation_path = if tested { validation_predictions_path(path) } else { predictions_path(path) };
    let Some(validation) = read_table::<Prediction>(&validation_path)? else { return Ok(None) };
    let test = if tested { read_table::<Prediction>(&predictions_path(path))? } else { Some(Vec::new()) };
    let Some(test) = test else { return Ok(None) };
    let scored = |items: &[Prediction], metric: &Metric| {
        let scored = score(*metric, &predictions(data.kind, items, data.classes.len()));
        Score {
            metric: metric.name().to_owned(),
            value: scored.value,
            standard_error: scored.standard_error,
            items: items.len() as u64,
        }
    };
    let mut measured = measured.clone();
    measured.validation.extend(wanted.iter().map(|metric| scored(&validation, metric)));
    if tested {
        measured.test.extend(wanted.iter().map(|metric| scored(&test, metric)));
    }
    Ok(Some(Record { measured: Some(measured), ..record.clone() }))
}

/// A table of predictions in the form that metrics take.
fn predictions(kind: TaskKind, items: &[Prediction], classes: usize) -> Predictions {
    let (predicted, expected) =
        (items.iter().map(|item| item.predicted), items.iter().map(|item| item.expected));
    match kind {
        TaskKind::Classification => Predictions::Classes {
            predicted: predicted.map(|class| class as usize).collect(),
            expected: expected.map(|class| class as usize).collect(),
            classes,
        },
        TaskKind::Regression => {
            Predictions::Values { predicted: predicted.collect(), expected: expected.collect() }
        }
        TaskKind::CausalLm | TaskKind::Instruction => Predictions::Tokens {
            sum_loss: predicted.collect(),
            tokens: expected.map(|tokens| tokens as usize).collect(),
        },
    }
}
