//! Wrong inputs: an error that names the file, the field and the remedy, exit code 2, and nothing written.

#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout, reason = "a test may")]

mod common;

use std::path::Path;

use common::{bench, experiment, root, text};

const LORA: &str = "[[method]]\nname = \"lora\"\n";

/// `experiment` with a change must be refused with all of `expected` in the message, and leave no results.
fn refused(change: impl FnOnce(&Path, String) -> String, expected: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let file = experiment(dir.path(), "wrong", "[0]", 2, LORA);
    let text_before = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, change(dir.path(), text_before)).unwrap();
    let output = bench(dir.path(), &["run", file.to_str().unwrap(), "--out", "out"]);
    let message = text(&output);
    assert_eq!(output.status.code(), Some(2), "{message}");
    for part in expected {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
    assert!(!dir.path().join("out").exists(), "something was written: {message}");
}

/// The lines of the training set's entry, replaced by a file with `content`.
fn data(dir: &Path, experiment: &str, name: &str, content: &[u8]) -> String {
    std::fs::write(dir.join(name), content).unwrap();
    let lines = experiment.lines().map(|line| match line.starts_with("train = ") {
        true => format!("train = \"{name}\""),
        false => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The bundled model with one of its files changed.
fn model(dir: &Path, experiment: &str, change: impl FnOnce(&Path)) -> String {
    let copy = dir.join("model");
    std::fs::create_dir(&copy).unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(root().join("assets/bert-tiny").join(name), copy.join(name)).unwrap();
    }
    change(&copy);
    let lines = experiment.lines().map(|line| match line.starts_with("source = ") {
        true => "source = \"model\"".to_owned(),
        false => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn settings() {
    refused(
        |_, t| t.replace("batch_size", "bach_size"),
        &["wrong.toml:10:", "bach_size", "did you mean `batch_size`"],
    );
    refused(
        |_, t| t.replace("batch_size = 8", "batch_size = \"8\""),
        &["wrong.toml:10:", "batch_size", "invalid type"],
    );
    refused(|_, t| t.replace("[model]", "[modle]"), &["modle", "did you mean `model`"]);
    refused(|_, t| t.replace("\"lora\"", "\"lroa\""), &["wrong.toml:", "lroa", "did you mean `lora`"]);
    refused(|_, t| t + "rank = 0\n", &["rank is 0", "use 1 or more"]);
    refused(|_, t| t + "rnak = 4\n", &["rnak", "did you mean `rank`"]);
    refused(
        |_, t| t + "target_modules = [\"q_proj\"]\n",
        &["q_proj", "attention.self.query", "output.dense"],
    );
    refused(|_, t| t.replace("steps = 2", "steps = 0"), &["steps is 0"]);
    refused(|_, t| t.replace("seeds = [0]", "seeds = [1, 0, 1]"), &["wrong.toml:3:", "seeds has 1 twice"]);
    refused(
        |_, t| t.replace("take = 64", "tkae = 64"),
        &["wrong.toml:16:", "`train`", "path = ", "random_rows"],
    );
    for name in [".", ".."] {
        let named = |t: String| {
            let first = t.lines().next().unwrap().to_owned();
            t.replacen(&first, &format!("name = \"{name}\""), 1)
        };
        refused(|_, t| named(t), &["names the results folder", "not `.` alone"]);
    }
    refused(|_, t| t + "label = \"++\"\n", &["the label `++` stands in names of files"]);
    // one's records would take the other's place
    let second = |name: &'static str| {
        move |_: &Path, t: String| {
            let at = t.find("[[task]]").unwrap();
            let task = t[at..t.find("[[method]]").unwrap()].to_owned();
            t.replace("name = \"sentiment\"", "name = \"a b\"") + &task.replace("\"sentiment\"", name)
        }
    };
    refused(second("\"a b\""), &["two tasks are named `a b`", "give each its own name"]);
    refused(second("\"\""), &["the task `` stands in names of files"]);
    // its projected weights would be AdamW's all the same
    refused(
        |_, t| {
            t.replace("\"lora\"", "\"galore\"")
                .replace("[training]", "[training]\noptimizer = { name = \"sgd\" }")
        },
        &["`galore` keeps AdamW's moments", "optimizer = { name = \"adamw\" }"],
    );
    refused(|_, t| t.replace("device = \"cpu\"", "device = \"cuda:0\""), &["cuda:0", "device = \"cpu\""]);
    refused(|_, t| t.replace("device = \"cpu\"", "device = \"tpu\""), &["tpu", "cpu, cuda:0 or auto"]);
    let search = |grid: &str| {
        let grid = grid.to_owned();
        move |_: &Path, t: String| {
            t.replace("[training]", &format!("[search]\nlearning_rate = {grid}\n[training]"))
        }
    };
    refused(search("[]"), &["wrong.toml:9: [search]: learning_rate is empty"]);
    refused(
        search("[1e-3, 0.0]"),
        &["wrong.toml:9: [search]: learning_rate has 0; every rate must be above"],
    );
    refused(search("[1e-3, 3e-3, 1e-3]"), &["wrong.toml:9: [search]: learning_rate has 1e-3 twice"]);
    refused(search("[1e-3]\nsead = 1"), &["wrong.toml:10:", "sead", "did you mean `seed`"]);
    // several mistakes are told at once
    refused(
        |_, t| t.replace("batch_size", "bach_size").replace("max_length", "max_lenght"),
        &["did you mean `batch_size`", "did you mean `max_length`"],
    );
}

#[test]
fn a_mistake_in_what_methods_share_is_told_once() {
    let dir = tempfile::tempdir().unwrap();
    let two = format!("{LORA}\n[[method]]\nname = \"bitfit\"\ntraining = {{ epohcs = 1 }}\n");
    let file = experiment(dir.path(), "wrong", "[0]", 2, &two);
    let wrong = std::fs::read_to_string(&file).unwrap().replace("batch_size", "bach_size");
    std::fs::write(&file, wrong).unwrap();
    let output = bench(dir.path(), &["run", file.to_str().unwrap(), "--out", "out"]);
    let message = text(&output);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert_eq!(message.matches("did you mean `batch_size`").count(), 1, "{message}");
    assert_eq!(message.matches("did you mean `epochs`").count(), 1, "{message}");
}

#[test]
fn data_sets() {
    refused(|d, t| data(d, &t, "empty.tsv", b"text\tlabel\n"), &["sentiment", "empty.tsv", "empty"]);
    refused(
        |d, t| data(d, &t, "short.tsv", b"text\tlabel\na b\tpositive\nc d\n"),
        &["short.tsv", "line 3", "1 columns"],
    );
    refused(
        |d, t| data(d, &t, "label.tsv", b"text\tlabel\na b\tpositive\nc d\tneutral\n"),
        &["label.tsv", "row 3", "neutral", "out of range", "negative, positive"],
    );
    refused(
        |d, t| data(d, &t, "utf.tsv", b"text\tlabel\na \xff\tpositive\n"),
        &["utf.tsv", "line 2", "UTF-8"],
    );
    refused(
        |d, t| data(d, &t, "column.tsv", b"sentence\tlabel\na\tpositive\n"),
        &["column `text`", "sentence"],
    );
    refused(|_, t| t.replace("sentiment-train.tsv", "nothing.tsv"), &["nothing.tsv", "cannot be read"]);
}

#[test]
fn models() {
    refused(
        |_, t| t.replace("assets/bert-tiny", "assets/bert-huge"),
        &["bert-huge", "there is no such model"],
    );
    let weights = |dir: &Path| std::fs::read(dir.join("model.safetensors")).unwrap();
    refused(
        |d, t| model(d, &t, |m| std::fs::write(m.join("model.safetensors"), &weights(m)[..100_000]).unwrap()),
        &["model.safetensors", "truncated"],
    );
    refused(
        |d, t| {
            model(d, &t, |m| {
                let mut bytes = weights(m);
                bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
                std::fs::write(m.join("model.safetensors"), bytes).unwrap();
            })
        },
        &["model.safetensors", "promises a header"],
    );
    refused(
        |d, t| {
            model(d, &t, |m| {
                let config = std::fs::read_to_string(m.join("config.json")).unwrap();
                let changed = config.replace("\"intermediate_size\": 512", "\"intermediate_size\": 384");
                std::fs::write(m.join("config.json"), changed).unwrap();
            })
        },
        &["intermediate.dense.weight", "384", "512", "config.json"],
    );
    refused(
        |d, t| {
            model(d, &t, |m| {
                let bytes = weights(m);
                let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
                let header = String::from_utf8(bytes[8..8 + length].to_vec())
                    .unwrap()
                    .replacen("\"F16\"", "\"U16\"", 1);
                let changed = [&bytes[..8], header.as_bytes(), &bytes[8 + length..]].concat();
                std::fs::write(m.join("model.safetensors"), changed).unwrap();
            })
        },
        &["dtype U16", "F32, F16 or BF16"],
    );
    refused(
        |d, t| {
            let string = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
            let mut bytes =
                [b"GGUF".as_slice(), &3u32.to_le_bytes(), &0u64.to_le_bytes(), &1u64.to_le_bytes()].concat();
            bytes.extend(string("general.architecture"));
            bytes.extend(8u32.to_le_bytes());
            bytes.extend(string("falcon"));
            std::fs::write(d.join("other.gguf"), bytes).unwrap();
            let lines = t
                .lines()
                .map(|line| if line.starts_with("source") { "source = \"other.gguf\"" } else { line });
            lines.collect::<Vec<_>>().join("\n")
        },
        &["other.gguf", "falcon", "llama"],
    );
}

#[test]
fn a_method_that_does_not_apply() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("llama")).unwrap();
    let config = r#"{"model_type":"llama","hidden_size":16,"intermediate_size":32,"num_hidden_layers":1,
        "num_attention_heads":2,"vocab_size":30522,"max_position_embeddings":64}"#;
    std::fs::write(dir.path().join("llama/config.json"), config).unwrap();
    let assets = root().join("assets").canonicalize().unwrap();
    let assets = assets.display();
    let file = dir.path().join("llama.toml");
    let text_of = |method: &str| {
        format!(
            "name = \"llama\"\ndevice = \"cpu\"\n[model]\nsource = \"llama\"\nweights = \"random\"\n\
             tokenizer = \"{assets}/bert-tiny/tokenizer.json\"\n[training]\nsteps = 1\n[[task]]\nname = \"text\"\n\
             kind = \"causal-lm\"\ntrain = {{ path = \"{assets}/snippets/sentiment-train.tsv\", take = 40 }}\n\
             validation = {{ path = \"{assets}/snippets/sentiment-validation.tsv\", take = 20 }}\nmax_length = 32\n\
             [[method]]\nname = \"{method}\"\n"
        )
    };
    for (method, reason) in [("bitfit", "this network has none"), ("head", "has none for this task")] {
        std::fs::write(&file, text_of(method)).unwrap();
        let output = bench(dir.path(), &["run", "llama.toml", "--out", "out"]);
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
        assert!(text(&output).contains(reason), "{}", text(&output));
        assert!(!dir.path().join("out").exists());
    }
    std::fs::write(&file, text_of("lora")).unwrap();
    let output = bench(dir.path(), &["run", "llama.toml", "--out", "out"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}

#[test]
fn results_and_adapters() {
    let dir = tempfile::tempdir().unwrap();
    let file = experiment(dir.path(), "wrong", "[0]", 2, LORA);
    let file = file.to_str().unwrap();
    // a folder that cannot be one: root may write anywhere, but not below a file
    std::fs::write(dir.path().join("file"), "").unwrap();
    let output = bench(dir.path(), &["run", file, "--out", "file/out"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(
        text(&output).contains("cannot be written") && text(&output).contains("--out"),
        "{}",
        text(&output)
    );

    // a results folder of another schema version
    std::fs::create_dir_all(dir.path().join("old/runs")).unwrap();
    std::fs::write(dir.path().join("old/runs/a.json"), r#"{"schema": 99}"#).unwrap();
    for arguments in [vec!["run", file, "--out", "old"], vec!["report", "old"]] {
        let output = bench(dir.path(), &arguments);
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
        assert!(
            text(&output).contains("schema version 99") && text(&output).contains("a.json"),
            "{}",
            text(&output)
        );
    }
    let output = bench(dir.path(), &["report", "nothing"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).contains("holds no records"), "{}", text(&output));

    // an adapter for another model
    let adapter = root().join("tests/fixtures/parity/bert-lora/adapter").canonicalize().unwrap();
    let output = bench(dir.path(), &["import", adapter.to_str().unwrap(), "--experiment", file]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("adapter for another model"), "{}", text(&output));

    // keys that ask for what is not implemented, or for more than the file has, before anything is allocated
    let config = std::fs::read_to_string(adapter.join("adapter_config.json")).unwrap();
    for (key, value) in [
        ("r", serde_json::json!(1_000_000)),
        ("layer_replication", serde_json::json!([[0, 2]])),
        ("peft_type", serde_json::json!("NEWER")),
    ] {
        let changed = dir.path().join("changed");
        std::fs::create_dir_all(&changed).unwrap();
        std::fs::copy(adapter.join("adapter_model.safetensors"), changed.join("adapter_model.safetensors"))
            .unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
        config[key] = value;
        std::fs::write(changed.join("adapter_config.json"), config.to_string()).unwrap();
        let output = bench(dir.path(), &["import", "changed", "--experiment", file]);
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
        assert!(text(&output).contains(&format!("`{key}`")), "{}", text(&output));
    }

    // a label that is none
    let output = bench(dir.path(), &["run", file, "--out", "out", "--only", "lora r=9"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("`lora r=8 q,v`"), "{}", text(&output));
    assert!(!dir.path().join("out").exists());
}
