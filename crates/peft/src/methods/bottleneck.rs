//! Bottleneck adapters: `Adp(x) = W_up σ(W_down x + b) + b'`, at three placements.
//!
//! `o` is a sub-layer's output before the residual `x` is added, and `LN` the norm after the addition in a
//! post-norm network (the identity in a pre-norm one). Placements and initialisations are those of AdapterHub's
//! `adapters`, the reference they are checked against.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::{gelu, relu, silu};
use peftlab_layers::{Attached, BlockAdapter, Context, Initializer, Linear, Model, SubLayer, SubLayerOutput};
use serde::{Deserialize, Serialize};

use crate::{Card, Count, Family, Identity, MergeKind, Method, NotApplicable, Outline};

/// σ
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// Rectifier.
    Relu,
    /// With the error function.
    Gelu,
    /// x sigmoid(x), also called SiLU.
    #[serde(alias = "silu")]
    Swish,
}

impl Activation {
    /// σ of every value.
    pub fn apply(self, input: Tensor<3>) -> Tensor<3> {
        match self {
            Self::Relu => relu(input),
            Self::Gelu => gelu(input),
            Self::Swish => silu(input),
        }
    }
}

/// How the matrices start; biases start at zero.
#[derive(Clone, Copy)]
enum Start {
    /// Both N(0, 0.02).
    Normal,
    /// Down Kaiming-uniform, up zero.
    ZeroUp,
}

/// The checks and the count that the placements share: `per_layer` adapters in each layer.
fn count(bottleneck: usize, per_layer: usize, outline: &Outline) -> Result<Count, NotApplicable> {
    if bottleneck == 0 {
        return Err(NotApplicable::new(
            "bottleneck is 0, and there would be nothing to train; use 1 or more",
        ));
    }
    let hidden = outline.dimensions.hidden;
    let one = 2 * hidden * bottleneck + bottleneck + hidden;
    Ok(Count::all(outline.dimensions.layers * per_layer * one))
}

fn attach(model: &mut Model, mut make: impl FnMut() -> BottleneckAdapters) {
    for site in model.sites().blocks {
        site.adapters.push(Attached::new(Box::new(make())));
    }
}

const SERIAL: &[(&str, &str, &str)] = &[
    ("bottleneck", "64", "m, the width inside"),
    ("activation", "\"swish\" (Houlsby), \"relu\" (Pfeiffer)", "\"relu\", \"gelu\" or \"swish\""),
    ("scaling", "1", "s"),
];

/// Houlsby's adapters: serial, after both sub-layers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Houlsby {
    /// m
    pub bottleneck: usize,
    /// σ
    pub activation: Activation,
    /// s
    pub scaling: f64,
}

impl Default for Houlsby {
    fn default() -> Self {
        Self { bottleneck: 64, activation: Activation::Swish, scaling: 1.0 }
    }
}

impl Method for Houlsby {
    const CARD: Card = Card {
        name: "houlsby",
        title: "Bottleneck adapters (Houlsby)",
        family: Family::Additive,
        paper: "Houlsby et al. 2019, arXiv 1902.00751",
        summary: "After attention and after the feed-forward network, h = LN(o + s Adp(o) + x) with \
                  Adp(o) = W_up σ(W_down o + b) + b'; matrices start at N(0, 0.02).",
        identity: Identity::Within(0.1),
        merge: MergeKind::No,
        not_for: "",
        settings: SERIAL,
    };

    fn label(&self) -> String {
        format!("houlsby m={}", self.bottleneck)
    }

    fn count(&self, outline: &Outline) -> Result<Count, NotApplicable> {
        count(self.bottleneck, 2, outline)
    }

    fn attach(
        &self,
        model: &mut Model,
        outline: &Outline,
        init: &mut Initializer,
    ) -> Result<(), NotApplicable> {
        Method::count(self, outline)?;
        let mut one = || Bottleneck::new(self.bottleneck, self.activation, Start::Normal, outline, init);
        attach(model, || BottleneckAdapters {
            adapter_attention: Some(one()),
            adapter_ffn: Some(one()),
            scaling: self.scaling,
            ..BottleneckAdapters::default()
        });
        Ok(())
    }
}

/// Pfeiffer's adapters: serial, after the feed-forward network alone.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pfeiffer {
    /// m
    pub bottleneck: usize,
    /// σ
    pub activation: Activation,
    /// s
    pub scaling: f64,
}

impl Default for Pfeiffer {
    fn default() -> Self {
        Self { bottleneck: 64, activation: Activation::Relu, scaling: 1.0 }
    }
}

impl Method for Pfeiffer {
    const CARD: Card = Card {
        name: "pfeiffer",
        title: "Bottleneck adapters (Pfeiffer)",
        family: Family::Additive,
        paper: "Pfeiffer et al. 2020, arXiv 2005.00247",
        summary: "After the feed-forward network, h = LN(o + s Adp(LN(o + x)) + x): the adapter reads what the block \
                  would have given, through the block's own norm, which is so used twice; matrices start at N(0, 0.02).",
        identity: Identity::Within(0.1),
        merge: MergeKind::No,
        not_for: "",
        settings: SERIAL,
    };

    fn label(&self) -> String {
        format!("pfeiffer m={}", self.bottleneck)
    }

