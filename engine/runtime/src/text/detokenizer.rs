//! Tokens to text, as they come.

use std::sync::Arc;

use super::error::TextError;
use super::pieces::{Kind, Pieces};
use super::tokenizer::Tokenizer;

/// Turns a stream of tokens into a stream of text that never ends within a character.
///
/// All texts together equal [`Tokenizer::decode`] of all tokens. A token costs time in proportion to its own length only.
#[derive(Clone, Debug)]
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    decoding: Decoding,
}

impl Detokenizer {
    /// A stream that leaves out control tokens.
    pub fn new(tokenizer: Arc<Tokenizer>) -> Self {
        let decoding = Decoding::new(tokenizer.pieces(), true);
        Detokenizer {
            tokenizer,
            decoding,
        }
    }

    /// A stream that shows control tokens as they are spelt.
    pub fn with_control_tokens(tokenizer: Arc<Tokenizer>) -> Self {
        let decoding = Decoding::new(tokenizer.pieces(), false);
        Detokenizer {
            tokenizer,
            decoding,
        }
    }

    /// Takes a token; returns the text that is certain now, if there is any.
    ///
    /// # Errors
    /// A token that the tokenizer does not have.
    pub fn push(&mut self, id: u32) -> Result<Option<String>, TextError> {
        let mut text = String::new();
        self.decoding.push(self.tokenizer.pieces(), id, &mut text)?;
        Ok((!text.is_empty()).then_some(text))
    }

    /// Ends the stream: the beginning of a character that never came is U+FFFD. The next token starts a new stream.
    ///
    /// # Errors
    /// None so far; for symmetry with [`Detokenizer::push`].
    pub fn finish(&mut self) -> Result<Option<String>, TextError> {
        let mut text = String::new();
        self.decoding.finish(&mut text);
        self.decoding = Decoding::new(self.tokenizer.pieces(), self.decoding.skip_special);
        Ok((!text.is_empty()).then_some(text))
    }
}

/// The state of a decoding.
#[derive(Clone, Debug)]
pub(super) struct Decoding {
    skip_special: bool,
    /// Spaces that are still to be taken off the beginning of the text.
    strip: usize,
    /// The beginning of a character, at most three bytes between calls.
    partial: Vec<u8>,
}

impl Decoding {
    pub(super) fn new(pieces: &Pieces, skip_special: bool) -> Self {
        Decoding {
            skip_special,
            strip: pieces.strip(),
            partial: Vec::new(),
        }
    }

    pub(super) fn push(
        &mut self,
        pieces: &Pieces,
        id: u32,
        text: &mut String,
    ) -> Result<(), TextError> {
        let (kind, mut bytes) = pieces.get(id).ok_or(TextError::NoSuchToken {
            id,
            size: pieces.len(),
        })?;
        if self.skip_special && kind == Kind::Special {
            return Ok(());
        }
        while self.strip > 0
            && let Some((first, rest)) = bytes.split_first()
        {
            if *first == b' ' {
                self.strip -= 1;
                bytes = rest;
            } else {
                self.strip = 0;
            }
        }
        self.partial.extend_from_slice(bytes);
        let mut rest = self.partial.as_slice();
        while let Err(error) = std::str::from_utf8(rest) {
            let (valid, after) = rest.split_at(error.valid_up_to());
            text.push_str(&String::from_utf8_lossy(valid));
            rest = after;
            let Some(invalid) = error.error_len() else {
                break;
            };
            text.push(char::REPLACEMENT_CHARACTER);
            rest = rest.get(invalid..).unwrap_or_default();
        }
        if let Ok(valid) = std::str::from_utf8(rest) {
            text.push_str(valid);
            rest = &[];
        }
        let consumed = self.partial.len() - rest.len();
        self.partial.drain(..consumed);
        Ok(())
    }

