//! What a task's keys alone show.

use peftlab_metrics::Metric;

use crate::TaskError;
use crate::labels::same_number;
use crate::spec::{Columns, SplitSpec, TaskKind, TaskSpec, Template, TooLong};

/// Far above what any network reads; a length is allocated before a network could refuse it.
const LONGEST: usize = 1 << 24;

impl TaskSpec {
    /// The metrics, if the keys go together.
    pub(crate) fn check(&self) -> Result<Vec<Metric>, TaskError> {
        let refuse = |message: String| Err(TaskError::new(&self.name, "[[task]]", message));
        if !(2..=LONGEST).contains(&self.max_length) {
            return refuse(format!("max_length is {}; it must be from 2 to {LONGEST}", self.max_length));
        }
        if let Some(key) = self.foreign_key() {
            let on_turns = match (self.kind, &self.columns.messages) {
                (TaskKind::Instruction, Some(_)) => " on turns",
                _ => "",
            };
            return refuse(format!(
                "{key} is not for {} tasks{on_turns}; take the key out",
                self.kind.name()
            ));
        }
        if self.columns.messages.is_some() && self.template != Template::Chat {
            return refuse("columns.messages holds chat turns; set template = \"chat\", too".to_owned());
        }
        if let Some(labels) = &self.labels {
            if labels.len() < 2 {
                return refuse("labels: give two or more".to_owned());
            }
            if let Some((_, name)) = labels.iter().enumerate().find(|(i, name)| labels[..*i].contains(name)) {
                return refuse(format!("labels: `{name}` stands twice; name each class once"));
            }
            if let Some((one, other)) = same_number(labels) {
                return refuse(format!(
                    "labels: `{one}` and `{other}` are the same number; name each class once"
                ));
            }
        }
        if let Some([low, high]) = self.range
            && !(low.is_finite() && high.is_finite() && low < high)
        {
            return refuse(format!("range is [{low}, {high}]; give the smallest value, then the largest"));
        }
        if self.score_first_token && !matches!(self.kind, TaskKind::CausalLm | TaskKind::Instruction) {
            let kind = self.kind.name();
            return refuse(format!(
                "score_first_token is for language models, not for {kind} tasks; leave it out"
            ));
        }
        let metrics = self.metrics.clone().unwrap_or_else(|| self.kind.default_metrics());
        if let Some(metric) = metrics.iter().find(|metric| !self.kind.allows(**metric)) {
            return refuse(format!("metrics: `{}` is not for {} tasks", metric.name(), self.kind.name()));
        }
        if let Some((_, metric)) = metrics.iter().enumerate().find(|(i, m)| metrics[..*i].contains(m)) {
            return refuse(format!("metrics: `{}` stands twice; name it once", metric.name()));
        }
        match metrics.is_empty() {
            true => refuse("metrics is empty; give at least one, or leave the key out".to_owned()),
            false => Ok(metrics),
        }
    }

    /// A key that is set and that this kind of task does not read.
    fn foreign_key(&self) -> Option<&'static str> {
        use TaskKind::{CausalLm, Classification, Instruction, Regression};
        let sequences = [Classification, Regression].contains(&self.kind);
        let (columns, default) = (&self.columns, Columns::default());
        let fields = self.kind == Instruction && columns.messages.is_none();
        let packs = self.kind == CausalLm && self.packing;
        let files = [Some(&self.train), Some(&self.validation), self.test.as_ref()];
        let reads = !files.into_iter().flatten().all(|split| matches!(split, SplitSpec::Random(_)));
        let keys = [
            ("columns.text", columns.text != default.text, sequences || self.kind == CausalLm),
            ("columns.label", columns.label != default.label, sequences),
            ("columns.instruction", columns.instruction != default.instruction, fields),
            ("columns.input", columns.input != default.input, fields),
            ("columns.output", columns.output != default.output, fields),
            ("too_long with packing, which cuts no text,", self.too_long != TooLong::Cut, !packs),
            ("header = false", !self.header, reads),
            ("quotes", self.quotes.is_some(), reads),
            ("unescape", self.unescape, reads),
            ("labels", self.labels.is_some(), self.kind == Classification),
            ("range", self.range.is_some(), self.kind == Regression),
            ("packing = false", !self.packing, self.kind == CausalLm),
            ("template = \"chat\"", self.template == Template::Chat, self.kind == Instruction),
            ("columns.text_b", self.columns.text_b.is_some(), sequences),
            ("columns.messages", self.columns.messages.is_some(), self.kind == Instruction),
        ];
        keys.into_iter().find(|(_, set, read)| *set && !read).map(|(key, ..)| key)
    }
}
