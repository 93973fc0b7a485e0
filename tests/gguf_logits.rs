//! LLaMAs in GGUF against `transformers`' numbers (`tools/reference/gguf_logits.py`).

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "a test may")]

mod common;

use burn::module::Module;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use common::root;
use peftlab_backbones::{Head, build, card};
use peftlab_checkpoint::resolve;
use peftlab_layers::{Builder, HeadRows, Mode, Model, ModelInput, Output, Weights};
use serde_json::Value;

#[test]
fn logits_are_those_of_transformers() {
    let folder = root().join("tests/fixtures/gguf");
    let text = std::fs::read_to_string(folder.join("logits.json")).unwrap();
    let references: Value = serde_json::from_str(&text).unwrap();
    let device = Device::flex();
    let references = references.as_array().unwrap();
    assert_eq!(references.len(), 2);
    for reference in references {
        let file = reference["file"].as_str().unwrap();
        let files = resolve(file, &folder).unwrap();
        let card = card(&files.config).unwrap();
        let weights = Weights::Checkpoint {
            source: &*files.weights,
            base_prefix: card.base_prefix,
            fresh: card.fresh,
            head: HeadRows::Kept,
            seed: 0,
        };
        let builder = Builder::new(weights, &device, DType::F32);
        let model = Model::new(build(&files.config, Head::LanguageModel, &builder).unwrap()).valid();
        let ids: Vec<i64> = serde_json::from_value(reference["ids"].clone()).unwrap();
        let tokens = Tensor::<2, Int>::from_data(TensorData::new(ids.clone(), [1, ids.len()]), &device);
        let input = ModelInput { input_ids: tokens, padding: None, token_type_ids: None };
        let Output::Tokens(logits) = model.forward(&input, Mode::Evaluate) else {
            panic!("{file}: no logits")
        };
        let [_, _, vocabulary] = logits.dims();
        let ours: Vec<f32> = logits.into_data().iter::<f32>().collect();
        let every = reference["every"].as_u64().unwrap() as usize;
        for (row, expected) in reference["logits"].as_array().unwrap().iter().enumerate() {
            let ours = &ours[row * every * vocabulary..][..vocabulary];
            for (ours, theirs) in ours.iter().zip(expected.as_array().unwrap()) {
                let theirs = theirs.as_f64().unwrap();
                let error = (f64::from(*ours) - theirs).abs();
                assert!(error < 2e-5 * (1.0 + theirs.abs()), "{file}: row {row}: {ours} against {theirs}");
            }
        }
    }
}
