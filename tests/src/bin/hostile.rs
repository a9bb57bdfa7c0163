//! Keeps what fuzzing needs: `hostile bases [NAME...]` makes the sound containers anew; `hostile unpack TARGET FOLDER`
//! and `hostile pack TARGET FOLDER` take a target's inputs out of the fixtures and put them there; `hostile targets`
//! lists the targets.

use std::io::Write;
use std::path::Path;

use anyhow::{Result, bail};
use keiki_tests::hostile::{TARGETS, corpus, make};

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut out = std::io::stdout();
    match words.as_slice() {
        ["bases", names @ ..] => {
            make::make(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?
        }
        ["unpack", target, folder] => {
            writeln!(out, "{} inputs of {target}", corpus::unpack(target, Path::new(folder))?)?;
        }
        ["pack", target, folder] => {
            writeln!(out, "{} inputs of {target}", corpus::pack(target, Path::new(folder))?)?;
        }
        ["targets"] => {
            for target in TARGETS {
                writeln!(out, "{}", target.name)?;
            }
        }
        _ => bail!(
            "usage: hostile bases [NAME...] | unpack TARGET FOLDER | pack TARGET FOLDER | targets"
        ),
    }
    Ok(())
}
