//! What every method comes to in three steps, against what it came to before: a version of the numerics stands for
//! numbers, and a record with the same one is not run again.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, reason = "a test may")]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use common::{bench, experiment, root, text};
use peftlab_record::{Record, Step, read_table, steps_path};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Processors add up in other orders, and losses differ by that.
const ROUNDING: f64 = 1e-4;

/// Set to have the file of numbers written anew.
const WRITE: &str = "PEFTLAB_WRITE_NUMERICS";

/// What a method came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Numbers {
    /// Versions of the numerics of the harness and of the method.
    versions: [u64; 2],
    /// Training losses, and the validation loss after the last step.
    losses: Vec<f64>,
}

fn file() -> PathBuf {
    root().join("tests/fixtures/numerics.json")
}

fn numbers(runs: &Path) -> BTreeMap<String, Numbers> {
    let one = |(path, record): (PathBuf, Record)| {
        let steps: Vec<Step> = read_table(&steps_path(&path)).unwrap().unwrap();
        let last = record.measured.unwrap().training.validation_loss_after;
        let versions = ["harness", "method"].map(|of| record.inputs["numerics"][of].as_u64().unwrap());
        let losses = steps.iter().map(|step| step.loss).chain([last]).collect();
        (format!("{} on {}", record.method, record.model.architecture), Numbers { versions, losses })
    };
    Record::read_folder(runs).unwrap().into_iter().map(one).collect()
}

/// What is wrong with `now`, which was `before`.
fn wrong(name: &str, before: Option<&Numbers>, now: &Numbers) -> Option<String> {
    let Some(before) = before else { return Some(format!("{name}: there are no numbers of before")) };
    let near = |(a, b): (&f64, &f64)| (a - b).abs() <= ROUNDING * a.abs().max(1.0);
    let same = before.losses.len() == now.losses.len() && before.losses.iter().zip(&now.losses).all(near);
    match (same, before.versions == now.versions) {
        (true, true) => None,
        (false, true) => Some(format!(
            "{name}: comes to {:?} and came to {:?}, with the same version of the numerics: raise `NUMERICS` of the method, \
             or of crates/harness/src/plan/cell.rs where others changed, too",
            now.losses, before.losses
        )),
        (_, false) => {
            Some(format!("{name}: has another version, {:?} and not {:?}", now.versions, before.versions))
        }
    }
}

#[test]
fn who_changes_numbers_raises_a_version() {
    let dir = tempfile::tempdir().unwrap();
    let listed = bench(dir.path(), &["list", "methods", "--json"]);
    let cards: Vec<Value> = serde_json::from_slice(&listed.stdout).unwrap();
    let names: Vec<&str> = cards.iter().map(|card| card["name"].as_str().unwrap()).collect();
    assert!(names.len() >= 34, "{names:?}");
    let table = |name: &str| {
        // so that its rank grows in three steps
        let settings = if name == "increlora" { "grow_every = 1\n" } else { "" };
        format!("[[method]]\nname = \"{name}\"\n{settings}\n")
    };
    // all but the one that is for networks with rotary positions
    let methods: String = names.iter().filter(|name| **name != "longlora").map(|name| table(name)).collect();
    let bert = experiment(dir.path(), "bert", "[0]", 3, &methods);
    let texts: String =
        (0..64).map(|i| format!("the {i}th of some words that follow {}\n", i * 7 % 11)).collect();
    std::fs::write(dir.path().join("texts.txt"), texts).unwrap();
    let base = root().join("tests/fixtures/parity/base/llama").canonicalize().unwrap();
    let some = ["full", "lora", "longlora", "prefix-tuning", "prompt-tuning", "houlsby", "qlora"];
    let rest = format!(
        "name = \"llama\"\ndevice = \"cpu\"\n[model]\nsource = \"{}\"\n[training]\nsteps = 3\nbatch_size = 4\n\
         learning_rate = 1e-2\n[[task]]\nname = \"text\"\nkind = \"causal-lm\"\ntrain = {{ random_rows = 16 }}\n\
         validation = {{ random_rows = 8 }}\nmax_length = 16\n{}",
        base.display(),
        some.map(table).concat()
    );
    std::fs::write(dir.path().join("llama.toml"), rest).unwrap();
    let mut now = BTreeMap::new();
    for file in [bert.to_str().unwrap(), "llama.toml"] {
        let output = bench(dir.path(), &["run", file, "--out", "out"]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        now.extend(numbers(&dir.path().join("out/runs")));
        std::fs::remove_dir_all(dir.path().join("out")).unwrap();
    }
    assert_eq!(now.len(), names.len() - 1 + some.len());
    let before: BTreeMap<String, Numbers> = std::fs::read_to_string(file())
        .map_or_else(|_| BTreeMap::new(), |text| serde_json::from_str(&text).unwrap());
    let wrong: Vec<String> =
        now.iter().filter_map(|(name, now)| wrong(name, before.get(name), now)).collect();
    // numbers of the same version are never written over
    if std::env::var_os(WRITE).is_some() && !wrong.iter().any(|what| what.contains("same version")) {
        std::fs::write(file(), serde_json::to_string_pretty(&now).unwrap() + "\n").unwrap();
        return;
    }
    assert!(
        wrong.is_empty(),
        "{}\n{WRITE}=1 cargo test --workspace --test numerics writes the numbers of new versions",
        wrong.join("\n")
    );
}

#[test]
fn a_change_without_a_version_is_found() {
    let before = Numbers { versions: [1, 1], losses: vec![0.7, 0.5] };
    let moved = Numbers { losses: vec![0.7, 0.501], ..before.clone() };
    assert_eq!(wrong("m", Some(&before), &Numbers { losses: vec![0.7, 0.500001], ..before.clone() }), None);
    assert!(wrong("m", Some(&before), &moved).unwrap().contains("raise `NUMERICS`"));
    assert!(
        wrong("m", Some(&before), &Numbers { versions: [1, 2], ..moved })
            .unwrap()
            .contains("another version")
    );
    assert!(wrong("m", None, &before).is_some());
}
