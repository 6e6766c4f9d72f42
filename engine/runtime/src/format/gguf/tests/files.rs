//! Files by path, and models in several parts.

use super::*;

#[test]
fn files_are_opened_by_path() -> TestResult {
    let scratch = Scratch::new("gguf-open")?;
    let writer = small();
    let gguf = Gguf::open(scratch.write("small.gguf", writer.to_bytes())?)?;
    assert_eq!(gguf.architecture()?, "llama");
    assert_eq!(
        gguf.tensors()
            .map(|info| info.name.as_str())
            .collect::<Vec<_>>(),
        ["norm.weight", "q.weight", "cube", "k.weight"]
    );
    assert_eq!(gguf.tensor("q.weight")?.shape, [3, 64]);
    assert_eq!(gguf.bytes("q.weight")?, writer.tensors[1].bytes);
    let rows = gguf.rows("cube")?;
    assert_eq!((rows.rows(), rows.cols()), (6, 4));
    assert!(gguf.find("none").is_none());
    let message = gguf
        .bytes("none")
        .expect_err("there is no such tensor")
        .to_string();
    assert!(
        message.contains("small.gguf") && message.ends_with("tensor `none` is missing"),
        "{message}"
    );
    assert!(matches!(
        gguf.rows("norm.weight")?.dequantize(0, &mut []),
        Err(FormatError::Row {
            source: RowError::Length { .. },
            ..
        })
    ));
    Ok(())
}

#[test]
fn what_is_no_file_is_an_error() -> TestResult {
    let scratch = Scratch::new("gguf-none")?;
    assert!(matches!(
        Gguf::open(scratch.path().join("none.gguf")),
        Err(FormatError::Io { .. })
    ));
    assert!(matches!(
        Gguf::open(scratch.path()),
        Err(FormatError::Invalid { .. })
    ));
    let empty = Gguf::open(scratch.write("empty.gguf", [])?)
        .expect_err("the file is empty")
        .to_string();
    assert!(
        empty.contains("empty.gguf: magic: needs 4 bytes"),
        "{empty}"
    );
    Ok(())
}

fn part(number: u16, count: u16, total: i32, tensors: &[&str]) -> GgufWriter {
    let mut writer = GgufWriter::new("llama")
        .with("split.no", Value::U16(number))
        .with("split.count", Value::U16(count))
        .with("split.tensors.count", Value::I32(total));
    for name in tensors {
        writer = writer.with_tensor(
            name,
            &[8],
            GgmlType::F32,
            rows(GgmlType::F32, 1 + usize::from(number), 8)[..32].to_vec(),
        );
    }
    writer
}

/// Writes three parts, one of which may be replaced, and opens part `open`.
fn open_split(
    name: &str,
    replaced: Option<(usize, Option<GgufWriter>)>,
    open: usize,
) -> Result<Result<Gguf, FormatError>, Box<dyn Error>> {
    let scratch = Scratch::new(name)?;
    let mut parts = [
        Some(part(0, 3, 4, &["a", "b"]).with("only.first", Value::Bool(true))),
        Some(part(1, 3, 4, &["c"])),
        Some(part(2, 3, 4, &["d"])),
    ];
    if let Some((index, replacement)) = replaced {
        parts[index] = replacement;
    }
    let path = |index: usize| format!("m-{:05}-of-00003.gguf", index + 1);
    for (index, writer) in parts.iter().enumerate() {
        if let Some(writer) = writer {
            scratch.write(&path(index), writer.to_bytes())?;
        }
    }
    Ok(Gguf::open(scratch.path().join(path(open))))
}

#[test]
fn any_part_opens_all() -> TestResult {
    for open in 0..3 {
        let gguf = open_split(&format!("split-{open}"), None, open)??;
        assert_eq!(
            gguf.tensors()
                .map(|info| info.name.as_str())
                .collect::<Vec<_>>(),
            ["a", "b", "c", "d"]
        );
        assert_eq!(gguf.files().count(), 3);
        assert!(gguf.metadata().get_bool("only.first")?);
        assert_eq!(gguf.bytes("d")?, part(2, 3, 4, &["d"]).tensors[0].bytes);
        assert_ne!(gguf.bytes("d")?, gguf.bytes("c")?);
    }
    Ok(())
}

