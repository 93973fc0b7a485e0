//! Everything that records say, field by field instead of run by run: most fields have one value in all runs or in all
//! runs of a row, so that a page with thousands of runs stays small. It also shows which settings differ.

use std::collections::{BTreeMap, HashMap};

use peftlab_record::Record;
use rayon::prelude::*;
use serde_json::{Map, Value, json};

/// Significant digits of what was measured.
const DIGITS: i32 = 6;

/// Fields that the page has elsewhere, or that are too long for it.
const ELSEWHERE: [&str; 5] = ["experiment", "label", "row", "schema", "warnings"];

/// The fields of `records`, by their names with dots in between (`settings.training.learning_rate`).
///
/// `of` are a field's values. Without `at` there is one for all runs, or one for each. Otherwise `at` is a list of pairs,
/// a place in `of` and the number of successive runs that have that value. What is not set is `null`.
pub(super) fn columns(records: &[&Record]) -> Value {
    let mut fields: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let flat = |record: &&Record| {
        // a record is text, numbers and lists of these: it can be written
        let mut value = serde_json::to_value(record).unwrap_or_default();
        prune(&mut value);
        let mut flat = Vec::new();
        flatten("", value, &mut flat);
        flat
    };
    let flat: Vec<_> = records.par_iter().map(flat).collect();
    for (run, fields_of) in flat.into_iter().enumerate() {
        for (name, value) in fields_of {
            let column = fields.entry(name).or_insert_with(|| vec![Value::Null; records.len()]);
            column[run] = value;
        }
    }
    let columns: Vec<_> = fields.into_par_iter().map(|(name, values)| (name, column(values))).collect();
    columns.into_iter().collect::<Map<_, _>>().into()
}

fn prune(record: &mut Value) {
    if let Some(fields) = record.as_object_mut() {
        fields.retain(|name, _| !ELSEWHERE.contains(&name.as_str()));
    }
    if let Some(measured) = record["measured"].as_object_mut() {
        measured.remove("kernels");
        if let Some(training) = measured.get_mut("training").and_then(Value::as_object_mut) {
            training.remove("looks");
        }
        measured.values_mut().for_each(round);
    }
}

fn round(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => *value = short(number.as_f64(), DIGITS),
        Value::Array(values) => values.iter_mut().for_each(round),
        Value::Object(fields) => fields.values_mut().for_each(round),
        _ => {}
    }
}

/// A number with some significant digits; `null` where it is none.
pub(super) fn short(value: Option<f64>, digits: i32) -> Value {
    let rounded = |value: f64| {
        if value == 0.0 {
            return value;
        }
        let places = digits - 1 - value.abs().log10().floor() as i32;
        // powers of ten are exact that far, so that the quotient is the nearest number to the short one
        match places {
            0..=22 => (value * 10f64.powi(places)).round() / 10f64.powi(places),
            -22..0 => (value / 10f64.powi(-places)).round() * 10f64.powi(-places),
            _ => value,
        }
    };
    match value.filter(|value| value.is_finite()).map(rounded) {
        Some(value) if value.fract() == 0.0 && value.abs() < 1e15 => json!(value as i64),
        other => json!(other),
    }
}

fn flatten(name: &str, value: Value, out: &mut Vec<(String, Value)>) {
    let dotted = |key: &str| if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") };
    match value {
        Value::Null => {}
        Value::Object(fields) => {
            for (key, value) in fields {
                flatten(&dotted(&key), value, out);
            }
        }
        Value::Array(values) if !values.is_empty() && values.iter().all(Value::is_object) => {
            let keys = keys(&values);
            for (key, mut value) in keys.into_iter().zip(values) {
                if let Some(fields) = value.as_object_mut() {
                    fields.retain(|_, field| field.as_str() != Some(&key));
                }
                flatten(&dotted(&key), value, out);
            }
        }
        value => out.push((name.to_owned(), value)),
    }
}

