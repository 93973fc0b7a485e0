//! Parquet, as pandas, polars, Spark, Arrow and DuckDB write it.

use std::collections::HashSet;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::schema::types::Type;
use peftlab_checkpoint::guarded;
use serde_json::{Map, Value, json};

use super::bytes::MOST_UNPACKED;
use super::{Reader, Row, pages};
use crate::TaskError;
use crate::spec::Column;

/// Names of the columns of the file at `path`.
pub(crate) fn columns(path: &Path) -> Result<Vec<String>, TaskError> {
    let error =
        |what: String| TaskError::new("look", path, format!("is no Parquet file that can be read: {what}"));
    let read = || -> Result<Vec<String>, String> {
        let mut file = File::open(path).map_err(|error| error.to_string())?;
        pages::check_footer(&mut file)?;
        let reader = SerializedFileReader::new(file).map_err(|error| error.to_string())?;
        let schema = reader.metadata().file_metadata().schema();
        Ok(schema.get_fields().iter().map(|field| field.name().to_owned()).collect())
    };
    // the library panics on some files that are none
    guarded(read).map_err(error)?.map_err(error)
}

impl Reader<'_> {
    pub(super) fn parquet(&self) -> Result<Vec<Row>, TaskError> {
        // the library panics on some files that are none
        guarded(|| self.records()).map_err(|panic| {
            self.error(format!("is no Parquet file that can be read: {panic}; write it anew"))
        })?
    }

    fn records(&self) -> Result<Vec<Row>, TaskError> {
        let mut file = File::open(self.path)
            .map_err(|error| self.error(format!("cannot be read: {error}; check the path")))?;
        let unreadable = |error: parquet::errors::ParquetError| {
            self.error(format!("is no Parquet file that can be read: {error}"))
        };
        pages::check_footer(&mut file)
            .map_err(|what| self.error(format!("is no Parquet file that can be read: {what}")))?;
        let reader = SerializedFileReader::new(file).map_err(unreadable)?;
        let schema = reader.metadata().file_metadata().schema();
        let names: Vec<String> = schema.get_fields().iter().map(|field| field.name().to_owned()).collect();
        self.no_duplicates(&names)?;
        let wanted = self.wanted(&names);
        if let Some(column) =
            self.task.read_columns().into_iter().find(|column| place(&names, column).is_none())
        {
            let names = names.join(", ");
            return Err(self.error(format!(
                "there is no column `{column}`; there are {names} (set columns = {{ .. }})"
            )));
        }
        self.codecs(reader.metadata(), &wanted)?;
        self.sizes(&reader, &wanted)?;
        let fields: Vec<Arc<Type>> =
            schema.get_fields().iter().filter(|field| wanted.contains(field.name())).cloned().collect();
        let projection =
            Type::group_type_builder(schema.name()).with_fields(fields).build().map_err(unreadable)?;
        let mut rows = Vec::new();
        let mut unpacked = 0;
        for (i, row) in reader.get_row_iter(Some(projection)).map_err(unreadable)?.enumerate() {
            let row = row.map_err(unreadable)?;
            let mut cells = Map::new();
            let mut places = vec![Value::Null; names.len()];
            for (name, field) in row.get_column_iter() {
                let value = value(field).map_err(|what| {
                    self.error(format!(
                        "row {}: column `{name}` holds {what}; write it as a text or number",
                        i + 1
                    ))
                })?;
                if let Some(place) = names.iter().position(|own| own == name) {
                    places[place] = value.clone();
                }
                cells.insert(name.clone(), value);
            }
            // a text that stands in a dictionary once can be in every row
            unpacked += cells.values().filter_map(Value::as_str).map(|text| text.len() as u64).sum::<u64>();
            if unpacked > MOST_UNPACKED {
                return Err(self.error("holds more than 8 GiB of texts; give a part of it"));
            }
            rows.push(Row { cells, places, number: i + 1 });
        }
        Ok(rows)
    }

    /// The columns that are read; others may be of whatever type they like.
    fn wanted<'a>(&self, names: &'a [String]) -> HashSet<&'a str> {
        let task = self.task;
        let read = task.read_columns().into_iter().chain(task.optional_columns());
        let looked_at = names.iter().filter(|name| task.looks_at(name));
        read.filter_map(|column| place(names, column)).chain(looked_at).map(String::as_str).collect()
    }

    /// What the file claims, held against its bytes before anything is allocated for it.
    fn sizes(&self, reader: &SerializedFileReader<File>, wanted: &HashSet<&str>) -> Result<(), TaskError> {
        let mut file = File::open(self.path)
            .map_err(|error| self.error(format!("cannot be read: {error}; check the path")))?;
        let bytes = file.metadata().map_or(0, |metadata| metadata.len());
        let metadata = reader.metadata();
        let rows =
            metadata.row_groups().iter().map(|group| u64::try_from(group.num_rows()).unwrap_or(u64::MAX));
        let rows = rows.fold(0, u64::saturating_add);
        if rows > pages::most_values(bytes) {
            return Err(self.error(format!("promises {rows} rows in {bytes} bytes; write the file anew")));
        }
        for (number, group) in metadata.row_groups().iter().enumerate() {
            for (place, column) in group.columns().iter().enumerate() {
                let top = column.column_path().parts().first().map(String::as_str).unwrap_or_default();
                if !wanted.contains(top) {
                    continue;
                }
                let checked = pages::check(&mut file, column).and_then(|by_lengths| match by_lengths {
                    false => Ok(()),
                    true => {
                        let pages =
                            reader.get_row_group(number).and_then(|row| row.get_column_page_reader(place));
                        pages::lengths(&mut *pages.map_err(|error| error.to_string())?, column)
                    }
                });
                checked.map_err(|what| {
                    self.error(format!("column `{top}`: {what}; the file is damaged, write it anew"))
                })?;
            }
        }
        Ok(())
    }

    fn codecs(&self, metadata: &ParquetMetaData, wanted: &HashSet<&str>) -> Result<(), TaskError> {
        for column in metadata.row_groups().iter().flat_map(RowGroupMetaData::columns) {
            let top = column.column_path().parts().first().map(String::as_str).unwrap_or_default();
            let codec = column.compression();
            if wanted.contains(top) && matches!(codec, Compression::BROTLI(_) | Compression::LZO) {
                return Err(self.error(format!(
                    "column `{top}` is compressed with {codec}, which is not supported; write the file anew with \
                     zstd, snappy or gzip"
                )));
            }
        }
        Ok(())
    }
}

