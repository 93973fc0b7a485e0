//! `bench check`.

use anyhow::{Context, Result, bail};
use peftlab_check::{Network, Report, entry_on};
use peftlab_peft::Registry;
use serde_json::{Map, Value};

use crate::arguments::{Check, TinyNetwork};
use crate::{Outcome, print};

pub(crate) fn check(arguments: &Check, registry: &Registry) -> Result<Outcome> {
    let Check { methods, set, network, json } = arguments;
    if methods.len() > 1 && !set.is_empty() {
        bail!("--set goes with one method alone: check the {} methods one after the other", methods.len());
    }
    let settings = settings(set)?;
    let networks: Vec<Network> = match network.as_slice() {
        [] => Network::ALL.to_vec(),
        chosen => chosen.iter().map(|network| tiny(*network)).collect(),
    };
    // before the first of them is checked: a name may be wrong
    let entries = methods.iter().map(|name| registry.get(name)).collect::<Result<Vec<_>, _>>()?;
    let mut reports: Vec<Report> = Vec::new();
    for entry in entries {
        let report = entry_on(entry, settings.clone(), &networks)?;
        if !json {
            print(&report);
        }
        reports.push(report);
    }
    if *json {
        print(serde_json::to_string_pretty(&reports)?);
    }
    Ok(if reports.iter().all(Report::passed) { Outcome::Done } else { Outcome::Failed })
}

fn tiny(network: TinyNetwork) -> Network {
    match network {
        TinyNetwork::Bert => Network::Bert,
        TinyNetwork::Roberta => Network::Roberta,
        TinyNetwork::Llama => Network::Llama,
    }
}

/// The table of settings that `KEY=VALUE` pairs make. A value is one of TOML's; what is none of them is a string, so
/// that names need no quotes.
fn settings(pairs: &[String]) -> Result<Value> {
    let mut table = Map::new();
    for pair in pairs {
        let (key, value) =
            pair.split_once('=').with_context(|| format!("--set {pair}: write KEY=VALUE, such as rank=4"))?;
        let (key, value) = (key.trim(), value.trim());
        let parsed = toml::from_str::<Map<String, Value>>(&format!("value = {value}"));
        let parsed = parsed.ok().and_then(|mut table| table.remove("value"));
        let parsed = parsed.unwrap_or_else(|| Value::String(value.to_owned()));
        if table.insert(key.to_owned(), parsed).is_some() {
            bail!("--set {key}: is given twice");
        }
    }
    Ok(Value::Object(table))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_value_is_tomls_or_a_string() {
        let pairs =
            ["rank=4", "target_modules=[\"query\", \"key\"]", "alpha = 8.5", "bias=lora_only", "x=true"];
        let expected = json!({
            "rank": 4, "target_modules": ["query", "key"], "alpha": 8.5, "bias": "lora_only", "x": true,
        });
        assert_eq!(settings(&pairs.map(str::to_owned)).unwrap(), expected);
        assert!(settings(&["rank".to_owned()]).unwrap_err().to_string().contains("KEY=VALUE"));
        assert!(settings(&["a=1".to_owned(), "a=2".to_owned()]).unwrap_err().to_string().contains("twice"));
    }
}
