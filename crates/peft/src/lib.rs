//! Parameter-efficient fine-tuning methods behind one trait.
//!
//! A method is one file in `methods/` that implements [`Method`], and a line in [`Registry::standard`].
//! Methods from other crates are added with [`Registry::add`].

mod adamw;
mod limits;
mod method;
pub mod methods;
mod outline;
mod peft_config;
mod policy;
mod rank_patterns;
mod registry;
mod selection;
mod target;

pub use adamw::{AdamConstants, AdamW, AdamWState};
pub use method::{Card, Count, DynMethod, Family, Identity, MergeKind, Method, NotApplicable};
pub use outline::Outline;
pub use peft_config::PeftConfig;
pub use policy::{Course, Policy, adapters_mut};
pub use rank_patterns::{ALPHA_PATTERN, RANK_PATTERN, RankPatterns, Ranked};
pub use registry::{Described, Entry, Registry, SettingsError, UnknownMethod};
pub use selection::{EXCLUDE_MODULES, LAYERS_PATTERN, LAYERS_TO_TRANSFORM, OneOrMore, Selection};
pub use target::Targets;
