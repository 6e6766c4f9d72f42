//! The composer: from files with directives to whole modules.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Marks a directive.
const MARK: &str = "//:";

/// What the first five lines of a kernel begin with.
const HEADER: [&str; 5] = [
    "// What: ",
    "// Contract: ",
    "// Grid: ",
    "// Shared: ",
    "// Numerics: ",
];

/// A line of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file below the crate's root, without its extension.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shaders/{}.wgsl:{}", self.file, self.line)
    }
}

/// A module that was put together.
#[derive(Debug)]
pub struct Composed {
    /// Stem and variants.
    pub name: String,
    /// The text.
    pub source: String,
    /// Where each of its lines comes from.
    pub places: Vec<Place>,
}

/// A directive, or the whole kernel, makes no sense.
#[derive(Debug)]
pub struct ComposeError {
    /// Where.
    pub place: Place,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for ComposeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

impl std::error::Error for ComposeError {}

/// Composes the kernel `folder/stem` in every combination of its variants. `load` gives the text of a file.
pub fn compose(
    path: &str,
    load: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<Composed>, ComposeError> {
    let lines = read(path, None, load)?;
    for (index, start) in HEADER.iter().enumerate() {
        if !lines
            .get(index)
            .is_some_and(|line| line.text.starts_with(start))
        {
            let place = Place {
                file: path.into(),
                line: index + 1,
            };
            return fail(
                &place,
                format!("a kernel's line {} begins with `{start}`", index + 1),
            );
        }
    }
    let mut combinations = vec![Vec::new()];
    for line in &lines {
        if let Some(alternatives) = variant(line)? {
            combinations = combinations
                .iter()
                .flat_map(|chosen: &Vec<String>| {
                    alternatives.iter().map(move |alternative| {
                        let mut longer = chosen.clone();
                        longer.push(alternative.clone());
                        longer
                    })
                })
                .collect();
        }
    }
    combinations
        .into_iter()
        .map(|chosen| compose_one(path, &lines, &chosen, load))
        .collect()
}

fn compose_one(
    path: &str,
    lines: &[Line],
    chosen: &[String],
    load: &dyn Fn(&str) -> Option<String>,
) -> Result<Composed, ComposeError> {
    let mut composer = Composer {
        load,
        chosen: chosen.iter().cloned(),
        imported: BTreeSet::new(),
        numbers: BTreeMap::new(),
        out: Vec::new(),
    };
    composer.expand(lines)?;
    let stems: Vec<&str> = chosen.iter().map(|part| stem(part)).collect();
    let name = match stems.as_slice() {
        [] => stem(path).to_string(),
        _ => format!("{}[{}]", stem(path), stems.join(",")),
    };
    let mut source = String::new();
    let mut places = Vec::new();
    for line in composer.out {
        source.push_str(&line.text);
        source.push('\n');
        places.push(line.place);
    }
    Ok(Composed {
        name,
        source,
        places,
    })
}

fn stem(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[derive(Clone, Debug)]
struct Line {
    text: String,
    place: Place,
}

impl Line {
    /// The words after the mark, where the line is a directive: its name and the rest.
    fn directive(&self) -> Option<(&str, &str)> {
        let rest = self.text.trim().strip_prefix(MARK)?;
        Some(
            rest.split_once(' ')
                .map_or((rest, ""), |(name, rest)| (name, rest.trim())),
        )
    }
}

fn fail<T>(place: &Place, what: impl Into<String>) -> Result<T, ComposeError> {
    Err(ComposeError {
        place: place.clone(),
        what: what.into(),
    })
}

fn read(
    path: &str,
    from: Option<&Place>,
    load: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<Line>, ComposeError> {
    let place = |line| Place {
        file: path.into(),
        line,
    };
    let Some(text) = load(path) else {
        return fail(
            from.unwrap_or(&place(1)),
            format!("there is no file shaders/{path}.wgsl"),
        );
    };
    Ok(text
        .lines()
        .enumerate()
        .map(|(index, text)| Line {
            text: text.to_string(),
            place: place(index + 1),
        })
        .collect())
}

/// The alternatives, where the line is a variant directive.
fn variant(line: &Line) -> Result<Option<Vec<String>>, ComposeError> {
    let Some(("variant", rest)) = line.directive() else {
        return Ok(None);
    };
    let Some((_, alternatives)) = rest.split_once('=') else {
        return fail(&line.place, "expected `variant name = part/a | part/b`");
    };
    Ok(Some(
        alternatives
            .split('|')
            .map(|part| part.trim().to_string())
            .collect(),
    ))
}

struct Composer<'a> {
    load: &'a dyn Fn(&str) -> Option<String>,
    chosen: std::iter::Cloned<std::slice::Iter<'a, String>>,
    imported: BTreeSet<String>,
    numbers: BTreeMap<String, u32>,
    out: Vec<Line>,
}

impl Composer<'_> {
    fn expand(&mut self, lines: &[Line]) -> Result<(), ComposeError> {
        let mut rest = lines;
        while let Some((line, after)) = rest.split_first() {
            rest = after;
            match line.directive() {
                None => self.out.push(line.clone()),
                Some(("import", part)) => self.import(part, &line.place)?,
                Some(("variant", _)) => {
                    let Some(part) = self.chosen.next() else {
                        return fail(&line.place, "only kernels have variants, not parts");
                    };
                    self.import(&part, &line.place)?;
                }
                Some(("let", rest)) => {
                    let number = rest
                        .split_once('=')
                        .and_then(|(name, value)| Some((name.trim(), self.number(value)?)));
                    let Some((name, value)) = number else {
                        return fail(&line.place, "expected `let NAME = number`");
                    };
                    self.numbers.insert(name.to_string(), value);
                }
                Some(("repeat", range)) => {
                    let body = block(line, after)?;
                    rest = after.get(body.len() + 1..).unwrap_or_default();
                    self.repeat(range, body, &line.place)?;
                }
                Some(("end", _)) => return fail(&line.place, "`end` without `repeat`"),
                Some((name, _)) => {
                    return fail(&line.place, format!("there is no directive `{name}`"));
                }
            }
        }
        Ok(())
    }

    fn import(&mut self, part: &str, place: &Place) -> Result<(), ComposeError> {
        if self.imported.insert(part.to_string()) {
            let lines = read(part, Some(place), self.load)?;
            self.expand(&lines)?;
        }
        Ok(())
    }

    fn number(&self, text: &str) -> Option<u32> {
        let text = text.trim();
        text.parse()
            .ok()
            .or_else(|| self.numbers.get(text).copied())
    }

    fn repeat(&mut self, range: &str, body: &[Line], place: &Place) -> Result<(), ComposeError> {
        let parsed = range.split_once('=').and_then(|(name, range)| {
            let (from, to) = range.split_once("..")?;
            Some((name.trim(), self.number(from)?, self.number(to)?))
        });
        let Some((name, from, to)) = parsed else {
            return fail(
                place,
                "expected `repeat name = from..to` with known numbers",
            );
        };
        let pattern = format!("$({name})");
        for value in from..to {
            let lines: Vec<Line> = body
                .iter()
                .map(|line| Line {
                    text: line.text.replace(&pattern, &value.to_string()),
                    place: line.place.clone(),
                })
                .collect();
            self.expand(&lines)?;
        }
        Ok(())
    }
}

/// The lines up to the `end` that belongs to a `repeat`.
fn block<'a>(start: &Line, after: &'a [Line]) -> Result<&'a [Line], ComposeError> {
    let mut depth = 1;
    for (index, line) in after.iter().enumerate() {
        match line.directive() {
            Some(("repeat", _)) => depth += 1,
            Some(("end", _)) => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Ok(&after[..index]);
        }
    }
    fail(&start.place, "`repeat` without `end`")
}
