//! Ranks and factors of single modules.

use std::collections::BTreeMap;

use fancy_regex::Regex;
use peftlab_layers::ProjectionInfo;
use serde::{Deserialize, Serialize};

use crate::methods::check_rank;
use crate::selection::compile;
use crate::{NotApplicable, PeftConfig};

/// Ranks and α of single modules, by PEFT's keys and with PEFT's meaning: a key is a regular expression for the end of
/// a module's name, after a dot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RankPatterns {
    /// Ranks in the place of the method's.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub rank_pattern: BTreeMap<String, usize>,
    /// α in the place of the method's.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub alpha_pattern: BTreeMap<String, f64>,
}

/// For methods that have none.
pub(crate) static NO_PATTERNS: RankPatterns = RankPatterns::NONE;

/// A row for the cards of methods that have [`RankPatterns`].
pub const RANK_PATTERN: (&str, &str, &str) =
    ("rank_pattern", "none", "a table of ranks by the end of a module's name, a regular expression");
/// See [`RankPatterns::alpha_pattern`].
pub const ALPHA_PATTERN: (&str, &str, &str) =
    ("alpha_pattern", "none", "a table of α by the end of a module's name, a regular expression");

impl RankPatterns {
    /// No patterns.
    pub const NONE: Self = Self { rank_pattern: BTreeMap::new(), alpha_pattern: BTreeMap::new() };

    /// `targets` with the rank and α of each: those given, unless a pattern says otherwise.
    ///
    /// # Errors
    /// Where a pattern is none, two give a module two values, or a rank is 0.
    pub fn of_each<'o>(
        &self,
        targets: Vec<&'o ProjectionInfo>,
        rank: usize,
        alpha: f64,
    ) -> Result<Vec<Ranked<'o>>, NotApplicable> {
        let patterns = self.compiled()?;
        let at = |info: &'o ProjectionInfo| {
            let rank = patterns.rank(&info.name)?.unwrap_or(rank);
            check_rank("rank_pattern", rank)?;
            Ok(Ranked { info, rank, alpha: patterns.alpha(&info.name)?.unwrap_or(alpha) })
        };
        targets.into_iter().map(at).collect()
    }

    /// The patterns of both tables, ready to be matched.
    ///
    /// # Errors
    /// Where one of them is none.
    pub(crate) fn compiled(&self) -> Result<Compiled, NotApplicable> {
        Ok(Compiled {
            ranks: compiled("rank_pattern", &self.rank_pattern)?,
            alphas: compiled("alpha_pattern", &self.alpha_pattern)?,
        })
    }
}

/// A target with the rank and α that it has.
#[derive(Clone, Copy, Debug)]
pub struct Ranked<'o> {
    /// Name and shape.
    pub info: &'o ProjectionInfo,
    /// r
    pub rank: usize,
    /// α
    pub alpha: f64,
}

type Table<T> = Vec<(Regex, T)>;

fn compiled<T: Copy>(key: &str, table: &BTreeMap<String, T>) -> Result<Table<T>, NotApplicable> {
    table
        .iter()
        .map(|(pattern, value)| Ok((compile(key, &format!(r"^(?:.*\.)?(?:{pattern})$"))?, *value)))
        .collect()
}

/// [`RankPatterns`], ready to be matched.
pub(crate) struct Compiled {
    ranks: Table<usize>,
    alphas: Table<f64>,
}

impl Compiled {
    /// The rank of the module `name`, if it has its own.
    ///
    /// # Errors
    /// Where two patterns give it two.
    pub(crate) fn rank(&self, name: &str) -> Result<Option<usize>, NotApplicable> {
        find("rank_pattern", &self.ranks, name)
    }

    /// The α of the module `name`, if it has its own.
    ///
    /// # Errors
    /// Where two patterns give it two.
    pub(crate) fn alpha(&self, name: &str) -> Result<Option<f64>, NotApplicable> {
        find("alpha_pattern", &self.alphas, name)
    }
}

fn find<T: Copy + PartialEq>(key: &str, table: &Table<T>, name: &str) -> Result<Option<T>, NotApplicable> {
    let mut found = None;
    for (pattern, value) in table {
        let fits = pattern.is_match(name).map_err(|error| NotApplicable::new(format!("{key}: {error}")))?;
        if !fits {
            continue;
        }
        // PEFT takes the first in the file, an order that a table does not keep
        if found.is_some_and(|other| other != *value) {
            return Err(NotApplicable::new(format!(
                "{key}: two patterns fit `{name}` with different values; make one of them narrower"
            )));
        }
        found = Some(*value);
    }
    Ok(found)
}

/// The ranks in AdaLoRA's `rank_pattern`, which PEFT writes into every adapter whose ranks were given out: by the name of each E,
/// for each of the r₀ triplets whether it is left. The file holds the ones that are. The update is scaled by α/r₀ as
/// before.
pub(crate) fn ranks_left(
    config: &PeftConfig<'_>,
    init_rank: usize,
) -> Result<BTreeMap<String, usize>, NotApplicable> {
    let pattern: BTreeMap<String, Vec<bool>> = config.value("rank_pattern", BTreeMap::new())?;
    let of_each = |(name, kept): (String, Vec<bool>)| {
        // a state dict's names end with the adapter's own
        let target = name.strip_suffix(".default").unwrap_or(&name).strip_suffix(".lora_E");
        match target {
            Some(target) if kept.len() == init_rank => {
                Ok((target.to_owned(), kept.iter().filter(|kept| **kept).count()))
            }
            Some(_) => Err(NotApplicable::new(format!(
                "`rank_pattern` has {} values for `{name}`, but `init_r` is {init_rank}",
                kept.len()
            ))),
            None => Err(NotApplicable::new(format!(
                "`rank_pattern` names `{name}`, but a name that ends with .lora_E was expected"
            ))),
        }
    };
    pattern.into_iter().map(of_each).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranks(table: &[(&str, usize)]) -> Compiled {
        let rank_pattern = table.iter().map(|(key, rank)| ((*key).to_owned(), *rank)).collect();
        RankPatterns { rank_pattern, ..RankPatterns::NONE }.compiled().unwrap()
    }

    #[test]
    fn a_pattern_fits_the_end_after_a_dot() {
        let ranks = ranks(&[("q_proj", 2), (r"layers\.1\..*v_proj", 4)]);
        assert_eq!(ranks.rank("model.layers.0.self_attn.q_proj"), Ok(Some(2)));
        assert_eq!(ranks.rank("model.layers.0.self_attn.v_proj"), Ok(None));
        assert_eq!(ranks.rank("model.layers.1.self_attn.v_proj"), Ok(Some(4)));
        assert_eq!(ranks.rank("model.layers.11.self_attn.v_proj"), Ok(None));
        assert_eq!(ranks.rank("model.xq_proj"), Ok(None));
    }

    #[test]
    fn two_values_for_a_module_are_refused() {
        let ranks = ranks(&[("q_proj", 2), (".*_proj", 4)]);
        assert!(ranks.rank("model.q_proj").is_err());
        assert_eq!(ranks.rank("model.v_proj"), Ok(Some(4)));
    }
}
