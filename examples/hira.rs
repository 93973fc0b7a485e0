//! A method at a projection, from outside: HiRA (Huang et al., ICLR 2025).
//!
//! ```text
//! cargo run --release --example hira -- check hira
//! cargo run --release --example hira -- run examples/hira.toml
//! ```

#![allow(non_snake_case, reason = "fields are named as in PEFT's files")]

use peftlab::prelude::*;

/// The settings, as a `[[method]]` table gives them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(crate = "peftlab::serde", deny_unknown_fields, default)]
struct Hira {
    /// r
    rank: usize,
    /// Projections; query and value if absent.
    #[serde(flatten)]
    selection: Selection,
}

impl Default for Hira {
    fn default() -> Self {
        Self { rank: 32, selection: Selection::default() }
    }
}

impl Method for Hira {
    const CARD: Card = Card {
        name: "hira",
        title: "HiRA",
        family: Family::Reparameterized,
        paper: "Huang et al. 2025, ICLR, openreview TwJrTz9cRS",
        summary: "y = x W + b + x (W ⊙ (B A)ᵀ) with W frozen, A [r, in] drawn Kaiming-uniform and B [out, r] zero.",
        identity: Identity::Exact,
        merge: MergeKind::Exact,
        not_for: "",
        settings: &[
            ("rank", "32", "r"),
            ("target_modules", "query and value", "names, a regular expression, or \"all-linear\""),
            EXCLUDE_MODULES,
            LAYERS_TO_TRANSFORM,
            LAYERS_PATTERN,
        ],
    };

    fn count(&self, outline: &Outline) -> Result<Count, NotApplicable> {
        check_rank("rank", self.rank)?;
        let targets = self.selection.select(&QUERY_VALUE, outline)?;
        Ok(Count::all(targets.iter().map(|at| self.rank * (at.input + at.output)).sum()))
    }

    fn attach(
        &self,
        model: &mut Model,
        outline: &Outline,
        init: &mut Initializer,
    ) -> Result<(), NotApplicable> {
        attach(model, &self.selection.select(&QUERY_VALUE, outline)?, |projection| {
            let ProjectionInfo { input, output, .. } = projection.info;
            Ok(HiraAdapter {
                hira_A: init.uniform((input as f64).powf(-0.5), [self.rank, input]),
                hira_B: init.constant(0.0, [output, self.rank]),
            })
        })
    }
}

/// The tensors at one projection: an ordinary Burn module, with PEFT's names.
#[derive(Module, Debug)]
struct HiraAdapter {
    /// `[r, in]`
    hira_A: Param<Tensor<2>>,
    /// `[out, r]`
    hira_B: Param<Tensor<2>>,
}

impl HiraAdapter {
    /// The update of the frozen `weight`, both `[in, out]`.
    fn update(&self, weight: Tensor<2>) -> Tensor<2> {
        let factor = self.hira_B.val().matmul(self.hira_A.val()).transpose();
        cast_like(factor, &weight) * weight
    }
}

impl ProjectionAdapter for HiraAdapter {
    fn forward(&self, input: Tensor<3>, inner: &Inner<'_>) -> Tensor<3> {
        inner.forward(input.clone()) + linear(input, self.update(inner.weight()), None)
    }

    fn merge(&self, weights: Merged, _: &Context) -> Option<Merged> {
        Some(weights.with_weight(|weight| self.update(weight.clone()) + weight))
    }
}

peftlab::main!(Hira);

#[test]
fn hira_keeps_its_promises() {
    let report = peftlab::check::<Hira>(json!({ "rank": 4 })).unwrap();
    assert!(report.passed(), "{report}");
}
