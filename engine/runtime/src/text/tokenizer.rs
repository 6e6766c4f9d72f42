//! Text to tokens and back.

use std::fmt;
use std::path::Path;

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::{AddedToken, AddedVocabulary, Encoding, Model, OffsetType, PreTokenizer};

use super::detokenizer::Decoding;
use super::error::TextError;
use super::hugging_face;
use super::pieces::{Kind, Pieces, byte_character, spelt_bytes};
use super::splitting::Splitting;
use super::vocabulary::{GgufVocabulary, USER_DEFINED};

/// Turns text into tokens and tokens into text.
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The added tokens once more, set to leave control tokens in a text alone.
    plain: AddedVocabulary,
    pieces: Pieces,
    /// Goes before every text.
    before: Vec<u32>,
    /// Goes after every text.
    after: Vec<u32>,
    /// Stands for what has no token; the one special token that plain text may become.
    unknown: Option<u32>,
    stop: Vec<u32>,
    /// Bytes for which there is no token.
    missing: Vec<u8>,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = formatter.debug_struct("Tokenizer");
        debug
            .field("vocab_size", &self.vocab_size())
            .field("stop_tokens", &self.stop)
            .finish_non_exhaustive()
    }
}

/// What a tokenizer is made of beside the library's own object.
pub(super) struct Parts {
    pub(super) pieces: Pieces,
    pub(super) before: Vec<u32>,
    pub(super) after: Vec<u32>,
    pub(super) unknown: Option<u32>,
    pub(super) stop: Vec<u32>,
    /// Whether words are spelt byte by byte, so that every byte needs a token.
    pub(super) byte_level: bool,
}