#[test]
fn missing_and_inconsistent_parts_are_named() -> TestResult {
    let cases: [(&str, Option<GgufWriter>, &str); 7] = [
        (
            "missing",
            None,
            "m-00002-of-00003.gguf: part 2 of 3: the file is missing",
        ),
        (
            "number",
            Some(part(2, 3, 4, &["c"])),
            "m-00002-of-00003.gguf: part 2 of 3: `split.no` is 2",
        ),
        (
            "count",
            Some(part(1, 4, 4, &["c"])),
            "m-00002-of-00003.gguf: part 2 of 3: `split.count` is 4",
        ),
        (
            "total",
            Some(part(1, 3, 5, &["c"])),
            "m-00002-of-00003.gguf: part 2 of 3: `split.tensors.count` is 5, but 4 in part 1",
        ),
        (
            "sum",
            Some(part(1, 3, 4, &["c", "e"])),
            "the parts have 5 tensors together",
        ),
        (
            "twice",
            Some(part(1, 3, 4, &["a"])),
            "m-00002-of-00003.gguf: tensor `a`, which another part has too, occurs twice",
        ),
        (
            "none",
            Some(GgufWriter::new("llama")),
            "m-00002-of-00003.gguf: metadata key `split.count` is missing",
        ),
    ];
    for (name, replacement, expected) in cases {
        let opened = open_split(&format!("split-{name}"), Some((1, replacement)), 0)?;
        let message = opened
            .map(drop)
            .expect_err("the parts do not fit")
            .to_string();
        assert!(message.contains(expected), "{name}: {message}");
    }
    Ok(())
}

#[test]
fn names_and_split_metadata_must_agree() -> TestResult {
    let scratch = Scratch::new("split-names")?;
    let renamed = scratch.write("renamed.gguf", part(0, 3, 4, &["a"]).to_bytes())?;
    let message = Gguf::open(renamed)
        .expect_err("the other parts cannot be found")
        .to_string();
    assert!(
        message.contains("renamed.gguf: metadata key `split.count`: is 3")
            && message.contains("-00001-of-00003.gguf"),
        "{message}"
    );
    let plain = scratch.write("p-00001-of-00002.gguf", small().to_bytes())?;
    let message = Gguf::open(plain)
        .expect_err("the metadata names no parts")
        .to_string();
    assert!(
        message.contains("part 1 of 2") && message.contains("split.count"),
        "{message}"
    );
    let single = Gguf::open(scratch.write("s-00001-of-00001.gguf", small().to_bytes())?)?;
    assert_eq!(single.tensors().len(), 4);
    Ok(())
}

/// Repacks every tensor of a real model and compares it with the exact values.
#[test]
#[ignore = "needs a model: set LONGWAVE_GGUF to the path of a GGUF file"]
fn a_real_model_opens_and_repacks() -> TestResult {
    use super::super::super::repack::{repack_rows, row_bytes, unpack_row};
    let path = std::env::var_os("LONGWAVE_GGUF").ok_or("LONGWAVE_GGUF is not set")?;
    let gguf = Gguf::open(&path)?;
    let start = Instant::now();
    let mut report = std::collections::BTreeMap::new();
    for info in gguf.tensors() {
        let rows = gguf.rows(&info.name)?;
        let (layout, pitch) = (
            rows.target(),
            row_bytes(rows.target(), rows.cols()) as usize,
        );
        let mut target = vec![0; pitch * rows.rows() as usize];
        repack_rows(&rows, layout, None, &mut target)?;
        let (mut exact, mut found) = (
            vec![0.0; rows.cols() as usize],
            vec![0.0; rows.cols() as usize],
        );
        for (row, target) in target.chunks(pitch).enumerate() {
            rows.dequantize(row as u32, &mut exact)?;
            unpack_row(layout, target, &mut found)?;
            let largest = exact
                .iter()
                .fold(0.0_f32, |largest, value| largest.max(value.abs()));
            let entry = report
                .entry((info.element.name(), layout.name()))
                .or_insert((0_usize, 0.0_f32));
            entry.0 += exact.len();
            for (exact, found) in exact.iter().zip(&found) {
                entry.1 = entry
                    .1
                    .max((exact - found).abs() / largest.max(f32::MIN_POSITIVE));
            }
        }
    }
    counted(gguf.files().next().ok_or("no file")?.bytes())?;
    let text = format!(
        "{}, {} tensors, {:?}: {report:#?}",
        gguf.architecture()?,
        gguf.tensors().len(),
        start.elapsed()
    );
    std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes())?;
    assert!(
        report.values().all(|&(_, error)| error <= 1e-3),
        "{report:?}"
    );
    Ok(())
}
