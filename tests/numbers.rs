//! What a run's numbers mean: which tokens a loss counts, what fails, what is restored.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test may")]

mod common;

use std::path::{Path, PathBuf};

use common::{bench, experiment, root, text};
use peftlab_record::{Prediction, Record, Status, Step, predictions_path, read_table, steps_path};
use serde_json::Value;

/// The experiment on the bundled model and data with some of its lines replaced.
fn changed(dir: &Path, name: &str, changes: &[(&str, &str)], methods: &str) -> PathBuf {
    let path = experiment(dir, name, "[0]", 4, methods);
    let mut file = std::fs::read_to_string(&path).unwrap();
    for (from, to) in changes {
        assert!(file.contains(from), "{from} is not in {file}");
        file = file.replace(from, to);
    }
    std::fs::write(&path, file).unwrap();
    path
}

/// Runs the experiment, and reads its records in the order of the table.
fn run(dir: &Path, file: &Path) -> (Vec<(PathBuf, Record)>, String, Option<i32>) {
    let out = file.with_extension("out");
    let output = bench(dir, &["run", file.to_str().unwrap(), "--out", out.to_str().unwrap()]);
    let mut records = Record::read_folder(&out.join("runs")).unwrap();
    records.sort_by_key(|(_, record)| record.row);
    (records, text(&output), output.status.code())
}

/// The only record of an experiment that must go well.
fn done(dir: &Path, name: &str, changes: &[(&str, &str)], methods: &str) -> (PathBuf, Record) {
    let (mut records, text, code) = run(dir, &changed(dir, name, changes, methods));
    assert_eq!(code, Some(0), "{text}");
    records.remove(0)
}

fn losses(path: &Path) -> Vec<Step> {
    read_table(&steps_path(path)).unwrap().unwrap()
}

const LORA: &str = "[[method]]\nname = \"lora\"\nrank = 2\n";
const RATE: &str = "learning_rate = 1e-3";
/// A rate at which nothing moves.
const STILL: &str = "learning_rate = 1e-30\noptimizer = { name = \"sgd\" }";

/// No dropout, in place of the model's own.
const WITHOUT_DROPOUT: (&str, &str) = (
    "/bert-tiny\"",
    "/bert-tiny\"\nconfig = { hidden_dropout_prob = 0.0, attention_probs_dropout_prob = 0.0 }",
);

#[test]
fn a_run_that_ends_in_nan_has_no_score() {
    let dir = tempfile::tempdir().unwrap();
    let methods = format!("[[method]]\nname = \"full\"\n\n{LORA}training = {{ learning_rate = 2e-3 }}\n");
    for (name, more) in
        [("clipped", ""), ("free", "\nmax_grad_norm = 1e38"), ("looks", "\nevaluate_every = 1")]
    {
        let changes = [(RATE, &*format!("learning_rate = 1e30{more}")), ("steps = 4", "steps = 1")];
        let (records, text, code) = run(dir.path(), &changed(dir.path(), name, &changes, &methods));
        assert_eq!(code, Some(1), "{text}");
        let (_, full) = records.iter().find(|(_, record)| record.label.contains("full")).unwrap();
        assert_eq!(full.status, Status::Failed, "{name}: {text}");
        assert!(full.measured.is_none() && full.message.contains("diverged"), "{name}: {}", full.message);
        let table =
            std::fs::read_to_string(dir.path().join(name).with_extension("out").join("table.md")).unwrap();
        let row = table.lines().find(|line| line.starts_with("| full")).unwrap();
        assert!(row.contains("failed") && !row.contains("**") && !row.contains("NaN"), "{table}");
        let row = table.lines().find(|line| line.starts_with("| lora")).unwrap();
        // a row alone is the best of nothing
        assert!(!row.contains("failed") && !row.contains("**"), "{table}");
    }
}

