//! Who gets the space that a larger target brings: the rules behind `--grow`.
//!
//! A *group* is the partitions of one disk or the logical volumes of one volume group. Pure arithmetic.

use std::str::FromStr;

use crate::error::{Error, Result};
use crate::units::Bytes;

/// What happens to groups in which the user named nobody.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Base {
    /// One member gets all: the last growable partition, or the volume that holds `/`.
    #[default]
    Auto,
    /// Nobody grows.
    None,
    /// Every growable member, in proportion to its size.
    Proportional,
}

/// How much one named volume grows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Amount {
    /// `+20GiB`.
    Bytes(Bytes),
    /// `+50%` of the group's new space.
    Percent(u8),
    /// Whatever the others leave; once per group.
    Rest,
    /// Stays as it is.
    Fixed,
}

/// The user's wishes: `--grow` and `--use-free`.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Policy {
    /// For groups in which nobody is named.
    pub base: Base,
    /// Volume (as typed, before it is resolved to an id) and amount.
    pub named: Vec<(String, Amount)>,
    /// Space that was free on the source may be given away too.
    pub use_free: bool,
}

impl Policy {
    /// Adds one `--grow` argument: `auto`, `none`, `proportional` or `VOLUME=AMOUNT`.
    ///
    /// # Errors
    /// A message for the user where the argument is none of these.
    pub fn add(&mut self, argument: &str) -> Result<(), String> {
        match argument.split_once('=') {
            Some((volume, amount)) if !volume.is_empty() => {
                self.named.push((volume.to_owned(), amount.parse()?));
            }
            _ => {
                self.base = match argument {
                    "auto" => Base::Auto,
                    "none" => Base::None,
                    "proportional" => Base::Proportional,
                    _ => {
                        return Err(format!(
                            "`{argument}` is neither auto, none, proportional nor VOLUME=AMOUNT"
                        ));
                    }
                };
            }
        }
        Ok(())
    }
}

impl FromStr for Amount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "rest" => return Ok(Self::Rest),
            "fixed" => return Ok(Self::Fixed),
            _ => {}
        }
        let bad = || format!("`{text}` is not an amount (examples: +20GiB, +50%, rest, fixed)");
        let more = text.strip_prefix('+').ok_or_else(bad)?;
        match more.strip_suffix('%') {
            Some(percent) => {
                let percent: u8 = percent.parse().map_err(|_| bad())?;
                if percent > 100 { Err(bad()) } else { Ok(Self::Percent(percent)) }
            }
            None => more.parse().map(Self::Bytes),
        }
    }
}

/// One partition or logical volume of a group, as growth sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// The volume's id.
    pub id: String,
    /// Its size on the source.
    pub size: Bytes,
    /// What the user asked for it by name.
    pub asked: Option<Amount>,
    /// Whether it can be made larger together with its content; else why not.
    pub growable: Result<(), String>,
    /// Whether `auto` and `proportional` leave it alone whatever it can (/boot, ESP, swap).
    pub reserved: bool,
    /// It grows by multiples of this.
    pub grain: Bytes,
    /// The most that it can take, however much there is: a striped volume only grows where it lies.
    pub most: Bytes,
}

impl Member {
    /// Whether it may grow without being named.
    pub(super) fn may(&self) -> bool {
        self.growable.is_ok() && !self.reserved
    }

    /// What it takes of `space` that is given to it.
    fn take(&self, space: Bytes) -> Bytes {
        space.min(self.most).align_down(self.grain)
    }

    /// Whether the user gave it something by name.
    fn is_named(&self) -> bool {
        self.asked.is_some_and(|asked| asked != Amount::Fixed)
    }
}

/// Which member `auto` lets grow: `favourite` if it can, else the last one that can.
fn chosen(members: &[Member], favourite: Option<usize>) -> Option<usize> {
    favourite
        .filter(|at| members.get(*at).is_some_and(Member::may))
        .or_else(|| members.iter().rposition(Member::may))
}

/// The last member that [`share`] would give something to.
pub fn last(members: &[Member], base: Base, favourite: Option<usize>) -> Option<usize> {
    if members.iter().any(|member| member.asked.is_some()) {
        return members.iter().rposition(Member::is_named);
    }
    match base {
        Base::None => None,
        Base::Auto => chosen(members, favourite),
        Base::Proportional => members.iter().rposition(Member::may),
    }
}

