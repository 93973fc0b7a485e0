//! Adapters on networks whose output layer is their embedding. In PEFT one that is saved, or that has an update, is a
//! copy, and the other stays as it is: what that gives on a network with two equal layers is held against PEFT's own
//! numbers in `adapters.rs`.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test may")]
#![allow(dead_code, reason = "other tests use the rest of what is shared")]

mod common;
#[path = "common/tiny.rs"]
mod tiny;

use std::path::Path;

use common::{bench, root, text};
use peftlab_checkpoint::{Safetensors, TensorSource, write_safetensors};
use serde_json::{Value, json};
use tiny::{Case, Files, MustHave};

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";
const PREFIX: &str = "base_model.model.";

type Tensors = Vec<(String, Vec<usize>, Vec<f32>)>;

fn fixture(name: &str) -> (Value, Tensors) {
    let folder = root().join("tests/fixtures/adapters").join(name);
    let config = std::fs::read_to_string(folder.join("adapter_config.json")).unwrap();
    let file = Safetensors::open(&[folder.join("adapter_model.safetensors")]).unwrap();
    let tensor =
        |name: String| (name.clone(), file.info(&name).unwrap().shape, file.read_f32(&name).unwrap());
    (serde_json::from_str(&config).unwrap(), file.names().into_iter().map(tensor).collect())
}

/// What is said of the scores that an adapter has on a model.
fn imported(files: &Files, (config, tensors): &(Value, Tensors)) -> Result<String, String> {
    let case = Case::of(&[]);
    let at: &Path = case.dir.path();
    files.write(&at.join("model"));
    std::fs::write(at.join("case.toml"), case.toml()).unwrap();
    std::fs::create_dir(at.join("adapter")).unwrap();
    std::fs::write(at.join("adapter/adapter_config.json"), config.to_string()).unwrap();
    write_safetensors(&at.join("adapter/adapter_model.safetensors"), tensors).unwrap();
    let output = bench(at, &["import", "adapter", "--experiment", "case.toml"]);
    match output.status.code() {
        Some(0) => Ok(text(&output)
            .lines()
            .filter(|line| line.starts_with("validation"))
            .collect::<Vec<_>>()
            .join("\n")),
        code => {
            assert_eq!(code, Some(2), "{}", text(&output));
            Err(text(&output))
        }
    }
}

fn tied() -> Files {
    Files::of("llama").without("lm_head.").with("tie_word_embeddings", true.into())
}

fn untied() -> Files {
    let mut files = tied().with("tie_word_embeddings", false.into());
    files.tensors.insert(HEAD.to_owned(), files.tensors[EMBEDDING].clone());
    files
}

#[test]
fn a_saved_embedding_leaves_the_output_layer_as_it_was_and_the_reverse() {
    let saves_embedding = fixture("llama-lora-saved-layers");
    let mut saves_head = saves_embedding.clone();
    saves_head.0["modules_to_save"] = json!(["norm", "lm_head"]);
    for (name, ..) in &mut saves_head.1 {
        *name = name.replace(EMBEDDING, HEAD);
    }
    for adapter in [saves_embedding, saves_head, fixture("llama-lora-output-layer")] {
        let ours = imported(&tied(), &adapter).unwrap();
        assert!(ours.contains("perplexity"), "{ours}");
        assert_eq!(ours, imported(&untied(), &adapter).unwrap(), "{}", adapter.0);
    }
}

#[test]
fn what_is_taken_off_an_output_layer_is_taken_off_its_embedding_too_and_refused() {
    let (mut config, tensors) = fixture("llama-lora-output-layer");
    for (init, title) in [("pissa", "PiSSA"), ("olora", "OLoRA")] {
        config["init_lora_weights"] = json!(init);
        let adapter = (config.clone(), tensors.clone());
        imported(&tied(), &adapter).unwrap_err().must_have(&[
            "`lm_head.lora_A.weight`",
            title,
            "tie_word_embeddings",
            "target_modules",
        ]);
        imported(&untied(), &adapter).unwrap();
        // a run has no such target
        let mut case = Case::of(&[]);
        case.method = format!("name = \"{init}\"\ntarget_modules = [\"lm_head\"]");
        case.refused(&tied(), &["target_modules", "`lm_head`"]);
    }
}

#[test]
fn an_embedding_that_was_saved_because_tokens_were_added_takes_the_place_of_both() {
    let (mut config, mut tensors) = fixture("llama-lora-saved-layers");
    config["modules_to_save"] = json!(["norm"]);
    let at = tensors.iter().position(|(name, ..)| name.ends_with(EMBEDDING)).unwrap();
    let embedding = tensors[at].clone();
    let ours = imported(&tied(), &(config.clone(), tensors.clone())).unwrap();
    // the same twice, as PEFT saves it
    let with_head = |values: Vec<f32>| {
        let head = (format!("{PREFIX}{HEAD}"), embedding.1.clone(), values);
        (config.clone(), tensors.iter().cloned().chain([head]).collect())
    };
    assert_eq!(ours, imported(&tied(), &with_head(embedding.2.clone())).unwrap());
    let other = embedding.2.iter().map(|value| value * 2.0).collect();
    imported(&tied(), &with_head(other)).unwrap_err().must_have(&[
        HEAD,
        "tie_word_embeddings",
        "modules_to_save",
    ]);

    let mut files = tied();
    files.tensors.insert(EMBEDDING.to_owned(), (embedding.1.clone(), embedding.2.clone()));
    tensors.remove(at);
    assert_eq!(ours, imported(&files, &(config, tensors)).unwrap());
}
