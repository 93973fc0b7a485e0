//! A text as tokens, with special tokens where they belong and nowhere twice.

use peftlab_checkpoint::Tokenizer;

/// A text as tokens.
pub(crate) struct Tokens {
    pub(crate) ids: Vec<u32>,
    /// Where each token ends in the text, in bytes; none for those that the tokenizer puts around it.
    pub(crate) ends: Vec<Option<usize>>,
}

/// The tokens of `text`, with those that the tokenizer puts in front of one, and behind it if `behind` says so. Where
/// the text itself begins or ends with them, they stand once.
pub(crate) fn tokens(tokenizer: &Tokenizer, text: &str, behind: bool) -> Result<Tokens, String> {
    let encoding = tokenizer.encode(text)?;
    let (ids, mask) = (encoding.get_ids(), encoding.get_special_tokens_mask());
    let own = |mask: &mut dyn Iterator<Item = &u32>| mask.take_while(|special| **special == 1).count();
    let front = own(&mut mask.iter());
    let back = if front == ids.len() { 0 } else { own(&mut mask.iter().rev()) };
    let (before, after) = (&ids[..front], &ids[ids.len() - back..]);
    let body = &ids[front..ids.len() - back];
    let before = if front > 0 && body.starts_with(before) { &[] } else { before };
    let after = if !behind || (back > 0 && body.ends_with(after)) { &[] } else { after };
    let ends = encoding.get_offsets()[front..ids.len() - back].iter().map(|(_, end)| Some(*end));
    let around = |tokens: &[u32]| std::iter::repeat_n(None, tokens.len());
    Ok(Tokens {
        ends: around(before).chain(ends).chain(around(after)).collect(),
        ids: [before, body, after].concat(),
    })
}

/// Puts `eos` behind `ids` where it is not there yet.
pub(crate) fn end(ids: &mut Vec<u32>, eos: Option<u32>) {
    if let Some(eos) = eos.filter(|eos| ids.last() != Some(eos)) {
        ids.push(eos);
    }
}
