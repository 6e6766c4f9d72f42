//! What clients may ask for.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use longwave_tests::program;
use serde_json::{Value, json};

use super::server::{Server, error};

const TEXT: &str = "The capital of France is";

fn greedy(more: Value) -> Value {
    let mut body = json!({"model": "small", "temperature": 0, "max_tokens": 16});
    for (name, value) in more.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    body
}

fn chat(more: Value) -> Value {
    let mut body = greedy(more);
    body["messages"] = json!([{"role": "user", "content": "Name three colours."}]);
    body
}

fn text<'a>(answer: &'a Value, path: &str) -> Result<&'a str> {
    answer
        .pointer(path)
        .and_then(Value::as_str)
        .with_context(|| format!("no {path} in {answer}"))
}

/// Texts go on as the program says that they do, in one piece and as a stream, with usage; the second time the beginning is in the cache.
pub async fn completions(model: &Path) -> Result<()> {
    let server = Server::start(model, &["--context", "1024"])?;
    let file = model.to_str().context("the model's path is not UTF-8")?;
    let expected = program::json(&[
        "run",
        "-m",
        file,
        "--backend",
        "cpu",
        "--raw",
        TEXT,
        "--greedy",
        "--max-tokens",
        "16",
        "--json",
    ])?;
    let expected = text(&expected, "/text")?.to_owned();
    let whole = server
        .ask("/v1/completions", &greedy(json!({"prompt": TEXT})))
        .await?;
    ensure!(
        text(&whole, "/choices/0/text")? == expected,
        "{whole}, not {expected}"
    );
    ensure!(
        whole["choices"][0]["finish_reason"] == "length" && whole["object"] == "text_completion"
    );
    let usage = &whole["usage"];
    let (prompt, answer) = (
        usage["prompt_tokens"].as_u64(),
        usage["completion_tokens"].as_u64(),
    );
    ensure!(
        answer == Some(16) && usage["total_tokens"].as_u64() == prompt.map(|prompt| prompt + 16)
    );
    ensure!(
        usage["kv_bytes"].as_u64() > Some(0) && usage["kv_ratio"].as_f64() > Some(0.5),
        "{usage}"
    );
    let body =
        greedy(json!({"prompt": TEXT, "stream": true, "stream_options": {"include_usage": true}}));
    let events = server.stream("/v1/completions", &body).await?;
    let said: String = events
        .iter()
        .filter_map(|event| event["choices"][0]["text"].as_str())
        .collect();
    ensure!(said == expected, "{said}, not {expected}");
    let last = events.last().context("no events")?;
    ensure!(
        last["usage"]["completion_tokens"] == 16 && last["choices"] == json!([]),
        "{last}"
    );
    // By tokens, several at once, each several times.
    let tokens = server.ask("/tokenize", &json!({"prompt": TEXT})).await?;
    let back = server
        .ask("/detokenize", &json!({"tokens": tokens["tokens"]}))
        .await?;
    ensure!(back["prompt"] == TEXT, "{back}");
    let body = greedy(json!({"prompt": [tokens["tokens"], tokens["tokens"]], "n": 2}));
    let four = server.ask("/v1/completions", &body).await?;
    let choices = four["choices"].as_array().context("no choices")?;
    ensure!(choices.len() == 4);
    for (index, choice) in choices.iter().enumerate() {
        ensure!(
            choice["index"] == index && choice["text"] == expected.as_str(),
            "{four}"
        );
    }
    ensure!(four["usage"]["completion_tokens"] == 64, "{four}");
    // A long beginning is not computed again.
    let long = "once upon a time there was a king who had three daughters ".repeat(20);
    let body = greedy(json!({"prompt": long}));
    let first = server.ask("/v1/completions", &body).await?;
    let second = server.ask("/v1/completions", &body).await?;
    ensure!(first["usage"]["prompt_tokens_details"]["cached_tokens"] == 0);
    let cached = second["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64();
    ensure!(cached > Some(200) && first["choices"][0]["text"] == second["choices"][0]["text"]);
    server.is_clean().await
}

/// Conversations: in one piece and as a stream, what ends them, how likely tokens were, biases, seeds, penalties.
pub async fn chats(model: &Path) -> Result<()> {
    let server = Server::start(model, &["--context", "1024"])?;
    let path = "/v1/chat/completions";
    let whole = server.ask(path, &chat(json!({}))).await?;
    let said = text(&whole, "/choices/0/message/content")?.to_owned();
    ensure!(
        whole["object"] == "chat.completion"
            && whole["choices"][0]["message"]["role"] == "assistant"
    );
    let events = server.stream(path, &chat(json!({"stream": true}))).await?;
    ensure!(
        events[0]["choices"][0]["delta"]["role"] == "assistant",
        "{}",
        events[0]
    );
    let streamed: String = events
        .iter()
        .filter_map(|event| event["choices"][0]["delta"]["content"].as_str())
        .collect();
    ensure!(streamed == said, "{streamed}, not {said}");
    let last = &events.last().context("no events")?["choices"][0];
    ensure!(
        last["finish_reason"] == whole["choices"][0]["finish_reason"],
        "{last}"
    );
    // A text that ends it is not said.
    let words: Vec<&str> = said.split_whitespace().collect();
    let stop = words.get(2).context("too short an answer")?;
    let stopped = server.ask(path, &chat(json!({"stop": [stop]}))).await?;
    let short = text(&stopped, "/choices/0/message/content")?;
    ensure!(said.starts_with(short) && !short.contains(stop), "{short}");
    ensure!(stopped["choices"][0]["finish_reason"] == "stop");
    let likely = server
        .ask(
            path,
            &chat(json!({"logprobs": true, "top_logprobs": 3, "max_tokens": 4})),
        )
        .await?;
    let listed = likely["choices"][0]["logprobs"]["content"]
        .as_array()
        .context("no logprobs")?;
    ensure!(listed.len() == 4, "{likely}");
    let mut bytes = Vec::new();
    for token in listed {
        let top = token["top_logprobs"].as_array().context("no top")?;
        ensure!(
            top.len() == 3
                && top[0]["token"] == token["token"]
                && top[0]["logprob"] == token["logprob"]
        );
        ensure!(top.iter().all(|one| {
            one["logprob"]
                .as_f64()
                .is_some_and(|logprob| logprob <= 0.0)
        }));
        bytes.extend(
            token["bytes"]
                .as_array()
                .context("no bytes")?
                .iter()
                .filter_map(Value::as_u64),
        );
    }
    let bytes: Vec<u8> = bytes.into_iter().map(|byte| byte as u8).collect();
    ensure!(said.as_bytes().starts_with(&bytes), "{bytes:?}");
    // What is made unlikely does not come, and what is made likely does.
    let first = server
        .ask(
            "/tokenize",
            &json!({"prompt": words[0], "add_special_tokens": false}),
        )
        .await?;
    let banned = first["tokens"][0].to_string();
    let other = server
        .ask(path, &chat(json!({"logit_bias": {banned: -100}})))
        .await?;
    ensure!(
        !text(&other, "/choices/0/message/content")?.starts_with(words[0]),
        "{other}"
    );
    let drawn = json!({"temperature": 1.0, "seed": 7, "n": 2});
    let first = server.ask(path, &chat(drawn.clone())).await?;
    let again = server.ask(path, &chat(drawn)).await?;
    ensure!(
        first["choices"] == again["choices"],
        "a seed does not repeat"
    );
    ensure!(first["choices"][0]["message"] != first["choices"][1]["message"]);
    let penalised = server
        .ask(
            path,
            &chat(json!({"frequency_penalty": 2.0, "presence_penalty": 2.0, "max_tokens": 40})),
        )
        .await?;
    let plain = server.ask(path, &chat(json!({"max_tokens": 40}))).await?;
    ensure!(penalised["choices"] != plain["choices"]);
    let newer = server
        .ask(
            path,
            &chat(json!({"max_tokens": null, "max_completion_tokens": 3})),
        )
        .await?;
    ensure!(newer["usage"]["completion_tokens"] == 3);
    let parts = json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "Name three colours."}]}], "temperature": 0, "max_tokens": 16});
    let parts = server.ask(path, &parts).await?;
    ensure!(text(&parts, "/choices/0/message/content")? == said);
    server.is_clean().await
}