#[test]
fn a_gradient_that_is_nearly_nothing_is_one() {
    // softmax is blind to a key's bias: its gradient is rounding, and SGD may leave its bits as they are
    let dir = tempfile::tempdir().unwrap();
    let sgd = "learning_rate = 1e-2\noptimizer = { name = \"sgd\", momentum = 0.9 }";
    let (_, record) = done(dir.path(), "sgd", &[(RATE, sgd)], "[[method]]\nname = \"bitfit\"\n");
    assert!(record.measured.unwrap().checks.trained_updated > 10);
}

#[test]
fn the_best_look_may_be_that_of_a_step_at_a_rate_of_zero() {
    let dir = tempfile::tempdir().unwrap();
    let training =
        "learning_rate = 10.0\nwarmup_steps = 2\nevaluate_every = 1\npatience = 2\nschedule = \"constant\"";
    let changes = [(RATE, training), ("steps = 4", "steps = 8")];
    let (_, record) = done(dir.path(), "warm", &changes, LORA);
    let training = record.measured.unwrap().training;
    assert_eq!((training.best_step, training.stopped_early), (1, true));
    assert_eq!(Some(training.validation_loss_after), training.validation_loss_before);
}

#[test]
fn the_best_weights_are_restored() {
    let dir = tempfile::tempdir().unwrap();
    // too high a rate from the start: some early step is the best
    let training = "learning_rate = 2e-1\nschedule = \"constant\"";
    let looking = format!("{training}\nevaluate_every = 1");
    let (_, looked) = done(dir.path(), "looked", &[(RATE, &looking), ("steps = 4", "steps = 6")], LORA);
    let looked = looked.measured.unwrap();
    let best = looked.training.best_step;
    assert!(best < 6, "{best}");
    let steps = format!("steps = {best}");
    let (_, stopped) = done(dir.path(), "stopped", &[(RATE, training), ("steps = 4", &steps)], LORA);
    let stopped = stopped.measured.unwrap();
    assert_eq!(looked.training.validation_loss_after, stopped.training.validation_loss_after);
    assert_eq!(looked.weights_digest, stopped.weights_digest);
    // and are not where the last are asked for: those of a run that never looked
    let last = format!("{looking}\nkeep = \"last\"");
    let (_, last) = done(dir.path(), "last", &[(RATE, &last), ("steps = 4", "steps = 6")], LORA);
    let (_, unlooked) = done(dir.path(), "unlooked", &[(RATE, training), ("steps = 4", "steps = 6")], LORA);
    let (last, unlooked) = (last.measured.unwrap(), unlooked.measured.unwrap());
    assert_eq!(last.weights_digest, unlooked.weights_digest);
    assert_ne!(last.weights_digest, looked.weights_digest);
    assert_eq!(last.training.validation_loss_after, unlooked.training.validation_loss_after);
}

#[test]
fn what_was_cut_and_dropped_is_in_the_plan_the_output_and_the_record() {
    let dir = tempfile::tempdir().unwrap();
    let long = "it is far too long for so few tokens as these";
    let rows = format!("text\tlabel\na b\tpositive\n{long}\tnegative\nfine\tpositive\n{long}\tpositive\n");
    let file = experiment(dir.path(), "counts", "[0]", 1, LORA);
    let mut toml = std::fs::read_to_string(&file).unwrap();
    // the other splits lose nothing
    for (split, rows) in [
        ("train", rows.as_str()),
        ("validation", "text\tlabel\nbad\tnegative\n"),
        ("test", "text\tlabel\ngood\tpositive\n"),
    ] {
        let line = toml.lines().find(|line| line.starts_with(&format!("{split} = "))).unwrap().to_owned();
        std::fs::write(dir.path().join(format!("{split}.tsv")), rows).unwrap();
        toml = toml.replace(&line, &format!("{split} = \"{split}.tsv\""));
    }
    for (too_long, examples, dropped, cut) in [("drop", 2, 2, 0), ("cut", 4, 0, 2)] {
        let length = format!("max_length = 6\ntoo_long = \"{too_long}\"");
        std::fs::write(&file, toml.replace("max_length = 32", &length)).unwrap();
        let plan = text(&bench(dir.path(), &["plan", file.to_str().unwrap()]));
        let line = plan.lines().find(|line| line.starts_with("task sentiment, train: ")).expect(&plan);
        assert!(line.contains(&format!("4 rows, {examples} examples")), "{line}");
        assert!(line.ends_with(&format!("{dropped} rows left out, {cut} examples cut")), "{line}");
        let (records, said, code) = run(dir.path(), &file);
        assert_eq!(code, Some(0), "{said}");
        let split = &records[0].1.task.splits[0];
        let lost: u64 = split.dropped.values().sum();
        assert_eq!((split.rows, split.examples, lost, split.cut), (4, examples, dropped, cut));
        let told = if too_long == "drop" { "2 of 4 rows are left out" } else { "2 of 4 examples" };
        assert!(said.contains(told), "{said}");
    }
}

