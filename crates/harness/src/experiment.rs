//! The experiment file, as written.

mod names;
mod reader;
mod search;

use std::path::{Path, PathBuf};

use peftlab_peft::DynMethod;
use peftlab_tasks::TaskSpec;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::optimizer::{OptimizerSpec, Schedule};

pub(crate) use names::plain;
pub use search::SearchSpec;

/// An experiment: one model, some tasks, some methods, some seeds.
#[derive(Clone, Debug)]
pub struct Experiment {
    /// Names the results folder.
    pub name: String,
    /// The file it was read from.
    pub path: PathBuf,
    /// `cpu`, `cuda:N` or `auto`.
    pub device: String,
    /// Cells that run at the same time, each with its share of the threads. With more than one, times are
    /// those of runs that share the machine.
    pub jobs: usize,
    /// One run for each.
    pub seeds: Vec<u64>,
    /// The model.
    pub model: ModelSpec,
    /// What all methods share.
    pub training: TrainingSpec,
    /// How the learning rate is searched; none where it is given.
    pub search: Option<SearchSpec>,
    /// The tasks, in the order of the table's columns.
    pub tasks: Vec<TaskSpec>,
    /// The methods, in the order of the table's rows.
    pub methods: Vec<MethodSpec>,
}

/// `[model]`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// A folder in the Hub's layout, a GGUF file, or `hub:owner/name@revision`; with random weights a folder
    /// with a `config.json`, or that file.
    pub source: String,
    /// A `tokenizer.json`, in place of the source's own.
    pub tokenizer: Option<String>,
    /// The token that ends a text, where the model's files do not say which one that is.
    pub eos_token: Option<String>,
    /// What tables call it; the source's last part if absent.
    pub name: Option<String>,
    /// Where its values come from.
    #[serde(default)]
    pub weights: WeightsSpec,
    /// Element type of the frozen weights and of activations.
    #[serde(default)]
    pub dtype: DtypeSpec,
    /// What becomes of a sequence task's head that the checkpoint has.
    #[serde(default, skip_serializing_if = "is_default")]
    pub head: HeadSpec,
    /// Keys of `config.json` to change, such as dropout probabilities.
    #[serde(default)]
    pub config: serde_json::Map<String, Value>,
}

/// Where a model's values come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightsSpec {
    /// A checkpoint.
    #[default]
    Pretrained,
    /// Drawn from the seed.
    Random,
}

fn is_default(head: &HeadSpec) -> bool {
    *head == HeadSpec::default()
}

/// Where the head of a sequence task comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeadSpec {
    /// The checkpoint, where it has one.
    #[default]
    Checkpoint,
    /// It is drawn from the seed.
    New,
}

/// Element type of frozen weights and activations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DtypeSpec {
    /// 32 bits.
    #[default]
    F32,
    /// bfloat16.
    Bf16,
}

/// Whose weights a run keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// Those of the look at the validation set with the lowest loss; `transformers`' `load_best_model_at_end`.
    #[default]
    Best,
    /// Those of the last step, as `transformers` does unless told otherwise.
    Last,
}

/// `[training]`; a method may change any of it in its own table.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainingSpec {
    /// Passes over the training set; give this or `steps`.
    pub epochs: Option<usize>,
    /// Optimizer steps.
    pub steps: Option<usize>,
    /// Examples in a forward pass.
    pub batch_size: usize,
    /// Forward passes in an optimizer step; the loss is the mean over all their tokens or rows.
    pub gradient_accumulation: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Its course after the warm-up.
    pub schedule: Schedule,
    /// Share of the steps in which it rises.
    pub warmup_ratio: f64,
    /// Steps in which it rises, in place of the share.
    pub warmup_steps: Option<usize>,
    /// The optimizer.
    pub optimizer: OptimizerSpec,
    /// Whether weight decay acts on biases and on the weights of norms, too, as torch's optimizers do by themselves;
    /// `transformers`' `Trainer` leaves them out.
    pub decay_biases_and_norms: bool,
    /// Largest global norm of the gradients; absent for no clipping.
    pub max_grad_norm: Option<f64>,
    /// Batches of similar lengths are made from this many batches at a time; 0 for none.
    pub length_buckets: usize,
    /// Steps between looks at the validation set; absent for one at the end.
    pub evaluate_every: Option<usize>,
    /// Looks without an improvement after which training stops.
    pub patience: Option<usize>,
    /// Whose weights are scored and saved where `evaluate_every` looks at validation.
    pub keep: Keep,
    /// Whether the validation loss is measured before the first step, too.
    pub evaluate_start: bool,
    /// Whether the validation loss of the merged model is measured, too, where the method can be merged.
    pub evaluate_merged: bool,
    /// Examples in a forward pass of an evaluation.
    pub evaluate_batch_size: usize,
    /// Steps left out of the timing, for the first ones are slower.
    pub timing_warmup_steps: usize,
    /// Whether every kernel that the device runs after the timing warm-up is timed, too. That makes steps slower.
    pub profile_kernels: bool,
}

