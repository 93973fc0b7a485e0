//! Who runs cells: this machine's processes, or in tests somebody who only says how they went.

use peftlab_record::Status;
use serde::{Deserialize, Serialize};

use super::job::Job;
use crate::error::HarnessError;
use crate::train::Event;

/// Runs cells, each in a place of its own. Several threads call it at a time.
pub trait Executor: Sync {
    /// Runs `job`, and waits until it has ended. A job that ended well has left its record.
    ///
    /// # Errors
    /// Where nothing can be started. A cell that fails is [`Ended::Failed`].
    fn run(&self, job: &Job, line: &mut dyn FnMut(&Line)) -> Result<Ended, HarnessError>;

    /// Ends everything that runs; nothing is started after this.
    fn stop(&self);

    /// Whether it was stopped.
    fn stopped(&self) -> bool;
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ended {
    /// Its record is there.
    Well,
    /// Another run works on it.
    Claimed,
    /// It failed by itself: that is its result.
    Failed(Failure),
    /// Somebody stopped it, which says nothing of it; in words.
    Stopped(String),
}

/// Why a job failed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Failure {
    /// Whether memory ran out.
    pub out_of_memory: bool,
    /// The reason, in a sentence or two.
    pub message: String,
    /// Everything that it said on its standard error.
    pub said: String,
}

impl Failure {
    /// How its record says that it ended.
    pub(crate) fn status(&self) -> Status {
        if self.out_of_memory { Status::OutOfMemory } else { Status::Failed }
    }
}

/// A line that a cell's process prints on its standard output.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Line {
    /// An optimizer step is done.
    Step {
        /// From 1.
        step: u64,
        /// Steps in all.
        steps: u64,
        /// Mean training loss.
        loss: f64,
        /// Rate of this step, padding not counted.
        tokens_per_second: f64,
        /// Bytes in use on the device.
        memory: Option<u64>,
    },
    /// The validation set was looked at.
    Validation {
        /// After this many steps.
        step: u64,
        /// Mean loss.
        loss: f64,
    },
    /// A thread panicked: what it said, and where.
    Panicked {
        /// With the place in the source.
        message: String,
    },
    /// The cell failed, and why.
    Failed {
        /// In a sentence or two.
        message: String,
    },
}

impl From<&Event> for Line {
    fn from(event: &Event) -> Self {
        match event {
            Event::Step { step, steps } => Self::Step {
                step: step.step,
                steps: *steps as u64,
                loss: step.loss,
                tokens_per_second: step.tokens as f64 / step.seconds,
                memory: step.used_bytes,
            },
            Event::Validation { step, loss } => Self::Validation { step: *step as u64, loss: *loss },
        }
    }
}
