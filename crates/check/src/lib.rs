//! Holds a fine-tuning method to what its card promises, on tiny networks with random weights, in some seconds.
//!
//! A method is tested by a test of its own crate
//!
//! ```
//! # use peftlab_check::method;
//! # use peftlab_peft::methods::BitFit;
//! let report = method::<BitFit>(serde_json::json!({}))?;
//! assert!(report.passed(), "{report}");
//! # Ok::<(), peftlab_check::CheckError>(())
//! ```
//!
//! or from the command line, with `bench check bitfit`. What is checked is in [`Promise`]. Whether the numbers are those
//! of the paper is another question, which a parity bundle answers.

mod learning;
mod network;
mod promises;
mod report;

pub use network::{Network, logits, randomised};
pub use promises::Promise;
pub use report::{Check, Report};

use peftlab_peft::{Entry, Method, Outline, SettingsError};
use serde_json::Value;

/// Why nothing could be checked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// The settings are not the method's.
    #[error("{method}: {}{error}", .error.key.as_ref().map(|key| format!("{key}: ")).unwrap_or_default())]
    Settings {
        /// The method's name.
        method: String,
        /// What is wrong with them.
        error: SettingsError,
    },
    /// The method applies to none of the networks.
    #[error(
        "{method} applies to none of the tiny networks with these settings:\n  {}\ngive it settings that fit such a \
         network",
        reasons.join("\n  ")
    )]
    NotApplicable {
        /// The method's name.
        method: String,
        /// Why, one for each network.
        reasons: Vec<String>,
    },
}

/// Checks the method `M`, with `settings` in the place of its defaults, on every network that it applies to.
///
/// # Errors
/// Where the settings are not the method's, or it applies to none of the networks.
pub fn method<M: Method>(settings: Value) -> Result<Report, CheckError> {
    entry_on(&Entry::of::<M>(), settings, &Network::ALL)
}

/// Checks a registered method, with `settings` in the place of its defaults, on those of `networks` that it applies to.
///
/// # Errors
/// As [`method`].
pub fn entry_on(entry: &Entry, settings: Value, networks: &[Network]) -> Result<Report, CheckError> {
    let name = || entry.card.name.to_owned();
    let method = entry.parse(settings).map_err(|error| CheckError::Settings { method: name(), error })?;
    let mut report = Report { method: name(), label: method.label(), ..Report::default() };
    let mut reasons = Vec::new();
    for network in networks {
        match method.count(&Outline::of(&mut network.model())) {
            Ok(_) => report.checks.extend(promises::check(&*method, *network)),
            Err(reason) => reasons.push(format!("{network}: {reason}")),
        }
    }
    match report.checks.is_empty() {
        true => Err(CheckError::NotApplicable { method: name(), reasons }),
        false => {
            report.checks.insert(0, promises::settings(entry, &*method));
            report.not_on = reasons;
            Ok(report)
        }
    }
}
