//! The schema of a run's record: one JSON file a run, with a table of its steps and one of its predictions
//! beside it. The harness writes records, reports read nothing else, and a record made today can be read next
//! year: a change of meaning raises [`SCHEMA`].

mod device;
mod files;
mod kernels;
mod manifest;
mod number;
mod splits;

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use device::{DevicePeakSource, DeviceReport, Measure};
pub use files::{
    partial_prefix, predictions_path, read_columns, read_table, steps_path, validation_predictions_path,
    write_atomic, write_table,
};
pub use kernels::{KernelProfile, KernelTime};
pub use manifest::{MANIFEST, Manifest, PlannedCell, PlannedMethod, PlannedTask};
pub use splits::SplitInfo;

/// Version of the schema.
pub const SCHEMA: u32 = 1;

/// The folder of a results folder that holds the records.
pub const RUNS: &str = "runs";

/// The folder of a results folder that holds the records of a search's trials, which no report mixes with the
/// others.
pub const TRIALS: &str = "trials";

/// One run: a method on a task with a seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Record {
    /// Version of the schema. This page is of the one that this program reads; others are refused.
    pub schema: u32,
    /// The experiment's name, which its results folder has, too.
    pub experiment: String,
    /// Hash of [`inputs`](Self::inputs): runs with the same one have the same numbers.
    pub identity: String,
    /// What decided the numbers: the method with its settings, the seed, the training settings, digests of model and data,
    /// the kind of device, and the versions of the numerics. `null` in records of before this was kept.
    #[serde(default)]
    pub inputs: Value,
    /// The method's place in the experiment, from 0: the table's row.
    pub row: usize,
    /// What tables call the row.
    pub label: String,
    /// The method's name in experiment files.
    pub method: String,
    /// The method's family in Xu et al. 2023: `baseline`, `additive`, `partial`, `reparameterized`, `hybrid`, `unified`.
    pub family: String,
    /// The run's seed.
    pub seed: u64,
    /// The task with its data.
    pub task: TaskInfo,
    /// The model that the method started from.
    pub model: ModelInfo,
    /// How the run ended.
    pub status: Status,
    /// Why the run did not end well; empty if it did.
    pub message: String,
    /// Sizes when training begins, counted in parameters.
    pub parameters: Parameters,
    /// Settings as they were resolved, defaults included: model, task, method, training.
    pub settings: Value,
    /// What a reader of the numbers should know: what was left out of model or data, and what was drawn anew.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// What a finished run measured; null of a failed one.
    pub measured: Option<Measured>,
    /// Where it ran.
    pub environment: Environment,
}

/// A task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TaskInfo {
    /// Its name: a column of the table.
    pub name: String,
    /// Its kind, as in experiment files.
    pub kind: String,
    /// The main metric, which tables show.
    pub metric: String,
    /// Whether more of the main metric is better.
    pub higher_is_better: bool,
    /// Whether tables show the main metric times 100; the record's own scores never are.
    pub in_points: bool,
    /// The task's place in the experiment, from 0.
    pub index: usize,
    /// SHA-256 over all examples as tokens: identifies the data.
    pub digest: String,
    /// What became of each split's rows.
    #[serde(default)]
    pub splits: Vec<SplitInfo>,
}

/// A model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ModelInfo {
    /// What tables call it.
    pub name: String,
    /// The `model_type` of its `config.json`.
    pub architecture: String,
    /// Where it came from, as the experiment file names it.
    pub source: String,
    /// SHA-256 over the weights and `config.json`, or `random`.
    pub digest: String,
    /// Element type of its frozen weights, and of its activations.
    pub dtype: String,
    /// Element type that trained weights are kept in, those of the base model, too: `base_bytes` counts them so.
    #[serde(default = "in_f32")]
    pub trained_dtype: String,
}

/// What records of before the field say: adapters and weights of f32 models were.
fn in_f32() -> String {
    "f32".to_owned()
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Well: `measured` has what it gave.
    Done,
    /// With an error, or with numbers that are none.
    Failed,
    /// For want of memory.
    OutOfMemory,
}

/// Sizes of a method on a model, in parameters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Parameters {
    /// Trained by the method.
    pub adapter: u64,
    /// Trained in the task's head.
    pub head: u64,
    /// Trained in all.
    pub trained: u64,
    /// Kept for deployment beside the base model, head included; the method's file holds them.
    pub stored: u64,
    /// Frozen tensors that the method brings along.
    pub frozen_buffers: u64,
    /// The base model with its head, without the method.
    pub base_total: u64,
    /// `trained` in percent of `base_total`.
    pub percent: f64,
}

