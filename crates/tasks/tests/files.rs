//! Data files as users have them: read, or refused by name.

#![allow(missing_docs, clippy::unwrap_used, reason = "a test may")]

mod common;

use std::io::Write;

use common::encoder;
use flate2::Compression;
use flate2::write::GzEncoder;
use peftlab_checkpoint::Tokenizer;
use peftlab_tasks::{Encoder, EndOfText, Target, TaskData, TaskError, TaskSpec};
use serde_json::{Value, json};

const CLASSES: &str = "kind = \"classification\"\n";
const CHAT: &str = "kind = \"instruction\"\ntemplate = \"chat\"\ncolumns = { messages = \"messages\" }\n";
const ALPACA: &str = "kind = \"instruction\"\n";
const TEXT: &str = "kind = \"causal-lm\"\npacking = false\n";

/// A task on a training file of these bytes, and a validation set that goes with it.
fn load(name: &str, bytes: &[u8], keys: &str) -> Result<TaskData, TaskError> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(name), bytes).unwrap();
    let row = r#"{"text": "yes", "label": "0", "instruction": "?", "output": "yes",
        "messages": [{"role": "user", "content": "yes"}, {"role": "assistant", "content": "yes"}]}"#;
    std::fs::write(dir.path().join("v.json"), row).unwrap();
    let task = format!("name = \"x\"\ntrain = \"{name}\"\nvalidation = \"v.json\"\n{keys}");
    toml::from_str::<TaskSpec>(&task).unwrap().load(dir.path(), &encoder())
}

fn refused(name: &str, bytes: impl AsRef<[u8]>, keys: &str, parts: &[&str]) {
    let error = load(name, bytes.as_ref(), keys).unwrap_err().to_string();
    assert!(parts.iter().all(|part| error.contains(part)), "{parts:?}: {error}");
}

/// Ids and classes of the training set.
fn rows(data: &TaskData) -> Vec<(Vec<u32>, usize)> {
    let row = |example: &peftlab_tasks::Example| match example.target {
        Target::Class(class) => (example.input_ids.clone(), class),
        _ => panic!("no class"),
    };
    data.train.examples.iter().map(row).collect()
}

/// The tokens that the loss counts, of the first row.
fn counted(data: &TaskData) -> Vec<i64> {
    let Target::Tokens(labels) = &data.train.examples[0].target else { panic!("tokens") };
    labels.iter().copied().filter(|label| *label >= 0).collect()
}

