//! What the tests of the program share.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The top of the project.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Runs `bench` with `arguments` in `dir`.
pub(crate) fn bench(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bench")).args(arguments).current_dir(dir).output().unwrap()
}

/// Both streams as text.
pub(crate) fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A small experiment on the bundled model and data, written into `dir`; `methods` are its `[[method]]` tables.
pub(crate) fn experiment(dir: &Path, name: &str, seeds: &str, steps: usize, methods: &str) -> PathBuf {
    let assets = root().join("assets").canonicalize().unwrap();
    let assets = assets.display();
    let text = format!(
        r#"name = "{name}"
device = "cpu"
seeds = {seeds}

[model]
source = "{assets}/bert-tiny"

[training]
steps = {steps}
batch_size = 8
learning_rate = 1e-3

[[task]]
name = "sentiment"
kind = "classification"
train = {{ path = "{assets}/snippets/sentiment-train.tsv", take = 64 }}
validation = {{ path = "{assets}/snippets/sentiment-validation.tsv", take = 32 }}
test = {{ path = "{assets}/snippets/sentiment-test.tsv", take = 32 }}
labels = ["negative", "positive"]
max_length = 32

{methods}
"#
    );
    let path = dir.join(format!("{name}.toml"));
    std::fs::write(&path, text).unwrap();
    path
}
