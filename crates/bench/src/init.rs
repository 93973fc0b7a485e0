//! `bench init`: an experiment file for a folder of data, to begin with.

mod data;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use peftlab_harness::plan::Plan;
use peftlab_peft::Registry;
use peftlab_tasks::TaskKind;

use crate::{Outcome, print, say};
use data::{Found, Split};

/// Share of the rows to learn from where the data have no validation set of their own.
const TRAIN_SHARE: f64 = 0.9;

pub(crate) fn run(
    dir: &Path,
    model: Option<&str>,
    out: Option<&Path>,
    registry: &Registry,
) -> Result<Outcome> {
    let whole = dir.canonicalize().with_context(|| format!("{}: cannot be read", dir.display()))?;
    let name = plain(&whole.file_name().unwrap_or_default().to_string_lossy());
    let file = out.map_or_else(|| PathBuf::from(format!("{name}.toml")), Path::to_owned);
    if file.exists() {
        bail!("{}: is there already, and is not written over; choose another with --out", file.display());
    }
    let found = Found::new(&whole)?;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = folder.canonicalize().with_context(|| format!("{}: no such folder", folder.display()))?;
    let text = text(&name, &found, model, &folder);
    let opened = std::fs::OpenOptions::new().write(true).create_new(true).open(&file);
    let written = opened.and_then(|mut opened| opened.write_all(text.as_bytes()));
    written.with_context(|| format!("{}: cannot be written", file.display()))?;
    print(format!("{}: {} with {}", file.display(), found.kind.name(), found.because));
    if model.is_none() {
        print("fill in [model] source; then `bench plan` shows what a run would do");
        return Ok(Outcome::Done);
    }
    match Plan::outline(&file, registry) {
        Ok(_) => print(format!(
            "`bench plan {0}` shows what a run would do, `bench run {0}` runs it",
            file.display()
        )),
        Err(error) => say(format!("warning: it needs a hand before it can be run: {error}")),
    }
    Ok(Outcome::Done)
}

/// What of a name may stand in an experiment's.
fn plain(text: &str) -> String {
    let kept: String =
        text.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect();
    let kept = kept.trim_matches(['-', '.']);
    if kept.is_empty() { "experiment".to_owned() } else { kept.to_owned() }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// `path` as a file in `folder` names it.
fn from(path: &Path, folder: &Path) -> String {
    quoted(&path.strip_prefix(folder).unwrap_or(path).to_string_lossy())
}

fn text(name: &str, found: &Found, model: Option<&str>, folder: &Path) -> String {
    let mut text = format!(
        "# Every key: `bench docs experiment`. What a run would do: `bench plan`.\n\
         name = {}\ndevice = \"auto\"  # cpu, cuda:0, or auto: the first GPU where there is one\n\
         seeds = [0, 1, 2]\n# jobs = 2       # runs at a time; they share the machine's threads\n\n[model]\n",
        quoted(name)
    );
    match model {
        Some(model) => {
            let there = Path::new(model).canonicalize().ok();
            let source = there.map_or_else(|| quoted(model), |path| from(&path, folder));
            let _ = writeln!(text, "source = {source}");
        }
        None => text.push_str(
            "# fill in: a folder in the Hub's layout, a GGUF file, or hub:owner/name@revision\n# source = \"..\"\n",
        ),
    }
    text.push_str(
        "\n[training]\nepochs = 3\nbatch_size = 16\nlearning_rate = 1e-3\nwarmup_ratio = 0.06\n\n\
         # has every method's rate chosen on validation, in place of those above and below\n# [search]\n\
         # learning_rate = [3e-4, 1e-3, 3e-3]\n\n",
    );
    text.push_str(&task(name, found, folder));
    text.push_str(methods(found.kind));
    text
}

fn task(name: &str, found: &Found, folder: &Path) -> String {
    let mut text = format!(
        "[[task]]\nname = {}\n# from {}\nkind = {}\n",
        quoted(name),
        found.because,
        quoted(found.kind.name())
    );
    let files = |split: &Split| {
        let paths: Vec<String> = split.files.iter().map(|path| from(path, folder)).collect();
        if paths.len() == 1 { paths[0].clone() } else { format!("[{}]", paths.join(", ")) }
    };
    let train = files(&found.train);
    match &found.validation {
        Some(validation) => {
            let _ = write!(text, "train = {train}\nvalidation = {}\n", files(validation));
        }
        None if found.train.files.len() == 1 && found.train_rows > 1 => {
            let first = ((found.train_rows as f64 * TRAIN_SHARE) as usize).clamp(1, found.train_rows - 1);
            let _ = write!(
                text,
                "# there is no file for validation, so the last rows of the other are held back: are rows in any order?\n\
                 train = {{ path = {train}, take = {first} }}\nvalidation = {{ path = {train}, skip = {first} }}\n"
            );
        }
        None => {
            let _ = write!(text, "train = {train}\n# fill in: rows to choose by\n# validation = \"..\"\n");
        }
    }
    match &found.test {
        Some(test) => {
            let _ = writeln!(text, "test = {}", files(test));
        }
        None => text
            .push_str("# no file for a test was found that has what is to be predicted\n# test = \"..\"\n"),
    }
    for other in &found.left_out {
        let _ = writeln!(text, "# not used: {other}");
    }
    if !found.columns.is_empty() {
        let columns = found.columns.iter().map(|(key, name)| format!("{key} = {}", quoted(name)));
        let _ = writeln!(text, "columns = {{ {} }}", columns.collect::<Vec<_>>().join(", "));
    }
    if let Some(labels) = &found.labels {
        let labels: Vec<String> = labels.iter().map(|label| quoted(label)).collect();
        let _ = writeln!(text, "labels = [{}]  # the first is class 0", labels.join(", "));
    }
    if found.chat {
        text.push_str("template = \"chat\"\n");
    }
    text + "max_length = 128  # tokens; longer texts are cut, and counted by `bench plan`\n\n"
}

/// Rows to begin with: what costs least, what is usual, and what all else is held against.
fn methods(kind: TaskKind) -> &'static str {
    match kind {
        TaskKind::Classification | TaskKind::Regression => {
            "[[method]]\nname = \"head\"  # the floor: nothing but the task's head is trained\n\
             training = { learning_rate = 1e-2 }\n\n[[method]]\nname = \"bitfit\"\n\n[[method]]\nname = \"lora\"\n\
             rank = 8\nalpha = 16\n\n[[method]]\nname = \"full\"  # what the others are held against\n\
             training = { learning_rate = 5e-5 }\n"
        }
        TaskKind::CausalLm | TaskKind::Instruction => {
            "[[method]]\nname = \"ia3\"\n\n[[method]]\nname = \"lora\"\nrank = 8\nalpha = 16\n\n[[method]]\n\
             name = \"full\"  # what the others are held against\ntraining = { learning_rate = 5e-5 }\n"
        }
    }
}
