//! Whole runs of the program on the bundled model and data.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, reason = "a test may")]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{bench, experiment, text};
use peftlab_record::Record;
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
fn an_exported_adapter_scores_the_same_when_imported() {
    let dir = tempfile::tempdir().unwrap();
    let names = [
        "rslora",
        "dora",
        "pissa",
        "olora",
        "lora-fa",
        "lora-plus",
        "adalora",
        "vera",
        "vb-lora",
        "loha",
        "lokr",
        "oft",
        "boft",
        "glora",
        "ln-tuning",
        "ia3",
    ];
    let others: String = names.iter().map(|name| format!("[[method]]\nname = \"{name}\"\n\n")).collect();
    // PEFT has no such method
    let none = "[[method]]\nname = \"tied-lora\"\n\n";
    let file = experiment(dir.path(), "exchange", "[0]", 5, &format!("{METHODS}\n{others}{none}"));
    let file = file.to_str().unwrap();
    let run = bench(dir.path(), &["run", file, "--out", "out"]);
    assert_eq!(run.status.code(), Some(0), "{}", text(&run));
    let mut exchanged = 0;
    for entry in std::fs::read_dir(dir.path().join("out/runs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let record: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let method = record["method"].as_str().unwrap();
        let path = path.to_str().unwrap();
        let exported = bench(dir.path(), &["export", path, "--experiment", file, "--out", method]);
        if method == "tied-lora" {
            assert_eq!(exported.status.code(), Some(2), "{}", text(&exported));
            assert!(!dir.path().join(method).exists());
            continue;
        }
        assert_eq!(exported.status.code(), Some(0), "{method}: {}", text(&exported));
        let imported = bench(dir.path(), &["import", method, "--experiment", file]);
        assert_eq!(imported.status.code(), Some(0), "{method}: {}", text(&imported));
        let score = record["measured"]["test"][0]["value"].as_f64().unwrap();
        assert!(text(&imported).contains(&format!("{score:.6}")), "{method}: {score} in {}", text(&imported));
        exchanged += 1;
    }
    assert_eq!(exchanged, names.len() + 2);
}

/// The records in a folder of `out`, and their files, in the order of rows and seeds.
fn records(out: &Path, folder: &str) -> Vec<(PathBuf, Value)> {
    let read = |(path, _): (PathBuf, Record)| {
        let text = std::fs::read_to_string(&path).unwrap();
        (path, serde_json::from_str(&text).unwrap())
    };
    let mut all: Vec<(PathBuf, Value)> =
        Record::read_folder(&out.join(folder)).unwrap().into_iter().map(read).collect();
    // a cell whose trials all failed has none
    let rate =
        |record: &Value| record["settings"]["training"]["learning_rate"].as_f64().unwrap_or(f64::INFINITY);
    all.sort_by(|(_, a), (_, b)| {
        let key = |record: &Value| (record["row"].as_u64(), record["seed"].as_u64());
        key(a).cmp(&key(b)).then(rate(a).total_cmp(&rate(b)))
    });
    all
}

/// Names of the files in `dir` that end with `extension`, sorted.
fn names(dir: &Path, extension: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(extension)).collect();
    names.sort();
    names
}

