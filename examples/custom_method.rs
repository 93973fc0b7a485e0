//! A method from outside: learned vectors that scale what each sub-layer adds to the residual stream, in the
//! manner of LayerScale (Touvron et al. 2021, arXiv 2103.17239). No other file knows of it.
//!
//! ```text
//! cargo run --release --example custom_method -- run examples/custom_method.toml
//! ```

use std::process::ExitCode;

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use peftlab_layers::{Attached, BlockAdapter, Context, Initializer, Model, SubLayer, SubLayerOutput};
use peftlab_meter::CountingAllocator;
use peftlab_ops::cast_like;
use peftlab_peft::{Card, Count, Family, Identity, MergeKind, Method, NotApplicable, Outline, Registry};
use serde::{Deserialize, Serialize};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator::new();

/// The settings, as a `[[method]]` table gives them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SubLayerScale {
    /// Every entry's value at the start.
    init: f32,
}

impl Default for SubLayerScale {
    fn default() -> Self {
        Self { init: 1.0 }
    }
}

impl Method for SubLayerScale {
    const CARD: Card = Card {
        name: "sublayer-scale",
        title: "Sub-layer scale",
        family: Family::Additive,
        paper: "after LayerScale, Touvron et al. 2021, arXiv 2103.17239",
        summary: "h = x + s ⊙ o, with a learned vector s for each sub-layer.",
        identity: Identity::Exact,
        merge: MergeKind::No,
        not_for: "",
        settings: &[("init", "1", "every entry of s at the start")],
    };

    fn count(&self, outline: &Outline) -> Result<Count, NotApplicable> {
        Ok(Count::all(2 * outline.dimensions.layers * outline.dimensions.hidden))
    }

    fn attach(
        &self,
        model: &mut Model,
        outline: &Outline,
        init: &mut Initializer,
    ) -> Result<(), NotApplicable> {
        let hidden = outline.dimensions.hidden;
        for block in model.sites().blocks {
            let scales = Scales {
                scale_attention: init.constant(self.init, [hidden]),
                scale_ffn: init.constant(self.init, [hidden]),
            };
            block.adapters.push(Attached::new(Box::new(scales)));
        }
        Ok(())
    }
}

/// The tensors of one block: an ordinary Burn module.
#[derive(Module, Debug)]
struct Scales {
    scale_attention: Param<Tensor<1>>,
    scale_ffn: Param<Tensor<1>>,
}

impl BlockAdapter for Scales {
    fn apply(&self, sub_layer: &SubLayerOutput<'_>, _: &Context) -> Tensor<3> {
        let scale = match sub_layer.layer {
            SubLayer::Attention => self.scale_attention.val(),
            SubLayer::FeedForward => self.scale_ffn.val(),
        };
        let output = sub_layer.output.clone();
        let scale = cast_like(scale, &output);
        output * scale.unsqueeze()
    }
}

fn main() -> ExitCode {
    let mut registry = Registry::standard();
    registry.add::<SubLayerScale>();
    peftlab_bench::main(&registry)
}
