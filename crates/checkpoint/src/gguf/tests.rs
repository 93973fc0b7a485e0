use super::*;

#[test]
fn rows_are_put_back() {
    // one head of four rows: GGUF has rows 0, 2, 1, 3 of the Hub's
    assert_eq!(unpermute(&[0.0, 2.0, 1.0, 3.0], 4, 1), [0.0, 1.0, 2.0, 3.0]);
}
