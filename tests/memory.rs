//! The memory of QLoRA and of full fine-tuning, counted: a program of its own, for the counters are the whole program's.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, reason = "a test may")]

use burn::optim::GradientsParams;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use peftlab_backbones::{Head, build};
use peftlab_harness::{Attached, FirstToken, Stepper, Targets, TrainingSpec, loss};
use peftlab_layers::{Builder, Mode, Model, ModelInput, Weights};
use peftlab_meter::{CountingAllocator, allocated};
use peftlab_peft::{Course, Registry};
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator::new();

/// What training a method on the network takes, in bytes.
#[derive(Debug)]
struct Taken {
    /// The linears of the blocks at rest.
    base: usize,
    /// What was there before the first step, and was not before the network.
    before: usize,
    /// The most while training, beyond what was there before the network.
    peak: usize,
    /// The most in each step of the optimizer, beyond what was there before the network.
    steps: Vec<usize>,
}

const HIDDEN: usize = 512;
const FEED_FORWARD: usize = 1376;
const LAYERS: usize = 6;
/// Weights of the linears of all blocks.
const LINEARS: usize = LAYERS * (4 * HIDDEN * HIDDEN + 3 * HIDDEN * FEED_FORWARD);
/// Bytes of the largest dense weight.
const LARGEST: usize = HIDDEN * FEED_FORWARD * 4;

fn live() -> usize {
    allocated::live().unwrap() as usize
}

fn train(name: &str, settings: Value) -> Taken {
    train_clipped(name, settings, None)
}

fn train_clipped(name: &str, settings: Value, max_grad_norm: Option<f64>) -> Taken {
    let device = Device::flex().autodiff();
    let config = json!({
        "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": FEED_FORWARD, "num_hidden_layers": LAYERS,
        "num_attention_heads": 8, "vocab_size": 256, "max_position_embeddings": 64, "pad_token_id": 0,
    });
    let method = Registry::standard().get(name).unwrap().parse(settings).unwrap();
    let start = live();
    let builder = Builder::new(Weights::Random { seed: 1 }, &device, DType::F32);
    let model = Model::new(build(&config, Head::LanguageModel, &builder).unwrap());
    let Attached { mut model, outline } = Attached::new(model, &*method, 1, &device).unwrap();
    let base =
        model.sites().projections.iter().filter(|p| p.info.name.contains("layers")).map(|p| p.bytes()).sum();
    let before = live() - start;

    let ids: Vec<i64> = (0..32).map(|i| 1 + (i * 37) % 255).collect();
    let targets = Targets::tokens(ids.clone(), [1, 32], FirstToken::Left, &device);
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, 32]), &device);
    let input = ModelInput { input_ids: ids, padding: None, token_type_ids: None };
    let mut stepper = Stepper::new(
        &*method,
        &model,
        &outline,
        &TrainingSpec { max_grad_norm, ..TrainingSpec::default() },
        Course { steps: 3, seed: 1 },
    );
    let (mut peak, mut steps) = (0, Vec::new());
    for _ in 0..3 {
        allocated::reset_peak();
        let mean = loss(model.forward(&input, Mode::Train), &targets).sum / targets.counted() as f64;
        assert!(mean.clone().into_scalar::<f32>().is_finite());
        let gradients = GradientsParams::from_grads(mean.backward(), &model);
        drop(mean);
        peak = peak.max(allocated::peak().unwrap() as usize - start);
        allocated::reset_peak();
        model = stepper.step(1e-3, model, gradients).unwrap();
        steps.push(allocated::peak().unwrap() as usize - start);
    }
    Taken { base, before, peak: peak.max(steps.iter().copied().max().unwrap_or_default()), steps }
}

fn main() {
    let targets = json!("all-linear");
    let lora = train("lora", json!({ "rank": 8, "target_modules": targets }));
    let dense = 4 * LINEARS;
    assert_eq!(lora.base, dense);
    println!("linears of the blocks, dense: {} KiB; LoRA's peak {} KiB", dense >> 10, lora.peak >> 10);
    for (double, bits) in [(false, 4.5), (true, 4.127)] {
        let qlora = train("qlora", json!({ "rank": 8, "double_quant": double }));
        let packed = (LINEARS as f64 * bits / 8.0) as usize;
        let at_rest = lora.before - dense;
        println!(
            "double quantisation {double}: base {} KiB ({:+.2} % of {bits} bits a weight), at rest {:+.2} %, peak {} KiB",
            qlora.base >> 10,
            100.0 * (qlora.base as f64 / packed as f64 - 1.0),
            100.0 * ((qlora.before - at_rest) as f64 / packed as f64 - 1.0),
            qlora.peak >> 10,
        );
        // what the base takes, as it says and as the allocator counts
        for base in [qlora.base, qlora.before - at_rest] {
            assert!((base as f64 / packed as f64 - 1.0).abs() < 0.02, "{base} bytes, not {packed}");
        }
        let without_base = lora.peak - dense;
        let above = (qlora.peak - qlora.base) as i64 - without_base as i64;
        println!(
            "  above LoRA without its base: {} KiB; the largest dense weight is {} KiB",
            above >> 10,
            LARGEST >> 10
        );
        assert!(above as f64 <= 1.05 * LARGEST as f64, "{qlora:?} {lora:?}");
    }
    full();
}

/// The first step of full fine-tuning begins with weights and gradients and ends with weights and two moments; the others
/// begin with all four. What is on its way is one tensor's: never a second set of any of them.
fn full() {
    for limit in [None, Some(1e-3)] {
        let full = train_clipped("full", json!({}), limit);
        let sets: Vec<f64> = full.steps.iter().map(|step| *step as f64 / full.before as f64).collect();
        println!(
            "full, clipped at {limit:?}: weights {} KiB, steps times that: {sets:.2?}",
            full.before >> 10
        );
        assert!(full.steps[0] <= 3 * full.before + 2 * LARGEST, "{full:?}");
        assert!(full.steps[1..].iter().all(|step| *step <= 4 * full.before + 2 * LARGEST), "{full:?}");
    }
}