impl Tokenizer {
    /// Reads a Hugging Face `tokenizer.json`. Its end-of-text tokens are not in there: see [`Tokenizer::add_stop_tokens`].
    ///
    /// # Errors
    /// The file cannot be read, is broken, or is of a kind that is not supported.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, TextError> {
        let file = path.as_ref().display().to_string();
        let bytes = std::fs::read(path).map_err(|why| TextError::Read {
            file: file.clone(),
            why,
        })?;
        Self::from_bytes(&bytes, &file)
    }

    /// Reads the contents of a Hugging Face `tokenizer.json`; errors call it `file_name`.
    ///
    /// # Errors
    /// The file is broken, or of a kind that is not supported.
    pub fn from_bytes(bytes: &[u8], file_name: &str) -> Result<Self, TextError> {
        let (inner, parts) = hugging_face::read(bytes, file_name)?;
        Ok(Self::new(inner, parts))
    }

    /// Builds the byte-level tokenizer that a GGUF file describes.
    ///
    /// # Errors
    /// The vocabulary is broken, or of a kind that is not supported.
    pub fn from_gguf(vocabulary: &GgufVocabulary) -> Result<Self, TextError> {
        let ids = vocabulary.check()?;
        let splitting = Splitting::of(vocabulary.pre.as_deref())?;
        let pairs = vocabulary.pairs(&ids)?;
        let stop = vocabulary.stop_tokens(&ids);
        let fault = |field: &str, why: tokenizers::Error| TextError::Broken {
            field: format!("tokenizer.ggml.{field}"),
            why: why.to_string(),
        };
        let model = BPE::builder()
            .vocab_and_merges(ids.into_iter().collect::<Vocab>(), pairs)
            .ignore_merges(splitting.whole_words)
            .build();
        let mut inner = tokenizers::Tokenizer::new(model.map_err(|why| fault("merges", why))?);
        inner.with_pre_tokenizer(Some(splitting.build()?));
        if splitting.composes {
            inner
                .with_normalizer(Some(NFC))
                .map_err(|why| fault("tokens", why))?;
        }
        let mut pieces = Pieces::new(0);
        let mut added = Vec::new();
        for (id, token) in (0_u32..).zip(&vocabulary.tokens) {
            let control = vocabulary.is_control(id);
            if control || vocabulary.token_types.get(id as usize) == Some(&USER_DEFINED) {
                added.push(AddedToken::from(token.as_str(), control).normalized(false));
                pieces.add(
                    if control { Kind::Special } else { Kind::Text },
                    token.as_bytes(),
                );
            } else {
                pieces.add(
                    Kind::Text,
                    &spelt_bytes(token).unwrap_or_else(|| token.clone().into_bytes()),
                );
            }
        }
        inner
            .add_tokens(added)
            .map_err(|why| fault("tokens", why))?;
        let before = vocabulary
            .bos
            .into_iter()
            .filter(|_| vocabulary.add_bos.unwrap_or(splitting.begins))
            .collect();
        Ok(Self::new(
            inner,
            Parts {
                pieces,
                before,
                after: Vec::new(),
                unknown: None,
                stop,
                byte_level: true,
            },
        ))
    }

    fn new(inner: tokenizers::Tokenizer, parts: Parts) -> Self {
        let mut plain = inner.get_added_vocabulary().clone();
        plain.set_encode_special_tokens(true);
        let model = inner.get_model();
        let absent = |byte: &u8| {
            model
                .token_to_id(byte_character(*byte).encode_utf8(&mut [0; 4]))
                .is_none()
        };
        let missing = if parts.byte_level && parts.unknown.is_none() {
            (0..=255).filter(absent).collect()
        } else {
            Vec::new()
        };
        let Parts {
            pieces,
            before,
            after,
            unknown,
            stop,
            ..
        } = parts;
        let mut tokenizer = Tokenizer {
            inner,
            plain,
            pieces,
            before,
            after,
            unknown,
            stop: Vec::new(),
            missing,
        };
        tokenizer.add_stop_tokens(&stop);
        tokenizer
    }

    /// Turns a text into tokens.
    ///
    /// `add_special` adds what the tokenizer puts before and after every text: the beginning-of-text token where a GGUF file asks for it,
    /// whatever the post-processor of a `tokenizer.json` says. With `parse_special`, control tokens that are spelt out in the text become
    /// control tokens; without it they never do: use that for text that is not to be trusted.
    ///
    /// # Errors
    /// The text has a byte that the vocabulary cannot spell, or, without `parse_special`, spells a control token only.
    pub fn encode(
        &self,
        text: &str,
        add_special: bool,
        parse_special: bool,
    ) -> Result<Vec<u32>, TextError> {
        if !self.missing.is_empty()
            && let Some((offset, byte)) = text
                .bytes()
                .enumerate()
                .find(|(_, byte)| self.missing.contains(byte))
        {
            return Err(TextError::Unencodable { byte, offset });
        }
        let fault = |why: tokenizers::Error| TextError::Encode {
            why: why.to_string(),
        };
        let added = if parse_special {
            self.inner.get_added_vocabulary()
        } else {
            &self.plain
        };
        let encoding = self.encode_with(added, text).map_err(fault)?;
        let control = |id: &&u32| self.is_special(**id) && Some(**id) != self.unknown;
        if !parse_special && let Some(&id) = encoding.get_ids().iter().find(control) {
            return Err(TextError::ControlToken { id });
        }
        if !add_special {
            return Ok(encoding.get_ids().to_vec());
        }
        Ok([&self.before, encoding.get_ids(), &self.after].concat())
    }

    /// Turns what a chat template rendered into tokens: control tokens are meant as such, and nothing is added, since the template has
    /// written down all that there is to be. Whatever control tokens a message spells out count too.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_rendered(&self, text: &str) -> Result<Vec<u32>, TextError> {
        self.encode(text, false, true)
    }

    /// The library's own steps, finding `added` in the text.
    fn encode_with(&self, added: &AddedVocabulary, text: &str) -> tokenizers::Result<Encoding> {
        let mut pieces = added.extract_and_normalize(self.inner.get_normalizer(), text);
        if let Some(splitting) = self.inner.get_pre_tokenizer() {
            splitting.pre_tokenize(&mut pieces)?;
        }
        self.inner
            .get_model()
            .tokenize_in_pretokenized(&mut pieces, None)?;
        pieces.into_encoding(None, 0, OffsetType::None)
    }

    /// Turns tokens into text; bytes that are no UTF-8 become U+FFFD. `skip_special` leaves out control tokens.
    ///
    /// # Errors
    /// A token that the tokenizer does not have.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TextError> {
        let mut decoding = Decoding::new(&self.pieces, skip_special);
        let mut text = String::new();
        for &id in ids {
            decoding.push(&self.pieces, id, &mut text)?;
        }
        decoding.finish(&mut text);
        Ok(text)
    }

    /// A token's spelling in the vocabulary: a byte-level one writes ` the` as `Ġthe`. [`Tokenizer::decode`] gives the text.
    pub fn token_text(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The bytes that a token stands for, which may be a part of a character; those of a control token spell it. `None` for ids that no token has.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.pieces.get(id).map(|(_, bytes)| bytes)
    }

    /// The token with this spelling in the vocabulary, for example `<|im_end|>`.
    pub fn id_of(&self, text: &str) -> Option<u32> {
        self.inner.token_to_id(text)
    }

    /// One more than the highest id. The model's own vocabulary may be larger.
    pub fn vocab_size(&self) -> usize {
        self.pieces.len()
    }

    /// Whether a token is a control token.
    pub fn is_special(&self, id: u32) -> bool {
        self.pieces
            .get(id)
            .is_some_and(|(kind, _)| kind == Kind::Special)
    }

    /// The tokens that end generation.
    pub fn stop_tokens(&self) -> &[u32] {
        &self.stop
    }

    /// Adds tokens that end generation, such as `eos_token_id` of a model's `generation_config.json`.
    pub fn add_stop_tokens(&mut self, ids: &[u32]) {
        for &id in ids {
            if !self.stop.contains(&id) {
                self.stop.push(id);
            }
        }
    }

    pub(super) fn pieces(&self) -> &Pieces {
        &self.pieces
    }
}

#[cfg(test)]
mod real;
#[cfg(test)]
mod tests;