#[test]
fn dropout_acts_in_training_alone() {
    let dir = tempfile::tempdir().unwrap();
    let model = "/bert-tiny\"";
    let with = |rate: &str| {
        format!("{model}\nconfig = {{ hidden_dropout_prob = {rate}, attention_probs_dropout_prob = {rate} }}")
    };
    let run = |name: &str, rate: &str| {
        let (path, record) = done(dir.path(), name, &[(model, &with(rate)), (RATE, STILL)], LORA);
        let training = record.measured.unwrap().training;
        (losses(&path)[0].loss, training.validation_loss_before.unwrap(), training.validation_loss_after)
    };
    let (trained, before, after) = run("dropout", "0.5");
    let (trained_without, before_without, _) = run("none", "0.0");
    assert_eq!((before, before), (after, before_without));
    assert_ne!(trained, trained_without);
}

#[test]
fn a_partial_window_of_accumulation_is_the_mean_of_its_own_rows() {
    let dir = tempfile::tempdir().unwrap();
    // 20 rows: a window of two batches of 8, and one of 4
    let rows = ("take = 64", "take = 20");
    let dropout = WITHOUT_DROPOUT;
    let windows = [rows, dropout, (RATE, STILL), ("steps = 4", "epochs = 1\ngradient_accumulation = 2")];
    let (path, record) = done(dir.path(), "windows", &windows, LORA);
    let training = record.measured.unwrap().training;
    assert_eq!((training.steps, training.samples), (2, 20));
    // the order of an epoch decides which window is the partial one
    let window: Vec<f64> = losses(&path).iter().map(|step| step.loss).collect();
    let one =
        [rows, dropout, (RATE, STILL), ("steps = 4", "epochs = 1"), ("batch_size = 8", "batch_size = 20")];
    let (path, _) = done(dir.path(), "one", &one, LORA);
    let all = losses(&path)[0].loss * 20.0;
    let parts = [
        16.0 * window[0] + 4.0 * window[1],
        4.0 * window[0] + 16.0 * window[1],
        8.0 * window[0] + 12.0 * window[1],
        12.0 * window[0] + 8.0 * window[1],
    ];
    assert!(parts.iter().any(|sum| (sum - all).abs() < 1e-4), "{window:?} against {all}");
}

#[test]
fn clipping_shortens_a_step() {
    let dir = tempfile::tempdir().unwrap();
    // each step on the same rows, so that a loss moves as far as the weights do
    let run = |name: &str, limit: &str| {
        let training =
            format!("learning_rate = 1e-1\noptimizer = {{ name = \"sgd\" }}\nmax_grad_norm = {limit}");
        let changes = [
            WITHOUT_DROPOUT,
            ("take = 64", "take = 16"),
            ("batch_size = 8", "batch_size = 16"),
            (RATE, training.as_str()),
            ("steps = 4", "steps = 2"),
        ];
        let (path, _) = done(dir.path(), name, &changes, LORA);
        losses(&path).iter().map(|step| step.loss).collect::<Vec<_>>()
    };
    let (free, loose, tight) = (run("free", "1e9"), run("loose", "1e8"), run("tight", "1e-9"));
    assert_eq!(free, loose, "a limit that is not reached changes nothing");
    assert_eq!(free[0], tight[0]);
    assert!((tight[1] - tight[0]).abs() < 1e-6, "{tight:?}");
    assert!((free[1] - free[0]).abs() > 1e-3, "{free:?}");
}

