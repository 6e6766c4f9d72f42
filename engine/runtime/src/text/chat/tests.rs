use serde_json::json;

use super::*;

/// Renders with the tokens `<s>` and `</s>`.
fn render(source: &str, messages: &[Message], options: &ChatOptions) -> Result<String, TextError> {
    ChatTemplate::new(source, "<s>", "</s>")?.render(messages, options)
}

fn shown(source: &str, messages: &[Message]) -> String {
    render(source, messages, &ChatOptions::default()).expect(source)
}

fn conversation() -> Vec<Message> {
    vec![
        Message::system("Be brief.".into()),
        Message::user("Hi".into()),
        Message::assistant("<think>\nhm\n</think>\n\nHello".into()),
    ]
}

fn with(pairs: serde_json::Value) -> ChatOptions {
    ChatOptions {
        extra: pairs.as_object().cloned().expect("an object"),
        ..ChatOptions::default()
    }
}

#[test]
fn chatml_writes_every_turn() {
    let template = ChatTemplate::chatml().expect("valid");
    let text = template
        .render(&conversation()[..2], &ChatOptions::default())
        .expect("renders");
    assert_eq!(
        text,
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    );
    let options = ChatOptions {
        add_generation_prompt: false,
        ..ChatOptions::default()
    };
    assert_eq!(
        template
            .render(&conversation()[1..2], &options)
            .expect("renders"),
        "<|im_start|>user\nHi<|im_end|>\n"
    );
    assert!(!template.knows_thinking());
}

#[test]
fn a_first_message_that_is_no_system_message_gets_a_default_before_it() {
    let source = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '[system]You are here.\n' }}\
        {% endif %}{{'[' + message['role'] + ']' + message['content'] + '\n'}}{% endfor %}\
        {% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}";
    assert_eq!(
        shown(source, &conversation()[1..2]),
        "[system]You are here.\n[user]Hi\n[assistant]"
    );
    assert_eq!(
        shown(source, &conversation()[..2]),
        "[system]Be brief.\n[user]Hi\n[assistant]"
    );
}

#[test]
fn blocks_on_lines_of_their_own_leave_no_trace() {
    let source = "{%- for message in messages %}\n    {%- if message.role == \"user\" %}\n        {{- 'U:' + message.content }}\n    {%- endif %}\n{%- endfor %}\n  {% if true %}\nX\n  {% endif %}\n{{ eos_token }}\n";
    assert_eq!(shown(source, &conversation()), "U:HiX\n</s>");
}

#[test]
fn thinking_is_switched_and_old_thoughts_are_taken_out() {
    let source = "{%- set ns = namespace(last=-1) %}\
        {%- for message in messages[::-1] %}{%- set index = (messages|length - 1) - loop.index0 %}\
        {%- if ns.last == -1 and message.role == 'user' and message.content is string and not message.content.startswith('<tool_response>') %}\
        {%- set ns.last = index %}{%- endif %}{%- endfor %}\
        {%- for message in messages %}{%- set content = message.content %}{%- if message.role == 'assistant' and '</think>' in content %}\
        {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}\
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}{{- '(' + thought.strip() + ')' }}{%- endif %}\
        {{- message.role ~ ':' ~ content ~ ';' }}{%- endfor %}{{- 'last=' ~ ns.last }}\
        {%- if add_generation_prompt %}{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}{%- endif %}";
    let template = ChatTemplate::new(source, "", "").expect("valid");
    assert!(template.knows_thinking());
    let told = |enable_thinking| {
        let options = ChatOptions {
            enable_thinking,
            ..ChatOptions::default()
        };
        template.render(&conversation(), &options).expect("renders")
    };
    let start = "system:Be brief.;user:Hi;(hm)assistant:Hello;last=1";
    assert_eq!(told(None), start);
    assert_eq!(told(Some(true)), start);
    assert_eq!(told(Some(false)), format!("{start}<think>\n\n</think>\n\n"));
}

