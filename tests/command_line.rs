//! The commands that a user works with all day, on a small experiment.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test may")]

mod common;

use std::path::{Path, PathBuf};

use common::{bench, experiment, root, text};
use serde_json::{Value, json};

const METHODS: &str =
    "[[method]]\nname = \"lora\"\nlabel = \"low rank\"\nrank = 2\n\n[[method]]\nname = \"bitfit\"\n";

/// A results folder `out` in `dir`, and the experiment file of its two methods with two seeds.
fn finished(dir: &Path) -> PathBuf {
    let file = experiment(dir, "small", "[0, 1]", 6, METHODS);
    succeeded(dir, &["run", "small.toml", "--out", "out"]);
    file
}

/// What `bench` says where it must end well.
fn succeeded(dir: &Path, arguments: &[&str]) -> String {
    let output = bench(dir, arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output));
    text(&output)
}

/// What `bench` says where it must refuse its input.
fn refused(dir: &Path, arguments: &[&str]) -> String {
    let output = bench(dir, arguments);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", text(&output));
    text(&output)
}

/// `text` must have all of `parts`.
fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in:\n{text}");
    }
}

#[test]
fn a_report_is_sorted_grouped_and_has_the_columns_that_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let file = finished(dir.path());
    let said = succeeded(dir.path(), &["report", "out", "--sort", "label", "--columns", "trained,sentiment"]);
    assert!(said.find("bitfit").unwrap() < said.find("low rank").unwrap(), "{said}");
    assert!(said.contains("trained") && !said.contains("tokens/s"), "{said}");
    let grouped = succeeded(dir.path(), &["report", "out", "--group", "family"]);
    has(&grouped, &["reparameterized", "partial"]);
    assert!(grouped.lines().all(|line| line.chars().count() <= 120), "{grouped}");
    has(&refused(dir.path(), &["report", "out", "--sort", "scor"]), &["--sort", "`scor`", "score, trained"]);
    // a run refuses it before it trains anything
    let fresh = ["run", file.to_str().unwrap(), "--out", "fresh", "--columns", "trained,nothing"];
    has(&refused(dir.path(), &fresh), &["--columns", "`nothing`", "sentiment"]);
    assert!(!dir.path().join("fresh").exists());
}

fn plan(dir: &Path, arguments: &[&str]) -> Value {
    let arguments = [&["plan", "small.toml", "--out", "out", "--json"], arguments].concat();
    let output = bench(dir, &arguments);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_plan_tells_what_a_run_takes() {
    let dir = tempfile::tempdir().unwrap();
    let file = experiment(dir.path(), "small", "[0, 1]", 6, METHODS);
    let said = succeeded(dir.path(), &["plan", "small.toml", "--out", "out"]);
    has(
        &said,
        &["4 cells: 0 done, 4 to run", "  4 new", "time: not known; `--time`", "batch", "rate", "low rank"],
    );
    assert!(!dir.path().join("out").exists());
    // from a few steps of each row
    let timed = plan(dir.path(), &["--time"]);
    assert_eq!(timed["time"]["cells_without"], 0, "{timed}");
    let total = timed["time"]["seconds"].as_f64().unwrap();
    let cells = timed["cells"].as_array().unwrap();
    let sum: f64 = cells.iter().map(|cell| cell["seconds"].as_f64().unwrap()).sum();
    assert!(total > 0.0 && (total - sum).abs() < 1e-9, "{total} {sum}");

    let before = timed["disk"]["more_bytes"].as_u64().unwrap();
    succeeded(dir.path(), &["run", "small.toml", "--out", "out"]);
    let done = plan(dir.path(), &[]);
    assert_eq!(done["states"]["cells"], json!({ "count": 4, "done": 4, "to_run": {} }));
    assert_eq!((&done["disk"]["more_bytes"], &done["time"]["seconds"]), (&json!(0), &Value::Null));
    let there = done["disk"]["there_bytes"].as_u64().unwrap();
    assert!(before > there / 2 && before < there * 2, "{before} bytes were foretold, and {there} are there");
    let split = &done["splits"][0];
    assert_eq!((&split["task"], &split["rows"]), (&json!("sentiment"), &json!(64)));

    // another rate: the records of before tell the time
    let toml = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, toml.replace("1e-3", "2e-3").replace("steps = 6", "steps = 12")).unwrap();
    let said = succeeded(dir.path(), &["plan", "small.toml", "--out", "out"]);
    has(&said, &["4 cells: 0 done, 4 to run", "4 run again: learning_rate changed, steps changed"]);
    has(&said, &["from 4 records of the same rows"]);
    let changed = plan(dir.path(), &[]);
    assert_eq!(changed["cells"][0]["state"], "run again: learning_rate changed, steps changed");
}

