"""Fixtures for the GGUF reader: crates/checkpoint/tests/gguf/. Needs gguf, regex and sentencepiece.

    python tools/reference/gguf_fixtures.py crates/checkpoint/tests/gguf

blocks-TYPE.bin holds blocks of one type, blocks-TYPE.f32 their values as `gguf.dequantize` gives them. Where the package
can quantise, half of the blocks are quantised values; the others, and all of the K types, are random bytes with scales that
are ordinary, negative, subnormal, zero and large.
tiny.gguf is a LLaMA of one layer with each kind of tensor, tiny-0000N-of-00002.gguf the same in two parts.
pieces.json holds a small vocabulary of SentencePiece, and the ids that its own program gives some texts.
words.json holds texts as llama.cpp's pre-tokenizers cut them, by the `regex` package.
"""

import sys
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

OUT = Path(sys.argv[1])
RANDOM = np.random.default_rng(7)
# bytes of a block at which half-precision scales stand
SCALES = {
    Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2], Type.Q8_0: [0],
    Type.Q2_K: [80, 82], Type.Q3_K: [108], Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208],
}
HALVES = [0.013, -0.37, 6e-8, -5.9e-5, 0.0, 1.0, 60000.0, -65504.0]


def blocks(kind):
    values, size = gguf.GGML_QUANT_SIZES[kind]
    count = 8 if values == 256 else 16
    raw = RANDOM.integers(0, 256, (count, size), dtype=np.uint8)
    for i, block in enumerate(raw):
        for n, at in enumerate(SCALES.get(kind, [])):
            half = np.float16(HALVES[(i + 3 * n) % len(HALVES)])
            block[at : at + 2] = np.frombuffer(half.tobytes(), np.uint8)
    if kind == Type.BF16:
        raw = RANDOM.normal(0, 1, (64,)).astype(np.float32).view(np.uint32)
        raw = np.concatenate([raw, np.array([1 << 16, 1 << 31, 0x7F7F0000], np.uint32)])
        raw = (raw >> 16).astype(np.uint16).view(np.uint8).reshape(1, -1)
    elif kind in (Type.F16, Type.F32):
        dtype = np.float16 if kind == Type.F16 else np.float32
        raw = np.array([*RANDOM.normal(0, 1, 61), 6e-8, -0.0, 65504.0], dtype).view(np.uint8).reshape(1, -1)
    else:
        try:
            quantised = gguf.quantize(RANDOM.normal(0, 0.5, (count, values)).astype(np.float32), kind)
            raw = np.concatenate([raw, quantised.reshape(count, size)])
        except NotImplementedError:
            pass
    return raw


for kind in [Type.F32, Type.F16, Type.BF16, *SCALES]:
    raw = blocks(kind)
    with np.errstate(over="ignore"):
        values = gguf.dequantize(raw, kind).astype(np.float32)
    assert not np.isnan(values).any(), kind
    (OUT / f"blocks-{kind.name}.bin").write_bytes(raw.tobytes())
    (OUT / f"blocks-{kind.name}.f32").write_bytes(values.tobytes())


def write(name, tensors, settings, split=None):
    """A file with a LLaMA's metadata, changed by `settings` (None: the key is left out)."""
    writer = gguf.GGUFWriter(OUT / name, "llama")
    if settings is not None:
        keys = {
            "llama.context_length": 64, "llama.embedding_length": 8, "llama.block_count": 1,
            "llama.feed_forward_length": 16, "llama.attention.head_count": 2, "llama.attention.head_count_kv": 1,
            "llama.attention.layer_norm_rms_epsilon": 1e-5, "llama.rope.dimension_count": 4,
        } | settings
        for key, value in keys.items():
            add = writer.add_float32 if isinstance(value, float) else writer.add_uint32
            add(key, value)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("llama-bpe")
        letters = ["<s>", "</s>", "a", "b", "ab", "Ġ"]
        writer.add_token_list(letters)
        writer.add_token_types([3, 3, 1, 1, 1, 1])
        writer.add_token_merges(["a b"])
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(1)
    if split:
        writer.add_uint16("split.no", split[0])
        writer.add_uint16("split.count", split[1])
        writer.add_int32("split.tensors.count", split[2])
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensor(*shape):
    return RANDOM.normal(0, 0.5, shape).astype(np.float32)


