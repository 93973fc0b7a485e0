//! The readers: each target calls what the program calls.

use std::path::Path;

use peftlab_checkpoint::{load_tokenizer, resolve};
use peftlab_harness::plan::{Cell, Plan};
use peftlab_harness::{exchange, run};
use peftlab_peft::Registry;
use peftlab_record::DeviceReport;
use peftlab_tasks::{Encoder, EndOfText, TaskSpec};
use serde_json::{Value, json};

use crate::corpus::{Seed, corpora, entries, root};

type Run = Box<dyn Fn(&Seed) -> Result<(), String>>;

/// A reader of untrusted files.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    /// Inputs that are tried where nobody asks for more.
    pub(crate) inputs: usize,
    /// Bytes that an input may cost besides those for each of its own.
    pub(crate) allowed: usize,
    /// Whether a file of an input is changed.
    pub(crate) changes: fn(&str) -> bool,
    pub(crate) seeds: fn() -> Vec<Seed>,
    /// What tries an input that lies in `input` of a folder, with `base` beside it.
    pub(crate) prepare: fn(&Path) -> Run,
}

fn ends(name: &str, endings: &[&str]) -> bool {
    let plain = name.strip_suffix(".gz").unwrap_or(name);
    endings.iter().any(|ending| plain.ends_with(ending))
}

/// Seeds of the corpus, and those in folders of fixtures.
fn seeds(target: &str, fixtures: &[&str], ending: &str) -> Vec<Seed> {
    let fixtures = fixtures.iter().flat_map(|folder| entries(&root().join(folder)));
    let own = entries(&corpora().join(target));
    let fitting = fixtures.filter(|path| path.to_string_lossy().ends_with(ending));
    own.into_iter().chain(fitting).map(|path| Seed::read(&path)).collect()
}

/// What a small network and its training may cost.
const NETWORK: usize = 256 << 20;

/// Every target.
pub(crate) const TARGETS: [Target; 10] = [
    Target {
        name: "experiment",
        inputs: 400,
        allowed: NETWORK,
        changes: |name| ends(name, &[".toml"]),
        seeds: experiments,
        prepare: |folder| experiment(folder),
    },
    Target {
        name: "config",
        inputs: 150,
        allowed: NETWORK,
        changes: |name| ends(name, &["config.json"]),
        seeds: || seeds("config", &[], ""),
        prepare: |folder| experiment(folder),
    },
    Target {
        name: "tokenizer",
        inputs: 300,
        allowed: NETWORK,
        changes: |name| ends(name, &[".json"]),
        seeds: || seeds("tokenizer", &[], ""),
        prepare: |folder| experiment(folder),
    },
    Target {
        name: "safetensors",
        inputs: 600,
        allowed: NETWORK,
        changes: |name| ends(name, &[".safetensors", ".index.json"]),
        seeds: || seeds("safetensors", &[], ""),
        prepare: |folder| experiment(folder),
    },
    Target {
        name: "gguf",
        inputs: 1000,
        allowed: 4 << 20,
        changes: |name| ends(name, &[".gguf"]),
        seeds: || seeds("gguf", &["crates/checkpoint/tests/gguf", "tests/fixtures/gguf"], ".gguf"),
        prepare: gguf,
    },
    Target {
        name: "table",
        inputs: 600,
        allowed: 16 << 20,
        changes: |name| ends(name, &[".csv", ".tsv"]),
        seeds: || seeds("table", &[], ""),
        prepare: data,
    },
    Target {
        name: "json",
        inputs: 600,
        allowed: 16 << 20,
        changes: |name| ends(name, &[".json", ".jsonl", ".ndjson"]),
        seeds: || seeds("json", &[], ""),
        prepare: data,
    },
    Target {
        name: "parquet",
        inputs: 1000,
        allowed: 160 << 20,
        changes: |name| ends(name, &[".parquet"]),
        seeds: || seeds("parquet", &["crates/tasks/tests/fixtures", "tests/fixtures/data"], ".parquet"),
        prepare: data,
    },
    Target {
        name: "adapter",
        inputs: 400,
        allowed: NETWORK,
        changes: |name| ends(name, &["adapter_config.json", ".safetensors"]),
        seeds: adapters,
        prepare: adapter,
    },
    Target {
        name: "record",
        inputs: 150,
        // pictures are drawn beside each other, in pixels of print size
        allowed: 192 << 20,
        changes: |name| ends(name, &[".json", ".csv"]),
        seeds: || seeds("record", &[], ""),
        prepare: record,
    },
];

/// Weights of a network that is small enough to be trained here, and tokens of its data.
const SMALL: u64 = 1 << 18;

