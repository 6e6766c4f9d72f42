//! Models in several GGUF files.
//!
//! Part `i` of `n` is named `<model>-0000i-of-0000n.gguf`, both with at least five digits, and says in its metadata: `split.no` (from 0),
//! `split.count`, and `split.tensors.count`, the number of tensors of all parts together. Other metadata is the first part's.

use std::path::{Path, PathBuf};

use super::super::{FormatError, MappedFile};
use super::header::{Header, parse};
use super::metadata::Metadata;

type Opened = (MappedFile, Header);

/// Opens the file, and if it is a part of a model, every other part. In order, at least one.
pub(super) fn open_all(path: &Path) -> Result<Vec<Opened>, FormatError> {
    let named = PartName::of(path);
    let given = open(path)?;
    let file = path.display().to_string();
    let count = given.1.metadata.find_u32("split.count")?.unwrap_or(1);
    let named = match (count, named) {
        (0 | 1, None) => return Ok(vec![given]),
        (0 | 1, Some(named)) if named.count == 1 => return Ok(vec![given]),
        (0 | 1, Some(named)) => {
            return Err(named.error(
                &file,
                "its name says that it is a part, but its metadata does not (`split.count`)",
            ));
        }
        (count, None) => {
            let expected = format!("-{:05}-of-{count:05}.gguf", 1);
            let problem = format!(
                "is {count}, but the file's name does not end like `{expected}`, so the other parts cannot be found"
            );
            return Err(FormatError::invalid(
                file,
                "metadata key `split.count`",
                problem,
            ));
        }
        (_, Some(named)) => named,
    };
    let total = check_part(&named, &given, &file)?;
    let mut given = Some(given);
    let mut parts = Vec::new();
    let mut tensors: u64 = 0;
    for number in 1..=named.count {
        let current = PartName {
            number,
            ..named.clone()
        };
        let path = path.with_file_name(current.file_name());
        let part = match given.take_if(|_| number == named.number) {
            Some(part) => part,
            None if path.exists() => open(&path)?,
            None => return Err(current.error(&path.display().to_string(), "the file is missing")),
        };
        let file = path.display().to_string();
        let says = check_part(&current, &part, &file)?;
        if says != total {
            let problem = format!(
                "`split.tensors.count` is {says}, but {total} in part {}",
                named.number
            );
            return Err(current.error(&file, problem));
        }
        tensors = tensors.saturating_add(part.1.tensors.len() as u64);
        parts.push(part);
    }
    if tensors != total {
        let problem = format!(
            "`split.tensors.count` is {total}, but the parts have {tensors} tensors together"
        );
        return Err(named.error(&file, problem));
    }
    Ok(parts)
}

fn open(path: &Path) -> Result<Opened, FormatError> {
    let file = MappedFile::open(path)?;
    let header = parse(file.bytes(), &path.display().to_string())?;
    Ok((file, header))
}

/// The part's metadata agrees with its name. Returns the number of tensors that it gives for all parts.
fn check_part(name: &PartName, (_, header): &Opened, file: &str) -> Result<u64, FormatError> {
    let metadata: &Metadata = &header.metadata;
    let count = metadata.get_u32("split.count")?;
    if count != name.count {
        return Err(name.error(file, format!("`split.count` is {count}")));
    }
    let number = metadata.get_u32("split.no")?;
    if u64::from(number) + 1 != u64::from(name.number) {
        return Err(name.error(file, format!("`split.no` is {number}; it counts from 0")));
    }
    metadata.get_u64("split.tensors.count")
}

/// A file name that ends in `-00001-of-00003.gguf`.
#[derive(Clone)]
struct PartName {
    stem: String,
    number: u32,
    count: u32,
}

impl PartName {
    fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
        let (rest, count) = name.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        let named = PartName {
            stem: stem.to_owned(),
            number: digits(number)?,
            count: digits(count)?,
        };
        (1..=named.count).contains(&named.number).then_some(named)
    }

    fn file_name(&self) -> PathBuf {
        format!("{}-{:05}-of-{:05}.gguf", self.stem, self.number, self.count).into()
    }

    fn error(&self, file: &str, problem: impl Into<String>) -> FormatError {
        FormatError::Part {
            file: file.to_owned(),
            part: self.number,
            count: self.count,
            problem: problem.into(),
        }
    }
}

fn digits(text: &str) -> Option<u32> {
    let plain = text.len() >= 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}
