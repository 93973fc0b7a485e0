use burn::module::Module;
use burn::tensor::Tensor;
use peftlab_layers::params::ParamInfo;
use peftlab_layers::{Attached, Attention, AttentionAdapter, Initializer, Mode, Model, Role};
use serde::{Deserialize, Serialize};

use super::low_rank::{LowRank, lora_config};
use crate::rank_patterns::NO_PATTERNS;
use crate::selection::{EXCLUDE_MODULES, LAYERS_PATTERN, LAYERS_TO_TRANSFORM};
use crate::{Card, Count, Family, Identity, MergeKind, Method, NotApplicable, Outline, Selection};

/// LongLoRA: LoRA for longer sequences, with shifted sparse attention in training.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LongLora {
    /// r
    pub rank: usize,
    /// α; the update is scaled by α/r.
    pub alpha: f64,
    /// Dropout on the input of the update.
    pub dropout: f64,
    /// Projections; all four of the attention if absent.
    #[serde(flatten)]
    pub selection: Selection,
    /// Attention in training.
    pub attention: Pattern,
    /// Length of a group over the length of the sequence.
    pub group_ratio: f64,
    /// Positions are divided by this: the new length over the trained one.
    pub position_factor: f64,
    /// Whether the input embeddings are trained.
    pub train_embeddings: bool,
    /// Whether the norms are trained.
    pub train_norms: bool,
}

/// Attention in training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pattern {
    /// Groups; for half of the heads shifted by half a group, with half a group at either end.
    #[default]
    Shifted,
    /// As the authors' first code has it: the last half group and the first are one, so that the first tokens see
    /// the last ones. For reproduction alone.
    Rolled,
    /// Every earlier token is seen.
    Full,
}

const ATTENTION: [Role; 4] = [Role::Query, Role::Key, Role::Value, Role::AttentionOutput];

impl Default for LongLora {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 16.0,
            dropout: 0.0,
            selection: Selection::default(),
            attention: Pattern::Shifted,
            group_ratio: 0.25,
            position_factor: 1.0,
            train_embeddings: true,
            train_norms: true,
        }
    }
}

impl LongLora {
    fn low_rank(&self) -> LowRank<'_> {
        LowRank {
            rank: self.rank,
            alpha: self.alpha,
            by_root: false,
            patterns: &NO_PATTERNS,
            dropout: self.dropout,
            selection: &self.selection,
            roles: &ATTENTION,
        }
    }

    fn check(&self, outline: &Outline) -> Result<(), NotApplicable> {
        if !outline.rotary {
            return Err(NotApplicable::new(
                "`longlora` needs rotary positions and causal attention, and this network has neither; use `lora`",
            ));
        }
        if let Some(window) = outline.dimensions.window {
            return Err(NotApplicable::new(format!(
                "`longlora` shifts full attention, and this network's has a window (sliding_window = {window}); \
                 use `lora`"
            )));
        }
        if !(self.group_ratio > 0.0 && self.group_ratio <= 1.0) {
            let ratio = self.group_ratio;
            return Err(NotApplicable::new(format!(
                "group_ratio is {ratio}; it must be above 0 and at most 1"
            )));
        }
        if !(self.position_factor.is_finite() && self.position_factor >= 1.0) {
            let factor = self.position_factor;
            return Err(NotApplicable::new(format!("position_factor is {factor}; it must be 1 or more")));
        }
        Ok(())
    }
}

impl Method for LongLora {
    const CARD: Card = Card {
        name: "longlora",
        title: "LongLoRA",
        family: Family::Reparameterized,
        paper: "Chen et al. 2023, arXiv 2309.12307",
        summary: "LoRA on the attention, with the input embeddings and the norms trained besides, and positions divided \
                  by the factor of the new length. In training half of the heads attend causally within groups of a \
                  quarter of the sequence, the other half within groups shifted by half of one; evaluation uses full \
                  attention. \"rolled\" is the authors' first code, which lets the first tokens see the last.",
        identity: Identity::Exact,
        merge: MergeKind::Exact,
        not_for: "Networks without rotary positions, such as BERT.",
        settings: &[
            ("rank", "8", "r"),
            ("alpha", "16", "α; the update is scaled by α/r"),
            ("dropout", "0", "dropout on the input of the update"),
            ("target_modules", "query, key, value, output", "names, a regular expression, or \"all-linear\""),
            EXCLUDE_MODULES,
            LAYERS_TO_TRANSFORM,
            LAYERS_PATTERN,
            ("attention", "\"shifted\"", "attention in training: \"shifted\", \"rolled\" or \"full\""),
            ("group_ratio", "0.25", "length of a group over that of the sequence"),
            ("position_factor", "1", "positions are divided by this; above 1 the model is changed at step 0"),
            ("train_embeddings", "true", "train the input embeddings"),
            ("train_norms", "true", "train the norms"),
        ],
    };