/// Each file of the corpus, and each of its methods alone: one mistake has a whole file refused.
fn experiments() -> Vec<Seed> {
    let whole = seeds("experiment", &[], "");
    let mut all = whole.clone();
    for seed in &whole {
        let (path, bytes) = &seed.files[0];
        let text = String::from_utf8_lossy(bytes);
        let mut parts = text.split("[[method]]");
        let head = parts.next().unwrap_or_default();
        let one = |method| vec![(path.clone(), format!("{head}[[method]]{method}").into_bytes())];
        all.extend(parts.map(|method| Seed { name: seed.name.clone(), files: one(method) }));
    }
    all
}

/// Plans the experiment of an input, and runs its cells where they are small.
fn experiment(folder: &Path) -> Run {
    let folder = folder.to_owned();
    let registry = Registry::standard();
    Box::new(move |seed| {
        let named =
            seed.files.iter().find(|(name, _)| name.extension().is_some_and(|ending| ending == "toml"));
        let (file, _) = named.expect("an experiment");
        let plan = Plan::outline(&folder.join("input").join(file), &registry).map_err(text)?;
        plan.all_warnings();
        let mut cells: Vec<&Cell> = plan.cells.iter().chain(&plan.trials).collect();
        // the same for each seed
        cells.retain(|cell| cell.trial || cell.seed == plan.experiment.seeds[0]);
        cells.iter().take(12).try_for_each(|cell| one_cell(&plan, cell, &folder.join("out")))
    })
}

fn one_cell(plan: &Plan, cell: &Cell, out: &Path) -> Result<(), String> {
    let data = &plan.data[cell.task_index];
    let count = &cell.parameters;
    let weights = count.base_total.saturating_add(count.stored).saturating_add(count.frozen_buffers);
    let splits = [Some(&data.train), Some(&data.validation), data.test.as_ref()];
    let examples = splits.into_iter().flatten().flat_map(|split| &split.examples);
    let tokens: usize = examples.map(|example| example.input_ids.len()).sum();
    let small = weights <= SMALL
        && tokens <= 1 << 12
        && plan.heads[cell.task_index].outline.dimensions.layers <= 8
        && cell.training.gradient_accumulation <= 8
        && largest(&cell.settings["method"]) <= 256;
    if !small && weights < TOO_LARGE {
        return Ok(());
    }
    let mut cell = cell.clone();
    (cell.training.steps, cell.training.epochs) = (Some(1), None);
    if cell.training.learning_rate.is_nan() {
        cell.training.learning_rate = 1e-3;
    }
    let _ = std::fs::create_dir_all(out.join(cell.folder()));
    match run::run_cell(plan, &cell, "", out, &mut |_| ()) {
        Ok(_) if !small => panic!("a network of {weights} weights was built"),
        // numbers that end are a failed run, and its record says why
        Ok(_) | Err(peftlab_harness::HarnessError::Failed(_)) => Ok(()),
        Err(error) => Err(text(error)),
    }
}

/// The largest number of a method's settings: what a run computes takes as long as it is asked to.
fn largest(settings: &Value) -> u64 {
    match settings {
        Value::Array(values) => values.iter().map(largest).max().unwrap_or(0),
        Value::Object(values) => values.values().map(largest).max().unwrap_or(0),
        value => value.as_u64().unwrap_or(0),
    }
}

/// Weights that no machine has room for.
const TOO_LARGE: u64 = 1 << 42;

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Opens a GGUF file as a model, and reads all of it.
fn gguf(folder: &Path) -> Run {
    let input = folder.join("input");
    Box::new(move |seed| {
        let (name, _) = &seed.files[0];
        if name.to_string_lossy().contains("-of-00002") {
            let gguf = root().join("crates/checkpoint/tests/gguf");
            for part in ["tiny-00001-of-00002.gguf", "tiny-00002-of-00002.gguf"] {
                if !input.join(part).exists() {
                    std::fs::copy(gguf.join(part), input.join(part)).map_err(text)?;
                }
            }
        }
        let files = resolve(&name.to_string_lossy(), &input).map_err(text)?;
        for tensor in files.weights.names() {
            files.weights.read_f32(&tensor).map_err(text)?;
        }
        if let Some(tokenizer) = &files.tokenizer {
            tokenizer
                .encode("a good film, \u{1F600}")
                .map_err(|error| format!("{}: {error}", name.display()))?;
        }
        Ok(())
    })
}

