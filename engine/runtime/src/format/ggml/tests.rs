use half::f16;

use super::super::testing::{Random, random_rows};
use super::*;

/// FNV-1a over the bytes of the values, negative zero as zero.
fn digest(values: &[f32]) -> u64 {
    values
        .iter()
        .flat_map(|value| (value + 0.0).to_le_bytes())
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
}

/// The digests come from the `gguf` Python package's `dequantize` on the same rows, whose bytes a script made from the same numbers.
#[test]
fn every_type_decodes_as_an_independent_implementation_does() {
    let golden = [
        (GgmlType::F32, 0x9ecf_aa1e_1089_1a13),
        (GgmlType::F16, 0x22a1_1920_f53a_4480),
        (GgmlType::Bf16, 0x7837_c79c_967d_e30e),
        (GgmlType::Q8_0, 0xcef8_342a_ae37_dcfc),
        (GgmlType::Q4_0, 0xa58f_3e17_18d7_8886),
        (GgmlType::Q4_1, 0x9151_e750_60ac_96b3),
        (GgmlType::Q5_0, 0x6f11_7af6_bffd_34f2),
        (GgmlType::Q5_1, 0x51e9_4d69_ef79_7876),
        (GgmlType::Q4K, 0xaaad_9795_f595_f9a7),
        (GgmlType::Q5K, 0x6fe8_5cf6_1174_778d),
        (GgmlType::Q6K, 0xb068_ef55_eb7f_81d2),
    ];
    assert_eq!(golden.len(), GgmlType::ALL.len());
    for (kind, expected) in golden {
        let bytes = random_rows(kind, 3, 512, &mut Random::new(u64::from(kind.id())))
            .expect("512 is a whole number of blocks");
        let mut values = vec![0.0; 3 * 512];
        dequantize_row(kind, &bytes, &mut values).expect("the rows are right");
        assert_eq!(digest(&values), expected, "{kind}: {:?}", &values[..2]);
    }
}

fn decode(kind: GgmlType, block: &[u8]) -> Vec<f32> {
    let mut values = vec![f32::NAN; kind.block_elements() as usize];
    dequantize_row(kind, block, &mut values).expect("the block is right");
    values
}

fn half_bytes(value: f32) -> [u8; 2] {
    f16::from_f32(value).to_le_bytes()
}

/// A block of zeros with `d = 1` (and `m` or `dmin` = 1) at the given offsets.
fn block(kind: GgmlType, ones: &[usize]) -> Vec<u8> {
    let mut block = vec![0; kind.block_bytes() as usize];
    for &offset in ones {
        block[offset..offset + 2].copy_from_slice(&half_bytes(1.0));
    }
    block
}

/// The elements that differ from the block without the change, with the difference.
fn effect(kind: GgmlType, base: &[u8], offset: usize, bits: u8) -> Vec<(usize, f32)> {
    let mut changed = base.to_vec();
    changed[offset] ^= bits;
    let (before, after) = (decode(kind, base), decode(kind, &changed));
    let differences = before
        .iter()
        .zip(&after)
        .map(|(before, after)| after - before);
    differences
        .enumerate()
        .filter(|(_, difference)| *difference != 0.0)
        .collect()
}

#[test]
fn blocks_of_32_split_nibbles_into_halves() {
    for (kind, ones, codes) in [
        (GgmlType::Q4_0, &[0][..], 2),
        (GgmlType::Q4_1, &[0, 2], 4),
        (GgmlType::Q5_0, &[0], 6),
        (GgmlType::Q5_1, &[0, 2], 8),
    ] {
        let base = block(kind, ones);
        for byte in 0..16 {
            assert_eq!(
                effect(kind, &base, codes + byte, 0x05),
                [(byte, 5.0)],
                "{kind} low nibble {byte}"
            );
            assert_eq!(
                effect(kind, &base, codes + byte, 0x90),
                [(byte + 16, 9.0)],
                "{kind} high nibble {byte}"
            );
        }
    }
}

