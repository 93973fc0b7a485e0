"""Writes the model files that tests/corpora starts from: tiny networks, and a tokenizer of each kind.

    python tools/reference/hostile_corpora.py tests/corpora
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

out = Path(sys.argv[1])
TEXTS = [
    "a good film", "a bad film", "the plot is thin", "the cast is good", "no plot at all", "dull and long",
    "it made me laugh", "warm, funny and sad", "i would not see it twice", "see it twice !",
]
BERT = {
    "model_type": "bert", "architectures": ["BertForSequenceClassification"], "vocab_size": 60, "hidden_size": 8,
    "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12, "max_position_embeddings": 24,
    "type_vocab_size": 2, "layer_norm_eps": 1e-12, "pad_token_id": 0, "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "classifier_dropout": None,
    "id2label": {"0": "negative", "1": "positive"}, "label2id": {"negative": 0, "positive": 1},
}
LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 60, "hidden_size": 8,
    "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4,
    "intermediate_size": 12, "max_position_embeddings": 32, "rms_norm_eps": 1e-5, "pad_token_id": 0,
    "bos_token_id": 2, "eos_token_id": 3, "tie_word_embeddings": False, "attention_bias": False,
    "mlp_bias": False, "attention_dropout": 0.0, "hidden_act": "silu",
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
}


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n")


def bert_tensors(c, dtype):
    h, f = c["hidden_size"], c["intermediate_size"]
    shapes = {
        "bert.embeddings.word_embeddings.weight": (c["vocab_size"], h),
        "bert.embeddings.position_embeddings.weight": (c["max_position_embeddings"], h),
        "bert.embeddings.token_type_embeddings.weight": (2, h),
        "bert.pooler.dense.weight": (h, h), "bert.pooler.dense.bias": (h,),
        "classifier.weight": (2, h), "classifier.bias": (2,),
    }
    norms = ["bert.embeddings.LayerNorm"]
    for i in range(c["num_hidden_layers"]):
        layer = f"bert.encoder.layer.{i}"
        for name, a, b in [
            ("attention.self.query", h, h), ("attention.self.key", h, h), ("attention.self.value", h, h),
            ("attention.output.dense", h, h), ("intermediate.dense", f, h), ("output.dense", h, f),
        ]:
            shapes[f"{layer}.{name}.weight"], shapes[f"{layer}.{name}.bias"] = (a, b), (a,)
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
    for norm in norms:
        shapes[f"{norm}.weight"], shapes[f"{norm}.bias"] = (h,), (h,)
    return {name: (torch.randn(shape) * 0.1).to(dtype) for name, shape in shapes.items()}


def llama_tensors(c, dtype):
    h, f, v = c["hidden_size"], c["intermediate_size"], c["vocab_size"]
    q, k = c["num_attention_heads"] * c["head_dim"], c["num_key_value_heads"] * c["head_dim"]
    shapes = {"model.embed_tokens.weight": (v, h), "model.norm.weight": (h,), "lm_head.weight": (v, h)}
    for i in range(c["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        for name, shape in [
            ("self_attn.q_proj", (q, h)), ("self_attn.k_proj", (k, h)), ("self_attn.v_proj", (k, h)),
            ("self_attn.o_proj", (h, q)), ("mlp.gate_proj", (f, h)), ("mlp.up_proj", (f, h)),
            ("mlp.down_proj", (h, f)), ("input_layernorm", (h,)), ("post_attention_layernorm", (h,)),
        ]:
            shapes[f"{layer}.{name}.weight"] = shape
    return {name: (torch.randn(shape) * 0.1).to(dtype) for name, shape in shapes.items()}


def tokenizers():
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    word_piece = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    word_piece.normalizer = normalizers.BertNormalizer()
    word_piece.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    word_piece.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=60, special_tokens=special))
    word_piece.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    word_piece.decoder = decoders.WordPiece()

    bpe = Tokenizer(models.BPE(unk_token="[UNK]"))
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace("''", '"')])
    bpe.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(pattern=__import__("tokenizers").Regex(r"\p{N}{1,3}|\s+(?!\S)|\s+"), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    bpe.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=60, special_tokens=[*special, "<|im_start|>", "<|im_end|>"]))
    bpe.post_processor = processors.ByteLevel(trim_offsets=True)
    bpe.decoder = decoders.ByteLevel()

    unigram = Tokenizer(models.Unigram())
    unigram.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), normalizers.StripAccents()])
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    unigram.train_from_iterator(
        TEXTS, trainers.UnigramTrainer(vocab_size=60, special_tokens=special, unk_token="[UNK]"))
    unigram.decoder = decoders.Metaspace()

    words = sorted({word for text in TEXTS for word in text.split()})
    word_level = Tokenizer(models.WordLevel({word: i for i, word in enumerate(special + words)}, unk_token="[UNK]"))
    word_level.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.WhitespaceSplit()])
    word_level.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return {"word-piece": word_piece, "bpe": bpe, "unigram": unigram, "word-level": word_level}


torch.manual_seed(0)
made = tokenizers()
for name, config, tensors, kind in [
    ("bert", BERT, bert_tensors, "word-piece"), ("llama", LLAMA, llama_tensors, "bpe"),
]:
    folder = out / "base" / name
    write(folder / "config.json", config)
    save_file(tensors(config, torch.float32), folder / "model.safetensors", {"format": "pt"})
    made[kind].save(str(folder / "tokenizer.json"))
write(out / "base/llama/generation_config.json", {"eos_token_id": [3], "pad_token_id": 0})
write(out / "base/llama/tokenizer_config.json", {"eos_token": "[SEP]", "pad_token": "[PAD]"})
half = {name: tensor for name, tensor in llama_tensors(LLAMA, torch.float16).items()}
names = sorted(half)
parts = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
folder = out / "safetensors/shards"
write(folder / "config.json", LLAMA)
for file, own in parts.items():
    save_file({name: half[name].to(torch.bfloat16) if i % 2 else half[name] for i, name in enumerate(own)}, folder / file)
write(folder / "model.safetensors.index.json", {
    "metadata": {"total_size": 0}, "weight_map": {name: file for file, own in parts.items() for name in own}})
for kind, tokenizer in made.items():
    folder = out / "tokenizer" / kind
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    write(folder / "tokenizer_config.json", {"eos_token": {"content": "[SEP]"}, "pad_token": "[PAD]"})
