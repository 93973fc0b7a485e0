//! GGUF files: what is read is right to the bit, and what is not is refused by name.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "a test may")]

mod support;

use peftlab_checkpoint::{Gguf, Safetensors, TensorSource, resolve};
use serde_json::{Value as Json, json};
use support::{File, Tensor, Value, counted, fixtures, texts};
use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Tokenizer};

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

/// Opens a file and everything in it.
fn opened(file: &File) -> Result<(Json, Tokenizer, Vec<String>), String> {
    let folder = tempfile::tempdir().unwrap();
    let path = file.write(folder.path(), "model.gguf");
    let gguf = Gguf::open(&path).map_err(|error| error.to_string())?;
    let config = gguf.config().map_err(|error| error.to_string())?;
    let tokenizer = gguf.tokenizer().map_err(|error| error.to_string())?;
    Ok((config, tokenizer, gguf.warnings()))
}

#[track_caller]
fn refused(file: &File, words: &[&str]) {
    match opened(file) {
        Ok(_) => panic!("{words:?}: taken"),
        Err(message) => words.iter().for_each(|word| assert!(message.contains(word), "{word}: {message}")),
    }
}

fn config(file: &File) -> Json {
    opened(file).unwrap().0
}

fn ids(file: &File, text: &str) -> Vec<u32> {
    opened(file).unwrap().1.encode(text, true).unwrap().get_ids().to_vec()
}

#[test]
fn every_type_has_the_values_of_the_gguf_package() {
    let types = [
        ("F32", 0, 1, 4),
        ("F16", 1, 1, 2),
        ("BF16", 30, 1, 2),
        ("Q4_0", 2, 32, 18),
        ("Q4_1", 3, 32, 20),
        ("Q5_0", 6, 32, 22),
        ("Q5_1", 7, 32, 24),
        ("Q8_0", 8, 32, 34),
        ("Q2_K", 10, 256, 84),
        ("Q3_K", 11, 256, 110),
        ("Q4_K", 12, 256, 144),
        ("Q5_K", 13, 256, 176),
        ("Q6_K", 14, 256, 210),
    ];
    let folder = tempfile::tempdir().unwrap();
    for (name, kind, values, size) in types {
        let bytes = std::fs::read(fixtures().join(format!("blocks-{name}.bin"))).unwrap();
        let expected = std::fs::read(fixtures().join(format!("blocks-{name}.f32"))).unwrap();
        let count = bytes.len() / size * values;
        let tensor = Tensor { name: "output_norm.weight".to_owned(), shape: vec![count as u64], kind, bytes };
        let path = File::tiny().tensor(tensor).write(folder.path(), "model.gguf");
        let ours = Gguf::open(&path).unwrap().read_f32("model.norm.weight").unwrap();
        assert_eq!(ours.len() * 4, expected.len(), "{name}");
        for (at, (ours, theirs)) in ours.iter().zip(expected.as_chunks::<4>().0).enumerate() {
            assert_eq!(ours.to_bits(), u32::from_le_bytes(*theirs), "{name}: value {at} is {ours}");
        }
    }
}

#[test]
fn other_types_are_refused_by_name() {
    for (kind, name) in
        [(16, "IQ2_XXS"), (23, "IQ4_XS"), (34, "TQ1_0"), (39, "MXFP4"), (28, "F64"), (99, "number 99")]
    {
        let tensor = Tensor { kind, ..counted("output_norm.weight", &[8]) };
        refused(&File::tiny().tensor(tensor), &["output_norm.weight", name, "Q4_K"]);
    }
    // a row that is not made of whole blocks
    refused(
        &File::tiny().tensor(Tensor { kind: 12, ..counted("output_norm.weight", &[8]) }),
        &["Q4_K", "shape"],
    );
}

#[test]
fn tensors_are_used_or_refused() {
    for name in [
        "blk.0.attn_q_norm.weight",
        "blk.0.ffn_gate_inp.weight",
        "blk.0.ffn_gate_exps.weight",
        "blk.0.attn_sinks.weight",
        "token_types.weight",
    ] {
        refused(&File::tiny().tensor(counted(name, &[8])), &[name]);
    }
    let biases = ["attn_q", "attn_k", "attn_v", "attn_output"];
    let bias = |file: File, name: &str| {
        let width = if ["attn_k", "attn_v"].contains(&name) { 4 } else { 8 };
        file.tensor(counted(&format!("blk.0.{name}.bias"), &[width]))
    };
    assert_eq!(config(&File::tiny())["attention_bias"], false);
    assert_eq!(
        config(&biases.iter().fold(File::tiny(), |file, name| bias(file, name)))["attention_bias"],
        true
    );
    refused(&biases[..3].iter().fold(File::tiny(), |file, name| bias(file, name)), &["o_proj.bias"]);
    let untied = File::tiny();
    let mut tied = untied.clone();
    tied.tensors.retain(|tensor| tensor.name != "output.weight");
    assert_eq!(
        (&config(&untied)["tie_word_embeddings"], &config(&tied)["tie_word_embeddings"]),
        (&json!(false), &json!(true))
    );
    // a layer that is not there, and one too many
    refused(&File::tiny().with("llama.block_count", Value::U32(1 << 31)), &["llama.block_count"]);
    refused(&File::tiny().tensor(counted("blk.1.attn_norm.weight", &[8])), &["llama.block_count"]);
}

