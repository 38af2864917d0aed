//! See `metrics` in `src/fuzz.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bellwether::fuzz::metrics(bytes));
