//! Tiny networks, and what the checks do with them.

use std::collections::BTreeMap;
use std::fmt::{Display, Formatter, Result as FmtResult};
use std::sync::{Mutex, PoisonError};

use burn::module::Module;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use peftlab_backbones::{Head, build};
use peftlab_harness::{Attached, FirstToken, Targets, loss};
use peftlab_layers::params::{self, HostTensor, ParamInfo};
use peftlab_layers::{Builder, Initializer, Mode, Model, ModelInput, Output, Weights};
use peftlab_peft::{DynMethod, NotApplicable};
use serde::Serialize;
use serde_json::{Value, json};

/// Hidden size of every network.
const HIDDEN: usize = 32;
/// Tokens in the vocabulary.
pub(crate) const VOCABULARY: usize = 61;
/// Sequences in the batch.
const ROWS: usize = 3;
/// Tokens in each.
const LENGTH: usize = 16;
/// How much larger than N(0, 0.02), which is for wider networks, weights are: everything depends on the input then.
const FACTOR: f32 = 6.0;

/// A tiny network with random weights: two layers, 32 wide, four heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// An encoder with a head for three classes: norms after the sub-layers, biases everywhere.
    Bert,
    /// The same with positions that are counted from the padding on, and another head.
    Roberta,
    /// A language model without biases, with rotary positions, a gated feed-forward network, and two heads of keys and
    /// values for four of queries.
    Llama,
}

impl Display for Network {
    fn fmt(&self, f: &mut Formatter<'_>) -> FmtResult {
        f.write_str(self.name())
    }
}

impl Network {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Bert, Self::Roberta, Self::Llama];

    /// What it is called on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bert => "bert",
            Self::Roberta => "roberta",
            Self::Llama => "llama",
        }
    }

    /// Whether its head is the task's, and trained with every method.
    pub(crate) fn has_trained_head(self) -> bool {
        self != Self::Llama
    }

    /// The device of all checks: the CPU, with autodiff.
    pub fn device() -> Device {
        Device::flex().autodiff()
    }

    /// The network with weights large enough that everything depends on the input; the same at every call.
    pub fn model(self) -> Model {
        let model = self.drawn();
        let mut matrices = params::tensors(&model, |info| info.shape.len() == 2);
        for tensor in matrices.values_mut() {
            tensor.values.iter_mut().for_each(|value| *value *= FACTOR);
        }
        assigned(model, &matrices)
    }

    /// The network with weights as they are drawn for training.
    pub fn drawn(self) -> Model {
        let sizes = json!({
            "model_type": self.name(), "hidden_size": HIDDEN, "intermediate_size": 2 * HIDDEN,
            "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": VOCABULARY,
            "max_position_embeddings": 4 * LENGTH, "pad_token_id": 1,
        });
        let own = match self {
            Self::Llama => json!({ "num_key_value_heads": 2 }),
            Self::Bert | Self::Roberta => json!({
                "type_vocab_size": 2, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
            }),
        };
        let tables = [sizes, own].into_iter().filter_map(|table| table.as_object().cloned());
        let config = Value::Object(tables.flatten().collect());
        let head = match self {
            Self::Llama => Head::LanguageModel,
            Self::Bert | Self::Roberta => Head::Sequence { outputs: ROWS },
        };
        // the device has one stream of random numbers, and tests run side by side
        static STREAM: Mutex<()> = Mutex::new(());
        let _alone = STREAM.lock().unwrap_or_else(PoisonError::into_inner);
        let builder = Builder::new(Weights::Random { seed: 5 }, &Self::device(), DType::F32);
        let backbone = build(&config, head, &builder);
        Model::new(
            backbone
                .unwrap_or_else(|error| unreachable!("{self} is built from its own configuration: {error}")),
        )
    }

    /// The network with `method` attached.
    ///
    /// # Errors
    /// Where the method does not apply to it.
    pub fn with(self, method: &dyn DynMethod) -> Result<Attached, NotApplicable> {
        Attached::new(self.model(), method, 11, &Self::device())
    }

    /// The batch: three sequences of 16 tokens.
    pub fn input(self) -> ModelInput {
        let ids =
            (0..(ROWS * LENGTH) as i64).map(|i| 2 + (i * i + 7 * i) % (VOCABULARY as i64 - 2)).collect();
        let input_ids = TensorData::new::<i64, _>(ids, [ROWS, LENGTH]);
        let input_ids = Tensor::<2, Int>::from_data(input_ids, &Self::device());
        ModelInput { input_ids, padding: None, token_type_ids: None }
    }

    /// What is to be predicted: a class for each sequence, or the next token.
    pub fn targets(self) -> Targets {
        match self {
            Self::Llama => {
                let ids = self.input().input_ids.into_data().iter::<i64>().collect();
                Targets::tokens(ids, [ROWS, LENGTH], FirstToken::Left, &Self::device())
            }
            Self::Bert | Self::Roberta => {
                let classes = TensorData::new(vec![0_i64, 2, 1], [ROWS]);
                Targets::Classes(Tensor::from_data(classes, &Self::device()))
            }
        }
    }

    /// The mean loss of `model` on the batch, `[1]`.
    pub fn mean_loss(self, model: &Model, mode: Mode) -> Tensor<1> {
        let targets = self.targets();
        loss(model.forward(&self.input(), mode), &targets).sum / targets.counted() as f64
    }
}

/// The logits of `model` for `input`, row-major, without autodiff.
pub fn logits(model: &Model, input: &ModelInput, mode: Mode) -> Vec<f32> {
    match model.valid().forward(input, mode) {
        Output::Sequence(logits) => logits.into_data().iter::<f32>().collect(),
        Output::Tokens(logits) => logits.into_data().iter::<f32>().collect(),
    }
}

/// The model of `attached` with every trained tensor moved by N(0, 0.05): a zero B hides mistakes.
pub fn randomised(attached: &Attached) -> Model {
    let mut init = Initializer::new(3, &Network::device());
    let mut values = params::tensors(&attached.model, |info: &ParamInfo| info.trained);
    for tensor in values.values_mut() {
        let noise = init.normal(0.05, [tensor.values.len()]).val().into_data();
        for (value, noise) in tensor.values.iter_mut().zip(noise.iter::<f32>()) {
            *value += noise;
        }
    }
    assigned(attached.model.clone(), &values)
}

/// `model` with other values in some of its own tensors.
fn assigned(model: Model, values: &BTreeMap<String, HostTensor>) -> Model {
    match params::assign(model, values) {
        Ok((model, _)) => model,
        Err(error) => unreachable!("the tensors are the model's own: {error}"),
    }
}
