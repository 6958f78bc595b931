//! Headers as they are, and as an attacker would write them.

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::{Format, HEAD_BYTES, judge};

/// A well-formed version 3 header of a 1 GiB disk, as qemu-img writes it.
fn good() -> Vec<u8> {
    let mut head = vec![0; 4096];
    head[..4].copy_from_slice(b"QFI\xfb");
    put32(&mut head, 4, 3);
    put32(&mut head, 20, 16);
    put64(&mut head, 24, 1 << 30);
    put32(&mut head, 36, 2);
    put64(&mut head, 40, 3 << 16);
    put64(&mut head, 48, 1 << 16);
    put32(&mut head, 56, 1);
    put32(&mut head, 96, 4);
    put32(&mut head, 100, 112);
    head
}

fn put32(head: &mut [u8], at: usize, value: u32) {
    head[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

fn put64(head: &mut [u8], at: usize, value: u64) {
    head[at..at + 8].copy_from_slice(&value.to_be_bytes());
}

/// Changes a good header and shows the judgement of it.
fn check(change: impl FnOnce(&mut Vec<u8>), want: Expect) {
    let mut head = good();
    change(&mut head);
    let said = match judge(&head, 1 << 20) {
        Ok(format) => format!("{format:?}"),
        Err(refused) => refused.to_string(),
    };
    want.assert_eq(&said);
}

#[test]
fn a_plain_header_is_taken() {
    check(|_| {}, expect!["Qcow2 { virtual_size: 1073741824 }"]);
    check(|h| put32(h, 4, 2), expect!["Qcow2 { virtual_size: 1073741824 }"]);
}

#[test]
fn zstd_and_extended_l2_are_taken() {
    check(
        |h| {
            put64(h, 72, 1 << 3 | 1 << 4);
            h[104] = 1;
        },
        expect!["Qcow2 { virtual_size: 1073741824 }"],
    );
}

#[test]
fn a_backing_file_is_refused_by_its_name() {
    check(
        |h| {
            put64(h, 8, 512);
            put32(h, 16, 11);
            h[512..523].copy_from_slice(b"/etc/shadow");
        },
        expect![[
            r#"the qcow2 image has a backing file "/etc/shadow"; flatten it with `qemu-img convert` first"#
        ]],
    );
    check(
        |h| {
            put64(h, 8, u64::MAX);
            put32(h, 16, u32::MAX);
        },
        expect![[r#"the qcow2 image has a backing file ""; flatten it with `qemu-img convert` first"#]],
    );
    check(
        |h| put32(h, 112, 0xe279_2aca),
        expect![[r#"the qcow2 image has a backing file ""; flatten it with `qemu-img convert` first"#]],
    );
}

#[test]
fn an_external_data_file_is_refused() {
    check(|h| put64(h, 72, 1 << 2), expect!["the qcow2 image keeps its data in an external file"]);
    check(|h| put32(h, 112, 0x4441_5441), expect!["the qcow2 image keeps its data in an external file"]);
    // Hidden behind another extension, and in version 2 where no bit tells of it.
    check(
        |h| {
            put32(h, 4, 2);
            put32(h, 72, 0x6803_f857);
            put32(h, 76, 13);
            put32(h, 96, 0x4441_5441);
        },
        expect!["the qcow2 image keeps its data in an external file"],
    );
}

#[test]
fn encryption_is_refused() {
    check(|h| put32(h, 32, 1), expect!["the qcow2 image is encrypted"]);
    check(|h| put32(h, 32, 2), expect!["the qcow2 image is encrypted"]);
    check(|h| put32(h, 112, 0x0537_be77), expect!["the qcow2 image is encrypted"]);
}

#[test]
fn unknown_and_broken_are_refused() {
    check(
        |h| put64(h, 72, 1 << 5),
        expect!["the qcow2 image needs a feature that is not known here: incompatible bit 5"],
    );
    check(
        |h| put64(h, 72, 1 << 63),
        expect!["the qcow2 image needs a feature that is not known here: incompatible bit 63"],
    );
    check(
        |h| h[104] = 7,
        expect!["the qcow2 image needs a feature that is not known here: compression type 7"],
    );
    check(
        |h| put64(h, 72, 1),
        expect!["the qcow2 image is in use or was not closed; repair it with `qemu-img check -r all` first"],
    );
    check(|h| put64(h, 72, 2), expect!["the qcow2 image is marked corrupt"]);
    check(|h| put32(h, 4, 1), expect!["qcow2 version 1 is not known, only 2 and 3 are"]);
    check(|h| put32(h, 4, 4), expect!["qcow2 version 4 is not known, only 2 and 3 are"]);
}

#[test]
fn fields_out_of_range_are_refused() {
    check(|h| put32(h, 20, 8), expect!["the qcow2 header is wrong: cluster size"]);
    check(|h| put32(h, 20, 63), expect!["the qcow2 header is wrong: cluster size"]);
    check(|h| put32(h, 36, u32::MAX), expect!["the qcow2 header is wrong: table size"]);
    check(|h| put64(h, 40, 5), expect!["the qcow2 header is wrong: table outside of the file"]);
    check(|h| put64(h, 40, u64::MAX << 16), expect!["the qcow2 header is wrong: table outside of the file"]);
    check(|h| put32(h, 100, 96), expect!["the qcow2 header is wrong: header length"]);
    check(|h| put32(h, 100, u32::MAX), expect!["the qcow2 header is wrong: header length"]);
    check(|h| put64(h, 24, 0), expect!["the qcow2 header is wrong: virtual size is 0"]);
    check(
        |h| put64(h, 24, u64::MAX),
        expect!["the image claims 18446744073709551615 bytes, more than is accepted"],
    );
}

#[test]
fn a_header_cut_anywhere_is_refused_and_never_panics() {
    let head = good();
    for length in 4..116 {
        assert!(judge(&head[..length], length as u64).is_err(), "{length}");
    }
}

#[test]
fn an_endless_extension_is_refused() {
    check(
        |h| {
            put32(h, 112, 0x1234_5678);
            put32(h, 116, u32::MAX);
        },
        expect!["the qcow2 header is cut short"],
    );
}

#[test]
fn packed_files_and_other_formats_are_refused_by_name() {
    for (head, name) in [
        (b"\x1f\x8b\x08".as_slice(), "gzip"),
        (b"\xfd7zXZ\0", "xz"),
        (b"KDMV", "VMDK"),
        (b"vhdxfile", "VHDX"),
    ] {
        assert!(judge(head, 100).unwrap_err().to_string().contains(name), "{name}");
    }
    assert!(judge(b"", 0).is_err());
    assert_eq!(judge(b"\xeb\x63\x90 a boot sector", 512).unwrap(), Format::Raw);
}

proptest! {
    #[test]
    fn no_header_panics(bytes in proptest::collection::vec(any::<u8>(), 0..512), size: u64) {
        let mut head = b"QFI\xfb\0\0\0\x03".to_vec();
        head.extend(bytes);
        let _judged = judge(&head[..head.len().min(HEAD_BYTES)], size);
    }

    #[test]
    fn a_changed_byte_never_panics(at in 4usize..200, value: u8) {
        let mut head = good();
        head[at] = value;
        let _judged = judge(&head, 1 << 20);
    }
}
