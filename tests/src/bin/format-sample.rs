//! Makes the sample of the image format in `tests/fixtures` anew.

fn main() -> anyhow::Result<()> {
    keiki_tests::format_sample::make()
}