/// Loads a data file as every kind of task.
fn data(folder: &Path) -> Run {
    let (tokenizer, _) = load_tokenizer(&folder.join("base/llama/tokenizer.json")).unwrap();
    let encoder =
        Encoder { tokenizer: Some(tokenizer), eos: EndOfText::Token { id: 3, note: None }, vocabulary: 60 };
    let input = folder.join("input");
    Box::new(move |seed| {
        let (name, _) = &seed.files[0];
        let name = name.to_string_lossy();
        let kinds = [
            json!({ "kind": "classification" }),
            json!({ "kind": "regression", "columns": { "label": "score", "text_b": "other" } }),
            json!({ "kind": "causal-lm", "columns": { "text": 0 } }),
            json!({ "kind": "causal-lm", "packing": false, "max_length": 4 }),
            json!({ "kind": "instruction" }),
            json!({ "kind": "instruction", "columns": { "messages": "messages" }, "template": "chat" }),
            json!({ "kind": "instruction", "columns": { "messages": "conversations" }, "template": "chat" }),
        ];
        let mut errors = Vec::new();
        let all = kinds.len();
        for mut task in kinds {
            task["name"] = "data".into();
            task["train"] = name.as_ref().into();
            let table = ends(&name, &[".csv", ".tsv"]);
            task["validation"] =
                if table { "../base/validation.tsv" } else { "../base/validation.jsonl" }.into();
            let task: TaskSpec = serde_json::from_value(task).expect("a task");
            errors.extend(task.load(&input, &encoder).err().map(text));
        }
        // of one kind a file may be right though it is not of another
        match errors.iter().position(|error| {
            !error.contains(name.as_ref()) && !error.contains("base/validation") && !error.contains(": [")
        }) {
            Some(unnamed) => Err(errors.swap_remove(unnamed)),
            None if errors.len() < all => Ok(()),
            None => Err(errors.swap_remove(0)),
        }
    })
}

/// Adapters as PEFT wrote them, one of each method and network.
fn adapters() -> Vec<Seed> {
    let bundles = entries(&root().join("tests/fixtures/parity"));
    let folders = bundles.into_iter().filter(|path| path.join("adapter").is_dir());
    let named = folders.map(|path| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        Seed { name, ..Seed::read(&path.join("adapter")) }
    });
    let small = named.filter(|seed| seed.size() < 40_000 && !seed.name.starts_with("roberta"));
    seeds("adapter", &[], "").into_iter().chain(small).collect()
}

/// Scores an adapter on a network of its own kind.
fn adapter(folder: &Path) -> Run {
    let registry = Registry::standard();
    let plan = |model: &str, task: &str| {
        let file = folder.join(format!("{model}.toml"));
        let source = root().join("tests/fixtures/parity/base").join(model);
        let experiment = format!(
            "name = \"{model}\"\n[model]\nsource = \"{}\"\ntokenizer = \"base/bert/tokenizer.json\"\n[training]\nsteps = 1\n\
             [[task]]\nname = \"task\"\n{task}\nmax_length = 12\n[[method]]\nname = \"lora\"\n",
            source.display()
        );
        std::fs::write(&file, experiment).unwrap();
        Plan::outline(&file, &registry).map_err(text).unwrap()
    };
    let llama =
        plan("llama", "kind = \"causal-lm\"\ntrain = { random_rows = 2 }\nvalidation = { random_rows = 1 }");
    std::fs::write(folder.join("three.tsv"), "text\tlabel\na film\t0\nthe plot\t1\nsad\t2\n").unwrap();
    std::fs::write(folder.join("four.tsv"), "text\tlabel\na bad film\t0\nthe cast\t2\n").unwrap();
    let bert = plan(
        "bert",
        "kind = \"classification\"\ntrain = \"three.tsv\"\nvalidation = \"four.tsv\"\nlabels = [\"0\", \"1\", \"2\"]",
    );
    let input = folder.join("input");
    let registry = Registry::standard();
    Box::new(move |_| {
        // a network's names say which one an adapter is for
        for plan in [&llama, &bert] {
            match exchange::import(&input, plan, None, &registry) {
                // answers that are no numbers have no score
                Ok(_) | Err(peftlab_harness::HarnessError::Failed(_)) => return Ok(()),
                Err(error) if std::ptr::eq(plan, &bert) => return Err(text(error)),
                Err(_) => {}
            }
        }
        Ok(())
    })
}

/// Draws the report of a results folder, and compares it with itself; or a device's report.
fn record(folder: &Path) -> Run {
    let input = folder.join("input");
    Box::new(move |_| {
        let device = input.join("device.json");
        if device.is_file() {
            let report = DeviceReport::read(&device).map_err(text)?;
            peftlab_report::device_table(&report);
            peftlab_report::compare_devices(&report, &report);
            return Ok(());
        }
        peftlab_report::compare_runs(&input, Some(&input)).map_err(text)?;
        peftlab_report::report(&input, &peftlab_report::Options::default()).map(|_| ()).map_err(text)
    })
}
