//! Networks that tests hold against other programs' numbers.

use burn::module::Module;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use peftlab_backbones::{Head, build, card};
use peftlab_checkpoint::ModelFiles;
use peftlab_layers::{Builder, HeadRows, Mode, Model, ModelInput, Output, Weights};
use serde_json::Value;

/// A model's weights as its files have them.
pub(crate) fn weights(files: &ModelFiles) -> Weights<'_> {
    let card = card(&files.config).unwrap();
    Weights::Checkpoint {
        source: &*files.weights,
        base_prefix: card.base_prefix,
        fresh: card.fresh,
        head: HeadRows::Kept,
        seed: 0,
    }
}

/// The language model of `files` with the configuration `config`, in f32, as it is evaluated.
pub(crate) fn language_model(files: &ModelFiles, config: &Value, device: &Device) -> Model {
    let builder = Builder::new(weights(files), device, DType::F32);
    Model::new(build(config, Head::LanguageModel, &builder).unwrap()).valid()
}

/// What a model is given of one text.
pub(crate) fn text_of(ids: &[i64], device: &Device) -> ModelInput {
    let input_ids = Tensor::<2, Int>::from_data(TensorData::new(ids.to_vec(), [1, ids.len()]), device);
    ModelInput { input_ids, padding: None, token_type_ids: None }
}

/// A language model's logits at each token of one text, `[tokens × vocabulary]`, and the size of the vocabulary.
pub(crate) fn logits(model: &Model, ids: &[i64], device: &Device) -> (Vec<f32>, usize) {
    let Output::Tokens(logits) = model.forward(&text_of(ids, device), Mode::Evaluate) else {
        panic!("no logits")
    };
    let [_, _, vocabulary] = logits.dims();
    (logits.into_data().iter::<f32>().collect(), vocabulary)
}