#[test]
fn constructs_of_well_known_templates_work() {
    let say = |source: &str| shown(source, &conversation());
    assert_eq!(
        say(
            "{{ bos_token }}{{ messages[0]['content'] | trim }}{%- set rest = messages[1:] %}{{ rest | length }}"
        ),
        "<s>Be brief.2"
    );
    assert_eq!(
        say(
            "{%- if not tools is defined %}a{%- endif %}{%- if tools is not none %}b{%- endif %}{%- if tools %}c{%- endif %}d"
        ),
        "d"
    );
    assert_eq!(
        say("{% if messages[0].tool_calls is defined %}a{% else %}b{% endif %}"),
        "b"
    );
    assert_eq!(
        say("{% if (messages[0]['role'] == 'user') != (loop is defined) %}a{% else %}b{% endif %}"),
        "b"
    );
    assert_eq!(
        say(
            "{%- for m in messages if m.role != 'user' %}{{ m.role.upper() }}{{ ',' if not loop.last }}{%- endfor %}"
        ),
        "SYSTEM,ASSISTANT"
    );
    assert_eq!(
        say(
            "{%- macro show(m, tail='') %}{{ m.role }}{{ tail }}{%- endmacro %}{{ show(messages[0], tail='!') }}"
        ),
        "system!"
    );
    assert_eq!(say("{%- generation -%} x {%- endgeneration -%} y"), "xy");
    assert_eq!(
        say("{{ true }} {{ none }} {{ 1.0 }} {{ messages[5] }}|"),
        "True None 1.0 |"
    );
    assert_eq!(
        say(
            "{%- for m in messages %}{% if loop.index0 == 1 %}{% break %}{% endif %}{{ loop.index }}{% endfor %}"
        ),
        "1"
    );
    assert_eq!(
        say(
            "{{ {'a': 1, 'b': 2}.items() | list | length }}{{ 'a-b'.replace('-', '+') }}{{ messages | map(attribute='role') | join('/') }}"
        ),
        "2a+bsystem/user/assistant"
    );
    assert_eq!(say("{{ '<b>&' }}"), "<b>&");
}

#[test]
fn extra_fields_reach_the_template() {
    let mut message = Message::assistant(String::new());
    message.extra.insert(
        "tool_calls".into(),
        json!([{"function": {"name": "f", "arguments": {"x": [1, 2.5, null]}}}]),
    );
    let source = "{% for call in messages[0].tool_calls %}{{ call.function.name }}({{ call.function.arguments | tojson }}){% endfor %}{{ date }}";
    let text = render(source, &[message], &with(json!({"date": "today"}))).expect("renders");
    assert_eq!(text, "f({\"x\": [1, 2.5, null]})today");
    let tools = ChatOptions {
        tools: Some(json!([{"type": "function", "name": "g"}])),
        ..ChatOptions::default()
    };
    let text = render(
        "{% for tool in tools %}{{ tool | tojson }}{% endfor %}",
        &[],
        &tools,
    )
    .expect("renders");
    assert_eq!(text, "{\"type\": \"function\", \"name\": \"g\"}");
}

#[test]
fn json_is_written_as_python_writes_it() {
    let value = json!({"b": "<é'🦀\"\\\n\u{1}\u{7f}>", "a": [], "c": {}, "d": [true, {"x": 1}], "e": [1.0, 1e22, 1e-7, 123456789012345680.0, -0.0, 0.0001, 18446744073709551615_u64]});
    let write = |filter: &str| {
        render(
            &format!("{{{{ v | {filter} }}}}"),
            &[],
            &with(json!({"v": value})),
        )
        .expect(filter)
    };
    assert_eq!(
        write("tojson"),
        "{\"b\": \"<é'🦀\\\"\\\\\\n\\u0001\u{7f}>\", \"a\": [], \"c\": {}, \"d\": [true, {\"x\": 1}], \
         \"e\": [1.0, 1e+22, 1e-07, 1.2345678901234568e+17, -0.0, 0.0001, 18446744073709551615]}"
    );
    let small = |filter: &str| {
        let value = json!({"v": {"b": ["é🦀"], "a": {}}});
        render(&format!("{{{{ v | {filter} }}}}"), &[], &with(value))
    };
    assert_eq!(
        small("tojson(ensure_ascii=true)").expect("renders"),
        "{\"b\": [\"\\u00e9\\ud83e\\udd80\"], \"a\": {}}"
    );
    assert_eq!(
        small("tojson(indent=2)").expect("renders"),
        "{\n  \"b\": [\n    \"é🦀\"\n  ],\n  \"a\": {}\n}"
    );
    assert_eq!(
        small("tojson(separators=(',', ':'), sort_keys=true)").expect("renders"),
        "{\"a\":{},\"b\":[\"é🦀\"]}"
    );
    assert!(small("tojson(colour=1)").is_err());
    assert!(small("tojson(indent=1000000000)").is_err());
    assert!(render("{{ missing | tojson }}", &[], &ChatOptions::default()).is_err());
}