    fn count(&self, outline: &Outline) -> Result<Count, NotApplicable> {
        count(self.bottleneck, 1, outline)
    }

    fn attach(
        &self,
        model: &mut Model,
        outline: &Outline,
        init: &mut Initializer,
    ) -> Result<(), NotApplicable> {
        Method::count(self, outline)?;
        let mut one = || Bottleneck::new(self.bottleneck, self.activation, Start::Normal, outline, init);
        attach(model, || BottleneckAdapters {
            adapter_ffn: Some(one()),
            reads_block_output: true,
            scaling: self.scaling,
            ..BottleneckAdapters::default()
        });
        Ok(())
    }
}

/// Parallel adapters: beside the feed-forward network.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Parallel {
    /// m
    pub bottleneck: usize,
    /// σ
    pub activation: Activation,
    /// s
    pub scaling: f64,
}

impl Default for Parallel {
    fn default() -> Self {
        Self { bottleneck: 64, activation: Activation::Relu, scaling: 4.0 }
    }
}

impl Method for Parallel {
    const CARD: Card = Card {
        name: "parallel",
        title: "Bottleneck adapters (parallel)",
        family: Family::Additive,
        paper: "He et al. 2021, arXiv 2110.04366",
        summary: "Beside the feed-forward network, h = LN(o + s Adp(x) + x), where x is the residual stream before the \
                  sub-layer; W_down starts Kaiming-uniform and W_up zero.",
        identity: Identity::Exact,
        merge: MergeKind::No,
        not_for: "",
        settings: &[
            ("bottleneck", "64", "m, the width inside"),
            ("activation", "\"relu\"", "\"relu\", \"gelu\" or \"swish\""),
            ("scaling", "4", "s"),
        ],
    };

    fn label(&self) -> String {
        format!("parallel m={}", self.bottleneck)
    }

    fn count(&self, outline: &Outline) -> Result<Count, NotApplicable> {
        count(self.bottleneck, 1, outline)
    }

    fn attach(
        &self,
        model: &mut Model,
        outline: &Outline,
        init: &mut Initializer,
    ) -> Result<(), NotApplicable> {
        Method::count(self, outline)?;
        attach(model, || BottleneckAdapters {
            adapter_parallel: Some(Bottleneck::new(
                self.bottleneck,
                self.activation,
                Start::ZeroUp,
                outline,
                init,
            )),
            scaling: self.scaling,
            ..BottleneckAdapters::default()
        });
        Ok(())
    }
}

/// One `Adp`.
#[derive(Module, Debug)]
struct Bottleneck {
    down: Linear,
    up: Linear,
    #[module(skip)]
    activation: Activation,
}

impl Bottleneck {
    fn new(
        bottleneck: usize,
        activation: Activation,
        start: Start,
        outline: &Outline,
        init: &mut Initializer,
    ) -> Self {
        let hidden = outline.dimensions.hidden;
        let (down, up) = match start {
            Start::Normal => {
                (init.normal(0.02, [hidden, bottleneck]), init.normal(0.02, [bottleneck, hidden]))
            }
            Start::ZeroUp => (init.kaiming([hidden, bottleneck]), init.constant(0.0, [bottleneck, hidden])),
        };
        Self {
            down: Linear { weight: down, bias: Some(init.constant(0.0, [bottleneck])) },
            up: Linear { weight: up, bias: Some(init.constant(0.0, [hidden])) },
            activation,
        }
    }

    fn forward(&self, input: Tensor<3>) -> Tensor<3> {
        self.up.forward(self.activation.apply(self.down.forward(input)))
    }
}

/// The adapters of one block.
#[derive(Module, Debug)]
struct BottleneckAdapters {
    adapter_attention: Option<Bottleneck>,
    adapter_ffn: Option<Bottleneck>,
    adapter_parallel: Option<Bottleneck>,
    /// Whether the serial adapter reads `LN(o + x)` in place of `o`.
    #[module(skip)]
    reads_block_output: bool,
    #[module(skip)]
    scaling: f64,
}

impl Default for BottleneckAdapters {
    fn default() -> Self {
        Self {
            adapter_attention: None,
            adapter_ffn: None,
            adapter_parallel: None,
            reads_block_output: false,
            scaling: 1.0,
        }
    }
}

impl BlockAdapter for BottleneckAdapters {
    fn apply(&self, sub_layer: &SubLayerOutput<'_>, _: &Context) -> Tensor<3> {
        let SubLayerOutput { layer, output, residual, norm_after, .. } = sub_layer;
        let (serial, parallel) = match layer {
            SubLayer::Attention => (&self.adapter_attention, &None),
            SubLayer::FeedForward => (&self.adapter_ffn, &self.adapter_parallel),
        };
        let mut result = output.clone();
        if let Some(adapter) = serial {
            let read = if self.reads_block_output {
                let sum = output.clone() + residual.clone();
                norm_after.map_or(sum.clone(), |norm| norm.forward(sum))
            } else {
                output.clone()
            };
            result = result + adapter.forward(read) * self.scaling;
        }
        if let Some(adapter) = parallel {
            result = result + adapter.forward(residual.clone()) * self.scaling;
        }
        result
    }
}