impl Default for TrainingSpec {
    fn default() -> Self {
        Self {
            epochs: None,
            steps: None,
            batch_size: 16,
            gradient_accumulation: 1,
            learning_rate: 1e-4,
            schedule: Schedule::Linear,
            warmup_ratio: 0.0,
            warmup_steps: None,
            optimizer: OptimizerSpec::default(),
            decay_biases_and_norms: true,
            max_grad_norm: Some(1.0),
            length_buckets: 20,
            evaluate_every: None,
            patience: None,
            keep: Keep::default(),
            evaluate_start: true,
            evaluate_merged: false,
            evaluate_batch_size: 64,
            timing_warmup_steps: 3,
            profile_kernels: false,
        }
    }
}

impl TrainingSpec {
    /// What no single setting shows.
    ///
    /// # Errors
    /// What is wrong, with the remedy.
    pub fn check(&self) -> Result<(), String> {
        let positive = [
            ("batch_size", self.batch_size),
            ("gradient_accumulation", self.gradient_accumulation),
            ("evaluate_batch_size", self.evaluate_batch_size),
            ("epochs", self.epochs.unwrap_or(1)),
            ("steps", self.steps.unwrap_or(1)),
            ("evaluate_every", self.evaluate_every.unwrap_or(1)),
            ("patience", self.patience.unwrap_or(1)),
        ];
        if let Some((key, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(format!("{key} is 0; it must be 1 or more"));
        }
        if self.epochs.is_some() == self.steps.is_some() {
            return Err("give either epochs or steps".to_owned());
        }
        if !(self.learning_rate.is_finite() && self.learning_rate > 0.0) {
            return Err(format!("learning_rate is {}; it must be above 0", self.learning_rate));
        }
        if !(0.0..=1.0).contains(&self.warmup_ratio) {
            return Err(format!(
                "warmup_ratio is {}; it is a share of the steps, from 0 to 1",
                self.warmup_ratio
            ));
        }
        if self.patience.is_some() && self.evaluate_every.is_none() {
            return Err("patience counts looks at the validation set; give evaluate_every, too".to_owned());
        }
        if self.keep == Keep::Last && self.evaluate_every.is_none() {
            return Err(
                "keep = \"last\" is about looks at the validation set; give evaluate_every, too".to_owned()
            );
        }
        self.optimizer.check()?;
        match self.max_grad_norm {
            Some(limit) if !(limit.is_finite() && limit > 0.0) => {
                Err(format!("max_grad_norm is {limit}; it must be above 0 (1e38 clips nothing)"))
            }
            _ => Ok(()),
        }
    }
}

impl TrainingSpec {
    /// Number of optimizer steps with `examples` in the training set.
    pub fn planned_steps(&self, examples: usize) -> usize {
        let batches = examples.div_ceil(self.batch_size);
        let per_epoch = batches.div_ceil(self.gradient_accumulation);
        self.steps.unwrap_or_else(|| self.epochs.unwrap_or(1) * per_epoch)
    }

    /// What of it decides the numbers of a run of `steps` steps: not what is measured besides, nor in which of two forms
    /// the number of steps was given.
    pub(crate) fn deciding(&self, steps: usize) -> Value {
        let mut settings = serde_json::to_value(self).unwrap_or_default();
        if let Some(table) = settings.as_object_mut() {
            for key in
                ["epochs", "evaluate_start", "evaluate_merged", "timing_warmup_steps", "profile_kernels"]
            {
                table.remove(key);
            }
            table.insert("steps".to_owned(), steps.into());
        }
        settings
    }
}

/// `[[method]]`
#[derive(Clone, Debug)]
pub struct MethodSpec {
    /// The row's label.
    pub label: String,
    /// The method with its settings.
    pub method: Box<dyn DynMethod>,
    /// Training, with the method's own changes.
    pub training: TrainingSpec,
}

impl Experiment {
    /// The folder that relative paths in the file start from.
    pub fn base(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }
}
