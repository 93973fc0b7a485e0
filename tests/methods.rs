//! What every method's card promises, and what single methods are known by, on tiny random networks.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, reason = "a test may")]

use std::collections::BTreeMap;

use burn::optim::GradientsParams;
use burn::tensor::{Int, Tensor, TensorData};
use peftlab_check::{CheckError, Network, entry_on, logits as logits_in, randomised};
use peftlab_harness::{Attached, OptimizerSpec};
use peftlab_layers::params::{self, HostTensor};
use peftlab_layers::{Mode, Model, ModelInput};
use peftlab_peft::{DynMethod, Registry};
use serde_json::{Value, json};

const LENGTH: usize = 16;

/// Settings that fit networks this small, where a method's own do not.
fn settings(name: &str) -> Value {
    match name {
        "vb-lora" => json!({ "vector_length": 8, "num_vectors": 16, "rank": 2 }),
        "qlora" | "loftq" => json!({ "rank": 4 }),
        "qa-lora" => json!({ "rank": 4, "group_size": 8 }),
        "vera" => json!({ "rank": 16 }),
        "oft" => json!({ "block_size": 8 }),
        "increlora" => json!({ "rank_target": 3, "grow_every": 5 }),
        "prompt-tuning" | "prefix-tuning" => json!({ "num_virtual_tokens": 3 }),
        "houlsby" | "pfeiffer" | "parallel" => json!({ "bottleneck": 8 }),
        _ => json!({}),
    }
}

/// Checks every method on one network, and fails with all that failed.
fn every_method_on(network: Network) {
    let (mut checked, mut failed) = (0, Vec::new());
    for entry in Registry::standard().entries() {
        let report = match entry_on(entry, settings(entry.card.name), &[network]) {
            Ok(report) => report,
            // what does not apply to the network has nothing to keep there
            Err(CheckError::NotApplicable { .. }) => continue,
            Err(error) => panic!("{error}"),
        };
        checked += 1;
        if !report.passed() {
            failed.push(report.to_string());
        }
    }
    println!("{checked} methods on {network}");
    assert!(checked > 30, "{checked}");
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn every_method_keeps_its_promises_on_bert() {
    every_method_on(Network::Bert);
}

#[test]
fn every_method_keeps_its_promises_on_roberta() {
    every_method_on(Network::Roberta);
}

#[test]
fn every_method_keeps_its_promises_on_llama() {
    every_method_on(Network::Llama);
}

#[test]
fn settings_that_change_what_is_stored_are_counted_so() {
    for (name, settings) in [
        ("dylora", json!({ "evaluate_rank": 2 })),
        ("vb-lora", json!({ "vector_length": 8, "topk": 3 })),
        ("prefix-tuning", json!({ "prefix_projection": true, "num_virtual_tokens": 3 })),
        ("lora-fa", json!({ "precondition": false })),
        ("lora", json!({ "bias": "all", "lora_bias": true })),
        ("increlora", json!({ "rank_start": 2, "rank_target": 4 })),
    ] {
        let report = entry_on(Registry::standard().get(name).unwrap(), settings, &[Network::Bert]).unwrap();
        assert!(report.passed(), "{report}");
    }
}

fn network(architecture: &str) -> Network {
    *Network::ALL.iter().find(|network| network.name() == architecture).unwrap()
}

fn attach(architecture: &str, method: &dyn DynMethod) -> Attached {
    network(architecture).with(method).unwrap()
}

fn input() -> ModelInput {
    Network::Llama.input()
}

fn mean_loss(model: &Model, architecture: &str, mode: Mode) -> Tensor<1> {
    network(architecture).mean_loss(model, mode)
}

fn logits(model: &Model) -> Vec<f32> {
    logits_in(model, &input(), Mode::Evaluate)
}

fn largest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn parse(name: &str, settings: Value) -> Box<dyn DynMethod> {
    Registry::standard().get(name).unwrap().parse(settings).unwrap()
}

fn gradients(model: &Model, architecture: &str, mode: Mode) -> BTreeMap<String, HostTensor> {
    params::gradients(model, &mean_loss(model, architecture, mode).backward())
}

/// The input with its last token changed.
fn changed_last() -> ModelInput {
    let mut ids: Vec<i64> = input().input_ids.into_data().iter::<i64>().collect();
    for row in 0..3 {
        ids[row * LENGTH + LENGTH - 1] = 60 - ids[row * LENGTH + LENGTH - 1] % 50;
    }
    let input_ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [3, LENGTH]), &Network::device());
    ModelInput { input_ids, padding: None, token_type_ids: None }
}

