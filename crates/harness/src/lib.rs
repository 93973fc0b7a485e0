//! From an experiment file to records: plans, runs, training, parity checks.

pub mod device;
mod error;
pub mod exchange;
pub mod execute;
mod experiment;
mod model;
mod optimizer;
pub mod parity;
pub mod plan;
pub mod run;
mod train;

pub use device::probe;
pub use error::{HarnessError, read_json};
pub use experiment::{
    DtypeSpec, Experiment, ExperimentFile, HeadSpec, Keep, MethodSpec, ModelSpec, SearchSpec, TrainingSpec,
    WeightsSpec,
};
pub use model::adapter;
pub use model::attach::{Attached, parameters};
pub use model::source::{ModelSource, TaskHead};
pub use optimizer::{OptimizerSpec, Schedule, clip_global_norm};
pub use run::card;
pub use run::checks::Held;
pub use train::loss::{FirstToken, Loss, Targets, TokenTargets, loss};
pub use train::step::Stepper;
pub use train::{Event, Feeder, History, Trainer, Validate};
