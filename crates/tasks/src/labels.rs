//! Classes by their names.

use std::collections::{BTreeSet, HashSet};

use peftlab_metrics::Metric;
use serde_json::Value;

use crate::encode::{at, cell};
use crate::read::{File, Row};
use crate::spec::TaskSpec;
use crate::{Split, Target, TaskError};

/// Above this, 64-bit floats do not hold every integer.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// A label as an integer, whether it is written as one, as a whole float (pandas writes 1 as 1.0 once a value of the
/// column was missing) or as a text of either.
fn integer(value: &Value) -> Option<i64> {
    let whole = |float: f64| (float.fract() == 0.0 && float.abs() < EXACT).then_some(float as i64);
    match value {
        Value::Number(number) => number.as_i64().or_else(|| number.as_f64().and_then(whole)),
        Value::String(text) => {
            let text = text.trim();
            // only digits with a sign and a point: `1e3`, `inf` and `0x1` are names
            let plain = text.chars().all(|c| c.is_ascii_digit() || "+-.".contains(c));
            text.parse().ok().or_else(|| text.parse().ok().filter(|_| plain).and_then(whole))
        }
        _ => None,
    }
}

/// Whether the label `value` is the class `name`.
fn is_named(value: &Value, name: &str) -> bool {
    match value {
        Value::String(text) => text == name,
        // Python writes True, JSON true
        Value::Bool(truth) => name.eq_ignore_ascii_case(if *truth { "true" } else { "false" }),
        _ => false,
    }
}

/// The class of the label `value`: by name first, and by its place only where no class has a number for its name.
pub(crate) fn class(value: &Value, names: &[String]) -> Option<usize> {
    if let Some(class) = names.iter().position(|name| is_named(value, name)) {
        return Some(class);
    }
    let label = integer(value)?;
    let numbers: Vec<Option<i64>> = names.iter().map(|name| integer(&Value::from(name.as_str()))).collect();
    if numbers.iter().any(Option::is_some) {
        return numbers.iter().position(|number| *number == Some(label));
    }
    usize::try_from(label).ok().filter(|class| *class < names.len())
}

/// Whether a label stands for none.
pub(crate) fn is_missing(value: &Value) -> bool {
    value.is_null() || value.as_str().is_some_and(|text| text.trim().is_empty())
}

/// The classes of a task: those that are named, or as many as the training set's labels say.
pub(crate) fn classes(task: &TaskSpec, train: &[File]) -> Result<Vec<String>, TaskError> {
    if let Some(labels) = &task.labels {
        return Ok(labels.clone());
    }
    let mut found = BTreeSet::new();
    let mut truths = 0;
    for file in train {
        for row in &file.rows {
            let value = cell(task, file, row, &task.columns.label)?;
            truths += usize::from(value.is_boolean());
            found.insert(code(task, file, row, value)?);
        }
    }
    let rows: usize = train.iter().map(|file| file.rows.len()).sum();
    let refuse = |message: String| {
        let path = train.first().map(|file| file.path.clone()).unwrap_or_default();
        Err(TaskError::new(&task.name, path, message))
    };
    if truths == rows {
        return Ok(vec!["false".to_owned(), "true".to_owned()]);
    }
    if truths > 0 {
        return refuse(
            "labels are booleans in some rows and numbers in others; write them in one way".to_owned(),
        );
    }
    // as many names as there are labels, never as many as the largest label claims
    if let Some(gap) = (0..).zip(&found).find_map(|(wanted, label)| (wanted != *label).then_some(wanted)) {
        let largest = found.last().copied().unwrap_or_default();
        return refuse(format!(
            "without names, labels are integers from 0 that all occur in the training set; there are {} of them, the \
             largest is {largest}, and {gap} does not occur; name the classes with labels = {}",
            found.len(),
            remedy(&found),
        ));
    }
    if found.len() < 2 {
        return refuse(
            "every label of the training set is 0; name the classes with labels = [..]".to_owned(),
        );
    }
    Ok(found.iter().map(ToString::to_string).collect())
}

