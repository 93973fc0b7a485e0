use burn::module::{Module, Param};
use burn::tensor::Tensor;
use peftlab_layers::{Context, Initializer, Inner, Merged, Model, ProjectionAdapter, ProjectionInfo};
use peftlab_ops::{cast_like, linear};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::checks::check_rank;
use super::loha::kaiming_rows;
use super::low_rank::{QUERY_VALUE, attach_ranked};
use crate::rank_patterns::{ALPHA_PATTERN, RANK_PATTERN, Ranked};
use crate::selection::{EXCLUDE_MODULES, LAYERS_PATTERN, LAYERS_TO_TRANSFORM};
use crate::{
    Card, Count, Family, Identity, MergeKind, Method, NotApplicable, Outline, PeftConfig, RankPatterns,
    Selection, Targets,
};

/// LoKr: the Kronecker product of two small matrices.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoKr {
    /// r
    pub rank: usize,
    /// α; the update is scaled by α/r.
    pub alpha: f64,
    /// Whether W₁, too, is a product of rank r where that is smaller.
    pub decompose_both: bool,
    /// The smaller factor of each width, where it divides it; −1 for the one next to the square root.
    pub decompose_factor: i64,
    /// Projections; query and value if absent.
    #[serde(flatten)]
    pub selection: Selection,
    /// Ranks and α of single projections.
    #[serde(flatten)]
    pub patterns: RankPatterns,
}

impl Default for LoKr {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 8.0,
            decompose_both: false,
            decompose_factor: -1,
            selection: Selection::default(),
            patterns: RankPatterns::NONE,
        }
    }
}

/// Two numbers whose product is `width`: the factor and its cofactor where the factor divides, or else those next to
/// the square root of which the smaller one is at most the factor.
fn factors(width: usize, factor: Option<usize>) -> (usize, usize) {
    if let Some(factor) = factor
        && width.is_multiple_of(factor)
    {
        return (factor, width / factor);
    }
    let most = factor.unwrap_or(width);
    let (mut small, mut large) = (1, width);
    while small < large {
        let Some(next) = (small + 1..=width).find(|n| width.is_multiple_of(*n)) else { break };
        if next > most {
            break;
        }
        (small, large) = (next, width / next);
    }
    (small.min(large), small.max(large))
}

/// Shapes of the two matrices at a projection, `[out, in]` each, and whether each is a product of rank r.
#[derive(Clone, Copy, Debug)]
struct Shapes {
    first: [usize; 2],
    second: [usize; 2],
    decomposed: [bool; 2],
}

impl LoKr {
    fn targets<'o>(&self, outline: &'o Outline) -> Result<Vec<Ranked<'o>>, NotApplicable> {
        check_rank("rank", self.rank)?;
        if self.decompose_factor < 1 && self.decompose_factor != -1 {
            return Err(NotApplicable::new(format!(
                "decompose_factor is {}; it must be 1 or more, or -1 for the factor next to the square root",
                self.decompose_factor
            )));
        }
        self.patterns.of_each(self.selection.select(&QUERY_VALUE, outline)?, self.rank, self.alpha)
    }

    fn shapes(&self, info: &ProjectionInfo, rank: usize) -> Shapes {
        let factor = usize::try_from(self.decompose_factor).ok();
        let (input, output) = (factors(info.input, factor), factors(info.output, factor));
        let is_small = |shape: [usize; 2]| 2 * rank < shape[0].max(shape[1]);
        let (first, second) = ([output.0, input.0], [output.1, input.1]);
        Shapes { first, second, decomposed: [self.decompose_both && is_small(first), is_small(second)] }
    }
}

fn elements([rows, columns]: [usize; 2], rank: usize, decomposed: bool) -> usize {
    if decomposed { rank * (rows + columns) } else { rows * columns }
}

