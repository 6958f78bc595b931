//! Feeds the target that `FUZZ_TARGET` names with what libFuzzer thinks of.
#![no_main]
// The entry has to have libFuzzer's name.
#![allow(unsafe_code)]

use std::sync::OnceLock;

use fuzz::Target;

static TARGET: OnceLock<Target> = OnceLock::new();

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let target = TARGET.get_or_init(|| {
        let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
        fuzz::target(&name).unwrap_or_else(|| panic!("FUZZ_TARGET={name} is no target"))
    });
    target(bytes);
});