#[test]
fn json_goes_by_what_is_in_the_file() {
    let (one, two) = (r#"{"text": "good", "label": 1}"#, r#"{"text": "bad", "label": 0}"#);
    let lines = format!("{one}\n{two}\n");
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    packed.write_all(lines.as_bytes()).unwrap();
    let packed = packed.finish().unwrap();
    // two members, as `cat a.gz b.gz` makes them
    let member = |text: &str| {
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        packed.write_all(text.as_bytes()).unwrap();
        packed.finish().unwrap()
    };
    let members = [member(&format!("{one}\n")), member(two)].concat();
    let wanted = [(vec![3], 1), (vec![4], 0)];
    for (name, bytes) in [
        ("t.jsonl", lines.clone().into_bytes()),
        ("t.json", lines.clone().into_bytes()),
        ("t.ndjson", lines.clone().into_bytes()),
        ("t.json", format!("\u{feff}{lines}").into_bytes()),
        ("t.jsonl", lines.replace('\n', "\r\n\r\n").into_bytes()),
        ("t.jsonl", format!("[\n{one},\n{two}]").into_bytes()),
        ("t.json", format!("{{\"version\": 1, \"data\": [{one}, {two}]}}").into_bytes()),
        ("t.json", format!("{{\"rows\": [{one}, {two}]}}").into_bytes()),
        ("t.jsonl.gz", packed.clone()),
        ("t.JSON.GZ", members),
    ] {
        let data = load(name, &bytes, CLASSES).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(rows(&data), wanted, "{name}");
    }
    refused("t.jsonl.gz", &packed[..packed.len() / 2], CLASSES, &["gzip"]);
    refused(
        "t.jsonl",
        format!("{one}\n{{\"text\": NaN, \"label\": 0}}"),
        CLASSES,
        &["line 2", "NaN is no JSON"],
    );
    refused("t.jsonl", format!("{one}\n{{\"text\": \"a\"\n{two}"), CLASSES, &["is no JSON"]);
    refused(
        "t.jsonl",
        r#"{"text": "a", "text": "b", "label": 0}"#,
        CLASSES,
        &["line 1", "`text` stands twice"],
    );
    for (name, rows) in [
        ("t.json", r#"{"data": [{"text": "a", "text": "b", "label": 0}]}"#),
        ("t.json", r#"[{"text": "a", "label": 0, "about": [{"text": 1, "text": 1}]}]"#),
        ("t.jsonl", r#"{"text": "a", "label": 0, "about": {"in": {"text": 1, "text": 2}}}"#),
    ] {
        refused(name, rows, CLASSES, &["line 1", "`text` stands twice"]);
    }
    let deep = format!("{{\"text\": {}", "[".repeat(1 << 20));
    refused("t.jsonl", deep, CLASSES, &["line 1", "recursion limit"]);
    refused("t.json", r#"{"text": {"0": "a"}, "label": {"0": 1}}"#, CLASSES, &["by columns", "records"]);
    refused("t.json", r#"{"text": ["a"], "label": [1]}"#, CLASSES, &["by columns"]);
    refused(
        "t.json",
        r#"{"columns": ["text", "label"], "index": [0], "data": [["a", 1]]}"#,
        CLASSES,
        &["by columns"],
    );
    refused(
        "t.json",
        format!("{{\"train\": [{one}], \"test\": [{two}]}}"),
        CLASSES,
        &["test, train", "of their own"],
    );
    refused(
        "t.jsonl",
        format!("{one}\n{{\"text\": null, \"label\": 0}}"),
        CLASSES,
        &["row 2", "no text but null"],
    );
    refused("t.jsonl", format!("{one}\n{{\"text\": 3, \"label\": 0}}"), CLASSES, &["row 2", "no text but 3"]);
    refused("t.xlsx", "", CLASSES, &["not known", ".jsonl"]);
    refused("t.jsonl", &lines, &format!("{CLASSES}unescape = true\n"), &["unescape is for .tsv and .csv"]);
}

#[test]
fn tables_are_read_as_they_are_written() {
    let wanted = [(vec![3, 5], 1), (vec![4], 0)];
    for (name, text) in [
        ("t.csv", "text,label\n\"good\nfilm\",1\nbad,0\n"),
        ("t.csv", "\u{feff}\"text\",\"label\"\r\n\"good film\",1\r\n\r\nbad,0"),
        ("t.tsv", "label\ttext\n1\tgood film\n0\tbad\n"),
        ("t.csv", "text,label,note,note\ngood film,1.0,x,y\nbad,0.0,x,y\n"),
        // a mark within a field that none opens
        ("t.csv", "text,label,size\ngood film,1,5\"\nbad,0,7\"\n"),
    ] {
        assert_eq!(rows(&load(name, text.as_bytes(), CLASSES).unwrap()), wanted, "{text}");
    }
    refused("t.csv", "text;label\ngood;1\n", CLASSES, &["one column, `text;label`", "';'"]);
    refused("t.tsv", "text,label\ngood,1\n", CLASSES, &["one column", "','"]);
    refused("t.csv", "text,label,text\ngood,1,bad\n", CLASSES, &["two columns `text`"]);
    refused("t.csv", "text,label\n\"good,1\nbad,0\na,1\n", CLASSES, &["line 2", "none closes it"]);
    for field in ["\"a \"good\" film\"", "\"a \\\"good\\\"\""] {
        let text = format!("text,label\nbad,0\n{field},1\n");
        refused("t.csv", text, CLASSES, &["line 3", "goes on behind", "quotes = false"]);
    }
    refused("t.csv", "text,label\ngood,1,2\n", CLASSES, &["line 2", "3 columns"]);
    refused("t.csv", b"text,label\ncaf\xe9,1\n", CLASSES, &["line 2", "not UTF-8", "Latin-1"]);
    refused("t.csv", b"\xff\xfet\0e\0", CLASSES, &["UTF-16"]);
    refused("t.csv", "text,label\ngood,\nbad,1\n", CLASSES, &["row 2", "no label"]);
}

#[test]
fn a_columns_place_is_not_its_name() {
    // as pandas writes a frame without names
    for (columns, text) in [
        ("text = 1, label = 2", ",0,1\n7,good film,1\n8,bad,0\n"),
        ("text = 0, label = 1", "1,0\ngood film,1\nbad,0\n"),
        ("text = \"1\", label = \"0\"", "1,0\ngood film,1\nbad,0\n"),
        ("text = 0, label = \"0\"", "1,0\ngood film,1\nbad,0\n"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("t.csv"), text).unwrap();
        std::fs::write(dir.path().join("v.csv"), text.replace("film", "a")).unwrap();
        let task = format!(
            "name = \"x\"\ntrain = \"t.csv\"\nvalidation = \"v.csv\"\n{CLASSES}columns = {{ {columns} }}"
        );
        let data = toml::from_str::<TaskSpec>(&task).unwrap().load(dir.path(), &encoder()).unwrap();
        assert_eq!(rows(&data), [(vec![3, 5], 1), (vec![4], 0)], "{columns}");
    }
    let missing = format!("{CLASSES}columns = {{ text = 0 }}");
    refused(
        "t.json",
        "{\"0\": \"a\", \"label\": 1}\n{\"0\": \"a\", \"label\": 0}",
        &missing,
        &["no column `0`"],
    );
}

#[test]
fn what_may_not_be_meant_in_a_table_is_told() {
    for (name, text, keys, part) in [
        ("t.tsv", "text\nyes\n\n\nno\n", TEXT.to_owned(), "2 empty lines are left out"),
        (
            "t.tsv",
            "text\n\"a \"\"good\"\" film\"\n",
            TEXT.to_owned(),
            "1 fields stand between quotation marks",
        ),
        ("t.tsv", "text\n\"good\" \"bad\"\n", TEXT.to_owned(), ""),
        ("t.tsv", "text\nno\n", TEXT.to_owned(), ""),
    ] {
        let data = load(name, text.as_bytes(), &keys).unwrap();
        match part {
            "" => assert_eq!(data.warnings, Vec::<String>::new()),
            part => assert!(data.warnings.iter().any(|told| told.contains(part)), "{:?}", data.warnings),
        }
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("t.csv"), "bad,0\ngood,1\nbad,0\n").unwrap();
    std::fs::write(dir.path().join("v.csv"), "a,0\nyes,1\n").unwrap();
    let task = format!(
        "name = \"x\"\ntrain = \"t.csv\"\nvalidation = \"v.csv\"\n{CLASSES}columns = {{ text = 0, label = 1 }}"
    );
    let data = toml::from_str::<TaskSpec>(&task).unwrap().load(dir.path(), &encoder()).unwrap();
    let told = data.warnings.iter().any(|told| told.contains("(bad, 0)") && told.contains("header = false"));
    assert!(told, "{:?}", data.warnings);
}

#[test]
fn classes_that_a_metric_or_the_training_set_lacks_are_told() {
    let three =
        "{\"text\": \"a\", \"label\": 0}\n{\"text\": \"a\", \"label\": 1}\n{\"text\": \"a\", \"label\": 2}\n";
    refused(
        "t.jsonl",
        three,
        &format!("{CLASSES}metrics = [\"f1\"]"),
        &["`f1`", "there are 3", "`macro-f1`"],
    );
    refused("t.jsonl", three, &format!("{CLASSES}labels = [\"0\", \"1\", \"1.0\"]"), &["same number"]);
    let data = load("t.jsonl", three.as_bytes(), &format!("{CLASSES}labels = [\"0\", \"1\", \"2\", \"3\"]"));
    let told = data.unwrap().warnings;
    assert!(told.iter().any(|told| told.contains("no row is of the class 3 (1 of 4)")), "{told:?}");
}

#[test]
fn parts_of_a_prompt_outside_the_template_are_refused() {
    for (column, keys, kept) in [
        ("system_prompt", ALPACA.to_owned(), false),
        ("context", ALPACA.to_owned(), false),
        ("context", format!("{ALPACA}columns = {{ input = \"context\" }}"), true),
        ("images", ALPACA.to_owned(), false),
        ("system_prompt", CHAT.to_owned(), false),
        // beside turns it may be anything
        ("context", CHAT.to_owned(), true),
        ("category", ALPACA.to_owned(), true),
    ] {
        let turns = json!([{ "role": "user", "content": "a" }, { "role": "assistant", "content": "yes" }]);
        let row = json!({ "instruction": "?", "output": "yes", "messages": turns, column: "film" });
        // a second row, as in all files but the smallest
        let rows = json!([row, row]).to_string();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("t.json"), &rows).unwrap();
        std::fs::write(dir.path().join("v.json"), &rows).unwrap();
        let task = format!("name = \"x\"\ntrain = \"t.json\"\nvalidation = \"v.json\"\n{keys}");
        match toml::from_str::<TaskSpec>(&task).unwrap().load(dir.path(), &encoder()) {
            Ok(_) => assert!(kept, "{column}"),
            Err(error) => {
                assert!(!kept && error.to_string().contains(&format!("`{column}` holds a part")), "{error}");
            }
        }
    }
    let text = json!({ "messages": "[{\"role\": \"user\"}]" }).to_string();
    refused("t.jsonl", text, CHAT, &["JSON within a text is not read"]);
}

#[test]
fn a_text_without_a_token_is_refused() {
    let text = "{\"text\": \"\", \"label\": 1}\n{\"text\": \"a\", \"label\": 0}\n";
    refused("t.jsonl", text, CLASSES, &["t.jsonl", "row 1", "no token of its text"]);
}

#[test]
fn classes_are_as_many_as_the_training_set_has() {
    let lines = |labels: &[&str]| {
        labels.iter().map(|label| format!("{{\"text\": \"a\", \"label\": {label}}}\n")).collect::<String>()
    };
    let classes =
        |labels: &[&str]| load("t.jsonl", lines(labels).as_bytes(), CLASSES).map(|data| data.classes);
    assert_eq!(classes(&["0", "2", "1.0", "\"1\""]).unwrap(), ["0", "1", "2"]);
    assert_eq!(classes(&["true", "false"]).unwrap(), ["false", "true"]);
    let wrong = |labels: &[&str], parts: &[&str]| refused("t.jsonl", lines(labels), CLASSES, parts);
    // a column of ids allocates nothing
    wrong(&["0", "4000000000000000000"], &["the largest is 4000000000000000000", "labels = [\"0\", "]);
    wrong(&["1", "2"], &["0 does not occur", "labels = [\"1\", \"2\"]"]);
    wrong(&["0", "0"], &["every label", "labels = "]);
    wrong(&["-1", "1"], &["row 1", "the label -1", "GLUE", "labels = "]);
    wrong(&["0", "null"], &["row 2", "no label"]);
    wrong(&["0", "true"], &["booleans in some rows"]);
    wrong(&["0.5", "1"], &["row 1", "the label 0.5"]);
}

#[test]
fn turns_are_learnt_or_refused_by_name() {
    let chat = |turns: &str| format!("{{\"messages\": [{turns}]}}\n");
    let read = |turns: &str| load("t.jsonl", chat(turns).as_bytes(), CHAT).unwrap();
    let wrong = |turns: &str, parts: &[&str]| refused("t.jsonl", chat(turns), CHAT, parts);
    let user = r#"{"role": "user", "content": "good"}"#;
    for role in ["assistant", "gpt", "chatgpt", "model", "bing", "bard"] {
        let data = read(&format!(
            "{{\"from\": \"human\", \"value\": \"good\"}}, {{\"from\": \"{role}\", \"value\": \"bad\"}}"
        ));
        assert_eq!(counted(&data), [4, 11], "{role}");
        assert_eq!(data.train.examples[0].input_ids, [10, 8, 3, 11, 10, 9, 4, 11], "{role}");
    }
    let weighted = r#"{"role": "assistant", "content": "bad", "weight": 0, "name": null, "tool_calls": []}"#;
    let answer = r#"{"role": "assistant", "content": "yes", "weight": 1, "id": "x"}"#;
    assert_eq!(counted(&read(&format!("{user}, {weighted}, {user}, {answer}"))), [6, 11]);
    let with = |key: &str| format!("{user}, {{\"role\": \"assistant\", \"content\": \"bad\", {key}}}");
    wrong(&with("\"weight\": 0.5"), &["row 1", "turn 2", "`weight` is 0.5"]);
    wrong(&with("\"tool_calls\": [{\"id\": 1}]"), &["`tool_calls` is not supported"]);
    wrong(&with("\"reasoning_content\": \"a\""), &["`reasoning_content` is not supported"]);
    wrong(&with("\"value\": \"good\""), &["`content` and `value`, which differ"]);
    wrong(&with("\"from\": \"user\""), &["`role` and `from`, which differ"]);
    wrong(r#"{"role": "tool", "content": "a"}"#, &["turn 1", "role `tool`", "gpt, chatgpt"]);
    wrong(r#"{"role": "user", "content": null}"#, &["its `content` is null"]);
    wrong(r#"{"role": "user", "content": [{"type": "text"}]}"#, &["content is no text but [{"]);
    wrong(r#"{"content": "a"}"#, &["turn 1: has no `role`"]);
    wrong("3", &["turn 1: is no object but 3"]);
    // conversations without an answer are left out, and counted
    let data =
        load("t.jsonl", [chat(user), chat(&format!("{user}, {answer}"))].concat().as_bytes(), CHAT).unwrap();
    assert_eq!(data.splits[0].dropped.iter().map(|(_, count)| count).sum::<u64>(), 1);
    assert!(data.warnings.iter().any(|warning| warning.contains("train: 1 of 2 rows are left out")));
    let system = r#"{"system": "a", "messages": [{"role": "user", "content": "good"}]}"#;
    refused("t.jsonl", system, CHAT, &["column `system`", "leaves out"]);
    let history = r#"{"instruction": "a", "output": "yes", "history": [["a", "b"]]}"#;
    refused("t.jsonl", history, ALPACA, &["column `history`"]);
    let filled = r#"{"instruction": "a", "output": "yes", "input": 3}"#;
    refused("t.jsonl", filled, ALPACA, &["`input` holds no text but 3"]);
    let empty = r#"{"instruction": "a", "output": "yes", "input": null, "history": [], "system": ""}"#;
    assert_eq!(counted(&load("t.jsonl", empty.as_bytes(), ALPACA).unwrap()), [6, 1]);
    let none = r#"{"instruction": "a", "output": "yes"}"#;
    let keys = format!("{ALPACA}columns = {{ input = \"context\" }}\n");
    refused("t.jsonl", none, &keys, &["no column `context`"]);
}

#[test]
fn what_is_too_long_is_cut_dropped_or_refused() {
    let lines = "{\"text\": \"a good film\"}\n{\"text\": \"a\"}\n";
    let load = |keys: &str| load("t.jsonl", lines.as_bytes(), &format!("{TEXT}max_length = 3\n{keys}"));
    let data = load("").unwrap();
    assert_eq!((data.splits[0].cut, data.splits[0].examples), (1, 2));
    assert_eq!(data.train.examples[0].input_ids, [2, 3, 5]);
    assert!(
        data.warnings[0].contains("1 of 2 examples are longer than max_length = 3"),
        "{:?}",
        data.warnings
    );
    let data = load("too_long = \"drop\"\n").unwrap();
    assert_eq!((data.splits[0].cut, data.splits[0].examples), (0, 1));
    let error = load("too_long = \"refuse\"\n").unwrap_err().to_string();
    assert!(error.contains("row 1") && error.contains("max_length = 3"), "{error}");
}

#[test]
fn splits_are_compared_by_what_is_in_them() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("a.tsv", "text\tlabel\ngood\t1\nbad\t0\n");
    write("copy.jsonl", "{\"text\": \"good\", \"label\": 1}\n{\"text\": \"bad\", \"label\": 1}\n");
    write("other.tsv", "text\tlabel\ngood\t0\na film\t0\n");
    let load = |validation: &str| {
        let task = format!("name = \"x\"\n{CLASSES}train = \"a.tsv\"\nvalidation = {validation}\n");
        toml::from_str::<TaskSpec>(&task).unwrap().load(dir.path(), &encoder())
    };
    assert_eq!(
        load("\"other.tsv\"").unwrap().warnings,
        ["1 of the 2 rows of validation stand in train, too"]
    );
    assert!(load("\"copy.jsonl\"").unwrap().warnings[0].contains("all 2 rows of validation"));
    for same in ["\"./a.tsv\"", "[\"other.tsv\", \"../x/../a.tsv\"]", "{ path = \"./a.tsv\", skip = 1 }"] {
        let same = same.replace("../x/..", &dir.path().display().to_string());
        assert!(load(&same).unwrap_err().to_string().contains("share rows"), "{same}");
    }
    assert!(load("[\"other.tsv\", \"./other.tsv\"]").unwrap_err().to_string().contains("twice"));
    assert!(load("{ path = \"other.tsv\", take = 9 }").unwrap().warnings[0].contains("only 2 rows"));
    let none = load(&format!("{{ path = \"other.tsv\", skip = {} }}", i64::MAX)).unwrap_err().to_string();
    assert!(none.contains("no rows are left"), "{none}");
    // half of a data set is not the data set
    write("train-00000-of-00002.tsv", "text\tlabel\ngood\t1\n");
    let folder = "name = \"x\"\nkind = \"classification\"\ntrain = \".\"\nvalidation = \"a.tsv\"\n";
    let error =
        toml::from_str::<TaskSpec>(folder).unwrap().load(dir.path(), &encoder()).unwrap_err().to_string();
    assert!(error.contains("number 1 is missing"), "{error}");
}

#[test]
fn prompt_and_answer_are_one_text() {
    // Llama 2's layout: a space in front of each text, so that an answer of its own would begin with one
    let vocabulary: serde_json::Map<String, Value> = ["<unk>", "</s>", "▁", "yes", "▁yes"]
        .iter()
        .enumerate()
        .map(|(id, t)| ((*t).to_owned(), id.into()))
        .collect();
    let definition = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "pre_tokenizer": null,
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "Prepend", "prepend": "▁" },
            { "type": "Replace", "pattern": { "String": " " }, "content": "▁" },
        ] },
        "post_processor": null, "decoder": null,
        "model": { "type": "Unigram", "unk_id": 0, "byte_fallback": false,
            "vocab": vocabulary.keys().map(|token| json!([token, -1.0])).collect::<Vec<_>>() },
    });
    let tokenizer = Tokenizer::from_bytes(definition.to_string().as_bytes()).unwrap();
    let (whole, end) = (tokenizer.id("yes").unwrap(), tokenizer.id("</s>").unwrap());
    let encoder =
        Encoder { tokenizer: Some(tokenizer), eos: EndOfText::Token { id: end, note: None }, vocabulary: 5 };
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("t.jsonl"), r#"{"instruction": "a", "output": "yes"}"#).unwrap();
    std::fs::write(dir.path().join("v.jsonl"), r#"{"instruction": "b", "output": "yes"}"#).unwrap();
    let task =
        format!("name = \"x\"\n{ALPACA}max_length = 500\ntrain = \"t.jsonl\"\nvalidation = \"v.jsonl\"\n");
    let data = toml::from_str::<TaskSpec>(&task).unwrap().load(dir.path(), &encoder).unwrap();
    assert_eq!(counted(&data), [i64::from(whole), i64::from(end)]);
}

#[test]
fn a_model_without_what_a_text_needs_is_refused() {
    let chat = "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"a\"}]}";
    let load = |content: &str, keys: &str, encoder: &Encoder| {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("t.jsonl"), content).unwrap();
        std::fs::write(dir.path().join("v.jsonl"), content).unwrap();
        let task = format!("name = \"x\"\n{keys}train = \"t.jsonl\"\nvalidation = \"v.jsonl\"\n");
        toml::from_str::<TaskSpec>(&task).unwrap().load(dir.path(), encoder)
    };
    let text = "{\"text\": \"a good film\", \"label\": 1}\n{\"text\": \"a\", \"label\": 0}";
    let with = |eos: EndOfText| Encoder { eos, ..encoder() };
    let error = load(text, TEXT, &with(EndOfText::Token { id: 12, note: None })).unwrap_err().to_string();
    assert!(error.contains("vocab_size = 12") && error.contains("eos_token"), "{error}");
    let error =
        load(text, TEXT, &with(EndOfText::Unclear("several ends".to_owned()))).unwrap_err().to_string();
    assert!(error.contains("several ends"), "{error}");
    let data = load(text, TEXT, &with(EndOfText::None)).unwrap();
    assert!(data.warnings.iter().any(|warning| warning.contains("no token that ends a text")));
    // a class needs none
    load(text, CLASSES, &with(EndOfText::Unclear("several ends".to_owned()))).unwrap();
    let error = load(chat, CHAT, &Encoder { vocabulary: 11, ..encoder() }).unwrap_err().to_string();
    assert!(error.contains("`<|im_end|>` has the id 11") && error.contains("vocab_size = 11"), "{error}");
    let plain = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": { "type": "Whitespace" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": { "a": 0 }, "unk_token": "a" },
    });
    let plain = Tokenizer::from_bytes(plain.to_string().as_bytes()).unwrap();
    let error = load(chat, CHAT, &Encoder { tokenizer: Some(plain), ..encoder() }).unwrap_err().to_string();
    assert!(error.contains("no token <|im_start|>"), "{error}");
}