/// An experiment on the tiny language model of `tools/reference/virtual_tokens.py`.
fn language_model(dir: &Path, name: &str, task: &str, methods: &str) -> PathBuf {
    let folder = root().join("tests/fixtures/virtual-tokens").canonicalize().unwrap();
    let folder = folder.display();
    let text = format!(
        r#"name = "{name}"
device = "cpu"
[model]
source = "{folder}/model"
[training]
steps = 10
batch_size = 64
learning_rate = 3e-2
[[task]]
name = "words"
kind = "causal-lm"
train = "{folder}/train.tsv"
validation = "{folder}/validation.tsv"
max_length = 12
{task}
{methods}"#
    );
    let path = dir.join(format!("{name}.toml"));
    std::fs::write(&path, text).unwrap();
    path
}

const PROMPT: &str = "[[method]]\nname = \"prompt-tuning\"\nnum_virtual_tokens = 3\n";

#[test]
fn prompt_tuning_has_pefts_numbers_with_first_tokens_and_without() {
    let expected: Value =
        serde_json::from_str(include_str!("fixtures/virtual-tokens/expected.json")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for (key, task) in [("without_first", ""), ("with_first", "score_first_token = true\n")] {
        let file = language_model(dir.path(), key, task, PROMPT);
        let (records, text, code) = run(dir.path(), &file);
        assert_eq!(code, Some(0), "{text}");
        let (path, record) = &records[0];
        let (expected, measured) = (&expected[key], record.measured.as_ref().unwrap());
        let near = |ours: f64, theirs: &Value, what: &str| {
            let theirs = theirs.as_f64().unwrap();
            assert!((ours / theirs - 1.0).abs() < 2e-5, "{key}: {what} is {ours}, not {theirs}");
        };
        near(measured.training.validation_loss_before.unwrap(), &expected["before"], "loss before");
        near(measured.training.validation_loss_after, &expected["after"], "loss after");
        near(measured.validation[0].value, &expected["perplexity"], "perplexity");
        for (step, theirs) in losses(path).iter().zip(expected["losses"].as_array().unwrap()) {
            near(step.loss, theirs, &format!("loss of step {}", step.step));
        }
        assert_eq!(counted(path).iter().sum::<f64>(), expected["tokens"].as_f64().unwrap(), "{key}");
    }
}

/// Tokens that were scored, of each row.
fn counted(record: &Path) -> Vec<f64> {
    let items: Vec<Prediction> = read_table(&predictions_path(record)).unwrap().unwrap();
    items.iter().map(|item| item.expected).collect()
}

#[test]
fn all_methods_score_the_same_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let methods = format!("{PROMPT}\n{LORA}\n[[method]]\nname = \"prefix-tuning\"\nnum_virtual_tokens = 3\n");
    // packed into rows, and a text a row, padded
    for (name, task) in [("packed", ""), ("padded", "packing = false\n")] {
        let (records, text, code) = run(dir.path(), &language_model(dir.path(), name, task, &methods));
        assert_eq!((code, records.len()), (Some(0), 3), "{text}");
        let tokens: Vec<Vec<f64>> = records.iter().map(|(path, _)| counted(path)).collect();
        assert!(tokens[0].len() > 2 && tokens.iter().all(|one| *one == tokens[0]), "{name}: {tokens:?}");
    }
    let file = language_model(dir.path(), "asked", "score_first_token = true\n", &methods);
    let (records, text, _) = run(dir.path(), &file);
    let tokens: Vec<Vec<f64>> = records.iter().map(|(path, _)| counted(path)).collect();
    let more: Vec<f64> = tokens[1].iter().map(|tokens| tokens + 1.0).collect();
    assert_eq!((&tokens[0], &tokens[2]), (&more, &tokens[1]), "{text}");
}
