//! From a struct to Markdown: a list of its fields with type, default and meaning, and a section for each struct in it.

use std::collections::HashMap;
use std::fmt::Write;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

/// How the struct stands in a file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Keys that a person writes: some may be left out.
    Toml,
    /// Fields that the program writes.
    Json,
    /// Columns of a table.
    Csv,
}

/// The fields of `T`, and after them those of the structs in it, under headings of the second level and below.
pub(super) fn fields<T: JsonSchema>(form: Form) -> String {
    let settings = SchemaSettings::draft2020_12();
    let written = settings.clone().for_serialize().into_generator().into_root_schema_for::<T>().to_value();
    let read = match form {
        Form::Toml => settings.for_deserialize().into_generator().into_root_schema_for::<T>().to_value(),
        Form::Json | Form::Csv => written.clone(),
    };
    let mut writer = Writer { form, read: &read, written: &written, headings: HashMap::new() };
    let mut text = String::new();
    writer.section(&read, &written, &Place::default(), &mut text);
    text
}

struct Writer<'a> {
    form: Form,
    read: &'a Value,
    /// The same structs as they are written: there all fields are required, and the required ones are listed in the
    /// order of the struct, where an object of JSON sorts them by name.
    written: &'a Value,
    /// Headings of the sections, by the struct's name.
    headings: HashMap<String, String>,
}

/// The keys that lead to a value.
#[derive(Clone, Default)]
struct Place {
    path: String,
    depth: usize,
}

/// A section that is still to be written.
struct Below {
    name: String,
    heading: String,
    place: Place,
}

impl Place {
    fn under(&self, key: &str) -> Self {
        let dot = if self.path.is_empty() { "" } else { "." };
        Self { path: format!("{}{dot}{key}", self.path), depth: self.depth + 1 }
    }

    /// An entry of the list that is here.
    fn entry(&self) -> Self {
        Self { path: format!("{}[]", self.path), depth: self.depth }
    }

    fn heading(&self, form: Form) -> String {
        match (form, self.path.strip_suffix("[]")) {
            (Form::Toml, Some(list)) if self.depth == 1 => format!("`[[{list}]]`"),
            (Form::Toml, None) if self.depth == 1 => format!("`[{}]`", self.path),
            _ if form == Form::Toml => format!("`{}`", self.path.replace("[]", "")),
            _ => format!("`{}`", self.path),
        }
    }
}

