//! Damaged and hostile files.

use super::*;

#[test]
fn files_cut_off_anywhere_are_errors() {
    let bytes = small().to_bytes();
    assert!(parse(&bytes, FILE).is_ok());
    for length in 0..bytes.len() {
        error(&bytes[..length]);
    }
}

#[test]
fn magic_and_version_are_checked() {
    let good = small().to_bytes();
    let with = |offset: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[offset..offset + bytes.len()].copy_from_slice(bytes);
        error(&file)
    };
    assert!(with(0, b"\x7fELF").contains("magic: expected `GGUF`, found `\\x7fELF`"));
    assert!(with(0, b"tjgg").contains("preceded GGUF"));
    assert!(with(0, b"FUGG").contains("big-endian"));
    assert!(with(4, &3_u32.to_be_bytes()).contains("big-endian"));
    assert!(with(4, &1_u32.to_le_bytes()).contains("version: 1 is not supported"));
    assert!(with(4, &4_u32.to_le_bytes()).contains("version: 4 is not supported"));
    assert!(with(8, &u64::MAX.to_le_bytes()).contains("tensor count: needs"));
    assert!(with(16, &u64::MAX.to_le_bytes()).contains("metadata count: needs"));
}

/// A header with one key whose value is the given raw bytes, type first.
fn raw_value(value: &[u8]) -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(0_u64.to_le_bytes());
    bytes.extend(1_u64.to_le_bytes());
    bytes.extend(1_u64.to_le_bytes());
    bytes.push(b'k');
    bytes.extend(value);
    bytes.extend([0; 64]);
    bytes
}

fn array_header(type_id: u32, count: u64) -> Vec<u8> {
    [type_id.to_le_bytes().as_slice(), &count.to_le_bytes()].concat()
}

#[test]
fn huge_counts_and_lengths_are_errors_before_they_are_allocated() {
    for type_id in 0..13 {
        for count in [u64::MAX, u64::MAX / 2 + 1, u64::MAX / 8 + 1, 1 << 40, 1000] {
            let value = [&9_u32.to_le_bytes()[..], &array_header(type_id, count)].concat();
            let message = error(&raw_value(&value));
            assert!(message.contains("metadata key `k`: needs"), "{message}");
        }
    }
    let value = [&8_u32.to_le_bytes()[..], &u64::MAX.to_le_bytes()].concat();
    assert!(
        error(&raw_value(&value)).contains("metadata key `k`: needs 18446744073709551615 bytes")
    );
}

#[test]
fn nesting_is_limited() {
    let nested = |depth: usize| {
        let mut value = 9_u32.to_le_bytes().to_vec();
        for _ in 0..depth {
            value.extend(array_header(9, 1));
        }
        value.extend(array_header(0, 0));
        raw_value(&value)
    };
    assert!(parse(&nested(7), FILE).is_ok());
    assert!(error(&nested(8)).contains("metadata key `k`: has arrays nested more than 8 deep"));
    assert!(error(&nested(100_000)).contains("nested"));
}

#[test]
fn announced_counts_reserve_nothing() {
    let mut value = 9_u32.to_le_bytes().to_vec();
    for _ in 0..7 {
        value.extend(array_header(9, 50_000));
    }
    value.extend(array_header(8, 50_000));
    let mut file = raw_value(&value);
    // Enough is left for each count alone. The first of these texts is too long.
    file.resize(file.len() + (1 << 20), 0xff);
    let message = counted(&file)
        .expect_err("the texts are too long")
        .to_string();
    assert!(message.contains("metadata key `k`, element"), "{message}");
}

#[test]
fn unknown_value_types_and_wrong_bools_are_errors() {
    assert!(
        error(&raw_value(&13_u32.to_le_bytes()))
            .contains("metadata key `k`: has the unknown value type 13")
    );
    let value = [&9_u32.to_le_bytes()[..], &array_header(99, 0)].concat();
    assert!(error(&raw_value(&value)).contains("unknown value type 99"));
    assert!(error(&raw_value(&[7, 0, 0, 0, 2])).contains("is a bool with the value 2"));
}

#[test]
fn keys_and_texts_must_be_utf_8() {
    let good = GgufWriter::new("x")
        .with("key", Value::Str("text".into()))
        .to_bytes();
    for text in ["key", "text"] {
        let mut file = good.clone();
        let at = file
            .windows(text.len())
            .rposition(|window| window == text.as_bytes())
            .expect("it was written");
        file[at] = 0xff;
        let message = error(&file);
        assert!(
            message.contains("is not UTF-8") && message.contains("key"),
            "{message}"
        );
    }
}

#[test]
fn names_occur_once_and_are_not_empty() {
    fails(
        &small().with("a.u8", Value::U8(1)),
        &["metadata key `a.u8` occurs twice"],
    );
    fails(
        &small().with("", Value::U8(1)),
        &["metadata key 19: has 0 bytes"],
    );
    fails(
        &small().with(&"k".repeat(65536), Value::U8(1)),
        &["metadata key 19: has 65536 bytes"],
    );
    let norm = rows(GgmlType::F32, 1, 5);
    fails(
        &small().with_tensor("norm.weight", &[5], GgmlType::F32, norm.clone()),
        &["tensor `norm.weight` occurs twice"],
    );
    fails(
        &small().with_tensor("", &[5], GgmlType::F32, norm),
        &["name of tensor 4: is empty"],
    );
}

