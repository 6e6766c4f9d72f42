//! `--plot`: pictures of a report.

mod needles;
mod quality;

use std::path::Path;

use anyhow::{Context, Result};

use self::needles::HeatMap;
use self::quality::Chart;
use super::report::{Report, by_tenth};
use crate::canvas::Canvas;

/// Draws `quality.png`, and where questions have depths `needles-dense.png` and a `needles-NUMBER-POLICY.png` for each policy.
///
/// # Errors
/// A file cannot be written.
pub fn draw(report: &Report, folder: &Path) -> Result<()> {
    let save = |canvas: Canvas, name: String| {
        let path = folder.join(name);
        canvas
            .save(&path)
            .with_context(|| format!("{} cannot be written", path.display()))
    };
    if let Some(chart) = Chart::of(report) {
        save(chart.draw(), "quality.png".into())?;
    }
    for (index, policy) in report.policies.iter().enumerate() {
        let title = |name: &str| format!("{}, {} tokens, {name}", report.model, report.context);
        let mut map = HeatMap::new(title(&policy.policy));
        let mut dense = HeatMap::new(title("dense attention"));
        for suite in policy
            .suites
            .iter()
            .filter(|suite| !suite.depths.is_empty())
        {
            map.add(suite.title(), by_tenth(suite, |depth| depth.accuracy));
            dense.add(suite.title(), by_tenth(suite, |depth| depth.dense));
        }
        if map.is_empty() {
            continue;
        }
        if index == 0 {
            save(dense.draw(), "needles-dense.png".into())?;
        }
        let name = format!("needles-{}-{}.png", index + 1, file_name(&policy.policy));
        save(map.draw(), name)?;
    }
    Ok(())
}

/// A policy's name in letters, digits and hyphens.
fn file_name(policy: &str) -> String {
    let words = policy.split(|c: char| !c.is_ascii_alphanumeric());
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    words.join("-").chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::super::report::PolicyReport;
    use super::super::report::tests::{report, suite};
    use super::*;

    #[test]
    fn files_are_named_after_policies() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let policy = |name: &str| PolicyReport {
            policy: name.into(),
            suites: vec![suite()],
            ..PolicyReport::default()
        };
        let report = report(vec![policy("dense"), policy("omnikv:keep=20,full=0+5")]);
        draw(&report, folder.path())?;
        let mut names = std::fs::read_dir(folder.path())?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<Result<Vec<_>>>()?;
        names.sort();
        let expected = [
            "needles-1-dense.png",
            "needles-2-omnikv-keep-20-full-0-5.png",
            "needles-dense.png",
            "quality.png",
        ];
        assert_eq!(names, expected);
        assert!(draw(&report, Path::new("/no/such/folder")).is_err());
        Ok(())
    }
}
