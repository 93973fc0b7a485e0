//! Parameter-efficient fine-tuning methods behind one trait.
//!
//! A method is one file in `methods/` that implements [`Method`], and a line in [`Registry::standard`].
//! Methods from other crates are added with [`Registry::add`].

mod adamw;
mod method;
pub mod methods;
mod outline;
mod policy;
mod registry;
mod target;

pub use adamw::{AdamConstants, AdamW, AdamWState};
pub use method::{Card, Count, DynMethod, Family, Identity, MergeKind, Method, NotApplicable};
pub use outline::Outline;
pub use policy::{Course, Policy, adapters_mut};
pub use registry::{Entry, Registry, SettingsError, UnknownMethod};
pub use target::Targets;