    fn label(&self) -> String {
        let pattern = match self.attention {
            Pattern::Shifted => "shifted",
            Pattern::Rolled => "rolled",
            Pattern::Full => "full",
        };
        let extra = if self.train_embeddings || self.train_norms { "" } else { " lora only" };
        format!("longlora {pattern} r={}{extra}", self.rank)
    }

    fn count(&self, outline: &Outline) -> Result<Count, NotApplicable> {
        self.check(outline)?;
        let besides: usize =
            outline.body().filter(|info| Method::trains(self, info)).map(ParamInfo::elements).sum();
        Ok(Count::all(self.low_rank().count(outline)? + besides))
    }

    fn attach(
        &self,
        model: &mut Model,
        outline: &Outline,
        init: &mut Initializer,
    ) -> Result<(), NotApplicable> {
        let low_rank = self.low_rank();
        low_rank.attach(model, outline, |projection, at| at.init(&projection.info, init))?;
        let sites = model.sites();
        if self.position_factor > 1.0
            && let Some(rotary) = sites.rotary
        {
            rotary.interpolate(self.position_factor);
        }
        if self.attention != Pattern::Full {
            for site in sites.attentions {
                let sparse =
                    SparseAttention { ratio: self.group_ratio, rolled: self.attention == Pattern::Rolled };
                site.adapters.push(Attached::new(Box::new(sparse)));
            }
        }
        Ok(())
    }

    fn trains(&self, parameter: &ParamInfo) -> bool {
        (self.train_embeddings && parameter.name.contains("embed"))
            || (self.train_norms && parameter.name.contains("norm"))
    }

    fn to_peft(&self, outline: &Outline) -> Option<serde_json::Value> {
        // PEFT has the LoRA alone: embeddings and norms go into its file as `modules_to_save`
        (!self.train_embeddings && !self.train_norms && self.position_factor == 1.0)
            .then(|| lora_config(&self.low_rank(), outline))
            .flatten()
    }
}

/// Shifted sparse attention.
#[derive(Module, Debug)]
struct SparseAttention {
    #[module(skip)]
    ratio: f64,
    #[module(skip)]
    rolled: bool,
}

impl SparseAttention {
    /// Length of a group in a sequence of `length`; none where one group is the sequence.
    fn group(&self, length: usize) -> Option<usize> {
        let group = (length as f64 * self.ratio).floor() as usize;
        // half of it is the shift
        let group = group - group % 2;
        (group >= 2 && group < length).then_some(group)
    }
}

/// A run of `count` groups of `length` positions from `start` on.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Run {
    start: usize,
    length: usize,
    count: usize,
}

/// The groups of a sequence of `length` positions: `first` positions, then groups of `group`, then what is left.
fn runs(length: usize, first: usize, group: usize) -> Vec<Run> {
    let whole = (length - first) / group;
    let rest = length - first - whole * group;
    let runs = match first == group {
        true => vec![Run { start: 0, length: group, count: whole + 1 }],
        false => {
            vec![Run { start: 0, length: first, count: 1 }, Run { start: first, length: group, count: whole }]
        }
    };
    let last = Run { start: length - rest, length: rest, count: 1 };
    runs.into_iter().chain([last]).filter(|run| run.length * run.count > 0).collect()
}

/// The positions of `run`, each group an entry of the batch: `[batch, heads, n, d]` to
/// `[batch * count, heads, length, d]`.
fn groups(tensor: Tensor<4>, run: Run) -> Tensor<4> {
    let [batch, heads, _, head] = tensor.dims();
    let Run { start, length, count } = run;
    let part = tensor.slice([0..batch, 0..heads, start..start + length * count, 0..head]);
    if count == 1 {
        return part;
    }
    part.reshape([batch, heads, count, length, head]).swap_dims(1, 2).reshape([
        batch * count,
        heads,
        length,
        head,
    ])
}

