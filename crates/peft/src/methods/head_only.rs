use serde::{Deserialize, Serialize};

use crate::{Card, Count, Family, Identity, MergeKind, Method, NotApplicable, Outline};

/// The linear probe: the head alone is trained, on frozen features.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadOnly {}

impl Method for HeadOnly {
    const CARD: Card = Card {
        name: "head",
        title: "Head only (linear probe)",
        family: Family::Baseline,
        paper: "Alain & Bengio 2016, arXiv 1610.01644",
        summary: "Only the task's head is trained: what the frozen features give by themselves.",
        identity: Identity::Exact,
        merge: MergeKind::Already,
        not_for: "Language models: their output layer is pretrained, and there is no other head.",
        settings: &[],
    };

    fn count(&self, outline: &Outline) -> Result<Count, NotApplicable> {
        match outline.head() {
            0 => Err(NotApplicable::new(
                "`head` trains the task's head, and this network has none for this task; use `lora` or `full`",
            )),
            _ => Ok(Count::default()),
        }
    }
}
