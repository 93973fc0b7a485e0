//! A program without the counting allocator: a program of its own, for an allocator is the whole program's.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test may")]

mod common;

use std::process::{Command, ExitCode};

use common::{bench, root, text};
use peftlab_peft::Registry;

/// What such a program is told.
const WARNING: &str = "warning: this program does not count what it allocates";

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == "run") {
        return peftlab_bench::main(&Registry::standard());
    }
    let arguments = ["run", "no-such-file.toml"];
    let without = Command::new(std::env::current_exe().unwrap()).args(arguments).output().unwrap();
    assert!(text(&without).contains(WARNING), "{}", text(&without));
    assert!(text(&without).contains("peftlab::main!"), "{}", text(&without));
    let with = bench(&root(), &arguments);
    assert!(!text(&with).contains(WARNING), "{}", text(&with));
    assert_eq!((without.status.code(), with.status.code()), (Some(2), Some(2)));
    ExitCode::SUCCESS
}