#[test]
fn fifth_bits_follow_the_elements() {
    for (kind, ones, word) in [(GgmlType::Q5_0, &[0][..], 2), (GgmlType::Q5_1, &[0, 2], 4)] {
        let base = block(kind, ones);
        for element in 0..32 {
            assert_eq!(
                effect(kind, &base, word + element / 8, 1 << (element % 8)),
                [(element, 16.0)],
                "{kind}"
            );
        }
    }
}

#[test]
fn offsets_of_the_small_types() {
    assert_eq!(
        decode(GgmlType::Q4_0, &block(GgmlType::Q4_0, &[0])),
        [-8.0; 32]
    );
    assert_eq!(
        decode(GgmlType::Q4_1, &block(GgmlType::Q4_1, &[0, 2])),
        [1.0; 32]
    );
    assert_eq!(
        decode(GgmlType::Q5_0, &block(GgmlType::Q5_0, &[0])),
        [-16.0; 32]
    );
    assert_eq!(
        decode(GgmlType::Q5_1, &block(GgmlType::Q5_1, &[0, 2])),
        [1.0; 32]
    );
    let mut signed = block(GgmlType::Q8_0, &[0]);
    (signed[2], signed[33]) = (0x80, 0x7f);
    let values = decode(GgmlType::Q8_0, &signed);
    assert_eq!((values[0], values[1], values[31]), (-128.0, 0.0, 127.0));
}

/// Sets scale `sc = 1` for every group of a `Q4_K` or `Q5_K` block.
fn unit_scales(block: &mut [u8]) {
    block[4..8].fill(1);
    block[12..16].fill(1);
}

#[test]
fn four_and_five_bit_blocks_of_256_run_in_64s() {
    for (kind, codes) in [(GgmlType::Q4K, 16), (GgmlType::Q5K, 48)] {
        let mut base = block(kind, &[0, 2]);
        unit_scales(&mut base);
        assert_eq!(decode(kind, &base), [0.0; 256]);
        for byte in 0..128 {
            let low = byte / 32 * 64 + byte % 32;
            assert_eq!(
                effect(kind, &base, codes + byte, 0x07),
                [(low, 7.0)],
                "{kind} low nibble {byte}"
            );
            assert_eq!(
                effect(kind, &base, codes + byte, 0xf0),
                [(low + 32, 15.0)],
                "{kind} high nibble {byte}"
            );
        }
    }
    let mut base = block(GgmlType::Q5K, &[0, 2]);
    unit_scales(&mut base);
    for element in 0..256 {
        let (byte, bit) = (16 + element % 32, element / 32);
        assert_eq!(
            effect(GgmlType::Q5K, &base, byte, 1 << bit),
            [(element, 16.0)]
        );
    }
}

/// Eight 6-bit scales and minimums, packed by their definition: bit by bit.
fn packed(scales: [u8; 8], minimums: [u8; 8]) -> [u8; 12] {
    let mut out = [0; 12];
    for group in 0..4 {
        out[group] = scales[group] | (scales[group + 4] >> 4) << 6;
        out[group + 4] = minimums[group] | (minimums[group + 4] >> 4) << 6;
        out[group + 8] = (scales[group + 4] & 15) | (minimums[group + 4] & 15) << 4;
    }
    out
}

#[test]
fn six_bit_scales_and_minimums_reach_their_groups() {
    let scales = [1, 63, 17, 32, 45, 62, 16, 33];
    let minimums = [63, 2, 31, 48, 19, 60, 37, 5];
    for (kind, codes) in [(GgmlType::Q4K, 16), (GgmlType::Q5K, 48)] {
        let mut block = block(kind, &[]);
        block[0..2].copy_from_slice(&half_bytes(0.5));
        block[2..4].copy_from_slice(&half_bytes(0.25));
        block[4..16].copy_from_slice(&packed(scales, minimums));
        block[codes..].fill(0x33);
        for (element, value) in decode(kind, &block).into_iter().enumerate() {
            let group = element / 32;
            let expected = 0.5 * f32::from(scales[group]) * 3.0 - 0.25 * f32::from(minimums[group]);
            assert_eq!(value, expected, "{kind} element {element}");
        }
    }
}