TENSORS = {
    "token_embd.weight": tensor(6, 8), "output_norm.weight": tensor(8), "output.weight": tensor(6, 8),
    "rope_freqs.weight": np.array([1.0, 8.0], np.float32),
    "blk.0.attn_norm.weight": tensor(8), "blk.0.ffn_norm.weight": tensor(8),
    "blk.0.attn_q.weight": tensor(8, 8), "blk.0.attn_k.weight": tensor(4, 8), "blk.0.attn_v.weight": tensor(4, 8),
    "blk.0.attn_output.weight": tensor(8, 8), "blk.0.ffn_gate.weight": tensor(16, 8),
    "blk.0.ffn_up.weight": tensor(16, 8), "blk.0.ffn_down.weight": tensor(8, 16),
}
write("tiny.gguf", TENSORS, {})
first = dict(list(TENSORS.items())[:5])
rest = dict(list(TENSORS.items())[5:])
write("tiny-00001-of-00002.gguf", first, {}, (0, 2, len(TENSORS)))
write("tiny-00002-of-00002.gguf", rest, None, (1, 2, len(TENSORS)))

TEXTS = [
    "Hello world", " two  spaces ", "I'll say it's 12345 o'clock, don't I?", "x=1234567;\n\n\ty += 3.14159\r\n  end",
    "naïve café — “quoted” 日本語のテキスト한국어", "A1b2C3 HTTPServer camelCase ALLCAPS", "مرحبا بالعالم 123", "",
    "tabs\t\tand\n newlines \n\n", "emoji 🙂🙂 and \u200d joiners", "aaaaaaa aaaa aaa aa a", "<|user|>hi<s>there</s>",
    "$100+20%=<b>`code`|pipe^~", "İstanbul IT'S 'S ça", "   ", "e\u0301tude",
]


def pieces():
    """A SentencePiece model of 400 pieces: llama.cpp's `llama`. Its own program says what the ids are."""
    import io
    import json

    import sentencepiece

    words = (Path(__file__).parents[2] / "LICENSE-APACHE").read_text().splitlines() + ["aaaa aaa aa"] * 20
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(words), model_writer=model, model_type="bpe", vocab_size=520, byte_fallback=True,
        character_coverage=0.999, normalization_rule_name="identity", remove_extra_whitespaces=False,
        user_defined_symbols=["<|user|>"], minloglevel=2, num_threads=1,
    )
    program = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    count = program.get_piece_size()
    tables = {"tokens": [], "scores": [], "types": []}
    for i in range(count):
        kinds = [(program.is_unknown, 2), (program.is_control, 3), (program.is_unused, 5), (program.is_byte, 6)]
        kind = next((number for test, number in kinds if test(i)), 1)
        tables["tokens"].append(program.id_to_piece(i))
        tables["scores"].append(program.get_score(i))
        tables["types"].append(4 if program.id_to_piece(i) == "<|user|>" else kind)
    # the program itself does not find control pieces in a text, and does not put a space behind a user's piece
    texts = [text for text in TEXTS if "<" not in text]
    ids = [program.encode(text) for text in texts]
    (OUT / "pieces.json").write_text(json.dumps({**tables, "texts": texts, "ids": ids}, ensure_ascii=False))


def words():
    """Texts cut as llama.cpp cuts them: each pattern cuts what the one before left, in matches and what is between."""
    import json

    import regex

    contractions = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
    rest = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    gpt2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
    upper, lower = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
    before, tail = r"[^\r\n\p{L}\p{N}]?", r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    cased = f"{before}{upper}*{lower}+%s|{before}{upper}+{lower}*%s"
    marks = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
    patterns = {
        "default": [r"[\p{P}\$\+<=>\^~\|]+", gpt2, r"\p{N}+", "[0-9][0-9][0-9]"],
        "llama-bpe": [contractions + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + rest],
        "gpt-2": [gpt2],
        "smollm": [r"\p{N}", gpt2],
        "qwen2": [contractions + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + rest],
        "seed-coder": [contractions + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"],
        "tekken": [cased % ("", "") + r"|\p{N}" + tail],
        "gpt-4o": [cased % (contractions + "?", contractions + "?") + r"|\p{N}{1,3}" + tail],
        "falcon": [r"[\p{P}\$\+<=>\^~\|`]+", gpt2, "[0-9][0-9][0-9]"],
        "deepseek-coder": ["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"],
        "deepseek-v3": [
            r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+",
            marks + r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
    }

    def cut(piece, pattern):
        end = 0
        for match in regex.finditer(pattern, piece):
            if match.end() > match.start():
                yield piece[end : match.start()]
                yield match.group()
                end = match.end()
        yield piece[end:]

    out = {}
    for name, steps in patterns.items():
        out[name] = []
        for text in TEXTS:
            found = [text]
            for pattern in steps:
                found = [part for piece in found for part in cut(piece, pattern) if part]
            out[name].append(found)
    (OUT / "words.json").write_text(json.dumps({"texts": TEXTS, "pieces": out}, ensure_ascii=False))


pieces()
words()
