//! async-openai against a server: chat, streaming, tools, JSON schema, log probabilities, errors.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use async_openai::Client;
use async_openai::config::OpenAIConfig;
use async_openai::error::OpenAIError;
use async_openai::types::chat::{
    ChatCompletionMessageToolCalls, ChatCompletionRequestUserMessageArgs, ChatCompletionTool,
    ChatCompletionToolChoiceOption, ChatCompletionTools, CreateChatCompletionRequest,
    CreateChatCompletionRequestArgs, FunctionObject, ResponseFormat, ResponseFormatJsonSchema,
    ToolChoiceOptions,
};
use futures_util::StreamExt;
use serde_json::{Value, json};

use super::server::Server;

/// A client of a server, with a key.
fn client(server: &Server, key: &str) -> Client<OpenAIConfig> {
    let config = OpenAIConfig::new()
        .with_api_base(server.address("/v1"))
        .with_api_key(key);
    Client::with_config(config)
}

/// A question that any model answers, of which tests ask more.
fn question(tokens: u32) -> Result<CreateChatCompletionRequestArgs> {
    let message = ChatCompletionRequestUserMessageArgs::default()
        .content("Name three colours.")
        .build()?;
    let mut request = CreateChatCompletionRequestArgs::default();
    request
        .model("small")
        .messages([message.into()])
        .temperature(0.0)
        .max_completion_tokens(tokens);
    Ok(request)
}

/// An object with one short string.
fn object_of(name: &str) -> Value {
    json!({
        "type": "object",
        "properties": {name: {"type": "string", "maxLength": 12}},
        "required": [name],
        "additionalProperties": false,
    })
}

/// All of it, one after another, on one server.
pub async fn talks(model: &Path) -> Result<()> {
    let server = Server::start(model, &["--context", "1024", "--api-key", "sesame"])?;
    let client = client(&server, "sesame");
    streams(&client).await.context("streaming")?;
    calls(&client).await.context("tools")?;
    follows(&client).await.context("JSON schema")?;
    weighs(&client).await.context("log probabilities")?;
    refuses(&server).await.context("errors")
}

/// The same answer in one piece and as a stream.
async fn streams(client: &Client<OpenAIConfig>) -> Result<()> {
    let request = question(16)?.build()?;
    let answer = client.chat().create(request.clone()).await?;
    let said = answer.choices[0].message.content.clone();
    let said = said.context("no answer")?;
    let mut stream = client.chat().create_stream(request).await?;
    let mut heard = String::new();
    while let Some(chunk) = stream.next().await {
        for choice in chunk?.choices {
            heard.push_str(&choice.delta.content.unwrap_or_default());
        }
    }
    ensure!(heard == said && !said.is_empty(), "{heard}, not {said}");
    Ok(())
}

/// A function is called, in one piece and as a stream.
async fn calls(client: &Client<OpenAIConfig>) -> Result<()> {
    let weather = FunctionObject {
        name: "weather".into(),
        description: Some("The weather".into()),
        parameters: Some(object_of("city")),
        strict: None,
    };
    let request = question(80)?
        .tools([ChatCompletionTools::Function(ChatCompletionTool {
            function: weather,
        })])
        .tool_choice(ChatCompletionToolChoiceOption::Mode(
            ToolChoiceOptions::Required,
        ))
        .build()?;
    let answer = client.chat().create(request.clone()).await?;
    let calls = answer.choices[0].message.tool_calls.clone();
    let [ChatCompletionMessageToolCalls::Function(call)] = &calls.unwrap_or_default()[..] else {
        bail!("no call: {answer:?}");
    };
    let arguments: Value = serde_json::from_str(&call.function.arguments)?;
    ensure!(call.function.name == "weather" && arguments["city"].is_string());
    let mut stream = client.chat().create_stream(request).await?;
    let (mut name, mut heard) = (String::new(), String::new());
    while let Some(chunk) = stream.next().await {
        let deltas = chunk?.choices.into_iter().map(|choice| choice.delta);
        for function in deltas
            .flat_map(|delta| delta.tool_calls.unwrap_or_default())
            .filter_map(|call| call.function)
        {
            name.push_str(&function.name.unwrap_or_default());
            heard.push_str(&function.arguments.unwrap_or_default());
        }
    }
    ensure!(
        name == "weather" && heard == call.function.arguments,
        "{name}({heard}), not {call:?}"
    );
    Ok(())
}

/// An answer is of a schema.
async fn follows(client: &Client<OpenAIConfig>) -> Result<()> {
    let format = ResponseFormat::JsonSchema {
        json_schema: ResponseFormatJsonSchema {
            description: None,
            name: "person".into(),
            schema: object_of("name"),
            strict: Some(true),
        },
    };
    let request = question(60)?.response_format(format).build()?;
    let answer = client.chat().create(request).await?;
    let said = answer.choices[0].message.content.clone();
    let object: Value = serde_json::from_str(&said.context("no answer")?)?;
    ensure!(object["name"].is_string(), "{object}");
    Ok(())
}

/// Tokens come with their probabilities and the likeliest others.
async fn weighs(client: &Client<OpenAIConfig>) -> Result<()> {
    let request = question(3)?.logprobs(true).top_logprobs(2).build()?;
    let answer = client.chat().create(request).await?;
    let logprobs = answer.choices[0].logprobs.clone();
    let tokens = logprobs.and_then(|found| found.content).unwrap_or_default();
    let whole = tokens.iter().all(|token| token.top_logprobs.len() == 2);
    ensure!(tokens.len() == 3 && whole, "{tokens:?}");
    // Greedily, the likeliest is chosen.
    let likeliest = tokens
        .iter()
        .all(|token| token.logprob <= 0.0 && token.logprob == token.top_logprobs[0].logprob);
    ensure!(likeliest, "{tokens:?}");
    Ok(())
}

/// A wrong key, a model that is not there, a number out of range.
async fn refuses(server: &Server) -> Result<()> {
    let good = question(4)?.build()?;
    let elsewhere = CreateChatCompletionRequest {
        model: "gpt-9".into(),
        ..good.clone()
    };
    let hot = CreateChatCompletionRequest {
        temperature: Some(-1.0),
        ..good.clone()
    };
    for (key, request, status, param) in [
        ("nope", good, 401, None),
        ("sesame", elsewhere, 404, Some("model")),
        ("sesame", hot, 400, Some("temperature")),
    ] {
        match client(server, key).chat().create(request).await {
            Err(OpenAIError::ApiError(found)) => {
                ensure!(found.status_code.as_u16() == status, "{found:?}");
                ensure!(!found.api_error.message.is_empty(), "{found:?}");
                ensure!(found.api_error.param.as_deref() == param, "{found:?}");
            }
            other => bail!("{status} was expected: {other:?}"),
        }
    }
    Ok(())
}
