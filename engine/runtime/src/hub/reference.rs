//! The ways to name a model.

use std::fmt;
use std::path::{Path, PathBuf};

use super::alias::{self, Alias};
use super::error::HubError;

/// A repository on the model hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// The organisation or user.
    pub owner: String,
    /// The repository's name.
    pub name: String,
}

impl fmt::Display for Repository {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.owner, self.name)
    }
}

/// What a user may give for a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelReference {
    /// A `.gguf` file that exists.
    File(PathBuf),
    /// A directory that exists.
    Directory(PathBuf),
    /// A repository on the model hub.
    Hub {
        /// `org/name`.
        repository: Repository,
        /// A GGUF file (`x.gguf`) or quantisation (`Q4_K_M`) in it; none means the repository's one model.
        selection: Option<String>,
    },
    /// A short name.
    Alias(&'static Alias),
}

impl ModelReference {
    /// Parses an alias, an existing path, or `org/name[:file or quantisation]`, in that order.
    ///
    /// Looks at the file system, not at the network. Errors: [`HubError::PathMissing`] for what looks like a path,
    /// [`HubError::UnknownReference`] with near aliases for the rest.
    pub fn parse(text: &str) -> Result<Self, HubError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(HubError::EmptyReference);
        }
        if let Some(alias) = alias::find(text) {
            return Ok(ModelReference::Alias(alias));
        }
        let path = Path::new(text);
        if path.is_dir() {
            return Ok(ModelReference::Directory(path.to_path_buf()));
        }
        if path.is_file() {
            return if has_gguf_ending(text) {
                Ok(ModelReference::File(path.to_path_buf()))
            } else {
                Err(HubError::NotAModelFile {
                    path: path.to_path_buf(),
                })
            };
        }
        if looks_like_path(text) {
            return Err(HubError::PathMissing {
                path: path.to_path_buf(),
            });
        }
        let (repository, selection) = match text.split_once(':') {
            Some((repository, selection)) => (repository, Some(selection)),
            None => (text, None),
        };
        let Some((owner, name)) = repository.split_once('/') else {
            return Err(HubError::UnknownReference {
                reference: text.to_string(),
                suggestions: alias::suggest(text),
            });
        };
        let invalid = |reason| HubError::InvalidReference {
            reference: text.to_string(),
            reason,
        };
        if !is_hub_name(owner) || !is_hub_name(name) {
            return Err(invalid(
                "in `org/name` both are letters, digits, `-`, `_` and `.`, and start with a letter or digit",
            ));
        }
        if let Some(selection) = selection {
            if selection.is_empty() {
                return Err(invalid(
                    "nothing follows the colon (a .gguf file or a quantisation)",
                ));
            }
            if !is_plain_relative(selection) || selection.contains(':') {
                return Err(invalid(
                    "the file after the colon is no plain relative path",
                ));
            }
        }
        Ok(ModelReference::Hub {
            repository: Repository {
                owner: owner.to_string(),
                name: name.to_string(),
            },
            selection: selection.map(str::to_string),
        })
    }
}

impl fmt::Display for ModelReference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ModelReference::File(path) | ModelReference::Directory(path) => {
                write!(formatter, "{}", path.display())
            }
            ModelReference::Hub {
                repository,
                selection: None,
            } => write!(formatter, "{repository}"),
            ModelReference::Hub {
                repository,
                selection: Some(selection),
            } => write!(formatter, "{repository}:{selection}"),
            ModelReference::Alias(alias) => formatter.write_str(alias.name),
        }
    }
}

/// True where a name ends in `.gguf`, letters in any case.
pub(super) fn has_gguf_ending(name: &str) -> bool {
    Path::new(name)
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

/// True for `a/b/c` with no empty, `.` or `..` component, no backslash, no drive and no control character.
pub(super) fn is_plain_relative(name: &str) -> bool {
    name.split('/').all(|component| {
        !component.is_empty()
            && component != "."
            && component != ".."
            && !component.contains(['\\', ':'])
            && !component.chars().any(char::is_control)
    })
}

fn looks_like_path(text: &str) -> bool {
    let before_colon = text.split(':').next().unwrap_or(text);
    Path::new(text).is_absolute()
        || text.starts_with(['.', '~', '/', '\\'])
        || text.contains('\\')
        || before_colon.ends_with('/')
        || before_colon.matches('/').count() > 1
        || (!text.contains(':') && has_gguf_ending(text))
}

fn is_hub_name(name: &str) -> bool {
    name.len() <= 96
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        && !name.contains("..")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(owner: &str, name: &str, selection: Option<&str>) -> ModelReference {
        ModelReference::Hub {
            repository: Repository {
                owner: owner.to_string(),
                name: name.to_string(),
            },
            selection: selection.map(str::to_string),
        }
    }

    #[test]
    fn repositories_with_and_without_selection() -> Result<(), HubError> {
        for (text, expected) in [
            ("Qwen/Qwen2.5-0.5B", hub("Qwen", "Qwen2.5-0.5B", None)),
            ("a/b:Q4_K_M", hub("a", "b", Some("Q4_K_M"))),
            ("a/b:sub/x.gguf", hub("a", "b", Some("sub/x.gguf"))),
        ] {
            let parsed = ModelReference::parse(text)?;
            assert_eq!(parsed, expected);
            assert_eq!(parsed.to_string(), text);
        }
        Ok(())
    }

    #[test]
    fn aliases_win_and_are_case_blind() -> Result<(), HubError> {
        for alias in alias::aliases() {
            let parsed = ModelReference::parse(&alias.name.to_uppercase())?;
            assert_eq!(parsed, ModelReference::Alias(alias));
        }
        Ok(())
    }

    #[test]
    fn existing_paths_are_told_apart() -> Result<(), Box<dyn std::error::Error>> {
        let directory = tempfile::tempdir()?;
        let gguf = directory.path().join("x.GGUF");
        let text = directory.path().join("x.txt");
        std::fs::write(&gguf, b"")?;
        std::fs::write(&text, b"")?;
        assert_eq!(
            ModelReference::parse(&directory.path().to_string_lossy())?,
            ModelReference::Directory(directory.path().to_path_buf())
        );
        assert_eq!(
            ModelReference::parse(&gguf.to_string_lossy())?,
            ModelReference::File(gguf)
        );
        assert!(matches!(
            ModelReference::parse(&text.to_string_lossy()),
            Err(HubError::NotAModelFile { path }) if path == text
        ));
        Ok(())
    }

    #[test]
    fn missing_paths_are_named() {
        for text in [
            "./nowhere",
            "/no/such/model.gguf",
            "model.gguf",
            "a/b.gguf",
            "a/b/c",
            "~/m",
        ] {
            assert!(
                matches!(ModelReference::parse(text), Err(HubError::PathMissing { ref path }) if path == Path::new(text)),
                "{text}"
            );
        }
    }

    #[test]
    fn the_rest_is_refused_with_a_reason() {
        assert!(matches!(
            ModelReference::parse("  "),
            Err(HubError::EmptyReference)
        ));
        for text in [
            "a/b:",
            "-a/b",
            "a/b:../x.gguf",
            "a/b c",
            "a/b:x:y",
            "a/b:/etc/x.gguf",
        ] {
            assert!(
                matches!(
                    ModelReference::parse(text),
                    Err(HubError::InvalidReference { .. })
                ),
                "{text}"
            );
        }
        let error = ModelReference::parse("smolm2:135m").expect_err("a misspelt alias");
        assert!(
            error.to_string().contains("did you mean smollm2:135m?"),
            "{error}"
        );
    }
}
