//! Every metric against what scikit-learn and scipy say; `tools/reference/metrics.py` writes the fixture.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test may")]

use std::time::{Duration, Instant};

use peftlab_metrics::{Metric, Predictions, score, value};
use serde_json::Value;

fn reference() -> Value {
    serde_json::from_str(include_str!("reference.json")).unwrap()
}

fn numbers(list: &Value) -> Vec<f64> {
    list.as_array().unwrap().iter().map(|value| value.as_f64().unwrap_or(f64::NAN)).collect()
}

fn integers(list: &Value) -> Vec<usize> {
    list.as_array().unwrap().iter().map(|value| value.as_u64().unwrap() as usize).collect()
}

/// `null` stands for what is no finite number.
fn same(ours: Option<f64>, theirs: &Value, what: &str) {
    match (ours.filter(|value| value.is_finite()), theirs.as_f64()) {
        (Some(ours), Some(theirs)) => {
            assert!((ours - theirs).abs() <= 1e-9 * theirs.abs().max(1.0), "{what}: {ours} is not {theirs}");
        }
        (ours, theirs) => assert_eq!(ours, theirs, "{what}"),
    }
}

fn check(case: &Value, predictions: &Predictions) {
    for (metric, theirs) in case["scores"].as_object().unwrap() {
        let ours = score(Metric::parse(metric).unwrap(), predictions);
        same(Some(ours.value), theirs, &format!("{metric} of {}", case["name"]));
    }
}

#[test]
fn classes_are_scored_as_scikit_learn_does() {
    for case in reference()["classes"].as_array().unwrap() {
        let (predicted, expected) = (integers(&case["predicted"]), integers(&case["expected"]));
        let classes = case["classes"].as_u64().unwrap() as usize;
        check(case, &Predictions::Classes { predicted, expected, classes });
    }
}

#[test]
fn values_are_scored_as_scipy_does_and_so_is_the_error_of_their_mean() {
    for case in reference()["values"].as_array().unwrap() {
        let (predicted, expected) = (numbers(&case["predicted"]), numbers(&case["expected"]));
        let predictions = Predictions::Values { predicted, expected };
        check(case, &predictions);
        let error = score(Metric::Mse, &predictions).standard_error;
        same(error, &case["mse_error"], &format!("error of mse of {}", case["name"]));
    }
}

#[test]
fn losses_of_texts_are_weighed_by_their_tokens() {
    let case = &reference()["tokens"];
    let (sum_loss, tokens) = (numbers(&case["sum_loss"]), integers(&case["tokens"]));
    let predictions = Predictions::Tokens { sum_loss, tokens };
    same(Some(score(Metric::Loss, &predictions).value), &case["loss"], "loss");
    same(Some(score(Metric::Perplexity, &predictions).value), &case["perplexity"], "perplexity");
}

#[test]
fn many_values_with_ties_are_ranked_at_once() {
    // the series of `many` in the generator
    let (predicted, expected): (Vec<f64>, Vec<f64>) = (0..200_000u64)
        .map(|i| {
            let a = i * 2_654_435_761 % (1 << 32) / 4_294_968;
            (a as f64, (i * 40_503 % 65_536 / 7 + a * 5) as f64)
        })
        .unzip();
    let predictions = Predictions::Values { predicted, expected };
    let start = Instant::now();
    let case = &reference()["many"];
    same(Some(value(Metric::Spearman, &predictions)), &case["spearman"], "spearman");
    same(Some(value(Metric::Pearson, &predictions)), &case["pearson"], "pearson");
    // the square of 200,000 would take minutes
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}