/// The largest difference of the logits of all positions but the last of each row.
fn earlier(a: &[f32], b: &[f32]) -> f32 {
    let width = a.len() / (3 * LENGTH);
    let rows = a.chunks(LENGTH * width).zip(b.chunks(LENGTH * width));
    let before = (LENGTH - 1) * width;
    rows.map(|(a, b)| largest(&a[..before], &b[..before])).fold(0.0, f32::max)
}

#[test]
fn longloras_last_token_changes_no_earlier_output() {
    let leak = |settings: Value| {
        let model = randomised(&attach("llama", &*parse("longlora", settings)));
        let [a, b] = [input(), changed_last()].map(|input| logits_in(&model, &input, Mode::Train));
        assert!(largest(&a, &b) > 1e-3, "the last output depends on the last token");
        earlier(&a, &b)
    };
    assert_eq!(leak(json!({})), 0.0);
    // the authors' first code does leak, so this test can fail
    assert!(leak(json!({ "attention": "rolled" })) > 1e-4);
}

#[test]
fn longlora_with_one_group_is_full_attention_and_evaluates_in_full() {
    let model = |settings: Value| randomised(&attach("llama", &*parse("longlora", settings)));
    let train = |model: &Model| logits_in(model, &input(), Mode::Train);
    let full = model(json!({ "attention": "full" }));
    let one_group = model(json!({ "group_ratio": 1.0 }));
    assert_eq!(largest(&train(&full), &train(&one_group)), 0.0);
    let shifted = model(json!({}));
    assert!(largest(&train(&full), &train(&shifted)) > 1e-4);
    assert_eq!(largest(&logits(&full), &logits(&shifted)), 0.0);
}

#[test]
fn a_tied_gradient_is_the_sum_over_layers_and_has_one_state() {
    let untied = attach("llama", &*parse("tied-lora", json!({ "rank": 4, "tie": [] })));
    let tied = attach("llama", &*parse("tied-lora", json!({ "rank": 4 })));
    let model = randomised(&tied);
    let values = params::tensors(&model, |info| info.trained);
    // the same values in every layer
    let copied = values.iter().flat_map(|(name, tensor)| {
        let (stem, index) = name.rsplit_once('.').unwrap();
        let shared = stem.ends_with("_A") || stem.ends_with("_B");
        let layers = if shared { vec!["0", "1"] } else { vec![index] };
        layers.into_iter().map(move |layer| (format!("{stem}.{layer}"), tensor.clone()))
    });
    let (copies, unused) = params::assign(untied.model, &copied.collect()).unwrap();
    assert!(unused.is_empty(), "{unused:?}");
    assert_eq!(largest(&logits(&model), &logits(&copies)), 0.0);
    let of_tied = gradients(&model, "llama", Mode::Evaluate);
    let of_each = gradients(&copies, "llama", Mode::Evaluate);
    for stem in ["tied_lora_A", "tied_lora_B"] {
        let [first, second] = [0, 1].map(|layer| &of_each[&format!("{stem}.{layer}")].values);
        let sum: Vec<f32> = first.iter().zip(second).map(|(a, b)| a + b).collect();
        assert!(largest(&of_tied[&format!("{stem}.0")].values, &sum) < 1e-6);
        assert!(!of_tied.contains_key(&format!("{stem}.1")));
    }

    let mut optimizer = OptimizerSpec::default().init();
    let loss = mean_loss(&model, "llama", Mode::Train);
    let model = optimizer.step(1e-3, model.clone(), GradientsParams::from_grads(loss.backward(), &model));
    let trained = params::infos(&model).into_iter().filter(|info| info.trained).count();
    // A, B, and u and v of two layers, with two moments each
    assert_eq!((trained, optimizer.to_record().len()), (6, 12));
}

#[test]
fn one_layer_with_u_and_v_at_one_is_lora_on_each_projection() {
    let tied = parse("tied-lora", json!({ "rank": 4, "alpha": 8.0, "tie": [], "train": ["A", "B"] }));
    let tied = randomised(&attach("bert", &*tied));
    let lora = parse("lora", json!({ "rank": 4, "alpha": 8.0, "target_modules": ["query", "key", "value"] }));
    let lora = attach("bert", &*lora);
    let values = params::tensors(&tied, |info| info.trained);
    let mut copied = BTreeMap::new();
    for layer in 0..2 {
        let HostTensor { shape, values: b } = &values[&format!("tied_lora_B.{layer}")];
        let [width, rank] = [shape[0] / 3, shape[1]];
        for (part, name) in ["query", "key", "value"].iter().enumerate() {
            let module = format!("bert.encoder.layer.{layer}.attention.self.{name}");
            let rows = b[part * width * rank..(part + 1) * width * rank].to_vec();
            copied.insert(format!("{module}.lora_A.weight"), values[&format!("tied_lora_A.{layer}")].clone());
            copied.insert(
                format!("{module}.lora_B.weight"),
                HostTensor { shape: vec![width, rank], values: rows },
            );
        }
    }
    let head = values.iter().filter(|(name, _)| name.starts_with("classifier"));
    copied.extend(head.map(|(name, tensor)| (name.clone(), tensor.clone())));
    let (lora, unused) = params::assign(lora.model, &copied).unwrap();
    assert!(unused.is_empty(), "{unused:?}");
    assert!(largest(&logits(&tied), &logits(&lora)) < 1e-5);
}

