//! Whether the classes of a head, the checkpoint's or an adapter's, are the task's.

use std::collections::BTreeMap;

use peftlab_layers::HeadRows;
use peftlab_layers::params::HostTensor;
use peftlab_tasks::{TaskData, TaskKind, TaskSpec};
use serde_json::Value;

/// For each class of the task the output of the head, where the order is another, and what a reader should know.
pub(crate) type Followed = (Option<Vec<usize>>, Option<String>);

/// The head whose classes `config.json` names. That of an adapter was trained on the model that the file is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    Checkpoint,
    Adapter,
}

impl Whose {
    fn head(self) -> &'static str {
        match self {
            Self::Checkpoint => "the checkpoint's head",
            Self::Adapter => "the adapter's head",
        }
    }

    /// What to do where `key` says something else than the task.
    fn remedy(self, key: &str) -> String {
        match self {
            Self::Checkpoint => "set head = \"new\" in [model] to start from a new head".to_owned(),
            Self::Adapter => format!("say what it was trained for with config = {{ {key} = .. }} in [model]"),
        }
    }
}

/// Holds the classes that `config` names (`id2label`) against those of `task`, as `run_glue.py` of `transformers` does.
///
/// # Errors
/// Where the head's classes are others than the task's, or no classes of which one is right; with the remedy.
pub(crate) fn follow(
    config: &Value,
    task: &TaskSpec,
    data: &TaskData,
    whose: Whose,
) -> Result<Followed, String> {
    let head = whose.head();
    if let Some(trained_for) = other_problem(config, data.kind) {
        return Err(format!(
            "problem_type: {head} was trained for {trained_for}, and task `{}` is {}; {}",
            task.name,
            data.kind.name(),
            whose.remedy("problem_type")
        ));
    }
    let Some(names) = class_names(config).filter(|_| data.kind == TaskKind::Classification) else {
        return Ok((None, None));
    };
    let classes = &data.classes;
    let place = |class: &String| {
        let same = names.iter().position(|name| name == class);
        same.or_else(|| names.iter().position(|name| name.trim().eq_ignore_ascii_case(class.trim())))
    };
    let listed = names.join(", ");
    match classes.iter().map(place).collect::<Option<Vec<usize>>>() {
        Some(rows) if is_permutation(&rows) && rows.len() == names.len() => {
            if rows.is_sorted() {
                return Ok((None, None));
            }
            let told = format!(
                "{head} has the classes in the order {listed} (id2label); its outputs were put into the task's order, {}",
                classes.join(", ")
            );
            Ok((Some(rows), Some(told)))
        }
        _ if classes.iter().all(|class| class.parse::<i64>().is_ok()) => Ok((
            None,
            Some(format!(
                "{head} calls its classes {listed} (id2label), in this order; that the labels {} mean the same is taken \
                 for granted",
                classes.join(", ")
            )),
        )),
        _ => Err(format!(
            "id2label: {head} is for the classes {listed}, and task `{}` has {}; give the labels the same names, or {}",
            task.name,
            classes.join(", "),
            whose.remedy("id2label")
        )),
    }
}

/// What the head was trained for, where that is not `kind`.
fn other_problem(config: &Value, kind: TaskKind) -> Option<&'static str> {
    match (config["problem_type"].as_str()?, kind) {
        ("multi_label_classification", _) => Some("several labels at a time"),
        ("regression", TaskKind::Classification) => Some("regression"),
        ("single_label_classification", TaskKind::Regression) => Some("classification"),
        _ => None,
    }
}

/// The order of a head's outputs in a file, where it is another than the task's.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    /// The module that gives the outputs, such as `classifier`.
    pub(crate) module: &'static str,
    /// For each class of the task the output in the file.
    pub(crate) rows: Vec<usize>,
}

impl Order {
    /// Puts the head among `tensors`, as a file has it, into the task's order.
    pub(crate) fn to_task(&self, tensors: &mut BTreeMap<String, HostTensor>) {
        self.reorder(tensors, &self.rows);
    }

    /// Puts the head among `tensors`, in the task's order, into that of the file.
    pub(crate) fn to_file(&self, tensors: &mut BTreeMap<String, HostTensor>) {
        let mut back = vec![0; self.rows.len()];
        for (class, output) in self.rows.iter().enumerate() {
            back[*output] = class;
        }
        self.reorder(tensors, &back);
    }

