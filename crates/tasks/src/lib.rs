//! Data sets, prompts, scoring and metrics. Nothing here knows a model.

mod batch;
mod chat;
mod check;
mod counts;
mod encode;
mod instructions;
mod labels;
mod leakage;
mod look;
mod random;
mod read;
mod running_text;
mod sequences;
mod spec;
mod tokens;

use std::path::{Path, PathBuf};

pub use batch::{Batch, BatchTargets, collate, epoch_order, eval_order};
pub use counts::SplitCounts;
pub use encode::{Encoder, EndOfText};
pub use look::{Look, is_data_file, look};
pub use peftlab_metrics::{Metric, Predictions, Scored, score};
pub use spec::{Column, Columns, SplitSpec, TaskKind, TaskSpec, Template, TooLong};

/// What an example should give.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// A class, from 0.
    Class(usize),
    /// A value.
    Value(f32),
    /// A token for each position, -100 where none counts; not shifted, as on the Hub.
    Tokens(Vec<i64>),
}

/// One example, as a network reads it.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// Token ids.
    pub input_ids: Vec<u32>,
    /// Segment ids, as many.
    pub token_type_ids: Vec<u32>,
    /// What it should give.
    pub target: Target,
}

/// Some examples, in the order of their file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Split {
    /// The examples.
    pub examples: Vec<Example>,
}

/// A task with its data read and encoded.
#[derive(Clone, Debug)]
pub struct TaskData {
    /// What kind of task it is.
    pub kind: TaskKind,
    /// To learn from.
    pub train: Split,
    /// To choose by.
    pub validation: Split,
    /// To be read once, after training.
    pub test: Option<Split>,
    /// Names of the classes; empty where there are none.
    pub classes: Vec<String>,
    /// What is computed, the main metric first.
    pub metrics: Vec<Metric>,
    /// What became of each split's rows.
    pub splits: Vec<SplitCounts>,
    /// SHA-256 over all examples, lower-case hexadecimal.
    pub digest: String,
    /// What was left out, and what may not be as it was meant; a sentence each.
    pub warnings: Vec<String>,
}

/// What is wrong with a task's data.
#[derive(Debug, thiserror::Error)]
#[error("task `{task}`: {}: {message}", path.display())]
pub struct TaskError {
    task: String,
    path: PathBuf,
    message: String,
}

impl TaskError {
    pub(crate) fn new(task: &str, path: impl AsRef<Path>, message: impl Into<String>) -> Self {
        Self { task: task.to_owned(), path: path.as_ref().to_owned(), message: message.into() }
    }

    /// Whether a table of the experiment is wrong, such as `[[task]]`, and no file of data.
    pub fn is_of_experiment(&self) -> bool {
        self.path.to_string_lossy().starts_with('[')
    }
}
