//! The tables in `results/` are those that their records give.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test may")]

mod common;

use std::path::Path;

use common::{bench, root, text};

/// Results that are kept with their records.
const KEPT: [&str; 1] = ["lora-family"];

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy(&path, &target),
            false => drop(std::fs::copy(&path, target).unwrap()),
        }
    }
}

#[test]
fn every_table_that_is_kept_is_drawn_again_from_its_records() {
    for name in KEPT {
        let folder = root().join("results").join(name);
        let dir = tempfile::tempdir().unwrap();
        let again = dir.path().join("again");
        copy(&folder, &again);
        let tables = ["table.md", "table.csv", "table.tex"];
        for table in tables {
            std::fs::remove_file(again.join(table)).unwrap();
        }
        let drawn = bench(dir.path(), &["report", "again"]);
        assert_eq!(drawn.status.code(), Some(0), "{}", text(&drawn));
        for table in tables {
            let read = |folder: &Path| std::fs::read_to_string(folder.join(table)).unwrap();
            assert_eq!(read(&again), read(&folder), "{}: {table} is another", folder.display());
        }
    }
}
