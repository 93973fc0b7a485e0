//! Which projections a method acts on.

use fancy_regex::{Regex, RegexBuilder};
use peftlab_layers::{ProjectionInfo, Role};
use serde::{Deserialize, Serialize};

use crate::method::NotApplicable;
use crate::outline::Outline;
use crate::target::Targets;

/// Steps after which matching a pattern against one name is given up.
const BACKTRACKS: usize = 100_000;

/// Which projections a method acts on, by PEFT's keys and with PEFT's meaning: settings of every method that acts on
/// projections.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Selection {
    /// Projections; each method has its own where it is absent.
    pub target_modules: Option<Targets>,
    /// Projections that are left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclude_modules: Option<Targets>,
    /// Numbers of the layers whose projections are meant; all if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers_to_transform: Option<OneOrMore<usize>>,
    /// Names of the lists whose entries those numbers count; any if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers_pattern: Option<OneOrMore<String>>,
    /// Of an adapter that was read, the modules that it holds as a whole: PEFT puts nothing on them or inside them,
    /// and takes names that no module has for nothing. None for settings of an experiment.
    #[serde(skip)]
    pub modules_to_save: Option<Vec<String>>,
}

/// A value, or a list of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneOrMore<T> {
    /// One.
    One(T),
    /// A list.
    More(Vec<T>),
}

impl<T> OneOrMore<T> {
    /// The values.
    pub fn as_slice(&self) -> &[T] {
        match self {
            Self::One(value) => std::slice::from_ref(value),
            Self::More(values) => values,
        }
    }
}

/// Rows for the cards of methods that have a [`Selection`].
pub const EXCLUDE_MODULES: (&str, &str, &str) =
    ("exclude_modules", "none", "projections left out, by names or a regular expression");
/// See [`Selection::layers_to_transform`].
pub const LAYERS_TO_TRANSFORM: (&str, &str, &str) =
    ("layers_to_transform", "all", "a layer's number, or a list of them; with names as target_modules");
/// See [`Selection::layers_pattern`].
pub const LAYERS_PATTERN: (&str, &str, &str) =
    ("layers_pattern", "any", "the list of layers that layers_to_transform counts, such as \"layers\"");

impl Selection {
    /// The projections of `outline` that are meant; those with one of `roles`, if there are no `target_modules`. A
    /// task's head is trained itself, and never among them.
    ///
    /// # Errors
    /// Where a name or a pattern fits no module, or a pattern is none.
    pub fn select<'o>(
        &self,
        roles: &[Role],
        outline: &'o Outline,
    ) -> Result<Vec<&'o ProjectionInfo>, NotApplicable> {
        let layers = self.layers()?;
        let found = self.found(outline);
        let mut selected = Targets::select(found.as_ref().or(self.target_modules.as_ref()), roles, outline)?;
        for module in self.modules_to_save.iter().flatten() {
            let saved = compile("modules_to_save", &format!(r"^(?:^|.*\.){module}(?:$|\..*)"))?;
            let mut kept = Vec::with_capacity(selected.len());
            for projection in selected {
                if !saved.is_match(&projection.name).map_err(|error| gave_up("modules_to_save", &error))? {
                    kept.push(projection);
                }
            }
            selected = kept;
        }
        if let Some(excluded) = &self.exclude_modules {
            let excluded = excluded.matcher("exclude_modules")?;
            let mut kept = Vec::with_capacity(selected.len());
            for projection in selected {
                if !excluded.matches(&projection.name)? {
                    kept.push(projection);
                }
            }
            selected = kept;
        }
        if let Some(layers) = layers {
            // as in PEFT, a name that is a module's whole path stands for itself
            let whole =
                |name: &String| matches!(&self.target_modules, Some(Targets::Names(n)) if n.contains(name));
            let mut kept = Vec::with_capacity(selected.len());
            for projection in selected {
                if whole(&projection.name) || layers.holds(&projection.name)? {
                    kept.push(projection);
                }
            }
            selected = kept;
        }
        match selected.is_empty() {
            false => Ok(selected),
            true => Err(NotApplicable::new(
                "exclude_modules and layers_to_transform leave none of the projections that target_modules names",
            )),
        }
    }

    /// The names that modules have, of an adapter that was read; none where all are to have one.
    fn found(&self, outline: &Outline) -> Option<Targets> {
        let (Some(Targets::Names(names)), Some(_)) = (&self.target_modules, &self.modules_to_save) else {
            return None;
        };
        let known = |name: &&String| outline.modules().any(|module| crate::target::is_named(module, name));
        let found: Vec<String> = names.iter().filter(known).cloned().collect();
        (!found.is_empty()).then_some(Targets::Names(found))
    }

    fn layers(&self) -> Result<Option<Layers<'_>>, NotApplicable> {
        let patterns = self.layers_pattern.as_ref().map_or(&[][..], OneOrMore::as_slice);
        let numbers = match &self.layers_to_transform {
            // PEFT takes an empty list for none
            Some(numbers) if !numbers.as_slice().is_empty() => numbers.as_slice(),
            _ if patterns.is_empty() => return Ok(None),
            _ => return Err(NotApplicable::new("layers_pattern needs layers_to_transform beside it")),
        };
        if matches!(self.target_modules, Some(Targets::Pattern(_))) {
            return Err(NotApplicable::new(
                "layers_to_transform goes with names as target_modules, not with a pattern; put the layers into the \
                 pattern",
            ));
        }
        let patterns = match patterns {
            [] => vec![compile("layers_pattern", r"^.*?\.[^.]*\.(\d+)\.")?],
            patterns => patterns
                .iter()
                .map(|pattern| {
                    // the pattern is in no group of its own in PEFT, and the first alternative of several has no number
                    compile("layers_pattern", &format!(r"^(?:(?:^|.*?\.){pattern}\.(?P<idx>\d+)\.)"))
                })
                .collect::<Result<_, _>>()?,
        };
        Ok(Some(Layers { numbers, patterns }))
    }

    /// For a row's label: the names' last parts, `default` if there are none.
    pub fn label(&self, default: &str) -> String {
        let mut label = Targets::label(self.target_modules.as_ref(), default);
        if let Some(excluded) = &self.exclude_modules {
            label += &format!(" without {}", Targets::label(Some(excluded), ""));
        }
        if let Some(numbers) = &self.layers_to_transform {
            let numbers: Vec<String> = numbers.as_slice().iter().map(ToString::to_string).collect();
            label += &format!(" layers {}", numbers.join(","));
        }
        label
    }
}

