#![allow(non_snake_case, reason = "fields are named as in PEFT's files")]

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use peftlab_layers::{
    Attached, Context, Initializer, Inner, Merged, Model, ModelAdapter, ProjectionAdapter, ProjectionInfo,
};
use peftlab_ops::{cast_like, linear};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::checks::{check_dropout, check_rank};
use super::low_rank::{QUERY_VALUE, attach};
use crate::selection::{EXCLUDE_MODULES, LAYERS_PATTERN, LAYERS_TO_TRANSFORM};
use crate::{
    Card, Count, Family, Identity, MergeKind, Method, NotApplicable, Outline, PeftConfig, Selection, Targets,
};

/// VeRA: one frozen random pair of low-rank matrices for all projections, scaled by trained vectors.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Vera {
    /// r
    pub rank: usize,
    /// Where every value of d starts.
    pub d_initial: f64,
    /// Dropout on the input of the update.
    pub dropout: f64,
    /// Projections; query and value if absent.
    #[serde(flatten)]
    pub selection: Selection,
}

impl Default for Vera {
    fn default() -> Self {
        Self { rank: 256, d_initial: 0.1, dropout: 0.0, selection: Selection::default() }
    }
}

impl Vera {
    fn targets<'o>(&self, outline: &'o Outline) -> Result<Vec<&'o ProjectionInfo>, NotApplicable> {
        check_rank("rank", self.rank)?;
        check_dropout(self.dropout)?;
        if self.d_initial == 0.0 {
            return Err(NotApplicable::new(
                "d_initial is 0: with b at zero, too, no vector would get a gradient; use 0.1",
            ));
        }
        self.selection.select(&QUERY_VALUE, outline)
    }
}

/// The largest input and output width.
fn widths(targets: &[&ProjectionInfo]) -> (usize, usize) {
    let largest = |width: fn(&ProjectionInfo) -> usize| targets.iter().map(|p| width(p)).max().unwrap_or(0);
    (largest(|p| p.input), largest(|p| p.output))
}

impl Method for Vera {
    const CARD: Card = Card {
        name: "vera",
        title: "VeRA",
        family: Family::Reparameterized,
        paper: "Kopiczko, Blankevoort & Asano 2023, arXiv 2310.11454",
        summary: "z = W x + b ⊙ B (d ⊙ A x), where A [r, in] and B [out, r] are cut out of one frozen random pair as \
                  large as the largest projection, and d [r], at `d_initial`, and b [out], zero, are trained. A and B \
                  are Kaiming-uniform with the gain √2. Only the vectors are kept: the seed gives A and B again.",
        identity: Identity::Exact,
        merge: MergeKind::Exact,
        not_for: "",
        settings: &[
            ("rank", "256", "r"),
            ("d_initial", "0.1", "where every value of d starts"),
            ("dropout", "0", "dropout on the input of the update"),
            ("target_modules", "query and value", "names, a regular expression, or \"all-linear\""),
            EXCLUDE_MODULES,
            LAYERS_TO_TRANSFORM,
            LAYERS_PATTERN,
        ],
    };

    fn label(&self) -> String {
        format!("vera r={} {}", self.rank, self.selection.label("q,v"))
    }

    fn count(&self, outline: &Outline) -> Result<Count, NotApplicable> {
        let targets = self.targets(outline)?;
        let (input, output) = widths(&targets);
        let vectors = targets.iter().map(|p| self.rank + p.output).sum();
        // what is frozen is drawn again from the seed
        Ok(Count { adapter: vectors, stored: vectors, buffers: self.rank * (input + output) })
    }