#[test]
fn a_learning_rate_is_chosen_on_validation() {
    let dir = tempfile::tempdir().unwrap();
    let search = |grid: &str| format!("[search]\nlearning_rate = {grid}\nseed = 7\n\n{METHODS}");
    let file = experiment(dir.path(), "searched", "[0, 1]", 6, &search("[1e-5, 1e-2]"));
    let file = file.to_str().unwrap();
    let planned = text(&bench(dir.path(), &["plan", file]));
    assert!(planned.contains("4 trials before them, with seed 7 = 2 methods x 1 tasks x 2"), "{planned}");

    let first = bench(dir.path(), &["run", file, "--out", "out"]);
    assert_eq!(first.status.code(), Some(0), "{}", text(&first));
    assert!(text(&first).contains("trial of rate 1e-5"), "{}", text(&first));
    let out = dir.path().join("out");
    let trials = names(&out.join("trials"), ".json");
    assert_eq!((trials.len(), names(&out.join("runs"), ".json").len()), (4, 4), "{trials:?}");
    // nothing of a trial is there to be mistaken for a result
    assert_eq!(
        (names(&out.join("trials"), ".steps.csv").len(), names(&out.join("trials"), "").len()),
        (4, 8)
    );
    let (all_trials, all_runs) = (records(&out, "trials"), records(&out, "runs"));
    for (row, (trials, runs)) in all_trials.chunks(2).zip(all_runs.chunks(2)).enumerate() {
        let mut scored = Vec::new();
        for (_, trial) in trials {
            assert_eq!((trial["row"].as_u64(), trial["status"].as_str()), (Some(row as u64), Some("done")));
            let measured = &trial["measured"];
            assert_eq!(measured["test"].as_array().map(Vec::len), Some(0), "a trial saw the test set");
            let metric = measured["validation"][0]["value"].as_f64().unwrap();
            let loss = measured["training"]["validation_loss_after"].as_f64().unwrap();
            scored.push((metric, -loss, trial["settings"]["training"]["learning_rate"].clone()));
        }
        let better = if (scored[0].0, scored[0].1) > (scored[1].0, scored[1].1) { 0 } else { 1 };
        for (seed, (_, run)) in runs.iter().enumerate() {
            assert_eq!((run["row"].as_u64(), run["seed"].as_u64()), (Some(row as u64), Some(seed as u64)));
            assert_eq!(run["settings"]["training"]["learning_rate"], scored[better].2);
            assert!(!run["measured"]["test"].as_array().unwrap().is_empty());
            let searched = run["measured"]["training"]["searched"].as_array().unwrap();
            for (trial, scored) in searched.iter().zip(&scored) {
                assert_eq!((&trial["learning_rate"], trial["seed"].as_u64()), (&scored.2, Some(7)));
                assert_eq!(trial["validation"].as_f64(), Some(scored.0));
                assert_eq!(trial["validation_loss"].as_f64(), Some(-scored.1));
            }
        }
    }
    let table = std::fs::read_to_string(out.join("table.md")).unwrap();
    assert!(
        table.contains("rate: chosen on validation from 1e-5, 1e-2, one trial each with seed 7"),
        "{table}"
    );

    let again = text(&bench(dir.path(), &["run", file, "--out", "out"]));
    assert!(again.contains("4 of 4 trials were done before"), "{again}");
    assert!(again.contains("4 of 4 cells were done before") && !again.contains("[1/"), "{again}");
    let record = all_runs[0].0.to_str().unwrap();
    let exported = bench(dir.path(), &["export", record, "--experiment", file, "--out", "exported"]);
    assert_eq!(exported.status.code(), Some(0), "{}", text(&exported));
}

#[test]
fn a_changed_grid_of_rates_runs_what_is_new() {
    let dir = tempfile::tempdir().unwrap();
    let lora = "[[method]]\nname = \"lora\"\nrank = 2\n";
    let run = |grid: &str| {
        let methods = format!("[search]\nlearning_rate = {grid}\n\n{lora}");
        let file = experiment(dir.path(), "grown", "[0]", 4, &methods);
        let output = bench(dir.path(), &["run", file.to_str().unwrap(), "--out", "out"]);
        (output.status.code(), text(&output))
    };
    let out = dir.path().join("out");
    let (code, said) = run("[1e-2]");
    assert_eq!(code, Some(0), "{said}");
    let before = records(&out, "runs").remove(0).1;
    // rates that cannot win are tried, the cell stays, and its record knows what it was chosen from
    let (code, said) = run("[1e-2, 1e30]");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("1 of 2 trials were done") && said.contains("1 of 2 trials failed"), "{said}");
    assert!(said.contains("1 of 1 cell were done before") || said.contains("1 of 1 cells"), "{said}");
    let after = records(&out, "runs").remove(0).1;
    assert_eq!(after["measured"]["weights_digest"], before["measured"]["weights_digest"]);
    assert_eq!(after["environment"]["started"], before["environment"]["started"]);
    let searched = &after["measured"]["training"]["searched"];
    assert_eq!((searched.as_array().unwrap().len(), &searched[1]["validation_loss"]), (2, &Value::Null));
    // the rate that was chosen is gone: the cell runs with another, and nothing of before is lost
    let (code, said) = run("[1e-3]");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("learning_rate changed"), "{said}");
    let kept: Vec<f64> = records(&out, "runs")
        .iter()
        .map(|(_, record)| record["settings"]["training"]["learning_rate"].as_f64().unwrap())
        .collect();
    assert_eq!(kept, [1e-3, 1e-2]);
    assert!(said.contains("1 record in runs/ is not of this plan"), "{said}");
    // and where no rate works the cell fails with the trial's reason
    let (code, said) = run("[1e30]");
    assert_eq!(code, Some(1), "{said}");
    let all = records(&out, "runs");
    let failed = all.iter().find(|(_, record)| record["status"] == "failed").unwrap();
    let message = failed.1["message"].as_str().unwrap();
    assert!(message.starts_with("every trial of the search for a learning rate failed; 1e30:"), "{message}");
}

