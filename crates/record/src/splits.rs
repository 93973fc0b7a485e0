//! What became of a task's data.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What became of a split's rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SplitInfo {
    /// The split.
    pub name: String,
    /// Rows that were read.
    pub rows: u64,
    /// Examples that they gave; of packed text, blocks.
    pub examples: u64,
    /// Tokens of the examples.
    pub tokens: u64,
    /// Examples whose end was cut off.
    pub cut: u64,
    /// Rows that gave no example, by the reason.
    #[serde(default)]
    pub dropped: BTreeMap<String, u64>,
}