impl Method for LoKr {
    const CARD: Card = Card {
        name: "lokr",
        title: "LoKr",
        family: Family::Reparameterized,
        paper: "Edalati et al. 2022, arXiv 2212.10650; Yeh et al. 2023, arXiv 2309.14859",
        summary: "y = x W + b + (α/r) x (W₁ ⊗ W₂)ᵀ, where both widths are split in two, in = m n and out = l k, and W₁ is \
                  [l, m] and W₂ [k, n]. W₂ is a product of rank r where r is less than half its larger side, and so is \
                  W₁ with `decompose_both`. W₁ starts at zero, W₂ Kaiming-uniform. The product is never made in \
                  training: W₂ and W₁ act on the two sides of x as a matrix [m, n].",
        identity: Identity::Exact,
        merge: MergeKind::Exact,
        not_for: "",
        settings: &[
            ("rank", "8", "r"),
            ("alpha", "8", "α; the update is scaled by α/r, whether a matrix is decomposed or not"),
            ("decompose_both", "false", "whether W₁, too, is a product of rank r where that is smaller"),
            (
                "decompose_factor",
                "-1",
                "m and l, where it divides the widths; −1 for the factor next to the square root",
            ),
            ("target_modules", "query and value", "names, a regular expression, or \"all-linear\""),
            EXCLUDE_MODULES,
            LAYERS_TO_TRANSFORM,
            LAYERS_PATTERN,
            RANK_PATTERN,
            ALPHA_PATTERN,
        ],
    };

    fn label(&self) -> String {
        let both = if self.decompose_both { " both" } else { "" };
        let factor = match self.decompose_factor {
            -1 => String::new(),
            factor => format!(" f={factor}"),
        };
        let targets = self.selection.label("q,v");
        format!("lokr r={}{both}{factor} {targets}", self.rank)
    }

    fn count(&self, outline: &Outline) -> Result<Count, NotApplicable> {
        let targets = self.targets(outline)?;
        let each = targets.iter().map(|at| {
            let Shapes { first, second, decomposed } = self.shapes(at.info, at.rank);
            elements(first, at.rank, decomposed[0]) + elements(second, at.rank, decomposed[1])
        });
        Ok(Count::all(each.sum()))
    }

    fn attach(
        &self,
        model: &mut Model,
        outline: &Outline,
        init: &mut Initializer,
    ) -> Result<(), NotApplicable> {
        attach_ranked(model, &self.targets(outline)?, |projection, Ranked { rank, alpha, .. }| {
            let Shapes { first, second, decomposed } = self.shapes(&projection.info, rank);
            let mut adapter = LoKrAdapter {
                lokr_w1: None,
                lokr_w1_a: None,
                lokr_w1_b: None,
                lokr_w2: None,
                lokr_w2_a: None,
                lokr_w2_b: None,
                scale: alpha / rank as f64,
            };
            if decomposed[0] {
                adapter.lokr_w1_a = Some(init.constant(0.0, [first[0], rank]));
                adapter.lokr_w1_b = Some(kaiming_rows(init, [rank, first[1]]));
            } else {
                adapter.lokr_w1 = Some(init.constant(0.0, first));
            }
            if decomposed[1] {
                adapter.lokr_w2_a = Some(kaiming_rows(init, [second[0], rank]));
                adapter.lokr_w2_b = Some(kaiming_rows(init, [rank, second[1]]));
            } else {
                adapter.lokr_w2 = Some(kaiming_rows(init, second));
            }
            Ok(adapter)
        })
    }

    fn from_peft(config: &PeftConfig<'_>) -> Result<Option<Self>, NotApplicable> {
        if !config.is("LOKR") {
            return Ok(None);
        }
        Ok(Some(Self {
            rank: config.integer("r", 8)?,
            alpha: config.number("alpha", 8.0)?,
            decompose_both: config.value("decompose_both", false)?,
            decompose_factor: config.value("decompose_factor", -1)?,
            selection: config.selection()?,
            patterns: config.patterns()?,
        }))
    }

    fn to_peft(&self, outline: &Outline) -> Option<Value> {
        Some(json!({
            "peft_type": "LOKR",
            "r": self.rank,
            "alpha": self.alpha,
            "decompose_both": self.decompose_both,
            "decompose_factor": self.decompose_factor,
            "rank_dropout": 0.0,
            "module_dropout": 0.0,
            "use_effective_conv2d": false,
            "target_modules": Targets::to_peft(&self.selection.select(&QUERY_VALUE, outline).ok()?),
            "rank_pattern": self.patterns.rank_pattern,
            "alpha_pattern": self.patterns.alpha_pattern,
            "init_weights": true,
        }))
    }
}

