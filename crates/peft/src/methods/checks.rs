//! Errors for settings that make no sense, as a user reads them.

use crate::NotApplicable;

/// An error where `dropout` is no probability below 1.
pub fn check_dropout(dropout: f64) -> Result<(), NotApplicable> {
    match (0.0..1.0).contains(&dropout) {
        true => Ok(()),
        false => Err(NotApplicable::new(format!("dropout is {dropout}; it must be at least 0 and below 1"))),
    }
}

/// An error where `rank`, the setting `key`, leaves nothing to train.
pub fn check_rank(key: &str, rank: usize) -> Result<(), NotApplicable> {
    match rank {
        0 => {
            Err(NotApplicable::new(format!("{key} is 0, and there would be nothing to train; use 1 or more")))
        }
        _ => Ok(()),
    }
}

/// An error where `value`, the setting `key`, is no decay of a running mean.
pub fn check_decay(key: &str, value: f64) -> Result<(), NotApplicable> {
    match (0.0..1.0).contains(&value) {
        true => Ok(()),
        false => Err(NotApplicable::new(format!("{key} is {value}; it must be at least 0 and below 1"))),
    }
}

/// An error where `value`, the setting `key`, is no weight of a term of the loss.
pub fn check_weight(key: &str, value: f64) -> Result<(), NotApplicable> {
    match value.is_finite() && value >= 0.0 {
        true => Ok(()),
        false => Err(NotApplicable::new(format!("{key} is {value}; it must be 0 or more"))),
    }
}

/// An error where `steps`, the setting `key`, is no number of steps between two events.
pub fn check_interval(key: &str, steps: usize) -> Result<(), NotApplicable> {
    match steps {
        0 => Err(NotApplicable::new(format!("{key} is 0 steps; use 1 or more"))),
        _ => Ok(()),
    }
}