impl Writer<'_> {
    /// The fields of a struct, or the forms of a union, and the sections below.
    fn section(&mut self, schema: &Value, written: &Value, place: &Place, text: &mut String) {
        let mut below = Vec::new();
        match (forms(schema), forms(written)) {
            (Some(forms), Some(written)) => {
                for (form, written) in forms.iter().zip(written) {
                    self.form(form, written, place, &mut below, text);
                }
            }
            _ => self.list(schema, written, place, "", &mut below, text),
        }
        for Below { name, heading, place } in below {
            let (read, written) = (self.read, self.written);
            let schema = &read["$defs"][&name];
            let level = "#".repeat(1 + place.depth.min(2));
            let _ = write!(text, "\n{level} {heading}\n\n");
            if let Some(description) = description(schema) {
                let _ = write!(text, "{description}\n\n");
            }
            self.section(schema, &written["$defs"][&name], &place, text);
        }
    }

    /// One form of a union, with its own fields.
    fn form(
        &mut self,
        form: &Value,
        written: &Value,
        place: &Place,
        below: &mut Vec<Below>,
        text: &mut String,
    ) {
        let meaning = description(form).unwrap_or_default();
        let form = resolve(form, self.read);
        let tags = form["properties"].as_object().into_iter().flatten();
        let mut tags =
            tags.filter_map(|(key, value)| Some(format!("`{key} = {}`", toml(value.get("const")?))));
        let kind = match (tags.next(), form["properties"].is_object()) {
            (Some(tag), _) => tag,
            (None, true) => self.table().to_owned(),
            (None, false) => self.kind(form, place, below),
        };
        let _ = writeln!(text, "- {kind}: {meaning}");
        self.list(form, resolve(written, self.written), place, "  ", below, text);
    }

    /// A list of the fields of `schema`; what is to have a section of its own goes into `below`.
    fn list(
        &mut self,
        schema: &Value,
        written: &Value,
        place: &Place,
        indent: &str,
        below: &mut Vec<Below>,
        text: &mut String,
    ) {
        let Some(properties) = schema["properties"].as_object() else { return };
        for key in in_order(properties, written) {
            let field = &properties[key];
            if field.get("const").is_some() {
                // what tells this form from the others stands before the list
                continue;
            }
            let kind = self.kind(field, &place.under(key), below);
            let required = schema["required"].as_array().is_some_and(|all| all.iter().any(|one| one == key));
            // a list that may not be empty is told to be so by the program, not by serde
            let required = required || field["minItems"] == 1;
            let default = match (self.form, required, field.get("default")) {
                (Form::Json | Form::Csv, ..) => String::new(),
                (Form::Toml, true, _) => ", required".to_owned(),
                (Form::Toml, false, None | Some(Value::Null)) => ", optional".to_owned(),
                (Form::Toml, false, Some(default)) => format!(", default `{}`", toml(default)),
            };
            let meaning = description(field).map_or(String::new(), |meaning| format!(": {meaning}"));
            let _ = writeln!(text, "{indent}- `{key}` ({kind}{default}){meaning}");
            for (value, meaning) in values(field, self.read) {
                let _ = writeln!(text, "{indent}  - `{value}`: {meaning}");
            }
        }
    }

    /// A field's type in words. A struct has a section of its own, and the word leads there.
    fn kind(&mut self, field: &Value, place: &Place, below: &mut Vec<Below>) -> String {
        let schema = resolve(field, self.read);
        if let Some(name) = named(field).filter(|_| !is_plain(schema, self.read)) {
            let form = self.form;
            let heading = self.headings.entry(name.to_owned()).or_insert_with(|| {
                let title = schema["title"].as_str();
                let heading = title.map_or_else(|| place.heading(form), str::to_owned);
                below.push(Below { name: name.to_owned(), heading: heading.clone(), place: place.clone() });
                heading
            });
            let link = format!("[{}](#{})", heading.replace('`', "\\"), anchor(heading));
            let link = link.replace("[\\", "[`").replace("\\]", "`]");
            let table =
                if schema["properties"].is_object() { format!("{}: ", self.table()) } else { String::new() };
            return format!("{table}{link}{}", self.or_null(field));
        }
        // TOML has no null: what may be null may be left out
        let is_shown = |kind: &Value, form: Form| form != Form::Toml || kind != "null";
        if let Some(any) = schema["anyOf"].as_array() {
            let form = self.form;
            let any = any.iter().filter(|one| is_shown(&one["type"], form));
            return any.map(|one| self.kind(one, place, below)).collect::<Vec<_>>().join(" or ");
        }
        match &schema["type"] {
            Value::String(kind) => self.of_type(kind, schema, place, below),
            Value::Array(kinds) => {
                let form = self.form;
                let kinds = kinds.iter().filter(|kind| is_shown(kind, form)).filter_map(Value::as_str);
                kinds.map(|kind| self.of_type(kind, schema, place, below)).collect::<Vec<_>>().join(" or ")
            }
            _ if schema["oneOf"].is_array() => format!("string{}", self.or_null(field)),
            _ => "anything".to_owned(),
        }
    }

    fn of_type(&mut self, kind: &str, schema: &Value, place: &Place, below: &mut Vec<Below>) -> String {
        match kind {
            "array" => {
                let count = schema["minItems"].as_u64().filter(|count| schema["maxItems"] == *count);
                let count = count.map_or(String::new(), |count| format!("{count} "));
                let items = self.kind(&schema["items"], &place.entry(), below);
                let end = items.find(|c: char| !c.is_alphabetic()).unwrap_or(items.len());
                match end {
                    0 => format!("array of {items}"),
                    _ => format!("array of {count}{}s{}", &items[..end], &items[end..]),
                }
            }
            "object" => match schema["additionalProperties"]["type"].as_str() {
                Some(values) => format!("{} of {values}s by name", self.table()),
                None => self.table().to_owned(),
            },
            kind => kind.to_owned(),
        }
    }

    /// What a struct or a word that may be missing is besides.
    fn or_null(&self, field: &Value) -> &'static str {
        if self.form != Form::Toml && field["anyOf"].is_array() { " or null" } else { "" }
    }

    fn table(&self) -> &'static str {
        if self.form == Form::Toml { "table" } else { "object" }
    }
}

