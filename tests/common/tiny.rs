//! Tiny models to be changed and written, and experiments on them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Output;

use peftlab_checkpoint::{Safetensors, TensorSource, write_safetensors};
use peftlab_record::Record;
use serde_json::{Value, json};

use crate::common::{bench, root, text};

type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// A tiny model, to be changed and written. Its dropout is off.
#[derive(Clone)]
pub(crate) struct Files {
    pub(crate) config: Value,
    pub(crate) tensors: Tensors,
    pub(crate) tokenizer: Value,
    pub(crate) tokenizer_config: Value,
}

impl Files {
    /// One of the bases of the parity bundles, with a tokenizer of one token a word.
    pub(crate) fn of(base: &str) -> Self {
        let folder = root().join("tests/fixtures/parity/base").join(base);
        let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
        let mut config: Value = serde_json::from_str(&text).unwrap();
        for key in ["hidden_dropout_prob", "attention_probs_dropout_prob"] {
            if config.get(key).is_some() {
                config[key] = 0.0.into();
            }
        }
        let file = Safetensors::open(&[folder.join("model.safetensors")]).unwrap();
        let tensor = |name: String| {
            let value = (file.info(&name).unwrap().shape, file.read_f32(&name).unwrap());
            (name, value)
        };
        let tensors = file.names().into_iter().map(tensor).collect();
        Self { config, tensors, tokenizer: tokenizer(131), tokenizer_config: json!({}) }
    }

    /// Takes out the tensors whose names begin so.
    pub(crate) fn without(mut self, prefix: &str) -> Self {
        let before = self.tensors.len();
        self.tensors.retain(|name, _| !name.starts_with(prefix));
        assert!(self.tensors.len() < before, "there is no {prefix}");
        self
    }

    pub(crate) fn with(mut self, key: &str, value: Value) -> Self {
        self.config[key] = value;
        self
    }

    /// The rows of a tensor, in another order, or some of them.
    pub(crate) fn rows(mut self, name: &str, rows: &[usize]) -> Self {
        let (shape, values) = self.tensors.get_mut(name).unwrap();
        let width = values.len() / shape[0];
        *values = rows.iter().flat_map(|row| values[row * width..(row + 1) * width].to_vec()).collect();
        shape[0] = rows.len();
        self
    }

    /// More rows at the end of a tensor, all of this value.
    pub(crate) fn longer(mut self, name: &str, rows: usize, value: f32) -> Self {
        let (shape, values) = self.tensors.get_mut(name).unwrap();
        values.resize(values.len() / shape[0] * (shape[0] + rows), value);
        shape[0] += rows;
        self
    }

    pub(crate) fn write(&self, folder: &Path) {
        std::fs::create_dir_all(folder).unwrap();
        let json = |name: &str, value: &Value| std::fs::write(folder.join(name), value.to_string()).unwrap();
        json("config.json", &self.config);
        json("tokenizer.json", &self.tokenizer);
        json("tokenizer_config.json", &self.tokenizer_config);
        self.write_tensors(&folder.join("model.safetensors"), |_| true);
    }

    pub(crate) fn write_tensors(&self, path: &Path, which: impl Fn(&str) -> bool) {
        let chosen = self.tensors.iter().filter(|(name, _)| which(name));
        let list: Vec<_> =
            chosen.map(|(name, (shape, values))| (name.clone(), shape.clone(), values.clone())).collect();
        write_safetensors(path, &list).unwrap();
    }
}

/// Words `w4`, `w5`, .. up to `size` tokens.
pub(crate) fn tokenizer(size: usize) -> Value {
    let special = ["[UNK]", "[PAD]", "[CLS]", "[SEP]"];
    let words = special.iter().map(|word| (*word).to_owned()).chain((4..size).map(|id| format!("w{id}")));
    let vocab: BTreeMap<String, usize> = words.zip(0..).collect();
    json!({
        "version": "1.0", "added_tokens": [], "normalizer": null, "truncation": null, "padding": null,
        "pre_tokenizer": { "type": "WhitespaceSplit" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]" },
    })
}

/// Texts of up to `longest` words, a text for each of the numbers `rows`; `label` gives a row's.
pub(crate) fn rows(rows: std::ops::Range<usize>, longest: usize, label: impl Fn(usize) -> String) -> String {
    let word = |row: usize, at: usize| format!("w{}", 4 + (row * 31 + at * at * 7 + at) % 127);
    let line = |row: usize| {
        let words: Vec<String> = (0..longest - row % 3).map(|at| word(row, at)).collect();
        format!("{}\t{}\n", words.join(" "), label(row))
    };
    std::iter::once("text\tlabel\n".to_owned()).chain(rows.map(line)).collect()
}

