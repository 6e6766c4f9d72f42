//! Small vocabularies and a small generator of random numbers, for tests.

use serde_json::{Value, json};

use super::pieces::byte_character;
use super::vocabulary::GgufVocabulary;

/// A deterministic generator (splitmix64).
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Random(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    }

    /// A number below `end`, or 0.
    pub(super) fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    /// A text of up to `most` parts: letters, spaces, accents, joined emoji, any character at all.
    pub(super) fn text(&mut self, most: usize) -> String {
        const PARTS: &[&str] = &[
            "hello",
            " hello",
            "he",
            " ",
            "  ",
            "\n",
            "\r\n",
            "é",
            "e\u{301}",
            "世界",
            "👩‍👩‍👧‍👦",
            "🦀",
            "🇩🇪",
            "12",
            "'s",
            "<|im_",
            "|>",
            "�",
        ];
        let count = self.below(most + 1);
        let mut text = String::new();
        for _ in 0..count {
            match self.below(4) {
                0 => text.extend(char::from_u32(self.below(0x11_0000) as u32)),
                _ => text.push_str(PARTS[self.below(PARTS.len())]),
            }
        }
        text
    }
}

/// Bytes 0 to 255 in order, a few merged words, then control tokens and a user-defined one.
pub(crate) fn vocabulary(pre: &str) -> GgufVocabulary {
    let byte = |byte: u8| byte_character(byte).to_string();
    let mut tokens: Vec<String> = (0..=255).map(byte).collect();
    let pairs = [
        ("h".to_owned(), "e".to_owned()),
        ("l".to_owned(), "l".to_owned()),
        ("he".to_owned(), "ll".to_owned()),
        ("hell".to_owned(), "o".to_owned()),
        ("Ġ".to_owned(), "hello".to_owned()),
        (byte(0xC3), byte(0xA9)),
        (byte(0xF0), byte(0x9F)),
        ("1".to_owned(), "2".to_owned()),
    ];
    tokens.extend(pairs.iter().map(|(left, right)| format!("{left}{right}")));
    let merges = pairs
        .iter()
        .map(|(left, right)| format!("{left} {right}"))
        .collect();
    let mut token_types = vec![1; tokens.len()];
    for (token, kind) in [
        ("<|endoftext|>", 3),
        ("<|im_start|>", 3),
        ("<|im_end|>", 3),
        ("<think>", 4),
        ("[PAD0]", 5),
    ] {
        tokens.push(token.to_owned());
        token_types.push(kind);
    }
    let id = |token: &str| {
        tokens
            .iter()
            .position(|other| other == token)
            .map(|id| id as u32)
    };
    GgufVocabulary {
        model: "gpt2".to_owned(),
        pre: Some(pre.to_owned()),
        bos: id("<|im_start|>"),
        eos: id("<|im_end|>"),
        eot: None,
        unknown: id("<|endoftext|>"),
        add_bos: None,
        chat_template: None,
        merges,
        token_types,
        tokens,
    }
}

/// The same vocabulary as a `tokenizer.json`, with truncation, padding and a token before every text.
pub(super) fn hugging_face() -> Value {
    let vocabulary = vocabulary("gpt-2");
    let id = |token: &str| vocabulary.tokens.iter().position(|other| other == token);
    let added = [
        ("<|endoftext|>", true),
        ("<|im_start|>", true),
        ("<|im_end|>", true),
        ("<think>", false),
    ];
    let tokens = added.map(|(token, special)| json!({
        "id": id(token), "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": special,
    }));
    let words: serde_json::Map<String, Value> = vocabulary
        .tokens
        .iter()
        .enumerate()
        .filter(|(id, _)| *id < 264)
        .map(|(id, token)| (token.clone(), json!(id)))
        .collect();
    let start = id("<|im_start|>");
    json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "!"},
        "added_tokens": tokens,
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<|im_start|>": {"id": "<|im_start|>", "ids": [start], "tokens": ["<|im_start|>"]}},
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": words, "merges": vocabulary.merges},
    })
}

/// [`hugging_face`] as a file.
pub(super) fn hugging_face_bytes() -> Vec<u8> {
    hugging_face().to_string().into_bytes()
}

/// A `tokenizer.json` in the manner of SentencePiece: spaces as `▁`, bytes as `<0xE4>`.
pub(super) fn sentence_pieces() -> Vec<u8> {
    let mut words = serde_json::Map::new();
    let bytes = (0..=255).map(|byte| format!("<0x{byte:02X}>"));
    let tokens = ["<unk>", "<s>", "</s>"]
        .into_iter()
        .map(str::to_owned)
        .chain(bytes);
    let tokens = tokens.chain(
        ["▁", "H", "i", "▁H", "▁Hi", "Hi"]
            .into_iter()
            .map(str::to_owned),
    );
    words.extend(tokens.enumerate().map(|(id, token)| (token, json!(id))));
    let added = |id: u32, token: &str| json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [added(0, "<unk>"), added(1, "<s>"), added(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": true, "byte_fallback": true, "ignore_merges": false, "vocab": words, "merges": ["▁ H", "▁H i", "H i"]},
    });
    file.to_string().into_bytes()
}
