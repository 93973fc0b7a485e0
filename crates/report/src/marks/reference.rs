//! What scipy and statsmodels say; `tools/reference/marks.py` writes the fixture.

use peftlab_metrics::{Metric, Predictions, score};
use serde_json::Value;
use statrs::distribution::{ContinuousCDF, StudentsT};

use super::components::{Column, influences};
use super::seeds::range_critical;
use super::simultaneous::Simultaneous;
use crate::stats::holm;

fn reference() -> Value {
    serde_json::from_str(include_str!("reference.json")).unwrap()
}

fn numbers(list: &Value) -> Vec<f64> {
    list.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
}

fn close(ours: f64, theirs: &Value, share: f64, what: &str) {
    let theirs = theirs.as_f64().unwrap();
    assert!((ours / theirs - 1.0).abs() < share, "{what}: {ours} is not {theirs}");
}

/// A column of normal means: variances through the items alone, or through the seeds alone.
fn column(methods: usize, items: f64) -> Column {
    let mut covariance = vec![0.0; methods * methods];
    (0..methods).for_each(|i| covariance[i * methods + i] = items);
    Column {
        means: vec![0.0; methods],
        seeds: vec![1; methods],
        over_seeds: vec![0.0; methods],
        residual: vec![0.0; methods],
        items: covariance,
        count: 1_000_000,
    }
}

#[test]
fn quantiles_of_t_are_scipys() {
    for case in reference()["quantiles"].as_array().unwrap() {
        let student = StudentsT::new(0.0, 1.0, case["df"].as_f64().unwrap()).unwrap();
        close(student.inverse_cdf(case["p"].as_f64().unwrap()), &case["t"], 1e-6, &case.to_string());
    }
}

#[test]
fn of_methods_alike_the_critical_value_is_tukeys() {
    for case in reference()["ranges"].as_array().unwrap() {
        let methods = case["methods"].as_u64().unwrap() as usize;
        close(range_critical(methods), &case["critical"], 1e-5, "the range of normal values");
        // 5,000 draws
        let drawn = Simultaneous::new(&column(methods, 1.0)).critical();
        close(drawn, &case["critical"], 0.03, &format!("draws for {methods} methods"));
    }
}

#[test]
fn a_best_that_the_data_chose_needs_more_than_one_that_was_named() {
    for case in reference()["dunnett"].as_array().unwrap() {
        let ours = range_critical(case["methods"].as_u64().unwrap() as usize);
        let dunnett = case["critical"].as_f64().unwrap();
        assert!(ours > dunnett && ours < 1.3 * dunnett, "{ours} and {dunnett}");
    }
}

#[test]
fn holm_is_that_of_statsmodels() {
    let case = &reference()["holm"];
    for (ours, theirs) in holm(&numbers(&case["p"])).iter().zip(numbers(&case["adjusted"])) {
        assert!((ours - theirs).abs() < 1e-12, "{ours} is not {theirs}");
    }
}

#[test]
fn the_parts_of_the_variance_are_those_of_a_two_way_layout() {
    let case = &reference()["components"];
    let run = |errors: &Value| {
        let predicted = numbers(errors);
        Predictions::Values { expected: vec![0.0; predicted.len()], predicted }
    };
    let runs: Vec<Predictions> = case["errors"].as_array().unwrap().iter().map(run).collect();
    let column = Column::new(&[influences(Metric::Mse, &runs).unwrap()]);
    close(column.over_seeds[0], &case["over_seeds"], 1e-9, "over seeds");
    close(column.residual[0], &case["residual"], 1e-9, "residual");
    close(column.items[0], &case["items"], 1e-9, "items");
}

#[test]
fn of_many_seeds_and_equal_items_the_test_is_students() {
    let case = &reference()["student"];
    // items that all give the score of their run: nothing varies but seeds
    let runs = |scores: &Value| -> Vec<Predictions> {
        let run = |score: f64| Predictions::Tokens { sum_loss: vec![score; 50], tokens: vec![1; 50] };
        numbers(scores).into_iter().map(run).collect()
    };
    let difference = super::difference(Metric::Loss, &runs(&case["a"]), &runs(&case["b"])).unwrap();
    let (p, interval) = (case["p"].as_f64().unwrap(), numbers(&case["interval"]));
    assert!((difference.p - p).abs() < 0.2 * p + 0.002, "{difference:?}, {p}");
    for (ours, theirs) in difference.interval.iter().zip(&interval) {
        assert!((ours - theirs).abs() < 0.06 * (interval[1] - interval[0]), "{difference:?}, {interval:?}");
    }
}

#[test]
fn errors_of_correlations_are_those_of_scipys_jackknife() {
    let case = &reference()["errors"];
    let predictions =
        Predictions::Values { predicted: numbers(&case["predicted"]), expected: numbers(&case["expected"]) };
    for metric in [Metric::Pearson, Metric::Spearman] {
        let error = score(metric, &predictions).standard_error.unwrap();
        close(error, &case[metric.name()], 0.02, metric.name());
    }
}
