use super::*;
use crate::text::fixture::{Random, hugging_face_bytes, sentence_pieces, vocabulary};

fn gguf(pre: &str) -> Tokenizer {
    Tokenizer::from_gguf(&vocabulary(pre)).expect("a sound vocabulary")
}

fn ids(tokenizer: &Tokenizer, tokens: &[&str]) -> Vec<u32> {
    tokens
        .iter()
        .map(|token| tokenizer.id_of(token).expect(token))
        .collect()
}

#[test]
fn words_merge_in_the_order_of_the_merges() {
    let tokenizer = gguf("gpt-2");
    let encode = |text: &str| {
        tokenizer
            .encode(text, false, false)
            .expect("every byte has a token")
    };
    assert_eq!(encode("hello hello"), ids(&tokenizer, &["hello", "Ġhello"]));
    assert_eq!(encode("hellhe"), ids(&tokenizer, &["hell", "he"]));
    assert_eq!(encode("12é"), ids(&tokenizer, &["12", "Ã©"]));
    assert_eq!(encode(""), [] as [u32; 0]);
    let digits = gguf("smollm");
    assert_eq!(
        digits.encode("12", false, false).expect("digits"),
        [u32::from(b'1'), u32::from(b'2')]
    );
}

#[test]
fn a_users_text_never_becomes_control_tokens() {
    for tokenizer in [
        gguf("gpt-2"),
        gguf("llama-bpe"),
        Tokenizer::from_bytes(&hugging_face_bytes(), "t.json").expect("a sound file"),
    ] {
        let text = "hello<|im_end|>\n<|im_start|>";
        let meant = tokenizer.encode(text, false, true).expect("encodes");
        let [hello, end, line, start] = meant[..] else {
            panic!("{meant:?}")
        };
        assert_eq!(
            [end, start].map(|id| tokenizer.is_special(id)),
            [true, true]
        );
        assert_eq!(
            [hello, line].map(|id| tokenizer.is_special(id)),
            [false, false]
        );
        let plain = tokenizer.encode(text, false, false).expect("encodes");
        assert!(
            plain.iter().all(|&id| !tokenizer.is_special(id)),
            "{plain:?}"
        );
        assert_eq!(tokenizer.decode(&plain, true).expect("known"), text);
        assert_eq!(tokenizer.decode(&meant, false).expect("known"), text);
        assert_eq!(tokenizer.decode(&meant, true).expect("known"), "hello\n");
        assert_eq!(tokenizer.encode_rendered(text).expect("encodes"), meant);
    }
}

#[test]
fn random_texts_without_control_tokens_come_back() {
    for pre in [
        "gpt-2",
        "smollm",
        "llama-bpe",
        "default",
        "deepseek-v3",
        "deepseek-coder",
    ] {
        let tokenizer = gguf(pre);
        let mut random = Random::new(1);
        for _ in 0..400 {
            let text = random.text(30) + "<|im_end|><|endoftext|>";
            let plain = tokenizer
                .encode(&text, false, false)
                .expect("every byte has a token");
            assert!(plain.iter().all(|&id| !tokenizer.is_special(id)));
            assert_eq!(
                tokenizer.decode(&plain, true).expect("known"),
                text,
                "{pre}"
            );
        }
    }
}

#[test]
fn a_control_token_that_words_would_merge_into_is_an_error_in_plain_text() {
    let mut vocabulary = vocabulary("gpt-2");
    let hello = vocabulary
        .tokens
        .iter()
        .position(|token| token == "hello")
        .expect("a word");
    vocabulary.token_types[hello] = 3;
    let tokenizer = Tokenizer::from_gguf(&vocabulary).expect("a sound vocabulary");
    assert!(
        matches!(tokenizer.encode("xhello", false, false), Err(TextError::ControlToken { id }) if id as usize == hello)
    );
    assert!(tokenizer.encode("xhello", false, true).is_ok());
}

#[test]
fn user_defined_tokens_are_always_found() {
    let tokenizer = gguf("qwen2");
    let think = tokenizer.id_of("<think>").expect("user-defined");
    assert!(!tokenizer.is_special(think));
    for parse_special in [false, true] {
        assert_eq!(
            tokenizer
                .encode("<think>", false, parse_special)
                .expect("encodes"),
            [think]
        );
    }
    assert_eq!(tokenizer.decode(&[think], true).expect("known"), "<think>");
}

#[test]
fn qwen2_composes_characters() {
    let tokenizer = gguf("qwen2");
    let composed = tokenizer.encode("é", false, false).expect("encodes");
    assert_eq!(
        tokenizer.encode("e\u{301}", false, false).expect("encodes"),
        composed
    );
    assert_ne!(
        gguf("gpt-2")
            .encode("e\u{301}", false, false)
            .expect("encodes"),
        composed
    );
}

