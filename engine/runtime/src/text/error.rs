//! Everything that can go wrong between text and tokens.

/// Why a tokenizer or chat template is broken, or refused its input.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// A kind of tokenizer that this crate does not have.
    #[error("{field}: `{found}` is not supported; supported are {supported}")]
    Unsupported {
        /// The file and field, or the metadata key.
        field: String,
        /// What it says.
        found: String,
        /// What it may say.
        supported: String,
    },
    /// A vocabulary or tokenizer file contradicts itself.
    #[error("{field}: {why}")]
    Broken {
        /// The file and field, or the metadata key.
        field: String,
        /// What is wrong with it.
        why: String,
    },
    /// A file could not be read.
    #[error("{file}: {why}")]
    Read {
        /// The path.
        file: String,
        /// The operating system's words.
        why: std::io::Error,
    },
    /// A byte of the text for which the vocabulary has no token.
    #[error("the vocabulary has no token for byte 0x{byte:02X} at offset {offset} of the text")]
    Unencodable {
        /// The byte.
        byte: u8,
        /// Its offset in the text, in bytes.
        offset: usize,
    },
    /// Plain text that the vocabulary can only spell with a control token.
    #[error("the text would become the control token {id}, and plain text may not")]
    ControlToken {
        /// The token.
        id: u32,
    },
    /// A token id that the tokenizer does not have.
    #[error("token {id} is not in the tokenizer's vocabulary of {size}")]
    NoSuchToken {
        /// The id.
        id: u32,
        /// One more than the highest id.
        size: usize,
    },
    /// The tokenizer failed on a text.
    #[error("the tokenizer cannot encode the text: {why}")]
    Encode {
        /// The tokenizer's words.
        why: String,
    },
    /// A chat template does not parse or cannot be rendered.
    #[error("chat template{}: {why}", at_line(.line))]
    Template {
        /// The line, from 1, where it is known.
        line: Option<usize>,
        /// What is wrong.
        why: String,
    },
    /// A chat template refused the messages by `raise_exception`.
    #[error("the chat template refuses the messages: {message}{}", at_line(.line))]
    Refused {
        /// The template's words.
        message: String,
        /// The line, from 1, where it is known.
        line: Option<usize>,
    },
}

fn at_line(line: &Option<usize>) -> String {
    line.map(|line| format!(" (line {line})"))
        .unwrap_or_default()
}