/// The keys of `properties` in the order of the struct; those that are not always written come last.
fn in_order<'a>(properties: &'a Map<String, Value>, written: &'a Value) -> Vec<&'a str> {
    let first: Vec<&str> =
        written["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let rest = properties.keys().map(String::as_str).filter(|key| !first.contains(key));
    first.iter().copied().filter(|key| properties.contains_key(*key)).chain(rest).collect()
}

/// The forms of a union, if the schema is one.
fn forms(schema: &Value) -> Option<&Vec<Value>> {
    schema["anyOf"].as_array().or(schema["oneOf"].as_array())
}

/// The name of the struct that a field holds, alone or if at all.
fn named(field: &Value) -> Option<&str> {
    let reference = field["$ref"].as_str().or_else(|| match field["anyOf"].as_array()?.as_slice() {
        [one, none] if none["type"] == "null" => one["$ref"].as_str(),
        _ => None,
    })?;
    reference.rsplit('/').next()
}

fn resolve<'a>(schema: &'a Value, root: &'a Value) -> &'a Value {
    named(schema).map_or(schema, |name| &root["$defs"][name])
}

/// Whether a type needs no section: a word, a number, or one of a few.
fn is_plain(schema: &Value, root: &Value) -> bool {
    match forms(schema) {
        Some(forms) => forms.iter().all(|form| {
            let form = resolve(form, root);
            !form["properties"].is_object() && form["type"] != "array"
        }),
        None => !schema["properties"].is_object(),
    }
}

/// The values of a field that may be one of a few, or of the entries of a list of such, each with its meaning.
fn values(field: &Value, root: &Value) -> Vec<(String, String)> {
    let schema = resolve(field, root);
    let schema = if schema["items"].is_object() { resolve(&schema["items"], root) } else { schema };
    let each = schema["oneOf"].as_array().into_iter().flatten();
    each.filter_map(|one| Some((toml(one.get("const")?), description(one).unwrap_or_default()))).collect()
}

/// A doc comment as one paragraph; of a link to one of Rust's items the last part of its name.
fn description(schema: &Value) -> Option<String> {
    let text = schema["description"].as_str()?.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut parts = text.split("[`");
    let mut plain = parts.next()?.to_owned();
    for part in parts {
        let (link, rest) = part.split_once("`]").unwrap_or((part, ""));
        let _ = write!(plain, "`{}`{rest}", link.rsplit("::").next().unwrap_or(link));
    }
    Some(plain)
}

/// How a value stands in a file of TOML.
fn toml(value: &Value) -> String {
    match value {
        Value::Array(entries) => format!("[{}]", entries.iter().map(toml).collect::<Vec<_>>().join(", ")),
        Value::Object(entries) if entries.is_empty() => "{}".to_owned(),
        Value::Object(entries) => {
            let entries = entries.iter().filter(|(_, value)| !value.is_null());
            let entries: Vec<String> =
                entries.map(|(key, value)| format!("{key} = {}", toml(value))).collect();
            format!("{{ {} }}", entries.join(", "))
        }
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() && float != 0.0 && float.abs() < 1e-2 => format!("{float:e}"),
            _ => number.to_string(),
        },
        other => other.to_string(),
    }
}

/// Where a link within the page to `heading` leads, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}
