//! Which files of a repository make up a model.

use std::collections::BTreeMap;

use super::error::HubError;
use super::reference::{Repository, has_gguf_ending};

/// The name of the file that maps tensors to shards.
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// Files beside the weights of a Hugging Face directory; the first is required.
const COMPANIONS: &[&str] = &[
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
];

/// What to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Plan {
    /// One GGUF file, or all parts of a split one in order.
    Gguf(Vec<String>),
    /// A Hugging Face directory.
    Directory {
        /// Configuration and tokenizer files.
        companions: Vec<String>,
        /// Safetensors files; empty where the index (among the companions) names them.
        weights: Vec<String>,
    },
}

/// Chooses among the paths of a repository.
pub(super) fn choose(
    repository: &Repository,
    selection: Option<&str>,
    paths: &[String],
) -> Result<Plan, HubError> {
    let models = group_parts(paths);
    let listed = || models.keys().cloned().collect::<Vec<_>>();
    if let Some(selection) = selection {
        let matches: Vec<&Vec<String>> = models
            .values()
            .filter(|parts| parts.iter().any(|path| is_selected(path, selection)))
            .collect();
        return match matches.as_slice() {
            [parts] => Ok(Plan::Gguf((*parts).clone())),
            [] => Err(HubError::FileMissing {
                repository: repository.to_string(),
                file: selection.to_string(),
                available: listed(),
            }),
            several => Err(HubError::Ambiguous {
                repository: repository.to_string(),
                choices: several
                    .iter()
                    .filter_map(|parts| parts.first().cloned())
                    .collect(),
            }),
        };
    }
    let at_root = |path: &&String| !path.contains('/');
    let safetensors: Vec<String> = paths
        .iter()
        .filter(at_root)
        .filter(|path| path.ends_with(".safetensors"))
        .cloned()
        .collect();
    if safetensors.is_empty() {
        let mut sets = models.values();
        return match (sets.next(), sets.next()) {
            (Some(parts), None) => Ok(Plan::Gguf(parts.clone())),
            (None, _) => Err(HubError::NoWeights {
                repository: repository.to_string(),
            }),
            (Some(_), Some(_)) => Err(HubError::Ambiguous {
                repository: repository.to_string(),
                choices: listed(),
            }),
        };
    }
    let has = |name: &str| paths.iter().any(|path| path == name);
    if !has("config.json") {
        return Err(HubError::FileMissing {
            repository: repository.to_string(),
            file: "config.json".to_string(),
            available: Vec::new(),
        });
    }
    let mut companions: Vec<String> = COMPANIONS
        .iter()
        .filter(|name| has(name))
        .map(|name| (*name).to_string())
        .collect();
    let weights = if has(INDEX) {
        companions.push(INDEX.to_string());
        Vec::new()
    } else if has("model.safetensors") {
        vec!["model.safetensors".to_string()]
    } else {
        return Err(HubError::FileMissing {
            repository: repository.to_string(),
            file: format!("model.safetensors or {INDEX}"),
            available: safetensors,
        });
    };
    Ok(Plan::Directory {
        companions,
        weights,
    })
}

/// GGUF files by the path of their first part, each with all its parts in order.
fn group_parts(paths: &[String]) -> BTreeMap<String, Vec<String>> {
    let mut groups: BTreeMap<String, Vec<(u64, String)>> = BTreeMap::new();
    for path in paths.iter().filter(|path| has_gguf_ending(path)) {
        match split_part(path) {
            Some((stem, part)) => groups.entry(stem).or_default().push((part, path.clone())),
            None => groups
                .entry(path.clone())
                .or_default()
                .push((0, path.clone())),
        }
    }
    groups
        .into_values()
        .filter_map(|mut parts| {
            parts.sort();
            let files: Vec<String> = parts.into_iter().map(|(_, path)| path).collect();
            files.first().cloned().map(|first| (first, files))
        })
        .collect()
}

/// `x-00002-of-00003.gguf` is part 2 of `x` (of 3).
fn split_part(path: &str) -> Option<(String, u64)> {
    let (stem, _) = path.rsplit_once('.')?;
    let (front, count) = stem.rsplit_once("-of-")?;
    let (name, part) = front.rsplit_once('-')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (digits(count) && digits(part)).then_some(())?;
    Some((format!("{name} of {count}"), part.parse().ok()?))
}