#[test]
fn trials_and_the_cells_that_wait_for_them_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let methods = format!("[search]\nlearning_rate = [1e-3, 1e-2]\n\n{METHODS}");
    experiment(dir.path(), "small", "[0, 1]", 2, &methods);
    let planned = plan(dir.path(), &[]);
    assert_eq!(planned["states"]["trials"], json!({ "count": 4, "done": 0, "to_run": { "new": 4 } }));
    let waiting = json!({ "after the trials of their learning rates": 4 });
    assert_eq!(planned["states"]["cells"], json!({ "count": 4, "done": 0, "to_run": waiting }));
    succeeded(dir.path(), &["run", "small.toml", "--out", "out", "--only", "bitfit"]);
    let planned = plan(dir.path(), &[]);
    assert_eq!(planned["states"]["trials"]["done"], 2);
    assert_eq!(planned["states"]["cells"]["done"], 2);
}

#[test]
fn a_folder_and_its_rows_are_shown() {
    let dir = tempfile::tempdir().unwrap();
    let methods = format!(
        "{METHODS}\n[[method]]\nname = \"lora\"\nlabel = \"diverges\"\nrank = 3\ntraining = {{ learning_rate = 1e30 }}\n"
    );
    experiment(dir.path(), "small", "[0, 1]", 6, &methods);
    let arguments =
        ["run", "small.toml", "--out", "out", "--only", "lora", "--only", "bitfit", "--seed", "0"];
    assert_eq!(bench(dir.path(), &arguments).status.code(), Some(1));
    let folder = succeeded(dir.path(), &["show", "out"]);
    has(
        &folder,
        &["6 cells: 2 done, 1 failed, 3 not run", "  bitfit on sentiment, seed 1", "on disk", " ago"],
    );
    has(&folder, &["failed:\n  diverges on sentiment, seed 0: ", "training diverged", "out/runs/diverges--"]);

    let row = succeeded(dir.path(), &["show", "out", "low rank"]);
    has(&row, &["low rank (lora)", "differs from other rows:\n  rank = 2", "sentiment     0  1e-3    done"]);
    has(&row, &["accuracy 0.", "training loss on sentiment by step", "training.learning_rate = 0.001"]);
    assert!(row.contains('⠀') && !row.contains("dropout"), "{row}");
    // by the method's name, and by a record's file
    let both = succeeded(dir.path(), &["show", "out", "lora"]);
    has(&both, &["low rank (lora)", "diverges (lora)", "failed on sentiment, seed 0"]);
    let record =
        records(&dir.path().join("out")).into_iter().find(|name| name.starts_with("bitfit")).unwrap();
    has(&succeeded(dir.path(), &["show", &format!("out/runs/{record}")]), &["bitfit (bitfit)", "settings:"]);
    has(
        &refused(dir.path(), &["show", "out", "nothing"]),
        &["`nothing`", "`low rank`, `bitfit`, `diverges`"],
    );
    has(&refused(dir.path(), &["show", "nowhere"]), &["nowhere", "no results folder"]);
}

/// Names of the records in a results folder.
fn records(out: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(out.join("runs")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".json")).collect()
}

#[test]
fn records_are_removed_with_all_that_is_beside_them() {
    let dir = tempfile::tempdir().unwrap();
    let file = finished(dir.path());
    let runs = dir.path().join("out/runs");
    let count = || std::fs::read_dir(&runs).unwrap().count();
    let all = count();
    assert_eq!(all, 4 * 5, "record, steps, predictions, validation, adapter");
    // without a terminal it has to be told
    has(&refused(dir.path(), &["rm", "out", "--only", "bitfit"]), &["remove 2 records (", "--yes"]);
    has(
        &refused(dir.path(), &["rm", "out", "--only", "bitfti", "--yes"]),
        &["--only", "`bitfti`", "`bitfit`"],
    );
    has(&refused(dir.path(), &["rm", "out", "--yes"]), &["--only", "--stale"]);
    has(&succeeded(dir.path(), &["rm", "out", "--failed", "--yes"]), &["nothing was removed"]);
    assert_eq!(count(), all);
    succeeded(dir.path(), &["rm", "out", "--only", "bitfit", "--seed", "1", "--yes"]);
    assert_eq!(count(), all - 5);
    let again = succeeded(dir.path(), &["run", "small.toml", "--out", "out"]);
    has(&again, &["3 of 4 cells were done before"]);
    // what the plan does not hold any more
    let toml = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, toml.replace("rank = 2", "rank = 3")).unwrap();
    succeeded(dir.path(), &["run", "small.toml", "--out", "out"]);
    assert_eq!(count(), 6 * 5);
    has(
        &succeeded(dir.path(), &["show", "out"]),
        &["2 records of runs that the plan does not hold", "--stale"],
    );
    succeeded(dir.path(), &["rm", "out", "--stale", "--yes"]);
    assert_eq!(count(), all);
    let names = records(&dir.path().join("out"));
    assert_eq!(names.iter().filter(|name| name.starts_with("low-rank")).count(), 2, "{names:?}");
    has(&succeeded(dir.path(), &["run", "small.toml", "--out", "out"]), &["4 of 4 cells were done before"]);
}

/// An experiment file that `bench init` writes for files of these names and contents.
fn begun(files: &[(&str, &str)], model: Option<&str>) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("films");
    std::fs::create_dir(&data).unwrap();
    for (name, content) in files {
        std::fs::write(data.join(name), content).unwrap();
    }
    let model = model.map(|model| root().join(model)).map(|path| path.to_str().unwrap().to_owned());
    let arguments = ["init", "films"].into_iter().chain(model.iter().flat_map(|model| ["--model", model]));
    succeeded(dir.path(), &arguments.collect::<Vec<_>>());
    let text = std::fs::read_to_string(dir.path().join("films.toml")).unwrap();
    (dir, text)
}

