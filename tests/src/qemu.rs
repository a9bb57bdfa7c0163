//! What every emulated machine of the tests has in common: its processor (TCG), its memory, and what starts it.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// What starts the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Firmware {
    /// SeaBIOS.
    Bios,
    /// OVMF without boot entries: the fallback path of what is plugged in.
    Uefi,
    /// OVMF that starts only what is signed.
    SecureBoot,
}

/// The options of a machine that ends where it would start again; the firmware's variables are kept in `work`.
///
/// # Errors
/// OVMF is missing.
pub fn machine(firmware: Firmware, work: &Path) -> Result<Vec<OsString>> {
    let common = "-accel tcg,thread=multi -cpu max -smp 2 -m 512 -display none -no-reboot -machine";
    let mut words: Vec<OsString> = common.split(' ').map(OsString::from).collect();
    let ovmf = Path::new("/usr/share/OVMF");
    let (machine, code, variables) = match firmware {
        Firmware::Bios => ("q35", "", ""),
        Firmware::Uefi => ("q35", "OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"),
        Firmware::SecureBoot => ("q35,smm=on", "OVMF_CODE_4M.secboot.fd", "OVMF_VARS_4M.ms.fd"),
    };
    words.push(machine.into());
    let mut add = |option: &str, value: String| words.extend([option.into(), value.into()]);
    if firmware != Firmware::Bios {
        let own = work.join("variables");
        fs::copy(ovmf.join(variables), &own).context("OVMF is missing: run scripts/install")?;
        let flash = |unit, file: &Path, options| {
            format!("if=pflash,unit={unit},format=raw,{options}file={}", file.display())
        };
        add("-drive", flash(0, &ovmf.join(code), "readonly=on,"));
        add("-drive", flash(1, &own, ""));
    }
    if firmware == Firmware::SecureBoot {
        add("-global", "driver=cfi.pflash01,property=secure,value=on".to_owned());
    }
    Ok(words)
}
