//! Rows of drawn tokens: full of work, empty of meaning.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::encode::next_tokens;
use crate::spec::{RandomRows, TaskKind, TaskSpec};
use crate::{Split, TaskError};

/// Tokens that a split may draw: a hundred megabytes of examples.
const MOST_TOKENS: usize = 1 << 23;

impl TaskSpec {
    /// The rows of the split `name`; the same ones each time, others for each split.
    pub(crate) fn drawn(&self, rows: &RandomRows, name: &str, vocabulary: usize) -> Result<Split, TaskError> {
        let refuse =
            |message: &str| Err(TaskError::new(&self.name, "[[task]]", format!("{name}: {message}")));
        if self.kind != TaskKind::CausalLm {
            return refuse("random_rows are for causal-lm tasks: drawn tokens have no classes; name a file");
        }
        if rows.random_rows == 0 {
            return refuse("random_rows is 0; it must be 1 or more");
        }
        if vocabulary == 0 {
            return refuse("random_rows are drawn from the vocabulary, and config.json has no vocab_size");
        }
        let Ok(ids) = u32::try_from(vocabulary) else {
            return refuse(&format!("vocab_size = {vocabulary} in config.json is more than any network has"));
        };
        if rows.random_rows.checked_mul(self.max_length).is_none_or(|tokens| tokens > MOST_TOKENS) {
            return refuse(&format!(
                "random_rows = {} of max_length = {} are more than {MOST_TOKENS} tokens; ask for fewer",
                rows.random_rows, self.max_length
            ));
        }
        let mut rng = ChaCha8Rng::seed_from_u64(name.len() as u64);
        let mut row = || (0..self.max_length).map(|_| rng.random_range(0..ids)).collect::<Vec<_>>();
        Ok(Split { examples: (0..rows.random_rows).map(|_| next_tokens(&row())).collect() })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::{Encoder, EndOfText, TaskSpec};

    const ENCODER: Encoder = Encoder { tokenizer: None, eos: EndOfText::None, vocabulary: 7 };

    fn load(kind: &str) -> Result<crate::TaskData, crate::TaskError> {
        let text = format!(
            "name = \"x\"\nkind = \"{kind}\"\nmax_length = 50\ntrain = {{ random_rows = 3 }}\nvalidation = {{ random_rows = 2 }}"
        );
        toml::from_str::<TaskSpec>(&text).unwrap().load(Path::new("."), &ENCODER)
    }

    #[test]
    fn drawn_rows_need_no_file_and_no_tokenizer() {
        let data = load("causal-lm").unwrap();
        let lengths =
            |split: &crate::Split| split.examples.iter().map(|e| e.input_ids.len()).collect::<Vec<_>>();
        assert_eq!((lengths(&data.train), lengths(&data.validation)), (vec![50; 3], vec![50; 2]));
        assert!(data.train.examples.iter().flat_map(|e| &e.input_ids).all(|id| *id < 7));
        assert_ne!(data.train.examples[0], data.validation.examples[0]);
        assert_eq!(data.digest, load("causal-lm").unwrap().digest);
        let error = load("classification").unwrap_err().to_string();
        assert!(error.contains("random_rows are for causal-lm"), "{error}");
    }

    #[test]
    fn more_than_memory_holds_is_refused() {
        for rows in [1_usize << 40, usize::MAX / 2] {
            let text = format!(
                "name = \"x\"\nkind = \"causal-lm\"\ntrain = {{ random_rows = {rows} }}\nvalidation = {{ random_rows = 2 }}"
            );
            let error =
                toml::from_str::<TaskSpec>(&text).unwrap().load(Path::new("."), &ENCODER).unwrap_err();
            assert!(error.to_string().contains("ask for fewer"), "{error}");
        }
    }
}