/// What a finished run measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Measured {
    /// How training went.
    pub training: Training,
    /// Scores on the validation set, the main metric first.
    pub validation: Vec<Score>,
    /// Scores on the test set, the main metric first; empty where there is none, and in a search's trials.
    pub test: Vec<Score>,
    /// What became of the validation set when the method was merged into the base, one for each way to do so.
    #[serde(default)]
    pub merged: Vec<MergedLoss>,
    /// Sizes when training ended, where a method grows; [`Record::parameters`] are those that it begins with.
    #[serde(default)]
    pub parameters_end: Option<Parameters>,
    /// Durations and rates of training.
    pub time: Time,
    /// Where the device's time went, if that was asked for.
    #[serde(default)]
    pub kernels: Option<KernelProfile>,
    /// Memory and energy of training.
    pub memory: Memory,
    /// Checks that every run makes.
    pub checks: Checks,
    /// SHA-256 of the trained tensors as they are in the method's file; the same on every rerun.
    pub weights_digest: String,
    /// SHA-256 of the losses of all steps; the same on every rerun.
    pub losses_digest: String,
}

/// How training went.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Training {
    /// Optimizer steps done.
    pub steps: u64,
    /// Optimizer steps planned.
    pub planned_steps: u64,
    /// Examples in an optimizer step, over all its passes.
    pub batch_size: u64,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Tokens seen in training, padding not counted.
    pub tokens: u64,
    /// Examples seen in training, repeats counted.
    pub samples: u64,
    /// Whether `patience` ended training before the planned end.
    pub stopped_early: bool,
    /// The step after which the weights were kept that are scored.
    pub best_step: u64,
    /// Mean training loss over the last tenth of the steps, in nats (mean squared error of a regression).
    #[serde(deserialize_with = "number::or_nan")]
    #[schemars(with = "Option<f64>")]
    pub final_loss: f64,
    /// Mean validation loss before the first step, in the same unit; none with `evaluate_start = false`.
    pub validation_loss_before: Option<f64>,
    /// Mean validation loss of the weights that were kept.
    #[serde(deserialize_with = "number::or_nan")]
    #[schemars(with = "Option<f64>")]
    pub validation_loss_after: f64,
    /// Every look at the validation set while training.
    #[serde(default)]
    pub looks: Vec<Look>,
    /// The trials that the learning rate was chosen by, in the order of the grid; none where it was given.
    #[serde(default)]
    pub searched: Option<Vec<Trial>>,
}

/// A look at the validation set while training.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Look {
    /// Optimizer steps done before.
    pub step: u64,
    /// Mean validation loss.
    #[serde(deserialize_with = "number::or_nan")]
    #[schemars(with = "Option<f64>")]
    pub loss: f64,
}

/// A trial of a search for the learning rate: training with one rate of the grid, looked at on validation alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Trial {
    /// Peak learning rate.
    pub learning_rate: f64,
    /// The trial's seed.
    pub seed: u64,
    /// The task's main metric on the validation set; none where the trial failed or it was no number.
    pub validation: Option<f64>,
    /// Mean validation loss; none where the trial failed or diverged: its rate cannot be chosen.
    pub validation_loss: Option<f64>,
}

/// The validation set after merging the method into the base model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MergedLoss {
    /// What it was merged into: `weights`, `zero points` or `re-quantised weights`.
    pub into: String,
    /// Mean validation loss of the merged model, to hold against [`Training::validation_loss_after`].
    #[serde(deserialize_with = "number::or_nan")]
    #[schemars(with = "Option<f64>")]
    pub validation_loss: f64,
    /// Its scores on the validation set, the main metric first.
    pub validation: Vec<Score>,
}

/// A score on a split of the data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Score")]
pub struct Score {
    /// The metric's name.
    pub metric: String,
    /// Its value, such as 0.75 for 75 %; none where it is undefined.
    #[serde(deserialize_with = "number::or_nan")]
    #[schemars(with = "Option<f64>")]
    pub value: f64,
    /// Standard error from the finite number of items, in the value's unit (see `docs/numbers.md`); none where it is not
    /// known.
    pub standard_error: Option<f64>,
    /// Number of items that were scored.
    pub items: u64,
}

