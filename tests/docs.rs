//! The pages that are made from the program: that they are those that it writes, and that messages lead to them.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test may")]

mod common;

use std::path::{Path, PathBuf};

use common::{bench, experiment, root, text};
use serde_json::Value;

const REMEDY: &str = "write it anew with `cargo run --release -- docs --write .`";

/// Everything that `bench docs --write` writes, in a folder of its own.
fn written() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(root().join("README.md"), dir.path().join("README.md")).unwrap();
    let output = bench(dir.path(), &["docs", "--write", "."]);
    assert!(output.status.success(), "{}", text(&output));
    dir
}

/// The files below `folder`, from there.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => found.push(path.strip_prefix(folder).unwrap().to_owned()),
            }
        }
    }
    found.sort();
    found
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn page(arguments: &[&str]) -> String {
    let output = bench(&root(), &[&["docs"], arguments].concat());
    assert!(output.status.success(), "{}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn pages_are_those_that_the_program_writes() {
    let dir = written();
    let files = files(dir.path());
    assert!(files.len() > 30, "{files:?}");
    for file in &files {
        let same = read(&dir.path().join(file)) == read(&root().join(file));
        assert!(same, "{} is not what the program writes; {REMEDY}", file.display());
    }
    for entry in std::fs::read_dir(root().join("docs/methods")).unwrap() {
        let file = Path::new("docs/methods").join(entry.unwrap().file_name());
        assert!(files.contains(&file), "{} is the page of no method; delete it", file.display());
    }
}

#[test]
fn the_readme_has_every_method() {
    let readme = read(&written().path().join("README.md"));
    let index = page(&["methods"]);
    let names: Vec<&str> =
        index.lines().filter_map(|line| Some(line.split_once("](")?.1.split_once(".md)")?.0)).collect();
    assert!(names.len() > 30, "{names:?}");
    for name in names {
        assert!(readme.contains(&format!("](docs/methods/{name}.md)")), "{name}");
    }
}

#[test]
fn every_page_is_in_the_index() {
    let index = read(&root().join("docs/README.md"));
    for file in files(&root().join("docs")) {
        let file = file.to_str().unwrap();
        let listed =
            index.contains(&format!("({file})")) || file.starts_with("methods/") || file == "README.md";
        assert!(listed, "docs/README.md has no link to {file}");
    }
}

#[test]
fn links_within_a_page_lead_to_a_heading() {
    for file in ["experiment.md", "record.md"] {
        let page = read(&root().join("docs").join(file));
        let headings: Vec<String> = page
            .lines()
            .filter(|line| line.starts_with('#'))
            .map(|line| {
                let kept = line.trim_start_matches('#').trim().to_lowercase();
                kept.chars()
                    .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
                    .collect::<String>()
                    .replace(' ', "-")
            })
            .collect();
        let links: Vec<&str> =
            page.split("](#").skip(1).map(|rest| rest.split(')').next().unwrap()).collect();
        assert!(links.len() >= 5, "{file}: {links:?}");
        for link in links {
            assert!(
                headings.iter().any(|heading| heading == link),
                "{file}: #{link} is none of {headings:?}"
            );
        }
    }
}

#[test]
fn every_key_has_a_meaning() {
    for name in ["experiment", "record"] {
        for line in page(&[name]).lines().filter(|line| line.trim_start().starts_with("- ")) {
            let (_, meaning) = line.split_once(": ").unwrap_or((line, ""));
            assert!(meaning.len() > 5 && meaning.ends_with('.'), "{name}: {line}");
        }
    }
}

/// Each documented key of a table is one that the program reads: it complains of the value, or not at all.
#[test]
fn every_key_of_the_page_is_read() {
    let schema: Value = serde_json::from_str(&page(&["schema"])).unwrap();
    let definitions = &schema["definitions"];
    let methods = definitions["MethodTable"]["oneOf"].as_array().unwrap();
    let lora = methods.iter().find(|method| method["properties"]["name"]["const"] == "lora").unwrap();
    let dir = tempfile::tempdir().unwrap();
    for (table, schema) in [
        ("[model]\nsource = \"x\"", &definitions["ModelSpec"]),
        ("[training]", &definitions["TrainingSpec"]),
        ("[search]", &definitions["SearchSpec"]),
        ("[[task]]", &definitions["TaskSpec"]),
        ("[[method]]\nname = \"lora\"", lora),
    ] {
        let unknown = |key: &str| {
            let model = if table.starts_with("[model]") { "" } else { "[model]\nsource = \"x\"\n" };
            let file = dir.path().join("x.toml");
            std::fs::write(&file, format!("name = \"x\"\n{model}{table}\n{key} = {{ none = 1 }}\n")).unwrap();
            let message = text(&bench(dir.path(), &["plan", file.to_str().unwrap()]));
            message.contains(&format!("no key `{key}`")) || message.contains(&format!("no setting `{key}`"))
        };
        assert!(unknown("nonsense"), "{table}");
        for key in schema["properties"].as_object().unwrap().keys() {
            assert!(!unknown(key), "{table}: {key}");
        }
    }
}

#[test]
fn a_wrong_key_leads_to_its_page() {
    let dir = tempfile::tempdir().unwrap();
    let message = |from: &str, to: &str| {
        let file = experiment(dir.path(), "wrong", "[0]", 2, "[[method]]\nname = \"lora\"\nrank = 4\n");
        std::fs::write(&file, read(&file).replace(from, to)).unwrap();
        let output = bench(dir.path(), &["plan", file.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
        text(&output)
    };
    for (from, to, page) in [
        ("seeds", "sedes", "see `bench docs experiment` (docs/experiment.md#the-file)"),
        ("batch_size", "bach_size", "see `bench docs experiment` (docs/experiment.md#training)"),
        ("max_length", "max_lenght", "see `bench docs experiment` (docs/experiment.md#task)"),
        ("rank = 4", "rnak = 4", "see `bench docs methods lora`"),
        (
            "rank = 4",
            "training = { epohcs = 1 }",
            "see `bench docs experiment` (docs/experiment.md#training)",
        ),
    ] {
        let message = message(from, to);
        assert!(message.contains(page), "{message}");
    }
    // what is wrong with TOML itself is not there
    assert!(!message("seeds = [0]", "seeds = [0").contains("bench docs"));
    assert!(page(&["methods", "lora"]).contains("| `rank` | 8 |"));
    let output = bench(dir.path(), &["docs", "methods", "lroa"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).contains("did you mean `lora`"), "{}", text(&output));
}
