use peftlab_record::{Checks, Memory, Score, Time, Training};
use serde_json::json;

use super::*;

/// A trial's record with the given validation metric and loss; a failed one without them.
fn record(metric: Metric, measured: Option<(f64, f64)>) -> Record {
    let (memory, time) = (Memory::default(), Time::default());
    let measured = measured.map(|(value, validation_loss_after)| Measured {
        training: Training { validation_loss_after, ..Training::default() },
        validation: vec![Score { metric: metric.name().to_owned(), value, standard_error: None, items: 1 }],
        test: Vec::new(),
        merged: Vec::new(),
        kernels: None,
        time,
        memory,
        checks: Checks::default(),
        parameters_end: None,
        weights_digest: String::new(),
        losses_digest: String::new(),
    });
    let text = String::new;
    let mut record: Record = serde_json::from_value(json!({
        "schema": 1, "experiment": "e", "identity": "i", "row": 0, "label": "l", "method": "m", "family": "f",
        "seed": 5,
        "task": { "name": "t", "kind": "k", "metric": metric.name(), "higher_is_better": metric.higher_is_better(),
            "in_points": true, "index": 0, "digest": text() },
        "model": { "name": text(), "architecture": text(), "source": text(), "digest": text(), "dtype": text() },
        "status": if measured.is_some() { "done" } else { "failed" },
        "message": if measured.is_some() { "" } else { "the loss became NaN" },
        "parameters": peftlab_record::Parameters::default(),
        "settings": null,
        "measured": null,
        "environment": peftlab_record::Environment::default(),
    }))
    .unwrap();
    // not through JSON, which knows no NaN
    record.measured = measured;
    record
}

fn chosen(metric: Metric, trials: &[(f64, Option<(f64, f64)>)]) -> Choice {
    let records: Vec<(f64, Record)> =
        trials.iter().map(|(rate, measured)| (*rate, record(metric, *measured))).collect();
    choose(metric, &records.iter().map(|(rate, record)| (*rate, record)).collect::<Vec<_>>())
}

#[test]
fn the_best_metric_on_validation_is_taken() {
    let trials = [(1e-3, Some((0.7, 0.5))), (3e-3, Some((0.8, 0.6))), (1e-2, Some((0.75, 0.4)))];
    assert_eq!(chosen(Metric::Accuracy, &trials), Choice::Rate(3e-3));
    assert_eq!(chosen(Metric::Mse, &trials), Choice::Rate(1e-3));
}

#[test]
fn the_loss_decides_where_metrics_do_not() {
    let tie = [(1e-3, Some((0.7, 0.5))), (3e-3, Some((0.7, 0.4))), (1e-2, Some((0.7, 0.4)))];
    assert_eq!(chosen(Metric::Accuracy, &tie), Choice::Rate(3e-3));
    let no_numbers = [(1e-3, Some((f64::NAN, 0.5))), (3e-3, Some((f64::INFINITY, 0.4)))];
    assert_eq!(chosen(Metric::Accuracy, &no_numbers), Choice::Rate(3e-3));
    assert_eq!(chosen(Metric::Mse, &no_numbers), Choice::Rate(3e-3));
    // a number is better than none
    let one = [(1e-3, Some((f64::NAN, 0.1))), (3e-3, Some((0.1, 0.4)))];
    assert_eq!(chosen(Metric::Accuracy, &one), Choice::Rate(3e-3));
}

#[test]
fn what_failed_or_diverged_never_wins() {
    let trials = [(1e-3, Some((0.1, 0.9))), (3e-3, None), (1e-2, Some((0.9, f64::NAN)))];
    assert_eq!(chosen(Metric::Accuracy, &trials), Choice::Rate(1e-3));
    let Choice::Impossible(Status::Failed, message) = chosen(Metric::Accuracy, &trials[1..]) else {
        panic!("a rate was chosen")
    };
    assert_eq!(message, "every trial of the search for a learning rate failed; 3e-3: the loss became NaN");
    let diverged = record(Metric::Accuracy, Some((0.9, f64::NAN)));
    let kept = trial(Metric::Accuracy, &(1e-2, &diverged));
    assert_eq!((kept.seed, kept.validation, kept.validation_loss), (5, None, None));
}