/// Durations in seconds, and rates a second. Steps of the timing warm-up are left out of all but the totals.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Time {
    /// Reading model and data, building the network, attaching the method, in seconds.
    pub load: f64,
    /// All training steps, in seconds.
    pub train: f64,
    /// All evaluations, in seconds.
    pub evaluate: f64,
    /// First steps that are left out of what follows.
    pub warmup_steps: u64,
    /// Duration of an optimizer step, in seconds.
    pub step: Spread,
    /// Tokens a second, padding not counted, by step.
    pub tokens_per_second: Spread,
    /// Examples a second, by step.
    pub samples_per_second: Spread,
}

/// A median over the steps with its spread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "Spread")]
pub struct Spread {
    /// 10th percentile.
    pub p10: f64,
    /// Median.
    pub median: f64,
    /// 90th percentile.
    pub p90: f64,
}

/// Memory in bytes, by who says it; none where nobody can.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Memory {
    /// Peak of what the program had allocated on the host while training.
    pub host_allocated_peak: Option<u64>,
    /// What it had allocated when training began.
    pub host_allocated_before: Option<u64>,
    /// Peak of the process's resident memory while training.
    pub host_resident_peak: Option<u64>,
    /// Peak of the process's memory on the GPU while training, as NVML says.
    pub device_process_peak: Option<u64>,
    /// How NVML says that; none in records of before this was kept.
    #[serde(default)]
    pub device_peak_source: Option<DevicePeakSource>,
    /// What tensors used on the device at the end of training, as the allocator says: it keeps no peak.
    pub device_used: Option<u64>,
    /// What the allocator had reserved on the device at the end of training.
    pub device_reserved: Option<u64>,
    /// Size of the base model's weights at rest, whether dense or packed, with their scales and zero points.
    #[serde(default)]
    pub base_bytes: Option<u64>,
    /// Energy of the device while training, in joules.
    pub energy_joules: Option<f64>,
    /// Share of the training time in which the device ran a kernel, in percent, as NVML says.
    pub device_utilisation: Option<f64>,
}

/// Checks that every run makes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Checks {
    /// Frozen tensors, packed weights included, none of which changed by a bit.
    pub frozen_unchanged: u64,
    /// Trained tensors at the end. Each that was trained from the start received a gradient from the loss and an update
    /// from the optimizer in one step or more. In older records it says that each changed.
    #[serde(alias = "trained_changed")]
    pub trained_updated: u64,
    /// Largest absolute difference of one example's logits before and after attaching the method.
    pub step0_difference: f64,
}

/// Where a run ran.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Environment {
    /// The device: `cpu`, or a GPU by its product's name.
    pub device: String,
    /// Threads of the host that were there to use.
    pub threads: u64,
    /// Runs that shared the machine, this one included.
    pub jobs: u64,
    /// Operating system and architecture.
    pub os: String,
    /// The host's processor.
    pub cpu: Option<String>,
    /// Version of this program.
    pub version: String,
    /// SHA-256 of this program's file.
    pub program: String,
    /// Seconds since 1970 when the run began.
    pub started: u64,
}

/// One optimizer step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Step {
    /// Number of the step, from 1.
    pub step: u64,
    /// Mean training loss over the step's examples or tokens, in nats (mean squared error of a regression).
    pub loss: f64,
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Duration in seconds.
    pub seconds: f64,
    /// Tokens of the step's examples, padding not counted.
    pub tokens: u64,
    /// Bytes in use after the step: the device's as its allocator says, on the CPU all that the program has
    /// allocated. A number that grows is a leak.
    #[serde(default)]
    pub used_bytes: Option<u64>,
}

/// One item of the test set (of the validation set where there is no other).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Prediction {
    /// Its place in the split, from 0.
    pub item: u64,
    /// What is right: class, value, or of a language model the number of tokens that count.
    pub expected: f64,
    /// What the model says: class, value, or of a language model the summed loss of those tokens, in nats.
    pub predicted: f64,
    /// The item's loss: of a class in nats, of a language model summed over its tokens, of a value the squared error.
    pub loss: f64,
}

/// Why a record could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Reading or writing failed.
    #[error("{}: {message}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong, with the remedy.
        message: String,
    },
    /// The record is of another schema.
    #[error(
        "{}: this record has schema version {found}, and this program reads version {SCHEMA}; \
         use another folder with --out, or the program that wrote it", path.display()
    )]
    Schema {
        /// The record.
        path: PathBuf,
        /// Its version.
        found: u64,
    },
}
