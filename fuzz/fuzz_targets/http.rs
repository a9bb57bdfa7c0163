#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| keiki_tests::hostile::run("http", input));