/// What tells the objects of a list apart: what names each, or their places.
fn keys(values: &[Value]) -> Vec<String> {
    for naming in ["metric", "name", "into"] {
        let names: Option<Vec<String>> =
            values.iter().map(|value| value[naming].as_str().map(str::to_owned)).collect();
        if let Some(names) = names
            && (1..names.len()).all(|i| !names[..i].contains(&names[i]))
        {
            return names;
        }
    }
    (1..=values.len()).map(|place| place.to_string()).collect()
}

fn column(values: Vec<Value>) -> Value {
    let mut known: HashMap<String, usize> = HashMap::new();
    let mut distinct = Vec::new();
    let mut places: Vec<usize> = Vec::new();
    for (run, value) in values.iter().enumerate() {
        if run > 0
            && values[run - 1] == *value
            && let Some(count) = places.last_mut()
        {
            *count += 1;
            continue;
        }
        let place = *known.entry(value.to_string()).or_insert_with(|| {
            distinct.push(value.clone());
            distinct.len() - 1
        });
        places.extend([place, 1]);
    }
    match distinct.len() {
        1 => json!({ "of": distinct }),
        // without a value that repeats, places would only add to the values
        _ if 2 * distinct.len() > values.len() && places.len() > values.len() => json!({ "of": values }),
        _ => json!({ "of": distinct, "at": places }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the page's script does.
    fn read(column: &Value, runs: usize) -> Vec<Value> {
        let of = column["of"].as_array().unwrap();
        match column["at"].as_array() {
            None if of.len() == 1 => vec![of[0].clone(); runs],
            None => of.clone(),
            Some(at) => at
                .chunks(2)
                .flat_map(|pair| {
                    let [place, count] = [&pair[0], &pair[1]].map(|number| number.as_u64().unwrap() as usize);
                    vec![of[place].clone(); count]
                })
                .collect(),
        }
    }

    #[test]
    fn columns_hold_the_values_that_went_in() {
        for values in [
            json!([1]),
            json!([1, 1, 1, 1]),
            json!([1, 2, 3, 4, 5]),
            json!([1, 1, 1, 2, 2, null, 1]),
            json!(["a", null, "b", null, "c", "d"]),
            json!([1, 2, 1, 2, 1, 2]),
        ] {
            let values = values.as_array().unwrap().clone();
            let column = column(values.clone());
            assert_eq!(read(&column, values.len()), values, "{column}");
        }
        assert_eq!(column(vec![json!(7); 1000]), json!({ "of": [7] }));
    }

    #[test]
    fn fields_are_named_by_what_names_them() {
        let value = json!({
            "a": { "b": 1, "none": null },
            "scores": [{ "metric": "f1", "value": 0.5 }, { "metric": "accuracy", "value": 0.25 }],
            "trials": [{ "rate": 1 }, { "rate": 2 }],
            "labels": ["x", "y"],
        });
        let mut flat = Vec::new();
        flatten("", value, &mut flat);
        let names: Vec<&str> = flat.iter().map(|(name, _)| name.as_str()).collect();
        let expected =
            ["a.b", "labels", "scores.f1.value", "scores.accuracy.value", "trials.1.rate", "trials.2.rate"];
        assert_eq!(names, expected);
    }

    #[test]
    fn numbers_are_short_and_whole_ones_stay_whole() {
        assert_eq!(short(Some(0.123_456_789), 6).to_string(), "0.123457");
        assert_eq!(short(Some(100.0), 6).to_string(), "100");
        assert_eq!(short(Some(0.0), 6).to_string(), "0");
        assert_eq!(short(Some(-0.000_123_456_789), 4).to_string(), "-0.0001235");
        assert_eq!(short(Some(0.3 - 0.2), 4).to_string(), "0.1");
        assert_eq!(short(Some(1_795_893_481.4), 4).to_string(), "1796000000");
        assert_eq!(short(Some(f64::NAN), 6), Value::Null);
    }
}
