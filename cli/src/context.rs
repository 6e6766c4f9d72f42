//! How many tokens a run makes room for.

use anyhow::{Result, bail, ensure};
use longwave_contract::kv::PAGE;

/// Tokens of an answer whose length is not limited.
const ANSWER: u64 = 2048;

/// The smallest context that is chosen by default.
const SMALLEST: u64 = 256;

/// Tokens of a conversation, where nothing else is asked for.
const CONVERSATION: u32 = 8192;

/// The context of a run: what `--context` says, or the prompt and its answer (2,048 tokens unless limited) in whole pages, at least 256 and
/// at most the model's context.
///
/// # Errors
/// When the prompt is longer than the context, or `--context` is longer than the model's.
pub fn of_run(
    prompt: usize,
    max_tokens: Option<usize>,
    requested: Option<u32>,
    model: u32,
) -> Result<u32> {
    let context = match requested {
        Some(context) => within_model(context, model)?,
        None => {
            let answer = max_tokens.map_or(ANSWER, |most| most as u64);
            let wanted = (prompt as u64)
                .saturating_add(answer)
                .clamp(SMALLEST, u64::from(model).max(SMALLEST));
            let pages = wanted.next_multiple_of(u64::from(PAGE));
            u32::try_from(pages).map_or(model, |pages| pages.min(model))
        }
    };
    if prompt as u64 > u64::from(context) {
        let whose = match requested {
            Some(_) => format!("--context {context}"),
            None => format!("the model's context of {model} tokens"),
        };
        bail!("the prompt has {prompt} tokens, which do not fit into {whose}");
    }
    Ok(context)
}

/// The context of a conversation: what `--context` says, or 8,192 tokens, or the model's context where that is less.
///
/// # Errors
/// When `--context` is longer than the model's context.
pub fn of_chat(requested: Option<u32>, model: u32) -> Result<u32> {
    match requested {
        Some(context) => within_model(context, model),
        None => Ok(model.min(CONVERSATION)),
    }
}

/// The smallest context that holds exactly these tokens.
///
/// # Errors
/// When they are more than the model's context.
pub fn of_tokens(tokens: usize, model: u32) -> Result<u32> {
    of_run(tokens, Some(0), None, model)
}

fn within_model(context: u32, model: u32) -> Result<u32> {
    ensure!(
        context <= model,
        "--context {context} is beyond the model's context of {model} tokens"
    );
    Ok(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(prompt: usize, max_tokens: Option<usize>, requested: Option<u32>) -> Result<u32> {
        of_run(prompt, max_tokens, requested, 8192)
    }

    #[test]
    fn a_run_takes_what_prompt_and_answer_need() -> Result<()> {
        assert_eq!(run(3, Some(24), None)?, 256);
        assert_eq!(run(300, Some(100), None)?, 416);
        assert_eq!(run(300, None, None)?, 2368);
        assert_eq!(run(8000, None, None)?, 8192);
        assert_eq!(run(8192, Some(usize::MAX), None)?, 8192);
        assert_eq!(run(3, None, Some(100))?, 100);
        assert_eq!(of_run(3, None, None, 100)?, 100);
        assert_eq!(of_run(3, Some(24), None, u32::MAX)?, 256);
        assert_eq!(of_run(3, Some(usize::MAX), None, u32::MAX)?, u32::MAX);
        Ok(())
    }

    #[test]
    fn a_prompt_beyond_the_context_is_refused_with_the_numbers() {
        let error = run(8193, None, None)
            .expect_err("it is too long")
            .to_string();
        assert!(error.contains("8193") && error.contains("8192"), "{error}");
        let error = run(33, None, Some(32))
            .expect_err("it is too long")
            .to_string();
        assert!(
            error.contains("33") && error.contains("--context 32"),
            "{error}"
        );
        let error = run(3, None, Some(8193))
            .expect_err("it is beyond the model")
            .to_string();
        assert!(error.contains("8193") && error.contains("8192"), "{error}");
    }

    #[test]
    fn a_conversation_takes_at_most_8192_tokens() -> Result<()> {
        assert_eq!(of_chat(None, 32_768)?, 8192);
        assert_eq!(of_chat(None, 2048)?, 2048);
        assert_eq!(of_chat(Some(16_384), 32_768)?, 16_384);
        assert!(of_chat(Some(4096), 2048).is_err());
        Ok(())
    }

    #[test]
    fn tokens_alone_take_whole_pages() -> Result<()> {
        assert_eq!(of_tokens(3, 8192)?, 256);
        assert_eq!(of_tokens(257, 8192)?, 288);
        assert!(of_tokens(9000, 8192).is_err());
        Ok(())
    }
}
