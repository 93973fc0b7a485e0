use std::collections::BTreeMap;

use serde_json::Value;

use crate::method::{Card, DynMethod, Method, NotApplicable};
use crate::methods;
use crate::peft_config::{PeftConfig, unread};

/// The methods that experiment files can name.
pub struct Registry {
    entries: BTreeMap<&'static str, Entry>,
}

/// One method.
pub struct Entry {
    /// What the method says about itself.
    pub card: &'static Card,
    parse: fn(Value) -> Result<Box<dyn DynMethod>, SettingsError>,
    from_peft: FromPeft,
}

/// What an `adapter_config.json` describes.
pub struct Described {
    /// The method, with its settings.
    pub method: Box<dyn DynMethod>,
    /// What was left out; a sentence each.
    pub warnings: Vec<String>,
}

type FromPeft = fn(&Value) -> Result<Option<Described>, NotApplicable>;

/// A setting that a method does not have, or of another type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SettingsError {
    /// The key, if one is to blame.
    pub key: Option<String>,
    /// What is wrong, and what would be right.
    pub message: String,
}

/// A name that no method has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no method `{name}`{}; there are {}",
    nearest.map(|name| format!(", did you mean `{name}`?")).unwrap_or_default(), all.join(", "))]
pub struct UnknownMethod {
    name: String,
    nearest: Option<&'static str>,
    all: Vec<&'static str>,
}

impl Registry {
    /// No methods.
    pub fn empty() -> Self {
        Self { entries: BTreeMap::new() }
    }

    /// Every method of this crate.
    pub fn standard() -> Self {
        let mut registry = Self::empty();
        registry.add::<methods::Full>();
        registry.add::<methods::GaLore>();
        registry.add::<methods::HeadOnly>();
        registry.add::<methods::BitFit>();
        registry.add::<methods::LnTuning>();
        registry.add::<methods::Lora>();
        registry.add::<methods::RsLora>();
        registry.add::<methods::LoraPlus>();
        registry.add::<methods::LoraFa>();
        registry.add::<methods::Dora>();
        registry.add::<methods::Pissa>();
        registry.add::<methods::Olora>();
        registry.add::<methods::AdaLora>();
        registry.add::<methods::IncreLora>();
        registry.add::<methods::DyLora>();
        registry.add::<methods::Vera>();
        registry.add::<methods::VbLora>();
        registry.add::<methods::Nola>();
        registry.add::<methods::LoHa>();
        registry.add::<methods::LoKr>();
        registry.add::<methods::Oft>();
        registry.add::<methods::Boft>();
        registry.add::<methods::GLora>();
        registry.add::<methods::QLora>();
        registry.add::<methods::LoftQ>();
        registry.add::<methods::QaLora>();
        registry.add::<methods::LongLora>();
        registry.add::<methods::TiedLora>();
        registry.add::<methods::Houlsby>();
        registry.add::<methods::Pfeiffer>();
        registry.add::<methods::Parallel>();
        registry.add::<methods::PrefixTuning>();
        registry.add::<methods::PromptTuning>();
        registry.add::<methods::Ia3>();
        registry
    }

    /// Adds a method, in place of one with the same name.
    pub fn add<M: Method>(&mut self) {
        self.entries.insert(M::CARD.name, Entry::of::<M>());
    }

    /// Every method, by name.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// The method `name`.
    ///
    /// # Errors
    /// Where there is none; the error names the nearest.
    pub fn get(&self, name: &str) -> Result<&Entry, UnknownMethod> {
        self.entries.get(name).ok_or_else(|| {
            let all: Vec<_> = self.entries.keys().copied().collect();
            UnknownMethod { name: name.to_owned(), nearest: nearest(name, &all), all }
        })
    }

    /// The method that an `adapter_config.json` of Hugging Face PEFT describes.
    ///
    /// # Errors
    /// Where there is no such method, or one of its keys asks for what is not implemented.
    pub fn from_peft(&self, config: &Value) -> Result<Described, NotApplicable> {
        for entry in self.entries.values() {
            if let Some(described) = (entry.from_peft)(config)? {
                return Ok(described);
            }
        }
        Err(unread(&config["peft_type"]))
    }
}

impl Entry {
    /// The method `M`.
    pub fn of<M: Method>() -> Self {
        Self {
            card: const { &M::CARD },
            parse: |settings| parse::<M>(settings).map(|method| Box::new(method) as Box<dyn DynMethod>),
            from_peft: from_peft::<M>,
        }
    }

    /// The method with these settings, a table.
    ///
    /// # Errors
    /// Where a key is unknown or of another type.
    pub fn parse(&self, settings: Value) -> Result<Box<dyn DynMethod>, SettingsError> {
        (self.parse)(settings)
    }
}

fn from_peft<M: Method>(config: &Value) -> Result<Option<Described>, NotApplicable> {
    let config = PeftConfig::new(config)?;
    let Some(method) = M::from_peft(&config)? else { return Ok(None) };
    Ok(Some(Described { method: Box::new(method), warnings: config.finish()? }))
}

fn parse<M: Method>(settings: Value) -> Result<M, SettingsError> {
    let given = settings.clone();
    serde_path_to_error::deserialize(settings).map_err(|error| {
        let path = error.path().to_string();
        let mut message = error.inner().to_string();
        // serde's text for an unknown key: "unknown field `x`, expected one of .."; its path is the parent's
        let unknown = message.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`'));
        let unknown = unknown.map(|(key, _)| key.to_owned());
        if let Some(key) = &unknown {
            let keys: Vec<&str> = M::CARD.settings.iter().map(|(name, ..)| *name).collect();
            let hint = nearest(key, &keys).map(|key| format!("; did you mean `{key}`?")).unwrap_or_default();
            let name = M::CARD.name;
            message = match keys.is_empty() {
                true => format!("`{name}` has no setting `{key}`, nor any other"),
                false => format!("`{name}` has no setting `{key}`{hint} (there are {})", keys.join(", ")),
            };
        }
        // serde loses the path of a setting that methods share
        let alone =
            |key: &&String| serde_json::from_value::<M>(serde_json::json!({ *key: &given[*key] })).is_err();
        let to_blame = || given.as_object()?.keys().find(alone).cloned();
        let key = unknown.or((path != ".").then_some(path)).or_else(to_blame);
        SettingsError { key, message }
    })
}

fn nearest<'a>(name: &str, all: &[&'a str]) -> Option<&'a str> {
    let similar = |other: &&str| strsim::jaro_winkler(name, other);
    let best = all.iter().max_by(|a, b| similar(a).total_cmp(&similar(b)))?;
    (similar(best) > 0.7).then_some(best)
}
