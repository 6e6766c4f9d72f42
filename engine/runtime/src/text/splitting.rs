//! How a text is cut into words before byte pairs are merged: the rules that GGUF files name in `tokenizer.ggml.pre`.

use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{PreTokenizerWrapper, SplitDelimiterBehavior};

use super::error::TextError;

/// One rule, known by several names.
#[derive(Debug)]
pub(super) struct Splitting {
    names: &'static [&'static str],
    /// Expressions that cut the text one after the other; what lies between matches is a word too.
    expressions: &'static [&'static str],
    /// Whether the text is brought into Unicode normal form C first.
    pub(super) composes: bool,
    /// Whether a word that is a token is taken as it is, without merging.
    pub(super) whole_words: bool,
    /// Whether texts begin with the beginning-of-text token where the file does not say: llama.cpp's default.
    pub(super) begins: bool,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK3: &str = concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"##,
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

const RULES: &[Splitting] = &[
    Splitting {
        names: &["gpt-2", "gpt2", "phi-2"],
        expressions: &[GPT2],
        composes: false,
        whole_words: false,
        begins: false,
    },
    Splitting {
        names: &["smollm", "starcoder", "refact"],
        expressions: &[r"\p{N}", GPT2],
        composes: false,
        whole_words: false,
        begins: false,
    },
    Splitting {
        names: &["qwen2"],
        expressions: &[QWEN2],
        composes: true,
        whole_words: false,
        begins: false,
    },
    Splitting {
        names: &["deepseek-r1-qwen"],
        expressions: &[QWEN2],
        composes: false,
        whole_words: false,
        begins: false,
    },
    Splitting {
        names: &["llama-bpe", "llama-v3", "llama3"],
        expressions: &[LLAMA3],
        composes: false,
        whole_words: true,
        begins: true,
    },
    Splitting {
        names: &["deepseek-coder"],
        expressions: &[
            r"[\r\n]",
            r"\s?\p{L}+",
            r"\s?\p{P}+",
            "[一-龥ࠀ-一가-\u{D7FF}]+",
            r"\p{N}",
        ],
        composes: false,
        whole_words: false,
        begins: false,
    },
    Splitting {
        names: &["deepseek-v3"],
        expressions: &[r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3],
        composes: false,
        whole_words: false,
        begins: false,
    },
    Splitting {
        names: &["default"],
        expressions: &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"],
        composes: false,
        whole_words: false,
        begins: false,
    },
];

/// The metadata key that names the rule.
pub(super) const FIELD: &str = "tokenizer.ggml.pre";

impl Splitting {
    /// The rule of a name.
    ///
    /// # Errors
    /// A name that is not known, or none: to guess would cut texts differently from how the model learnt them.
    pub(super) fn of(name: Option<&str>) -> Result<&'static Splitting, TextError> {
        RULES
            .iter()
            .find(|rule| name.is_some_and(|name| rule.names.contains(&name)))
            .ok_or_else(|| TextError::Unsupported {
                field: FIELD.to_owned(),
                found: name.unwrap_or("(missing)").to_owned(),
                supported: RULES
                    .iter()
                    .flat_map(|rule| rule.names)
                    .copied()
                    .collect::<Vec<_>>()
                    .join(", "),
            })
    }

    /// The rule as the tokenizer library takes it, spelling bytes as characters at its end.
    ///
    /// # Errors
    /// An expression that the library refuses; a test shows that there is none.
    pub(super) fn build(&self) -> Result<PreTokenizerWrapper, TextError> {
        let mut steps = Vec::new();
        for expression in self.expressions {
            let pattern = SplitPattern::Regex((*expression).to_owned());
            let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false);
            steps.push(
                split
                    .map_err(|why| TextError::Broken {
                        field: FIELD.to_owned(),
                        why: why.to_string(),
                    })?
                    .into(),
            );
        }
        steps.push(ByteLevel::new(false, true, false).into());
        Ok(Sequence::new(steps).into())
    }
}

#[cfg(test)]
mod tests {
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

    use super::*;

    fn words(rule: &str, text: &str) -> Vec<String> {
        let built = Splitting::of(Some(rule))
            .and_then(Splitting::build)
            .expect("a known rule");
        let mut pieces = PreTokenizedString::from(text);
        built.pre_tokenize(&mut pieces).expect("splits");
        let original = pieces.get_splits(OffsetReferential::Original, OffsetType::Byte);
        original
            .into_iter()
            .map(|(_, (start, end), _)| text[start..end].to_owned())
            .collect()
    }

    #[test]
    fn every_rule_builds_and_loses_nothing() {
        let text = "It's 12345 + x_1\r\n\n  世界 ひら éa 🦀!?  \t end ";
        for name in RULES.iter().flat_map(|rule| rule.names) {
            assert_eq!(words(name, text).concat(), text, "{name}");
        }
    }

    #[test]
    fn numbers_are_cut_as_each_rule_says() {
        assert_eq!(words("gpt-2", "a 1234"), ["a", " 1234"]);
        assert_eq!(words("smollm", "a 1234"), ["a", " ", "1", "2", "3", "4"]);
        assert_eq!(words("qwen2", "a 1234"), ["a", " ", "1", "2", "3", "4"]);
        assert_eq!(words("llama-bpe", "a 1234"), ["a", " ", "123", "4"]);
        assert_eq!(words("deepseek-v3", "a 1234"), ["a", " ", "123", "4"]);
        assert_eq!(words("default", "a1234"), ["a", "123", "4"]);
    }

    #[test]
    fn spaces_lines_and_contractions_are_cut_as_each_rule_says() {
        assert_eq!(
            words("gpt-2", "I'M it's  x\n\n y"),
            ["I", "'", "M", " it", "'s", " ", " x", "\n\n", " y"]
        );
        assert_eq!(
            words("qwen2", "I'M it's  x\n\n y"),
            ["I", "'M", " it", "'s", " ", " x", "\n\n", " y"]
        );
        assert_eq!(words("llama-bpe", "a!!\n  b"), ["a", "!!\n", " ", " b"]);
        assert_eq!(
            words("deepseek-coder", "a\n b.c"),
            ["a", "\n", " b", ".", "c"]
        );
        assert_eq!(
            words("deepseek-v3", "x .foo.bar"),
            ["x", " .", "foo", ".bar"]
        );
    }

    #[test]
    fn an_unknown_or_missing_rule_is_an_error_that_lists_the_known_ones() {
        for name in [Some("viking"), None] {
            let error = Splitting::of(name).expect_err("not known").to_string();
            assert!(
                error.contains(name.unwrap_or("missing")) && error.contains("smollm, starcoder"),
                "{error}"
            );
            assert!(error.starts_with("tokenizer.ggml.pre: "), "{error}");
        }
    }
}
