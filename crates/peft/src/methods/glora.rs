#![allow(non_snake_case, reason = "fields are named as in PEFT's files")]

use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor};
use peftlab_layers::{Context, Initializer, Inner, Merged, Model, ProjectionAdapter, ProjectionInfo};
use peftlab_ops::{cast_like, linear};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::checks::check_rank;
use super::loha::kaiming_rows;
use super::low_rank::{QUERY_VALUE, attach};
use crate::selection::{EXCLUDE_MODULES, LAYERS_PATTERN, LAYERS_TO_TRANSFORM};
use crate::{
    Card, Count, Family, Identity, MergeKind, Method, NotApplicable, Outline, PeftConfig, Selection, Targets,
};

/// GLoRA: scales and shifts of a projection's weight and bias.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GLora {
    /// r
    pub rank: usize,
    /// Form of A, the weight's scale, and B, its shift.
    pub config_A_B: WeightPath,
    /// Form of C, which takes the weight into the bias.
    pub config_C: CouplingPath,
    /// Form of D, the bias's scale, and E, its shift.
    pub config_D_E: BiasPath,
    /// Projections; query and value if absent.
    #[serde(flatten)]
    pub selection: Selection,
}

/// Form of a change of the weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightPath {
    /// A product of rank r.
    Lora,
    /// A value an output.
    Vector,
    /// One value.
    Constant,
    /// No change.
    None,
}

/// Form of what takes the weight into the bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CouplingPath {
    /// A value an input, as a product over r.
    Lora,
    /// A value an input.
    Vector,
    /// Nothing does.
    None,
}

/// Form of a change of the bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BiasPath {
    /// A value an output.
    Vector,
    /// One value.
    Constant,
    /// No change.
    None,
}

impl Default for GLora {
    fn default() -> Self {
        Self {
            rank: 4,
            config_A_B: WeightPath::Lora,
            config_C: CouplingPath::Lora,
            config_D_E: BiasPath::Constant,
            selection: Selection::default(),
        }
    }
}

impl GLora {
    fn targets<'o>(&self, outline: &'o Outline) -> Result<Vec<&'o ProjectionInfo>, NotApplicable> {
        check_rank("rank", self.rank)?;
        let targets = self.selection.select(&QUERY_VALUE, outline)?;
        match targets.iter().all(|p| self.elements(p) == 0) {
            false => Ok(targets),
            true => Err(NotApplicable::new(
                "config_A_B is \"none\", and no target has a bias that config_C or config_D_E would act on: there \
                 would be nothing to train; use \"lora\", \"vector\" or \"constant\"",
            )),
        }
    }

    fn elements(&self, info: &ProjectionInfo) -> usize {
        let (input, output) = (info.input, info.output);
        let weight = match self.config_A_B {
            WeightPath::Lora => self.rank * (input + output),
            WeightPath::Vector => output,
            WeightPath::Constant => 1,
            WeightPath::None => 0,
        };
        if !info.bias {
            return 2 * weight;
        }
        let coupling = match self.config_C {
            CouplingPath::Lora => self.rank * (input + 1),
            CouplingPath::Vector => input,
            CouplingPath::None => 0,
        };
        let bias = match self.config_D_E {
            BiasPath::Vector => output,
            BiasPath::Constant => 1,
            BiasPath::None => 0,
        };
        2 * weight + coupling + 2 * bias
    }

    fn adapter(&self, info: &ProjectionInfo, init: &mut Initializer) -> GLoraAdapter {
        let (rank, input, output) = (self.rank, info.input, info.output);
        let mut weight = || match self.config_A_B {
            WeightPath::Lora => Some(Path::lora(init, [output, input], rank)),
            WeightPath::Vector => Some(Path::column(init, output)),
            WeightPath::Constant => Some(Path::vector(init, 1)),
            WeightPath::None => None,
        };
        let (glora_A, glora_B) = (weight(), weight());
        let glora_C = match self.config_C {
            _ if !info.bias => None,
            CouplingPath::Lora => Some(Path::lora(init, [input, 1], rank)),
            CouplingPath::Vector => Some(Path::column(init, input)),
            CouplingPath::None => None,
        };
        let bias = || match self.config_D_E {
            _ if !info.bias => None,
            BiasPath::Vector => Some(Path::vector(init, output)),
            BiasPath::Constant => Some(Path::vector(init, 1)),
            BiasPath::None => None,
        };
        GLoraAdapter { glora_A, glora_B, glora_C, glora_D: bias(), glora_E: bias() }
    }
}