    pub(super) fn finish(&mut self, text: &mut String) {
        if !self.partial.is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
            self.partial.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::fixture::{Random, hugging_face_bytes, sentence_pieces, vocabulary};

    fn streamed(tokenizer: &Arc<Tokenizer>, ids: &[u32]) -> String {
        let mut stream = Detokenizer::with_control_tokens(Arc::clone(tokenizer));
        let mut text = String::new();
        for &id in ids {
            text.extend(stream.push(id).expect("the token exists"));
        }
        text.extend(stream.finish().expect("a stream ends"));
        text
    }

    #[test]
    fn streaming_gives_what_decoding_the_whole_gives() {
        let tokenizer =
            Arc::new(Tokenizer::from_gguf(&vocabulary("gpt-2")).expect("a sound vocabulary"));
        let mut random = Random::new(11);
        for _ in 0..3000 {
            let text = random.text(40);
            let ids = tokenizer
                .encode(&text, false, false)
                .expect("every byte has a token");
            assert_eq!(tokenizer.decode(&ids, false).expect("known tokens"), text);
            assert_eq!(streamed(&tokenizer, &ids), text);
        }
    }

    #[test]
    fn random_tokens_stream_like_the_standard_library_decodes() {
        let tokenizer =
            Arc::new(Tokenizer::from_gguf(&vocabulary("gpt-2")).expect("a sound vocabulary"));
        let mut random = Random::new(5);
        let mut broken = 0;
        for _ in 0..5000 {
            // The first 256 tokens of the test vocabulary are the bytes in order.
            let bytes: Vec<u8> = (0..random.below(12))
                .map(|_| [0x41, 0xC3, 0xA9, 0xF0, 0x9F, 0xA6, 0x80, 0xFF][random.below(8)])
                .collect();
            let ids: Vec<u32> = bytes.iter().map(|&byte| u32::from(byte)).collect();
            let truth = String::from_utf8_lossy(&bytes).into_owned();
            broken += usize::from(truth.contains(char::REPLACEMENT_CHARACTER));
            assert_eq!(streamed(&tokenizer, &ids), truth, "{bytes:X?}");
            assert_eq!(tokenizer.decode(&ids, false).expect("known tokens"), truth);
        }
        assert!(broken > 100);
    }

    #[test]
    fn half_a_character_is_held_back() {
        let tokenizer =
            Arc::new(Tokenizer::from_gguf(&vocabulary("gpt-2")).expect("a sound vocabulary"));
        let mut stream = Detokenizer::new(Arc::clone(&tokenizer));
        let steps: Vec<_> = "🦀"
            .bytes()
            .map(|byte| stream.push(u32::from(byte)).expect("a byte"))
            .collect();
        assert_eq!(steps, [None, None, None, Some("🦀".to_owned())]);
        assert_eq!(stream.push(0xF0).expect("a byte"), None);
        assert_eq!(
            stream.push(u32::from(b'a')).expect("a byte").as_deref(),
            Some("\u{FFFD}a")
        );
        assert_eq!(stream.push(0xC3).expect("a byte"), None);
        assert_eq!(
            stream.finish().expect("a stream ends").as_deref(),
            Some("\u{FFFD}")
        );
        assert_eq!(stream.finish().expect("a stream ends"), None);
    }

    #[test]
    fn control_tokens_show_only_when_asked_for() {
        let tokenizer =
            Arc::new(Tokenizer::from_gguf(&vocabulary("gpt-2")).expect("a sound vocabulary"));
        let end = tokenizer.id_of("<|im_end|>").expect("a control token");
        let mut stream = Detokenizer::new(Arc::clone(&tokenizer));
        assert_eq!(stream.push(end).expect("known"), None);
        assert_eq!(streamed(&tokenizer, &[end]), "<|im_end|>");
        assert!(matches!(
            stream.push(1_000_000),
            Err(TextError::NoSuchToken { id: 1_000_000, .. })
        ));
    }

    #[test]
    fn a_leading_space_is_stripped_once_and_bytes_fall_back() {
        let file = sentence_pieces();
        let tokenizer = Arc::new(Tokenizer::from_bytes(&file, "t.json").expect("a sound file"));
        let library = tokenizers::Tokenizer::from_bytes(&file).expect("the library reads it");
        let id = |token: &str| tokenizer.id_of(token).expect(token);
        let cases = [
            vec![id("▁Hi"), id("▁Hi")],
            vec![id("▁"), id("▁"), id("▁Hi")],
            vec![id("<0xC3>"), id("<0xA9>"), id("▁Hi")],
            vec![id("<s>"), id("▁Hi"), id("</s>")],
        ];
        for ids in cases {
            for skip in [false, true] {
                assert_eq!(
                    tokenizer.decode(&ids, skip).expect("known"),
                    library.decode(&ids, skip).expect("known"),
                    "{ids:?}"
                );
            }
            assert_eq!(
                streamed(&tokenizer, &ids),
                tokenizer.decode(&ids, false).expect("known")
            );
        }
        assert_eq!(
            tokenizer
                .decode(&[id("▁Hi"), id("▁Hi")], false)
                .expect("known"),
            "Hi Hi"
        );
    }

    #[test]
    fn byte_level_files_decode_like_the_library() {
        let file = hugging_face_bytes();
        let tokenizer = Arc::new(Tokenizer::from_bytes(&file, "t.json").expect("a sound file"));
        let library = tokenizers::Tokenizer::from_bytes(&file).expect("the library reads it");
        let mut random = Random::new(3);
        for _ in 0..2000 {
            let ids: Vec<u32> = (0..random.below(10))
                .map(|_| random.below(tokenizer.vocab_size()) as u32)
                .collect();
            for skip in [false, true] {
                assert_eq!(
                    tokenizer.decode(&ids, skip).expect("known"),
                    library.decode(&ids, skip).expect("known"),
                    "{ids:?}"
                );
            }
            assert_eq!(
                streamed(&tokenizer, &ids),
                library.decode(&ids, false).expect("known")
            );
        }
    }
}