#[test]
fn frequencies_are_divided_as_llama_cpp_does() {
    let scaling = |file: &File| config(file)["rope_scaling"].clone();
    let factor = |file: File, n: f32| file.with("llama.rope.scaling.factor", Value::F32(n));
    let kind = |file: File, name: &str| file.with("llama.rope.scaling.type", text(name));
    assert_eq!(scaling(&File::tiny()), Json::Null);
    assert_eq!(config(&File::tiny())["rope_theta"], 10_000.0);
    let linear = json!({ "rope_type": "linear", "factor": 4.0 });
    // linear where there is no type; the older key only where the newer one is not there
    assert_eq!(scaling(&factor(File::tiny(), 4.0)), linear);
    assert_eq!(scaling(&File::tiny().with("llama.rope.scale_linear", Value::F32(4.0))), linear);
    let both = factor(File::tiny(), 4.0).with("llama.rope.scale_linear", Value::F32(2.0));
    assert_eq!(scaling(&both), linear);
    assert_eq!(scaling(&factor(kind(File::tiny(), "none"), 4.0)), Json::Null);
    assert_eq!(scaling(&factor(File::tiny(), 0.0)), Json::Null);

    let yarn = factor(kind(File::tiny(), "yarn"), 4.0)
        .with("llama.rope.scaling.original_context_length", Value::U32(32))
        .with("llama.rope.scaling.yarn_beta_fast", Value::F32(16.0));
    let extrapolated =
        |file: &File, part: f32| file.clone().with("llama.rope.scaling.yarn_ext_factor", Value::F32(part));
    assert_eq!(scaling(&extrapolated(&yarn, 1.0)), scaling(&yarn));
    refused(&extrapolated(&yarn, 0.5), &["yarn_ext_factor"]);
    refused(&extrapolated(&File::tiny(), 1.0), &["yarn_ext_factor"]);
    let found = scaling(&yarn);
    assert_eq!((&found["original_max_position_embeddings"], &found["beta_fast"]), (&json!(32), &json!(16.0)));
    let attention = found["attention_factor"].as_f64().unwrap();
    assert!((attention - (1.0 + 0.1 * 4f64.ln())).abs() < 1e-12);
    let half = scaling(&yarn.clone().with("llama.rope.scaling.attn_factor", Value::F32(0.5)));
    assert!((half["attention_factor"].as_f64().unwrap() - attention / 2.0).abs() < 1e-12);

    let divisors = Tensor {
        bytes: [1f32, 8.0].iter().flat_map(|value| value.to_le_bytes()).collect(),
        ..counted("rope_freqs.weight", &[2])
    };
    let divided = scaling(&File::tiny().tensor(divisors.clone()));
    assert_eq!((&divided["short_factor"], &divided["attention_factor"]), (&json!([1.0, 8.0]), &json!(1.0)));
    assert_eq!(
        scaling(&factor(File::tiny().tensor(divisors.clone()), 2.0))["long_factor"],
        json!([2.0, 16.0])
    );
    refused(&yarn.tensor(divisors.clone()), &["rope_freqs.weight", "yarn"]);
    refused(&File::tiny().tensor(counted("rope_freqs.weight", &[2])), &["rope_freqs.weight"]);
    refused(&kind(File::tiny(), "longrope"), &["rope_factors_short.weight"]);
    refused(&kind(File::tiny(), "dynamic"), &["`dynamic`"]);
    let short = Tensor { name: "rope_factors_short.weight".to_owned(), ..divisors.clone() };
    refused(&File::tiny().tensor(short.clone()), &["rope_factors_short.weight", "longrope"]);
    let long = Tensor { name: "rope_factors_long.weight".to_owned(), ..divisors };
    assert_eq!(
        scaling(&kind(File::tiny(), "longrope").tensor(short).tensor(long))["long_factor"],
        json!([1.0, 8.0])
    );
}

