//! How a configuration says its rotary position embedding: `rope_parameters` of newer versions of `transformers`,
//! `rope_scaling` and `rope_theta` of older ones (`modeling_rope_utils.py`).

use peftlab_ops::{Rotary, RotaryScaling};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::BackboneError;

/// The keys of a Hub `config.json` that say the rotary position embedding.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct RopeConfig {
    rope_theta: Option<f64>,
    rope_scaling: Option<Value>,
    rope_parameters: Option<Value>,
    partial_rotary_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
}

/// Nothing is allocated for a width that a configuration merely claims.
const WIDEST: usize = 1 << 16;

/// Keys of the parameters that say something; another may change the frequencies.
const KNOWN: [&str; 17] = [
    "rope_type",
    "type",
    "rope_theta",
    "partial_rotary_factor",
    "factor",
    "original_max_position_embeddings",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "truncate",
    "mscale",
    "mscale_all_dim",
    "short_factor",
    "long_factor",
    "low_freq_factor",
    "high_freq_factor",
    // Yarn-Llama-2's note to its readers
    "finetuned",
];

impl RopeConfig {
    /// The embedding for heads of `head` dimensions in a network for `positions` tokens.
    ///
    /// # Errors
    /// Where it is of a kind that is not known, or its numbers give no frequencies.
    pub(crate) fn rotary(&self, head: usize, positions: usize) -> Result<Rotary, BackboneError> {
        if head > WIDEST {
            return refuse(format!("heads are {head} wide; no network has wider ones than {WIDEST}"));
        }
        let parameters = Parameters::read(self, positions)?;
        let theta = parameters.number("rope_theta")?.or(self.rope_theta).unwrap_or(10_000.0);
        if !(theta.is_finite() && theta > 0.0) {
            return refuse(format!("rope_theta is {theta}, no base of frequencies"));
        }
        let partial = parameters.number("partial_rotary_factor")?.or(self.partial_rotary_factor);
        if let Some(partial) = partial.filter(|partial| *partial != 1.0) {
            return refuse(format!(
                "partial_rotary_factor is {partial}; only heads that are turned as a whole are implemented"
            ));
        }
        let scaling = parameters.scaling(head, theta)?;
        let rotary = Rotary::new(head, theta, &scaling);
        let longest = positions.saturating_mul(2);
        let finite = |values: &[f64]| values.iter().all(|value| value.is_finite());
        match finite(&rotary.inverse_frequencies(1))
            && finite(&rotary.inverse_frequencies(longest))
            && rotary.attention_factor().is_finite()
        {
            true => Ok(rotary),
            false => refuse(format!(
                "rope scaling `{}` gives no finite frequencies with its numbers",
                parameters.kind
            )),
        }
    }
}

/// Why nothing reads a key of `changes`, those that the user set, in a network whose configuration is `config`: another
/// key of the file goes before it, or its kind of scaling has no such number.
pub(crate) fn unread(config: &Value, changes: &Map<String, Value>) -> Option<String> {
    let mut tables = ["rope_scaling", "rope_parameters"]
        .into_iter()
        .filter_map(|name| Some((name, config[name].as_object().filter(|values| !values.is_empty())?)));
    let table = tables.next();
    let own = |key: &str| table?.1.get(key).filter(|value| !value.is_null());
    for key in ["rope_theta", "partial_rotary_factor"] {
        let (Some(said), Some(value), Some((name, values))) = (changes.get(key), own(key), table) else {
            continue;
        };
        // the whole table, for what a user sets replaces it
        let keep = values.iter().filter(|(other, value)| *other != key && !value.is_null());
        let table: Vec<String> = keep
            .map(|(other, value)| format!("{other} = {value}"))
            .chain([format!("{key} = {said}")])
            .collect();
        return Some(format!(
            "config = {{ {key} = {said} }} in [model]: nothing reads it, for `{name}` has {key} = {value}, which goes \
             before it; write config = {{ {name} = {{ {} }} }}",
            table.join(", ")
        ));
    }
    let kind = ["rope_type", "type"].into_iter().find_map(own).and_then(Value::as_str).unwrap_or("default");
    let key = "original_max_position_embeddings";
    let reads = ["yarn", "longrope", "llama3"].contains(&kind);
    (changes.contains_key(key) && !reads).then(|| {
        format!(
            "config = {{ {key} = .. }} in [model]: nothing reads it, for the rope scaling is `{kind}`; leave it out, or \
             write a rope_type that has one (yarn, longrope, llama3)"
        )
    })
}