/// Layers by number.
struct Layers<'a> {
    numbers: &'a [usize],
    patterns: Vec<Regex>,
}

impl Layers<'_> {
    /// Whether the layer that the first fitting pattern finds in `name` is among them.
    fn holds(&self, name: &str) -> Result<bool, NotApplicable> {
        for pattern in &self.patterns {
            if let Some(found) = pattern.captures(name).map_err(|error| gave_up("layers_pattern", &error))? {
                let number = found.name("idx").or_else(|| found.get(1)).and_then(|n| n.as_str().parse().ok());
                return Ok(number.is_some_and(|number: usize| self.numbers.contains(&number)));
            }
        }
        Ok(false)
    }
}

fn gave_up(key: &str, error: &fancy_regex::Error) -> NotApplicable {
    NotApplicable::new(format!("{key}: {error}; use a simpler pattern, or names"))
}

/// `pattern`, the setting `key`, as Python's `re` reads it.
///
/// # Errors
/// Where it is none, or Python and this program would read it differently.
pub(crate) fn compile(key: &str, pattern: &str) -> Result<Regex, NotApplicable> {
    // sets of characters, escapes and groups that only one of both has; `(?<` is a look-behind or no Python
    let differs = [
        "[[", "&&", "--", "~~", "\\K", "\\G", "\\h", "\\H", "\\z", "\\e", "\\p", "\\P", "\\N", "(?<", "(?P>",
    ];
    let without = pattern.replace("(?<=", " ").replace("(?<!", " ");
    if let Some(part) = differs.iter().find(|part| without.contains(**part)) {
        return Err(NotApplicable::new(format!(
            "{key} `{pattern}`: `{part}` means something else, or nothing, in Python; write it another way"
        )));
    }
    if is_verbose(pattern) {
        return Err(NotApplicable::new(format!(
            "{key} `{pattern}`: with the flag x Python takes other blanks and comments for none than this program; write \
             the pattern without `x`, blanks and comments"
        )));
    }
    RegexBuilder::new(pattern)
        .backtrack_limit(BACKTRACKS)
        .build()
        .map_err(|error| NotApplicable::new(format!("{key} `{pattern}`: {error}")))
}