/// Answers keep to schemas, and functions that must be called are.
pub async fn structure(model: &Path) -> Result<()> {
    let server = Server::start(model, &["--context", "1024"])?;
    let path = "/v1/chat/completions";
    let schema = json!({
        "type": "object", "additionalProperties": false, "required": ["name", "age"],
        "properties": {"name": {"type": "string", "maxLength": 10}, "age": {"type": "integer", "minimum": 0, "maximum": 150}},
    });
    let format = json!({"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": true}});
    for seed in 0..3 {
        let body = chat(
            json!({"response_format": format, "max_tokens": 120, "temperature": 1.5, "seed": seed}),
        );
        let answer = server.ask(path, &body).await?;
        let said: Value = serde_json::from_str(text(&answer, "/choices/0/message/content")?)
            .with_context(|| answer.to_string())?;
        ensure!(
            said["name"].is_string() && said["age"].as_u64() <= Some(150),
            "{said}"
        );
        ensure!(
            said.as_object().is_some_and(|object| object.len() == 2),
            "{said}"
        );
    }
    let tools = json!([{"type": "function", "function": {
        "name": "weather", "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}}, "required": ["city"], "additionalProperties": false},
    }}]);
    let body = chat(json!({"tools": tools, "tool_choice": "required", "max_tokens": 80}));
    let answer = server.ask(path, &body).await?;
    let call = &answer["choices"][0]["message"]["tool_calls"][0];
    ensure!(
        call["function"]["name"] == "weather" && call["type"] == "function",
        "{answer}"
    );
    let arguments: Value = serde_json::from_str(text(call, "/function/arguments")?)?;
    ensure!(arguments["city"].is_string(), "{answer}");
    ensure!(
        answer["choices"][0]["finish_reason"] == "tool_calls",
        "{answer}"
    );
    let mut streamed = body.clone();
    streamed["stream"] = true.into();
    let events = server.stream(path, &streamed).await?;
    // The arguments come in pieces.
    let pieces: Vec<&str> = events
        .iter()
        .filter_map(|event| event.pointer("/choices/0/delta/tool_calls/0/function/arguments"))
        .filter_map(Value::as_str)
        .collect();
    let whole = text(
        &answer,
        "/choices/0/message/tool_calls/0/function/arguments",
    )?;
    ensure!(
        pieces.concat() == whole && pieces.len() > 2,
        "{pieces:?}, not {whole}"
    );
    // What the function said comes back.
    let turn = json!({"tools": tools, "temperature": 0, "max_tokens": 8, "messages": [
        {"role": "user", "content": "How is the weather?"},
        {"role": "assistant", "content": null, "tool_calls": answer["choices"][0]["message"]["tool_calls"]},
        {"role": "tool", "tool_call_id": "x", "content": "Sunny"},
    ]});
    server.ask(path, &turn).await?;
    let free = server
        .ask(path, &chat(json!({"tools": tools, "tool_choice": "none"})))
        .await?;
    ensure!(
        free["choices"][0]["message"]["tool_calls"].is_null(),
        "{free}"
    );
    for (wrong, why) in [
        (json!({"response_format": {"type": "xml"}}), "xml"),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": 3}}}}),
            "response_format",
        ),
        (
            json!({"tools": tools, "tool_choice": {"type": "function", "function": {"name": "nope"}}}),
            "nope",
        ),
        (json!({"tool_choice": "required"}), "no tools"),
    ] {
        server.refused(path, &chat(wrong), 400, why).await?;
    }
    server.is_clean().await
}

