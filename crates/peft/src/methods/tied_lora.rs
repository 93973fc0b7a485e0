#![allow(non_snake_case, reason = "tensors are named as in the paper")]

use std::ops::Range;

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use peftlab_layers::{
    Attached, Context, Initializer, Inner, Merged, Model, ModelAdapter, ProjectionAdapter, ProjectionInfo,
    Role,
};
use peftlab_ops::cast_like;
use serde::{Deserialize, Serialize};

use super::checks::check_rank;
use crate::{Card, Count, Family, Identity, MergeKind, Method, NotApplicable, Outline};

/// Tied-LoRA: LoRA on the fused query, key and value, whose matrices layers share.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TiedLora {
    /// r
    pub rank: usize,
    /// α; the update is scaled by α/r.
    pub alpha: f64,
    /// Tensors that all layers share.
    pub tie: Vec<Part>,
    /// Tensors that are trained.
    pub train: Vec<Part>,
}

/// A tensor of the update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// `[r, in]`
    A,
    /// `[out, r]`
    B,
    /// `[r]`
    #[serde(rename = "u")]
    U,
    /// `[out]`
    #[serde(rename = "v")]
    V,
}

const PARTS: [Part; 4] = [Part::A, Part::B, Part::U, Part::V];

impl Default for TiedLora {
    fn default() -> Self {
        Self { rank: 8, alpha: 8.0, tie: vec![Part::A, Part::B], train: PARTS.to_vec() }
    }
}

/// The fused projection of every layer.
struct Fused<'o> {
    /// Query, key and value by layer.
    layers: Vec<[&'o ProjectionInfo; 3]>,
    input: usize,
    output: usize,
}

impl Fused<'_> {
    fn of(outline: &Outline) -> Result<Fused<'_>, NotApplicable> {
        let with = |role| outline.projections.iter().filter(move |p| p.role == role);
        let layers: Vec<[&ProjectionInfo; 3]> = with(Role::Query)
            .zip(with(Role::Key))
            .zip(with(Role::Value))
            .map(|((query, key), value)| [query, key, value])
            .collect();
        let widths = |[query, key, value]: &[&ProjectionInfo; 3]| {
            (query.input, query.output, key.output, value.output)
        };
        let [first, ..] = &layers[..] else {
            return Err(NotApplicable::new(
                "`tied-lora` acts on queries, keys and values, and there are none",
            ));
        };
        if layers.iter().any(|layer| widths(layer) != widths(first)) {
            return Err(NotApplicable::new(
                "`tied-lora` needs layers of one shape, and this network's differ",
            ));
        }
        let (input, output) = (first[0].input, first.iter().map(|p| p.output).sum());
        Ok(Fused { input, output, layers })
    }

    /// Where the output of a projection is in the fused output, and its layer.
    fn place(&self, name: &str) -> Option<(usize, Range<usize>)> {
        self.layers.iter().enumerate().find_map(|(layer, parts)| {
            let mut start = 0;
            parts.iter().find_map(|part| {
                let range = start..start + part.output;
                start = range.end;
                (part.name == name).then_some((layer, range))
            })
        })
    }
}

impl TiedLora {
    /// Copies and size of a tensor.
    fn size(&self, part: Part, fused: &Fused<'_>) -> (usize, usize) {
        let copies = if self.tie.contains(&part) { 1 } else { fused.layers.len() };
        let size = match part {
            Part::A => self.rank * fused.input,
            Part::B => self.rank * fused.output,
            Part::U => self.rank,
            Part::V => fused.output,
        };
        (copies, size)
    }

    fn trained(&self, part: Part) -> bool {
        self.train.contains(&part)
    }

    /// Copies of a tensor, trained or frozen.
    fn tensors<const D: usize>(
        &self,
        part: Part,
        fused: &Fused<'_>,
        mut one: impl FnMut() -> Param<Tensor<D>>,
    ) -> Vec<Param<Tensor<D>>> {
        let (copies, _) = self.size(part, fused);
        (0..copies).map(|_| one().set_require_grad(self.trained(part))).collect()
    }
}

impl Method for TiedLora {
    const CARD: Card = Card {
        name: "tied-lora",
        title: "Tied-LoRA",
        family: Family::Reparameterized,
        paper: "Renduchintala, Konuk & Kuchaiev 2023, arXiv 2311.09578",
        summary: "On the fused query, key and value of every layer, z = W x + (α/r) v ⊙ B (u ⊙ A x) with A [r, in], \
                  B [out, r], u [r] and v [out]. `tie` says which of the four all layers share, `train` which are \
                  trained; the default is the paper's recommended configuration. A starts random, a trained B at \
                  zero with v at one; a frozen B starts random, and then a trained v at zero.",
        identity: Identity::Exact,
        merge: MergeKind::Exact,
        not_for: "Networks whose layers differ in shape.",
        settings: &[
            ("rank", "8", "r"),
            ("alpha", "8", "α; the update is scaled by α/r"),
            ("tie", "[\"A\", \"B\"]", "tensors that all layers share, of \"A\", \"B\", \"u\", \"v\""),
            ("train", "[\"A\", \"B\", \"u\", \"v\"]", "tensors that are trained"),
        ],
    };

    fn label(&self) -> String {
        let letters = |parts: &[Part]| -> String {
            let letter = |part: &Part| match part {
                Part::A => 'A',
                Part::B => 'B',
                Part::U => 'u',
                Part::V => 'v',
            };
            PARTS.iter().filter(|part| parts.contains(part)).map(letter).collect()
        };
        format!("tied-lora r={} tie={} train={}", self.rank, letters(&self.tie), letters(&self.train))
    }

