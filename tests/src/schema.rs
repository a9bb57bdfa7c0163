//! What `--json` prints, as `docs/schema` describes it.

use std::fs;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::sources;

/// The schema of that name.
///
/// # Errors
/// There is none.
pub fn of(name: &str) -> Result<Value> {
    let path = sources::workspace().join(format!("docs/schema/{name}.json"));
    Ok(serde_json::from_str(&fs::read_to_string(path)?)?)
}

/// What is wrong with a value, as the schema of that name sees it.
///
/// # Errors
/// There is none.
pub fn complaints(name: &str, value: &Value) -> Result<Vec<String>> {
    let validator = jsonschema::validator_for(&of(name)?)?;
    let errors = validator.iter_errors(value);
    Ok(errors.map(|error| format!("{}: {error}", error.instance_path())).collect())
}

/// Compares a value with the schema of that name.
///
/// # Errors
/// It is not so.
pub fn check(name: &str, value: &Value) -> Result<()> {
    let wrong = complaints(name, value)?;
    ensure!(wrong.is_empty(), "{name}: {}\n{value:#}", wrong.join("\n"));
    Ok(())
}