#[test]
fn qa_loras_merged_model_stays_in_four_bits() {
    for pool in ["sum", "mean"] {
        let method = parse("qa-lora", json!({ "rank": 4, "group_size": 8, "pool": pool }));
        let attached = attach("llama", &*method);
        let model = randomised(&attached);
        let mut merged = model.clone();
        let is_base = |info: &params::ParamInfo| attached.outline.has(&info.name);
        let before = merged.base_bytes(is_base);
        merged.merge().unwrap();
        assert_eq!(merged.base_bytes(is_base), before, "no weight became dense");
        assert!(largest(&logits(&model), &logits(&merged)) < 1e-5);
    }
}

#[test]
fn qloras_merged_weights_can_be_packed_again_with_loss() {
    let attached = attach("llama", &*parse("qlora", json!({ "rank": 4 })));
    let model = randomised(&attached);
    let [mut dense, mut packed] = [model.clone(), model.clone()];
    dense.merge().unwrap();
    assert_eq!(packed.merge_packed().unwrap(), 14);
    let is_base = |info: &params::ParamInfo| attached.outline.has(&info.name);
    assert!(packed.base_bytes(is_base) < dense.base_bytes(is_base) / 2);
    assert!(largest(&logits(&dense), &logits(&model)) < 1e-5);
    assert!(largest(&logits(&packed), &logits(&model)) > 1e-3);
}

#[test]
fn zero_gradients_at_step_0_are_where_theory_has_them() {
    let zero = |name: &str, architecture, tensor: &str| {
        let attached = attach(architecture, &*parse(name, settings(name)));
        let gradients = gradients(&attached.model, architecture, Mode::Evaluate);
        let of = gradients.iter().filter(|(name, _)| name.contains(tensor));
        let largest = of.flat_map(|(_, tensor)| &tensor.values).fold(0.0f32, |l, v| l.max(v.abs()));
        largest == 0.0
    };
    for (name, zeros, others) in [
        ("lora", "lora_A", "lora_B"),
        ("dora", "lora_A", "lora_B"),
        ("vera", "vera_lambda_d", "vera_lambda_b"),
        ("loha", "hada_w1_a", "hada_w2_b"),
        ("adalora", "lora_A", "lora_E"),
        ("nola", "nola_a", "nola_b"),
    ] {
        assert!(zero(name, "llama", zeros), "{name}: {zeros}");
        assert!(!zero(name, "llama", others), "{name}: {others}");
    }
    for tensor in ["lora_A", "lora_B"] {
        assert!(!zero("pissa", "llama", tensor), "PiSSA starts with both");
    }
}

#[test]
fn dylora_trains_what_it_draws_and_is_lora_at_its_full_rank() {
    let attached = attach("llama", &*parse("dylora", json!({ "rank": 4, "alpha": 8.0, "evaluate_rank": 2 })));
    let model = randomised(&attached);
    for (name, tensor) in gradients(&model, "llama", Mode::Evaluate) {
        if name.ends_with("lora_A.weight") {
            let width = tensor.shape[1];
            assert!(tensor.values[..2 * width].iter().any(|v| *v != 0.0), "{name}");
            assert!(tensor.values[2 * width..].iter().all(|v| *v == 0.0), "{name}");
        }
    }
    let full = attach("llama", &*parse("dylora", json!({ "rank": 4, "alpha": 8.0, "rank_min": 4 })));
    let lora = attach("llama", &*parse("lora", json!({ "rank": 4, "alpha": 8.0 })));
    let values = params::tensors(&randomised(&full), |info| info.trained);
    let full = params::assign(full.model, &values).unwrap().0;
    let lora = params::assign(lora.model, &values).unwrap().0;
    for mode in [Mode::Train, Mode::Evaluate] {
        let [a, b] = [&full, &lora].map(|model| logits_in(model, &input(), mode));
        assert_eq!(largest(&a, &b), 0.0);
    }
}