/// The other interfaces: responses, vectors, what the server says of itself.
pub async fn others(model: &Path) -> Result<()> {
    let server = Server::start(model, &["--context", "1024"])?;
    let body = json!({"input": "Name three colours.", "temperature": 0, "max_output_tokens": 16});
    let whole = server.ask("/v1/responses", &body).await?;
    let said = text(&whole, "/output/0/content/0/text")?.to_owned();
    ensure!(whole["object"] == "response" && !said.is_empty(), "{whole}");
    ensure!(whole["usage"]["output_tokens"].as_u64() > Some(0) && whole["store"] == false);
    let mut streamed = body.clone();
    streamed["stream"] = true.into();
    let response = server
        .post("/v1/responses", &streamed)
        .await?
        .text()
        .await?;
    let events: Vec<Value> = response
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    ensure!(events[0]["type"] == "response.created");
    let numbers: Vec<u64> = events
        .iter()
        .filter_map(|event| event["sequence_number"].as_u64())
        .collect();
    ensure!(numbers == (0..events.len() as u64).collect::<Vec<_>>());
    let heard: String = events
        .iter()
        .filter(|event| event["type"] == "response.output_text.delta")
        .filter_map(|event| event["delta"].as_str())
        .collect();
    ensure!(heard == said, "{heard}, not {said}");
    let last = events.last().context("no events")?;
    ensure!(
        last["response"]["output"][0]["content"][0]["text"] == said.as_str(),
        "{last}"
    );
    server
        .refused(
            "/v1/responses",
            &json!({"input": "x", "store": true}),
            400,
            "store",
        )
        .await?;
    server
        .refused(
            "/v1/responses",
            &json!({"input": "x", "previous_response_id": "y"}),
            400,
            "previous",
        )
        .await?;

    let body = json!({"input": ["the sun", "the sun", "a list of numbers"], "pooling": "mean"});
    let vectors = server.ask("/v1/embeddings", &body).await?;
    let vector = |index: usize| -> Vec<f64> {
        let list = vectors["data"][index]["embedding"].as_array();
        list.into_iter()
            .flatten()
            .filter_map(Value::as_f64)
            .collect()
    };
    let (a, b, c) = (vector(0), vector(1), vector(2));
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    ensure!(
        a.len() == 576 && a == b && (dot(&a, &a) - 1.0).abs() < 1e-3,
        "{}",
        dot(&a, &a)
    );
    ensure!(dot(&a, &c) < 0.999);
    let coded = server
        .ask(
            "/v1/embeddings",
            &json!({"input": "the sun", "encoding_format": "base64"}),
        )
        .await?;
    ensure!(text(&coded, "/data/0/embedding")?.len() == (576usize * 4).div_ceil(3) * 4);
    let last = server
        .ask(
            "/v1/embeddings",
            &json!({"input": "the sun", "pooling": "last"}),
        )
        .await?;
    ensure!(last["data"] != vectors["data"]);

    let models = server.get("/v1/models").await?;
    ensure!(models["data"][0]["id"] == "small" && models["data"][0]["max_model_len"] == 1024);
    server.get("/v1/models/small").await?;
    server.get("/health").await?;
    let api = server.get("/openapi.json").await?;
    ensure!(api["paths"]["/v1/chat/completions"]["post"].is_object());
    let response = server.client.get(server.address("/metrics")).send().await?;
    let metrics = response.text().await?;
    for name in [
        "longwave_num_requests_running 0",
        "longwave_time_to_first_token_seconds_count",
        "longwave_generation_tokens_total",
        "# EOF",
    ] {
        ensure!(metrics.contains(name), "no {name} in {metrics}");
    }
    for path in ["/", "/docs"] {
        let page = server.client.get(server.address(path)).send().await?;
        ensure!(page.headers().contains_key("content-security-policy"));
        let page = page.text().await?;
        ensure!(
            page.contains("<title>Longwave")
                && !page.contains("https://")
                && !page.contains("http://"),
            "{path} loads from elsewhere"
        );
    }
    server.is_clean().await
}