fn refuse<T>(message: String) -> Result<T, BackboneError> {
    Err(BackboneError::Config(message))
}

/// `rope_scaling` or `rope_parameters`.
struct Parameters {
    kind: String,
    values: Map<String, Value>,
    positions: f64,
    /// Beside the parameters; Phi-3 has it there, and it goes before theirs.
    original: Option<f64>,
}

impl Parameters {
    fn read(config: &RopeConfig, positions: usize) -> Result<Self, BackboneError> {
        let mut values = Map::new();
        // `transformers` looks at the older key first
        for (name, given) in
            [("rope_scaling", &config.rope_scaling), ("rope_parameters", &config.rope_parameters)]
        {
            match given {
                None | Some(Value::Null) => {}
                Some(Value::Object(given)) if values.is_empty() => values.clone_from(given),
                Some(Value::Object(given)) if given.is_empty() || *given == values => {}
                Some(Value::Object(_)) => {
                    return refuse(
                        "rope_scaling and rope_parameters say different things; leave one out".to_owned(),
                    );
                }
                Some(other) => return refuse(format!("{name} is {other}, no table of parameters")),
            }
        }
        if let Some(unknown) = values.keys().find(|key| !KNOWN.contains(&key.as_str())) {
            return refuse(format!("rope scaling has the key `{unknown}`, which is not implemented"));
        }
        let named =
            ["rope_type", "type"].into_iter().filter_map(|key| values.get(key)).find(|kind| !kind.is_null());
        let kind = match named {
            None => "default".to_owned(),
            Some(Value::String(kind)) => kind.clone(),
            Some(other) => return refuse(format!("rope_type is {other}, no name")),
        };
        Ok(Self {
            kind,
            values,
            positions: positions as f64,
            original: config.original_max_position_embeddings,
        })
    }

