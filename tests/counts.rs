//! Published numbers of parameters, from `bench plan`, which builds no model.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test may")]

mod common;

use std::collections::BTreeMap;

use common::{bench, root, text};
use serde_json::Value;

/// The `adapter` parameters of every row of an experiment file, by label.
fn counts(file: &str) -> BTreeMap<String, u64> {
    let output = bench(&root(), &["plan", file, "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    let cells = plan["cells"].as_array().unwrap();
    cells
        .iter()
        .map(|cell| {
            let label = cell["label"].as_str().unwrap().to_owned();
            (label, cell["parameters"]["adapter"].as_u64().unwrap())
        })
        .collect()
}

/// Every expected row is there with its number, and every row is expected.
fn check(file: &str, expected: &[(&str, u64)]) {
    let found = counts(file);
    let expected: BTreeMap<String, u64> =
        expected.iter().map(|(label, count)| ((*label).to_owned(), *count)).collect();
    for (label, count) in &expected {
        assert_eq!(found.get(label), Some(count), "{file}: {label}");
    }
    assert_eq!(found.len(), expected.len(), "{found:?}");
}

#[test]
fn llama_7b() {
    check(
        "experiments/counts/llama-7b.toml",
        &[
            // everything; Touvron et al. 2023
            ("full", 6_738_415_616),
            // Lit-GPT's figure for q, v
            ("lora r=8 q,v", 4_194_304),
            ("lora q,k,v,o", 8_388_608),
            ("lora all", 19_988_480),
            // Raschka's "all layers", with the output layer
            ("lora all + head", 20_277_248),
            ("lora r=16 all + head", 40_554_496),
            ("lora r=256 all + head", 648_871_936),
            ("rslora r=8 q,v", 4_194_304),
            // DoRA's 0.43 % and 0.84 %
            ("dora r=16", 28_925_952),
            ("dora r=32", 56_975_360),
            ("pissa r=8 q,v", 4_194_304),
            ("olora r=8 q,v", 4_194_304),
            ("qlora r=64", 159_907_840),
            ("loftq r=64", 159_907_840),
            ("qa-lora G=32", 89_309_184),
            ("qa-lora G=128", 87_601_152),
            ("longlora", 139_726_848),
            ("longlora lora only", 8_388_608),
            ("tied-lora r=8", 524_544),
            ("tied-lora r=32", 918_528),
            ("tied-lora r=128", 2_494_464),
            ("tied-lora r=8 A,B", 131_072),
            ("tied-lora r=32 A,B", 524_288),
            ("tied-lora r=128 A,B", 2_097_152),
            ("tied-lora r=8 u,v", 393_472),
            ("tied-lora r=32 u,v", 394_240),
            ("tied-lora r=128 u,v", 397_312),
            ("tied-lora r=8 untied", 4_194_304),
            ("lora-fa q,v", 2_097_152),
            ("lora-fa all", 10_878_976),
            ("lora-plus", 4_194_304),
            ("adalora r=12", 6_292_224),
            ("adalora r=8", 4_194_816),
            // AdaLoRA's, and a reserve for each target
            ("increlora r=8", 4_194_816 + 524_288),
            ("dylora", 4_194_304),
            ("vera q,v", 278_528),
            ("vera all", 1_417_216),
            ("vb-lora", 17_301_504),
            ("nola all", 448_000),
            ("loha", 8_388_608),
            ("lokr", 327_680),
            ("oft", 4_063_232),
            ("boft", 2_359_296),
            ("glora", 4_194_304),
            ("ln-tuning", 266_240),
            ("ia3 k,v,ffn", 614_400),
            ("houlsby m=64", 33_820_672),
            ("pfeiffer m=64", 16_910_336),
            ("parallel m=256", 67_248_128),
            ("prefix l=30", 7_864_320),
            ("prefix l=30 mlp", 136_700_416),
            ("prompt l=20", 81_920),
            ("galore", 6_738_415_616),
        ],
    );
}

#[test]
fn roberta_base() {
    check(
        "experiments/counts/roberta-base.toml",
        &[
            ("full", 124_055_040),
            ("head", 0),
            ("bitfit", 102_144),
            ("lora r=8 q,v", 294_912),
            ("lora all", 1_327_104),
            ("dora r=8", 313_344),
            ("qa-lora G=32", 152_064),
            ("tied-lora r=8", 52_320),
            ("lora-fa q,v", 147_456),
            ("adalora r=12", 442_656),
            ("increlora r=8", 295_104 + 36_864),
            ("dylora", 294_912),
            ("vera r=1024", 43_008),
            ("vb-lora", 74_880),
            ("loha", 589_824),
            ("lokr", 26_112),
            ("oft", 285_696),
            ("boft", 165_888),
            ("glora", 368_784),
            ("ln-tuning", 38_400),
            ("ia3 k,v,ffn", 55_296),
            ("ia3 as PEFT's default", 64_512),
            ("houlsby m=64", 2_379_264),
            ("houlsby m=48", 1_789_056),
            ("pfeiffer m=48", 894_528),
            ("pfeiffer m=64", 1_189_632),
            ("parallel m=16", 304_320),
            ("prefix l=20", 368_640),
            ("prompt l=20", 15_360),
        ],
    );
}

/// The whole of LLaMA-7B, and the head that PEFT counts with RoBERTa's adapters.
#[test]
fn totals_and_heads() {
    let of = |file: &str, key: &str| -> u64 {
        let output = bench(&root(), &["plan", file, "--json"]);
        let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
        plan["cells"][0]["parameters"][key].as_u64().unwrap()
    };
    assert_eq!(of("experiments/counts/llama-7b.toml", "base_total"), 6_738_415_616);
    assert_eq!(of("experiments/counts/roberta-base.toml", "base_total"), 124_647_170);
    assert_eq!(of("experiments/counts/roberta-base.toml", "head"), 592_130);
}