#[test]
fn a_template_may_refuse_and_says_where() {
    let source = "{% if messages[0].role != 'user' %}\n\n{{ raise_exception('Must begin with ' ~ 'user') }}{% endif %}";
    let error = render(source, &conversation(), &ChatOptions::default()).expect_err("refuses");
    assert!(
        matches!(&error, TextError::Refused { message, line: Some(3) } if message == "Must begin with user"),
        "{error:?}"
    );
    let error = render(
        &format!("{{% macro m() %}}{source}{{% endmacro %}}\n{{{{ m() }}}}"),
        &conversation(),
        &ChatOptions::default(),
    );
    assert!(
        matches!(error, Err(TextError::Refused { line: Some(3), .. })),
        "{error:?}"
    );
}

#[test]
fn errors_name_the_line() {
    let error = ChatTemplate::new("a\n{% if %}", "", "").expect_err("does not parse");
    assert!(
        error
            .to_string()
            .starts_with("chat template (line 2): syntax error"),
        "{error}"
    );
    let error =
        render("a\n\n{{ messages.x.y }}", &[], &ChatOptions::default()).expect_err("undefined");
    assert!(
        error
            .to_string()
            .starts_with("chat template (line 3): undefined"),
        "{error}"
    );
    let error = render("{{ nothing() }}", &[], &ChatOptions::default()).expect_err("unknown");
    assert!(
        error.to_string().contains("line 1") && error.to_string().contains("nothing"),
        "{error}"
    );
}

#[test]
fn endless_and_huge_templates_are_stopped() {
    let loops = "{% for a in range(10000) %}{% for b in range(10000) %}{% for c in range(10000) %}{% set x = a * b %}{% endfor %}{% endfor %}{% endfor %}";
    let error = render(loops, &[], &ChatOptions::default()).expect_err("never ends");
    assert!(error.to_string().contains("works for too long"), "{error}");
    let recursive = "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}";
    for source in [
        recursive,
        "{{ 'x' * 100000000000 }}",
        "{% for a in range(1000000000) %}{% endfor %}",
        "{% include 'chat' %}",
        "{{ '%1000000000d' % 3 }}",
    ] {
        render(source, &[], &ChatOptions::default()).expect_err(source);
    }
    ChatTemplate::new(&"(".repeat(2000), "", "").expect("plain text");
    ChatTemplate::new(&format!("{{{{ {} }}}}", "(".repeat(100_000)), "", "").expect_err("too deep");
    ChatTemplate::new(&"x".repeat(LONGEST_SOURCE + 1), "", "").expect_err("too long");
    let mut deep = json!(1);
    for _ in 0..200 {
        deep = json!([deep]);
    }
    render("{{ v }}", &[], &with(json!({"v": deep}))).expect_err("nested too deeply");
}

#[test]
fn long_conversations_have_fuel_enough() {
    let source = "{%- for m in messages %}{%- if m.role == 'user' or m.role == 'assistant' %}{{- '<|im_start|>' + m.role + '\\n' + m.content.strip() + '<|im_end|>\\n' }}{%- endif %}{%- endfor %}";
    let messages: Vec<Message> = (0..20_000)
        .map(|_| Message::user("word ".repeat(100)))
        .collect();
    assert!(shown(source, &messages).len() > 10_000_000);
}

#[test]
fn dates_come_from_the_clock() {
    let text = shown("{{ strftime_now('%Y') }}", &[]);
    assert!(text.parse::<u32>().is_ok_and(|year| year > 2020), "{text}");
    assert!(render("{{ strftime_now('%Q') }}", &[], &ChatOptions::default()).is_err());
}
