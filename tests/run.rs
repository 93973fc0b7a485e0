//! Whole runs of the program on the bundled model and data.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, reason = "a test may")]

mod common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{bench, experiment, text};
use serde_json::Value;

const METHODS: &str = "[[method]]\nname = \"lora\"\nrank = 2\ndropout = 0.1\n\n[[method]]\nname = \"prefix-tuning\"\nnum_virtual_tokens = 3\nprefix_projection = true\n";

/// What a rerun must give again, of every record: scores, losses and weights.
fn results(out: &Path) -> Vec<(String, Value, Value, Value)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(out.join("runs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "json") {
            let record: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
            let measured = &record["measured"];
            assert!(measured.is_object(), "{record}");
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let (test, losses) = (measured["test"].clone(), measured["losses_digest"].clone());
            found.push((name, test, losses, measured["weights_digest"].clone()));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

#[test]
fn a_rerun_gives_the_same_bytes_and_a_resumed_grid_the_same_table() {
    let dir = tempfile::tempdir().unwrap();
    let file = experiment(dir.path(), "twice", "[0, 1]", 6, METHODS);
    let file = file.to_str().unwrap();
    let first = bench(dir.path(), &["run", file, "--out", "first"]);
    assert_eq!(first.status.code(), Some(0), "{}", text(&first));
    let expected = results(&dir.path().join("first"));
    assert_eq!(expected.len(), 4);

    // killed in the middle, and started again
    let mut child = Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(["run", file, "--out", "second"])
        .current_dir(dir.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let runs = dir.path().join("second/runs");
    let start = Instant::now();
    let done = || {
        std::fs::read_dir(&runs).map_or(0, |d| {
            d.filter(|e| e.as_ref().unwrap().path().extension().is_some_and(|e| e == "json")).count()
        })
    };
    while done() < 2 {
        assert!(start.elapsed() < Duration::from_secs(120), "no record was written");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let before = done();
    let second = bench(dir.path(), &["run", file, "--out", "second"]);
    assert_eq!(second.status.code(), Some(0), "{}", text(&second));
    assert_eq!(results(&dir.path().join("second")), expected);
    assert!(before >= 2 && text(&second).contains("cells were done before"), "{}", text(&second));

    let third = bench(dir.path(), &["run", file, "--out", "second"]);
    assert!(text(&third).contains("4 of 4 cells were done before"), "{}", text(&third));
    for name in ["table.md", "table.csv", "table.tex", "plots/score-parameters.svg", "plots/loss.png"] {
        assert!(dir.path().join("second").join(name).is_file(), "{name}");
    }
    // a report is a function of the records
    let table = std::fs::read(dir.path().join("second/table.csv")).unwrap();
    assert_eq!(bench(dir.path(), &["report", "second"]).status.code(), Some(0));
    assert_eq!(std::fs::read(dir.path().join("second/table.csv")).unwrap(), table);
}

#[test]
fn every_method_trains_on_bert_and_keeps_what_its_card_says() {
    let dir = tempfile::tempdir().unwrap();
    let names = [
        "full",
        "head",
        "bitfit",
        "lora",
        "houlsby",
        "pfeiffer",
        "parallel",
        "prefix-tuning",
        "prompt-tuning",
        "ia3",
    ];
    let methods: String = names.iter().map(|name| format!("[[method]]\nname = \"{name}\"\n\n")).collect();
    let file = experiment(dir.path(), "all", "[0]", 3, &methods);
    let output = bench(dir.path(), &["run", file.to_str().unwrap(), "--out", "out"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_eq!(results(&dir.path().join("out")).len(), names.len());

    let listed = bench(dir.path(), &["list", "methods", "--json"]);
    let cards: Vec<Value> = serde_json::from_slice(&listed.stdout).unwrap();
    for entry in std::fs::read_dir(dir.path().join("out/runs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let record: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let card = cards.iter().find(|card| card["name"] == record["method"]).unwrap();
        let difference = record["measured"]["checks"]["step0_difference"].as_f64().unwrap();
        match &card["identity"] {
            Value::String(exact) if exact == "exact" => assert_eq!(difference, 0.0, "{}", record["method"]),
            Value::String(no) if no == "no" => assert!(difference > 0.0, "{}", record["method"]),
            within => assert!(difference <= within["within"].as_f64().unwrap(), "{}", record["method"]),
        }
    }
}

#[test]
fn an_exported_adapter_scores_the_same_when_imported() {
    let dir = tempfile::tempdir().unwrap();
    let file = experiment(dir.path(), "exchange", "[0]", 5, METHODS);
    let file = file.to_str().unwrap();
    let run = bench(dir.path(), &["run", file, "--out", "out"]);
    assert_eq!(run.status.code(), Some(0), "{}", text(&run));
    for stem in ["00-lora-r-2-q-v--sentiment--seed0", "01-prefix-tuning-mlp-l-3--sentiment--seed0"] {
        let record = format!("out/runs/{stem}.json");
        let exported = bench(dir.path(), &["export", &record, "--experiment", file, "--out", stem]);
        assert_eq!(exported.status.code(), Some(0), "{}", text(&exported));
        let imported = bench(dir.path(), &["import", stem, "--experiment", file]);
        assert_eq!(imported.status.code(), Some(0), "{}", text(&imported));
        let record: Value =
            serde_json::from_str(&std::fs::read_to_string(dir.path().join(&record)).unwrap()).unwrap();
        let score = record["measured"]["test"][0]["value"].as_f64().unwrap();
        assert!(text(&imported).contains(&format!("{score:.6}")), "{score} in {}", text(&imported));
    }
}

#[test]
fn a_device_is_measured_and_compared() {
    let dir = tempfile::tempdir().unwrap();
    let measured = bench(dir.path(), &["device", "cpu", "--tiny", "--out", "device.json"]);
    assert_eq!(measured.status.code(), Some(0), "{}", text(&measured));
    for part in ["matrix product", "copy", "launch", "largest allocation", "attention"] {
        assert!(text(&measured).contains(part), "{part}: {}", text(&measured));
    }
    let both = bench(dir.path(), &["compare", "device.json", "device.json"]);
    assert_eq!(both.status.code(), Some(0), "{}", text(&both));
    assert!(text(&both).contains(" 1.00 "), "{}", text(&both));
    // runs beside themselves, and beside something of another kind
    let file = experiment(dir.path(), "two", "[0]", 5, METHODS);
    let run = bench(dir.path(), &["run", file.to_str().unwrap(), "--out", "out"]);
    assert_eq!(run.status.code(), Some(0), "{}", text(&run));
    let both = bench(dir.path(), &["compare", "out", "out"]);
    let lines = text(&both);
    assert_eq!(
        lines.lines().filter(|line| line.starts_with("sentiment ") && line.contains(" 1.00 ")).count(),
        2,
        "{lines}"
    );
    assert_eq!(bench(dir.path(), &["compare", "out", "device.json"]).status.code(), Some(2));
    assert_eq!(bench(dir.path(), &["compare", "nowhere.json"]).status.code(), Some(2));
}
