//! Two real models against `transformers`' numbers (`tools/reference/`). They are not bundled: the tests read them
//! from the Hub's cache, and run with `cargo test -- --ignored`.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test may")]
#![allow(dead_code, reason = "other tests use the rest of what is shared")]

mod common;
#[path = "common/network.rs"]
mod network;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use common::root;
use peftlab_backbones::{Bert, BertConfig};
use peftlab_checkpoint::{Safetensors, TensorSource, resolve};
use peftlab_harness::{FirstToken, Targets, loss};
use peftlab_layers::{Builder, Context, Mode, ModelInput};
use serde::Deserialize;
use serde_json::Value;

#[test]
#[ignore = "needs sentence-transformers/all-MiniLM-L6-v2 in the Hub's cache"]
fn minilm_embeds_as_transformers_does() {
    let device = Device::flex();
    let files = resolve("hub:sentence-transformers/all-MiniLM-L6-v2", &root()).unwrap();
    let config = BertConfig::deserialize(&files.config).unwrap();
    let builder = Builder::new(network::weights(&files), &device, DType::F32);
    let model = Bert::new(&config, 2, &builder).unwrap();
    let expected = Safetensors::open(&[root().join("tests/fixtures/minilm.safetensors")]).unwrap();
    let shape: [usize; 2] = expected.info("input_ids").unwrap().shape.try_into().unwrap();
    let integers = |name: &str| {
        Tensor::<2, Int>::from_data(TensorData::new(expected.read_i64(name).unwrap(), shape), &device)
    };
    let mask = integers("attention_mask");
    let input = ModelInput {
        input_ids: integers("input_ids"),
        padding: Some(mask.clone().equal_elem(0)),
        token_type_ids: Some(integers("token_type_ids")),
    };
    let hidden = model.hidden_states(&input, &Context::new(Mode::Evaluate));
    let mask = mask.float().unsqueeze_dim::<3>(2);
    let pooled = (hidden * mask.clone()).sum_dim(1) / mask.sum_dim(1);
    let ours: Vec<f32> = pooled.into_data().iter::<f32>().collect();
    let theirs = expected.read_f32("pooled").unwrap();
    assert_eq!(ours.len(), theirs.len());
    let error = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    println!("MiniLM: largest difference of the pooled embeddings {error:e}");
    assert!(error < 1e-5, "{error}");
}

#[test]
#[ignore = "needs HuggingFaceTB/SmolLM2-135M-Instruct-GGUF in the Hub's cache"]
fn smollm2_from_gguf_has_the_perplexity_that_transformers_finds() {
    let device = Device::flex();
    let files = resolve("hub:HuggingFaceTB/SmolLM2-135M-Instruct-GGUF", &root()).unwrap();
    let model = network::language_model(&files, &files.config, &device);
    let text = std::fs::read_to_string(root().join("tests/fixtures/smollm2-perplexity.json")).unwrap();
    let reference: Value = serde_json::from_str(&text).unwrap();
    let ids: Vec<i64> =
        reference["token_ids"].as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect();
    let window = |ids: &[i64]| {
        let shape = [1, ids.len()];
        let targets = Targets::tokens(ids.to_vec(), shape, FirstToken::Left, &device);
        let sum = loss(model.forward(&network::text_of(ids, &device), Mode::Evaluate), &targets).sum;
        f64::from(sum.into_scalar::<f32>()) / targets.counted() as f64
    };
    let losses: Vec<f64> = ids.chunks(512).map(window).collect();
    for (count, key) in [(1, "perplexity_512"), (4, "perplexity_2048")] {
        let ours = (losses[..count].iter().sum::<f64>() / count as f64).exp();
        let theirs = reference[key].as_f64().unwrap();
        println!("SmolLM2: {key} {ours:.5} against {theirs:.5}");
        assert!((ours / theirs - 1.0).abs() < 1e-3, "{key}: {ours} against {theirs}");
    }
}
