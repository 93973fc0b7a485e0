//! From an experiment file to records: plans, runs, training, parity checks.

pub mod adapter;
mod attach;
pub mod device;
mod error;
pub mod exchange;
mod experiment;
pub mod grid;
mod kernels;
mod loss;
mod optimizer;
pub mod parity;
pub mod plan;
pub mod probe;
pub mod run;
pub mod search;
mod step;
mod train;

pub use attach::{Attached, parameters};
pub use error::{HarnessError, read_json};
pub use experiment::{DtypeSpec, Experiment, Keep, MethodSpec, ModelSpec, TrainingSpec, WeightsSpec};
pub use loss::{Loss, Targets, loss};
pub use optimizer::{OptimizerSpec, Schedule, clip_global_norm};
pub use step::Stepper;
pub use train::{Event, Feeder, History, Trainer, Validate};
