//! Records made by hand, for tests.

use std::path::PathBuf;

use peftlab_metrics::Metric;
use peftlab_record::{Environment, Measured, Parameters, Record};
use serde_json::json;

use crate::grid::Grid;

/// What tests want of a record; the rest is filled in.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) row: usize,
    pub(crate) label: Option<&'static str>,
    pub(crate) family: &'static str,
    /// Place of the task in `tasks`.
    pub(crate) task: usize,
    pub(crate) tasks: &'static [&'static str],
    pub(crate) kind: &'static str,
    pub(crate) seed: u64,
    pub(crate) rate: f64,
    /// Rates that a search tried.
    pub(crate) tried: Vec<f64>,
    pub(crate) loss: f64,
    pub(crate) step_seconds: f64,
    pub(crate) peak_bytes: u64,
    pub(crate) base_bytes: Option<u64>,
    pub(crate) merged: Vec<(String, f64)>,
    pub(crate) out_of_memory: bool,
    /// The score; the loss if absent.
    pub(crate) score: Option<f64>,
    /// Whether there is a test set.
    pub(crate) tested: bool,
    /// Trained parameters when training ended.
    pub(crate) trained_end: Option<u64>,
    /// Whether the peak is the device's, by difference.
    pub(crate) by_difference: bool,
    /// Metric of the task and of the score; the loss if absent.
    pub(crate) metric: Option<&'static str>,
    /// Steps that training was asked for.
    pub(crate) steps: u64,
    pub(crate) threads: u64,
    /// When the run began, in seconds.
    pub(crate) started: u64,
    pub(crate) identity: &'static str,
    /// Stands for the data and for the weights.
    pub(crate) data: &'static str,
    pub(crate) weights: &'static str,
}

impl Default for Made {
    fn default() -> Self {
        Self {
            row: 0,
            label: None,
            family: "f",
            task: 0,
            tasks: &["first", "second"],
            kind: "classification",
            seed: 0,
            rate: 1e-3,
            tried: Vec::new(),
            loss: 1.0,
            step_seconds: 1.0,
            peak_bytes: 1 << 20,
            base_bytes: None,
            merged: Vec::new(),
            out_of_memory: false,
            score: None,
            tested: false,
            trained_end: None,
            by_difference: false,
            metric: None,
            steps: 40,
            threads: 1,
            started: 0,
            identity: "",
            data: "",
            weights: "",
        }
    }
}

impl Made {
    fn measured(&self) -> Measured {
        let score =
            |value: f64| json!({ "metric": self.metric.unwrap_or("loss"), "value": value, "items": 10 });
        let trial =
            |rate| json!({ "learning_rate": rate, "seed": 7, "validation": 0.5, "validation_loss": 0.5 });
        let merged = |(into, loss): &(String, f64)| json!({ "into": into, "validation_loss": loss, "validation": [score(*loss)] });
        let searched = (!self.tried.is_empty()).then(|| self.tried.iter().map(trial).collect::<Vec<_>>());
        let spread = |median: f64| json!({ "p10": median, "median": median, "p90": median });
        let scores = [score(self.score.unwrap_or(self.loss))];
        let device = self.by_difference.then_some(self.peak_bytes);
        let end = self.trained_end.map(|trained| Parameters { trained, ..Parameters::default() });
        let measured = json!({
            "training": {
                "steps": 1, "planned_steps": 1, "batch_size": 1, "learning_rate": self.rate, "tokens": 1,
                "samples": 1, "stopped_early": false, "best_step": 1, "final_loss": self.loss,
                "validation_loss_before": null, "validation_loss_after": self.loss, "searched": searched,
            },
            "validation": scores,
            "test": if self.tested { &scores[..] } else { &[] },
            "parameters_end": end,
            "merged": self.merged.iter().map(merged).collect::<Vec<_>>(),
            "time": {
                "load": 1.0, "train": 1.0, "evaluate": 1.0, "warmup_steps": 0, "step": spread(self.step_seconds),
                "tokens_per_second": spread(100.0), "samples_per_second": spread(1.0),
            },
            "memory": { "host_allocated_peak": self.peak_bytes, "base_bytes": self.base_bytes,
                "device_process_peak": device, "device_peak_source": device.map(|_| "difference") },
            "checks": { "frozen_unchanged": 1, "trained_updated": 1, "step0_difference": 0.0 },
            "weights_digest": "",
            "losses_digest": "",
        });
        serde_json::from_value(measured).unwrap()
    }

    pub(crate) fn record(&self) -> Record {
        let name = self.tasks[self.task];
        let length = name.rsplit('=').next().and_then(|number| number.parse::<u64>().ok());
        let metric = Metric::parse(self.metric.unwrap_or("loss")).unwrap();
        let record = json!({
            "schema": 1, "experiment": "made", "identity": self.identity, "row": self.row,
            "label": self.label.map_or(format!("method {}", self.row), str::to_owned),
            "method": "m", "family": self.family, "seed": self.seed,
            "task": { "name": name, "kind": self.kind, "metric": metric.name(),
                "higher_is_better": metric.higher_is_better(), "in_points": metric.in_points(),
                "index": self.task, "digest": self.data },
            "model": { "name": "model", "architecture": "", "source": "", "digest": self.weights, "dtype": "f32" },
            "status": if self.out_of_memory { "out-of-memory" } else { "done" },
            "message": if self.out_of_memory { "no memory left" } else { "" },
            "parameters": Parameters { trained: 10, base_total: 1000, ..Parameters::default() },
            "settings": { "training": { "learning_rate": self.rate, "steps": self.steps }, "task": { "max_length": length } },
            "measured": (!self.out_of_memory).then(|| self.measured()),
            "environment": Environment { device: "cpu".to_owned(), threads: self.threads, started: self.started, ..Environment::default() },
        });
        serde_json::from_value(record).unwrap()
    }
}

/// Records made by hand, with a place in no folder.
pub(crate) fn records(made: &[Made]) -> Vec<(PathBuf, Record)> {
    made.iter().map(|made| (PathBuf::from("nowhere.json"), made.record())).collect()
}

/// A grid of records made by hand; there are no tables of steps or predictions beside them.
pub(crate) fn grid(made: &[Made]) -> Grid {
    Grid::new(None, records(made)).unwrap()
}