#[test]
fn six_bit_codes_reach_their_elements() {
    let kind = GgmlType::Q6K;
    let mut base = block(kind, &[208]);
    base[192..208].fill(1);
    assert_eq!(decode(kind, &base), [-32.0; 256]);
    for byte in 0..128 {
        // Two halves of 64 bytes; bytes 0..32 serve quarters 0 and 2, bytes 32..64 quarters 1 and 3.
        let low = byte / 64 * 128 + byte % 64;
        assert_eq!(
            effect(kind, &base, byte, 0x0b),
            [(low, 11.0)],
            "low nibble {byte}"
        );
        assert_eq!(
            effect(kind, &base, byte, 0xb0),
            [(low + 64, 11.0)],
            "high nibble {byte}"
        );
    }
    for byte in 0..64 {
        for pair in 0..4 {
            let element = byte / 32 * 128 + pair * 32 + byte % 32;
            assert_eq!(
                effect(kind, &base, 128 + byte, 3 << (2 * pair)),
                [(element, 48.0)],
                "bit pair {pair} of {byte}"
            );
        }
    }
    for group in 0..16 {
        base[192 + group] = (group as i8 - 8).cast_unsigned();
    }
    for (element, value) in decode(kind, &base).into_iter().enumerate() {
        assert_eq!(
            value,
            -32.0 * ((element / 16) as f32 - 8.0),
            "element {element}"
        );
    }
}

#[test]
fn wrong_rows_are_errors() {
    let mut out = [0.0; 40];
    let error =
        dequantize_row(GgmlType::Q8_0, &[0; 34], &mut out).expect_err("40 is no multiple of 32");
    assert_eq!(
        error,
        RowError::Columns {
            columns: 40,
            multiple: 32
        }
    );
    let error =
        dequantize_row(GgmlType::Q8_0, &[0; 33], &mut out[..32]).expect_err("a byte is missing");
    assert_eq!(
        error,
        RowError::Length {
            what: "row in the file",
            expected: 34,
            found: 33
        }
    );
    for kind in GgmlType::ALL
        .into_iter()
        .filter(|kind| kind.group().is_some())
    {
        let offset = if kind == GgmlType::Q6K { 208 } else { 0 };
        for bad in [f16::NAN, f16::INFINITY, f16::NEG_INFINITY] {
            let mut bytes = random_rows(kind, 1, 512, &mut Random::new(1)).expect("whole blocks");
            let second = bytes.len() - kind.block_bytes() as usize + offset;
            bytes[second..second + 2].copy_from_slice(&bad.to_le_bytes());
            let error =
                dequantize_row(kind, &bytes, &mut [0.0; 512]).expect_err("a scale is not finite");
            let first = u64::from((512 - kind.block_elements()) / kind.group().expect("quantised"));
            assert!(
                matches!(error, RowError::Scale { part: "scale", group, .. } if group >= first),
                "{kind}: {error}"
            );
        }
    }
    for kind in [GgmlType::F32, GgmlType::F16, GgmlType::Bf16] {
        let mut bytes = random_rows(kind, 1, 300, &mut Random::new(2)).expect("whole blocks");
        let end = bytes.len();
        bytes[end - 2..].copy_from_slice(&[0xff, 0xff]);
        let error =
            dequantize_row(kind, &bytes, &mut [0.0; 300]).expect_err("the last value is no number");
        assert!(
            matches!(error, RowError::Value { column: 299, .. }),
            "{kind}: {error}"
        );
    }
}

#[test]
fn numbers_and_names_agree() {
    for kind in GgmlType::ALL {
        assert_eq!(GgmlType::from_id(kind.id()), Ok(kind));
        assert!(
            unsupported_name(kind.id()).is_none(),
            "{kind} has two names"
        );
    }
    assert_eq!(GgmlType::from_id(10), Err("Q2_K".to_owned()));
    assert_eq!(
        GgmlType::from_id(77),
        Err("number 77, which is unknown,".to_owned())
    );
    assert_eq!(
        GgmlType::ALL.map(GgmlType::name).join(", "),
        GgmlType::SUPPORTED
    );
}
