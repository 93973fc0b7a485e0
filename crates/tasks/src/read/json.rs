//! JSON: an array of objects, objects one after the other, or one object that holds such an array.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::{Reader, Row};
use crate::TaskError;
use crate::spec::Column;

/// A value in which each object's keys stand once: of two of a name, a reader would have to drop one.
struct Once(Value);

/// An object of such values.
struct Cells(Map<String, Value>);

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // serde_json itself ends a descent that is too deep
        deserializer.deserialize_any(Values).map(Self)
    }
}

impl<'de> Deserialize<'de> for Cells {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Keys).map(Self)
    }
}

struct Keys;

impl<'de> Visitor<'de> for Keys {
    type Value = Map<String, Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<Self::Value, A::Error> {
        cells(access)
    }
}

struct Values;

impl<'de> Visitor<'de> for Values {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Once(value)) = access.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<Value, A::Error> {
        cells(access).map(Value::Object)
    }
}

fn cells<'de, A: MapAccess<'de>>(mut access: A) -> Result<Map<String, Value>, A::Error> {
    let mut cells = Map::new();
    while let Some((key, Once(value))) = access.next_entry::<String, Once>()? {
        if cells.contains_key(&key) {
            return Err(A::Error::custom(format!("the key `{key}` stands twice in an object")));
        }
        cells.insert(key, value);
    }
    Ok(cells)
}

impl Reader<'_> {
    /// Goes by what is in the file, not by its name: `Dataset.to_json("x.json")` writes lines.
    pub(super) fn json(&self) -> Result<Vec<Row>, TaskError> {
        let text = self.text()?;
        if text.trim_start().starts_with('[') {
            let cells: Vec<Cells> =
                serde_json::from_str(&text).map_err(|error| self.no_json(&text, &error))?;
            let rows = cells.into_iter().enumerate().map(|(i, Cells(cells))| Row::named(cells, i + 1));
            return Ok(rows.collect());
        }
        let mut rows = Vec::new();
        let mut objects = serde_json::Deserializer::from_str(&text).into_iter::<Cells>();
        let (mut at, mut line) = (0, 1);
        loop {
            let rest = &text[at..];
            let start = at + (rest.len() - rest.trim_start().len());
            line += text[at..start].matches('\n').count();
            let Some(cells) = objects.next() else { break };
            let Cells(cells) = cells.map_err(|error| self.no_json(&text, &error))?;
            rows.push(Row::named(cells, line));
            at = objects.byte_offset();
            line += text[start..at].matches('\n').count();
        }
        match &mut rows[..] {
            [only] => self.single(std::mem::take(&mut only.cells)),
            _ => Ok(rows),
        }
    }

    fn no_json(&self, text: &str, error: &serde_json::Error) -> TaskError {
        let line = text.lines().nth(error.line().saturating_sub(1)).unwrap_or_default();
        let token = ["NaN", "-Infinity", "Infinity"].into_iter().find(|token| line.contains(token));
        let hint = match token {
            Some(token) if error.is_syntax() => format!(
                "; {token} is no JSON, though Python writes it: where a value is missing, leave the row out"
            ),
            _ => String::new(),
        };
        // serde ends its message with the place, which is said first here
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or_default();
        let (line, column) = (error.line(), error.column());
        self.error(format!(
            "line {line}, column {column}: is no JSON object for each row: {message}{hint}; write one object a line, \
             or an array of them"
        ))
    }

    /// A file with one object: a row, or what holds the rows.
    fn single(&self, object: Map<String, Value>) -> Result<Vec<Row>, TaskError> {
        let named = |column: &&Column| matches!(column, Column::Name(name) if object.contains_key(name));
        let read = self.task.read_columns();
        let plain =
            object.values().any(|value| !matches!(value, Value::Array(_) | Value::Object(_) | Value::Null));
        let messages = self.task.columns.messages.is_some();
        if !object.is_empty() && read.iter().all(named) && (plain || messages) {
            return Ok(vec![Row::named(object, 1)]);
        }
        let is_rows = |value: &Value| {
            value.as_array().is_some_and(|rows| !rows.is_empty() && rows.iter().all(Value::is_object))
        };
        let holders: Vec<String> =
            object.iter().filter(|(_, value)| is_rows(value)).map(|(key, _)| key.clone()).collect();
        match &holders[..] {
            [key] => {
                let rows = object.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
                let cells = rows.into_iter().filter_map(|row| match row {
                    Value::Object(cells) => Some(cells),
                    _ => None,
                });
                Ok(cells.enumerate().map(|(i, cells)| Row::named(cells, i + 1)).collect())
            }
            [] if !plain && !object.is_empty() => Err(self.error(
                "is laid out by columns, where an object for each row is wanted: write an array of rows or lines \
                 (pandas: to_json(.., orient=\"records\"))",
            )),
            [] if object.get("columns").is_some_and(Value::is_array) || object.contains_key("data") => Err(self
                .error("its `data` holds no objects: write an array of rows, each an object with its columns' names")),
            [] => Ok(vec![Row::named(object, 1)]),
            several => Err(self.error(format!(
                "holds lists of rows under several keys ({}); write the rows of one split into a file of their own",
                several.join(", ")
            ))),
        }
    }
}
