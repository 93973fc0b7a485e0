//! How a model's files are read: what a checkpoint may hold, what `config.json` says, and which texts fit. Numbers of
//! files that differ in form alone must be equal to the bit; those of the plain form are held by `tests/parity.rs`.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test may")]

mod common;
#[path = "common/tiny.rs"]
mod tiny;

use std::collections::BTreeMap;
use std::process::Command;

use common::text;
use peftlab_checkpoint::{Safetensors, TensorSource};
use peftlab_record::Record;
use serde_json::{Value, json};
use tiny::{Case, Files, MustHave, rows, tokenizer};

const THREE: [&str; 3] = ["a", "b", "c"];

#[test]
fn old_names_of_norms_are_those_of_today() {
    for base in ["bert", "roberta"] {
        let (case, files) = (Case::of(&THREE), Files::of(base));
        let (expected, _) = case.loss(&files);
        for every in [1, 2] {
            let mut old = files.clone();
            let mut renamed = 0;
            old.tensors = std::mem::take(&mut old.tensors)
                .into_iter()
                .enumerate()
                .map(|(at, (name, value))| {
                    let to = name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta");
                    renamed += usize::from(to != name && at % every == 0);
                    (if at % every == 0 { to } else { name }, value)
                })
                .collect();
            assert!(renamed > 3, "{renamed}");
            let (loss, said) = case.loss(&old);
            assert_eq!(loss, expected);
            assert!(!said.contains("checkpoint"), "{said}");
        }
    }
}

#[test]
fn a_head_of_another_size_is_refused_and_drawn_anew_when_that_is_asked_for() {
    for (base, output) in [("bert", "classifier"), ("roberta", "classifier.out_proj")] {
        let (mut case, files) = (Case::of(&["a", "b"]), Files::of(base));
        let weight = format!("{output}.weight");
        case.refused(&files, &[&weight, "[3, 48]", "[2, 48]", "another task's", "head = \"new\""]);
        case.model = "head = \"new\"".to_owned();
        let (loss, said) = case.loss(&files);
        said.must_have(&["drawn anew from the seed", &weight]);
        assert!(!said.contains("does not use"), "{said}");
        // the body is kept: all is as with a checkpoint that never had a head
        case.model.clear();
        assert_eq!(case.loss(&files.without("classifier.")).0, loss);
    }
}

#[test]
fn tensors_that_nobody_reads_are_told_and_change_nothing() {
    let (case, mut files) = (Case::of(&THREE), Files::of("bert"));
    let (expected, _) = case.loss(&files);
    for name in [
        "cls.predictions.bias",
        "cls.predictions.decoder.weight",
        "cls.seq_relationship.weight",
        "bert.encoder.layer.2.output.dense.weight",
        "bert.encoder.layer.2.output.dense.bias",
        // a buffer of older versions says nothing
        "bert.embeddings.position_ids",
    ] {
        files.tensors.insert(name.to_owned(), (vec![2], vec![0.5, 2.0]));
    }
    let (loss, said) = case.loss(&files);
    assert_eq!(loss, expected);
    let told = said.lines().find(|line| line.contains("does not use")).unwrap().to_owned();
    told.must_have(&["cls.predictions.* (2)", "cls.seq_relationship.weight", "bert.encoder.layer.2.* (2)"]);
    assert!(!told.contains("position_ids"), "{told}");
}

#[test]
fn an_output_layer_that_differs_from_the_embedding_is_not_tied_to_it() {
    let (case, files) = (Case::of(&[]), Files::of("llama"));
    let (untied, said) = case.loss(&files);
    assert!(!said.contains("lm_head"), "{said}");
    let (loss, said) = case.loss(&files.clone().with("tie_word_embeddings", true.into()));
    assert_eq!(loss, untied);
    said.must_have(&["`lm_head.weight` differs", "tie_word_embeddings"]);
    // one that is the same is the embedding
    let mut same = files.with("tie_word_embeddings", true.into());
    let embedding = same.tensors["model.embed_tokens.weight"].clone();
    same.tensors.insert("lm_head.weight".to_owned(), embedding);
    let (with, said) = case.loss(&same);
    assert!(!said.contains("lm_head"), "{said}");
    assert_ne!(with, untied);
    assert_eq!(case.loss(&same.without("lm_head.")).0, with);
}