/// Refuses a metric that is not defined for as many classes.
pub(crate) fn check_metrics(
    task: &TaskSpec,
    metrics: &[Metric],
    classes: &[String],
) -> Result<(), TaskError> {
    match metrics.contains(&Metric::F1) && classes.len() > 2 {
        false => Ok(()),
        true => Err(TaskError::new(
            &task.name,
            "[[task]]",
            format!(
                "metrics: `f1` is that of the second of two classes, and there are {}; take `macro-f1`",
                classes.len()
            ),
        )),
    }
}

/// A sentence on classes that stand nowhere in the training set.
pub(crate) fn unlearnt(classes: &[String], train: &Split) -> Option<String> {
    let learnt: HashSet<usize> = train
        .examples
        .iter()
        .filter_map(|example| match example.target {
            Target::Class(class) => Some(class),
            _ => None,
        })
        .collect();
    let missing = classes.iter().enumerate().filter(|(class, _)| !learnt.contains(class));
    let missing: Vec<&str> = missing.map(|(_, name)| name.as_str()).collect();
    (!missing.is_empty()).then(|| {
        let names = missing[..missing.len().min(20)].join(", ");
        format!("train: no row is of the class {names} ({} of {})", missing.len(), classes.len())
    })
}

/// Two names that a label may mean both, such as `1` and `1.0`.
pub(crate) fn same_number(names: &[String]) -> Option<(&str, &str)> {
    let number = |name: &String| integer(&Value::from(name.as_str()));
    names.iter().enumerate().find_map(|(i, name)| {
        let own = number(name)?;
        let other = names[..i].iter().find(|other| number(other) == Some(own))?;
        Some((other.as_str(), name.as_str()))
    })
}

/// The label as a number from 0.
fn code(task: &TaskSpec, file: &File, row: &Row, value: &Value) -> Result<u64, TaskError> {
    if is_missing(value) {
        return Err(missing(task, file, row));
    }
    if let Value::Bool(truth) = value {
        return Ok(u64::from(*truth));
    }
    integer(value).and_then(|label| u64::try_from(label).ok()).ok_or_else(|| {
        let hint = match integer(value) {
            Some(-1) => "; if -1 marks rows without a label, as in GLUE's test sets, leave them out",
            _ => "",
        };
        let message =
            format!("the label {value} is no integer from 0; name the classes with labels = [..]{hint}");
        at(task, file, row, &message)
    })
}

/// The error of a row without a label.
pub(crate) fn missing(task: &TaskSpec, file: &File, row: &Row) -> TaskError {
    let column = &task.columns.label;
    at(task, file, row, &format!("column `{column}` holds no label; leave out rows without one"))
}

fn remedy(found: &BTreeSet<u64>) -> String {
    match found.len() {
        0..=12 => {
            format!("[{}]", found.iter().map(|label| format!("\"{label}\"")).collect::<Vec<_>>().join(", "))
        }
        _ => "[..]".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_name_goes_before_a_place_whatever_the_type() {
        let reversed = names(&["1", "0"]);
        for one in [json!(1), json!("1"), json!(1.0), json!("1.0"), json!(" 1 ")] {
            assert_eq!(class(&one, &reversed), Some(0), "{one}");
        }
        assert_eq!(class(&json!(2), &names(&["1", "2"])), Some(1));
        // 0 is a place, but no name of these
        assert_eq!(class(&json!(0), &names(&["1", "2"])), None);
        let signs = names(&["-1", "1"]);
        assert_eq!((class(&json!(-1), &signs), class(&json!("-1.0"), &signs)), (Some(0), Some(0)));
        assert_eq!(class(&json!(1), &signs), Some(1));
        let truth = names(&["False", "True"]);
        assert_eq!((class(&json!(true), &truth), class(&json!(false), &truth)), (Some(1), Some(0)));
        let words = names(&["negative", "positive"]);
        assert_eq!((class(&json!(1), &words), class(&json!("0"), &words)), (Some(1), Some(0)));
        for none in
            [json!(2), json!(-1), json!(0.5), json!("neutral"), json!(true), json!(null), json!("1e0")]
        {
            assert_eq!(class(&none, &words), None, "{none}");
        }
        // beyond what a float holds, neighbours are not taken for each other
        let large = names(&["9007199254740992", "9007199254740993"]);
        assert_eq!(class(&json!(9_007_199_254_740_993_i64), &large), Some(1));
    }
}
