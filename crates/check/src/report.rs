//! What the checks of a method came to.

use std::fmt::{Display, Formatter, Result as FmtResult};

use serde::Serialize;

use crate::network::Network;
use crate::promises::Promise;

/// One promise, held against what was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    /// The network; none where the promise is about the settings alone.
    pub network: Option<Network>,
    /// What is promised.
    pub promise: Promise,
    /// The promise in words and numbers.
    pub promised: String,
    /// What was measured, in words and numbers.
    pub measured: String,
    /// The number that decides; none where there is none.
    pub value: Option<f64>,
    /// Why the check failed, with the remedy; none where it passed.
    pub failure: Option<String>,
}

/// All checks of one method with one set of settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// The method's name.
    pub method: String,
    /// Its label, with the settings that tell rows apart.
    pub label: String,
    /// The checks, by network.
    pub checks: Vec<Check>,
    /// The networks that the method does not apply to, with the reason.
    pub not_on: Vec<String>,
}

impl Report {
    /// Whether every check passed.
    pub fn passed(&self) -> bool {
        self.failed().next().is_none()
    }

    /// The checks that failed.
    pub fn failed(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| check.failure.is_some())
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> FmtResult {
        writeln!(f, "{}", self.label)?;
        let row = |f: &mut Formatter<'_>, [network, check, promised, measured, outcome]: [&str; 5]| {
            writeln!(f, "  {network:<8} {check:<10} {promised:<42} {measured:<42} {outcome}")
        };
        row(f, ["network", "check", "promised", "measured", ""])?;
        for check in &self.checks {
            let network = check.network.map_or("", Network::name);
            let outcome = if check.failure.is_some() { "FAILED" } else { "ok" };
            row(f, [network, check.promise.name(), &check.promised, &check.measured, outcome])?;
        }
        for reason in &self.not_on {
            writeln!(f, "  not on {reason}")?;
        }
        for check in self.failed() {
            let (network, reason) =
                (check.network.map_or("settings", Network::name), check.failure.as_deref());
            writeln!(f, "  {network}, {}: {}", check.promise.name(), reason.unwrap_or_default())?;
        }
        let failed = self.failed().count();
        write!(f, "  {} checks passed, {failed} failed", self.checks.len() - failed)
    }
}
