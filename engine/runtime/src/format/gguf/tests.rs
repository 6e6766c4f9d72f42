mod files;
mod hostile;

use std::error::Error;
use std::time::{Duration, Instant};

use super::super::testing::{GgufWriter, Random, Scratch, mutate, random_rows};
use super::super::{GgmlType, RowError};
use super::*;

type TestResult = Result<(), Box<dyn Error>>;

const FILE: &str = "small.gguf";

fn rows(kind: GgmlType, rows: usize, cols: usize) -> Vec<u8> {
    random_rows(kind, rows, cols, &mut Random::new(rows as u64)).expect("whole blocks")
}

/// Every value type, nested arrays, tensors of several types and ranks.
fn small() -> GgufWriter {
    let nested = vec![
        Array::I8(vec![-1, 2]),
        Array::Array(vec![Array::Str(vec!["x".into()]), Array::Bool(vec![])]),
    ];
    GgufWriter::new("llama")
        .with("a.u8", Value::U8(200))
        .with("a.i8", Value::I8(-7))
        .with("a.u16", Value::U16(60000))
        .with("a.i16", Value::I16(-300))
        .with("a.u32", Value::U32(4_000_000_000))
        .with("a.i32", Value::I32(-5))
        .with("a.f32", Value::F32(1.5))
        .with("a.bool", Value::Bool(true))
        .with("a.str", Value::Str("grün".into()))
        .with("a.u64", Value::U64(1 << 40))
        .with("a.i64", Value::I64(-(1 << 40)))
        .with("a.f64", Value::F64(0.25))
        .with(
            "b.str",
            Value::Array(Array::Str(vec!["a".into(), String::new(), "ü".into()])),
        )
        .with("b.i32", Value::Array(Array::I32(vec![1, -1, 3])))
        .with("b.u64", Value::Array(Array::U64(vec![5, 6])))
        .with("b.f32", Value::Array(Array::F32(vec![0.5, -2.0])))
        .with("b.bool", Value::Array(Array::Bool(vec![true, false])))
        .with("b.nested", Value::Array(Array::Array(nested)))
        .with_tensor(
            "norm.weight",
            &[5],
            GgmlType::F32,
            rows(GgmlType::F32, 1, 5),
        )
        .with_tensor(
            "q.weight",
            &[3, 64],
            GgmlType::Q8_0,
            rows(GgmlType::Q8_0, 3, 64),
        )
        .with_tensor("cube", &[2, 3, 4], GgmlType::F16, rows(GgmlType::F16, 6, 4))
        .with_tensor(
            "k.weight",
            &[2, 256],
            GgmlType::Q6K,
            rows(GgmlType::Q6K, 2, 256),
        )
}

fn error(bytes: &[u8]) -> String {
    let message = parse(bytes, FILE)
        .expect_err("the file is wrong")
        .to_string();
    assert!(message.starts_with("small.gguf: "), "{message}");
    message
}

#[track_caller]
fn fails(writer: &GgufWriter, parts: &[&str]) {
    let message = error(&writer.to_bytes());
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in `{message}`");
    }
}

#[test]
fn what_was_written_is_read() -> TestResult {
    for version in [2, 3] {
        let writer = GgufWriter { version, ..small() };
        let bytes = writer.to_bytes();
        let header = parse(&bytes, FILE)?;
        assert_eq!(header.version, version);
        assert_eq!(header.metadata.iter().count(), writer.metadata.len());
        for (key, value) in &writer.metadata {
            assert_eq!(header.metadata.get(key), Some(value), "{key}");
        }
        assert_eq!(header.tensors.len(), writer.tensors.len());
        for ((info, range), written) in header.tensors.iter().zip(&writer.tensors) {
            assert_eq!(
                (&info.name, &info.shape, info.element.id()),
                (&written.name, &written.shape, written.type_id)
            );
            assert_eq!(bytes[range.clone()], written.bytes);
            assert_eq!(range.start % 32, 0);
        }
    }
    Ok(())
}

