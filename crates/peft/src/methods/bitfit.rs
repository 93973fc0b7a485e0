use peftlab_layers::params::ParamInfo;
use serde::{Deserialize, Serialize};

use crate::{Card, Count, Family, Identity, MergeKind, Method, NotApplicable, Outline};

/// BitFit: the bias vectors are trained.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BitFit {}

fn is_bias(name: &str) -> bool {
    name == "bias" || name.ends_with(".bias")
}

impl Method for BitFit {
    const CARD: Card = Card {
        name: "bitfit",
        title: "BitFit",
        family: Family::Partial,
        paper: "Ben Zaken et al. 2021, arXiv 2106.10199",
        summary: "Every bias vector is trained, those of the layer norms included, and no weight matrix.",
        identity: Identity::Exact,
        merge: MergeKind::Already,
        not_for: "Networks without biases, such as LLaMA.",
        settings: &[],
    };

    fn count(&self, outline: &Outline) -> Result<Count, NotApplicable> {
        match outline.body().filter(|info| is_bias(&info.name)).map(ParamInfo::elements).sum() {
            0 => Err(NotApplicable::new("`bitfit` trains biases, and this network has none; use `lora`")),
            biases => Ok(Count::all(biases)),
        }
    }

    fn trains(&self, parameter: &ParamInfo) -> bool {
        is_bias(&parameter.name)
    }
}
