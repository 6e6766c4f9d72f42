//! Requests, and what becomes of them.

use crate::error::Error;
use crate::generate::FinishReason;
use crate::sample::SamplingParams;

/// Names a request of a scheduler. Ids are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// What is asked of a model.
pub struct Request {
    /// The prompt's tokens.
    pub prompt: Vec<u32>,
    /// What is made of it.
    pub goal: Goal,
    /// Requests of a higher priority are admitted before those of a lower one, and preempted after them.
    pub priority: i32,
    /// A named session: the request goes on from what the session holds as far as its tokens are the prompt's, and leaves its own sequence there.
    pub session: Option<String>,
}

/// What is made of a prompt.
pub enum Goal {
    /// The tokens that follow.
    Generate(Box<Generate>),
    /// One vector.
    Embed(Pooling),
}

/// How tokens that follow are made.
#[derive(Default)]
pub struct Generate {
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// The most tokens; `None` goes on to the end of the context.
    pub max_tokens: Option<usize>,
    /// Tokens before which generation ends; they are not passed on.
    pub stop_tokens: Vec<u32>,
    /// What is added to logits of tokens.
    pub bias: Vec<(u32, f32)>,
    /// Taken from the logit of a token that was generated before.
    pub presence_penalty: f32,
    /// Taken from the logit of a token for each time that it was generated before.
    pub frequency_penalty: f32,
    /// With each token its log probability, and those of so many of the most likely tokens: of the model's distribution, before any filter.
    pub logprobs: Option<usize>,
    /// Leaves only some tokens to choose from.
    pub constraint: Option<Box<dyn Constraint>>,
}

/// Which vector stands for a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The mean of the hidden states after the last norm.
    Mean,
    /// That of the last token.
    Last,
}

/// Leaves only some tokens to choose from, such as a grammar.
pub trait Constraint: Send {
    /// Sets the logits of all tokens that may not follow to negative infinity.
    ///
    /// # Errors
    /// Why nothing may follow, or what broke. The request fails with it.
    fn mask(&mut self, logits: &mut [f32]) -> Result<(), String>;

    /// Takes note of the token that was chosen. `true` where nothing may follow, and generation ends.
    ///
    /// # Errors
    /// The token was not allowed.
    fn accept(&mut self, token: u32) -> Result<bool, String>;
}

/// How likely tokens were.
#[derive(Clone, Debug, PartialEq)]
pub struct Logprobs {
    /// The natural logarithm of the chosen token's probability.
    pub chosen: f32,
    /// The most likely tokens with theirs, falling.
    pub top: Vec<(u32, f32)>,
}

/// What a request took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them whose rows were in the cache.
    pub cached_tokens: usize,
    /// Tokens that were generated.
    pub completion_tokens: usize,
    /// Bytes of cache that the sequence held at its end.
    pub kv_bytes: u64,
    /// Bytes that the same tokens take as f16 rows.
    pub kv_bytes_dense: u64,
}

/// What a step made of a request.
#[derive(Debug)]
pub enum Event {
    /// It has another token.
    Token {
        /// The request.
        id: RequestId,
        /// The token.
        token: u32,
        /// How likely it was, where that was asked for.
        logprobs: Option<Logprobs>,
    },
    /// It has its vector, and is over.
    Embedding {
        /// The request.
        id: RequestId,
        /// One number for each column of the residual stream.
        values: Vec<f32>,
        /// What it took.
        usage: Usage,
    },
    /// It is over.
    Finished {
        /// The request.
        id: RequestId,
        /// Why.
        reason: FinishReason,
        /// What it took.
        usage: Usage,
    },
    /// It could not go on. Others are not touched.
    Failed {
        /// The request.
        id: RequestId,
        /// Why.
        error: Error,
    },
}

/// Why a request is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// As many wait as may.
    #[error("{waiting} requests wait already, which is the limit")]
    QueueFull {
        /// How many wait.
        waiting: usize,
    },
    /// The whole cache would not hold it.
    #[error(
        "the request needs up to {needed} bytes of cache ({tokens} tokens), the whole cache has {total}"
    )]
    NeverFits {
        /// Tokens of its prompt and answer.
        tokens: u64,
        /// Bytes that they take.
        needed: u64,
        /// Bytes that there are.
        total: u64,
    },
    /// The prompt exceeds the context, a token or parameter is out of range, or there is no prompt.
    #[error(transparent)]
    Invalid(#[from] Error),
}

/// How a scheduler stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests that are being worked on.
    pub running: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// Bytes of cache that are held, those of the prefix cache included.
    pub kv_bytes_used: u64,
    /// Bytes of cache that only the prefix cache holds, which go when others need them.
    pub kv_bytes_reusable: u64,
    /// Bytes of cache that there are.
    pub kv_bytes_total: u64,
    /// Of the bytes that are held, those of raw rows.
    pub kv_bytes_raw: u64,
    /// Of the bytes that are held, those of blocks.
    pub kv_bytes_blocks: u64,
    /// Tokens whose rows those are.
    pub tokens_held: u64,
    /// Bytes that they take as f16 rows.
    pub kv_bytes_dense: u64,
    /// Requests that were taken.
    pub requests: u64,
    /// Prompt tokens that were asked for.
    pub prompt_tokens: u64,
    /// Those of them that were in the cache.
    pub cached_tokens: u64,
    /// Tokens that were generated.
    pub generated_tokens: u64,
    /// Times that a request lost its rows to others, to be computed again.
    pub preemptions: u64,
    /// Steps and parts of prompts that ran.
    pub steps: u64,
}