    fn number(&self, key: &str) -> Result<Option<f64>, BackboneError> {
        match self.values.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_f64() {
                Some(number) => Ok(Some(number)),
                None => refuse(format!("rope scaling `{}`: `{key}` is {value}, no number", self.kind)),
            },
        }
    }

    /// A number above zero, or what stands for it.
    fn positive(&self, key: &str, absent: Option<f64>) -> Result<f64, BackboneError> {
        match self.number(key)?.or(absent) {
            None => refuse(format!("rope scaling `{}` lacks the number `{key}`", self.kind)),
            Some(number) if number.is_finite() && number > 0.0 => Ok(number),
            Some(number) => refuse(format!("rope scaling `{}`: `{key}` is {number}, not above 0", self.kind)),
        }
    }

    fn original(&self) -> Result<f64, BackboneError> {
        match self.original {
            Some(original) if original > 0.0 => Ok(original),
            _ => self.positive("original_max_position_embeddings", Some(self.positions)),
        }
    }

    fn divisors(&self, key: &str, head: usize) -> Result<Vec<f64>, BackboneError> {
        let numbers = self.values.get(key).and_then(Value::as_array);
        let numbers: Option<Vec<f64>> = numbers.and_then(|values| values.iter().map(Value::as_f64).collect());
        match numbers {
            Some(numbers) if numbers.len() == head / 2 && numbers.iter().all(|number| *number > 0.0) => {
                Ok(numbers)
            }
            _ => refuse(format!(
                "rope scaling `{}` needs `{key}`: {} numbers above 0, one for each frequency of a head",
                self.kind,
                head / 2
            )),
        }
    }

    fn scaling(&self, head: usize, theta: f64) -> Result<RotaryScaling, BackboneError> {
        match self.kind.as_str() {
            "default" => Ok(RotaryScaling::None),
            "linear" => Ok(RotaryScaling::Linear { factor: self.positive("factor", None)? }),
            "dynamic" if head == 2 => refuse("rope scaling `dynamic` needs heads wider than 2".to_owned()),
            "dynamic" => Ok(RotaryScaling::Dynamic {
                factor: self.positive("factor", None)?,
                original_length: self.positions.max(1.0),
            }),
            "yarn" if theta == 1.0 => {
                refuse("rope scaling `yarn` needs a rope_theta other than 1".to_owned())
            }
            "yarn" => self.yarn(),
            "longrope" => self.longrope(head),
            "llama3" => self.llama3(),
            other => refuse(format!(
                "rope scaling `{other}` is not supported; there are default, linear, dynamic, yarn, longrope, llama3"
            )),
        }
    }

    fn yarn(&self) -> Result<RotaryScaling, BackboneError> {
        let original_length = self.original()?;
        let factor = self.positive("factor", Some(self.positions / original_length))?;
        let scale = |weight: f64| if factor <= 1.0 { 1.0 } else { 0.1 * weight * factor.ln() + 1.0 };
        // `transformers` takes 0 for absent in these
        let given = |key: &str| Ok::<_, BackboneError>(self.number(key)?.filter(|number| *number != 0.0));
        let attention_factor =
            match (self.number("attention_factor")?, given("mscale")?, given("mscale_all_dim")?) {
                (Some(attention_factor), ..) => attention_factor,
                (None, Some(one), Some(all)) => scale(one) / scale(all),
                _ => scale(1.0),
            };
        let truncate = match self.values.get("truncate") {
            None => true,
            Some(Value::Bool(truncate)) => *truncate,
            Some(other) => {
                return refuse(format!("rope scaling `yarn`: `truncate` is {other}, neither true nor false"));
            }
        };
        Ok(RotaryScaling::Yarn {
            factor,
            original_length,
            beta_fast: given("beta_fast")?.map_or(Ok(32.0), |_| self.positive("beta_fast", None))?,
            beta_slow: given("beta_slow")?.map_or(Ok(1.0), |_| self.positive("beta_slow", None))?,
            attention_factor,
            truncate,
        })
    }

    fn longrope(&self, head: usize) -> Result<RotaryScaling, BackboneError> {
        let original_length = self.original()?;
        let factor = self.positive("factor", Some(self.positions / original_length))?;
        let usual = if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original_length.ln()).sqrt() };
        Ok(RotaryScaling::LongRope {
            short: self.divisors("short_factor", head)?,
            long: self.divisors("long_factor", head)?,
            original_length,
            attention_factor: self.number("attention_factor")?.unwrap_or(usual),
        })
    }

    fn llama3(&self) -> Result<RotaryScaling, BackboneError> {
        let (low, high) = (self.positive("low_freq_factor", None)?, self.positive("high_freq_factor", None)?);
        if low == high {
            return refuse(
                "rope scaling `llama3`: low_freq_factor and high_freq_factor are the same".to_owned(),
            );
        }
        Ok(RotaryScaling::Llama3 {
            factor: self.positive("factor", None)?,
            low_frequency_factor: low,
            high_frequency_factor: high,
            original_length: self.original()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rotary(config: &Value) -> Result<Rotary, BackboneError> {
        let rope =
            RopeConfig::deserialize(config).map_err(|error| BackboneError::Config(error.to_string()))?;
        let size = |key: &str| config[key].as_u64().unwrap_or(16) as usize;
        rope.rotary(size("head_dim"), size("max_position_embeddings"))
    }

    #[test]
    fn frequencies_are_those_of_transformers() {
        let cases: Value = serde_json::from_str(include_str!("../tests/rope.json")).unwrap();
        let cases = cases.as_array().unwrap();
        assert!(cases.len() > 20, "{} cases", cases.len());
        for case in cases {
            let config = &case["config"];
            let rotary = rotary(config).unwrap();
            let close = |ours: f64, theirs: &Value, what: &str| {
                let theirs = theirs.as_f64().unwrap();
                assert!((ours / theirs - 1.0).abs() < 1e-6, "{config}: {what} is {ours}, not {theirs}");
            };
            close(rotary.attention_factor(), &case["attention_factor"], "attention factor");
            for (length, frequencies) in case["inverse_frequencies"].as_object().unwrap() {
                let ours = rotary.inverse_frequencies(length.parse().unwrap());
                let theirs = frequencies.as_array().unwrap();
                assert_eq!(ours.len(), theirs.len(), "{config}");
                ours.iter().zip(theirs).for_each(|(ours, theirs)| close(*ours, theirs, length));
            }
        }
    }

    #[test]
    fn a_table_follows_the_length_of_its_text() {
        let config =
            json!({ "rope_scaling": { "type": "dynamic", "factor": 4.0 }, "max_position_embeddings": 64 });
        let rotary = rotary(&config).unwrap();
        let second_row = |start: usize, length: usize| {
            let (cosine, _) = rotary.table(start, length, &burn::tensor::Device::flex());
            cosine.into_data().iter::<f32>().skip(16).take(8).collect::<Vec<_>>()
        };
        let expected = |length: usize| {
            rotary
                .inverse_frequencies(length)
                .iter()
                .map(|frequency| (*frequency as f32).cos())
                .collect::<Vec<_>>()
        };
        assert_eq!(second_row(0, 64), expected(1));
        assert_eq!(second_row(0, 100), expected(100));
        assert_ne!(expected(100), expected(1));
    }

    #[test]
    fn a_key_of_the_users_that_another_goes_before_is_refused() {
        let table = json!({ "rope_type": "yarn", "factor": 2.0, "rope_theta": 5e5, "truncate": null });
        let named = |name: &str, table: &Value| json!({ "model_type": "llama", name: table });
        let (none, plain) = (json!({}), json!({ "rope_type": "default" }));
        let written = "{ factor = 2.0, rope_type = \"yarn\", rope_theta = 3.0 }";
        for (config, key, parts) in [
            (named("rope_parameters", &table), "rope_theta", &["rope_theta", "rope_parameters", written][..]),
            (named("rope_scaling", &table), "rope_theta", &["rope_theta", "rope_scaling", written]),
            (named("rope_parameters", &plain), "rope_theta", &[]),
            (named("rope_parameters", &none), "rope_theta", &[]),
            (named("rope_parameters", &table), "original_max_position_embeddings", &[]),
            (
                named("rope_parameters", &plain),
                "original_max_position_embeddings",
                &["original_max_position_embeddings", "`default`"],
            ),
            (json!({ "model_type": "llama" }), "original_max_position_embeddings", &["`default`"]),
            (json!({ "model_type": "llama" }), "rope_theta", &[]),
        ] {
            let changes = Map::from_iter([(key.to_owned(), json!(3.0))]);
            let mut changed = config.clone();
            changed[key] = json!(3.0);
            let card = crate::card(&config).unwrap();
            let said =
                card.check(&changed, &changes).err().map(|error| error.to_string()).unwrap_or_default();
            assert_eq!(said.is_empty(), parts.is_empty(), "{config} {key}: {said}");
            assert!(parts.iter().all(|part| said.contains(part)), "{said}");
            // the same keys in a file are what a file says
            assert!(card.check(&changed, &Map::new()).is_ok(), "{config} {key}");
        }
    }

    #[test]
    fn what_is_not_implemented_is_named() {
        let refused = |config: Value, word: &str| match rotary(&config) {
            Err(error) => assert!(error.to_string().contains(word), "{config}: {error}"),
            Ok(_) => panic!("{config} is taken"),
        };
        refused(json!({ "rope_scaling": { "type": "su", "factor": 2.0 } }), "`su`");
        refused(json!({ "rope_scaling": { "rope_type": "linear" } }), "`factor`");
        refused(json!({ "rope_scaling": { "rope_type": "linear", "factor": "4" } }), "`factor`");
        refused(json!({ "rope_scaling": { "rope_type": "linear", "factor": 0.0 } }), "`factor`");
        refused(
            json!({ "rope_scaling": { "rope_type": "dynamic", "factor": 2.0, "alpha": 3.0 } }),
            "`alpha`",
        );
        refused(
            json!({ "rope_parameters": { "full_attention": { "rope_type": "default" } } }),
            "`full_attention`",
        );
        refused(json!({ "rope_parameters": { "partial_rotary_factor": 0.5 } }), "partial_rotary_factor");
        refused(json!({ "partial_rotary_factor": 0.25 }), "partial_rotary_factor");
        refused(json!({ "rope_theta": 0.0 }), "rope_theta");
        refused(json!({ "head_dim": 1u64 << 40 }), "heads are");
        refused(json!({ "rope_scaling": "yarn" }), "rope_scaling");
        refused(
            json!({ "rope_scaling": { "type": "longrope", "short_factor": [1.0], "long_factor": [1.0] } }),
            "short_factor",
        );
        refused(
            json!({ "rope_scaling": { "type": "linear", "factor": 2.0 }, "rope_parameters": { "rope_type": "default" } }),
            "rope_parameters",
        );
        assert!(
            rotary(&json!({ "rope_scaling": null, "rope_parameters": { "rope_type": "default" } })).is_ok()
        );
    }
}
