//! What is in a file of data, before anybody has said what its columns mean.

use std::path::Path;

use serde_json::{Map, Value};

use crate::TaskError;
use crate::read::{is_data, rows_of};
use crate::spec::{Column, Columns, SplitSpec, TaskKind, TaskSpec};

/// A file of data with all its columns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Look {
    /// Names of the columns, in the file's order where the format has one.
    pub columns: Vec<String>,
    /// Every row; a column that cannot be read is in none.
    pub rows: Vec<Map<String, Value>>,
}

/// Whether the file at `path` is of a format that is read, by its name.
pub fn is_data_file(path: &Path) -> bool {
    path.is_file() && is_data(path)
}

/// Reads the file at `path` as tasks do: TSV and CSV with a header.
///
/// # Errors
/// Where it cannot be read, or is not what its name says.
pub fn look(path: &Path) -> Result<Look, TaskError> {
    let mut look = Look::default();
    if path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("parquet")) {
        for name in crate::read::parquet_columns(path)? {
            // a column of a type that is not read is of no use to any task
            let Ok(rows) = rows_of(&spec(path, Column::Name(name.clone())), path) else { continue };
            look.rows.resize(rows.len(), Map::new());
            for (all, mut row) in look.rows.iter_mut().zip(rows) {
                all.extend(row.cells.remove(&name).map(|cell| (name.clone(), cell)));
            }
            look.columns.push(name);
        }
        return Ok(look);
    }
    for row in rows_of(&spec(path, Column::Index(0)), path)? {
        for name in row.cells.keys().filter(|name| !look.columns.contains(name)).cloned().collect::<Vec<_>>()
        {
            look.columns.push(name);
        }
        look.rows.push(row.cells);
    }
    Ok(look)
}

/// A task that reads `column` alone.
fn spec(path: &Path, column: Column) -> TaskSpec {
    let split = || SplitSpec::Path(path.to_owned());
    TaskSpec {
        name: "look".to_owned(),
        kind: TaskKind::CausalLm,
        train: split(),
        validation: split(),
        test: None,
        columns: Columns { text: column, ..Columns::default() },
        header: true,
        quotes: None,
        unescape: false,
        labels: None,
        range: None,
        max_length: 2,
        too_long: crate::TooLong::default(),
        packing: true,
        template: crate::Template::default(),
        score_first_token: false,
        metrics: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            look(&path)
        };
        let tsv = write("a.tsv", "id\tsentence\tlabel\n1\tgood\t0\n2\tbad\t1\n").unwrap();
        assert_eq!((tsv.rows.len(), &tsv.rows[1]["sentence"]), (2, &Value::from("bad")));
        assert!(["id", "sentence", "label"].iter().all(|name| tsv.columns.contains(&(*name).to_owned())));
        let json = write("a.jsonl", "{\"q\": \"x\"}\n{\"q\": \"y\", \"score\": 1.5}\n").unwrap();
        assert_eq!(
            (json.columns, json.rows[1]["score"].as_f64()),
            (vec!["q".into(), "score".into()], Some(1.5))
        );
        assert!(write("a.json", "{").is_err());
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/corpora/parquet");
        let parquet =
            std::fs::read_dir(fixture).unwrap().filter_map(|entry| look(&entry.unwrap().path()).ok());
        assert!(parquet.filter(|look| !look.rows.is_empty() && !look.columns.is_empty()).count() > 0);
        assert!(!is_data_file(&dir.path().join("none.tsv")) && is_data_file(&dir.path().join("a.tsv")));
    }
}
