//! `bench check`: its table, its JSON, its exit codes.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test may")]

mod common;

use common::{bench, root, text};
use serde_json::Value;

#[test]
fn a_table_has_a_line_for_each_check_and_the_code_is_0() {
    let output = bench(&root(), &["check", "lora", "bitfit", "--network", "bert"]);
    let text = text(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert_eq!(text.matches("  bert ").count(), 16, "{text}");
    assert_eq!(text.matches("9 checks passed, 0 failed").count(), 2, "{text}");
}

#[test]
fn settings_are_given_as_in_a_file_and_json_has_the_numbers() {
    let arguments = [
        "check",
        "lora",
        "--set",
        "rank=2",
        "--set",
        "target_modules=[\"q_proj\"]",
        "--network",
        "llama",
        "--json",
    ];
    let output = bench(&root(), &arguments);
    let reports: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(reports[0]["label"], "lora r=2 q");
    let checks = reports[0]["checks"].as_array().unwrap();
    let of = |promise: &str| checks.iter().find(|check| check["promise"] == promise).unwrap();
    // two layers, rank 2, 32 in and 32 out
    assert_eq!(of("count")["value"], 256.0);
    assert_eq!(of("identity")["value"], 0.0);
    assert!(checks.iter().all(|check| check["failure"].is_null()));
}

#[test]
fn what_cannot_be_checked_is_a_wrong_input_that_says_why() {
    for (arguments, expected) in [
        (&["check", "lara"][..], "did you mean `lora`?"),
        (&["check", "lora", "--set", "rnak=4"], "did you mean `rank`?"),
        (&["check", "lora", "--set", "rank"], "write KEY=VALUE"),
        (&["check", "lora", "ia3", "--set", "rank=4"], "one method alone"),
        (&["check", "lora", "--set", "rank=0"], "rank is 0"),
        (&["check"], "METHOD"),
    ] {
        let output = bench(&root(), arguments);
        let text = text(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(text.contains(expected), "{arguments:?}: {text}");
    }
}
