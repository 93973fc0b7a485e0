//! CSV and TSV.

use serde_json::Value;

use super::{Reader, Row};
use crate::TaskError;
use crate::spec::Column;

impl Reader<'_> {
    pub(super) fn table(&self, delimiter: char, quotes: bool) -> Result<Vec<Row>, TaskError> {
        let text = self.text()?;
        if quotes && let Some(line) = unclosed(&text, delimiter) {
            return Err(self.error(format!(
                "line {line}: a quotation mark opens a field and none closes it; mend the line, or set quotes = false"
            )));
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
            let fields: Vec<&str> = record.iter().map(|field| field.trim_end_matches('\r')).collect();
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
        let text = |field: &str| {
            Value::from(if self.task.unescape { field.replace("\\n", "\n") } else { field.to_owned() })
        };
        let named = names.iter().zip(fields).map(|(name, field)| (name.clone(), text(field)));
        let placed = fields.iter().enumerate().map(|(place, field)| (place.to_string(), text(field)));
        Ok(Row { cells: placed.chain(named).collect(), number })
    }
}

/// The line of a quotation mark that opens a field and that nothing closes: it would swallow the rest of the file.
fn unclosed(text: &str, delimiter: char) -> Option<usize> {
    let (mut line, mut opened, mut starts) = (1, None, true);
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        match (c, opened) {
            ('"', None) if starts => opened = Some(line),
            ('"', Some(_)) if characters.peek() == Some(&'"') => {
                characters.next();
            }
            ('"', Some(_)) => opened = None,
            _ => {}
        }
        starts = opened.is_none() && (c == delimiter || c == '\n' || c == '\r');
        line += usize::from(c == '\n');
    }
    opened
}