    fn reorder(&self, tensors: &mut BTreeMap<String, HostTensor>, rows: &[usize]) {
        let head = HeadRows::Ordered { module: self.module, rows };
        for (name, tensor) in tensors {
            // one of another size is refused elsewhere
            tensor.values = head.in_order(name, std::mem::take(&mut tensor.values), &tensor.shape);
        }
    }
}

fn is_permutation(rows: &[usize]) -> bool {
    let mut sorted = rows.to_vec();
    sorted.sort_unstable();
    sorted.iter().enumerate().all(|(place, row)| place == *row)
}

/// The head's classes in the order of its outputs; none where nobody named them.
fn class_names(config: &Value) -> Option<Vec<String>> {
    let by_id = |id: usize| config["id2label"][id.to_string()].as_str().map(str::to_owned);
    let by_label = |id: usize| {
        let labels = config["label2id"].as_object()?;
        labels.iter().find(|(_, value)| value.as_u64() == Some(id as u64)).map(|(label, _)| label.clone())
    };
    let names: Vec<String> = (0..).map_while(|id| by_id(id).or_else(|| by_label(id))).collect();
    // what `transformers` writes where nobody named them
    let named =
        names.iter().enumerate().any(|(id, name)| *name != format!("LABEL_{id}") && *name != id.to_string());
    named.then_some(names)
}

#[cfg(test)]
mod tests {
    use peftlab_tasks::Split;
    use serde_json::json;

    use super::*;

    fn followed(id2label: &Value, classes: &[&str]) -> Result<Followed, String> {
        follow_as(TaskKind::Classification, &json!({ "id2label": id2label }), classes)
    }

    fn follow_as(kind: TaskKind, config: &Value, classes: &[&str]) -> Result<Followed, String> {
        let task = "name = \"t\"\nkind = \"classification\"\ntrain = \"t\"\nvalidation = \"v\"\n";
        let data = TaskData {
            kind,
            train: Split::default(),
            validation: Split::default(),
            test: None,
            classes: classes.iter().map(|class| (*class).to_owned()).collect(),
            metrics: Vec::new(),
            digest: String::new(),
            warnings: Vec::new(),
            splits: Vec::new(),
        };
        follow(config, &toml::from_str(task).unwrap(), &data, Whose::Checkpoint)
    }

    #[test]
    fn a_head_of_another_problem_is_refused() {
        use TaskKind::{Classification, Regression};
        for (problem, kind, refused) in [
            ("multi_label_classification", Classification, true),
            ("multi_label_classification", Regression, true),
            ("regression", Classification, true),
            ("regression", Regression, false),
            ("single_label_classification", Regression, true),
            ("single_label_classification", Classification, false),
        ] {
            let followed = follow_as(kind, &json!({ "problem_type": problem }), &["a", "b"]);
            let said = followed.err().unwrap_or_default();
            assert_eq!(
                said.contains("problem_type") && said.contains("head = \"new\""),
                refused,
                "{problem}: {said}"
            );
        }
    }

    #[test]
    fn the_heads_outputs_follow_the_names() {
        let mnli = json!({ "0": "CONTRADICTION", "1": "NEUTRAL", "2": "ENTAILMENT" });
        let (rows, told) = followed(&mnli, &["entailment", "neutral", "contradiction"]).unwrap();
        assert_eq!(rows, Some(vec![2, 1, 0]));
        assert!(told.unwrap().contains("id2label"));
        assert_eq!(followed(&mnli, &["contradiction", "neutral", "entailment"]).unwrap(), (None, None));
    }

    #[test]
    fn other_names_are_refused_and_numbers_told() {
        let names = json!({ "0": "negative", "1": "positive" });
        assert!(followed(&names, &["yes", "no"]).unwrap_err().contains("head = \"new\""));
        // names that differ in their case alone are two
        let cases = json!({ "0": "a", "1": "A" });
        assert_eq!(followed(&cases, &["A", "a"]).unwrap().0, Some(vec![1, 0]));
        assert!(followed(&json!({ "0": "a", "1": "b" }), &["a", "A"]).is_err());
        // a name less than the head has
        assert!(followed(&json!({ "0": "a", "1": "b", "2": "c" }), &["c", "b"]).is_err());
        let (rows, told) = followed(&names, &["0", "1"]).unwrap();
        assert!(rows.is_none() && told.unwrap().contains("negative, positive"));
        let unnamed = json!({ "0": "LABEL_0", "1": "LABEL_1" });
        assert_eq!(followed(&unnamed, &["yes", "no"]).unwrap(), (None, None));
    }
}
