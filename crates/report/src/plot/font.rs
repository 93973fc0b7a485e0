//! The font that comes with the program: no picture depends on what is installed. It has Latin, Greek and Cyrillic; a
//! letter that it lacks, such as a Chinese one, is an empty box in PNG and PDF, and another font's in SVG.

use std::sync::LazyLock;

use ttf_parser::{Face, GlyphId};

/// DejaVu Sans.
pub(super) const BYTES: &[u8] = include_bytes!("../../../../assets/fonts/DejaVuSans.ttf");

/// Its name in SVG, and what is as wide where it is not installed: Bitstream Vera is what it was made from, and Verdana,
/// of Windows and macOS, was made by the same designer.
pub(super) const NAMES: &str = "'DejaVu Sans', 'Bitstream Vera Sans', Verdana, sans-serif";

#[expect(clippy::expect_used, reason = "the font is part of the program")]
static FACE: LazyLock<Face<'static>> =
    LazyLock::new(|| Face::parse(BYTES, 0).expect("the font of the program can be read"));

/// The font.
pub(super) fn face() -> &'static Face<'static> {
    &FACE
}

/// The glyph of a letter; the font's empty box where it has none.
pub(super) fn glyph(letter: char) -> GlyphId {
    FACE.glyph_index(letter).unwrap_or_default()
}

/// How far a glyph moves the pen, in units of the font's size.
pub(super) fn advance(glyph: GlyphId) -> f64 {
    f64::from(FACE.glyph_hor_advance(glyph).unwrap_or(0)) / f64::from(FACE.units_per_em())
}

/// Width of a line of text, in the unit of `size`.
pub(super) fn width(text: &str, size: f64) -> f64 {
    text.chars().map(|letter| advance(glyph(letter))).sum::<f64>() * size
}

/// Whether every letter of a text is in the font.
pub(super) fn complete(text: &str) -> bool {
    text.chars().all(|letter| FACE.glyph_index(letter).is_some())
}

/// A text in one line: white space is blanks, and what is no letter is the sign for that.
pub(super) fn printable(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let kept = |letter: char| match letter {
        _ if letter.is_control() || matches!(letter, '\u{fffe}' | '\u{ffff}') => '\u{fffd}',
        letter => letter,
    };
    words.join(" ").chars().map(kept).collect()
}

/// A text no wider than `width`: what is left out in its middle is an ellipsis, for what tells two labels apart is
/// often at their end.
pub(super) fn fit(text: &str, size: f64, limit: f64) -> String {
    let text = printable(text);
    if width(&text, size) <= limit {
        return text;
    }
    let letters: Vec<char> = text.chars().collect();
    let cut = |kept: usize| -> String {
        let tail = kept / 3;
        let (head, end) = (&letters[..kept - tail], &letters[letters.len() - tail..]);
        head.iter().chain(&['…']).chain(end).collect()
    };
    let fitting = (0..letters.len()).rev().map(cut).find(|text| width(text, size) <= limit);
    fitting.unwrap_or_else(|| "…".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_labels_keep_both_ends() {
        let label = format!("lora {} alpha=16", "x".repeat(80));
        let fitted = fit(&label, 7.0, 120.0);
        assert!(
            fitted.starts_with("lora x") && fitted.ends_with("alpha=16") && fitted.contains('…'),
            "{fitted}"
        );
        assert!(width(&fitted, 7.0) <= 120.0);
        assert_eq!(fit("short", 7.0, 120.0), "short");
        assert_eq!(fit("中文", 7.0, 0.1), "…");
    }

    #[test]
    fn blanks_are_as_wide_as_the_font_says() {
        assert_eq!(width("a b", 10.0), width("a", 10.0) + width(" ", 10.0) + width("b", 10.0));
        assert!(width(" ", 10.0) > 3.0);
        assert!(complete("λ α=16 ж →") && !complete("中"));
        assert_eq!(printable("a\n b\u{0}"), "a b\u{fffd}");
    }
}
