#![allow(non_snake_case, reason = "fields are named as in PEFT's files")]

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::activation::softmax;
use peftlab_layers::{
    Attached, Context, Initializer, Inner, Merged, Model, ModelAdapter, ProjectionAdapter, ProjectionInfo,
};
use peftlab_ops::linear;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::checks::{check_dropout, check_rank};
use super::low_rank::{QUERY_VALUE, attach};
use crate::selection::{EXCLUDE_MODULES, LAYERS_PATTERN, LAYERS_TO_TRANSFORM};
use crate::{
    Card, Count, Family, Identity, MergeKind, Method, NotApplicable, Outline, PeftConfig, Selection, Targets,
};

/// VB-LoRA: LoRA whose matrices are put together from the vectors of one bank.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VbLora {
    /// r
    pub rank: usize,
    /// N: vectors in the bank.
    pub num_vectors: usize,
    /// b: length of a vector; it divides the widths of every target.
    pub vector_length: usize,
    /// k: vectors of the bank that are mixed for one sub-vector.
    pub topk: usize,
    /// Dropout on the input of the update.
    pub dropout: f64,
    /// Projections; query and value if absent.
    #[serde(flatten)]
    pub selection: Selection,
}

/// Where logits start, and the bank's values, as in the paper's code.
const LOGITS_STD: f64 = 0.1;
const BANK_BOUND: f64 = 0.02;

impl Default for VbLora {
    fn default() -> Self {
        Self {
            rank: 4,
            num_vectors: 256,
            vector_length: 32,
            topk: 2,
            dropout: 0.0,
            selection: Selection::default(),
        }
    }
}

impl VbLora {
    fn targets<'o>(&self, outline: &'o Outline) -> Result<Vec<&'o ProjectionInfo>, NotApplicable> {
        check_rank("rank", self.rank)?;
        check_rank("vector_length", self.vector_length)?;
        check_dropout(self.dropout)?;
        let (k, count, length) = (self.topk, self.num_vectors, self.vector_length);
        if !(1..=count).contains(&k) {
            return Err(NotApplicable::new(format!(
                "topk is {k} and num_vectors {count}; topk must be at least 1 and at most num_vectors"
            )));
        }
        let targets = self.selection.select(&QUERY_VALUE, outline)?;
        let divides =
            |p: &&&ProjectionInfo| p.input.is_multiple_of(length) && p.output.is_multiple_of(length);
        match targets.iter().find(|p| !divides(p)) {
            None => Ok(targets),
            Some(p) => Err(NotApplicable::new(format!(
                "vector_length is {length}, which does not divide the {} inputs and {} outputs of `{}`; use a \
                 divisor of both, or leave the module out of target_modules",
                p.input, p.output, p.name
            ))),
        }
    }

    /// Sub-vectors of A and B at `info`.
    fn sub_vectors(&self, info: &ProjectionInfo) -> usize {
        self.rank * (info.input + info.output) / self.vector_length
    }
}

impl Method for VbLora {
    const CARD: Card = Card {
        name: "vb-lora",
        title: "VB-LoRA",
        family: Family::Reparameterized,
        paper: "Li, Han & Ji 2024, arXiv 2405.15179",
        summary: "y = x W + b + drop(x) Aᵀ Bᵀ, where every stretch of b values in a row of A [r, in] and in a column of \
                  B [out, r] is Σ softmax(top-k logits) v over the k vectors of one bank [N, b] that have the largest \
                  of its N logits. The bank, which all projections share, and the logits are trained; only the chosen \
                  logits get a gradient. Neither matrix starts at zero, so the model is changed at step 0. Kept are \
                  the bank and, for each sub-vector, k indices and k − 1 weights.",
        identity: Identity::No,
        merge: MergeKind::Exact,
        not_for: "Targets whose widths b does not divide.",
        settings: &[
            ("rank", "4", "r"),
            ("num_vectors", "256", "N: vectors in the bank"),
            ("vector_length", "32", "b: length of a vector (256 in the paper); divides the targets' widths"),
            ("topk", "2", "k: vectors that are mixed for one sub-vector"),
            ("dropout", "0", "dropout on the input of the update"),
            ("target_modules", "query and value", "names, a regular expression, or \"all-linear\""),
            EXCLUDE_MODULES,
            LAYERS_TO_TRANSFORM,
            LAYERS_PATTERN,
        ],
    };

    fn label(&self) -> String {
        let targets = self.selection.label("q,v");
        format!("vb-lora N={} b={} r={} {targets}", self.num_vectors, self.vector_length, self.rank)
    }

    fn count(&self, outline: &Outline) -> Result<Count, NotApplicable> {
        let sub_vectors: usize = self.targets(outline)?.iter().map(|p| self.sub_vectors(p)).sum();
        let bank = self.num_vectors * self.vector_length;
        Ok(Count {
            adapter: bank + sub_vectors * self.num_vectors,
            // the weights of a sub-vector sum to one: the last is not kept
            stored: bank + sub_vectors * (2 * self.topk - 1),
            buffers: 0,
        })
    }

