//! Volumes whose bytes the user does not want to be saved.

use super::model::{Coverage, Slot, Survey, Volume};
use crate::error::{Error, Result};
use crate::fs::State;

/// Excludes the volumes that a person calls `names`: `d0:1`, `2` where there is one disk, `sda1`, `disk.img:2`,
/// `vg0/root`. They keep their place in table or volume group.
///
/// # Errors
/// [`Error::Refused`] naming the volumes that there are; for a volume that only holds others.
pub fn exclude(survey: &mut Survey, names: &[String]) -> Result<()> {
    let Survey { slots, volumes, .. } = survey;
    for name in names {
        let Some(volume) = volumes.iter_mut().find(|volume| is_called(volume, slots, name)) else {
            let have: Vec<&str> = volumes.iter().map(|volume| volume.id.as_str()).collect();
            let have = have.join(", ");
            return Err(Error::refused(format!(
                "there is no volume {name} to exclude; there is {have}"
            )));
        };
        if volume.is_container() {
            return Err(Error::refused(format!(
                "{} only holds other volumes; exclude those",
                volume.id
            )));
        }
        (volume.coverage, volume.state, volume.needs) = (Coverage::Excluded, State::Clean, None);
    }
    Ok(())
}

/// Whether a person means `volume` by `name`.
fn is_called(volume: &Volume, slots: &[Slot], name: &str) -> bool {
    let id = &volume.id;
    if id == name || (volume.slot.is_none() && name.strip_prefix("/dev/") == Some(id)) {
        return true;
    }
    let own = volume.slot.and_then(|at| slots.get(at));
    let rest = own.and_then(|slot| id.strip_prefix(&slot.id)?.strip_prefix(':')).unwrap_or(id);
    if slots.len() == 1 && rest == name {
        return true;
    }
    let short = |text: &str| text.strip_prefix("/dev/").unwrap_or(text).to_owned();
    slots.iter().filter(|slot| own.is_none_or(|own| own.id == slot.id)).any(|slot| {
        let path = short(&slot.path.display().to_string());
        let separators: &[&str] = if own.is_some() { &[":", "", "p"] } else { &[":"] };
        separators.iter().any(|between| short(name) == format!("{path}{between}{rest}"))
    })
}
