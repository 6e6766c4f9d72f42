//! A context and a question about it, as the tokens of a conversation.

use crate::error::Error;
use crate::text::{ChatOptions, ChatTemplate, Message, Tokenizer};

/// Writes a context and a question as one message of a user, and begins the answer.
///
/// The tokens fall in two: those of the context, which are the same whatever is asked, and those of the question. So one context in the cache
/// serves many questions. What the context spells out never becomes a control token.
#[derive(Clone, Copy, Debug)]
pub struct Prompter<'a> {
    tokenizer: &'a Tokenizer,
    template: Option<&'a ChatTemplate>,
}

/// Stands for the question where only the context is wanted.
const ANY_QUESTION: &str = "Which?";
const BETWEEN: &str = "\n\n";

impl<'a> Prompter<'a> {
    /// By the model's chat template, or in plain text where it has none.
    pub fn new(tokenizer: &'a Tokenizer, template: Option<&'a ChatTemplate>) -> Self {
        Prompter {
            tokenizer,
            template,
        }
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &'a Tokenizer {
        self.tokenizer
    }

    /// Everything up to the question. The text must begin and end with what is no space.
    ///
    /// # Errors
    /// The template fails or drops the text, or the tokenizer cannot spell it.
    pub fn context(&self, text: &str) -> Result<Vec<u32>, Error> {
        let body = format!("{text}{BETWEEN}");
        let Some(template) = self.template else {
            return Ok(self.tokenizer.encode(&body, true, false)?);
        };
        let rendered = render(template, &format!("{body}{ANY_QUESTION}"))?;
        let start = rendered.find(&body).ok_or_else(dropped)?;
        let mut tokens = self.tokenizer.encode_rendered(&rendered[..start])?;
        tokens.extend(self.tokenizer.encode(&body, false, false)?);
        Ok(tokens)
    }

    /// The question, and what the model's answer is made to begin with.
    ///
    /// # Errors
    /// As [`Prompter::context`].
    pub fn question(&self, question: &str, lead: &str) -> Result<Vec<u32>, Error> {
        let Some(template) = self.template else {
            let text = format!("{question}\nAnswer: {lead}");
            return Ok(self.tokenizer.encode(&text, false, false)?);
        };
        let rendered = render(template, &format!("{BETWEEN}{question}"))?;
        let start = rendered.rfind(question).ok_or_else(dropped)?;
        let text = format!("{}{lead}", &rendered[start..]);
        Ok(self.tokenizer.encode_rendered(&text)?)
    }
}

fn render(template: &ChatTemplate, content: &str) -> Result<String, Error> {
    let options = ChatOptions {
        // An answer of a few tokens leaves no room for thoughts.
        enable_thinking: template.knows_thinking().then_some(false),
        ..ChatOptions::default()
    };
    Ok(template.render(&[Message::user(content.to_owned())], &options)?)
}

fn dropped() -> Error {
    Error::Parameter("the model's chat template changes what the user says".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::testing::tokenizer;

    #[test]
    fn both_parts_make_up_the_conversation() -> Result<(), Error> {
        let tokenizer = tokenizer();
        let template = ChatTemplate::new(
            "{% for m in messages %}<user>{{ m['content'] }}</user>\n{% endfor %}<model>",
            "",
            "",
        )?;
        let text = |prompter: Prompter<'_>| -> Result<String, Error> {
            let mut tokens = prompter.context("A b c.")?;
            tokens.extend(prompter.question("Who?", "It is")?);
            Ok(tokenizer.decode(&tokens, false)?)
        };
        let chat = text(Prompter::new(&tokenizer, Some(&template)))?;
        assert_eq!(chat, "<user>A b c.\n\nWho?</user>\n<model>It is");
        let plain = text(Prompter::new(&tokenizer, None))?;
        assert_eq!(plain, "A b c.\n\nWho?\nAnswer: It is");
        let deaf = ChatTemplate::new("nothing", "", "")?;
        assert!(Prompter::new(&tokenizer, Some(&deaf)).context("A").is_err());
        Ok(())
    }
}
