//! The commands that a user works with all day, on a small experiment.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test may")]

mod common;

use std::path::{Path, PathBuf};

use common::{bench, experiment, text};

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