#[test]
fn keys_of_another_kind_of_task_are_refused() {
    let lines =
        "{\"text\": \"a\", \"label\": 1, \"output\": \"a\", \"instruction\": \"a\", \"messages\": []}";
    for (keys, part) in [
        (format!("{TEXT}labels = [\"a\", \"b\"]"), "labels is not for causal-lm"),
        (format!("{CLASSES}range = [0, 1]"), "range is not for classification"),
        (format!("{CLASSES}packing = false"), "packing = false is not for"),
        (format!("{CLASSES}columns = {{ output = \"text\" }}"), "columns.output is not for classification"),
        (format!("{TEXT}columns = {{ label = \"text\" }}"), "columns.label is not for causal-lm"),
        (format!("{ALPACA}columns = {{ text = \"output\" }}"), "columns.text is not for instruction"),
        (
            CHAT.replace("messages =", "output = \"text\", messages ="),
            "columns.output is not for instruction tasks on turns",
        ),
        ("kind = \"causal-lm\"\ntoo_long = \"refuse\"".to_owned(), "too_long with packing"),
        (format!("{CLASSES}template = \"chat\""), "template = \"chat\" is not for"),
        (format!("{ALPACA}columns = {{ messages = \"messages\" }}"), "set template = \"chat\""),
        (format!("{CLASSES}labels = [\"a\", \"a\"]"), "`a` stands twice"),
        (format!("{CLASSES}metrics = [\"accuracy\", \"accuracy\"]"), "`accuracy` stands twice"),
        (format!("{CLASSES}max_length = 9000000000000000000"), "max_length is 9000000000000000000"),
        ("kind = \"regression\"\nrange = [1, 0]".to_owned(), "range is [1, 0]"),
    ] {
        refused("t.jsonl", lines, &keys, &[part]);
    }
}
