//! One run of a grid, and what decides its numbers.

use std::fmt::Write;
use std::sync::Arc;

use peftlab_record::{Parameters, RUNS, Status, TRIALS, Trial};
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Place, Plan};
use crate::experiment::{TrainingSpec, plain};

/// Version of the numerics of everything but the methods: the networks, the losses, the optimizers, the training loop,
/// what is drawn. Raised when the same cell comes to other numbers than before, so that records of before are not taken
/// for what the program would make now; `tests/numerics.rs` fails when numbers change and it was not.
/// [`Method::NUMERICS`](peftlab_peft::Method::NUMERICS) is a method's own.
pub const NUMERICS: u32 = 1;

/// One run: a method on a task with a seed.
#[derive(Clone, Debug, Serialize)]
pub struct Cell {
    /// Whether it is a trial of the search: it leaves the test set alone.
    pub trial: bool,
    /// The method's place in the experiment, and the table's row.
    pub row: usize,
    /// The row's label.
    pub label: String,
    /// The method's name.
    pub method: String,
    /// The task's place in the experiment.
    #[serde(skip)]
    pub task_index: usize,
    /// The task's name.
    pub task: String,
    /// The seed.
    pub seed: u64,
    /// Hash of [`inputs`](Self::inputs): a record with the same one needs no second run.
    pub identity: String,
    /// Everything that decides the numbers, and nothing else.
    #[serde(skip)]
    pub inputs: Arc<Value>,
    /// Everything that was resolved.
    #[serde(serialize_with = "shared")]
    pub settings: Arc<Value>,
    /// Training, with the cell's own learning rate.
    #[serde(skip)]
    pub training: TrainingSpec,
    /// The trials that chose the learning rate.
    #[serde(skip)]
    pub searched: Option<Vec<Trial>>,
    /// Why it cannot be run: no trial of its search gave a rate to run it with.
    #[serde(skip)]
    pub failure: Option<(Status, String)>,
    /// Parameters, counted without building anything.
    #[serde(serialize_with = "as_value")]
    pub parameters: Parameters,
    /// Optimizer steps.
    pub steps: usize,
}

fn as_value<S: serde::Serializer>(parameters: &Parameters, serializer: S) -> Result<S::Ok, S::Error> {
    parameters.serialize(serializer)
}

fn shared<S: serde::Serializer>(value: &Arc<Value>, serializer: S) -> Result<S::Ok, S::Error> {
    value.serialize(serializer)
}

/// Digits of an identity that stand in names of files.
const SHOWN: usize = 8;

impl Cell {
    /// The folder of a results folder that holds the cell's files.
    pub fn folder(&self) -> &'static str {
        if self.trial { TRIALS } else { RUNS }
    }

    /// The stem of the names of the cell's files. It ends with the identity, so that no other cell's files, and none of
    /// the same cell with other settings, are written over.
    pub fn stem(&self) -> String {
        let rate = match self.trial {
            true => format!("--rate{:e}", self.training.learning_rate),
            false => String::new(),
        };
        let identity = &self.identity[..SHOWN.min(self.identity.len())];
        format!("{}--{}{rate}--seed{}--{identity}", plain(&self.label), plain(&self.task), self.seed)
    }

    /// Gives the cell a learning rate, and so another identity.
    pub(crate) fn set_rate(&mut self, rate: f64) {
        self.training.learning_rate = rate;
        Arc::make_mut(&mut self.settings)["training"]["learning_rate"] = json!(rate);
        Arc::make_mut(&mut self.inputs)["training"]["learning_rate"] = json!(rate);
        self.identity = identity(&self.inputs);
    }
}