/// How much each member of a group grows: `new_space` shared out in multiples of their grains.
///
/// `favourite` is the member that `auto` prefers; else it takes the last one that can grow.
///
/// # Errors
/// [`Error::Refused`] where a named wish cannot be met.
pub fn share(
    members: &[Member],
    base: Base,
    space: Bytes,
    favourite: Option<usize>,
) -> Result<Vec<Bytes>> {
    if members.iter().any(|member| member.asked.is_some()) {
        return share_by_name(members, space);
    }
    let mut shares = vec![Bytes::ZERO; members.len()];
    match base {
        Base::None => {}
        Base::Auto => {
            let at = chosen(members, favourite);
            if let Some((member, share)) = at.and_then(|at| members.get(at).zip(shares.get_mut(at)))
            {
                *share = member.take(space);
            }
        }
        Base::Proportional => share_by_size(members, space, &mut shares),
    }
    Ok(shares)
}

fn share_by_name(members: &[Member], space: Bytes) -> Result<Vec<Bytes>> {
    let mut left = space;
    let mut rest = None;
    let mut shares = vec![Bytes::ZERO; members.len()];
    for (member, share) in members.iter().zip(&mut shares) {
        let wish = match member.asked {
            None | Some(Amount::Fixed) => continue,
            Some(Amount::Rest) => {
                if rest.replace(&member.id).is_some_and(|first| *first != member.id) {
                    return Err(Error::refused(format!(
                        "only one volume of a disk or volume group can get the rest, not {} as well",
                        member.id
                    )));
                }
                Bytes::ZERO
            }
            Some(Amount::Bytes(bytes)) => bytes.align_up(member.grain),
            Some(Amount::Percent(percent)) => {
                let hundredth = u128::from(space.get()) * u128::from(percent) / 100;
                Bytes::new(u64::try_from(hundredth).unwrap_or(u64::MAX)).align_down(member.grain)
            }
        };
        if let Err(why) = &member.growable {
            return Err(Error::refused(format!("{} cannot be grown: {why}", member.id)));
        }
        left = left.checked_sub(wish).ok_or_else(|| {
            Error::refused(format!(
                "{} should grow by {wish}, but only {left} of new space are left for it",
                member.id
            ))
        })?;
        *share = wish;
    }
    for (member, share) in members.iter().zip(&mut shares) {
        if member.asked == Some(Amount::Rest) {
            *share = member.take(left);
        }
    }
    Ok(shares)
}

