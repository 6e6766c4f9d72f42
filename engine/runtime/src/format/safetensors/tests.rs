use std::error::Error;
use std::time::{Duration, Instant};

use ::safetensors::Dtype;
use ::safetensors::tensor::TensorView;

use super::super::GgmlType;
use super::super::testing::{Random, Scratch, mutate, random_rows, safetensors_bytes};
use super::*;

type TestResult = Result<(), Box<dyn Error>>;

const FILE: &str = "model.safetensors";

fn rows(kind: GgmlType, count: usize) -> Vec<u8> {
    random_rows(kind, 1, count, &mut Random::new(count as u64)).expect("whole blocks")
}

fn small() -> Vec<u8> {
    safetensors_bytes(&[
        ("norm.weight", &[5], GgmlType::F32, &rows(GgmlType::F32, 5)),
        (
            "q.weight",
            &[3, 4],
            GgmlType::Bf16,
            &rows(GgmlType::Bf16, 12),
        ),
        (
            "k.weight",
            &[2, 3, 4],
            GgmlType::F16,
            &rows(GgmlType::F16, 24),
        ),
    ])
}

fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

#[track_caller]
fn fails(bytes: &[u8], parts: &[&str]) {
    let message = parse(bytes, FILE)
        .expect_err("the file is wrong")
        .to_string();
    assert!(message.starts_with("model.safetensors: "), "{message}");
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in `{message}`");
    }
}

#[test]
fn files_of_the_format_s_own_crate_are_read() -> TestResult {
    let (first, second) = (rows(GgmlType::F32, 6), rows(GgmlType::Bf16, 8));
    let tensors = [
        ("a", TensorView::new(Dtype::F32, vec![2, 3], &first)?),
        ("b", TensorView::new(Dtype::BF16, vec![8], &second)?),
    ];
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let bytes = ::safetensors::serialize(tensors, Some(metadata.clone()))?;
    let header = parse(&bytes, FILE)?;
    assert_eq!(header.metadata, metadata);
    assert_eq!(header.tensors.len(), 2);
    for (info, range) in &header.tensors {
        let (shape, element, data) = match info.name.as_str() {
            "a" => (vec![2, 3], GgmlType::F32, &first),
            _ => (vec![8], GgmlType::Bf16, &second),
        };
        assert_eq!(
            (&info.shape, info.element, &bytes[range.clone()]),
            (&shape, element, data.as_slice())
        );
    }
    Ok(())
}

#[test]
fn the_test_writer_agrees_with_the_format_s_own_crate() -> TestResult {
    let bytes = small();
    let theirs = ::safetensors::SafeTensors::deserialize(&bytes)?;
    let ours = parse(&bytes, FILE)?;
    assert_eq!(theirs.len(), ours.tensors.len());
    for (info, range) in &ours.tensors {
        assert_eq!(theirs.tensor(&info.name)?.data(), &bytes[range.clone()]);
    }
    Ok(())
}

#[test]
fn files_cut_off_anywhere_are_errors() {
    let bytes = small();
    assert!(parse(&bytes, FILE).is_ok());
    for length in 0..bytes.len() {
        assert!(
            parse(&bytes[..length], FILE).is_err(),
            "{length} bytes of {}",
            bytes.len()
        );
    }
    let longer = [bytes.as_slice(), &[0]].concat();
    fails(&longer, &["data: the file has", "but its tensors end at"]);
}

#[test]
fn hostile_headers_are_errors() {
    fails(
        &u64::MAX.to_le_bytes(),
        &["header length: 18446744073709551615 is above"],
    );
    fails(
        &99_999_999_u64.to_le_bytes(),
        &["header: needs 99999999 bytes"],
    );
    fails(&file("[]", 0), &["header", "an object of tensors"]);
    fails(&file("{", 0), &["header"]);
    fails(&file("{\"\u{0}\": 1}", 0), &["header"]);
    fails(&file(&"[".repeat(100_000), 0), &["header"]);
    let nested = format!("{{\"t\": {}", "{\"shape\": [".repeat(50_000));
    fails(&file(&nested, 0), &["header", "tensor `t`"]);
    let mut not_text = file("{\"key\": 1}", 0);
    not_text[10] = 0xff;
    fails(&not_text, &["header"]);
}

