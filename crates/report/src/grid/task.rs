use peftlab_record::{PlannedTask, Record};

use crate::marks::Marks;

/// A column.
#[derive(Clone, Debug, Default)]
pub(crate) struct Task {
    pub(crate) name: String,
    pub(crate) kind: String,
    /// Tokens at which its examples are cut, or to which they are packed.
    pub(crate) max_length: Option<u64>,
    pub(crate) metric: String,
    pub(crate) higher_is_better: bool,
    pub(crate) in_points: bool,
    /// Whether the scores are of the validation set: some run has none on a test set.
    pub(crate) on_validation: bool,
    /// What is told apart in the column; none where nothing was marked.
    pub(crate) marks: Option<Marks>,
}

impl Task {
    /// The column of a planned task with these `records`.
    pub(super) fn new<'r>(task: &PlannedTask, records: impl Iterator<Item = &'r Record> + Clone) -> Self {
        let mut measured = records.clone().filter_map(|record| record.measured.as_ref());
        Self {
            name: task.name.clone(),
            kind: task.kind.clone(),
            max_length: records.clone().find_map(|record| record.settings["task"]["max_length"].as_u64()),
            metric: task.metric.clone(),
            higher_is_better: task.higher_is_better,
            in_points: task.in_points,
            on_validation: measured.any(|measured| measured.test.is_empty()),
            marks: None,
        }
    }

    /// The split that scores are of.
    pub(crate) fn split(&self) -> &'static str {
        if self.on_validation { "validation" } else { "test" }
    }

    /// The metric's short name for a header.
    pub(crate) fn short(&self) -> &str {
        match self.metric.as_str() {
            "accuracy" => "acc",
            "pearson" => "r",
            "spearman" => "rho",
            "matthews" => "mcc",
            "perplexity" => "ppl",
            other => other,
        }
    }

    /// A value as it is shown.
    pub(crate) fn shown(&self, value: f64) -> f64 {
        if self.in_points { 100.0 * value } else { value }
    }
}
