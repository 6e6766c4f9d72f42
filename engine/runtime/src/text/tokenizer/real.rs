//! Checks against a real vocabulary, whose data is too large to be kept here.
//!
//! The variable names a JSON file: `vocabulary` (the `tokenizer.ggml` keys of a GGUF file, and `chat_template`), `bos`, `eos`, `cases` (`text`
//! and `ids`, without special tokens), `chats` (`text` of a user's one message and `ids` of the rendering), `long` (lists of ids), `renders`
//! (`messages`, `tools`, `add_generation_prompt`, `text`). It is made by implementations other than this one.

use std::sync::Arc;

use serde_json::Value;

use super::*;
use crate::text::{ChatOptions, ChatTemplate, Detokenizer, Message};

const VARIABLE: &str = "LONGWAVE_TEXT_CASES";

fn numbers<T: TryFrom<i64>>(value: &Value) -> Vec<T> {
    let number = |value: &Value| {
        value
            .as_i64()
            .and_then(|number| T::try_from(number).ok())
            .expect("a number in range")
    };
    value
        .as_array()
        .expect("a list")
        .iter()
        .map(number)
        .collect()
}

fn strings(value: &Value) -> Vec<String> {
    value
        .as_array()
        .expect("a list")
        .iter()
        .map(|text| text.as_str().expect("a string").to_owned())
        .collect()
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a string")
}

fn message(value: &Value) -> Message {
    let mut extra = value.as_object().expect("a message").clone();
    let (role, content) = (
        extra.remove("role").expect("a role"),
        extra.remove("content").expect("content"),
    );
    Message {
        extra,
        ..Message::new(text(&role), text(&content))
    }
}

#[test]
#[ignore = "needs a real vocabulary: set LONGWAVE_TEXT_CASES to a file of cases"]
fn a_real_vocabulary_and_template_give_what_other_implementations_give() {
    let path = std::env::var(VARIABLE).expect(VARIABLE);
    let file: Value =
        serde_json::from_slice(&std::fs::read(path).expect("readable")).expect("JSON");
    let described = &file["vocabulary"];
    let id = |key: &str| described[key].as_u64().map(|id| id as u32);
    let vocabulary = GgufVocabulary {
        model: text(&described["model"]).to_owned(),
        pre: described["pre"].as_str().map(str::to_owned),
        tokens: strings(&described["tokens"]),
        token_types: numbers(&described["token_type"]),
        merges: strings(&described["merges"]),
        bos: id("bos_token_id"),
        eos: id("eos_token_id"),
        eot: id("eot_token_id"),
        unknown: id("unknown_token_id"),
        add_bos: described["add_bos_token"].as_bool(),
        chat_template: described["chat_template"].as_str().map(str::to_owned),
    };
    let tokenizer = Arc::new(Tokenizer::from_gguf(&vocabulary).expect("a sound vocabulary"));
    let streamed = |ids: &[u32]| {
        let mut stream = Detokenizer::with_control_tokens(Arc::clone(&tokenizer));
        let mut text: String = ids
            .iter()
            .filter_map(|&id| stream.push(id).expect("known"))
            .collect();
        text.extend(stream.finish().expect("a stream ends"));
        text
    };

    let cases = file["cases"].as_array().expect("a list");
    assert!(!cases.is_empty());
    for case in cases {
        let (expected, source) = (numbers::<u32>(&case["ids"]), text(&case["text"]));
        assert_eq!(
            tokenizer.encode(source, true, false).expect("encodes"),
            expected,
            "{source:?}"
        );
        assert_eq!(
            streamed(&expected),
            tokenizer.decode(&expected, false).expect("known")
        );
    }
    for ids in file["long"].as_array().expect("a list") {
        let ids = numbers::<u32>(ids);
        let whole = tokenizer.decode(&ids, false).expect("known");
        assert_eq!(streamed(&ids), whole);
        assert_eq!(
            tokenizer.encode(&whole, false, false).expect("encodes"),
            ids
        );
    }

    let source = vocabulary.chat_template.as_deref().expect("a template");
    let template = ChatTemplate::new(source, text(&file["bos"]), text(&file["eos"]))
        .expect("a sound template");
    for chat in file["chats"].as_array().expect("a list") {
        let rendered = template
            .render(
                &[Message::user(text(&chat["text"]).to_owned())],
                &ChatOptions::default(),
            )
            .expect("renders");
        assert_eq!(
            tokenizer.encode_rendered(&rendered).expect("encodes"),
            numbers::<u32>(&chat["ids"])
        );
    }
    let renders = file["renders"].as_array().expect("a list");
    assert!(!renders.is_empty());
    for case in renders {
        let messages: Vec<Message> = case["messages"]
            .as_array()
            .expect("a list")
            .iter()
            .map(message)
            .collect();
        let add_generation_prompt = case["add_generation_prompt"].as_bool().expect("a switch");
        let tools = Some(case["tools"].clone()).filter(|tools| !tools.is_null());
        let options = ChatOptions {
            add_generation_prompt,
            tools,
            ..ChatOptions::default()
        };
        assert_eq!(
            template.render(&messages, &options).expect("renders"),
            text(&case["text"])
        );
    }
}
