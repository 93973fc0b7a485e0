//! Predictions of runs, for comparisons.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use peftlab_metrics::{Metric, Predictions};
use peftlab_record::{Measured, RecordError, predictions_path, read_columns, validation_predictions_path};

/// The predictions of the run whose record is at `path` on the validation set, or on the test set, of which it has one;
/// none where there is no such table.
pub(crate) fn of_run(
    path: &Path,
    measured: &Measured,
    on_validation: bool,
    metric: Metric,
    count: u64,
) -> Result<Option<Predictions>, RecordError> {
    // the first table is of the test set where there is one
    match on_validation && !measured.test.is_empty() {
        true => read(&validation_predictions_path(path), metric, count),
        false => read(&predictions_path(path), metric, count),
    }
}

/// The table of predictions at `path` in the form that `metric` takes; none where there is no such file. Every number in it
/// must be one that `metric` can take, and there must be `count` of them: a comparison that is left out, or made of fewer
/// items, would look like any other.
fn read(path: &Path, metric: Metric, count: u64) -> Result<Option<Predictions>, RecordError> {
    let Some([predicted, expected]) = read_columns(path, ["predicted", "expected"])? else { return Ok(None) };
    let refuse = |what: String| {
        let message = format!("{what}; delete the record beside it to have its cell run again");
        Err(RecordError::File { path: path.to_owned(), message })
    };
    if predicted.len() as u64 != count {
        return refuse(format!("has {} rows, and its record speaks of {count}", predicted.len()));
    }
    let number: (&str, fn(f64) -> bool) = ("a number", f64::is_finite);
    let class: (&str, fn(f64) -> bool) = ("the number of a class", is_count);
    let (of_predicted, of_expected) = match metric {
        Metric::Accuracy | Metric::F1 | Metric::MacroF1 | Metric::Matthews => (class, class),
        Metric::Pearson | Metric::Spearman | Metric::Mse => (number, number),
        Metric::Perplexity | Metric::Loss => (number, ("a number of tokens", is_count as fn(f64) -> bool)),
    };
    let fields = [("predicted", &predicted, of_predicted), ("expected", &expected, of_expected)];
    for (field, values, (what, holds)) in fields {
        if let Some(row) = values.iter().position(|value| !holds(*value)) {
            return refuse(format!("{field} in row {} is {} and not {what}", row + 1, values[row]));
        }
    }
    Ok(Some(match metric {
        Metric::Accuracy | Metric::F1 | Metric::MacroF1 | Metric::Matthews => classes(&predicted, &expected),
        Metric::Pearson | Metric::Spearman | Metric::Mse => Predictions::Values { predicted, expected },
        Metric::Perplexity | Metric::Loss => Predictions::Tokens {
            sum_loss: predicted,
            tokens: expected.into_iter().map(|tokens| tokens as usize).collect(),
        },
    }))
}

fn is_count(value: f64) -> bool {
    value >= 0.0 && value.fract() == 0.0
}

/// As many classes as there are numbers of them, whatever these are: 0 and 1 stay themselves for F1.
fn classes(predicted: &[f64], expected: &[f64]) -> Predictions {
    let all = predicted.iter().chain(expected).map(|class| *class as usize);
    let known: BTreeSet<usize> = all.chain([0, 1]).collect();
    let place: BTreeMap<usize, usize> =
        known.into_iter().enumerate().map(|(place, class)| (class, place)).collect();
    let dense = |classes: &[f64]| classes.iter().map(|class| place[&(*class as usize)]).collect();
    Predictions::Classes { predicted: dense(predicted), expected: dense(expected), classes: place.len() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prediction_that_is_no_class_is_refused_with_its_row() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.predictions.csv");
        let refused = |last: &str, metric, count| {
            std::fs::write(&path, format!("item,predicted,expected,loss\n0,1.0,0.0,0.5\n1,{last},0.5\n"))
                .unwrap();
            read(&path, metric, count).map_err(|error| error.to_string())
        };
        for last in ["-1.0,0.0", "0.5,0.0", "1.0,NaN", "1.0,inf"] {
            let message = refused(last, Metric::Accuracy, 2).unwrap_err();
            assert!(message.contains("row 2") && message.contains("run.predictions.csv"), "{message}");
        }
        assert!(refused("1.0,0.0", Metric::Accuracy, 3).unwrap_err().contains("has 2 rows"));
        assert!(refused("-1.0,0.0", Metric::Accuracy, 2).unwrap_err().contains("predicted"));
        assert!(refused("-1.5,0.5", Metric::Pearson, 2).unwrap().is_some());
        assert!(refused("NaN,0.5", Metric::Mse, 2).is_err());
        assert!(refused("3.5,0.5", Metric::Loss, 2).unwrap_err().contains("expected"));
        assert!(refused("x,0.5", Metric::Loss, 2).unwrap_err().contains("row 2"));
        assert!(read(&dir.path().join("none.csv"), Metric::Mse, 2).unwrap().is_none());
    }

    #[test]
    fn classes_of_any_numbers_are_counted() {
        let Predictions::Classes { predicted, expected, classes } = classes(&[7.0, 1e9], &[0.0, 7.0]) else {
            panic!("classes are asked for");
        };
        assert_eq!((predicted, expected, classes), (vec![2, 3], vec![0, 2], 4));
    }
}