#[test]
fn what_a_changed_experiment_made_before_is_kept_and_no_table_mixes_it_in() {
    let dir = tempfile::tempdir().unwrap();
    let run = |rank: u32, seeds: &str, only: &[&str]| {
        let methods = format!(
            "[[method]]\nname = \"lora\"\nlabel = \"a | b\"\nrank = {rank}\n\n[[method]]\nname = \"bitfit\"\n"
        );
        let file = experiment(dir.path(), "changed", seeds, 2, &methods);
        let arguments = [&["run", file.to_str().unwrap(), "--out", "out"], only].concat();
        let output = bench(dir.path(), &arguments);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        text(&output)
    };
    let out = dir.path().join("out");
    let files = || -> BTreeMap<PathBuf, Vec<u8>> {
        let paths = std::fs::read_dir(out.join("runs")).unwrap().map(|entry| entry.unwrap().path());
        paths.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
    };
    run(2, "[0, 1]", &[]);
    let first = files();
    let said = run(3, "[0, 1]", &["--only", "a | b"]);
    assert!(said.contains("2 cells run again: rank changed"), "{said}");
    assert!(said.contains("2 records in runs/ are not of this plan"), "{said}");
    let second = files();
    assert!(
        first.iter().all(|(path, bytes)| second.get(path) == Some(bytes)),
        "something of before was changed"
    );
    let said = run(2, "[0, 1]", &[]);
    assert!(said.contains("4 of 4 cells were done before") && !said.contains("[1/"), "{said}");
    assert_eq!(files(), second);
    let lora =
        records(&out, "runs").into_iter().find(|(_, record)| record["settings"]["method"]["rank"] == 2);
    let lora = lora.unwrap().0;

    // a table of predictions that is gone is told, and one that is cut is refused
    let table = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
    assert!(!table("table.md").contains("not compared") && table("table.md").contains("| a \\| b |"));
    let predictions = lora.with_extension("predictions.csv");
    let whole = std::fs::read_to_string(&predictions).unwrap();
    std::fs::remove_file(&predictions).unwrap();
    let said = text(&bench(dir.path(), &["report", "out"]));
    assert!(said.contains("not compared: a | b on sentiment"), "{said}");
    let cut: Vec<&str> = whole.lines().take(5).collect();
    std::fs::write(&predictions, cut.join("\n")).unwrap();
    let output = bench(dir.path(), &["report", "out"]);
    let said = text(&output);
    assert!(output.status.code() == Some(2) && said.contains("has 4 rows"), "{said}");
}

#[test]
fn threads_decide_no_number() {
    let dir = tempfile::tempdir().unwrap();
    let file = experiment(dir.path(), "threads", "[0]", 4, METHODS);
    let run = |threads: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_bench"))
            .args(["run", file.to_str().unwrap(), "--out", threads])
            .env("RAYON_NUM_THREADS", threads)
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        results(&dir.path().join(threads))
    };
    assert_eq!(run("1"), run("3"));
}

#[test]
#[cfg(target_os = "linux")]
fn a_cell_ends_with_the_grid_that_started_it() {
    let dir = tempfile::tempdir().unwrap();
    // no other test's cell has its identity
    let seed = format!("[{}]", std::process::id());
    let file = experiment(dir.path(), "left", &seed, 100_000, "[[method]]\nname = \"bitfit\"\n");
    let plan = bench(dir.path(), &["plan", file.to_str().unwrap(), "--json"]);
    let plan: Value = serde_json::from_slice(&plan.stdout).unwrap();
    let identity = plan.to_string().split("\"identity\":\"").nth(1).unwrap()[..8].to_owned();
    let grid = Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(["run", file.to_str().unwrap(), "--out", "out"])
        .current_dir(dir.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let grid = Ended(grid);
    let cells = || {
        let found = std::fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok).filter(|entry| {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            line.contains(" cell ") && line.contains(&identity)
        });
        found.count()
    };
    let wait = |count: usize| {
        let start = Instant::now();
        while cells() != count {
            assert!(start.elapsed() < Duration::from_secs(60), "{} cells, not {count}", cells());
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    wait(1);
    drop(grid);
    wait(0);
}

#[cfg(target_os = "linux")]
/// A process that is killed when this is dropped, as a test that fails does, too.
struct Ended(std::process::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[cfg(target_os = "linux")]
fn output_that_cannot_be_written_is_told() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(["list", "methods"])
        .stdout(full)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
        .wait_with_output()
        .unwrap();
    let said = text(&output);
    assert!(output.status.code() == Some(2) && said.contains("cannot be written"), "{said}");
}

#[test]
fn steps_after_the_warm_up_are_profiled_where_that_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let methods = "[[method]]\nname = \"lora\"\ntraining = { profile_kernels = true, timing_warmup_steps = 2 }\n\n\
                   [[method]]\nname = \"bitfit\"\n";
    let file = experiment(dir.path(), "kernels", "[0]", 5, methods);
    let output = bench(dir.path(), &["run", file.to_str().unwrap(), "--out", "out"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let out = dir.path().join("out");
    let profile = |method: &str| {
        let all = records(&out, "runs");
        let (_, record) = all.iter().find(|(_, record)| record["method"] == method).unwrap();
        record["measured"]["kernels"].clone()
    };
    let watched = profile("lora");
    assert_eq!(watched["steps"], 3);
    assert!(watched["seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(profile("bitfit"), Value::Null);
    // the backend of the tests has no kernels, and that is said
    assert_eq!(text(&output).matches("kernels of lora").count(), 1, "{}", text(&output));
    assert!(text(&output).contains("launches no kernels"));
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