impl Method for GLora {
    const CARD: Card = Card {
        name: "glora",
        title: "GLoRA",
        family: Family::Reparameterized,
        paper: "Chavan et al. 2023, arXiv 2306.07967",
        summary: "W' = W + W ⊙ A + B and b' = b + b ⊙ D + E + W C, each of the five a product of rank r, a vector, one \
                  value, or absent. It is PEFT's: one form for a whole run, where the paper draws a path in every step \
                  and searches afterwards; and where a linear has no bias it gets none, and C, D and E do nothing. \
                  Everything starts at zero but a product's right factor. The dense change is made in every pass.",
        identity: Identity::Exact,
        merge: MergeKind::Exact,
        not_for: "",
        settings: &[
            ("rank", "4", "r"),
            (
                "config_A_B",
                "\"lora\"",
                "A and B: \"lora\", \"vector\" (a value an output), \"constant\" or \"none\"",
            ),
            ("config_C", "\"lora\"", "C: \"lora\", \"vector\" (a value an input) or \"none\""),
            (
                "config_D_E",
                "\"constant\"",
                "D and E: \"vector\" (a value an output), \"constant\" or \"none\"",
            ),
            ("target_modules", "query and value", "names, a regular expression, or \"all-linear\""),
            EXCLUDE_MODULES,
            LAYERS_TO_TRANSFORM,
            LAYERS_PATTERN,
        ],
    };

    fn label(&self) -> String {
        let weight = match self.config_A_B {
            WeightPath::Lora => format!("r={}", self.rank),
            WeightPath::Vector => "vector".to_owned(),
            WeightPath::Constant => "constant".to_owned(),
            WeightPath::None => "none".to_owned(),
        };
        let coupling = match self.config_C {
            CouplingPath::Lora => "",
            CouplingPath::Vector => " C=vector",
            CouplingPath::None => " C=none",
        };
        let bias = match self.config_D_E {
            BiasPath::Vector => " D,E=vector",
            BiasPath::Constant => "",
            BiasPath::None => " D,E=none",
        };
        let targets = self.selection.label("q,v");
        format!("glora {weight}{coupling}{bias} {targets}")
    }

    fn count(&self, outline: &Outline) -> Result<Count, NotApplicable> {
        Ok(Count::all(self.targets(outline)?.iter().map(|p| self.elements(p)).sum()))
    }

    fn attach(
        &self,
        model: &mut Model,
        outline: &Outline,
        init: &mut Initializer,
    ) -> Result<(), NotApplicable> {
        let targets = self.targets(outline)?;
        attach(model, &targets, |projection| Ok(self.adapter(&projection.info, init)))
    }

    fn from_peft(config: &PeftConfig<'_>) -> Result<Option<Self>, NotApplicable> {
        if !config.is("GLORA") {
            return Ok(None);
        }
        let default = Self::default();
        Ok(Some(Self {
            rank: config.integer("r", 8)?,
            config_A_B: config.value("config_A_B", default.config_A_B)?,
            config_C: config.value("config_C", default.config_C)?,
            config_D_E: config.value("config_D_E", default.config_D_E)?,
            selection: config.selection()?,
        }))
    }

    fn to_peft(&self, outline: &Outline) -> Option<Value> {
        Some(json!({
            "peft_type": "GLORA",
            "r": self.rank,
            "config_A_B": self.config_A_B,
            "config_C": self.config_C,
            "config_D_E": self.config_D_E,
            "target_modules": Targets::to_peft(&self.targets(outline).ok()?),
            "bias": "none",
            "init_weights": true,
        }))
    }
}

