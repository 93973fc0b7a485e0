//! Bounds on settings, one for all methods: products of sizes stay within a machine's numbers, and nobody waits for
//! what a file merely asks for.

use serde_json::Value;

use crate::NotApplicable;

/// Ranks, widths and numbers of vectors: no network's weights are wider.
const LARGEST: u64 = 1 << 16;
/// Rounds of an approximation; some tens are usual.
const MOST_ROUNDS: u64 = 1000;
const ROUNDS: [&str; 2] = ["iterations", "num_cayley_neumann_terms"];
/// Numbers of optimizer steps.
const MOST_STEPS: u64 = 1 << 32;
const STEPS: [&str; 6] = ["t_init", "t_final", "delta_t", "total_steps", "update_every", "grow_every"];
/// Any number will do.
const SEED: &str = "seed";

/// Holds every whole number of a method's settings against its bound.
///
/// # Errors
/// Where one is larger, by its key.
pub(crate) fn check(settings: &Value) -> Result<(), NotApplicable> {
    within("", settings)
}

fn within(key: &str, value: &Value) -> Result<(), NotApplicable> {
    match value {
        Value::Object(values) => values.iter().try_for_each(|(key, value)| within(key, value)),
        Value::Array(values) => values.iter().try_for_each(|value| within(key, value)),
        Value::Number(number) if !number.is_f64() && key != SEED => {
            let most = match key {
                _ if ROUNDS.contains(&key) => MOST_ROUNDS,
                _ if STEPS.contains(&key) => MOST_STEPS,
                _ => LARGEST,
            };
            match number.as_u64().or_else(|| number.as_i64().map(i64::unsigned_abs)) {
                Some(size) if size <= most => Ok(()),
                _ => Err(NotApplicable::new(format!("{key} is {number}; use {most} or less"))),
            }
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::check;

    #[test]
    fn a_size_that_no_weight_has_is_refused_by_its_key() {
        assert!(check(&json!({ "rank": 65536, "seed": u64::MAX, "alpha": 1e300, "factor": -1 })).is_ok());
        for (settings, key) in [
            (json!({ "rank": u64::MAX }), "rank is"),
            (json!({ "rank_pattern": { "q_proj": 1_u64 << 40 } }), "q_proj is"),
            (json!({ "iterations": 1001 }), "iterations is"),
            (json!({ "factor": i64::MIN }), "factor is"),
        ] {
            assert!(check(&settings).unwrap_err().to_string().contains(key), "{key}");
        }
    }
}