/// What is wrong is said by name, with the status that clients expect.
pub async fn refusals(model: &Path) -> Result<()> {
    let server = Server::start(
        model,
        &[
            "--context",
            "256",
            "--kv",
            "dense",
            "--kv",
            "omnikv:keep=64",
        ],
    )?;
    let path = "/v1/chat/completions";
    for (more, status, why) in [
        (json!({"model": "gpt-9"}), 404, "gpt-9"),
        (json!({"temperature": -1}), 400, "temperature"),
        (json!({"n": 99}), 400, "n: "),
        (json!({"top_p": 2}), 400, "top_p"),
        (json!({"logit_bias": {"999999": 1}}), 400, "999999"),
        (
            json!({"logprobs": true, "top_logprobs": 50}),
            400,
            "top_logprobs",
        ),
        (json!({"functions": [{"name": "f"}]}), 400, "functions"),
        (json!({"kv": {"policy": "q4"}}), 400, "omnikv:keep=64"),
        (json!({"kv": {"policy": "omnikv", "keep": 32}}), 400, "kv"),
        (json!({"kv": {"polciy": "dense"}}), 400, "polciy"),
        (json!({"store": true}), 400, "store"),
    ] {
        server.refused(path, &chat(more), status, why).await?;
    }
    let fits = server
        .ask(path, &chat(json!({"kv": {"policy": "omnikv", "keep": 64}})))
        .await?;
    ensure!(
        text(&fits, "/usage/kv_policy")?.starts_with("omnikv"),
        "{fits}"
    );
    let long = "word ".repeat(400);
    server
        .refused("/v1/completions", &json!({"prompt": long}), 400, "256")
        .await?;
    server
        .refused(
            "/v1/completions",
            &json!({"prompt": [1_000_000]}),
            400,
            "1000000",
        )
        .await?;
    server
        .refused("/v1/completions", &json!({"prompt": ""}), 400, "empty")
        .await?;
    server
        .refused(
            "/v1/completions",
            &json!({"prompt": "x", "echo": true}),
            400,
            "echo",
        )
        .await?;
    server
        .refused(path, &json!({"messages": []}), 400, "messages")
        .await?;
    server
        .refused(
            path,
            &json!({"messages": [{"role": "king", "content": "x"}]}),
            400,
            "king",
        )
        .await?;
    server.refused(path, &json!({}), 400, "messages").await?;
    let image = json!([{"type": "image_url", "image_url": {"url": "x"}}]);
    server
        .refused(
            path,
            &json!({"messages": [{"role": "user", "content": image}]}),
            400,
            "image_url",
        )
        .await?;
    server
        .refused("/v1/nothing", &json!({}), 404, "/v1/nothing")
        .await?;
    let response = server
        .client
        .get(server.address("/v1/completions"))
        .send()
        .await?;
    error(response, 405, "GET").await?;
    server.is_clean().await?;
    let locked = Server::start(
        model,
        &[
            "--context",
            "256",
            "--api-key",
            "sesame",
            "--cors",
            "https://a.example",
        ],
    )?;
    locked
        .refused(path, &chat(json!({})), 401, "API key")
        .await?;
    let request = |key: &str| {
        locked
            .client
            .post(locked.address(path))
            .bearer_auth(key)
            .body(chat(json!({})).to_string())
    };
    error(request("sesam").send().await?, 401, "API key").await?;
    let fine = request("sesame")
        .header("origin", "https://a.example")
        .send()
        .await?;
    ensure!(fine.status() == 200);
    ensure!(
        fine.headers()
            .get("access-control-allow-origin")
            .is_some_and(|origin| origin == "https://a.example")
    );
    locked.get("/health").await?;
    Ok(())
}