#[test]
fn names_cannot_smuggle_control_characters_or_flood_a_message() {
    let name = format!("\x1b[2J{}", "a".repeat(5000));
    let message = error(
        &small()
            .with_tensor(&name, &[0], GgmlType::F32, vec![])
            .to_bytes(),
    );
    assert!(
        message.len() < 300 && !message.contains('\x1b'),
        "{message}"
    );
}

#[test]
fn shapes_types_and_places_are_checked() {
    let tensor = |shape: &[u64], kind: GgmlType| small().with_tensor("t", shape, kind, vec![0; 64]);
    fails(&tensor(&[], GgmlType::F32), &["tensor `t`: has rank 0"]);
    fails(
        &tensor(&[1, 1, 1, 1, 1], GgmlType::F32),
        &["tensor `t`: has rank 5"],
    );
    fails(
        &tensor(&[2, 0], GgmlType::F32),
        &["tensor `t`: has a dimension of 0"],
    );
    fails(
        &tensor(&[1 << 32, 1 << 32], GgmlType::F32),
        &["tensor `t`", "overflows"],
    );
    fails(
        &tensor(&[1 << 60, 1], GgmlType::F32),
        &["tensor `t`", "beyond the file"],
    );
    fails(
        &tensor(&[1 << 62, 1], GgmlType::F32),
        &["tensor `t`", "overflows"],
    );
    fails(
        &tensor(&[1, 1 << 62], GgmlType::F32),
        &["tensor `t`", "overflows"],
    );
    fails(
        &tensor(&[u64::MAX], GgmlType::F32),
        &["tensor `t`", "overflows"],
    );
    fails(
        &tensor(&[u64::MAX, u64::MAX, u64::MAX, u64::MAX], GgmlType::F16),
        &["overflows"],
    );
    fails(
        &tensor(&[4, 48], GgmlType::Q8_0),
        &["tensor `t`", "rows of 48 elements", "Q8_0's block of 32"],
    );
    fails(
        &tensor(&[2, 128], GgmlType::Q4K),
        &["rows of 128 elements", "Q4_K's block of 256"],
    );
    fails(
        &tensor(&[17], GgmlType::F32),
        &["tensor `t`", "68 bytes", "beyond the file"],
    );
    assert!(parse(&tensor(&[16], GgmlType::F32).to_bytes(), FILE).is_ok());
    for (offset, part) in [
        (8, "not a multiple of 32"),
        (1 << 40, "beyond the file"),
        (u64::MAX - 31, "beyond the file"),
    ] {
        let mut writer = tensor(&[16], GgmlType::F32);
        writer.tensors[4].offset = Some(offset);
        fails(&writer, &["tensor `t`", part]);
    }
    for (type_id, name) in [
        (10, "Q2_K"),
        (11, "Q3_K"),
        (16, "IQ2_XXS"),
        (39, "MXFP4"),
        (26, "I32"),
        (1000, "number 1000"),
    ] {
        let mut writer = small();
        writer.tensors[1].type_id = type_id;
        fails(
            &writer,
            &[
                "tensor `q.weight`",
                "element type",
                name,
                "supported are F32, F16",
            ],
        );
    }
}

#[test]
fn mutated_files_neither_panic_nor_allocate_beyond_proportion() -> TestResult {
    let bytes = small().to_bytes();
    let header = parse(&bytes, FILE)?.tensors[0].1.start;
    let mut random = Random::new(2024);
    let (mut accepted, start) = (0, Instant::now());
    for _ in 0..10_000 {
        let file = mutate(&bytes, header, &mut random);
        let Ok(parsed) = counted(&file) else { continue };
        accepted += 1;
        for (info, range) in &parsed.tensors {
            let rows = Rows::new(
                FILE,
                info,
                file.get(range.clone()).expect("ranges lie within the file"),
            )?;
            let mut values = vec![0.0; rows.cols() as usize];
            for row in 0..rows.rows() {
                // A mutated scale may be no number, which is an error; it must be no more than that.
                let _ = rows.dequantize(row, &mut values);
            }
        }
    }
    assert!(
        accepted > 100 && accepted < 9_900,
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
fn the_densest_files_stay_within_the_promised_allocation() -> TestResult {
    let mut many_keys = GgufWriter::new("x");
    for index in 0..2000 {
        many_keys = many_keys.with(&format!("{index:x}"), Value::U8(0));
    }
    let texts = Value::Array(Array::Str(vec![String::new(); 5000]));
    let arrays = Value::Array(Array::Array(vec![Array::U8(Vec::new()); 5000]));
    let mut many_tensors = GgufWriter::new("x");
    for index in 0..2000 {
        many_tensors =
            many_tensors.with_tensor(&format!("{index:x}"), &[1], GgmlType::F16, vec![0; 2]);
    }
    for writer in [
        many_keys,
        GgufWriter::new("x").with("k", texts),
        GgufWriter::new("x").with("k", arrays),
        many_tensors,
    ] {
        counted(&writer.to_bytes())?;
    }
    Ok(())
}
