//! LLaMAs in GGUF against `transformers`' numbers (`tools/reference/gguf_logits.py`).

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "a test may")]

mod common;
#[path = "common/network.rs"]
mod network;

use burn::tensor::Device;
use common::root;
use peftlab_checkpoint::resolve;
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
        let model = network::language_model(&files, &files.config, &device);
        let ids: Vec<i64> = serde_json::from_value(reference["ids"].clone()).unwrap();
        let (ours, vocabulary) = network::logits(&model, &ids, &device);
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
