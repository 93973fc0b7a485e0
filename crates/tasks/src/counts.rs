//! What became of a split's rows.

use crate::spec::{TaskSpec, TooLong};

/// What became of a split's rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SplitCounts {
    /// The split.
    pub name: String,
    /// Rows that were read.
    pub rows: u64,
    /// Examples that they gave; of running text, blocks.
    pub examples: u64,
    /// Tokens of the examples.
    pub tokens: u64,
    /// Examples whose end was cut off at `max_length`.
    pub cut: u64,
    /// Rows that gave no example, by the reason.
    pub dropped: Vec<(String, u64)>,
    /// Tokens at the end of packed text that did not fill an example.
    pub lost_tokens: u64,
}

impl SplitCounts {
    pub(crate) fn drop(&mut self, reason: &str) {
        match self.dropped.iter_mut().find(|(known, _)| known == reason) {
            Some((_, count)) => *count += 1,
            None => self.dropped.push((reason.to_owned(), 1)),
        }
    }

    /// A sentence for each thing that was left out.
    pub(crate) fn warnings(&self, task: &TaskSpec) -> Vec<String> {
        let (name, length) = (&self.name, task.max_length);
        let mut all = Vec::new();
        if self.cut > 0 {
            all.push(format!(
                "{name}: {} of {} examples are longer than max_length = {length} and are cut there",
                self.cut, self.examples
            ));
        }
        for (reason, count) in &self.dropped {
            all.push(format!("{name}: {count} of {} rows are left out: {reason}", self.rows));
        }
        if self.lost_tokens > 0 {
            all.push(format!(
                "{name}: the last token of the packed text is left out, for it predicts nothing"
            ));
        }
        all
    }
}

/// What becomes of an example under its task's `too_long`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Kept,
    Cut,
    Dropped,
}

impl TaskSpec {
    /// What becomes of an example, which is `long` if it goes beyond `max_length`.
    ///
    /// # Errors
    /// What is wrong where it must fit and does not.
    pub(crate) fn fate(&self, long: bool) -> Result<Fate, String> {
        match self.too_long {
            _ if !long => Ok(Fate::Kept),
            TooLong::Cut => Ok(Fate::Cut),
            TooLong::Drop => Ok(Fate::Dropped),
            TooLong::Refuse => Err(format!(
                "is longer than max_length = {} tokens; raise max_length, or set too_long to \"cut\" or \"drop\"",
                self.max_length
            )),
        }
    }
}

/// Why rows above `max_length` are dropped.
pub(crate) const TOO_LONG: &str = "they are longer than max_length (too_long = \"drop\")";