#[test]
fn keys_are_followed_or_refused() {
    let with = |key: &str, value: Value| File::tiny().with(key, value);
    refused(&with("llama.rope.dimension_count", Value::U32(2)), &["llama.rope.dimension_count"]);
    refused(&with("llama.attention.value_length", Value::U32(8)), &["llama.attention.value_length"]);
    refused(&with("llama.expert_count", Value::U32(8)), &["llama.expert_count"]);
    refused(&with("llama.logit_scale", Value::F32(0.5)), &["llama.logit_scale"]);
    refused(&with("llama.some.new_key", Value::U32(0)), &["llama.some.new_key"]);
    refused(&with("llama.vocab_size", Value::U32(7)), &["llama.vocab_size"]);
    refused(&with("llama.embedding_length", Value::U32(16)), &["llama."]);
    refused(&with("llama.attention.head_count", Value::U32(0)), &["llama.attention.head_count"]);
    refused(&with("llama.attention.head_count_kv", Value::U32(2)), &["llama.attention.head_count_kv"]);
    refused(&with("llama.feed_forward_length", Value::I32s(vec![16, 8])), &["llama.feed_forward_length"]);
    refused(&with("llama.feed_forward_length", Value::I32s(vec![])), &["feed_forward_length", "0 values"]);
    refused(&with("general.architecture", text("qwen2")), &["qwen2"]);
    refused(&with("general.type", text("adapter")), &["general.type"]);
    refused(&with("tokenizer.ggml.anything", Value::U32(0)), &["tokenizer.ggml.anything"]);
    refused(&with("tokenizer.ggml.add_bos_token", Value::U32(0)), &["tokenizer.ggml.add_bos_token"]);
    refused(&with("tokenizer.ggml.precompiled_charsmap", Value::I32s(vec![1])), &["precompiled_charsmap"]);
    refused(&File::tiny().without("llama.attention.layer_norm_rms_epsilon"), &["layer_norm_rms_epsilon"]);
    assert_eq!(config(&with("llama.feed_forward_length", Value::I32s(vec![16])))["intermediate_size"], 16);
    // keys and heads are as many where the file does not say
    refused(&File::tiny().without("llama.attention.head_count_kv"), &["llama.attention.head_count_kv"]);
    let window = config(&with("llama.attention.sliding_window", Value::U32(16)));
    assert_eq!((&window["model_type"], &window["sliding_window"]), (&json!("mistral"), &json!(16)));
    assert_eq!(config(&with("llama.attention.sliding_window", Value::U32(64)))["model_type"], "llama");
    for (window, told) in [(16, true), (64, false), (0, false)] {
        let (_, _, warnings) = opened(&with("llama.attention.sliding_window", Value::U32(window))).unwrap();
        let says = |warning: &String| warning.contains("`llama.attention.sliding_window` = 16 is followed");
        assert_eq!(warnings.iter().any(says), told, "{window}: {warnings:?}");
    }
    let (_, _, warnings) = opened(&with("somebody.note", Value::U32(1))).unwrap();
    assert!(warnings.iter().any(|warning| warning.contains("`somebody.note`")), "{warnings:?}");
}

