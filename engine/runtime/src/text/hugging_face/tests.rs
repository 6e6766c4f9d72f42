use serde_json::json;

use super::*;
use crate::text::Tokenizer;
use crate::text::fixture::{Random, hugging_face, sentence_pieces};

fn fault(pointer: &str, value: Value) -> String {
    let mut file = hugging_face();
    *file.pointer_mut(pointer).expect(pointer) = value;
    Tokenizer::from_bytes(file.to_string().as_bytes(), "t.json")
        .expect_err("the file is broken")
        .to_string()
}

#[test]
fn broken_files_are_refused_by_name_and_field() {
    assert!(
        fault("/model/merges/0", json!("a zz"))
            .starts_with("t.json: model.merges[0]: needs the token `zz`")
    );
    assert!(fault("/model/merges/0", json!("hello hello")).contains("`hellohello`"));
    assert!(
        fault("/model/merges/0", json!(["a"]))
            .starts_with("t.json: model.merges[0]: is not two tokens")
    );
    assert!(
        fault("/model/vocab/a", json!(-1)).starts_with("t.json: model.vocab: the id of `a` is -1")
    );
    assert!(fault("/model/vocab/a", json!(4_000_000_000_u64)).contains("expected 0 to"));
    assert_eq!(
        fault("/model/vocab", json!({})),
        "t.json: model.vocab: is empty"
    );
    assert!(
        fault("/model/type", json!("Unigram"))
            .contains("`Unigram` is not supported; supported are BPE")
    );
    assert!(
        fault("/decoder", json!({"type": "WordPiece"}))
            .contains("`WordPiece` is not supported; supported are ByteLevel")
    );
    assert!(fault("/decoder", Value::Null).contains("decoder: `(missing)` is not supported"));
    assert!(fault("/added_tokens/0/id", json!(3)).contains("says id 3"));
    let error = Tokenizer::from_bytes(b"{", "t.json")
        .expect_err("no JSON")
        .to_string();
    assert!(error.starts_with("t.json: EOF"), "{error}");
    let error = Tokenizer::from_file("/nowhere/tokenizer.json")
        .expect_err("no file")
        .to_string();
    assert!(error.starts_with("/nowhere/tokenizer.json: "), "{error}");
}

#[test]
fn decoders_that_need_more_than_a_token_are_refused() {
    let mut file: Value = serde_json::from_slice(&sentence_pieces()).expect("JSON");
    file["decoder"]["decoders"]
        .as_array_mut()
        .expect("a list")
        .swap(0, 2);
    let error = Tokenizer::from_bytes(file.to_string().as_bytes(), "t.json")
        .expect_err("Replace after Fuse")
        .to_string();
    assert!(
        error.contains("decoder: `ByteFallback`") || error.contains("decoder: `Replace`"),
        "{error}"
    );
}

/// Puts something else in some place of a file.
fn spoil(value: &mut Value, random: &mut Random) {
    let down = random.below(5) > 0;
    match value {
        Value::Object(fields) if down && !fields.is_empty() => {
            let chosen = random.below(fields.len());
            if let Some((_, field)) = fields.iter_mut().nth(chosen) {
                spoil(field, random);
            }
        }
        Value::Array(items) if down && !items.is_empty() => {
            let chosen = random.below(items.len());
            spoil(&mut items[chosen], random);
        }
        _ => {
            let others = json!([
                null, true, 0, -1, 4_294_967_296_u64, 259, 0.5, "", "a", "a b", "ByteLevel", "▁", [], {}, ["h", "e"], {"String": "a"},
            ]);
            *value = others[random.below(16)].clone();
        }
    }
}

#[test]
fn spoilt_files_are_errors_or_work_but_never_panic() {
    let pieces: Value = serde_json::from_slice(&sentence_pieces()).expect("JSON");
    let mut random = Random::new(99);
    let (mut worked, mut refused) = (0, 0);
    for turn in 0..3000 {
        let mut file = if turn % 2 == 0 {
            hugging_face()
        } else {
            pieces.clone()
        };
        for _ in 0..=random.below(2) {
            spoil(&mut file, &mut random);
        }
        match Tokenizer::from_bytes(file.to_string().as_bytes(), "t.json") {
            Err(_) => refused += 1,
            Ok(tokenizer) => {
                worked += 1;
                for parse_special in [false, true] {
                    if let Ok(ids) =
                        tokenizer.encode("Hi hello é🦀<think><|im_end|>", true, parse_special)
                    {
                        tokenizer.decode(&ids, false).expect("its own tokens");
                    }
                }
            }
        }
    }
    assert!(worked > 100 && refused > 100, "{worked} {refused}");
}

#[test]
fn what_goes_around_texts_is_read_from_the_post_processor() {
    let around = |processor: Value| {
        Source { file: "t.json" }.surroundings(&json!({"post_processor": processor}))
    };
    let template = |single: Value| json!({"type": "TemplateProcessing", "single": single, "special_tokens": {"<s>": {"ids": [1, 2]}, "</s>": {"ids": [3]}}});
    let (start, text, end) = (
        json!({"SpecialToken": {"id": "<s>"}}),
        json!({"Sequence": {"id": "A"}}),
        json!({"SpecialToken": {"id": "</s>"}}),
    );
    let found = |processor: Value| {
        around(processor)
            .map(|around| (around.before, around.after))
            .expect("sound")
    };
    assert_eq!(found(Value::Null), (vec![], vec![]));
    assert_eq!(found(json!({"type": "ByteLevel"})), (vec![], vec![]));
    assert_eq!(
        found(template(json!([start, text, end]))),
        (vec![1, 2], vec![3])
    );
    assert_eq!(found(template(json!([text]))), (vec![], vec![]));
    let sequence = json!({"type": "Sequence", "processors": [{"type": "ByteLevel"}, template(json!([start, text]))]});
    assert_eq!(found(sequence), (vec![1, 2], vec![]));
    assert_eq!(
        found(json!({"type": "RobertaProcessing", "cls": ["<s>", 7], "sep": ["</s>", 8]})),
        (vec![7], vec![8])
    );
    for broken in [
        template(json!([start])),
        template(json!([text, text])),
        template(json!([text, {"SpecialToken": {"id": "<x>"}}])),
        json!({"type": "Other"}),
        json!(1),
    ] {
        around(broken.clone()).expect_err(&broken.to_string());
    }
    assert!(
        fault(
            "/post_processor/special_tokens/<|im_start|>/ids",
            json!([100_000])
        )
        .contains("adds the token 100000")
    );
}
