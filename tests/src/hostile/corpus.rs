//! The inputs of each target that are kept: what fuzzing found worth keeping as one file a target, and what it
//! found to be wrong as a file of its own.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::seeds;

/// Where they are kept.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/hostile")
}

fn file(target: &str) -> PathBuf {
    folder().join("corpora").join(format!("{target}.zst"))
}

/// The inputs that are kept for a target; none where there is no such file.
///
/// # Errors
/// Reading.
pub fn kept(target: &str) -> Result<Vec<Vec<u8>>> {
    let path = file(target);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let bytes = zstd::decode_all(fs::File::open(&path)?).with_context(|| format!("{path:?}"))?;
    let mut rest = bytes.as_slice();
    let mut inputs = Vec::new();
    while let Some((length, behind)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(u32::from_le_bytes(*length))?;
        let (input, behind) = behind.split_at_checked(length).context("an input is cut off")?;
        inputs.push(input.to_vec());
        rest = behind;
    }
    ensure!(rest.is_empty(), "{path:?} ends in {} bytes too many", rest.len());
    Ok(inputs)
}

/// The inputs of a target that once were too much for it: `found/TARGET-what`.
///
/// # Errors
/// Reading.
pub fn found(target: &str) -> Result<Vec<(String, Vec<u8>)>> {
    let folder = folder().join("found");
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.strip_prefix(target).is_some_and(|rest| rest.starts_with('-')) {
            found.push((name, fs::read(path)?));
        }
    }
    found.sort();
    Ok(found)
}

/// Puts the inputs of a target into a folder, one file each, for a fuzzer.
///
/// # Errors
/// Writing.
pub fn unpack(target: &str, folder: &Path) -> Result<usize> {
    fs::create_dir_all(folder)?;
    let found = found(target)?.into_iter().map(|(_, input)| input);
    let begin = seeds::seeds(target)?;
    let inputs: Vec<Vec<u8>> = begin.into_iter().chain(kept(target)?).chain(found).collect();
    for input in &inputs {
        fs::write(folder.join(blake3::hash(input).to_hex().as_str()), input)?;
    }
    Ok(inputs.len())
}

/// Keeps the inputs in a folder as those of a target, in the order of length and content.
///
/// # Errors
/// Reading and writing.
pub fn pack(target: &str, folder: &Path) -> Result<usize> {
    let mut inputs = Vec::new();
    for entry in fs::read_dir(folder)? {
        inputs.push(fs::read(entry?.path())?);
    }
    inputs.sort_by(|one, other| (one.len(), one).cmp(&(other.len(), other)));
    inputs.dedup();
    let mut bytes = Vec::new();
    for input in &inputs {
        bytes.extend(u32::try_from(input.len())?.to_le_bytes());
        bytes.extend(input);
    }
    let path = file(target);
    fs::create_dir_all(path.parent().context("a folder")?)?;
    fs::write(path, zstd::encode_all(bytes.as_slice(), 19)?)?;
    Ok(inputs.len())
}
