//! Mistral's sliding window against `transformers`' numbers (`tools/reference/window.py`).

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
fn a_query_sees_the_keys_of_its_window_as_in_transformers() {
    let folder = root().join("tests/fixtures/window");
    let text = std::fs::read_to_string(folder.join("logits.json")).unwrap();
    let reference: Value = serde_json::from_str(&text).unwrap();
    let ids: Vec<i64> = serde_json::from_value(reference["ids"].clone()).unwrap();
    let (files, device) = (resolve(".", &folder).unwrap(), Device::flex());
    let card = card(&files.config).unwrap();
    let weights = Weights::Checkpoint {
        source: &*files.weights,
        base_prefix: card.base_prefix,
        fresh: card.fresh,
        head: HeadRows::Kept,
        seed: 0,
    };
    let cases = reference["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 4);
    for case in cases {
        let mut config = files.config.clone();
        config["sliding_window"] = case["sliding_window"].clone();
        let builder = Builder::new(weights, &device, DType::F32);
        let model = Model::new(build(&config, Head::LanguageModel, &builder).unwrap()).valid();
        let tokens = Tensor::<2, Int>::from_data(TensorData::new(ids.clone(), [1, ids.len()]), &device);
        let input = ModelInput { input_ids: tokens, padding: None, token_type_ids: None };
        let Output::Tokens(logits) = model.forward(&input, Mode::Evaluate) else { panic!("no logits") };
        let ours: Vec<f32> = logits.into_data().iter::<f32>().collect();
        let theirs: Vec<Vec<f64>> = serde_json::from_value(case["logits"].clone()).unwrap();
        let theirs = theirs.concat();
        assert_eq!(ours.len(), theirs.len());
        for (at, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
            let error = (f64::from(*ours) - theirs).abs();
            let window = &case["sliding_window"];
            assert!(error < 1e-5, "window {window}: value {at} is {ours} and should be {theirs}");
        }
    }
}
