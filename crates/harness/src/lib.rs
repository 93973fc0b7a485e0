//! From an experiment file to records: plans, runs, training, parity checks.

pub mod adapter;
mod attach;
pub mod card;
mod checks;
pub mod device;
mod error;
pub mod exchange;
pub mod execute;
mod experiment;
mod gpu;
mod kernels;
mod labels;
mod loss;
mod optimizer;
pub mod parity;
pub mod plan;
pub mod probe;
pub mod run;
mod source;
mod special;
mod step;
mod train;
mod untied;

pub use attach::{Attached, parameters};
pub use checks::Held;
pub use error::{HarnessError, read_json};
pub use experiment::{
    DtypeSpec, Experiment, ExperimentFile, HeadSpec, Keep, MethodSpec, ModelSpec, SearchSpec, TrainingSpec,
    WeightsSpec,
};
pub use loss::{FirstToken, Loss, Targets, TokenTargets, loss};
pub use optimizer::{OptimizerSpec, Schedule, clip_global_norm};
pub use source::{ModelSource, TaskHead};
pub use step::Stepper;
pub use train::{Event, Feeder, History, Trainer, Validate};
