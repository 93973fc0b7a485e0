use peftlab_layers::{ProjectionInfo, Role};
use regex::Regex;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::method::NotApplicable;
use crate::outline::Outline;

/// Which projections a method acts on, as PEFT's `target_modules` says it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Targets {
    /// Modules whose name is one of these, or ends with a dot and one of these.
    Names(Vec<String>),
    /// `all-linear` for every linear but the head, or a regular expression that a module's whole name matches.
    Pattern(String),
}

const ALL_LINEAR: &str = "all-linear";

impl Targets {
    /// The projections of `outline` that are meant, or, if `targets` is `None`, those with one of `roles`.
    ///
    /// # Errors
    /// Where a name or the pattern fits no module; the error lists the names that there are.
    pub fn select<'a>(
        targets: Option<&Self>,
        roles: &[Role],
        outline: &'a Outline,
    ) -> Result<Vec<&'a ProjectionInfo>, NotApplicable> {
        let all = outline.projections.iter();
        let selected: Vec<_> = match targets {
            None => all.filter(|p| roles.contains(&p.role)).collect(),
            Some(Self::Pattern(pattern)) if pattern == ALL_LINEAR => {
                all.filter(|p| p.role != Role::Head).collect()
            }
            Some(Self::Pattern(pattern)) => {
                let whole = Regex::new(&format!("^(?:{pattern})$"))
                    .map_err(|error| NotApplicable::new(format!("target_modules `{pattern}`: {error}")))?;
                all.filter(|p| whole.is_match(&p.name)).collect()
            }
            Some(Self::Names(names)) => {
                for name in names {
                    if !outline.projections.iter().any(|p| is_named(&p.name, name)) {
                        return Err(no_match(name, outline));
                    }
                }
                all.filter(|p| names.iter().any(|name| is_named(&p.name, name))).collect()
            }
        };
        match (selected.is_empty(), targets) {
            (false, _) => Ok(selected),
            (true, Some(Self::Pattern(pattern))) => Err(no_match(pattern, outline)),
            (true, _) => Err(no_match("", outline)),
        }
    }

    /// `target_modules` of an `adapter_config.json`.
    pub fn from_peft(targets: &Value) -> Option<Self> {
        match serde_json::from_value(targets.clone()).ok()? {
            // PEFT keeps a set: its order in the file is not the same from run to run
            Self::Names(mut names) => {
                names.sort();
                Some(Self::Names(names))
            }
            pattern => Some(pattern),
        }
    }

    /// The whole names, so that the adapter lands on the same modules whatever the rule was.
    pub fn to_peft(targets: &[&ProjectionInfo]) -> Vec<String> {
        targets.iter().map(|p| p.name.clone()).collect()
    }

    /// For a row's label: the names' last parts.
    pub fn label(targets: Option<&Self>, default: &str) -> String {
        match targets {
            None => default.to_owned(),
            Some(Self::Pattern(pattern)) if pattern == ALL_LINEAR => "all".to_owned(),
            Some(Self::Pattern(pattern)) => pattern.clone(),
            Some(Self::Names(names)) => {
                let short = |name: &String| name.strip_suffix("_proj").unwrap_or(name).to_owned();
                names.iter().map(short).collect::<Vec<_>>().join(",")
            }
        }
    }
}

fn is_named(module: &str, name: &str) -> bool {
    module.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn no_match(name: &str, outline: &Outline) -> NotApplicable {
    let mut names: Vec<&str> = Vec::new();
    for projection in &outline.projections {
        let numbered = |part: &str| part.parse::<usize>().is_ok();
        let parts: Vec<&str> = projection.name.split('.').collect();
        let start = parts.iter().rposition(|part| numbered(part)).map_or(0, |i| i + 1);
        let tail = parts[start..].join(".");
        let at = projection.name.len() - tail.len();
        if !names.contains(&&projection.name[at..]) {
            names.push(&projection.name[at..]);
        }
    }
    NotApplicable::new(format!(
        "target_modules: no module of this model is named `{name}`; there are {}",
        names.join(", ")
    ))
}