/// Whether a group of `pattern` sets Python's flag x: `(?x)`, `(?ix)`, `(?x:`, `(?x-i:`.
fn is_verbose(pattern: &str) -> bool {
    let (mut rest, mut set) = (pattern, false);
    while let Some(c) = rest.chars().next() {
        let sets = |flags: &str| {
            let end = flags.find(|c: char| !c.is_ascii_alphabetic());
            end.is_some_and(|end| flags[..end].contains('x') && flags[end..].starts_with([')', ':', '-']))
        };
        match c {
            // what is escaped opens nothing
            '\\' => rest = &rest[1..],
            '[' if !set => set = true,
            ']' => set = false,
            '(' if !set && rest.strip_prefix("(?").is_some_and(sets) => return true,
            _ => {}
        }
        rest = rest.char_indices().nth(1).map_or("", |(next, _)| &rest[next..]);
    }
    false
}

/// What tells whether a module is meant.
pub(crate) enum Matcher<'a> {
    /// By the end of its name.
    Names(&'a [String]),
    /// By the whole of it.
    Pattern(Regex, &'static str),
}

impl Matcher<'_> {
    /// Whether the module `name` is meant.
    ///
    /// # Errors
    /// Where a pattern takes too many steps.
    pub(crate) fn matches(&self, name: &str) -> Result<bool, NotApplicable> {
        match self {
            Self::Names(names) => Ok(names.iter().any(|end| crate::target::is_named(name, end))),
            Self::Pattern(pattern, key) => pattern.is_match(name).map_err(|error| gave_up(key, &error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const Q: &str = "model.layers.11.self_attn.q_proj";

    fn matches(pattern: &str, name: &str) -> Result<bool, NotApplicable> {
        Targets::Pattern(pattern.to_owned()).matcher("target_modules")?.matches(name)
    }

    #[test]
    fn a_pattern_is_pythons_fullmatch() {
        assert_eq!(matches(r".*\.(?!k_proj)\w+_proj", Q), Ok(true));
        assert_eq!(matches(r".*(?<=self_attn\.)q_proj", Q), Ok(true));
        assert_eq!(matches(r"model\.layers\.(?P<n>\d)(?P=n)\..*q_proj", Q), Ok(true));
        assert_eq!(matches("q_proj", Q), Ok(false));
        assert_eq!(matches("model|model.*", Q), Ok(true));
    }

    #[test]
    fn a_pattern_that_python_reads_otherwise_or_never_ends_is_refused() {
        for pattern in [r"[a&&b].*", "(", r"(?<x>q)_proj", r"(?P>x)"] {
            assert!(matches(pattern, Q).is_err(), "{pattern}");
        }
        assert!(matches(r"(\w+\.?)+(?=X)\1Y", Q).is_err());
    }

    #[test]
    fn the_flag_x_is_refused_by_its_name_and_what_looks_like_it_is_not() {
        for pattern in ["(?x) .*q_proj # all", "(?ix).*", ".*(?x:q _proj)", "(?i)(?x-i:q)"] {
            let message = matches(pattern, Q).unwrap_err().to_string();
            assert!(message.contains("the flag x"), "{pattern}: {message}");
        }
        for pattern in
            ["(?i).*Q_PROJ", r".*\(?x?\)?q_proj", ".*[(?x:]?q_proj", "(?P<x>.*)q_proj", ".*(?:x)?q_proj"]
        {
            assert_eq!(matches(pattern, Q), Ok(true), "{pattern}");
        }
    }

    #[test]
    fn layers_are_counted_by_the_first_number_or_by_the_named_list() {
        let selection = |pattern: Option<&str>| Selection {
            layers_to_transform: Some(OneOrMore::One(11)),
            layers_pattern: pattern.map(|pattern| OneOrMore::One(pattern.to_owned())),
            ..Selection::default()
        };
        let holds = |pattern, name| selection(pattern).layers().unwrap().unwrap().holds(name);
        assert_eq!(holds(None, Q), Ok(true));
        assert_eq!(holds(None, "model.layers.1.experts.11.up_proj"), Ok(false));
        assert_eq!(holds(Some("layers"), Q), Ok(true));
        assert_eq!(holds(Some("blocks"), Q), Ok(false));
        assert_eq!(holds(Some("blocks|.*layers"), Q), Ok(true));
        assert_eq!(holds(Some("model|layers"), Q), Ok(false));
    }
}
