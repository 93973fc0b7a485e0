//! Adapters of Hugging Face PEFT, read and written: `tools/reference/adapters.py` made those in `fixtures/adapters`.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, reason = "a test may")]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use burn::module::Module;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use common::{experiment, root, text};
use peftlab_backbones::{Head, build, card};
use peftlab_checkpoint::{Safetensors, TensorSource, write_safetensors};
use peftlab_harness::{Attached, adapter};
use peftlab_layers::params;
use peftlab_layers::{Builder, HeadRows, Mode, Model, ModelInput, Output as Logits, Weights};
use peftlab_peft::{Outline, Registry};
use serde_json::{Value, json};

fn json_file(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn device() -> Device {
    Device::flex().autodiff()
}

/// The tiny model that an adapter's name begins with.
fn base(name: &str) -> Model {
    let architecture = name.split('-').next().unwrap();
    let dir = root().join("tests/fixtures/parity/base").join(architecture);
    let config = json_file(&dir.join("config.json"));
    let source = Safetensors::open(&[dir.join("model.safetensors")]).unwrap();
    let head = if architecture == "llama" { Head::LanguageModel } else { Head::Sequence { outputs: 3 } };
    let base_prefix = card(&config).unwrap().base_prefix;
    let weights =
        Weights::Checkpoint { source: &source, base_prefix, fresh: &[], head: HeadRows::Kept, seed: 0 };
    Model::new(build(&config, head, &Builder::new(weights, &device(), DType::F32)).unwrap())
}

/// The adapter in `dir` on a fresh model.
fn imported(dir: &Path, name: &str) -> Model {
    let described = Registry::standard().from_peft(&json_file(&dir.join("adapter_config.json"))).unwrap();
    assert_eq!(described.warnings, Vec::<String>::new(), "{name}");
    let attached = Attached::new(base(name), &*described.method, 0, &device()).unwrap();
    adapter::load(attached.model, &attached.outline, &dir.join("adapter_model.safetensors")).unwrap()
}

/// Logits of the rows; of a language model those of each one's last position.
fn logits(model: &Model, rows: &[i64], count: usize) -> Vec<f32> {
    let length = rows.len() / count;
    let input_ids = Tensor::<2, Int>::from_data(TensorData::new(rows.to_vec(), [count, length]), &device());
    let input = ModelInput { input_ids, padding: None, token_type_ids: None };
    match model.valid().forward(&input, Mode::Evaluate) {
        Logits::Sequence(logits) => logits.into_data().iter::<f32>().collect(),
        Logits::Tokens(logits) => logits.narrow(1, length - 1, 1).into_data().iter::<f32>().collect(),
    }
}

fn largest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn fixtures() -> PathBuf {
    root().join("tests/fixtures/adapters").canonicalize().unwrap()
}

#[test]
fn adapters_that_peft_saved_give_its_logits() {
    let expected = Safetensors::open(&[fixtures().join("expected.safetensors")]).unwrap();
    let rows = expected.read_i64("rows").unwrap();
    let count = expected.info("rows").unwrap().shape[0];
    let names: Vec<String> = expected.names().into_iter().filter(|name| name != "rows").collect();
    assert!(names.len() >= 34, "{names:?}");
    let mut wrong = Vec::new();
    for name in &names {
        let theirs = expected.read_f32(name).unwrap();
        let mut model = imported(&fixtures().join(name), name);
        let ours = logits(&model, &rows, count);
        let difference = largest(&ours, &theirs);
        assert!(largest(&logits(&base(name), &rows, count), &theirs) > 1e-3, "{name} does next to nothing");
        model.merge().unwrap();
        let merged = largest(&logits(&model, &rows, count), &theirs);
        println!("{name:32} {difference:.1e}  merged {merged:.1e}");
        if difference > 1e-5 || merged > 1e-5 {
            wrong.push(format!("{name}: {difference}, merged {merged}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is trained of (IA)³ in layer 0 of the tiny `base`, with these keys.
fn vectors(base_name: &str, keys: &Value) -> Vec<(String, Vec<usize>)> {
    let mut config = json!({ "peft_type": "IA3", "target_modules": null, "feedforward_modules": null });
    config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    let method = Registry::standard().from_peft(&config).unwrap().method;
    let attached = Attached::new(base(base_name), &*method, 0, &device()).unwrap();
    let own = params::infos(&attached.model).into_iter().filter(|info| info.name.ends_with(".ia3_l"));
    let in_first = own.filter(|info| info.name.contains(".0."));
    in_first.map(|info| (info.name.split_once(".0.").unwrap().1.to_owned(), info.shape)).collect()
}

#[test]
fn targets_that_are_left_to_peft_are_its_own() {
    let vector = |name: &str, shape: [usize; 2]| (format!("{name}.ia3_l"), shape.to_vec());
    let [query, key, value] =
        ["query", "key", "value"].map(|name| vector(&format!("attention.self.{name}"), [48, 1]));
    let inputs = [vector("attention.output.dense", [1, 48]), vector("output.dense", [1, 112])];
    let mut expected = vec![key.clone(), value];
    expected.extend(inputs.clone());
    let sorted = |mut all: Vec<(String, Vec<usize>)>| {
        all.sort();
        all
    };
    assert_eq!(sorted(vectors("bert", &json!({}))), sorted(expected));
    let targets = json!({ "target_modules": ["query", "key"] });
    assert_eq!(sorted(vectors("bert", &targets)), sorted(vec![query, key]));
    let targets =
        json!({ "target_modules": ["dense"], "exclude_modules": ["intermediate.dense", "pooler.dense"] });
    assert_eq!(sorted(vectors("bert", &targets)), sorted(inputs.to_vec()));
    let of_llama = vectors("llama", &json!({})).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(of_llama, ["self_attn.k_proj.ia3_l", "self_attn.v_proj.ia3_l", "mlp.down_proj.ia3_l"]);
}

#[test]
fn counts_of_an_imported_adapter_are_those_of_its_file() {
    for name in ["bert-adalora-pruned", "bert-loha-patterns", "roberta-lokr-patterns", "bert-lora-lora-bias"]
    {
        let dir = fixtures().join(name);
        let config = json_file(&dir.join("adapter_config.json"));
        let method = Registry::standard().from_peft(&config).unwrap().method;
        let count = method.count(&Outline::of(&mut base(name))).unwrap();
        let file = Safetensors::open(&[dir.join("adapter_model.safetensors")]).unwrap();
        let own = file.names().into_iter().filter(|name| !name.contains("classifier"));
        let held: usize = own.map(|name| file.info(&name).unwrap().shape.iter().product::<usize>()).sum();
        assert_eq!(count.stored, held, "{name}");
    }
}

/// The configuration of the fixture `name` with `changes` must be refused with all of `expected` in the message.
fn refused(name: &str, changes: &Value, expected: &[&str]) {
    let mut config = json_file(&fixtures().join(name).join("adapter_config.json"));
    config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    let outline = Outline::of(&mut base(name));
    let result = Registry::standard().from_peft(&config).and_then(|found| found.method.count(&outline));
    let message = result.map_or_else(|error| error.to_string(), |_| format!("{name} with {changes} is read"));
    for part in expected {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

#[test]
fn what_a_configuration_asks_for_beside_is_refused_by_name() {
    let ada = "bert-adalora-pruned";
    let query = "bert.encoder.layer.0.attention.self.query";
    for (changes, expected) in [
        (json!({ "init_r": 5 }), &["`rank_pattern` has 4 values", "query.lora_E", "`init_r` is 5"][..]),
        (json!({ "target_modules": ["value"] }), &["`rank_pattern` names `bert", "self.query`"]),
        (json!({ "rank_pattern": { query: [true, true, true, true] } }), &["rank_pattern", "lora_E"]),
        (json!({ "rank_pattern": { "query": 3 } }), &["`rank_pattern` = {\"query\":3}"]),
        (json!({ "lora_alpha": 0 }), &["`lora_alpha` = 0"]),
        (json!({ "lora_bias": true }), &["`lora_bias` = true"]),
        (json!({ "bias": "all" }), &["`bias` = \"all\""]),
    ] {
        refused(ada, &changes, expected);
    }
    for (name, changes, expected) in [
        (
            "bert-pissa",
            json!({ "init_lora_weights": "pissa_niter_4" }),
            &["\"pissa_niter_4\"", "conversion"][..],
        ),
        ("bert-pissa", json!({ "init_lora_weights": "corda" }), &["`init_lora_weights` = \"corda\""]),
        ("bert-pissa", json!({ "init_lora_weights": "loftq" }), &["`init_lora_weights` = \"loftq\""]),
        ("bert-pissa", json!({ "lora_bias": true }), &["`lora_bias` = true"]),
        ("bert-pissa", json!({ "use_dora": true }), &["`init_lora_weights` = \"pissa\"", "`use_dora`"]),
        ("bert-dora-rslora", json!({ "lora_bias": true }), &["`lora_bias` = true"]),
        ("bert-dora-rslora", json!({ "bias": "lora_only" }), &["`bias` = \"lora_only\""]),
        ("bert-loha-patterns", json!({ "rank_pattern": { "query": 2, ".*": 3 } }), &["rank_pattern", "two"]),
        ("bert-loha-patterns", json!({ "rank_pattern": { "query": 0 } }), &["rank_pattern is 0"]),
        ("roberta-lokr-patterns", json!({ "alpha_pattern": { "(": 1 } }), &["alpha_pattern"]),
        ("roberta-lokr-patterns", json!({ "alpha_pattern": { "query": "1" } }), &["`alpha_pattern`"]),
        ("bert-lora-layers", json!({ "target_modules": ".*query" }), &["layers_to_transform", "pattern"]),
        (
            "bert-lora-layers",
            json!({ "layers_to_transform": null }),
            &["layers_pattern", "layers_to_transform"],
        ),
        ("bert-lora-layers", json!({ "layers_to_transform": [7] }), &["leave none"]),
        ("bert-lora-patterns", json!({ "target_modules": ["query", "word_embeddings"] }), &["embeddings"]),
        ("bert-lora-patterns", json!({ "kasa_config": { "a": 1 } }), &["`kasa_config`"]),
        (
            "bert-ia3-feedforward",
            json!({ "feedforward_modules": "[a&&b]" }),
            &["feedforward_modules `", "Python"],
        ),
    ] {
        refused(name, &changes, expected);
    }
}

/// A run of LoRA on a model in the Hub's cache, and its adapter as it is exported.
struct Exported {
    dir: tempfile::TempDir,
    record: Value,
}

impl Exported {
    fn new(settings: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let snapshot = dir.path().join("hub/models--acme--tiny/snapshots/c0ffee");
        std::fs::create_dir_all(&snapshot).unwrap();
        for name in ["config.json", "model.safetensors", "tokenizer.json"] {
            std::fs::copy(root().join("assets/bert-tiny").join(name), snapshot.join(name)).unwrap();
        }
        let refs = dir.path().join("hub/models--acme--tiny/refs");
        std::fs::create_dir_all(&refs).unwrap();
        std::fs::write(refs.join("v1"), "c0ffee").unwrap();
        let training = "training = { steps = 12, learning_rate = 1e-2 }";
        let methods = format!("[[method]]\nname = \"lora\"\nrank = 2\n{settings}\n{training}\n");
        let file = experiment(dir.path(), "hub", "[0]", 12, &methods);
        let lines = std::fs::read_to_string(&file).unwrap();
        let lines = lines.lines().map(|line| match line.starts_with("source = ") {
            true => "source = \"hub:acme/tiny@v1\"",
            false => line,
        });
        std::fs::write(&file, lines.collect::<Vec<_>>().join("\n")).unwrap();
        let mut exported = Self { dir, record: Value::Null };
        let run = exported.bench(&["run", "hub.toml", "--out", "out"]);
        assert_eq!(run.status.code(), Some(0), "{}", text(&run));
        let runs = std::fs::read_dir(exported.dir.path().join("out/runs")).unwrap();
        let record = runs.map(|entry| entry.unwrap().path()).find(|path| path.extension().unwrap() == "json");
        let record = record.unwrap();
        exported.record = json_file(&record);
        let arguments = ["export", record.to_str().unwrap(), "--experiment", "hub.toml", "--out", "adapter"];
        let export = exported.bench(&arguments);
        assert_eq!(export.status.code(), Some(0), "{}", text(&export));
        exported
    }

    fn bench(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bench"));
        command.args(arguments).current_dir(self.dir.path()).env("HF_HUB_CACHE", self.dir.path().join("hub"));
        command.output().unwrap()
    }

    fn config(&self) -> Value {
        json_file(&self.dir.path().join("adapter/adapter_config.json"))
    }

    /// The exported adapter with other keys and tensors, imported.
    fn changed(&self, keys: &Value, tensors: impl Fn(&mut BTreeMap<String, Tensors>)) -> Output {
        let from = self.dir.path().join("adapter");
        let to = self.dir.path().join("changed");
        std::fs::create_dir_all(&to).unwrap();
        let mut config = self.config();
        config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        std::fs::write(to.join("adapter_config.json"), config.to_string()).unwrap();
        let source = Safetensors::open(&[from.join("adapter_model.safetensors")]).unwrap();
        let read = |name: String| {
            let shape = source.info(&name).unwrap().shape;
            let values = source.read_f32(&name).unwrap();
            (name, (shape, values))
        };
        let mut all: BTreeMap<String, Tensors> = source.names().into_iter().map(read).collect();
        tensors(&mut all);
        let all: Vec<_> = all.into_iter().map(|(name, (shape, values))| (name, shape, values)).collect();
        write_safetensors(&to.join("adapter_model.safetensors"), &all).unwrap();
        self.bench(&["import", "changed", "--experiment", "hub.toml"])
    }
}

type Tensors = (Vec<usize>, Vec<f32>);

#[test]
fn an_export_names_its_base_and_is_read_back_with_an_equal_score() {
    let exported = Exported::new("");
    let config = exported.config();
    for (key, value) in [
        ("base_model_name_or_path", json!("acme/tiny")),
        ("revision", json!("v1")),
        ("task_type", json!("SEQ_CLS")),
        ("r", json!(2)),
    ] {
        assert_eq!(config[key], value, "{key}");
    }
    let score = exported.record["measured"]["test"][0]["value"].as_f64().unwrap();
    let plain = exported.changed(&json!({}), |_| ());
    assert_eq!(plain.status.code(), Some(0), "{}", text(&plain));
    assert!(text(&plain).contains(&format!("{score:.6}")), "{score} in {}", text(&plain));
    assert!(!text(&plain).contains("revision"), "{}", text(&plain));

    // a second name of a tensor with the same values, as PEFT has it with bias = "all", and one without values
    let twice = exported.changed(&json!({}), |tensors| {
        let bias = tensors["base_model.model.classifier.bias"].clone();
        tensors.insert("base_model.model.classifier.modules_to_save.default.bias".to_owned(), bias);
        tensors.insert("base_model.model.nothing.lora_A.weight".to_owned(), (vec![0, 128], Vec::new()));
    });
    assert_eq!(twice.status.code(), Some(0), "{}", text(&twice));
    assert!(text(&twice).contains(&format!("{score:.6}")), "{score} in {}", text(&twice));

    // another base, or the same of another revision, is told
    for (keys, told) in [
        (json!({ "base_model_name_or_path": "acme/other" }), ["`acme/other`", "`acme/tiny`"]),
        (json!({ "revision": "v2" }), ["`revision` is `v2`", "another"]),
    ] {
        let output = exported.changed(&keys, |_| ());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        for part in told {
            assert!(text(&output).contains(part), "`{part}` is not in: {}", text(&output));
        }
    }
}

#[test]
fn a_trained_bias_is_exported_as_the_base_layers_where_peft_looks_for_it() {
    for (bias, others) in [("lora_only", false), ("all", true)] {
        let exported = Exported::new(&format!("bias = \"{bias}\""));
        let file = exported.dir.path().join("adapter/adapter_model.safetensors");
        let names = Safetensors::open(&[file]).unwrap().names();
        let has = |name: &str| names.contains(&format!("base_model.model.bert.encoder.layer.1.{name}"));
        assert!(
            has("attention.self.query.base_layer.bias") && !has("attention.self.query.bias"),
            "{names:?}"
        );
        assert_eq!(has("attention.self.key.bias"), others, "{names:?}");
        let score = exported.record["measured"]["test"][0]["value"].as_f64().unwrap();
        let plain = exported.changed(&json!({}), |_| ());
        assert!(text(&plain).contains(&format!("{score:.6}")), "{score} in {}", text(&plain));
    }
}

#[test]
fn what_peft_would_read_otherwise_is_not_exported() {
    let outline = Outline::of(&mut base("bert"));
    let config = |settings: Value| {
        Registry::standard().get("pissa").unwrap().parse(settings).unwrap().to_peft(&outline)
    };
    assert_eq!(config(json!({ "rank": 2 })).unwrap()["init_lora_weights"], "pissa");
    // what was drawn is taken off the base, and is not in the file
    assert_eq!(config(json!({ "rank": 2, "iterations": 4 })), None);
}

#[test]
fn an_adapter_that_does_not_fit_ends_with_code_2_and_the_name_of_what_does_not() {
    let exported = Exported::new("");
    let head = "base_model.model.classifier.";
    let a = "base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.weight";
    let refused = |keys: Value, tensors: &dyn Fn(&mut BTreeMap<String, Tensors>), expected: &[&str]| {
        let output = exported.changed(&keys, tensors);
        let message = text(&output);
        assert_eq!(output.status.code(), Some(2), "{message}");
        for part in expected {
            assert!(message.contains(part), "`{part}` is not in: {message}");
        }
    };
    // what it scores without its head would mean nothing
    refused(
        json!({}),
        &|tensors| tensors.retain(|name, _| !name.starts_with(head)),
        &["adapter_model.safetensors", "`classifier.", "modules_to_save"],
    );
    refused(
        json!({}),
        &|tensors| drop(tensors.insert(format!("{head}bias"), (vec![3], vec![0.0; 3]))),
        &["`classifier.bias` has shape [3]", "[2]", "other classes"],
    );
    refused(
        json!({}),
        &|tensors| {
            tensors.insert(format!("{head}modules_to_save.default.bias"), (vec![2], vec![9.0; 2]));
        },
        &["two tensors are `classifier.bias`"],
    );
    refused(
        json!({}),
        &|tensors| drop(tensors.remove(a)),
        &["self.query.lora_A.weight` is missing", "another model"],
    );
    // as sharded training leaves them where they were not gathered before saving
    refused(
        json!({}),
        &|tensors| drop(tensors.insert(a.to_owned(), (vec![0, 128], Vec::new()))),
        &["self.query.lora_A.weight", "[0, 128]"],
    );
    refused(json!({}), &|tensors| tensors.get_mut(a).unwrap().1[3] = f32::NAN, &["query.lora_A", "NaN"]);
    for (key, value) in [
        ("task_type", json!("CAUSAL_LM")),
        ("peft_type", json!("C3A")),
        ("init_lora_weights", json!("pissa_niter_4")),
        ("trainable_token_indices", json!([1])),
        ("target_parameters", json!(["experts.gate_up_proj"])),
        ("use_qalora", json!(true)),
        ("arrow_config", json!({ "arrow_top_k": 2 })),
        ("ensure_weight_tying", json!(true)),
        ("rank_pattern", json!({ "query": "4" })),
        ("a_key_of_2027", json!("on")),
    ] {
        refused(json!({ key: value }), &|_| (), &["adapter_config.json", &format!("`{key}`")]);
    }
}
