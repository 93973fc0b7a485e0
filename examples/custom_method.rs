//! A method at a block, from outside: learned vectors that scale what each sub-layer adds to the residual stream, in the
//! manner of LayerScale (Touvron et al. 2021, arXiv 2103.17239). No other file knows of it.
//!
//! ```text
//! cargo run --release --example custom_method -- run examples/custom_method.toml
//! ```

use peftlab::prelude::*;

/// The settings, as a `[[method]]` table gives them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(crate = "peftlab::serde", deny_unknown_fields, default)]
struct SubLayerScale {
    /// Whether the feed-forward networks' outputs are scaled, too.
    feed_forward: bool,
}

impl Default for SubLayerScale {
    fn default() -> Self {
        Self { feed_forward: true }
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
        settings: &[("feed_forward", "true", "whether feed-forward networks' outputs are scaled, too")],
    };

    fn count(&self, outline: &Outline) -> Result<Count, NotApplicable> {
        let each = if self.feed_forward { 2 } else { 1 };
        Ok(Count::all(each * outline.dimensions.layers * outline.dimensions.hidden))
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
                scale_attention: init.constant(1.0, [hidden]),
                scale_ffn: self.feed_forward.then(|| init.constant(1.0, [hidden])),
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
    scale_ffn: Option<Param<Tensor<1>>>,
}

impl BlockAdapter for Scales {
    fn apply(&self, sub_layer: &SubLayerOutput<'_>, _: &Context) -> Tensor<3> {
        let output = sub_layer.output.clone();
        let scale = match sub_layer.layer {
            SubLayer::Attention => self.scale_attention.val(),
            SubLayer::FeedForward => match &self.scale_ffn {
                Some(scale) => scale.val(),
                None => return output,
            },
        };
        let scale = cast_like(scale, &output);
        output * scale.unsqueeze()
    }
}

peftlab::main!(SubLayerScale);

#[test]
fn the_scales_keep_their_promises() {
    for settings in [json!({}), json!({ "feed_forward": false })] {
        let report = peftlab::check::<SubLayerScale>(settings).unwrap();
        assert!(report.passed(), "{report}");
    }
}