/// An experiment in a folder of its own.
pub(crate) struct Case {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) task: String,
    pub(crate) model: String,
    pub(crate) method: String,
    pub(crate) seed: u64,
    pub(crate) steps: usize,
}

impl Case {
    /// With `labels` a classification, without a language model's task.
    pub(crate) fn of(labels: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let label = |row: usize| labels.get(row % labels.len().max(1)).unwrap_or(&"").to_string();
        for (name, numbers) in [("train", 0..6), ("validation", 6..15)] {
            std::fs::write(dir.path().join(name).with_extension("tsv"), rows(numbers, 70, label)).unwrap();
        }
        let task = match labels {
            [] => "kind = \"causal-lm\"\npacking = false\nmax_length = 32".to_owned(),
            labels => format!("kind = \"classification\"\nlabels = {labels:?}\nmax_length = 32"),
        };
        let method = "name = \"lora\"\nrank = 2".to_owned();
        Self { dir, task, model: String::new(), method, seed: 0, steps: 1 }
    }

    pub(crate) fn toml(&self) -> String {
        let Self { task, model, method, seed, steps, .. } = self;
        format!(
            "name = \"case\"\ndevice = \"cpu\"\nseeds = [{seed}]\n[model]\nsource = \"model\"\n{model}\n[training]\n\
             steps = {steps}\nbatch_size = 4\nlearning_rate = 1e-2\n[[task]]\nname = \"t\"\ntrain = \"train.tsv\"\n\
             validation = \"validation.tsv\"\n{task}\n[[method]]\n{method}\n"
        )
    }

    /// Runs it on `files`; all that is said, and the record, if it went well.
    pub(crate) fn run(&self, files: &Files) -> Result<(String, Record), String> {
        files.write(&self.dir.path().join("model"));
        self.run_as_it_is()
    }

    pub(crate) fn run_as_it_is(&self) -> Result<(String, Record), String> {
        let at = self.dir.path();
        std::fs::write(at.join("case.toml"), self.toml()).unwrap();
        let _ = std::fs::remove_dir_all(at.join("out"));
        let output = bench(at, &["run", "case.toml", "--out", "out"]);
        let said = text(&output);
        assert!(!said.contains("panicked"), "{said}");
        match output.status.code() {
            Some(0) => Ok((said, Record::read_folder(&at.join("out/runs")).unwrap().remove(0).1)),
            code => {
                assert_eq!(code, Some(2), "{said}");
                Err(said)
            }
        }
    }

    /// The file of the run's record.
    pub(crate) fn record_path(&self) -> PathBuf {
        let runs = std::fs::read_dir(self.dir.path().join("out/runs")).unwrap();
        runs.map(|entry| entry.unwrap().path()).find(|path| path.extension().unwrap() == "json").unwrap()
    }

    /// Exports the run's adapter into `adapter`; all that is said, where it went well.
    pub(crate) fn export(&self) -> Result<String, String> {
        let record = self.record_path();
        let record = record.to_str().unwrap();
        said(&bench(self.dir.path(), &["export", record, "--experiment", "case.toml", "--out", "adapter"]))
    }

    /// Scores the adapter in `adapter`; all that is said, where it went well.
    pub(crate) fn import(&self) -> Result<String, String> {
        std::fs::write(self.dir.path().join("case.toml"), self.toml()).unwrap();
        said(&bench(self.dir.path(), &["import", "adapter", "--experiment", "case.toml"]))
    }

    /// The loss before training, and all that is said.
    pub(crate) fn loss(&self, files: &Files) -> (f64, String) {
        let (said, record) = self.run(files).unwrap();
        (record.measured.unwrap().training.validation_loss_before.unwrap(), said)
    }

    /// It must be refused with all of `expected` in the message.
    pub(crate) fn refused(&self, files: &Files, expected: &[&str]) {
        self.run(files).expect_err("it was not refused").must_have(expected);
    }
}

/// What is said by a command that ended well, or that refused its input.
fn said(output: &Output) -> Result<String, String> {
    match output.status.code() {
        Some(0) => Ok(text(output)),
        code => {
            assert_eq!(code, Some(2), "{}", text(output));
            Err(text(output))
        }
    }
}

pub(crate) trait MustHave {
    fn must_have(&self, parts: &[&str]);
}

impl MustHave for String {
    fn must_have(&self, parts: &[&str]) {
        for part in parts {
            assert!(self.contains(part), "`{part}` is not in: {self}");
        }
    }
}
