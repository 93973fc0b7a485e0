//! The model of a run: its files, its head, the method on it, and what is written of that.

pub mod adapter;
pub(crate) mod attach;
pub(crate) mod labels;
pub(crate) mod source;
pub(crate) mod special;
pub(crate) mod untied;
