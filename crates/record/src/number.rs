//! Numbers that may be none. JSON has no infinity and no NaN: they are written as `null`, and a record with one
//! must still be one that can be read.

use serde::{Deserialize, Deserializer};

/// A number; NaN where there is `null`.
pub(crate) fn or_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::{Checks, Look, Memory, Score, Training};

    #[test]
    fn what_is_no_number_can_be_read_again() {
        let score =
            Score { metric: "perplexity".to_owned(), value: f64::INFINITY, standard_error: None, items: 3 };
        let text = serde_json::to_string(&score).unwrap();
        let read: Score = serde_json::from_str(&text).unwrap();
        assert!(read.value.is_nan() && read.items == 3, "{read:?}");
        let text = serde_json::to_string(&Look { step: 7, loss: f64::NAN }).unwrap();
        let look: Look = serde_json::from_str(&text).unwrap();
        assert!(look.loss.is_nan() && look.step == 7, "{look:?}");
    }

    #[test]
    fn records_from_before_searches_and_merging_can_be_read() {
        let mut training = serde_json::to_value(Training::default()).unwrap();
        training.as_object_mut().unwrap().remove("searched");
        assert_eq!(serde_json::from_value::<Training>(training).unwrap(), Training::default());
        let checks = json!({ "frozen_unchanged": 3, "trained_changed": 2, "step0_difference": 0.0 });
        assert_eq!(serde_json::from_value::<Checks>(checks).unwrap().trained_updated, 2);
        let memory: Memory = serde_json::from_value(json!({ "device_used": 5 })).unwrap();
        assert_eq!((memory.device_used, memory.base_bytes), (Some(5), None));
    }
}
