use peftlab_layers::params::ParamInfo;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{Card, Count, Family, Identity, MergeKind, Method, NotApplicable, Outline, PeftConfig};

/// LN-tuning: the norms are trained.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LnTuning {
    /// Norms by name, or by the end of it; every one if absent.
    pub target_modules: Option<Vec<String>>,
}

/// The module that a parameter belongs to.
fn module(parameter: &str) -> &str {
    parameter.rsplit_once('.').map_or("", |(module, _)| module)
}

fn is_norm(module: &str) -> bool {
    module.rsplit('.').next().is_some_and(|last| last.to_ascii_lowercase().contains("norm"))
}

impl LnTuning {
    fn trains_module(&self, name: &str) -> bool {
        let named = |target: &String| {
            name.strip_suffix(target.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        is_norm(name) && self.target_modules.as_ref().is_none_or(|targets| targets.iter().any(named))
    }
}

impl Method for LnTuning {
    const CARD: Card = Card {
        name: "ln-tuning",
        title: "LN-tuning",
        family: Family::Partial,
        paper: "Qi et al. 2022, arXiv 2211.08682; Zhao et al. 2023, arXiv 2312.11420",
        summary: "The gains of every norm are trained, and the biases of those that have one.",
        identity: Identity::Exact,
        merge: MergeKind::Already,
        not_for: "",
        settings: &[("target_modules", "every norm", "names of norms, or their last parts")],
    };

    fn count(&self, outline: &Outline) -> Result<Count, NotApplicable> {
        let trained = outline.body().filter(|info| Method::trains(self, info));
        match trained.map(ParamInfo::elements).sum() {
            0 => {
                let mut names: Vec<&str> = outline.body().map(|info| module(&info.name)).collect();
                names.retain(|name| is_norm(name));
                names.dedup();
                let names = names.join(", ");
                Err(NotApplicable::new(format!("target_modules: no norm is named so; there are {names}")))
            }
            trained => Ok(Count::all(trained)),
        }
    }

    fn trains(&self, parameter: &ParamInfo) -> bool {
        self.trains_module(module(&parameter.name))
    }

    fn from_peft(config: &PeftConfig<'_>) -> Result<Option<Self>, NotApplicable> {
        if !config.is("LN_TUNING") {
            return Ok(None);
        }
        Ok(Some(Self { target_modules: config.value("target_modules", None)? }))
    }

    fn to_peft(&self, outline: &Outline) -> Option<Value> {
        let mut names: Vec<&str> = outline.body().map(|info| module(&info.name)).collect();
        names.retain(|name| self.trains_module(name));
        names.dedup();
        Some(json!({ "peft_type": "LN_TUNING", "target_modules": names }))
    }

    fn peft_name(&self, name: &str) -> String {
        match name.rsplit_once('.') {
            Some((module, last)) if self.trains_module(module) => format!("{module}.ln_tuning_layers.{last}"),
            _ => name.to_owned(),
        }
    }
}
