//! Mistral's sliding window against `transformers`' numbers (`tools/reference/window.py`).

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "a test may")]

mod common;
#[path = "common/network.rs"]
mod network;

use burn::tensor::Device;
use common::root;
use peftlab_checkpoint::resolve;
use serde_json::Value;

#[test]
fn a_query_sees_the_keys_of_its_window_as_in_transformers() {
    let folder = root().join("tests/fixtures/window");
    let text = std::fs::read_to_string(folder.join("logits.json")).unwrap();
    let reference: Value = serde_json::from_str(&text).unwrap();
    let ids: Vec<i64> = serde_json::from_value(reference["ids"].clone()).unwrap();
    let (files, device) = (resolve(".", &folder).unwrap(), Device::flex());
    let cases = reference["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 4);
    for case in cases {
        let mut config = files.config.clone();
        config["sliding_window"] = case["sliding_window"].clone();
        let model = network::language_model(&files, &config, &device);
        let (ours, _) = network::logits(&model, &ids, &device);
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