fn share_by_size(members: &[Member], space: Bytes, shares: &mut [Bytes]) {
    let sizes = members.iter().filter(|member| member.may()).map(|m| u128::from(m.size.get()));
    let total = sizes.sum::<u128>().max(1);
    for (member, share) in members.iter().zip(shares).filter(|(member, _)| member.may()) {
        let part = u128::from(space.get()) * u128::from(member.size.get()) / total;
        *share = member.take(Bytes::new(u64::try_from(part).unwrap_or(u64::MAX)));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Amount, Base, Member, Policy, last, share};
    use crate::units::Bytes;

    fn member(id: &str, gib: u64, asked: Option<Amount>, can: bool, reserved: bool) -> Member {
        Member {
            id: id.to_owned(),
            size: Bytes::gib(gib),
            asked,
            growable: if can { Ok(()) } else { Err("its content is not known".to_owned()) },
            reserved,
            grain: Bytes::MIB,
            most: Bytes::MAX,
        }
    }

    fn shares(members: &[Member], base: Base, gib: u64, favourite: Option<usize>) -> Vec<u64> {
        let shares = share(members, base, Bytes::gib(gib), favourite).unwrap();
        shares.into_iter().map(|share| share.units(Bytes::GIB)).collect()
    }

    #[test]
    fn auto_gives_all_to_the_favourite_or_the_last_that_can() {
        let group = [
            member("esp", 1, None, true, true),
            member("root", 10, None, true, false),
            member("srv", 10, None, true, false),
            member("raw", 10, None, false, false),
        ];
        assert_eq!(shares(&group, Base::Auto, 8, None), [0, 0, 8, 0]);
        assert_eq!(shares(&group, Base::Auto, 8, Some(1)), [0, 8, 0, 0]);
        assert_eq!(shares(&group, Base::Auto, 8, Some(3)), [0, 0, 8, 0]);
        assert_eq!(shares(&group, Base::None, 8, None), [0, 0, 0, 0]);
        assert_eq!(shares(&group, Base::Proportional, 8, None), [0, 4, 4, 0]);
    }

    #[test]
    fn nobody_gets_more_than_fits_on_it() {
        let mut striped = member("striped", 10, None, true, false);
        (striped.grain, striped.most) = (Bytes::gib(2), Bytes::gib(5));
        let mut group = [member("root", 10, None, true, false), striped];
        assert_eq!(shares(&group, Base::Auto, 8, Some(1)), [0, 4]);
        assert_eq!(shares(&group, Base::Proportional, 20, None), [10, 4]);
        group[1].asked = Some(Amount::Rest);
        assert_eq!(shares(&group, Base::Auto, 8, None), [0, 4]);
    }

    #[test]
    fn names_go_before_the_base_and_rest_comes_last() {
        let group = [
            member("root", 10, Some(Amount::Rest), true, false),
            member("data", 10, Some(Amount::Percent(50)), true, false),
            member("boot", 1, Some(Amount::Bytes(Bytes::gib(1))), true, true),
            member("srv", 10, None, true, false),
        ];
        assert_eq!(shares(&group, Base::Auto, 8, None), [3, 4, 1, 0]);
    }

    #[test]
    fn impossible_wishes_are_refused_by_name() {
        let say = |group: &[Member]| {
            share(group, Base::Auto, Bytes::gib(4), None).unwrap_err().to_string()
        };
        let much = [member("root", 1, Some(Amount::Bytes(Bytes::gib(5))), true, false)];
        assert!(say(&much).contains("root should grow by 5 GiB, but only 4 GiB"));
        let raw = [member("raw", 1, Some(Amount::Rest), false, false)];
        assert!(say(&raw).contains("raw cannot be grown: its content is not known"));
        let rest = |id| member(id, 1, Some(Amount::Rest), true, false);
        assert!(say(&[rest("a"), rest("b")]).contains("only one volume"));
    }

    #[test]
    fn arguments_read_as_documented() {
        let mut policy = Policy::default();
        for argument in ["none", "vg0/root=+20GiB", "vg0/data=+50%", "vg0/srv=rest", "2=fixed"] {
            policy.add(argument).unwrap();
        }
        assert_eq!(policy.base, Base::None);
        assert_eq!(policy.named[0], ("vg0/root".to_owned(), Amount::Bytes(Bytes::gib(20))));
        assert_eq!(policy.named[1].1, Amount::Percent(50));
        assert_eq!(policy.named[3], ("2".to_owned(), Amount::Fixed));
        for argument in ["", "all", "=rest", "a=20GiB", "a=+101%", "a=+x"] {
            assert!(policy.add(argument).is_err(), "{argument}");
        }
    }

    proptest! {
        #[test]
        fn never_gives_more_than_there_is(
            sizes in prop::collection::vec((1_u64..64, 0_u8..6, any::<bool>()), 1..6),
            space in 0_u64..1 << 40,
        ) {
            let group: Vec<Member> = sizes.iter().enumerate().map(|(at, (size, kind, can))| {
                let asked = match kind {
                    0 => Some(Amount::Percent(10)),
                    1 => Some(Amount::Bytes(Bytes::mib(*size))),
                    2 if at == 0 => Some(Amount::Rest),
                    _ => None,
                };
                member(&at.to_string(), *size, asked, *can, kind % 2 == 0)
            }).collect();
            for base in [Base::Auto, Base::None, Base::Proportional] {
                if let Ok(shares) = share(&group, base, Bytes::new(space), None) {
                    prop_assert!(shares.iter().copied().sum::<Bytes>() <= Bytes::new(space));
                    prop_assert!(shares.iter().all(|share| share.is_aligned(Bytes::MIB)));
                    let grown = shares.iter().rposition(|share| !share.is_zero());
                    prop_assert!(grown <= last(&group, base, None));
                }
            }
        }
    }
}
