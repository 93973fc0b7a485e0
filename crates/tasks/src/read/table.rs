//! CSV and TSV.

use serde_json::Value;

use super::{Reader, Row};
use crate::TaskError;
use crate::spec::Column;

impl Reader<'_> {
    pub(super) fn table(
        &self,
        delimiter: char,
        quotes: bool,
        told: &mut Vec<String>,
    ) -> Result<Vec<Row>, TaskError> {
        let text = self.text()?;
        if quotes && let Some((line, what)) = wrong_quotes(&text, delimiter) {
            return Err(self.error(format!("line {line}: {what}; mend the line, or set quotes = false")));
        }
        let mut reader = csv::ReaderBuilder::new()
            .delimiter(delimiter as u8)
            .quoting(quotes)
            .has_headers(false)
            .flexible(true)
            .from_reader(text.as_bytes());
        let mut names: Option<Vec<String>> = None;
        let mut rows = Vec::new();
        for record in reader.records() {
            let record = record.map_err(|error| self.error(format!("cannot be read: {error}")))?;
            let number = record.position().map_or(0, |position| position.line() as usize);
            let fields: Vec<&str> = record.iter().collect();
            let Some(names) = &names else {
                let own = self.names(&fields, delimiter)?;
                if !self.task.header {
                    rows.push(self.row(&own, &fields, number)?);
                }
                names = Some(own);
                continue;
            };
            rows.push(self.row(names, &fields, number)?);
        }
        told.extend(self.about(&text, &names.unwrap_or_default(), &rows, quotes));
        Ok(rows)
    }

    /// The names of the columns; without a header they are called by their places.
    fn names(&self, first: &[&str], delimiter: char) -> Result<Vec<String>, TaskError> {
        if !self.task.header {
            return Ok((0..first.len()).map(|place| place.to_string()).collect());
        }
        let names: Vec<String> = first.iter().map(|name| (*name).to_owned()).collect();
        self.no_duplicates(&names)?;
        let known = |column: &Column| matches!(column, Column::Name(name) if names.contains(name));
        let missing = !self.task.read_columns().into_iter().all(known);
        if let ([only], true) = (&names[..], missing)
            && let Some(other) = [';', '\t', ',', '|'].iter().find(|c| **c != delimiter && only.contains(**c))
        {
            let kind = if *other == '\t' { "name the file .tsv" } else { "write it with commas" };
            return Err(self.error(format!(
                "line 1: there is one column, `{only}`: it looks as if {other:?} stood between columns, where a file \
                 of this kind has {delimiter:?}; {kind}"
            )));
        }
        Ok(names)
    }

    fn row(&self, names: &[String], fields: &[&str], number: usize) -> Result<Row, TaskError> {
        if fields.len() != names.len() {
            return Err(self.error(format!(
                "line {number}: has {} columns where the first line has {}; mend the line (set quotes = {} if quotation \
                 marks {} fields)",
                fields.len(),
                names.len(),
                !self.task.quotes.unwrap_or(false),
                if self.task.quotes.unwrap_or(false) { "do not enclose" } else { "enclose" },
            )));
        }
        let text = |field: &&str| {
            Value::from(if self.task.unescape { field.replace("\\n", "\n") } else { (*field).to_owned() })
        };
        let places: Vec<Value> = fields.iter().map(text).collect();
        Ok(Row { cells: names.iter().cloned().zip(places.iter().cloned()).collect(), places, number })
    }

    /// What may not be as it was meant.
    fn about(&self, text: &str, names: &[String], rows: &[Row], quotes: bool) -> Vec<String> {
        let mut told = Vec::new();
        // a line without a field is no row; where rows have one field it may be an empty text
        let empty = text.lines().filter(|line| line.is_empty()).count();
        if names.len() == 1 && !quotes && empty > 0 {
            told.push(format!("{empty} empty lines are left out: they are no rows"));
        }
        let read = self.task.read_columns();
        if self.task.header && read.iter().all(|column| matches!(column, Column::Index(_))) {
            told.push(format!(
                "the first line is taken for the names of the columns ({}); if it is a row, set header = false",
                names.join(", ")
            ));
        }
        // pandas and Python's csv enclose a field that holds a mark, and double the mark
        let enclosed = |value: &&Value| {
            let inner = value.as_str().and_then(|text| text.strip_prefix('"')?.strip_suffix('"'));
            inner.is_some_and(|inner| inner.contains("\"\""))
        };
        let cells = rows.iter().flat_map(|row| read.iter().filter_map(|column| row.get(column)));
        let enclosed = cells.filter(enclosed).count();
        if self.task.quotes.is_none() && !quotes && enclosed > 0 {
            told.push(format!(
                "{enclosed} fields stand between quotation marks and hold doubled ones, which are read as they stand; if \
                 they enclose fields, set quotes = true"
            ));
        }
        told
    }
}

/// The line of a quotation mark that opens a field and is not closed where the field ends, with what is wrong. One that
/// nothing closes would swallow the rest of the file; behind one that closes too early, marks within would be lost.
fn wrong_quotes(text: &str, delimiter: char) -> Option<(usize, &'static str)> {
    let (mut line, mut opened, mut starts) = (1, None, true);
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        match (c, opened) {
            ('"', None) if starts => opened = Some(line),
            ('"', Some(_)) if characters.peek() == Some(&'"') => {
                characters.next();
            }
            ('"', Some(at)) => {
                let ends = |next: &char| [delimiter, '\n', '\r'].contains(next);
                if !characters.peek().is_none_or(ends) {
                    let what = "a field goes on behind the quotation mark that closes it (one within a field is written twice)";
                    return Some((at, what));
                }
                opened = None;
            }
            _ => {}
        }
        starts = opened.is_none() && (c == delimiter || c == '\n' || c == '\r');
        line += usize::from(c == '\n');
    }
    opened.map(|line| (line, "a quotation mark opens a field and none closes it"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TaskSpec;

    #[test]
    fn a_carriage_return_between_quotes_is_text_and_one_that_ends_a_line_is_none() {
        let task = "name = \"x\"\nkind = \"causal-lm\"\ntrain = \"t.csv\"\nvalidation = \"v.csv\"\n";
        let task: TaskSpec = toml::from_str(task).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.csv");
        for (text, quotes, wanted) in [
            ("text\r\n\"a\r\"\r\nb\r\n\"c\r\n\"\r\n", true, &["a\r", "b", "c\r\n"][..]),
            ("text\n\"a\r\r\"\n\"\r\"", true, &["a\r\r", "\r"]),
            ("text\ra\rb", true, &["a", "b"]),
            ("text\r\na\r\r\nb\r", false, &["a", "b"]),
        ] {
            std::fs::write(&path, text).unwrap();
            let rows = Reader { task: &task, path: &path }.table(',', quotes, &mut Vec::new()).unwrap();
            let texts: Vec<&str> = rows.iter().filter_map(|row| row.cells["text"].as_str()).collect();
            assert_eq!(texts, wanted, "{text:?}");
        }
    }
}