/// LoKr's tensors at one projection: of each matrix itself, or its two factors.
#[derive(Module, Debug)]
struct LoKrAdapter {
    /// `[l, m]`
    lokr_w1: Option<Param<Tensor<2>>>,
    /// `[l, r]`
    lokr_w1_a: Option<Param<Tensor<2>>>,
    /// `[r, m]`
    lokr_w1_b: Option<Param<Tensor<2>>>,
    /// `[k, n]`
    lokr_w2: Option<Param<Tensor<2>>>,
    /// `[k, r]`
    lokr_w2_a: Option<Param<Tensor<2>>>,
    /// `[r, n]`
    lokr_w2_b: Option<Param<Tensor<2>>>,
    #[module(skip)]
    scale: f64,
}

/// A matrix that is kept whole or as two factors.
fn whole(
    matrix: Option<&Param<Tensor<2>>>,
    left: Option<&Param<Tensor<2>>>,
    right: Option<&Param<Tensor<2>>>,
) -> Tensor<2> {
    match (matrix, left, right) {
        (Some(matrix), ..) => matrix.val(),
        (None, Some(left), Some(right)) => left.val().matmul(right.val()),
        _ => unreachable!("a matrix is there, or both its factors are"),
    }
}

impl LoKrAdapter {
    /// `W₁` `[l, m]`, with the scale, and `W₂` `[k, n]`.
    fn matrices(&self) -> (Tensor<2>, Tensor<2>) {
        let first = whole(self.lokr_w1.as_ref(), self.lokr_w1_a.as_ref(), self.lokr_w1_b.as_ref());
        let second = whole(self.lokr_w2.as_ref(), self.lokr_w2_a.as_ref(), self.lokr_w2_b.as_ref());
        (first * self.scale, second)
    }
}

impl ProjectionAdapter for LoKrAdapter {
    fn forward(&self, input: Tensor<3>, inner: &Inner<'_>) -> Tensor<3> {
        let (first, second) = self.matrices();
        let (first, second) = (cast_like(first, &input), cast_like(second, &input));
        let [batch, length, _] = input.dims();
        let ([l, m], [k, n]) = (first.dims(), second.dims());
        // (W₁ ⊗ W₂) x is W₁ X W₂ᵀ for X, x as a matrix [m, n]
        let rows = input.clone().reshape([batch, length * m, n]);
        let mixed = linear(rows, second.transpose(), None).reshape([batch * length, m, k]);
        let columns = mixed.swap_dims(1, 2).reshape([batch, length * k, m]);
        let mixed = linear(columns, first.transpose(), None).reshape([batch * length, k, l]);
        inner.forward(input) + mixed.swap_dims(1, 2).reshape([batch, length, l * k])
    }

    fn merge(&self, weights: Merged, _: &Context) -> Option<Merged> {
        let (first, second) = self.matrices();
        let ([l, m], [k, n]) = (first.dims(), second.dims());
        let product = first.reshape([l, 1, m, 1]) * second.reshape([1, k, 1, n]);
        Some(weights.plus(product.reshape([l * k, m * n]).transpose()))
    }
}

#[cfg(test)]
mod tests {
    use super::factors;

    #[test]
    fn widths_are_split_as_in_peft() {
        let next_to_the_root = [
            (1, (1, 1)),
            (127, (1, 127)),
            (128, (8, 16)),
            (256, (16, 16)),
            (768, (24, 32)),
            (4096, (64, 64)),
            (11008, (86, 128)),
        ];
        for (width, expected) in next_to_the_root {
            assert_eq!(factors(width, None), expected, "{width}");
        }
        assert_eq!(factors(128, Some(4)), (4, 32));
        assert_eq!(factors(128, Some(64)), (64, 2), "a factor that divides is not moved");
        assert_eq!(factors(360, Some(7)), (6, 60), "the largest divisor below one that does not");
    }
}
