//! Golden logits: computed in float32 from the dequantised weights by an implementation that shares nothing with this project.

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// The golden file of one model.
#[derive(Debug, Deserialize)]
pub struct Golden {
    /// Prompts with what should follow.
    pub cases: Vec<GoldenCase>,
}

/// One prompt.
#[derive(Clone, Debug, Deserialize)]
pub struct GoldenCase {
    /// The text; some cases were made of token ids alone.
    pub prompt: Option<String>,
    /// Its tokens.
    pub ids: Vec<u32>,
    /// The largest logits after the last token, by token.
    pub top: Vec<(u32, f32)>,
    /// The mean of all logits.
    pub logit_mean: f32,
    /// Their standard deviation.
    pub logit_std: f32,
    /// The greedy continuation.
    pub greedy: Vec<u32>,
    /// How far the best logit was ahead of the second at each step of it.
    pub margin: Vec<f32>,
}

impl Golden {
    /// Reads the golden file of a model, `smollm2-135m` for one.
    ///
    /// # Errors
    /// When it is missing, broken, or holds no cases.
    pub fn read(model: &str) -> Result<Golden> {
        let path = format!("{}/golden/public_{model}.json", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
        let golden: Golden = serde_json::from_str(&text).with_context(|| path.clone())?;
        ensure!(!golden.cases.is_empty(), "{path} holds no cases");
        Ok(golden)
    }
}

impl GoldenCase {
    /// What the case is called: its prompt, or how many tokens it has.
    pub fn title(&self) -> String {
        match &self.prompt {
            Some(prompt) => format!("{prompt:?}"),
            None => format!("{} tokens", self.ids.len()),
        }
    }

    /// Holds logits of the last position against the golden ones.
    ///
    /// # Errors
    /// When a logit, the mean or the standard deviation is off by more than `tolerance`.
    pub fn check_logits(&self, logits: &[f32], tolerance: f32) -> Result<f32> {
        let mut worst = 0.0f32;
        for &(token, expected) in &self.top {
            let found = *logits
                .get(token as usize)
                .context("fewer logits than tokens")?;
            let difference = (found - expected).abs();
            ensure!(
                difference <= tolerance,
                "{}: logit of token {token} is {found}, expected {expected}",
                self.title()
            );
            worst = worst.max(difference);
        }
        let count = logits.len() as f64;
        let mean = logits.iter().map(|&l| f64::from(l)).sum::<f64>() / count;
        let variance = logits
            .iter()
            .map(|&l| (f64::from(l) - mean).powi(2))
            .sum::<f64>()
            / count;
        for (name, found, expected) in [
            ("mean", mean, self.logit_mean),
            ("deviation", variance.sqrt(), self.logit_std),
        ] {
            let difference = (found as f32 - expected).abs();
            ensure!(
                difference <= tolerance,
                "{}: the logits' {name} is {found}, expected {expected}",
                self.title()
            );
        }
        Ok(worst)
    }

    /// Holds a greedy continuation against the golden one: equal up to the first step at which the best two logits are within twice
    /// `tolerance`, where either may win. Returns how many tokens were held to be equal.
    ///
    /// # Errors
    /// When a token differs although the margin was larger.
    pub fn check_greedy(&self, tokens: &[u32], tolerance: f32) -> Result<usize> {
        ensure!(
            tokens.len() >= self.greedy.len(),
            "{}: only {} tokens",
            self.title(),
            tokens.len()
        );
        for (step, (&found, &expected)) in tokens.iter().zip(&self.greedy).enumerate() {
            if found != expected {
                let margin = self.margin.get(step).copied().unwrap_or(0.0);
                ensure!(
                    margin <= 2.0 * tolerance,
                    "{}: token {step} is {found}, expected {expected} by a margin of {margin}",
                    self.title()
                );
                // From here on the two continue different texts.
                return Ok(step);
            }
        }
        Ok(self.greedy.len())
    }
}
