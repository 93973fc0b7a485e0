//! Parquet files of several writers (`tools/reference/data_files.py`) give the same rows.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test may")]

mod common;

use std::path::Path;

use common::encoder;
use peftlab_tasks::{Target, TaskData, TaskError, TaskSpec};

/// The file as training set, beside a validation set of text.
fn load(file: &str, keys: &str) -> Result<TaskData, TaskError> {
    let dir = tempfile::tempdir().unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    std::fs::copy(fixtures.join(format!("{file}.parquet")), dir.path().join("t.parquet")).unwrap();
    let row = r#"{"text": "yes", "label": 0, "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "yes"}]}"#;
    std::fs::write(dir.path().join("v.jsonl"), row).unwrap();
    let task = format!("name = \"x\"\ntrain = \"t.parquet\"\nvalidation = \"v.jsonl\"\n{keys}");
    toml::from_str::<TaskSpec>(&task).unwrap().load(dir.path(), &encoder())
}

const CLASSES: &str = "kind = \"classification\"";
const CHAT: &str = "kind = \"instruction\"\ntemplate = \"chat\"\ncolumns = { messages = \"messages\" }";

#[test]
fn every_writer_gives_the_same_rows() {
    let files = [
        "arrow-none",
        "arrow-snappy",
        "arrow-gzip",
        "arrow-zstd",
        "arrow-lz4",
        "arrow-large",
        "arrow-unsigned",
        "arrow-decimal",
        "arrow-dictionary",
        "spark",
        "pandas",
        "polars",
        "duckdb",
    ];
    let chat = load(files[0], CHAT).unwrap().train;
    for file in files {
        let data = load(file, CLASSES).unwrap_or_else(|error| panic!("{file}: {error}"));
        let ids: Vec<&[u32]> = data.train.examples.iter().map(|example| &example.input_ids[..]).collect();
        assert_eq!(ids, [&[2, 3, 5][..], &[2, 4, 5], &[3, 7], &[4, 7]], "{file}");
        let classes: Vec<&Target> = data.train.examples.iter().map(|example| &example.target).collect();
        assert_eq!(classes, [1, 0, 1, 0].map(Target::Class).iter().collect::<Vec<_>>(), "{file}");
        let own = load(file, CHAT).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert_eq!(own.train, chat, "{file}");
    }
}

#[test]
fn booleans_are_classes() {
    let data = load("arrow-boolean", CLASSES).unwrap();
    assert_eq!(data.classes, ["false", "true"]);
    assert_eq!(data.train.examples[0].target, Target::Class(1));
    let error = load("arrow-boolean", &format!("{CLASSES}\nlabels = [\"no\", \"yes\"]")).unwrap_err();
    assert!(error.to_string().contains("the label true is out of range"), "{error}");
}

#[test]
fn what_cannot_be_read_is_named() {
    let refused = |file: &str, keys: &str, parts: &[&str]| {
        let error = load(file, keys).unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    };
    refused("arrow-brotli", CLASSES, &["`text`", "BROTLI", "zstd"]);
    refused("arrow-null", CLASSES, &["row 2", "`label` holds no label"]);
    refused(
        "arrow-none",
        "kind = \"causal-lm\"\ncolumns = { text = \"when\" }",
        &["row 1", "`when`", "a date or time"],
    );
    refused("arrow-none", "kind = \"causal-lm\"\ncolumns = { text = \"blob\" }", &["`blob`", "no UTF-8"]);
    refused(
        "arrow-none",
        "kind = \"causal-lm\"\ncolumns = { text = \"sentence\" }",
        &["no column `sentence`", "text, label"],
    );
}

#[test]
fn damaged_files_are_refused_or_read_and_never_panic() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("v.jsonl"), r#"{"text": "yes", "label": 0}"#).unwrap();
    let task = format!("name = \"x\"\ntrain = \"t.parquet\"\nvalidation = \"v.jsonl\"\n{CLASSES}");
    let task = toml::from_str::<TaskSpec>(&task).unwrap();
    for file in ["polars", "duckdb", "spark"] {
        let bytes = std::fs::read(fixtures.join(format!("{file}.parquet"))).unwrap();
        for at in (0..bytes.len()).step_by(5) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0xff;
            std::fs::write(dir.path().join("t.parquet"), &damaged).unwrap();
            let _ = task.load(dir.path(), &encoder());
        }
    }
}