/// True where `selection` is the path, its file name, or a quantisation that stands by itself in the file name.
fn is_selected(path: &str, selection: &str) -> bool {
    let file = path.rsplit('/').next().unwrap_or(path);
    if has_gguf_ending(selection) {
        return path == selection || file == selection;
    }
    let file = file.to_ascii_lowercase();
    let wanted = selection.to_ascii_lowercase();
    // `_` is part of a quantisation's name: Q4_K is not Q4_K_M.
    let is_edge =
        |character: Option<char>| character.is_none_or(|c| !c.is_ascii_alphanumeric() && c != '_');
    file.match_indices(&wanted).any(|(start, found)| {
        let before = file.get(..start).and_then(|text| text.chars().next_back());
        let after = file
            .get(start.saturating_add(found.len())..)
            .and_then(|text| text.chars().next());
        is_edge(before) && is_edge(after)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository() -> Repository {
        Repository {
            owner: "o".to_string(),
            name: "n".to_string(),
        }
    }

    fn chosen(selection: Option<&str>, paths: &[&str]) -> Result<Plan, HubError> {
        let paths: Vec<String> = paths.iter().map(|path| (*path).to_string()).collect();
        choose(&repository(), selection, &paths)
    }

    fn gguf(paths: &[&str]) -> Plan {
        Plan::Gguf(paths.iter().map(|path| (*path).to_string()).collect())
    }

    const QUANTS: &[&str] = &[
        "README.md",
        "m-q4_k.gguf",
        "m-q4_k_m.gguf",
        "m.Q8_0.gguf",
        "big-f16-00002-of-00002.gguf",
        "big-f16-00001-of-00002.gguf",
    ];

    #[test]
    fn a_quantisation_is_a_whole_word() -> Result<(), HubError> {
        assert_eq!(chosen(Some("Q4_K_M"), QUANTS)?, gguf(&["m-q4_k_m.gguf"]));
        assert_eq!(chosen(Some("q4_k"), QUANTS)?, gguf(&["m-q4_k.gguf"]));
        assert_eq!(chosen(Some("m.Q8_0.gguf"), QUANTS)?, gguf(&["m.Q8_0.gguf"]));
        Ok(())
    }

    #[test]
    fn a_part_stands_for_all_parts() -> Result<(), HubError> {
        let parts = gguf(&["big-f16-00001-of-00002.gguf", "big-f16-00002-of-00002.gguf"]);
        assert_eq!(chosen(Some("F16"), QUANTS)?, parts);
        assert_eq!(chosen(Some("big-f16-00001-of-00002.gguf"), QUANTS)?, parts);
        Ok(())
    }

    #[test]
    fn what_is_missing_or_ambiguous_is_listed() {
        let missing = chosen(Some("Q5_0"), QUANTS);
        assert!(
            matches!(&missing, Err(HubError::FileMissing { available, .. }) if available.len() == 4),
            "{missing:?}"
        );
        let several = chosen(None, QUANTS);
        assert!(
            matches!(&several, Err(HubError::Ambiguous { choices, .. }) if choices.len() == 4),
            "{several:?}"
        );
        assert!(matches!(
            chosen(None, &["README.md"]),
            Err(HubError::NoWeights { .. })
        ));
        assert!(matches!(
            chosen(None, &["model.safetensors"]),
            Err(HubError::FileMissing { ref file, .. }) if file == "config.json"
        ));
    }

    #[test]
    fn a_directory_takes_its_companions() -> Result<(), HubError> {
        let plan = chosen(
            None,
            &[
                "config.json",
                "tokenizer.json",
                "model.safetensors",
                "consolidated.safetensors",
                "x.gguf",
                "a.py",
            ],
        )?;
        assert_eq!(
            plan,
            Plan::Directory {
                companions: vec!["config.json".to_string(), "tokenizer.json".to_string()],
                weights: vec!["model.safetensors".to_string()],
            }
        );
        let plan = chosen(
            None,
            &[
                "config.json",
                INDEX,
                "model-1.safetensors",
                "sub/x.safetensors",
            ],
        )?;
        assert_eq!(
            plan,
            Plan::Directory {
                companions: vec!["config.json".to_string(), INDEX.to_string()],
                weights: Vec::new(),
            }
        );
        Ok(())
    }
}