    fn count(&self, outline: &Outline) -> Result<Count, NotApplicable> {
        check_rank("rank", self.rank)?;
        if self.train.is_empty() {
            return Err(NotApplicable::new(
                "train is empty, and there would be nothing to train; name A, B, u or v",
            ));
        }
        if !self.trained(Part::B) && !self.trained(Part::V) {
            return Err(NotApplicable::new(
                "train has neither B nor v: then nothing starts at zero, and the model would be changed at step 0; add one",
            ));
        }
        let fused = Fused::of(outline)?;
        let mut count = Count::default();
        for part in PARTS {
            let (copies, size) = self.size(part, &fused);
            *(if self.trained(part) { &mut count.adapter } else { &mut count.buffers }) += copies * size;
        }
        // what is frozen is drawn again from the seed
        count.stored = count.adapter;
        Ok(count)
    }

    fn attach(
        &self,
        model: &mut Model,
        outline: &Outline,
        init: &mut Initializer,
    ) -> Result<(), NotApplicable> {
        let fused = Fused::of(outline)?;
        let (rank, Fused { input, output, .. }) = (self.rank, &fused);
        // bounds of Kaiming's uniform distribution, by the width that each reads
        let bound = |width: usize| (width as f64).powf(-0.5);
        let trains_b = self.trained(Part::B);
        let start_of_v = if trains_b { 1.0 } else { 0.0 };
        let tied = Tied {
            tied_lora_A: self.tensors(Part::A, &fused, || init.uniform(bound(*input), [rank, *input])),
            tied_lora_B: self.tensors(Part::B, &fused, || match trains_b {
                true => init.constant(0.0, [*output, rank]),
                false => init.uniform(bound(rank), [*output, rank]),
            }),
            tied_lora_u: self.tensors(Part::U, &fused, || init.constant(1.0, [rank])),
            tied_lora_v: self.tensors(Part::V, &fused, || init.constant(start_of_v, [*output])),
        };
        model.adapters.push(Attached::new(Box::new(tied)));
        let scale = self.alpha / rank as f64;
        for projection in model.sites().projections {
            if let Some((layer, outputs)) = fused.place(&projection.info.name) {
                let place = TiedPlace { layer, outputs, scale };
                projection.adapters.push(Attached::new(Box::new(place)));
            }
        }
        Ok(())
    }
}

/// Tied-LoRA's tensors: one of each that layers share, one a layer of the others.
#[derive(Module, Debug)]
struct Tied {
    tied_lora_A: Vec<Param<Tensor<2>>>,
    tied_lora_B: Vec<Param<Tensor<2>>>,
    tied_lora_u: Vec<Param<Tensor<1>>>,
    tied_lora_v: Vec<Param<Tensor<1>>>,
}

/// The tensors of a pass, tied or by layer.
struct Shared {
    a: Vec<Tensor<2>>,
    b: Vec<Tensor<2>>,
    u: Vec<Tensor<1>>,
    v: Vec<Tensor<1>>,
}

fn values<const D: usize>(params: &[Param<Tensor<D>>]) -> Vec<Tensor<D>> {
    params.iter().map(Param::val).collect()
}

/// A layer's tensor, which may be every layer's.
fn of_layer<const D: usize>(tensors: &[Tensor<D>], layer: usize) -> Tensor<D> {
    tensors[layer.min(tensors.len() - 1)].clone()
}

impl ModelAdapter for Tied {
    fn prepare(&self, context: &mut Context) {
        context.share(Shared {
            a: values(&self.tied_lora_A),
            b: values(&self.tied_lora_B),
            u: values(&self.tied_lora_u),
            v: values(&self.tied_lora_v),
        });
    }
}

/// A projection's place in the fused one.
#[derive(Module, Debug)]
struct TiedPlace {
    #[module(skip)]
    layer: usize,
    #[module(skip)]
    outputs: Range<usize>,
    #[module(skip)]
    scale: f64,
}

impl TiedPlace {
    /// `(Λ_u A)ᵀ` `[in, r]` and `(Λ_v B)ᵀ` `[r, out]` of this projection; the scale is in the second.
    fn factors(&self, context: &Context) -> (Tensor<2>, Tensor<2>) {
        let Shared { a, b, u, v } = context.shared().expect("the tensors are attached with their places");
        let a = of_layer(a, self.layer) * of_layer(u, self.layer).unsqueeze_dim::<2>(1);
        let rank = a.dims()[0];
        let b = of_layer(b, self.layer).slice([self.outputs.clone(), 0..rank]);
        let v = of_layer(v, self.layer).slice([self.outputs.clone()]).unsqueeze_dim::<2>(1);
        (a.transpose(), (b * v * self.scale).transpose())
    }
}

impl ProjectionAdapter for TiedPlace {
    fn forward(&self, input: Tensor<3>, inner: &Inner<'_>) -> Tensor<3> {
        let (a, b) = self.factors(inner.context);
        let (a, b) = (cast_like(a, &input), cast_like(b, &input));
        let linear = |x: Tensor<3>, weight: Tensor<2>| peftlab_ops::linear(x, weight, None);
        inner.forward(input.clone()) + linear(linear(input, a), b)
    }

    fn merge(&self, weights: Merged, context: &Context) -> Option<Merged> {
        let (a, b) = self.factors(context);
        Some(weights.plus(a.matmul(b)))
    }
}
