//! The committed bundles of what Hugging Face PEFT and AdapterHub's adapters compute.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, reason = "a test may")]

mod common;

use common::{bench, root, text};
use peftlab_checkpoint::Safetensors;

#[test]
fn every_committed_bundle_passes() {
    let output = bench(&root(), &["parity", "tests/fixtures/parity"]);
    let text = text(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(!text.contains("FAIL") && !text.contains("SKIP"), "{text}");
    assert!(text.matches("PASS").count() >= 100, "{text}");
    // some of them count the first label of a row, which a prompt alone predicts
    let data = root().join("tests/fixtures/parity/llama-prompt-tuning/data.safetensors");
    let labels = Safetensors::open(&[data]).unwrap().read_i64("labels").unwrap();
    assert!(labels.chunks(11).any(|row| row[0] >= 0), "{labels:?}");
}

#[test]
fn a_wrong_expectation_fails() {
    let dir = tempfile::tempdir().unwrap();
    let from = root().join("tests/fixtures/parity/bert-lora").canonicalize().unwrap();
    let copy = |name: &str| {
        std::fs::create_dir_all(dir.path().join(name).parent().unwrap()).unwrap();
        std::fs::copy(from.join(name), dir.path().join(name)).unwrap();
    };
    for name in [
        "bundle.json",
        "data.safetensors",
        "base/config.json",
        "base/model.safetensors",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
    ] {
        copy(name);
    }
    // one bit of a low byte somewhere in the logits' neighbours would be too small to see: change a high one
    let mut bytes = std::fs::read(from.join("expected.safetensors")).unwrap();
    let last = bytes.len() - 2;
    bytes[last] ^= 0x40;
    std::fs::write(dir.path().join("expected.safetensors"), bytes).unwrap();
    let output = bench(dir.path(), &["parity", "."]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("FAIL"));
}
