//! The experiment file, as written.

mod names;
mod reader;
mod search;

use std::path::{Path, PathBuf};

use peftlab_peft::DynMethod;
use peftlab_tasks::TaskSpec;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::optimizer::{OptimizerSpec, Schedule};

pub(crate) use names::plain;
pub use search::SearchSpec;

pub use reader::File as ExperimentFile;

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

/// `[model]`: the network with its weights and its tokenizer.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// A folder in the Hub's layout (`config.json`, safetensors, `tokenizer.json`), a GGUF file, or
    /// `hub:owner/name@revision` (`main` without a revision). With `weights = "random"` a folder with a `config.json`, or
    /// that file. Paths start from the experiment file's folder. What is read and refused is in `docs/models.md`.
    pub source: String,
    /// A `tokenizer.json`, in place of the source's own; needed where the source has none, as with random weights.
    pub tokenizer: Option<String>,
    /// The token that ends a text of a language model, such as `"</s>"`, where the model's files name none or several.
    pub eos_token: Option<String>,
    /// What tables call the model; without it the last part of `source`.
    pub name: Option<String>,
    /// Where the weights come from.
    #[serde(default)]
    pub weights: WeightsSpec,
    /// Element type of the frozen weights and of activations. What is trained is kept in 32 bits either way; its layers
    /// compute in this type.
    #[serde(default)]
    pub dtype: DtypeSpec,
    /// Where the head of a classification or regression comes from, by default `"checkpoint"`; language models keep their
    /// own.
    #[serde(default, skip_serializing_if = "is_default")]
    pub head: HeadSpec,
    /// Keys of `config.json` to change, with their new values: `{ hidden_dropout_prob = 0.0 }`.
    #[serde(default)]
    pub config: serde_json::Map<String, Value>,
}

/// Where a model's values come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WeightsSpec {
    /// From the checkpoint in `source`.
    #[default]
    Pretrained,
    /// Drawn from the run's seed. Time and memory are those of the real model, scores mean nothing.
    Random,
}

fn is_default(head: &HeadSpec) -> bool {
    *head == HeadSpec::default()
}

/// Where the head of a sequence task comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HeadSpec {
    /// From the checkpoint where it has one, which then must fit the task; else drawn from the run's seed.
    #[default]
    Checkpoint,
    /// Drawn from the run's seed, although the checkpoint has one.
    New,
}

/// Element type of frozen weights and activations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DtypeSpec {
    /// IEEE 754 in 32 bits.
    #[default]
    F32,
    /// bfloat16, in 16 bits.
    Bf16,
}

/// Whose weights a run keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// Those of the look at the validation set with the lowest loss; `transformers`' `load_best_model_at_end`.
    #[default]
    Best,
    /// Those of the last step, as `transformers` does unless told otherwise; no second copy is held while training.
    Last,
}

/// `[training]`: how every method is trained; a method may change any of it in its own table.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrainingSpec {
    /// Passes over the training set. Give either this or `steps`.
    pub epochs: Option<usize>,
    /// Optimizer steps. Give either this or `epochs`.
    pub steps: Option<usize>,
    /// Examples in one forward and backward pass; an optimizer step sees `batch_size` × `gradient_accumulation`.
    pub batch_size: usize,
    /// Forward and backward passes in one optimizer step. The step's loss is the mean over all their rows, or of a
    /// language model over all their tokens.
    pub gradient_accumulation: usize,
    /// Peak learning rate: the one at the end of the warm-up. `[search]` replaces it.
    pub learning_rate: f64,
    /// Course of the learning rate after the warm-up.
    pub schedule: Schedule,
    /// Share of the steps, from 0 to 1 and rounded up, over which the learning rate rises linearly from zero.
    pub warmup_ratio: f64,
    /// Steps over which the learning rate rises, in place of `warmup_ratio`.
    pub warmup_steps: Option<usize>,
    /// The optimizer with its constants: `{ name = "adamw", weight_decay = 0.1 }`.
    pub optimizer: OptimizerSpec,
    /// Whether weight decay acts on biases and on the weights of norms, too, as torch's optimizers do by themselves;
    /// `transformers`' `Trainer` leaves them out.
    pub decay_biases_and_norms: bool,
    /// Gradients of all trained parameters together are scaled down to this L2 norm where theirs is larger
    /// (`torch.nn.utils.clip_grad_norm_`); 1e38 clips nothing.
    pub max_grad_norm: Option<f64>,
    /// So many batches of shuffled examples at a time are sorted by length before they are cut into batches, so that
    /// less is padding (`transformers`' `group_by_length`); 0 leaves the shuffled order.
    pub length_buckets: usize,
    /// Optimizer steps between looks at the validation loss while training, with one more after the last step. Without
    /// it validation is looked at after training alone, and the last step's weights are kept.
    pub evaluate_every: Option<usize>,
    /// Early stopping: training ends after so many looks in a row without a lower validation loss. Needs
    /// `evaluate_every`.
    pub patience: Option<usize>,
    /// Which weights are scored and saved. `"last"` needs `evaluate_every`, without which they are the last step's
    /// anyway.
    pub keep: Keep,
    /// Whether the validation loss is measured before the first step, too (`validation_loss_before` in the record).
    pub evaluate_start: bool,
    /// Whether the model is scored on validation once more after the method was merged into the weights, where it can be
    /// (`merged` in the record).
    pub evaluate_merged: bool,
    /// Examples in one forward pass of an evaluation. It changes time and memory, and a score by no more than
    /// rounding.
    pub evaluate_batch_size: usize,
    /// First optimizer steps to leave out of all rates and step times, for they are slower: memory is allocated, kernels
    /// are compiled and tuned.
    pub timing_warmup_steps: usize,
    /// Whether every kernel of a GPU is timed after `timing_warmup_steps` (`kernels` in the record). Steps get slower.
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
