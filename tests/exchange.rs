//! What `bench import` and `bench export` refuse and tell: adapters that do not fit, and bases that are others.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test may")]
#![allow(dead_code, reason = "other tests use the rest of what is shared")]

mod common;
#[path = "common/tiny.rs"]
mod tiny;

use std::path::Path;

use common::{root, text};
use peftlab_checkpoint::{Safetensors, TensorSource, write_safetensors};
use serde_json::{Value, json};
use tiny::{Case, Files, MustHave};

fn json_file(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The adapter that `case` trains on `files`.
fn exported(case: &Case, files: &Files) {
    case.run(files).unwrap();
    let said = case.export().unwrap();
    assert!(!said.contains("warning"), "{said}");
}

#[test]
fn virtual_tokens_of_an_adapter_are_held_against_the_positions() {
    let task = |max_length: usize| {
        format!("kind = \"classification\"\nlabels = [\"a\", \"b\", \"c\"]\nmax_length = {max_length}")
    };
    for (base, method, label) in [
        ("bert", "prompt-tuning", "prompt-tuning l=10"),
        ("roberta", "prompt-tuning", "prompt-tuning l=10"),
        ("bert", "prefix-tuning", "prefix-tuning l=10"),
    ] {
        let mut case = Case::of(&["a", "b", "c"]);
        let lora =
            std::mem::replace(&mut case.method, format!("name = \"{method}\"\nnum_virtual_tokens = 10"));
        case.task = task(54);
        exported(&case, &Files::of(base));
        // the experiment's own method puts nothing in front, and a plan finds room
        case.method = lora;
        case.import().unwrap();
        case.task = task(55);
        case.import().unwrap_err().must_have(&[
            "case.toml",
            &format!("`{label}` puts 10 virtual ones before them"),
            "room for 64",
            "set max_length = 54",
        ]);
    }
    // rotary positions go on
    let mut case = Case::of(&[]);
    let lora =
        std::mem::replace(&mut case.method, "name = \"prompt-tuning\"\nnum_virtual_tokens = 40".to_owned());
    case.task = "kind = \"causal-lm\"\npacking = false\nmax_length = 20".to_owned();
    exported(&case, &Files::of("llama"));
    let told = ["puts 40 virtual ones before them", "trained on 64 (max_position_embeddings)"];
    case.method = lora;
    assert!(!case.import().unwrap().contains("virtual"));
    case.task = "kind = \"causal-lm\"\npacking = false\nmax_length = 32".to_owned();
    case.import().unwrap().must_have(&told);
}

#[test]
fn a_module_that_is_named_as_saved_and_not_in_the_file_is_refused() {
    let keep = |case: &Case, keys: &Value, lacks: &str| {
        let at = case.dir.path().join("adapter");
        let mut config = json_file(&at.join("adapter_config.json"));
        config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        std::fs::write(at.join("adapter_config.json"), config.to_string()).unwrap();
        let file = at.join("adapter_model.safetensors");
        let source = Safetensors::open(std::slice::from_ref(&file)).unwrap();
        let kept = source.names().into_iter().filter(|name| lacks.is_empty() || !name.contains(lacks));
        let kept: Vec<_> = kept
            .map(|name| (name.clone(), source.info(&name).unwrap().shape, source.read_f32(&name).unwrap()))
            .collect();
        write_safetensors(&file, &kept).unwrap();
        case.import()
    };
    let bert = Case::of(&["a", "b", "c"]);
    exported(&bert, &Files::of("bert"));
    keep(&bert, &json!({ "modules_to_save": ["score", "classifier", "score"] }), "").unwrap();
    // a name is the end of a module's, or one around others
    for (name, tensor) in [("ooler", "bert.pooler.dense.weight"), ("embeddings", "bert.embeddings.")] {
        let keys = json!({ "modules_to_save": [name, "classifier"] });
        keep(&bert, &keys, "").unwrap_err().must_have(&["`modules_to_save`", tensor, "adapter_model"]);
    }
    // PEFT adds the head's by itself
    let lost = keep(&bert, &json!({ "modules_to_save": null }), "classifier");
    lost.unwrap_err().must_have(&["`modules_to_save`", "`classifier.weight`"]);
    keep(&bert, &json!({ "task_type": null }), "").unwrap();

    let llama = Case::of(&[]);
    exported(&llama, &Files::of("llama"));
    keep(&llama, &json!({ "modules_to_save": ["classifier"] }), "").unwrap();
    let lost = keep(&llama, &json!({ "modules_to_save": ["lm_head"] }), "");
    lost.unwrap_err().must_have(&["`modules_to_save`", "`lm_head.weight`"]);
}

#[test]
fn boft_has_as_many_steps_as_its_file() {
    for (steps, said) in [(1, 3), (2, 2), (2, 1)] {
        let mut case = Case::of(&["a", "b", "c"]);
        case.method = format!("name = \"boft\"\nblock_size = 2\nbutterfly_factor = {steps}");
        let (_, record) = case.run(&Files::of("bert")).unwrap();
        case.export().unwrap();
        // PEFT makes one step without its CUDA extension, and writes what was asked for
        let path = case.dir.path().join("adapter/adapter_config.json");
        let mut config = json_file(&path);
        config["boft_n_butterfly_factor"] = json!(said);
        std::fs::write(&path, config.to_string()).unwrap();
        let score = record.measured.unwrap().validation[0].value;
        case.import().unwrap().must_have(&[&format!("{score:.6}")]);
    }
}

#[test]
fn an_export_tells_where_its_base_is_not_the_one_that_was_trained_on() {
    let mut case = Case::of(&["a", "b", "c"]);
    case.model = "config = { layer_norm_eps = 1e-6 }".to_owned();
    case.run(&Files::of("bert")).unwrap();
    case.export().unwrap().must_have(&["warning: ", "/model`", "layer_norm_eps = 1e-6", "from_pretrained"]);
    case.model.clear();
    std::fs::write(case.dir.path().join("case.toml"), case.toml()).unwrap();
    // of another base it is another adapter
    case.export().unwrap_err().must_have(&["is not of a cell of case.toml", "layer_norm_eps changed"]);

    case.model = "weights = \"random\"\ntokenizer = \"model\"".to_owned();
    case.run(&Files::of("bert")).unwrap();
    std::fs::remove_dir_all(case.dir.path().join("adapter")).unwrap();
    case.export().unwrap_err().must_have(&["case.toml", "weights = \"random\""]);
    assert!(!case.dir.path().join("adapter").exists());

    let mut case = Case::of(&[]);
    case.task = "kind = \"causal-lm\"".to_owned();
    let folder = case.dir.path().join("model");
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(root().join("tests/fixtures/gguf/llama31.gguf"), folder.join("tiny.gguf")).unwrap();
    let toml = case.toml().replace("\"train.tsv\"", "{ random_rows = 4 }");
    let toml = toml.replace("\"validation.tsv\"", "{ random_rows = 2 }");
    // a folder whose one model is in GGUF, and the file itself
    for source in ["model", "model/tiny.gguf"] {
        let at = case.dir.path();
        std::fs::write(at.join("case.toml"), toml.replace("\"model\"", &format!("\"{source}\""))).unwrap();
        let _ = std::fs::remove_dir_all(at.join("out"));
        let run = common::bench(at, &["run", "case.toml", "--out", "out"]);
        assert_eq!(run.status.code(), Some(0), "{}", text(&run));
        case.export().unwrap().must_have(&["warning: ", "tiny.gguf", "safetensors"]);
    }
}

#[test]
fn a_run_that_did_not_end_well_is_not_exported() {
    let case = Case::of(&["a", "b", "c"]);
    case.run(&Files::of("bert")).unwrap();
    let path = case.record_path();
    let mut record = json_file(&path);
    for status in ["failed", "out-of-memory"] {
        record["status"] = json!(status);
        record["message"] = json!("it was ended");
        std::fs::write(&path, record.to_string()).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        case.export().unwrap_err().must_have(&[name, status, "it was ended", "run it again"]);
        assert!(!case.dir.path().join("adapter").exists());
    }
}