impl Plan {
    pub(super) fn cell(&self, place: &Place, seed: u64, training: TrainingSpec, trial: bool) -> Cell {
        let spec = &self.experiment.methods[place.row];
        let task = &self.experiment.tasks[place.task_index];
        let settings = json!({
            "method": spec.method.settings(),
            "training": training,
            "task": task,
            "model": self.experiment.model,
            "device": self.device.describe(),
            "jobs": self.experiment.jobs,
        });
        let steps = training.planned_steps(self.data[place.task_index].train.examples.len());
        let inputs = self.inputs(place, seed, &training, steps, trial);
        Cell {
            trial,
            row: place.row,
            label: spec.label.clone(),
            method: spec.method.card().name.to_owned(),
            task_index: place.task_index,
            task: task.name.clone(),
            seed,
            identity: identity(&inputs),
            inputs: Arc::new(inputs),
            settings: Arc::new(settings),
            training,
            searched: None,
            failure: None,
            parameters: place.parameters.clone(),
            steps,
        }
    }

    /// The cell of a plan of one, as a trial if it is one.
    pub(crate) fn single(&self, trial: bool, searched: Option<Vec<Trial>>) -> Cell {
        let mut cell = self.cells[0].clone();
        if trial {
            cell.trial = true;
            Arc::make_mut(&mut cell.inputs)["trial"] = json!(true);
            cell.identity = identity(&cell.inputs);
        }
        Cell { searched, ..cell }
    }

    /// What decides a cell's numbers. Names and labels do not, nor paths (contents do), nor how many runs share the
    /// machine and how many threads each has (a test holds that), nor what is measured besides.
    fn inputs(&self, place: &Place, seed: u64, training: &TrainingSpec, steps: usize, trial: bool) -> Value {
        let method = &self.experiment.methods[place.row].method;
        let (task, data) = (&self.experiment.tasks[place.task_index], &self.data[place.task_index]);
        let model = &self.experiment.model;
        let mut inputs = json!({
            "numerics": { "harness": NUMERICS, "method": method.numerics() },
            "method": { "name": method.card().name, "settings": method.settings() },
            "seed": seed,
            "training": training.deciding(steps),
            "model": {
                "weights": self.source.digest,
                "config": self.source.config,
                "dtype": model.dtype,
                "head": model.head,
                "padding": self.source.padding(),
            },
            "task": {
                "kind": task.kind,
                "data": data.digest,
                "classes": data.classes,
                "score_first_token": task.score_first_token,
            },
            "device": self.device.kind(),
        });
        if trial {
            inputs["trial"] = json!(true);
        }
        inputs
    }
}

/// The hash that stands for `inputs`.
fn identity(inputs: &Value) -> String {
    let mut text = String::new();
    write_sorted(inputs, &mut text);
    let digest = hex::encode(Sha256::digest(text));
    digest[..16].to_owned()
}

/// Writes `value` as JSON with the keys of its objects in order, which serde_json keeps or not as its features say, and
/// they are anybody's in a build to turn on.
fn write_sorted(value: &Value, text: &mut String) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            text.push('{');
            for (i, (key, value)) in entries.into_iter().enumerate() {
                // writing into a string cannot fail
                let _ = write!(text, "{}{}:", if i > 0 { "," } else { "" }, Value::from(key.as_str()));
                write_sorted(value, text);
            }
            text.push('}');
        }
        Value::Array(values) => {
            text.push('[');
            for (i, value) in values.iter().enumerate() {
                text.push_str(if i > 0 { "," } else { "" });
                write_sorted(value, text);
            }
            text.push(']');
        }
        value => {
            let _ = write!(text, "{value}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_the_same_for_any_order_of_keys() {
        let value = json!({ "b": [1, { "d": null, "c": "x\"" }], "a": 0.5 });
        let mut text = String::new();
        write_sorted(&value, &mut text);
        assert_eq!(text, r#"{"a":0.5,"b":[1,{"c":"x\"","d":null}]}"#);
        assert_eq!(identity(&value), identity(&serde_json::from_str(&text).unwrap()));
        assert_ne!(identity(&value), identity(&json!({ "a": 0.5 })));
    }
}