#[test]
fn a_header_says_each_thing_once_and_in_its_form() {
    let mut twice = File::tiny();
    twice.keys.push(twice.keys[1].clone());
    refused(&twice, &["llama.context_length", "twice"]);
    let mut twice = File::tiny();
    twice.tensors.push(twice.tensors[0].clone());
    refused(&twice, &["token_embd.weight", "twice"]);
    let ones = [1f32; 2].iter().flat_map(|value| value.to_le_bytes()).collect();
    let divisors = Tensor { bytes: ones, ..counted("rope_freqs.weight", &[2]) };
    let mut twice = File::tiny().tensor(divisors.clone());
    twice.tensors.push(divisors);
    refused(&twice, &["rope_freqs.weight", "twice"]);
    refused(&File::tiny().with("general.alignment", Value::U32(24)), &["general.alignment"]);
    refused(&File::tiny().with("llama.context_length", text("64")), &["llama.context_length"]);
    let folder = tempfile::tempdir().unwrap();
    let path = File::tiny().write(folder.path(), "model.gguf");
    let mut bytes = std::fs::read(&path).unwrap();
    for (version, word) in [(3u32.swap_bytes(), "big-endian"), (1, "version 1"), (4, "version 4")] {
        bytes[4..8].copy_from_slice(&version.to_le_bytes());
        std::fs::write(&path, &bytes).unwrap();
        let error = Gguf::open(&path).err().unwrap().to_string();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn a_missing_pre_tokenizer_is_told() {
    let missing = File::tiny().without("tokenizer.ggml.pre");
    let default = File::tiny().with("tokenizer.ggml.pre", text("default"));
    for file in [&missing, &default] {
        let (_, _, warnings) = opened(file).unwrap();
        assert!(warnings.iter().any(|warning| warning.contains("tokenizer.ggml.pre")), "{warnings:?}");
    }
    assert_eq!(opened(&File::tiny()).unwrap().2, Vec::<String>::new());
    refused(&File::tiny().with("tokenizer.ggml.pre", text("kimi-k2")), &["kimi-k2", "llama-bpe"]);
}

#[test]
fn tokens_stand_around_a_text_as_llama_cpp_puts_them() {
    let with =
        |key: &str, value: bool| File::tiny().with(&format!("tokenizer.ggml.{key}"), Value::Bool(value));
    // Llama 3's rules add BOS where the file does not say, GPT-2's do not
    assert_eq!(ids(&File::tiny(), "ab"), [0, 4]);
    assert_eq!(ids(&File::tiny().with("tokenizer.ggml.pre", text("gpt-2")), "ab"), [4]);
    assert_eq!(ids(&with("add_bos_token", false), "ab"), [4]);
    assert_eq!(ids(&with("add_eos_token", true), "ab"), [0, 4, 1]);
    refused(&File::tiny().without("tokenizer.ggml.bos_token_id"), &["bos_token_id"]);
    refused(&File::tiny().with("tokenizer.ggml.eos_token_id", Value::U32(6)), &["eos_token_id", "6"]);
    refused(&File::tiny().with("tokenizer.ggml.unknown_token_id", Value::U32(600)), &["unknown_token_id"]);
    let twice = texts(&["<s>", "</s>", "a", "b", "ab", "a"]);
    refused(&File::tiny().with("tokenizer.ggml.tokens", twice), &["`a` twice"]);
    let many = texts(&["<s>", "</s>", "a", "b", "ab", "Ġ", "c"]);
    let many = File::tiny().with("tokenizer.ggml.tokens", many).without("tokenizer.ggml.token_type");
    refused(&many, &["7 tokens", "6 rows"]);
    refused(&File::tiny().with("tokenizer.ggml.token_type", Value::I32s(vec![1])), &["token_type"]);
    // a word that is a token is that token under Llama 3's rules, though no merge makes it
    let unmerged = |pre: &str| {
        File::tiny().with("tokenizer.ggml.merges", texts(&[])).with("tokenizer.ggml.pre", text(pre))
    };
    assert_eq!(ids(&unmerged("llama-bpe"), "ab"), [0, 4]);
    assert_eq!(ids(&unmerged("gpt-2"), "ab"), [2, 3]);
}

#[test]
fn texts_are_cut_as_llama_cpp_cuts_them() {
    let words: Json = serde_json::from_slice(&std::fs::read(fixtures().join("words.json")).unwrap()).unwrap();
    for (name, expected) in words["pieces"].as_object().unwrap() {
        let (_, tokenizer, _) = opened(&File::tiny().with("tokenizer.ggml.pre", text(name))).unwrap();
        for (text, expected) in words["texts"].as_array().unwrap().iter().zip(expected.as_array().unwrap()) {
            let text = text.as_str().unwrap();
            let mut cut = PreTokenizedString::from(text);
            tokenizer.get_pre_tokenizer().unwrap().pre_tokenize(&mut cut).unwrap();
            let pieces: Vec<&str> = cut
                .get_splits(OffsetReferential::Original, OffsetType::Byte)
                .into_iter()
                .map(|(_, (start, end), _)| &text[start..end])
                .collect();
            assert_eq!(json!(pieces), *expected, "{name}: {text:?}");
        }
    }
}

#[test]
fn pieces_are_those_of_sentence_piece() {
    let model: Json =
        serde_json::from_slice(&std::fs::read(fixtures().join("pieces.json")).unwrap()).unwrap();
    let list = |key: &str| model[key].as_array().unwrap();
    let tokens: Vec<&str> = list("tokens").iter().map(|token| token.as_str().unwrap()).collect();
    let scores = list("scores").iter().map(|score| score.as_f64().unwrap() as f32).collect();
    let types = list("types").iter().map(|kind| kind.as_i64().unwrap() as i32).collect();
    let file = File::tiny()
        .with("tokenizer.ggml.model", text("llama"))
        .with("tokenizer.ggml.tokens", texts(&tokens))
        .with("tokenizer.ggml.scores", Value::F32s(scores))
        .with("tokenizer.ggml.token_type", Value::I32s(types))
        .with("tokenizer.ggml.bos_token_id", Value::U32(1))
        .with("tokenizer.ggml.eos_token_id", Value::U32(2))
        .without("tokenizer.ggml.pre")
        .tensor(counted("token_embd.weight", &[tokens.len() as u64, 8]))
        .tensor(counted("output.weight", &[tokens.len() as u64, 8]));
    let (_, tokenizer, warnings) = opened(&file).unwrap();
    assert_eq!(warnings, Vec::<String>::new());
    for (text, expected) in list("texts").iter().zip(list("ids")) {
        let text = text.as_str().unwrap();
        let ours = tokenizer.encode(text, false).unwrap();
        assert_eq!(json!(ours.get_ids()), *expected, "{text:?}: {:?}", ours.get_tokens());
    }
    // BOS in front where the file does not say; a piece of the user's is found before merging, and a space follows it
    let id = |piece: &str| tokens.iter().position(|token| *token == piece).unwrap() as u32;
    assert_eq!(ids(&file, "<|user|>e"), [1, id("<|user|>"), id("▁e")]);
    let bare = file.clone().with("tokenizer.ggml.add_space_prefix", Value::Bool(false));
    assert_eq!(ids(&bare, "e"), [1, id("e")]);
    refused(&file.clone().without("tokenizer.ggml.scores"), &["tokenizer.ggml.scores"]);
    refused(
        &file.with("tokenizer.ggml.remove_extra_whitespaces", Value::Bool(true)),
        &["remove_extra_whitespaces"],
    );
}

#[test]
fn parts_are_read_together() {
    let folder = tempfile::tempdir().unwrap();
    let whole = Gguf::open(&fixtures().join("tiny.gguf")).unwrap();
    let names = ["tiny-00001-of-00002.gguf", "tiny-00002-of-00002.gguf"];
    names.iter().for_each(|name| {
        std::fs::copy(fixtures().join(name), folder.path().join(name)).unwrap();
    });
    for name in names {
        let parts = Gguf::open(&folder.path().join(name)).unwrap();
        assert_eq!((parts.names(), parts.config().unwrap()), (whole.names(), whole.config().unwrap()));
        for tensor in whole.names() {
            assert_eq!(parts.read_f32(&tensor).unwrap(), whole.read_f32(&tensor).unwrap(), "{tensor}");
        }
    }
    // a folder with nothing else is that model
    let files = resolve(".", folder.path()).unwrap();
    assert_eq!((files.weights.names(), files.config), (whole.names(), whole.config().unwrap()));

    let error = |name: &str| Gguf::open(&folder.path().join(name)).err().unwrap().to_string();
    std::fs::rename(folder.path().join(names[1]), folder.path().join("away.gguf")).unwrap();
    assert!(error(names[0]).contains(names[1]), "{}", error(names[0]));
    assert!(error("away.gguf").contains("one of 2 parts"), "{}", error("away.gguf"));
    std::fs::copy(folder.path().join(names[0]), folder.path().join(names[1])).unwrap();
    assert!(error(names[0]).contains("split.no"), "{}", error(names[0]));
    let last = File { keys: vec![], tensors: vec![] }
        .with("general.architecture", text("llama"))
        .with("split.no", Value::U32(1));
    let count = last.clone().with("split.count", Value::U32(3));
    count.write(folder.path(), names[1]);
    assert!(error(names[0]).contains("split.count"), "{}", error(names[0]));
    last.with("split.count", Value::U32(2)).write(folder.path(), names[1]);
    assert!(error(names[0]).contains("split.tensors.count"), "{}", error(names[0]));
}

#[test]
fn a_file_that_ends_early_is_refused_wherever_it_ends() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let whole = std::fs::read(fixtures().join("tiny.gguf")).unwrap();
    for length in 1..whole.len() {
        std::fs::write(&path, &whole[..length]).unwrap();
        assert!(Gguf::open(&path).is_err(), "cut at {length}");
    }
}

#[test]
fn several_models_in_a_folder_are_a_question() {
    let folder = tempfile::tempdir().unwrap();
    File::tiny().write(folder.path(), "a.gguf");
    assert!(resolve(".", folder.path()).is_ok());
    File::tiny().write(folder.path(), "b.gguf");
    let error = resolve(".", folder.path()).err().unwrap().to_string();
    assert!(error.contains("several .gguf"), "{error}");
    assert!(Safetensors::open(&[folder.path().join("a.gguf")]).is_err());
}
