//! How a byte-level tokenizer cuts a text into words, by the name in `tokenizer.ggml.pre`
//! (llama.cpp, `src/llama-vocab.cpp`, `llm_tokenizer_bpe` and `llama_vocab::impl::load`).
//!
//! Each pattern cuts the pieces that the one before left: what it matches and what is between matches become pieces.
//! Where llama.cpp rewrote a pattern of the model's own `tokenizer.json` because its regex engine lacks something, the
//! original stands here.

/// Rules of a pre-tokenizer.
pub(super) struct PreTokenizer {
    /// The patterns, one after the other.
    pub patterns: &'static [&'static str],
    /// Whether a word that is a token is that token, whatever merges would make of it.
    pub ignore_merges: bool,
    /// Whether a text begins with the BOS token where the file does not say.
    pub adds_bos: bool,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const SEED_CODER: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DIGITS_IN_THREES: &str = "[0-9][0-9][0-9]";
const CJK: &str = r"[\x{4e00}-\x{9fa5}\x{3040}-\x{309f}\x{30a0}-\x{30ff}]+";
const DEEPSEEK_V3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;

/// Names, patterns, and whether merges are ignored for a word that is a token and BOS is added.
const KNOWN: [(&[&str], &[&str], bool); 12] = [
    (&["default"], &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", DIGITS_IN_THREES], false),
    (
        &["llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
        &[LLAMA3],
        true,
    ),
    (&["dbrx", "smaug-bpe"], &[LLAMA3], false),
    (
        &["gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "gigachat", "a.x-4.0", "mellum", "exaone4"],
        &[GPT2],
        false,
    ),
    (
        &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"],
        &[r"\p{N}", GPT2],
        false,
    ),
    (
        &["qwen2", "deepseek-r1-qwen", "stablelm2", "hunyuan", "megrez", "solar-open", "kormo"],
        &[QWEN2],
        false,
    ),
    (&["seed-coder"], &[SEED_CODER], false),
    (&["tekken"], &[TEKKEN], true),
    (&["gpt-4o", "llama4", "kanana2"], &[GPT4O], false),
    (&["falcon"], &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, DIGITS_IN_THREES], false),
    (
        &["deepseek-coder"],
        &[
            "[\r\n]",
            r"\s?\p{L}+",
            r"\s?\p{P}+",
            r"[\x{4e00}-\x{9fa5}\x{0800}-\x{4e00}\x{ac00}-\x{d7ff}]+",
            r"\p{N}",
        ],
        false,
    ),
    (&["deepseek-v3", "hunyuan-dense", "joyai-llm"], &[r"\p{N}{1,3}", CJK, DEEPSEEK_V3], false),
];

/// The rules of that name.
pub(super) fn pre_tokenizer(name: &str) -> Option<PreTokenizer> {
    let (_, patterns, llama3) = KNOWN.iter().find(|(names, ..)| names.contains(&name))?;
    Some(PreTokenizer { patterns, ignore_merges: *llama3, adds_bos: *llama3 })
}

/// The names, for messages.
pub(super) fn names() -> String {
    KNOWN.iter().flat_map(|(names, ..)| names.iter()).copied().collect::<Vec<_>>().join(", ")
}
