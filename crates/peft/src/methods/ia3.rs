use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor};
use peftlab_layers::{
    Attached, Context, Initializer, Inner, Merged, Model, ProjectionAdapter, ProjectionInfo, Role,
};
use peftlab_ops::cast_like;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::selection::{EXCLUDE_MODULES, LAYERS_PATTERN, LAYERS_TO_TRANSFORM};
use crate::{
    Card, Count, Family, Identity, MergeKind, Method, NotApplicable, Outline, PeftConfig, Selection, Targets,
};

/// (IA)³: learned vectors scale keys, values and the feed-forward network's hidden activations.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ia3 {
    /// Projections; key, value and the one out of the feed-forward network if absent.
    #[serde(flatten)]
    pub selection: Selection,
    /// Those of them whose input is scaled, not their output; the last if absent.
    pub feedforward_modules: Option<Targets>,
}

const TARGETS: [Role; 3] = [Role::Key, Role::Value, Role::Down];

impl Ia3 {
    /// The targets, and for each whether its input is scaled.
    fn targets<'a>(&self, outline: &'a Outline) -> Result<Vec<(&'a ProjectionInfo, bool)>, NotApplicable> {
        let targets = self.selection.select(&TARGETS, outline)?;
        // an explicit empty list is PEFT's way of saying that no target's input is scaled
        let inputs = match &self.feedforward_modules {
            None => outline.targets().filter(|p| p.role == Role::Down).collect(),
            Some(modules) => modules.matching("feedforward_modules", outline)?,
        };
        Ok(targets.into_iter().map(|p| (p, inputs.contains(&p))).collect())
    }
}

impl Method for Ia3 {
    const CARD: Card = Card {
        name: "ia3",
        title: "(IA)³",
        family: Family::Additive,
        paper: "Liu et al. 2022, arXiv 2205.05638",
        summary: "Learned vectors, one at the start, scale keys and values, y = l ⊙ (x W + b), and the hidden \
                  activations of the feed-forward network, y = (l ⊙ x) W + b.",
        identity: Identity::Exact,
        merge: MergeKind::Exact,
        not_for: "",
        settings: &[
            ("target_modules", "key, value, down", "names, a regular expression, or \"all-linear\""),
            EXCLUDE_MODULES,
            LAYERS_TO_TRANSFORM,
            LAYERS_PATTERN,
            ("feedforward_modules", "down", "those of the targets whose input is scaled, not their output"),
        ],
    };

    fn label(&self) -> String {
        format!("ia3 {}", self.selection.label("k,v,ffn"))
    }

    fn count(&self, outline: &Outline) -> Result<Count, NotApplicable> {
        let targets = self.targets(outline)?;
        Ok(Count::all(targets.iter().map(|(p, input)| if *input { p.input } else { p.output }).sum()))
    }

    fn attach(
        &self,
        model: &mut Model,
        outline: &Outline,
        init: &mut Initializer,
    ) -> Result<(), NotApplicable> {
        let targets = self.targets(outline)?;
        for projection in model.sites().projections {
            let Some((info, input)) = targets.iter().find(|(p, _)| p.name == projection.info.name) else {
                continue;
            };
            let shape = if *input { [1, info.input] } else { [info.output, 1] };
            let adapter = Ia3Adapter { ia3_l: init.constant(1.0, shape), input: *input };
            projection.adapters.push(Attached::new(Box::new(adapter)));
        }
        Ok(())
    }

    fn from_peft(config: &PeftConfig<'_>) -> Result<Option<Self>, NotApplicable> {
        if !config.is("IA3") {
            return Ok(None);
        }
        // where there is none these are PEFT's own, which are more than the targets here: its name for a projection out
        // of a feed-forward network is one out of the attention's, too. A pattern, for names must be there
        let of_peft = |names: &str| Some(Targets::Pattern(format!(r".*\.({names})")));
        let mut selection = config.selection()?;
        if config.get("target_modules").is_null() {
            selection.target_modules = of_peft(r"key|value|output\.dense|k_proj|v_proj|down_proj");
        }
        // an empty list says that no target's input is scaled
        let feedforward_modules = config.value("feedforward_modules", of_peft(r"output\.dense|down_proj"))?;
        Ok(Some(Self { selection, feedforward_modules }))
    }

    fn to_peft(&self, outline: &Outline) -> Option<Value> {
        let targets = self.targets(outline).ok()?;
        let all: Vec<_> = targets.iter().map(|(p, _)| *p).collect();
        let inputs: Vec<_> = targets.iter().filter(|(_, input)| *input).map(|(p, _)| *p).collect();
        Some(json!({
            "peft_type": "IA3",
            "target_modules": Targets::to_peft(&all),
            "feedforward_modules": Targets::to_peft(&inputs),
            "fan_in_fan_out": false,
            "init_ia3_weights": true,
        }))
    }
}

/// (IA)³'s vector at one projection.
#[derive(Module, Debug)]
struct Ia3Adapter {
    /// `[1, in]` where the input is scaled, `[out, 1]` where the output is, as PEFT has it.
    ia3_l: Param<Tensor<2>>,
    #[module(skip)]
    input: bool,
}

impl Ia3Adapter {
    fn vector(&self) -> Tensor<1> {
        self.ia3_l.val().flatten(0, 1)
    }
}

impl ProjectionAdapter for Ia3Adapter {
    fn forward(&self, input: Tensor<3>, inner: &Inner<'_>) -> Tensor<3> {
        let scale = cast_like(self.vector(), &input).unsqueeze::<3>();
        if self.input { inner.forward(input * scale) } else { inner.forward(input) * scale }
    }

    fn merge(&self, weights: Merged, _: &Context) -> Option<Merged> {
        let vector = self.vector();
        if self.input {
            return Some(weights.with_weight(|weight| weight * vector.unsqueeze_dim(1)));
        }
        let mut merged = weights.with_weight(|weight| weight * vector.clone().unsqueeze_dim(0));
        merged.bias = merged.bias.map(|bias| {
            // in f32 and rounded once, as the weight is
            let dtype = bias.dtype();
            (bias.cast(DType::F32) * vector).cast(dtype)
        });
        Some(merged)
    }
}