#[test]
fn the_first_token_is_added_as_the_file_says() {
    let mut vocabulary = vocabulary("gpt-2");
    let encode = |vocabulary: &GgufVocabulary, special: bool| {
        Tokenizer::from_gguf(vocabulary)
            .expect("sound")
            .encode("he", special, false)
            .expect("encodes")
            .len()
    };
    assert_eq!(
        (encode(&vocabulary, true), encode(&vocabulary, false)),
        (1, 1)
    );
    vocabulary.add_bos = Some(true);
    assert_eq!(
        (encode(&vocabulary, true), encode(&vocabulary, false)),
        (2, 1)
    );
    let tokenizer = Tokenizer::from_gguf(&vocabulary).expect("sound");
    assert_eq!(
        tokenizer.encode("he", true, true).expect("encodes"),
        ids(&tokenizer, &["<|im_start|>", "he"])
    );
    // Files of Llama 3 often do not say.
    vocabulary.pre = Some("llama-bpe".into());
    for (add_bos, tokens) in [(None, 2), (Some(false), 1)] {
        vocabulary.add_bos = add_bos;
        assert_eq!(encode(&vocabulary, true), tokens, "{add_bos:?}");
    }
}

#[test]
fn a_tokenizer_file_adds_by_its_post_processor_and_neither_cuts_nor_pads() {
    let tokenizer = Tokenizer::from_bytes(&hugging_face_bytes(), "t.json").expect("a sound file");
    for parse_special in [false, true] {
        let encode = |text: &str, special: bool| {
            tokenizer
                .encode(text, special, parse_special)
                .expect("encodes")
        };
        assert_eq!(
            encode("hello hello", true),
            ids(&tokenizer, &["<|im_start|>", "hello", "Ġhello"])
        );
        assert_eq!(encode("hello", false), ids(&tokenizer, &["hello"]));
        assert_eq!(encode("qwxyzq", false).len(), 6);
    }
    assert_eq!(tokenizer.stop_tokens(), [] as [u32; 0]);
    let pieces = Tokenizer::from_bytes(&sentence_pieces(), "t.json").expect("a sound file");
    let encoded = pieces
        .encode("Hi é", false, false)
        .expect("bytes fall back");
    assert_eq!(encoded, ids(&pieces, &["▁Hi", "▁", "<0xC3>", "<0xA9>"]));
    assert_eq!(pieces.decode(&encoded, false).expect("known"), "Hi é");
}

#[test]
fn both_sources_agree() {
    let (ours, theirs) = (
        gguf("gpt-2"),
        Tokenizer::from_bytes(&hugging_face_bytes(), "t.json").expect("a sound file"),
    );
    let mut random = Random::new(23);
    for _ in 0..1000 {
        let text = random.text(30);
        for parse in [false, true] {
            assert_eq!(
                ours.encode(&text, false, parse).expect("encodes"),
                theirs.encode(&text, false, parse).expect("encodes"),
                "{text:?}"
            );
        }
    }
}

#[test]
fn stop_tokens_are_what_the_file_names_and_known_ends_of_turns() {
    let mut tokenizer = gguf("gpt-2");
    assert_eq!(
        tokenizer.stop_tokens(),
        ids(&tokenizer, &["<|im_end|>", "<|endoftext|>"])
    );
    tokenizer.add_stop_tokens(&[5, 5, tokenizer.stop_tokens()[0]]);
    assert_eq!(tokenizer.stop_tokens().len(), 3);
    let mut vocabulary = vocabulary("gpt-2");
    let end = vocabulary
        .tokens
        .iter()
        .position(|token| token == "<|endoftext|>")
        .expect("there");
    vocabulary.token_types[end] = 1;
    vocabulary.eot = Some(9);
    let tokenizer = Tokenizer::from_gguf(&vocabulary).expect("sound");
    assert_eq!(tokenizer.stop_tokens(), [vocabulary.eos.expect("set"), 9]);
}

#[test]
fn bytes_without_tokens_are_an_error_not_a_gap() {
    let mut vocabulary = vocabulary("gpt-2");
    vocabulary.tokens[4] = "[gone]".to_owned();
    let tokenizer = Tokenizer::from_gguf(&vocabulary).expect("sound");
    assert!(matches!(
        tokenizer.encode("ab\u{4}", false, false),
        Err(TextError::Unencodable { byte: 4, offset: 2 })
    ));
    assert!(tokenizer.encode("ab\u{5}", false, false).is_ok());
}

#[test]
fn tokens_are_found_by_spelling_and_id() {
    let tokenizer = gguf("gpt-2");
    let id = tokenizer.id_of("Ġhello").expect("a word");
    assert_eq!(tokenizer.token_text(id).as_deref(), Some("Ġhello"));
    assert_eq!(tokenizer.decode(&[id], false).expect("known"), " hello");
    assert_eq!(
        (tokenizer.id_of("nothing"), tokenizer.token_text(1_000_000)),
        (None, None)
    );
    assert_eq!(tokenizer.vocab_size(), vocabulary("gpt-2").tokens.len());
    assert!(matches!(
        tokenizer.decode(&[9, 1_000_000], false),
        Err(TextError::NoSuchToken { id: 1_000_000, .. })
    ));
    assert!(!tokenizer.is_special(1_000_000));
}
