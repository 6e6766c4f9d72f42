"""The official client against a server: chat, streaming, tools, JSON schema, logprobs, vectors, errors."""

import json
import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key="sesame", max_retries=0)
wrong = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key="nope", max_retries=0)
model = client.models.list().data[0].id
talk = [{"role": "user", "content": "Name three colours."}]

answer = client.chat.completions.create(model=model, messages=talk, temperature=0, max_tokens=16)
said = answer.choices[0].message.content
assert said and answer.usage.completion_tokens <= 16, answer
assert answer.usage.model_extra["kv_bytes"] > 0

stream = client.chat.completions.create(
    model=model, messages=talk, temperature=0, max_tokens=16, stream=True, stream_options={"include_usage": True}
)
chunks = list(stream)
assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == said
assert chunks[-1].usage.total_tokens == answer.usage.total_tokens

answer = client.chat.completions.create(
    model=model, messages=talk, temperature=0, max_tokens=3, logprobs=True, top_logprobs=2
)
tokens = answer.choices[0].logprobs.content
assert len(tokens) == 3 and all(len(t.top_logprobs) == 2 for t in tokens), answer

schema = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 10}, "age": {"type": "integer", "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
answer = client.chat.completions.create(
    model=model, messages=talk, max_tokens=120, seed=1,
    response_format={"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": True}},
)
assert set(json.loads(answer.choices[0].message.content)) == {"name", "age"}, answer

city = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}}, "required": ["city"], "additionalProperties": False}
tools = [{"type": "function", "function": {"name": "weather", "description": "The weather", "parameters": city}}]
answer = client.chat.completions.create(model=model, messages=talk, tools=tools, tool_choice="required", max_tokens=80)
call = answer.choices[0].message.tool_calls[0]
assert call.function.name == "weather" and "city" in json.loads(call.function.arguments), answer
with client.chat.completions.stream(model=model, messages=talk, tools=tools, tool_choice="required", max_tokens=80) as stream:
    final = stream.get_final_completion()
call = final.choices[0].message.tool_calls[0]
assert call.function.name == "weather" and "city" in json.loads(call.function.arguments), final
flat = [{"type": "function", "name": "weather", "description": "The weather", "parameters": city, "strict": True}]
with client.responses.stream(model=model, input="Paris?", tools=flat, tool_choice="required", max_output_tokens=80) as stream:
    pieces = [e.delta for e in stream if e.type == "response.function_call_arguments.delta"]
    call = stream.get_final_response().output[0]
assert call.name == "weather" and "city" in json.loads(call.arguments), call
assert "".join(pieces) == call.arguments and len(pieces) > 1, pieces

answer = client.completions.create(model=model, prompt="The capital of France is", temperature=0, max_tokens=4, logprobs=1)
assert "Paris" in answer.choices[0].text and len(answer.choices[0].logprobs.tokens) == 4, answer

response = client.responses.create(model=model, input="Name three colours.", temperature=0, max_output_tokens=16, store=False)
assert response.output_text, response
with client.responses.stream(model=model, input="Name three colours.", temperature=0, max_output_tokens=16) as stream:
    text = "".join(e.delta for e in stream if e.type == "response.output_text.delta")
assert text == response.output_text, (text, response.output_text)
response = client.responses.create(
    model=model, input="Name three colours.", temperature=0, max_output_tokens=3,
    include=["message.output_text.logprobs"], top_logprobs=2,
)
tokens = response.output[0].content[0].logprobs
assert len(tokens) == 3 and all(len(t.top_logprobs) == 2 and t.logprob <= 0 for t in tokens), response

vectors = client.embeddings.create(model=model, input=["a", "b"])
assert len(vectors.data) == 2 and len(vectors.data[0].embedding) == 576

for expected, act in [
    (openai.AuthenticationError, lambda: wrong.models.list()),
    (openai.NotFoundError, lambda: client.chat.completions.create(model="gpt-9", messages=talk)),
    (openai.BadRequestError, lambda: client.chat.completions.create(model=model, messages=talk, temperature=-1)),
    (openai.BadRequestError, lambda: client.completions.create(model=model, prompt="word " * 5000)),
]:
    try:
        act()
    except expected as error:
        assert error.body["message"] and error.body["type"], error.body
    else:
        raise AssertionError(f"{expected} was expected")
print("all is well")
