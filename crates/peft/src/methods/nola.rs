use burn::module::{Module, Param};
use burn::tensor::Tensor;
use peftlab_layers::{
    Context, Initializer, Inner, Merged, Model, ProjectionAdapter, ProjectionInfo, name_hash,
};
use peftlab_ops::{BasisStream, combine, linear};
use serde::{Deserialize, Serialize};

use super::checks::check_rank;
use super::low_rank::{QUERY_VALUE, attach};
use crate::selection::{EXCLUDE_MODULES, LAYERS_PATTERN, LAYERS_TO_TRANSFORM};
use crate::{Card, Count, Family, Identity, MergeKind, Method, NotApplicable, Outline, Selection};

/// NOLA: LoRA whose matrices are linear combinations of random ones that a seed gives.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Nola {
    /// r
    pub rank: usize,
    /// α; the update is scaled by α/r.
    pub alpha: f64,
    /// m: random matrices that are combined for each of A and B.
    pub num_basis: usize,
    /// What the random matrices come from, with the module's name.
    pub seed: u64,
    /// Projections; query and value if absent.
    #[serde(flatten)]
    pub selection: Selection,
}

impl Default for Nola {
    fn default() -> Self {
        Self { rank: 8, alpha: 8.0, num_basis: 64, seed: 0, selection: Selection::default() }
    }
}

impl Nola {
    fn targets<'o>(&self, outline: &'o Outline) -> Result<Vec<&'o ProjectionInfo>, NotApplicable> {
        check_rank("rank", self.rank)?;
        check_rank("num_basis", self.num_basis)?;
        self.selection.select(&QUERY_VALUE, outline)
    }

    /// The random matrices of `matrix`, A or B, at `info`.
    fn stream(&self, info: &ProjectionInfo, matrix: &str, width: usize) -> BasisStream {
        let key = name_hash(&format!("{}.{matrix}", info.name)) ^ self.seed;
        BasisStream { key, count: self.num_basis, length: self.rank * width }
    }
}

impl Method for Nola {
    const CARD: Card = Card {
        name: "nola",
        title: "NOLA",
        family: Family::Reparameterized,
        paper: "Koohpayegani et al. 2023, arXiv 2310.02556",
        summary: "y = x W + b + (α/r) x Aᵀ Bᵀ with A = Σ aᵢ Aᵢ [r, in] and B = Σ bᵢ Bᵢ [out, r], i = 1 … m. The Aᵢ and \
                  Bᵢ are uniform in [−1, 1) and never kept: the seed gives them again in every forward and backward \
                  pass. Trained are a, which starts so that A has the variance of Kaiming's, and b, zero.",
        identity: Identity::Exact,
        merge: MergeKind::Exact,
        not_for: "",
        settings: &[
            ("rank", "8", "r"),
            ("alpha", "8", "α; the update is scaled by α/r"),
            ("num_basis", "64", "m: random matrices that are combined for each of A and B"),
            ("seed", "0", "what the random matrices come from, with the module's name"),
            ("target_modules", "query and value", "names, a regular expression, or \"all-linear\""),
            EXCLUDE_MODULES,
            LAYERS_TO_TRANSFORM,
            LAYERS_PATTERN,
        ],
    };

    fn label(&self) -> String {
        let targets = self.selection.label("q,v");
        format!("nola m={} r={} {targets}", self.num_basis, self.rank)
    }

    fn count(&self, outline: &Outline) -> Result<Count, NotApplicable> {
        Ok(Count::all(2 * self.num_basis * self.targets(outline)?.len()))
    }

    fn attach(
        &self,
        model: &mut Model,
        outline: &Outline,
        init: &mut Initializer,
    ) -> Result<(), NotApplicable> {
        let count = self.num_basis;
        attach(model, &self.targets(outline)?, |projection| {
            let info = &projection.info;
            // a uniform value in [-1, 1) has the variance 1/3, and Kaiming's has 1/(3 in)
            let std = ((count * info.input) as f64).powf(-0.5);
            Ok(NolaAdapter {
                nola_a: init.normal(std, [count]),
                nola_b: init.constant(0.0, [count]),
                bases_a: self.stream(info, "A", info.input),
                bases_b: self.stream(info, "B", info.output),
                rank: self.rank,
                scale: self.alpha / self.rank as f64,
            })
        })
    }
}

/// NOLA's coefficients at one projection.
#[derive(Module, Debug)]
struct NolaAdapter {
    /// `[m]`
    nola_a: Param<Tensor<1>>,
    /// `[m]`
    nola_b: Param<Tensor<1>>,
    /// Of `[r, in]`
    #[module(skip)]
    bases_a: BasisStream,
    /// Of `[out, r]`
    #[module(skip)]
    bases_b: BasisStream,
    #[module(skip)]
    rank: usize,
    #[module(skip)]
    scale: f64,
}

impl NolaAdapter {
    /// `Aᵀ` `[in, r]` and `Bᵀ` `[r, out]`; the scale is in the second.
    fn factors(&self) -> (Tensor<2>, Tensor<2>) {
        let (rank, input, output) =
            (self.rank, self.bases_a.length / self.rank, self.bases_b.length / self.rank);
        let a = combine(self.nola_a.val(), self.bases_a).reshape([rank, input]);
        let b = combine(self.nola_b.val(), self.bases_b).reshape([output, rank]);
        (a.transpose(), b.transpose() * self.scale)
    }
}

impl ProjectionAdapter for NolaAdapter {
    fn forward(&self, input: Tensor<3>, inner: &Inner<'_>) -> Tensor<3> {
        let (a, b) = self.factors();
        inner.forward(input.clone()) + linear(linear(input, a, None), b, None)
    }

    fn merge(&self, weights: Merged, _: &Context) -> Option<Merged> {
        let (a, b) = self.factors();
        Some(weights.plus(a.matmul(b)))
    }
}
