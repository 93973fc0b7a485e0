use peftlab_layers::{ProjectionInfo, Role};
use serde::{Deserialize, Serialize};

use crate::method::NotApplicable;
use crate::outline::Outline;
use crate::selection::{Matcher, compile};

/// Which projections a method acts on, as PEFT's `target_modules` says it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Targets {
    /// Modules whose name is one of these, or ends with a dot and one of these.
    Names(Vec<String>),
    /// `all-linear` for every linear but the head, or a regular expression that a module's whole name matches.
    Pattern(String),
}

const TARGET_MODULES: &str = "target_modules";
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
        let selected = match targets {
            None => outline.targets().filter(|p| roles.contains(&p.role)).collect(),
            Some(Self::Pattern(pattern)) if pattern.eq_ignore_ascii_case(ALL_LINEAR) => {
                outline.targets().filter(|p| p.role != Role::Head || outline.head() > 0).collect()
            }
            Some(targets) => targets.matching(TARGET_MODULES, outline)?,
        };
        match (selected.is_empty(), targets) {
            (false, _) => Ok(selected),
            (true, Some(Self::Pattern(pattern))) => Err(no_match(TARGET_MODULES, pattern, outline)),
            (true, _) => Err(no_match(TARGET_MODULES, "", outline)),
        }
    }

    /// The projections of `outline` with one of the names, or that match the pattern, the setting `key`.
    pub(crate) fn matching<'a>(
        &self,
        key: &'static str,
        outline: &'a Outline,
    ) -> Result<Vec<&'a ProjectionInfo>, NotApplicable> {
        let matcher = self.matcher(key)?;
        // a table of embeddings can be meant, too, and then what is left would be another adapter
        for module in
            outline.modules().filter(|module| !outline.projections.iter().any(|p| p.name == *module))
        {
            if matcher.matches(module)? && module.contains("embed") {
                return Err(NotApplicable::new(format!(
                    "{key}: `{module}` is a table of embeddings, and methods act on linear maps alone; leave it out"
                )));
            }
        }
        if let Self::Names(names) = self {
            for name in names {
                if !outline.projections.iter().any(|p| is_named(&p.name, name)) {
                    return Err(no_match(key, name, outline));
                }
            }
        }
        let mut selected = Vec::new();
        for projection in outline.targets() {
            if matcher.matches(&projection.name)? {
                selected.push(projection);
            }
        }
        Ok(selected)
    }

    /// What tells whether a module is meant.
    pub(crate) fn matcher(&self, key: &'static str) -> Result<Matcher<'_>, NotApplicable> {
        Ok(match self {
            Self::Names(names) => Matcher::Names(names),
            Self::Pattern(pattern) => Matcher::Pattern(compile(key, &format!("^(?:{pattern})$"))?, key),
        })
    }

    /// The same with its names in order, or `None` if there are none: PEFT keeps a set, whose order in the file is not
    /// the same from run to run.
    pub(crate) fn sorted(self) -> Option<Self> {
        match self {
            Self::Names(names) if names.is_empty() => None,
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

pub(crate) fn is_named(module: &str, name: &str) -> bool {
    module.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn no_match(key: &str, name: &str, outline: &Outline) -> NotApplicable {
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
        "{key}: no module of this model is named `{name}`; there are {}",
        names.join(", ")
    ))
}