#[test]
fn getters_convert_and_name_file_and_key() -> TestResult {
    let metadata = parse(&small().to_bytes(), FILE)?.metadata;
    assert_eq!(metadata.get_u32("a.u8")?, 200);
    assert_eq!(metadata.get_u32("a.u32")?, 4_000_000_000);
    assert_eq!(metadata.get_i32("a.i16")?, -300);
    assert_eq!(metadata.get_u64("a.u64")?, 1 << 40);
    assert_eq!(
        (metadata.get_f32("a.f32")?, metadata.get_f32("a.f64")?),
        (1.5, 0.25)
    );
    assert!(metadata.get_bool("a.bool")?);
    assert_eq!(metadata.get_str("a.str")?, "grün");
    assert_eq!(metadata.get_array_str("b.str")?, ["a", "", "ü"]);
    assert_eq!(metadata.get_array_i32("b.i32")?, [1, -1, 3]);
    assert_eq!(metadata.get_array_u32("b.u64")?, [5, 6]);
    assert_eq!(metadata.get_array_f32("b.f32")?, [0.5, -2.0]);
    assert_eq!(metadata.get_array_bool("b.bool")?, [true, false]);
    assert_eq!(metadata.find_u32("none")?, None);
    let messages = [
        metadata.get_u32("none").map(drop),
        metadata.get_u32("a.i32").map(drop),
        metadata.get_u32("a.u64").map(drop),
        metadata.find_str("a.u8").map(drop),
        metadata.get_array_u32("b.i32").map(drop),
        metadata.get_array_str("b.nested").map(drop),
    ];
    let messages: Vec<String> = messages
        .into_iter()
        .map(|result| result.expect_err("wrong").to_string())
        .collect();
    assert_eq!(messages[0], "small.gguf: metadata key `none` is missing");
    assert_eq!(
        messages[1],
        "small.gguf: metadata key `a.i32`: expected an integer from 0 to 2^32 - 1, found I32(-5)"
    );
    assert!(messages[2].contains("1099511627776"), "{}", messages[2]);
    assert_eq!(
        messages[3],
        "small.gguf: metadata key `a.u8`: expected a string, found U8(200)"
    );
    assert!(
        messages[4].ends_with("found an array of 3 i32"),
        "{}",
        messages[4]
    );
    assert!(
        messages[5].ends_with("found an array of 2 array"),
        "{}",
        messages[5]
    );
    Ok(())
}

#[test]
fn alignment_is_obeyed() -> TestResult {
    let aligned = |says: Value, alignment: usize| GgufWriter {
        alignment,
        ..small().with("general.alignment", says)
    };
    let bytes = aligned(Value::U32(256), 256).to_bytes();
    assert!(
        parse(&bytes, FILE)?
            .tensors
            .iter()
            .all(|(_, range)| range.start % 256 == 0)
    );
    for wrong in [0, 4, 24, 48] {
        fails(
            &aligned(Value::U32(wrong), 32),
            &["metadata key `general.alignment`", "not a power of two"],
        );
    }
    fails(
        &aligned(Value::Str("32".into()), 32),
        &["metadata key `general.alignment`: expected an integer"],
    );
    fails(&aligned(Value::U32(1 << 31), 32), &["beyond the file"]);
    Ok(())
}

/// Parses and checks what was allocated, whether the file is accepted or not.
fn counted(file: &[u8]) -> Result<Header, FormatError> {
    let mut reader = reader::Reader::new(FILE, file);
    let result = header::read(&mut reader, file.len(), FILE);
    // The smallest vectors have room for four items, whatever was read.
    let bound = 16 * reader.at() + 1024;
    assert!(
        reader.reserved() <= bound,
        "{} bytes after {} were read",
        reader.reserved(),
        reader.at()
    );
    result
}