#[test]
fn the_rows_of_a_head_follow_the_names_of_its_classes() {
    for (base, output) in [("bert", "classifier"), ("roberta", "classifier.out_proj")] {
        let files = Files::of(base);
        let mut case = Case::of(&THREE);
        let (plain, said) = case.loss(&files);
        assert!(!said.contains("id2label"), "{said}");
        // the head's outputs are c, a and b: a of the task is its second one
        let names = files.clone().with("id2label", json!({ "0": "C", "1": "a", "2": "B" }));
        let (followed, said) = case.loss(&names);
        said.must_have(&["id2label", "C, a, B", "a, b, c"]);
        let by_hand = |suffix: &str, files: Files| files.rows(&format!("{output}.{suffix}"), &[1, 2, 0]);
        assert_eq!(followed, case.loss(&by_hand("bias", by_hand("weight", files.clone()))).0);
        assert_ne!(followed, plain);

        let others = files.clone().with("id2label", json!({ "0": "x", "1": "a", "2": "b" }));
        case.refused(&others, &["id2label", "x, a, b", "a, b, c", "head = \"new\""]);
        case.model = "head = \"new\"".to_owned();
        case.run(&others).unwrap();
    }
    // numbers may mean anything: they are taken in the head's order, and that is said
    let names = Files::of("bert").with("id2label", json!({ "0": "x", "1": "a", "2": "b" }));
    let (loss, said) = Case::of(&["0", "1", "2"]).loss(&names);
    said.must_have(&["x, a, b", "taken for granted"]);
    assert_eq!(loss, Case::of(&["0", "1", "2"]).loss(&Files::of("bert")).0);
}

#[test]
fn a_head_that_was_trained_for_another_problem_is_refused() {
    let mut case = Case::of(&THREE);
    for problem in ["multi_label_classification", "regression"] {
        let files = Files::of("bert").with("problem_type", problem.into());
        case.refused(&files, &["config.json", "problem_type", "head = \"new\""]);
    }
    let files = Files::of("bert").with("problem_type", "regression".into());
    case.model = "head = \"new\"".to_owned();
    case.run(&files).unwrap();
    case.model.clear();
    assert_eq!(
        case.loss(&files.with("problem_type", "single_label_classification".into())).0,
        case.loss(&Files::of("bert")).0
    );
}

#[test]
fn a_pooler_that_was_drawn_is_exported_and_scores_the_same_when_it_comes_back() {
    // PEFT puts no update inside a module that it saves: there the pooler's own are those of a base layer
    drawn_pooler("", true, "pooler.dense.weight");
    drawn_pooler("\ntarget_modules = \"all-linear\"", false, "pooler.dense.base_layer.weight");
}