fn place<'a>(names: &'a [String], column: &Column) -> Option<&'a String> {
    match column {
        Column::Name(name) => names.iter().find(|own| *own == name),
        Column::Index(index) => names.get(*index),
    }
}

/// A field as JSON; what has no JSON of its own is named.
fn value(field: &Field) -> Result<Value, String> {
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(value) => json!(value),
        Field::Byte(value) => json!(value),
        Field::Short(value) => json!(value),
        Field::Int(value) => json!(value),
        Field::Long(value) => json!(value),
        Field::UByte(value) => json!(value),
        Field::UShort(value) => json!(value),
        Field::UInt(value) => json!(value),
        Field::ULong(value) => json!(value),
        Field::Float16(value) => number(f64::from(value.to_f32())),
        Field::Float(value) => number(f64::from(*value)),
        Field::Double(value) => number(*value),
        // decimals are labels or values: their digits say which
        Field::Decimal(_) => number(field.to_string().parse().map_err(|_| format!("the decimal {field}"))?),
        Field::Str(text) => json!(text),
        // Spark and older writers leave the logical type of texts out
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => json!(text),
            Err(_) => return Err("bytes that are no UTF-8".to_owned()),
        },
        Field::Date(_) | Field::TimeMillis(_) | Field::TimeMicros(_) => {
            return Err("a date or time".to_owned());
        }
        Field::TimestampMillis(_) | Field::TimestampMicros(_) => return Err("a date or time".to_owned()),
        Field::Group(row) => {
            let cells = row.get_column_iter().map(|(name, field)| Ok((name.clone(), value(field)?)));
            Value::Object(cells.collect::<Result<_, String>>()?)
        }
        Field::ListInternal(list) => list.elements().iter().map(value).collect::<Result<Vec<_>, _>>()?.into(),
        Field::MapInternal(map) => {
            let mut cells = Map::new();
            for (key, field) in map.entries() {
                let Field::Str(key) = key else {
                    return Err(format!("a map whose keys are no texts ({key})"));
                };
                cells.insert(key.clone(), value(field)?);
            }
            Value::Object(cells)
        }
    })
}

fn number(value: f64) -> Value {
    // pandas writes a missing number as NaN
    serde_json::Number::from_f64(value).map_or(Value::Null, Value::Number)
}
