//! A JSON Schema of experiment files, for editors that complete keys and underline wrong ones.

use anyhow::Result;
use peftlab_harness::ExperimentFile;
use peftlab_peft::{Card, Registry};
use schemars::Schema;
use schemars::generate::SchemaSettings;
use schemars::transform::transform_subschemas;
use serde_json::{Map, Value, json};

/// The schema, as text. A method's table is one of those that the methods' cards describe, told by `name`.
pub(super) fn schema(registry: &Registry) -> Result<String> {
    // taplo, which most editors use for TOML, reads draft 7
    let generator = SchemaSettings::draft07().for_deserialize().into_generator();
    let mut schema = generator.into_root_schema_for::<ExperimentFile>();
    without_null(&mut schema);
    let mut schema = schema.to_value();
    schema["title"] = json!("A peftlab experiment");
    // a list that may not be empty is told to be so by the program, not by serde
    for list in ["task", "method"] {
        if let Some(required) = schema["required"].as_array_mut() {
            required.push(json!(list));
        }
        if let Some(property) = schema["properties"][list].as_object_mut() {
            property.remove("default");
        }
    }
    let definitions = &mut schema["definitions"];
    let common = definitions["MethodTable"].take();
    let methods: Vec<Value> = registry.entries().map(|entry| method(entry.card, &common)).collect();
    definitions["MethodTable"] = json!({ "description": common["description"], "oneOf": methods });
    Ok(serde_json::to_string_pretty(&schema)? + "\n")
}

/// The table of one method: the keys that all have, and its settings.
fn method(card: &Card, common: &Value) -> Value {
    let mut properties: Map<String, Value> = common["properties"].as_object().cloned().unwrap_or_default();
    properties.insert("name".to_owned(), json!({ "const": card.name, "description": card.title }));
    for (key, default, meaning) in card.settings {
        let description = format!("{meaning} (default: {default})");
        properties.insert((*key).to_owned(), json!({ "description": description }));
    }
    json!({
        "title": card.title,
        "description": card.summary,
        "type": "object",
        "properties": properties,
        "required": ["name"],
        "additionalProperties": false,
    })
}

/// TOML has no null: a key that may be null may be left out. And formats such as `uint` are Rust's.
fn without_null(schema: &mut Schema) {
    if let Some(object) = schema.as_object_mut() {
        object.remove("format");
        object.retain(|key, value| key != "default" || !value.is_null());
        if let Some(Value::Object(default)) = object.get_mut("default") {
            default.retain(|_, value| !value.is_null());
        }
        if let Some(Value::Array(kinds)) = object.get_mut("type") {
            kinds.retain(|kind| kind != "null");
            if let [kind] = kinds.as_slice() {
                let kind = kind.clone();
                object.insert("type".to_owned(), kind);
            }
        }
        if let Some(Value::Array(forms)) = object.get_mut("anyOf") {
            forms.retain(|form| form["type"] != "null");
        }
    }
    transform_subschemas(&mut without_null, schema);
}