    fn attach(
        &self,
        model: &mut Model,
        outline: &Outline,
        init: &mut Initializer,
    ) -> Result<(), NotApplicable> {
        let targets = self.targets(outline)?;
        let (rank, (input, output)) = (self.rank, widths(&targets));
        // Kaiming's bound for the gain √2, by the width that each reads
        let bound = |width: usize| (6.0 / width as f64).sqrt();
        let projections = Projections {
            vera_A: init.uniform(bound(input), [rank, input]).set_require_grad(false),
            vera_B: init.uniform(bound(rank), [output, rank]).set_require_grad(false),
        };
        model.adapters.push(Attached::new(Box::new(projections)));
        attach(model, &targets, |projection| {
            Ok(VeraAdapter {
                vera_lambda_b: init.constant(0.0, [projection.info.output]),
                vera_lambda_d: init.constant(self.d_initial as f32, [rank]),
                input: projection.info.input,
                dropout: self.dropout,
            })
        })
    }

    fn from_peft(config: &PeftConfig<'_>) -> Result<Option<Self>, NotApplicable> {
        if !config.is("VERA") {
            return Ok(None);
        }
        // A and B come from torch's generator then, and are in no file
        if *config.get("save_projection") == false {
            return Err(config.unsupported("save_projection"));
        }
        Ok(Some(Self {
            rank: config.integer("r", 256)?,
            d_initial: config.number("d_initial", 0.1)?,
            dropout: config.number("vera_dropout", 0.0)?,
            selection: config.selection()?,
        }))
    }

    fn to_peft(&self, outline: &Outline) -> Option<Value> {
        Some(json!({
            "peft_type": "VERA",
            "r": self.rank,
            "d_initial": self.d_initial,
            "vera_dropout": self.dropout,
            "target_modules": Targets::to_peft(&self.targets(outline).ok()?),
            "projection_prng_key": 0,
            "save_projection": true,
            "bias": "none",
            "fan_in_fan_out": false,
            "init_weights": true,
        }))
    }
}

/// The frozen pair that all projections share.
#[derive(Module, Debug)]
struct Projections {
    /// `[r, largest in]`
    vera_A: Param<Tensor<2>>,
    /// `[largest out, r]`
    vera_B: Param<Tensor<2>>,
}

/// The pair of a pass.
struct Shared {
    a: Tensor<2>,
    b: Tensor<2>,
}

impl ModelAdapter for Projections {
    fn prepare(&self, context: &mut Context) {
        context.share(Shared { a: self.vera_A.val(), b: self.vera_B.val() });
    }
}

/// VeRA's vectors at one projection.
#[derive(Module, Debug)]
struct VeraAdapter {
    /// `[out]`
    vera_lambda_b: Param<Tensor<1>>,
    /// `[r]`
    vera_lambda_d: Param<Tensor<1>>,
    #[module(skip)]
    input: usize,
    #[module(skip)]
    dropout: f64,
}

impl VeraAdapter {
    /// This projection's part of the pair, `[in, r]` and `[r, out]`.
    fn factors(&self, context: &Context) -> (Tensor<2>, Tensor<2>) {
        let Shared { a, b } = context.shared().expect("the pair is attached with its places");
        let [rank, output] = [a.dims()[0], self.vera_lambda_b.dims()[0]];
        let a = a.clone().slice([0..rank, 0..self.input]).transpose();
        let b = b.clone().slice([0..output, 0..rank]).transpose();
        (a, b)
    }
}

impl ProjectionAdapter for VeraAdapter {
    fn forward(&self, input: Tensor<3>, inner: &Inner<'_>) -> Tensor<3> {
        let (a, b) = self.factors(inner.context);
        let scale = |vector: &Param<Tensor<1>>| cast_like(vector.val(), &input).unsqueeze::<3>();
        let (scale_d, scale_b) = (scale(&self.vera_lambda_d), scale(&self.vera_lambda_b));
        let hidden = linear(inner.context.dropout(input.clone(), self.dropout), a, None) * scale_d;
        inner.forward(input) + linear(hidden, b, None) * scale_b
    }

    fn merge(&self, weights: Merged, context: &Context) -> Option<Merged> {
        let (a, b) = self.factors(context);
        let a = a * self.vera_lambda_d.val().unsqueeze_dim::<2>(0);
        let b = b * self.vera_lambda_b.val().unsqueeze_dim::<2>(0);
        Some(weights.plus(a.matmul(b)))
    }
}
