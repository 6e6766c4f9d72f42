//! A Hugging Face model directory.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::super::error::shown;
use super::super::repack::Rows;
use super::super::{FormatError, TensorInfo};
use super::SafetensorsFile;

/// JSON files beside the weights are read whole, up to this many bytes.
const LARGEST_JSON: u64 = 64 << 20;
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// A directory with `config.json` and weights in `model.safetensors`, or in shards that `model.safetensors.index.json` lists.
#[derive(Debug)]
pub struct HfDirectory {
    path: PathBuf,
    /// `config.json`.
    pub config: serde_json::Value,
    /// `generation_config.json`, if there is one.
    pub generation_config: Option<serde_json::Value>,
    /// `tokenizer_config.json`, if there is one.
    pub tokenizer_config: Option<serde_json::Value>,
    /// Where `tokenizer.json` lies, if it is there.
    pub tokenizer: Option<PathBuf>,
    /// Where `chat_template.jinja` lies, if it is there.
    pub chat_template: Option<PathBuf>,
    shards: Vec<SafetensorsFile>,
    names: HashMap<String, usize>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl HfDirectory {
    /// Opens a model directory. A `model.safetensors` is preferred to an index.
    ///
    /// # Errors
    /// `config.json` or the weights are missing, a file is damaged, or the index does not agree with the shards.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, FormatError> {
        let path = path.as_ref();
        let existing = |name: &str| Some(path.join(name)).filter(|path| path.is_file());
        let optional = |name: &str| {
            existing(name)
                .map(|path| read_json(&path, "content"))
                .transpose()
        };
        let config = read_json(&path.join("config.json"), "content")?;
        let (shards, names) = if let Some(weights) = existing(WEIGHTS) {
            whole(SafetensorsFile::open(weights)?)
        } else if let Some(index) = existing(INDEX) {
            sharded(path, &index)?
        } else {
            let problem = format_args!("neither `{WEIGHTS}` nor `{INDEX}` is there");
            return Err(FormatError::invalid(path.display(), "weights", problem));
        };
        Ok(HfDirectory {
            config,
            generation_config: optional("generation_config.json")?,
            tokenizer_config: optional("tokenizer_config.json")?,
            tokenizer: existing("tokenizer.json"),
            chat_template: existing("chat_template.jinja"),
            path: path.to_path_buf(),
            shards,
            names,
        })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files with weights.
    pub fn shards(&self) -> &[SafetensorsFile] {
        &self.shards
    }

    /// Every tensor, shard after shard.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorInfo> {
        self.shards.iter().flat_map(SafetensorsFile::tensors)
    }

    /// A tensor that may be missing.
    pub fn find(&self, name: &str) -> Option<&TensorInfo> {
        self.shard(name).and_then(|shard| shard.find(name))
    }

    /// A tensor that must be there.
    ///
    /// # Errors
    /// It is not.
    pub fn tensor(&self, name: &str) -> Result<&TensorInfo, FormatError> {
        self.find(name).ok_or_else(|| self.missing(name))
    }

    /// A tensor's bytes as they lie in its file, row after row.
    ///
    /// # Errors
    /// The tensor is missing.
    pub fn bytes(&self, name: &str) -> Result<&[u8], FormatError> {
        self.shard(name)
            .ok_or_else(|| self.missing(name))?
            .bytes(name)
    }

    /// A tensor's rows, ready for [`super::super::repack::repack_rows`].
    ///
    /// # Errors
    /// The tensor is missing or too large for a matrix.
    pub fn rows(&self, name: &str) -> Result<Rows<'_>, FormatError> {
        self.shard(name)
            .ok_or_else(|| self.missing(name))?
            .rows(name)
    }

    fn shard(&self, name: &str) -> Option<&SafetensorsFile> {
        self.shards.get(*self.names.get(name)?)
    }

    fn missing(&self, name: &str) -> FormatError {
        FormatError::MissingTensor {
            file: self.path.display().to_string(),
            tensor: shown(name),
        }
    }
}

type Shards = (Vec<SafetensorsFile>, HashMap<String, usize>);

fn whole(file: SafetensorsFile) -> Shards {
    let names = file.tensors().map(|info| (info.name.clone(), 0)).collect();
    (vec![file], names)
}

/// Opens the shards that an index lists. Index and shards must name the same tensors.
fn sharded(directory: &Path, index: &Path) -> Result<Shards, FormatError> {
    let Index { weight_map } = read_json(index, "weight_map")?;
    let mut shards: Vec<SafetensorsFile> = Vec::new();
    let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
    let mut names = HashMap::new();
    for (tensor, shard) in &weight_map {
        let field = || format!("weight_map entry of `{}`", shown(tensor));
        let number = match numbers.get(shard.as_str()) {
            Some(&number) => number,
            None => {
                if !is_plain_file_name(shard) {
                    let problem = format_args!(
                        "`{}` is not the name of a file in this directory",
                        shown(shard)
                    );
                    return Err(FormatError::invalid(index.display(), field(), problem));
                }
                let path = directory.join(shard);
                if !path.exists() {
                    let problem = format_args!("the shard `{}` is missing", shown(shard));
                    return Err(FormatError::invalid(index.display(), field(), problem));
                }
                shards.push(SafetensorsFile::open(path)?);
                numbers.insert(shard, shards.len() - 1);
                shards.len() - 1
            }
        };
        if shards
            .get(number)
            .is_none_or(|shard| shard.find(tensor).is_none())
        {
            let problem = format_args!("the shard `{}` has no such tensor", shown(shard));
            return Err(FormatError::invalid(index.display(), field(), problem));
        }
        names.insert(tensor.clone(), number);
    }
    for (number, shard) in shards.iter().enumerate() {
        if let Some(info) = shard
            .tensors()
            .find(|info| names.get(&info.name) != Some(&number))
        {
            let problem = format_args!("the index `{INDEX}` does not place it here");
            let field = format_args!("tensor `{}`", shown(&info.name));
            return Err(FormatError::invalid(
                shard.file().path().display(),
                field,
                problem,
            ));
        }
    }
    Ok((shards, names))
}

/// One component that is no `.`, `..`, root or drive, in the sense of any system.
fn is_plain_file_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let single = matches!(
        (components.next(), components.next()),
        (Some(Component::Normal(_)), None)
    );
    single && !name.contains(['/', '\\', ':', '\0'])
}

/// Reads a JSON file that lies beside weights; `field` is for messages.
pub(crate) fn read_json<T: DeserializeOwned>(
    path: &Path,
    field: &'static str,
) -> Result<T, FormatError> {
    let metadata =
        std::fs::metadata(path).map_err(|source| FormatError::io(path, "open", source))?;
    if !metadata.is_file() {
        return Err(FormatError::invalid(
            path.display(),
            "path",
            "is not a regular file",
        ));
    }
    let file = std::fs::File::open(path).map_err(|source| FormatError::io(path, "open", source))?;
    let mut bytes = Vec::new();
    let read = file.take(LARGEST_JSON + 1).read_to_end(&mut bytes);
    read.map_err(|source| FormatError::io(path, "read", source))?;
    if bytes.len() as u64 > LARGEST_JSON {
        let problem = format_args!("the file is larger than {LARGEST_JSON} bytes");
        return Err(FormatError::invalid(path.display(), field, problem));
    }
    serde_json::from_slice(&bytes).map_err(|source| FormatError::Json {
        file: path.display().to_string(),
        field,
        source,
    })
}