/// One of the five, in one of its forms. Named as in PEFT.
#[derive(Module, Debug, Default)]
struct Path {
    /// The left factor of a product.
    Xd: Option<Param<Tensor<2>>>,
    /// The right factor of a product.
    Xu: Option<Param<Tensor<2>>>,
    /// A column.
    X: Option<Param<Tensor<2>>>,
    /// A vector, or one value: `X` in files, too.
    X_: Option<Param<Tensor<1>>>,
}

impl Path {
    fn lora(init: &mut Initializer, [rows, columns]: [usize; 2], rank: usize) -> Self {
        let (left, right) = (init.constant(0.0, [rows, rank]), kaiming_rows(init, [rank, columns]));
        Self { Xd: Some(left), Xu: Some(right), ..Self::default() }
    }

    fn column(init: &Initializer, rows: usize) -> Self {
        Self { X: Some(init.constant(0.0, [rows, 1])), ..Self::default() }
    }

    fn vector(init: &Initializer, length: usize) -> Self {
        Self { X_: Some(init.constant(0.0, [length])), ..Self::default() }
    }

    /// Transposed, with dimensions of one where it is the same all along.
    fn matrix(&self) -> Tensor<2> {
        match self {
            Self { Xd: Some(left), Xu: Some(right), .. } => left.val().matmul(right.val()).transpose(),
            Self { X: Some(column), .. } => column.val().transpose(),
            _ => self.values().unsqueeze(),
        }
    }

    fn values(&self) -> Tensor<1> {
        self.X_.as_ref().map_or_else(|| unreachable!("a path has one of its forms"), Param::val)
    }
}

/// GLoRA's tensors at one projection.
#[derive(Module, Debug)]
struct GLoraAdapter {
    glora_A: Option<Path>,
    glora_B: Option<Path>,
    glora_C: Option<Path>,
    glora_D: Option<Path>,
    glora_E: Option<Path>,
}

impl GLoraAdapter {
    /// `W ⊙ A + B`, `[in, out]`.
    fn of_weight(&self, weight: &Tensor<2>) -> Option<Tensor<2>> {
        let matrix = |path: &Path| cast_like(path.matrix(), weight);
        let scale = matrix(self.glora_A.as_ref()?);
        let shift = matrix(self.glora_B.as_ref()?);
        Some(weight.clone() * scale + shift)
    }

    /// `b ⊙ D + E + W C`, `[out]`.
    fn of_bias(&self, weight: &Tensor<2>, bias: Tensor<1>) -> Option<Tensor<1>> {
        let own = self.glora_D.as_ref().zip(self.glora_E.as_ref());
        let own = own.map(|(scale, shift)| bias.cast(DType::F32) * scale.values() + shift.values());
        let from_weight = self.glora_C.as_ref().map(|path| {
            let column = cast_like(path.matrix(), weight);
            column.matmul(weight.clone()).flatten::<1>(0, 1).cast(DType::F32)
        });
        [own, from_weight].into_iter().flatten().reduce(|sum, part| sum + part)
    }
}

impl ProjectionAdapter for GLoraAdapter {
    fn forward(&self, input: Tensor<3>, inner: &Inner<'_>) -> Tensor<3> {
        let weight = inner.weight();
        let of_bias = inner.bias().and_then(|bias| self.of_bias(&weight, bias));
        let output = inner.forward(input.clone());
        let output = match self.of_weight(&weight) {
            Some(change) => output + linear(input, change, None),
            None => output,
        };
        match of_bias {
            Some(change) => {
                let change = cast_like(change, &output).unsqueeze::<3>();
                output + change
            }
            None => output,
        }
    }

    fn merge(&self, weights: Merged, _: &Context) -> Option<Merged> {
        let dense = weights.weight.dense().cast(DType::F32);
        let bias = weights.bias.clone().map(|bias| match self.of_bias(&dense, bias.clone()) {
            Some(change) => {
                let dtype = bias.dtype();
                (bias.cast(DType::F32) + change).cast(dtype)
            }
            None => bias,
        });
        let merged = weights.with_weight(|weight| match self.of_weight(&weight) {
            Some(change) => weight + change,
            None => weight,
        });
        Some(Merged { bias, ..merged })
    }
}
