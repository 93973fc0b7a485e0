//! `[search]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[search]`: the learning rate is searched, for every method and task with the same number of trials. A trial is a
/// whole training that does not read the test set; the rate with the best main metric on validation runs every seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SearchSpec {
    /// The grid: peak learning rates to try, each above 0. They replace those of `[training]` and of the methods.
    pub learning_rate: Vec<f64>,
    /// Seed of the trials; without it the first of `seeds`.
    pub seed: Option<u64>,
}

impl SearchSpec {
    /// What no single setting shows.
    ///
    /// # Errors
    /// What is wrong with the grid, with the remedy.
    pub fn check(&self) -> Result<(), String> {
        let rates = &self.learning_rate;
        if rates.is_empty() {
            return Err("learning_rate is empty; give rates to try, such as [1e-3, 3e-3]".to_owned());
        }
        if let Some(rate) = rates.iter().find(|rate| !(rate.is_finite() && **rate > 0.0)) {
            return Err(format!("learning_rate has {rate}; every rate must be above 0"));
        }
        let twice = rates.iter().enumerate().find(|(i, rate)| rates[..*i].contains(rate));
        match twice {
            Some((_, rate)) => Err(format!("learning_rate has {rate:e} twice; give every rate once")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_is_checked() {
        let check = |rates: &[f64]| SearchSpec { learning_rate: rates.to_vec(), seed: None }.check();
        assert_eq!(check(&[1e-3, 3e-3]), Ok(()));
        assert!(check(&[]).unwrap_err().contains("empty"));
        assert!(check(&[1e-3, -1.0]).unwrap_err().contains("-1; every rate must be above 0"));
        assert!(check(&[1e-3, f64::NAN]).unwrap_err().contains("above 0"));
        assert!(check(&[1e-3, 1e-2, 1e-3]).unwrap_err().contains("1e-3 twice"));
    }
}