const FILMS: &str = "id\tsentence\tlabel\n1\ta good film\tpos\n2\ta bad film\tneg\n3\tnot bad\tpos\n";

#[test]
fn an_experiment_file_is_begun_for_a_folder_of_data() {
    let hidden = "index\tsentence\n0\ta film\n";
    let other = "id\tsentence\tlabel\n9\tanother film\tneg\n";
    let files = [("train.tsv", FILMS), ("dev.tsv", other), ("test.tsv", hidden)];
    let (dir, text) = begun(&files, Some("assets/bert-tiny"));
    has(
        &text,
        &["kind = \"classification\"", "train = \"films/train.tsv\"", "validation = \"films/dev.tsv\""],
    );
    has(&text, &["columns = { text = \"sentence\" }", "labels = [\"neg\", \"pos\"]", "# not used: test.tsv"]);
    has(&succeeded(dir.path(), &["plan", "films.toml"]), &["12 cells = 4 methods x 1 tasks x 3 seeds"]);
    // it is not written over
    has(&refused(dir.path(), &["init", "films"]), &["films.toml", "--out"]);
    assert_eq!(std::fs::read_to_string(dir.path().join("films.toml")).unwrap(), text);

    // one file, no model, numbers
    let rows: String =
        (0..20).map(|i| format!("{{\"text\": \"film {i}\", \"score\": {}.5}}\n", i % 5)).collect();
    let (dir, text) = begun(&[("all.jsonl", &rows)], None);
    has(
        &text,
        &["kind = \"regression\"", "take = 18", "skip = 18", "# source = \"..\"", "label = \"score\""],
    );
    let model = format!("source = {:?}", root().join("assets/bert-tiny").canonicalize().unwrap());
    std::fs::write(dir.path().join("films.toml"), text.replace("# source = \"..\"", &model)).unwrap();
    succeeded(dir.path(), &["plan", "films.toml"]);

    let alpaca = "{\"instruction\": \"say yes\", \"input\": \"\", \"output\": \"yes\"}\n{\"instruction\": \"no\", \"output\": \"no\"}\n";
    let (_, text) = begun(&[("train.jsonl", alpaca)], None);
    has(&text, &["kind = \"instruction\"", "name = \"ia3\""]);
    let chat = "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"b\"}]}\n";
    let (_, text) = begun(&[("train.jsonl", &chat.repeat(2))], None);
    has(&text, &["template = \"chat\"", "columns = { messages = \"messages\" }"]);
    let (_, text) = begun(&[("train.txt", "once upon a time"), ("valid.txt", "there was")], None);
    has(&text, &["kind = \"causal-lm\"", "validation = \"films/valid.txt\""]);
    let empty = tempfile::tempdir().unwrap();
    has(&refused(empty.path(), &["init", "."]), &["holds no file of data"]);
}

#[test]
fn a_run_says_as_much_as_it_is_asked_to() {
    let dir = tempfile::tempdir().unwrap();
    experiment(dir.path(), "small", "[0, 1]", 3, METHODS);
    let run = |out: &str, arguments: &[&str]| {
        let output = bench(dir.path(), &[&["run", "small.toml", "--out", out], arguments].concat());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    // through a pipe, on the standard output
    let usual = run("usual", &[]);
    has(&usual, &["[1/4] ", "[4/4] ", ": accuracy 0.", "Table, plots, records"]);
    assert!(!usual.contains("step 1/3"), "{usual}");
    let verbose = run("verbose", &["-v"]);
    for step in ["step 1/3", "step 3/3"] {
        assert_eq!(verbose.matches(step).count(), 4, "{verbose}");
    }
    let quiet = run("quiet", &["--quiet"]);
    assert!(quiet.trim_start().starts_with("small: bert-tiny") && !quiet.contains("[1/4]"), "{quiet}");
    has(&refused(dir.path(), &["run", "small.toml", "-q", "-v"]), &["cannot be used with"]);
}

#[test]
fn the_program_tells_what_it_is_and_what_was_meant() {
    let dir = tempfile::tempdir().unwrap();
    let version = succeeded(dir.path(), &["--version"]);
    has(&version, &[&format!("bench {}", env!("CARGO_PKG_VERSION")), "\ncommit: ", "\nfeatures: "]);
    assert_eq!(succeeded(dir.path(), &["-V"]).lines().count(), 1);
    for (arguments, meant) in [
        (&["repotr", "x"][..], "report"),
        (&["run", "x.toml", "--ony", "a"], "--only"),
        (&["list", "method"], "methods"),
        (&["docs", "methods", "lroa"], "did you mean `lora`?"),
    ] {
        has(&refused(dir.path(), arguments), &[meant]);
    }
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        has(&succeeded(dir.path(), &["completions", shell]), &["bench", "completions", "--columns"]);
    }
}
