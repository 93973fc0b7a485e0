use std::path::{Path, PathBuf};

use peftlab_backbones::BackboneError;
use peftlab_checkpoint::CheckpointError;
use peftlab_record::RecordError;
use peftlab_tasks::TaskError;
use serde::de::DeserializeOwned;

/// Why an experiment could not be read, planned or run. Every text names the thing and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum HarnessError {
    /// Something that the user gave is wrong.
    #[error("{}: {message}", path.display())]
    Input {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong, and what would be right.
        message: String,
    },
    /// An experiment file has mistakes; all of them.
    #[error("{}", mistakes.join("\n"))]
    Experiment {
        /// One line each, with file and line.
        mistakes: Vec<String>,
    },
    /// The device is not there.
    #[error("device: {0}")]
    Device(String),
    /// A model file.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A network.
    #[error("{}: {reason}", path.display())]
    Backbone {
        /// Where the model came from.
        path: PathBuf,
        /// What is wrong.
        reason: Box<BackboneError>,
    },
    /// A data set.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// A record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Training went wrong: a measured failure, not a wrong input.
    #[error("{0}")]
    Failed(String),
}

impl From<BackboneError> for HarnessError {
    fn from(reason: BackboneError) -> Self {
        Self::backbone(Path::new("model"), reason)
    }
}

impl HarnessError {
    /// Something wrong with the file or folder at `path`.
    pub fn input(path: &Path, message: impl Into<String>) -> Self {
        Self::Input { path: path.to_owned(), message: message.into() }
    }

    /// The network of the model at `path`.
    pub(crate) fn backbone(path: &Path, reason: BackboneError) -> Self {
        Self::Backbone { path: path.to_owned(), reason: Box::new(reason) }
    }

    /// A run whose numbers ended: `what` says which, and where. It is failed, and has no score.
    pub(crate) fn diverged(what: &str, learning_rate: f64) -> Self {
        Self::Failed(format!(
            "{what}: training diverged; lower learning_rate ({learning_rate:e}) or clip with max_grad_norm"
        ))
    }

    /// `path` cannot be read.
    pub fn read(path: &Path, error: &std::io::Error) -> Self {
        Self::input(path, format!("cannot be read: {error}"))
    }

    /// `path` cannot be written.
    pub fn write(path: &Path, error: &std::io::Error) -> Self {
        Self::input(path, format!("cannot be written: {error}; choose another folder with --out"))
    }
}

/// Reads a JSON file.
///
/// # Errors
/// Where it cannot be read, or is not what it should be.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, HarnessError> {
    let text = std::fs::read_to_string(path).map_err(|error| HarnessError::read(path, &error))?;
    serde_json::from_str(&text)
        .map_err(|error| HarnessError::input(path, format!("is not as expected: {error}")))
}