fn one(dtype: &str, shape: &str, offsets: &str) -> String {
    format!(r#"{{"t": {{"dtype": "{dtype}", "shape": {shape}, "data_offsets": {offsets}}}}}"#)
}

#[test]
fn tensors_are_checked_and_named() {
    let cases = [
        (
            one("I64", "[1]", "[0, 8]"),
            "element type I64 is not supported; supported are F32, F16, BF16",
        ),
        (
            one("F8_E4M3", "[8]", "[0, 8]"),
            "element type F8_E4M3 is not supported",
        ),
        (one("F32", "[0]", "[0, 0]"), "one of 0"),
        (
            one("F32", "[1,1,1,1,1,1,1,1,2]", "[0, 8]"),
            "more than 8 dimensions",
        ),
        (one("F32", "[3]", "[0, 8]"), "do not match the 12 bytes"),
        (
            one("F32", "[2]", "[8, 0]"),
            "starts at offset 8, but the tensor before it ends at 0",
        ),
        (
            one("F32", "[1]", "[4, 8]"),
            "starts at offset 4, but the tensor before it ends at 0",
        ),
        (
            one("F32", "[4]", "[0, 16]"),
            "ends at offset 16, but the file has 8 bytes of data",
        ),
        (
            one("F32", "[4294967296, 4294967296]", "[0, 8]"),
            "overflows",
        ),
        (one("F32", "[4611686018427387904]", "[0, 8]"), "overflows"),
        (
            one("F16", "[9223372036854775800]", "[0, 18446744073709551600]"),
            "ends at offset 18446744073709551600",
        ),
        (
            one("F16", "[9223372036854775800]", "[18446744073709551600, 8]"),
            "starts at offset 18446744073709551600",
        ),
        (one("F32", "[-1]", "[0, 8]"), "invalid value"),
        (one("F32", "[1.5]", "[0, 8]"), "invalid type"),
        (one("F32", "[2]", "[0, 8, 9]"), "tensor `t`"),
        (one("F32", "2", "[0, 8]"), "invalid type"),
        (
            r#"{"t": {"dtype": "F32", "shape": [2]}}"#.to_owned(),
            "data_offsets",
        ),
        (r#"{"t": 1}"#.to_owned(), "invalid type"),
    ];
    for (header, problem) in cases {
        fails(&file(&header, 8), &["tensor `t`", problem]);
    }
    let twice = r#"{"t": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "t": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}"#;
    fails(&file(twice, 8), &["tensor `t` occurs twice"]);
    let overlapping = r#"{"t": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "u": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}"#;
    fails(
        &file(overlapping, 8),
        &[
            "tensor `u`",
            "starts at offset 4, but the tensor before it ends at 8",
        ],
    );
    fails(
        &file(r#"{"__metadata__": {"a": 1}}"#, 0),
        &["`__metadata__`"],
    );
}

#[test]
fn mutated_headers_do_not_panic() -> TestResult {
    let bytes = small();
    let header = parse(&bytes, FILE)?.tensors[0].1.start;
    let mut random = Random::new(2025);
    let (mut accepted, start) = (0, Instant::now());
    for _ in 0..10_000 {
        let file = mutate(&bytes, header, &mut random);
        let Ok(parsed) = parse(&file, FILE) else {
            continue;
        };
        accepted += 1;
        for (info, range) in &parsed.tensors {
            let rows = Rows::new(
                FILE,
                info,
                file.get(range.clone()).expect("ranges lie within the file"),
            )?;
            assert!(rows.row(0).is_some());
        }
    }
    assert!(
        accepted > 20 && accepted < 9_900,
        "{accepted} of the mutated files were accepted"
    );
    assert!(
        start.elapsed() < Duration::from_secs(30),
        "took {:?}",
        start.elapsed()
    );
    Ok(())
}

#[test]
fn a_directory_with_one_file_opens() -> TestResult {
    let scratch = Scratch::new("hf-one")?;
    let message = |scratch: &Scratch| {
        HfDirectory::open(scratch.path())
            .expect_err("something is missing")
            .to_string()
    };
    assert!(message(&scratch).contains("config.json: cannot open the file"));
    scratch.write("config.json", r#"{"architectures": ["LlamaForCausalLM"]}"#)?;
    assert!(message(&scratch).contains("weights: neither `model.safetensors` nor"));
    scratch.write("model.safetensors", small())?;
    let directory = HfDirectory::open(scratch.path())?;
    assert_eq!(directory.config["architectures"][0], "LlamaForCausalLM");
    assert!(
        directory.generation_config.is_none()
            && directory.tokenizer.is_none()
            && directory.chat_template.is_none()
    );
    assert_eq!(directory.tensor("q.weight")?.shape, [3, 4]);
    assert_eq!(directory.bytes("q.weight")?, rows(GgmlType::Bf16, 12));
    assert_eq!(directory.rows("k.weight")?.rows(), 6);
    let missing = directory
        .tensor("none")
        .expect_err("there is no such tensor")
        .to_string();
    assert!(missing.ends_with("tensor `none` is missing"), "{missing}");
    for name in [
        "generation_config.json",
        "tokenizer_config.json",
        "tokenizer.json",
        "chat_template.jinja",
    ] {
        scratch.write(name, r#"{"a": 1}"#)?;
    }
    let directory = HfDirectory::open(scratch.path())?;
    assert_eq!(
        directory
            .generation_config
            .as_ref()
            .map(|config| &config["a"]),
        Some(&1.into())
    );
    assert_eq!(
        directory
            .tokenizer_config
            .as_ref()
            .map(|config| &config["a"]),
        Some(&1.into())
    );
    assert_eq!(
        directory.tokenizer,
        Some(scratch.path().join("tokenizer.json"))
    );
    assert_eq!(
        directory.chat_template,
        Some(scratch.path().join("chat_template.jinja"))
    );
    scratch.write("tokenizer_config.json", "{")?;
    assert!(message(&scratch).contains("tokenizer_config.json: content: EOF"));
    Ok(())
}

fn sharded(name: &str, index: &str) -> Result<Result<HfDirectory, FormatError>, Box<dyn Error>> {
    let scratch = Scratch::new(name)?;
    let tensor = rows(GgmlType::F32, 4);
    scratch.write("config.json", "{}")?;
    let first: [(&str, &[u64], GgmlType, &[u8]); 2] = [
        ("a", &[4], GgmlType::F32, &tensor),
        ("b", &[2, 2], GgmlType::F32, &tensor),
    ];
    scratch.write("one.safetensors", safetensors_bytes(&first))?;
    scratch.write(
        "two.safetensors",
        safetensors_bytes(&[("c", &[2], GgmlType::F32, &tensor[..8])]),
    )?;
    scratch.write("model.safetensors.index.json", index)?;
    Ok(HfDirectory::open(scratch.path()))
}

#[test]
fn shards_open_through_their_index() -> TestResult {
    let index = r#"{"metadata": {}, "weight_map": {"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"}}"#;
    let directory = sharded("hf-shards", index)??;
    assert_eq!(directory.shards().len(), 2);
    assert_eq!(directory.tensors().count(), 3);
    assert_eq!(directory.bytes("c")?, &rows(GgmlType::F32, 4)[..8]);
    Ok(())
}

#[test]
fn wrong_indices_are_errors() -> TestResult {
    let cases = [
        (
            r#""a": "../one.safetensors""#,
            "weight_map entry of `a`: `../one.safetensors` is not the name of a file",
        ),
        (r#""a": "/etc/passwd""#, "is not the name of a file"),
        (r#""a": "..""#, "is not the name of a file"),
        (r#""a": ".""#, "is not the name of a file"),
        (r#""a": """#, "is not the name of a file"),
        (r#""a": "sub/one.safetensors""#, "is not the name of a file"),
        (r#""a": "..\\one.safetensors""#, "is not the name of a file"),
        (r#""a": "C:one.safetensors""#, "is not the name of a file"),
        (
            r#""a": "none.safetensors""#,
            "weight_map entry of `a`: the shard `none.safetensors` is missing",
        ),
        (
            r#""z": "one.safetensors""#,
            "weight_map entry of `z`: the shard `one.safetensors` has no such tensor",
        ),
        (
            r#""a": "one.safetensors""#,
            "one.safetensors: tensor `b`: the index",
        ),
        (
            r#""a": 5"#,
            "model.safetensors.index.json: weight_map: invalid type",
        ),
    ];
    for (index, (entry, expected)) in cases.into_iter().enumerate() {
        let opened = sharded(
            &format!("hf-wrong-{index}"),
            &format!(r#"{{"weight_map": {{{entry}}}}}"#),
        )?;
        let message = opened
            .map(drop)
            .expect_err("the index is wrong")
            .to_string();
        assert!(message.contains(expected), "{entry}: {message}");
    }
    Ok(())
}
