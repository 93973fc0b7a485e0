//! llama.cpp's names of LLaMA's tensors, and the Hub's.

/// What a tensor is to the network.
#[derive(Debug, PartialEq)]
pub(super) enum Use {
    /// A parameter, by its name on the Hub.
    Parameter(String),
    /// Divisors of the rotary frequencies.
    Divisors,
    /// Tables that follow from the configuration; llama.cpp skips them, too.
    Nothing,
}

/// Divisors of the frequencies for every text.
pub(super) const DIVISORS: &str = "rope_freqs.weight";
/// Divisors for texts up to the trained length.
pub(super) const SHORT_DIVISORS: &str = "rope_factors_short.weight";
/// Divisors for longer texts.
pub(super) const LONG_DIVISORS: &str = "rope_factors_long.weight";

/// What the tensor is to the network; none where LLaMA has no such tensor.
pub(super) fn tensor(name: &str) -> Option<Use> {
    let parameter = |name: &str| Some(Use::Parameter(name.to_owned()));
    match name {
        "token_embd.weight" => return parameter("model.embed_tokens.weight"),
        "output_norm.weight" => return parameter("model.norm.weight"),
        "output.weight" => return parameter("lm_head.weight"),
        DIVISORS | SHORT_DIVISORS | LONG_DIVISORS => return Some(Use::Divisors),
        _ => {}
    }
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    // the number as it is written otherwise would name another tensor on the Hub
    layer.parse::<u32>().ok().filter(|number| number.to_string() == layer)?;
    let (part, end) = rest.rsplit_once('.')?;
    let (part, biased) = match part {
        "attn_norm" => ("input_layernorm", false),
        "ffn_norm" => ("post_attention_layernorm", false),
        "attn_q" => ("self_attn.q_proj", true),
        "attn_k" => ("self_attn.k_proj", true),
        "attn_v" => ("self_attn.v_proj", true),
        "attn_output" => ("self_attn.o_proj", true),
        "ffn_gate" => ("mlp.gate_proj", true),
        "ffn_up" => ("mlp.up_proj", true),
        "ffn_down" => ("mlp.down_proj", true),
        "attn_rot_embd" => return Some(Use::Nothing),
        _ => return None,
    };
    let known = end == "weight" || end == "bias" && biased;
    known.then(|| Use::Parameter(format!("model.layers.{layer}.{part}.{end}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_llama_lacks_has_no_use() {
        let parameter = |name: &str| Some(Use::Parameter(name.to_owned()));
        assert_eq!(tensor("blk.3.attn_q.bias"), parameter("model.layers.3.self_attn.q_proj.bias"));
        assert_eq!(tensor("rope_freqs.weight"), Some(Use::Divisors));
        for name in [
            "blk.0.attn_q_norm.weight",
            "blk.0.ffn_gate_exps.weight",
            "blk.0.attn_norm.bias",
            "blk.00.attn_q.weight",
        ] {
            assert_eq!(tensor(name), None, "{name}");
        }
    }
}
