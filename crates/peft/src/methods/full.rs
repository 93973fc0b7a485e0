use peftlab_layers::params::ParamInfo;
use serde::{Deserialize, Serialize};

use crate::{Card, Count, Family, Identity, MergeKind, Method, NotApplicable, Outline};

/// Full fine-tuning: every parameter is trained.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Full {}

impl Method for Full {
    const CARD: Card = Card {
        name: "full",
        title: "Full fine-tuning",
        family: Family::Baseline,
        paper: "Devlin et al. 2018, arXiv 1810.04805",
        summary: "Every parameter is trained: the yardstick for what can be reached, and for what it costs.",
        identity: Identity::Exact,
        merge: MergeKind::Already,
        not_for: "",
        settings: &[],
    };

    fn count(&self, outline: &Outline) -> Result<Count, NotApplicable> {
        Ok(Count::all(outline.body().map(ParamInfo::elements).sum()))
    }

    fn trains(&self, _: &ParamInfo) -> bool {
        true
    }
}