    fn kept_values(&self, name: &str, shape: &[usize]) -> usize {
        let values: usize = shape.iter().product();
        match name.contains("vblora_logits") {
            true => values / self.num_vectors * (2 * self.topk - 1),
            false => values,
        }
    }

    fn attach(
        &self,
        model: &mut Model,
        outline: &Outline,
        init: &mut Initializer,
    ) -> Result<(), NotApplicable> {
        let targets = self.targets(outline)?;
        let (rank, count, length) = (self.rank, self.num_vectors, self.vector_length);
        let bank = VectorBank { vblora_vector_bank: init.uniform(BANK_BOUND, [count, length]) };
        model.adapters.push(Attached::new(Box::new(bank)));
        attach(model, &targets, |projection| {
            let ProjectionInfo { input, output, .. } = projection.info;
            Ok(VbLoraAdapter {
                vblora_logits_A: init.normal(LOGITS_STD, [rank, input / length, count]),
                vblora_logits_B: init.normal(LOGITS_STD, [output / length, rank, count]),
                topk: self.topk,
                dropout: self.dropout,
            })
        })
    }

    fn from_peft(config: &PeftConfig<'_>) -> Result<Option<Self>, NotApplicable> {
        if !config.is("VBLORA") {
            return Ok(None);
        }
        Ok(Some(Self {
            rank: config.integer("r", 4)?,
            num_vectors: config.integer("num_vectors", 256)?,
            vector_length: config.integer("vector_length", 256)?,
            topk: config.integer("topk", 2)?,
            dropout: config.number("vblora_dropout", 0.0)?,
            selection: config.selection()?,
        }))
    }

    fn to_peft(&self, outline: &Outline) -> Option<Value> {
        Some(json!({
            "peft_type": "VBLORA",
            "r": self.rank,
            "num_vectors": self.num_vectors,
            "vector_length": self.vector_length,
            "topk": self.topk,
            "vblora_dropout": self.dropout,
            "target_modules": Targets::to_peft(&self.targets(outline).ok()?),
            "save_only_topk_weights": false,
            "init_logits_std": LOGITS_STD,
            "init_vector_bank_bound": BANK_BOUND,
            "bias": "none",
            "fan_in_fan_out": false,
        }))
    }
}

/// The bank that all projections share.
#[derive(Module, Debug)]
struct VectorBank {
    /// `[N, b]`
    vblora_vector_bank: Param<Tensor<2>>,
}

/// The bank of a pass.
struct Shared(Tensor<2>);

impl ModelAdapter for VectorBank {
    fn prepare(&self, context: &mut Context) {
        context.share(Shared(self.vblora_vector_bank.val()));
    }
}

/// VB-LoRA's logits at one projection.
#[derive(Module, Debug)]
struct VbLoraAdapter {
    /// `[r, in / b, N]`
    vblora_logits_A: Param<Tensor<3>>,
    /// `[out / b, r, N]`
    vblora_logits_B: Param<Tensor<3>>,
    #[module(skip)]
    topk: usize,
    #[module(skip)]
    dropout: f64,
}

/// The mixture of vectors that each of `logits` `[rows, columns, N]` stands for, `[rows, columns, b]`.
fn mix(logits: Tensor<3>, bank: &Tensor<2>, k: usize) -> Tensor<3> {
    let [rows, columns, count] = logits.dims();
    let [_, length] = bank.dims();
    if k == count {
        // all are chosen, and Burn chooses no more than all but one
        let weights = softmax(logits, 2).reshape([rows * columns, count]);
        return weights.matmul(bank.clone()).reshape([rows, columns, length]);
    }
    let chosen = logits.clone().detach().argtopk(k, 2);
    let weights = softmax(logits.gather(2, chosen.clone()), 2);
    let vectors = bank.clone().select(0, chosen.reshape([rows * columns * k]));
    let vectors = vectors.reshape([rows, columns, k, length]);
    (vectors * weights.unsqueeze_dim::<4>(3)).sum_dim(2).reshape([rows, columns, length])
}

impl VbLoraAdapter {
    /// `Aᵀ` `[in, r]` and `Bᵀ` `[r, out]`.
    fn factors(&self, context: &Context) -> (Tensor<2>, Tensor<2>) {
        let Shared(bank) = context.shared().expect("the bank is attached with its places");
        let a = mix(self.vblora_logits_A.val(), bank, self.topk);
        let [rank, columns, length] = a.dims();
        let a = a.reshape([rank, columns * length]).transpose();
        let b = mix(self.vblora_logits_B.val(), bank, self.topk);
        let [rows, _, _] = b.dims();
        let b = b.swap_dims(0, 1).reshape([rank, rows * length]);
        (a, b)
    }
}

impl ProjectionAdapter for VbLoraAdapter {
    fn forward(&self, input: Tensor<3>, inner: &Inner<'_>) -> Tensor<3> {
        let (a, b) = self.factors(inner.context);
        let dropped = inner.context.dropout(input.clone(), self.dropout);
        inner.forward(input) + linear(linear(dropped, a, None), b, None)
    }

    fn merge(&self, weights: Merged, context: &Context) -> Option<Merged> {
        let (a, b) = self.factors(context);
        Some(weights.plus(a.matmul(b)))
    }
}
