/// What of a name stands in the names of files.
pub(crate) fn plain(text: &str) -> String {
    let kept = text.chars().map(|c| if c.is_alphanumeric() || c == '.' { c } else { '-' });
    kept.collect::<String>().split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
}
