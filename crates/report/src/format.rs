//! Numbers as a reader wants them.

/// Digits in groups of three.
pub(crate) fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `2 records`.
pub(crate) fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// A share in percent; what is small keeps the digits that tell it apart.
pub(crate) fn percent(value: f64) -> String {
    if value >= 0.1 { format!("{value:.2}") } else { format!("{value:.4}") }
}

/// Bytes as MiB; a dash where there are none.
pub(crate) fn mebibytes(bytes: Option<f64>) -> String {
    bytes.map_or("-".to_owned(), |bytes| {
        let value = bytes / f64::from(1 << 20);
        if value < 1000.0 { format!("{value:.1}") } else { grouped(value.round() as u64) }
    })
}

/// A whole number, such as tokens a second; a dash where there is none.
pub(crate) fn whole(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), |value| grouped(value.round() as u64))
}

/// Three digits that count.
pub(crate) fn significant(value: f64) -> String {
    let digits = if value > 0.0 { (2 - value.log10().floor() as i32).clamp(0, 6) as usize } else { 0 };
    format!("{value:.digits$}")
}

/// A number of parameters, short: `4.39 M`.
pub(crate) fn size(parameters: u64) -> String {
    let value = parameters as f64;
    match parameters {
        0..1_000 => parameters.to_string(),
        1_000..1_000_000 => format!("{:.2} k", value / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} M", value / 1e6),
        _ => format!("{:.2} G", value / 1e9),
    }
}

/// Digits behind the point of a score: one of points; of all else, such as perplexities and losses, as many as make four
/// digits that count.
pub(crate) fn decimals(score: f64, in_points: bool) -> usize {
    if in_points || score == 0.0 || !score.is_finite() {
        return 1;
    }
    (3 - score.abs().log10().floor() as i32).clamp(0, 4) as usize
}

/// A score, or the error of one, with `decimals` digits behind the point, and never more digits than one can read.
pub(crate) fn number(value: f64, decimals: usize) -> String {
    match value.abs() {
        0.0..1e3 => format!("{value:.decimals$}"),
        1e3..1e7 => format!("{}{}", if value < 0.0 { "-" } else { "" }, grouped(value.abs().round() as u64)),
        _ => format!("{value:.3e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_readers() {
        assert_eq!(grouped(4_386_178), "4,386,178");
        assert_eq!(grouped(12), "12");
        assert_eq!(percent(0.0059), "0.0059");
        assert_eq!(percent(100.0), "100.00");
        assert_eq!(mebibytes(Some(10.5 * 1048576.0)), "10.5");
        assert_eq!(mebibytes(None), "-");
        assert_eq!(size(4_386_178), "4.39 M");
    }

    #[test]
    fn scores_have_the_digits_that_count() {
        let text = |value: f64| number(value, decimals(value, false));
        let values = [0.519_83, 4.1104, 12.345, 260.467, 260_467.123, 3.2e11];
        assert_eq!(values.map(text), ["0.5198", "4.110", "12.35", "260.5", "260,467", "3.200e11"]);
        assert_eq!(number(75.12, decimals(75.12, true)), "75.1");
        assert_eq!(number(-3.12, decimals(-3.12, true)), "-3.1");
    }
}