/// [`groups`] undone.
fn ungroup(tensor: Tensor<4>, run: Run) -> Tensor<4> {
    let [rows, heads, _, head] = tensor.dims();
    let Run { length, count, .. } = run;
    if count == 1 {
        return tensor;
    }
    tensor.reshape([rows / count, count, heads, length, head]).swap_dims(1, 2).reshape([
        rows / count,
        heads,
        count * length,
        head,
    ])
}

/// `tensor` with its positions, dimension `dim`, moved by `by` to the front, and what falls off there put at the end.
fn rolled<const D: usize, K: burn::tensor::kind::Basic>(
    tensor: Tensor<D, K>,
    dim: usize,
    by: usize,
) -> Tensor<D, K> {
    let length = tensor.dims()[dim];
    Tensor::cat(vec![tensor.clone().narrow(dim, by, length - by), tensor.narrow(dim, 0, by)], dim)
}

impl SparseAttention {
    /// Attention of heads `from..to` within groups, of which the first has `first` positions.
    fn within(
        &self,
        attention: &Attention<'_>,
        [from, to]: [usize; 2],
        first: usize,
        group: usize,
    ) -> Tensor<4> {
        let [batch, _, length, _] = attention.query.dims();
        let heads = |tensor: Tensor<4>| tensor.narrow(1, from, to - from);
        let parts = runs(length, first, group).into_iter().map(|run| {
            let Run { start, length, count } = run;
            let padding = attention.mask.padding.clone().map(|padding| {
                padding.slice([0..batch, start..start + length * count]).reshape([batch * count, length])
            });
            ungroup(attention.over(|tensor| groups(heads(tensor), run), padding), run)
        });
        Tensor::cat(parts.collect(), 2)
    }

    /// As [`within`](Self::within) with all positions moved to the front by `by`, around the end.
    fn around(
        &self,
        attention: &Attention<'_>,
        [from, to]: [usize; 2],
        by: usize,
        group: usize,
    ) -> Tensor<4> {
        let [batch, _, length, _] = attention.query.dims();
        let padding = attention.mask.padding.clone().map(|padding| rolled(padding, 1, by));
        let parts = runs(length, group, group).into_iter().map(|run| {
            let Run { start, length, count } = run;
            let padding = padding.clone().map(|padding| {
                padding.slice([0..batch, start..start + length * count]).reshape([batch * count, length])
            });
            let part = |tensor: Tensor<4>| groups(rolled(tensor.narrow(1, from, to - from), 2, by), run);
            ungroup(attention.over(part, padding), run)
        });
        rolled(Tensor::cat(parts.collect(), 2), 2, length - by)
    }
}

impl AttentionAdapter for SparseAttention {
    fn pattern(&self, attention: &Attention<'_>) -> Option<Tensor<4>> {
        if attention.context.mode() == Mode::Evaluate {
            return None;
        }
        let [_, heads, length, _] = attention.query.dims();
        let group = self.group(length)?;
        let half = heads / 2;
        let shifted = [half, heads];
        let shifted = match self.rolled {
            true => self.around(attention, shifted, group / 2, group),
            false => self.within(attention, shifted, group / 2, group),
        };
        if half == 0 {
            return Some(shifted);
        }
        Some(Tensor::cat(vec![self.within(attention, [0, half], group, group), shifted], 1))
    }

    fn only_in_training(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_cover_the_sequence_once() {
        assert_eq!(runs(16, 4, 4), [Run { start: 0, length: 4, count: 4 }]);
        let shifted = [
            Run { start: 0, length: 2, count: 1 },
            Run { start: 2, length: 4, count: 3 },
            Run { start: 14, length: 2, count: 1 },
        ];
        assert_eq!(runs(16, 2, 4), shifted);
        for length in 5..40 {
            for (first, group) in [(2, 4), (4, 4), (1, 2)] {
                let mut next = 0;
                for run in runs(length, first, group) {
                    assert_eq!(run.start, next);
                    next += run.length * run.count;
                }
                assert_eq!(next, length);
            }
        }
    }

    #[test]
    fn a_group_as_long_as_the_sequence_is_full_attention() {
        let sparse = |ratio| SparseAttention { ratio, rolled: false };
        assert_eq!(sparse(1.0).group(16), None);
        assert_eq!(sparse(0.25).group(16), Some(4));
        assert_eq!(sparse(0.25).group(4), None);
    }
}