fn drawn_pooler(settings: &str, saved: bool, tensor: &str) {
    let files = Files::of("bert").without("bert.pooler.").without("classifier.");
    let mut case = Case { steps: 12, seed: 3, ..Case::of(&THREE) };
    case.method.push_str(settings);
    let (said, record) = case.run(&files).unwrap();
    said.must_have(&["drawn anew", "bert.pooler.dense.weight", "classifier.weight"]);
    let at = case.dir.path();
    case.export().unwrap();
    let adapter = Safetensors::open(&[at.join("adapter/adapter_model.safetensors")]).unwrap();
    assert!(adapter.names().iter().any(|name| name.contains(tensor)), "{:?}", adapter.names());
    let config = std::fs::read_to_string(at.join("adapter/adapter_config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["modules_to_save"].as_array().unwrap().contains(&"pooler".into()), saved, "{config}");
    // the experiment has another seed by now: nothing may be drawn again
    let other = Case { seed: 4, ..case };
    let said = other.import().unwrap();
    has_scores_of(&record, &said);
    said.must_have(&["is the adapter's, and not drawn: bert.pooler.dense.weight"]);
}

fn has_scores_of(record: &Record, said: &String) {
    let scores = &record.measured.as_ref().unwrap().validation;
    assert!(!scores.is_empty());
    for score in scores {
        said.must_have(&[&format!("{:.6}", score.value)]);
    }
}

/// The head's bias in the adapter that was exported, and in the files of the run, which are in the task's order.
fn exported_bias(case: &Case, output: &str) -> [Vec<f32>; 2] {
    let adapter = case.dir.path().join("adapter/adapter_model.safetensors");
    let name = format!("base_model.model.{output}.bias");
    [adapter, case.record_path().with_extension("safetensors")]
        .map(|file| Safetensors::open(&[file]).unwrap().read_f32(&name).unwrap())
}

#[test]
fn an_adapters_head_has_its_classes_where_the_models_names_are() {
    let names = json!({ "0": "C", "1": "a", "2": "B" });
    let mut differ = 0;
    for (base, output, drawn) in [
        ("bert", "classifier", false),
        ("roberta", "classifier.out_proj", false),
        ("bert", "classifier", true),
    ] {
        let mut case = Case { steps: 12, ..Case::of(&THREE) };
        // another number of each, so that no two classes score alike
        let label = |row: usize| ["a", "a", "a", "a", "a", "b", "b", "b", "c"][row - 6].to_owned();
        std::fs::write(case.dir.path().join("validation.tsv"), rows(6..15, 70, label)).unwrap();
        case.method.push_str("\ntraining = { learning_rate = 5e-2 }");
        let plain = if drawn { Files::of(base).without("classifier.") } else { Files::of(base) };
        let files = plain.clone().with("id2label", names.clone());
        let (_, record) = case.run(&files).unwrap();
        // a, b and c are the outputs 1, 2 and 0 to whoever reads the model's config.json
        case.export().unwrap().must_have(&["order, c, a, b (id2label)", "task's is a, b, c"]);
        let [theirs, ours] = exported_bias(&case, output);
        assert_eq!(theirs, [ours[2], ours[0], ours[1]], "{base}");
        assert!(ours[0] != ours[1] && ours[1] != ours[2] && ours[0] != ours[2], "{ours:?}");
        let said = case.import().unwrap();
        has_scores_of(&record, &said);
        said.must_have(&["the adapter's head has the classes in the order C, a, B (id2label)", "a, b, c"]);
        // the same file where nobody names them is in the task's order
        plain.write(&case.dir.path().join("model"));
        let other = case.import().unwrap();
        assert!(!other.contains("id2label"), "{other}");
        let scores =
            |said: &str| said.lines().filter(|line| line.starts_with("validation")).collect::<String>();
        differ += usize::from(scores(&other) != scores(&said));
    }
    assert!(differ > 0, "the order makes no difference");
}

#[test]
fn an_adapters_head_for_other_classes_is_refused_unless_its_own_are_said() {
    let mut case = Case { steps: 12, ..Case::of(&THREE) };
    let names = json!({ "0": "x", "1": "a", "2": "b" });
    let files = Files::of("bert").without("classifier.").with("id2label", names);
    let (_, record) = case.run(&files).unwrap();
    let refused = ["config.json", "id2label", "the adapter's head", "x, a, b", "a, b, c", "config = {"];
    case.export().unwrap_err().must_have(&refused);
    assert!(!case.dir.path().join("adapter").exists());
    let same = |case: &Case, told: &str| {
        std::fs::write(case.dir.path().join("case.toml"), case.toml()).unwrap();
        case.export().unwrap();
        let [theirs, ours] = exported_bias(case, "classifier");
        let said = case.import().unwrap();
        has_scores_of(&record, &said);
        said.must_have(&[told]);
        (theirs, ours)
    };
    // with a new head the names are another's
    case.model = "head = \"new\"".to_owned();
    let (theirs, ours) = same(&case, "the adapter's has the classes in the task's order, a, b, c");
    assert_eq!(theirs, ours);
    case.model = "config = { id2label = { 0 = \"b\", 1 = \"a\", 2 = \"c\" } }".to_owned();
    let (theirs, ours) = same(&case, "order b, a, c");
    assert_eq!(theirs, [ours[1], ours[0], ours[2]]);
    case.model.clear();
    case.import().unwrap_err().must_have(&refused);
}

#[test]
fn another_byte_anywhere_in_the_weights_is_another_model() {
    let (case, files) = (Case::of(&THREE), Files::of("bert"));
    let path = case.dir.path().join("model/model.safetensors");
    let digest = || case.run_as_it_is().unwrap().1.model.digest;
    files.write(&case.dir.path().join("model"));
    let whole = std::fs::read(&path).unwrap();
    let mut digests = vec![digest()];
    assert_eq!(digest(), digests[0]);
    let data = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    for at in [data, usize::midpoint(data, whole.len()), whole.len() - 4] {
        let mut changed = whole.clone();
        // the lowest bit of a value
        changed[data + (at - data) / 4 * 4] ^= 1;
        std::fs::write(&path, changed).unwrap();
        digests.push(digest());
    }
    std::fs::write(&path, whole).unwrap();
    let config = files.with("layer_norm_eps", 1e-11.into());
    std::fs::write(case.dir.path().join("model/config.json"), config.config.to_string()).unwrap();
    digests.push(digest());
    let count = digests.len();
    digests.sort();
    digests.dedup();
    assert_eq!(digests.len(), count);
}

#[test]
fn weights_of_torch_are_refused_with_a_command_that_keeps_the_head() {
    let (case, files) = (Case::of(&THREE), Files::of("bert"));
    let folder = case.dir.path().join("model");
    files.write(&folder);
    std::fs::rename(folder.join("model.safetensors"), folder.join("pytorch_model.bin")).unwrap();
    let class = "from transformers import BertForSequenceClassification as M";
    case.run_as_it_is().unwrap_err().must_have(&["not pytorch_model.bin", class, "save_pretrained"]);

    // a repository of the Hub, as its cache has it
    let hub = case.dir.path().join("hub");
    let repository = hub.join("models--some--bert");
    std::fs::create_dir_all(repository.join("refs")).unwrap();
    std::fs::create_dir_all(repository.join("snapshots")).unwrap();
    std::fs::write(repository.join("refs/main"), "abc").unwrap();
    std::fs::rename(&folder, repository.join("snapshots/abc")).unwrap();
    let toml = case.toml().replace("source = \"model\"", "source = \"hub:some/bert\"");
    std::fs::write(case.dir.path().join("hub.toml"), toml).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_bench"))
        .args(["plan", "hub.toml"])
        .envs([("HF_HUB_CACHE", hub.to_str().unwrap()), ("HF_HUB_OFFLINE", "1")])
        .current_dir(case.dir.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    text(&output).must_have(&[
        "hub:some/bert@main",
        "pytorch_model.bin is not read",
        class,
        "source = \"bert\"",
    ]);
}

#[test]
fn shards_hold_what_their_index_says() {
    let (case, files) = (Case::of(&THREE), Files::of("bert"));
    let (expected, _) = case.loss(&files);
    let folder = case.dir.path().join("model");
    std::fs::remove_file(folder.join("model.safetensors")).unwrap();
    let shard = |name: &str| {
        format!("model-0000{}-of-00002.safetensors", 1 + usize::from(name > "bert.encoder.layer.1"))
    };
    let places: BTreeMap<String, String> =
        files.tensors.keys().map(|name| (name.clone(), shard(name))).collect();
    let [one, two] = ["a", "z"].map(shard);
    for file in [&one, &two] {
        files.write_tensors(&folder.join(file), |name| shard(name) == *file);
    }
    let index = |changes: &[(&str, &str)]| {
        let mut places = places.clone();
        places.extend(changes.iter().map(|(name, file)| ((*name).to_owned(), (*file).to_owned())));
        let text = json!({ "metadata": {}, "weight_map": places }).to_string();
        std::fs::write(folder.join("model.safetensors.index.json"), text).unwrap();
        case.run_as_it_is()
    };
    let (_, record) = index(&[]).unwrap();
    assert_eq!(record.measured.unwrap().training.validation_loss_before, Some(expected));
    let json = "model.safetensors.index.json";
    index(&[("cls.bias", &two)]).unwrap_err().must_have(&[json, "`cls.bias`", &two, "no shard holds it"]);
    index(&[("classifier.bias", &one)]).unwrap_err().must_have(&[
        json,
        "`classifier.bias`",
        &format!("is in {two}"),
    ]);
    index(&[("more", "model-00003-of-00003.safetensors")])
        .unwrap_err()
        .must_have(&["model-00003-of-00003.safetensors", "cannot be read"]);
}

/// A text as long as the network has room for is scored as by one with more room, and a longer one is refused.
#[test]
fn lengths_are_held_against_the_positions_with_what_a_method_puts_in_front() {
    let prompt = |count: usize| format!("name = \"prompt-tuning\"\nnum_virtual_tokens = {count}");
    let lora = "name = \"lora\"".to_owned();
    for (base, table, method, most) in [
        // the first two of 66 positions are none of a token's
        ("roberta", 66, &lora, 64),
        ("roberta", 66, &prompt(10), 54),
        ("bert", 64, &lora, 64),
        // 61 is rounded up to 64 where that has room: here it has none
        ("bert", 64, &prompt(3), 61),
    ] {
        let files = Files::of(base);
        let mut case = Case { method: method.clone(), ..Case::of(&THREE) };
        let set = |case: &mut Case, length: usize| {
            case.task = format!("kind = \"classification\"\nlabels = {THREE:?}\nmax_length = {length}");
        };
        set(&mut case, most + 1);
        let named = format!("max_position_embeddings = {table}");
        case.refused(
            &files,
            &[&format!("max_length = {}", most + 1), &named, &format!("set max_length = {most}")],
        );
        set(&mut case, most);
        let name = format!("{base}.embeddings.position_embeddings.weight");
        // rows behind the last that anybody may read
        let longer =
            files.clone().longer(&name, 16, 1e3).with("max_position_embeddings", (table + 16).into());
        assert_eq!(case.loss(&files).0, case.loss(&longer).0, "{base}, {method}");
    }
}

#[test]
fn rotary_positions_beyond_the_trained_length_are_told() {
    let (mut case, files) = (Case::of(&[]), Files::of("llama"));
    case.task = "kind = \"causal-lm\"\npacking = false\nmax_length = 80".to_owned();
    let (loss, said) = case.loss(&files);
    said.must_have(&["up to 71 tokens", "trained on 64 (max_position_embeddings)"]);
    case.method += "\n[[method]]\nname = \"ln-tuning\"";
    let (said, record) = case.run(&files).unwrap();
    assert_eq!(
        said.matches("warning: texts have up to 71 tokens").count(),
        1,
        "once for all methods: {said}"
    );
    assert_eq!(record.warnings.iter().filter(|warning| warning.contains("trained on 64")).count(), 1);
    let (longer, said) = case.loss(&files.with("max_position_embeddings", 4096.into()));
    assert_eq!(loss, longer);
    assert!(!said.contains("max_position_embeddings"), "{said}");
}

#[test]
fn a_token_beyond_the_table_is_refused() {
    let mut files = Files::of("bert");
    files.tokenizer = tokenizer(140);
    let case = Case::of(&THREE);
    case.run(&files).unwrap();
    std::fs::write(case.dir.path().join("validation.tsv"), "text\tlabel\nw5 w131\ta\nw6\tb\nw7\tc\n")
        .unwrap();
    case.refused(&files, &["validation", "`w131`", "the id 131", "vocab_size = 131"]);
    let ends = Files::of("llama").with("eos_token_id", 500.into());
    Case::of(&[]).refused(&ends, &["500", "eos_token_id", "vocab_size = 131", "eos_token = "]);
}

#[test]
fn a_tokenizer_without_the_marks_of_a_chat_is_refused() {
    let mut case = Case::of(&[]);
    case.task = "kind = \"instruction\"\ntemplate = \"chat\"\nmax_length = 32\n\
                 columns = { instruction = \"text\", output = \"label\" }"
        .to_owned();
    for (name, numbers) in [("train.tsv", 0..4), ("validation.tsv", 4..8)] {
        let rows = rows(numbers, 5, |row| format!("w{} w9", row + 20));
        std::fs::write(case.dir.path().join(name), rows).unwrap();
    }
    let mut files = Files::of("llama");
    case.refused(&files, &["<|im_start|>", "template = \"alpaca\""]);
    let mark = |id: usize, content: &str| {
        json!({ "id": id, "content": content, "special": true, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false })
    };
    // in the places of two words, for the table has no more
    for (id, content) in [(129, "<|im_start|>"), (130, "<|im_end|>")] {
        let vocab = files.tokenizer["model"]["vocab"].as_object_mut().unwrap();
        vocab.remove(&format!("w{id}"));
        vocab.insert(content.to_owned(), id.into());
        files.tokenizer["added_tokens"].as_array_mut().unwrap().push(mark(id, content));
    }
    case.run(&files).unwrap();
}

#[test]
fn what_the_files_say_and_nobody_follows_is_told_and_kept() {
    let case = Case::of(&[]);
    let files = Files::of("llama");
    let (expected, said) = case.loss(&files);
    assert!(!said.contains("auto_map") && !said.contains("pad_token_id"), "{said}");
    for (key, value, told) in [
        ("auto_map", json!({ "AutoModelForCausalLM": "modeling_own.Own" }), "modeling_own.Own"),
        ("pad_token_id", json!(-1), "pad_token_id = -1"),
        ("something_new", json!(3), "something_new is not read"),
    ] {
        let (loss, said) = case.loss(&files.clone().with(key, value));
        assert_eq!(loss, expected, "{key}");
        said.must_have(&[told]);
        let (_, record) = case.run_as_it_is().unwrap();
        assert!(record.warnings.iter().any(|warning| warning.contains(told)), "{:?}", record.warnings);
    }
    let mut contradicting = files;
    contradicting.tokenizer_config = json!({ "bos_token": "[CLS]", "add_bos_token": true });
    let (loss, said) = case.loss(&contradicting);
    assert_eq!(loss, expected);
    said.must_have(&["add_bos_token = true", "does not put `[CLS]` before a text"]);
    // RoBERTa counts positions from it
    let roberta = Files::of("roberta").with("pad_token_id", (-1).into());
    Case::of(&THREE).refused(&roberta, &["pad_token_id = -1", "RoBERTa counts positions"]);
}

#[test]
fn networks_that_there_are_not_are_refused_by_name() {
    for (base, key, value, parts) in [
        ("llama", "model_type", json!("qwen2"), ["`qwen2`", "llama, mistral, bert, roberta"]),
        ("llama", "sliding_window", json!(8), ["`sliding_window` = 8", "not implemented"]),
        ("llama", "hidden_act", json!("gelu"), ["hidden_act `gelu`", "silu"]),
        ("llama", "quantization_config", json!({ "quant_method": "awq" }), ["awq", "qlora"]),
        ("bert", "position_embedding_type", json!("relative_key"), ["relative_key", "absolute"]),
        ("bert", "is_decoder", json!(true), ["`is_decoder` = true", "not implemented"]),
    ] {
        let case = if base == "llama" { Case::of(&[]) } else { Case::of(&THREE) };
        case.refused(&Files::of(base).with(key, value), &parts);
    }
}
