//! What the tensors of a model are called in files.

/// A tensor of a decoder model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Name {
    Embedding,
    OutputNorm,
    Output,
    RopeFactors,
    Layer(u32, Part),
}

impl Name {
    /// Whether it is added rather than multiplied.
    pub(super) fn is_bias(self) -> bool {
        use Part::{AttentionOutputBias, KeyBias, QueryBias, ValueBias};
        matches!(
            self,
            Name::Layer(_, QueryBias | KeyBias | ValueBias | AttentionOutputBias)
        )
    }
}

/// A tensor of one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Part {
    AttentionNorm,
    Query,
    Key,
    Value,
    QueryBias,
    KeyBias,
    ValueBias,
    QueryNorm,
    KeyNorm,
    AttentionOutput,
    AttentionOutputBias,
    FeedForwardNorm,
    Gate,
    Up,
    Down,
}

/// Each part with its name in a layer of a GGUF file and of a Hugging Face directory.
const PARTS: [(Part, &str, &str); 15] = [
    (
        Part::AttentionNorm,
        "attn_norm.weight",
        "input_layernorm.weight",
    ),
    (Part::Query, "attn_q.weight", "self_attn.q_proj.weight"),
    (Part::Key, "attn_k.weight", "self_attn.k_proj.weight"),
    (Part::Value, "attn_v.weight", "self_attn.v_proj.weight"),
    (Part::QueryBias, "attn_q.bias", "self_attn.q_proj.bias"),
    (Part::KeyBias, "attn_k.bias", "self_attn.k_proj.bias"),
    (Part::ValueBias, "attn_v.bias", "self_attn.v_proj.bias"),
    (
        Part::QueryNorm,
        "attn_q_norm.weight",
        "self_attn.q_norm.weight",
    ),
    (
        Part::KeyNorm,
        "attn_k_norm.weight",
        "self_attn.k_norm.weight",
    ),
    (
        Part::AttentionOutput,
        "attn_output.weight",
        "self_attn.o_proj.weight",
    ),
    (
        Part::AttentionOutputBias,
        "attn_output.bias",
        "self_attn.o_proj.bias",
    ),
    (
        Part::FeedForwardNorm,
        "ffn_norm.weight",
        "post_attention_layernorm.weight",
    ),
    (Part::Gate, "ffn_gate.weight", "mlp.gate_proj.weight"),
    (Part::Up, "ffn_up.weight", "mlp.up_proj.weight"),
    (Part::Down, "ffn_down.weight", "mlp.down_proj.weight"),
];

/// Tensors outside of the layers, in the same two forms.
const WHOLE: [(Name, &str, &str); 4] = [
    (
        Name::Embedding,
        "token_embd.weight",
        "model.embed_tokens.weight",
    ),
    (Name::OutputNorm, "output_norm.weight", "model.norm.weight"),
    (Name::Output, "output.weight", "lm_head.weight"),
    (Name::RopeFactors, "rope_freqs.weight", "rope_freqs.weight"),
];

/// Which of the two conventions a file follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Convention {
    Gguf,
    HuggingFace,
}

impl Convention {
    const fn pick(self, gguf: &'static str, hugging_face: &'static str) -> &'static str {
        match self {
            Convention::Gguf => gguf,
            Convention::HuggingFace => hugging_face,
        }
    }

    const fn prefix(self) -> &'static str {
        self.pick("blk.", "model.layers.")
    }

    /// What a file calls a tensor.
    pub fn name(self, name: Name) -> String {
        match name {
            Name::Layer(layer, part) => {
                let found = PARTS.iter().find(|(p, ..)| *p == part);
                let suffix = found.map_or("", |(_, gguf, hf)| self.pick(gguf, hf));
                format!("{}{layer}.{suffix}", self.prefix())
            }
            whole => {
                let found = WHOLE.iter().find(|(n, ..)| *n == whole);
                found
                    .map_or("", |(_, gguf, hf)| self.pick(gguf, hf))
                    .to_string()
            }
        }
    }

    /// The tensor that a file calls so.
    pub fn parse(self, text: &str) -> Option<Name> {
        if let Some((name, ..)) = WHOLE
            .iter()
            .find(|(_, gguf, hf)| self.pick(gguf, hf) == text)
        {
            return Some(*name);
        }
        let (layer, suffix) = text.strip_prefix(self.prefix())?.split_once('.')?;
        let (part, ..) = PARTS
            .iter()
            .find(|(_, gguf, hf)| self.pick(gguf, hf) == suffix)?;
        Some(Name::Layer(layer.parse().ok()?, *part))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        for convention in [Convention::Gguf, Convention::HuggingFace] {
            for (part, ..) in PARTS {
                let name = Name::Layer(12, part);
                assert_eq!(convention.parse(&convention.name(name)), Some(name));
            }
            for (name, ..) in WHOLE {
                assert_eq!(convention.parse(&convention.name(name)), Some(name));
            }
        }
        assert_eq!(
            Convention::Gguf.name(Name::Layer(3, Part::Query)),
            "blk.3.attn_q.weight"
        );
        assert_eq!(Convention::Gguf.parse("blk.3.ffn_gate_exps.weight"), None);
    }
}
