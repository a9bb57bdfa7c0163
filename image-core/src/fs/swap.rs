//! Linux swap areas: one page of header, then pages whose content nobody needs.
//!
//! Answers: that page; a new header for another size. Refuses to call disposable what may not be: a
//! hibernated system, and areas with bad pages or of the old version (they are saved raw).
//!
//! Source of the layout: Linux `include/linux/swap.h` (`union swap_header`), util-linux `mkswap`.

use std::sync::Arc;

use uuid::Uuid;

use super::{Filesystem, GrowthTool, Identity, State};
use crate::error::{Error, Result};
use crate::extent::{Extent, ExtentSet};
use crate::fields::Structure;
use crate::io::BlockSource;
use crate::io::rescue::is_bad_sector;
use crate::units::Bytes;

const NAME: &str = "swap header";
/// The header is a page of the machine that made it.
const PAGES: [Bytes; 5] =
    [Bytes::kib(4), Bytes::kib(8), Bytes::kib(16), Bytes::kib(32), Bytes::kib(64)];
/// In the last bytes of the page.
const SIGNATURE: &[u8; 10] = b"SWAPSPACE2";
const SIGNATURE_V0: &[u8; 10] = b"SWAP-SPACE";
/// What hibernation writes in its place: swsusp, uswsusp, and a kernel patch.
const HIBERNATED: [&[u8]; 4] = [b"S1SUSPEND", b"S2SUSPEND", b"ULSUSPEND", b"LINHIB0001"];
/// TuxOnIce leaves the signature alone and marks the first bytes.
const TUX_ON_ICE: [u8; 8] = [0xED, 0xC3, 0x02, 0xE9, 0x98, 0x56, 0xE5, 0x0C];
const VERSION: usize = 1024;
const LAST_PAGE: usize = 1028;
const BAD_PAGES: usize = 1032;
const UUID: usize = 1036;
const LABEL: usize = 1052;
/// With the NUL behind it.
const LABEL_LENGTH: usize = 16;
/// mkswap makes none with fewer pages.
const MIN_PAGES: u64 = 10;

/// Which end of a number comes first: that of the machine that made the area.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ByteOrder {
    /// Least significant byte first.
    Little,
    /// Most significant byte first.
    Big,
}

/// The header of a version 1 area without bad pages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    order: ByteOrder,
    page: Bytes,
    last_page: u32,
    uuid: Uuid,
    /// In any encoding, zeros behind it.
    label: [u8; LABEL_LENGTH],
}

impl Header {
    /// The header as `mkswap` makes it on a volume of `size` bytes.
    ///
    /// # Errors
    /// [`Error::Refused`] below ten pages, for a page size that no machine has, and for a label that does
    /// not fit.
    pub fn new(
        size: Bytes,
        page: Bytes,
        order: ByteOrder,
        uuid: Uuid,
        label: &str,
    ) -> Result<Self> {
        if !PAGES.contains(&page) {
            return Err(Error::refused(format!("{page} is no page size of a swap area")));
        }
        let mut field = [0; LABEL_LENGTH];
        let Some(room) = field.get_mut(..label.len()).filter(|room| room.len() < LABEL_LENGTH)
        else {
            return Err(Error::refused(format!(
                "the swap label {label:?} is longer than 15 bytes"
            )));
        };
        room.copy_from_slice(label.as_bytes());
        let header = Self { order, page, last_page: 0, uuid, label: field };
        header.resized(size)
    }

    /// The header of the swap area on a volume of `size` bytes, of which `source` has the first ones;
    /// `None` where there is none that could be made anew: no signature, a hibernated system, bad pages,
    /// version 0.
    ///
    /// # Errors
    /// Reading; a header that contradicts itself or `size`.
    pub fn read(source: &dyn BlockSource, size: Bytes) -> Result<Option<Self>> {
        let Some(area) = Area::read(source, size)? else { return Ok(None) };
        Ok((area.state == State::Clean).then_some(area.header))
    }

    /// The same area on a volume of `size` bytes.
    ///
    /// # Errors
    /// [`Error::Refused`] below ten pages.
    pub fn resized(&self, size: Bytes) -> Result<Self> {
        let pages = size.units(self.page);
        if pages < MIN_PAGES {
            let page = self.page;
            return Err(Error::refused(format!(
                "a swap area of {page} pages needs ten, not {size}"
            )));
        }
        let last_page = u32::try_from(pages - 1).unwrap_or(u32::MAX - 1);
        Ok(Self { last_page, ..self.clone() })
    }

    /// The same area with another UUID.
    #[must_use]
    pub fn renamed(self, uuid: Uuid) -> Self {
        Self { uuid, ..self }
    }

    /// The whole first page of the area, zeros in front of the header.
    pub fn to_bytes(&self) -> Vec<u8> {
        let fields: [(usize, &[u8]); 5] = [
            (VERSION, &self.encode(1)),
            (LAST_PAGE, &self.encode(self.last_page)),
            (UUID, self.uuid.as_bytes()),
            (LABEL, &self.label),
            (signature_at(self.page), SIGNATURE),
        ];
        let mut page = vec![0; self.page.index().unwrap_or(0)];
        for (at, bytes) in fields {
            if let Some(field) = page.get_mut(at..).and_then(|rest| rest.get_mut(..bytes.len())) {
                field.copy_from_slice(bytes);
            }
        }
        page
    }

    fn encode(&self, number: u32) -> [u8; 4] {
        match self.order {
            ByteOrder::Little => number.to_le_bytes(),
            ByteOrder::Big => number.to_be_bytes(),
        }
    }
}

fn signature_at(page: Bytes) -> usize {
    page.index().unwrap_or(0).saturating_sub(SIGNATURE.len())
}

/// A swap area as found.
struct Area {
    header: Header,
    state: State,
    size: Bytes,
}

impl Area {
    fn read(source: &dyn BlockSource, volume: Bytes) -> Result<Option<Self>> {
        for page in PAGES.into_iter().filter(|page| *page <= source.size()) {
            // First the signature alone: what else is in so large a page may be anybody's, and unreadable.
            let place = Bytes::from(signature_at(page));
            let signature = match source.read(place, SIGNATURE.len()) {
                Err(error) if is_bad_sector(&error) => continue,
                read => read?,
            };
            let slept = HIBERNATED.iter().any(|mark| signature.starts_with(mark));
            if signature == *SIGNATURE_V0 {
                return Ok(Some(Self::version0(page, volume)));
            } else if slept || signature == *SIGNATURE {
                let bytes = source.read(Bytes::ZERO, page.index().unwrap_or(0))?;
                let header = Structure::new(NAME, Bytes::ZERO, &bytes);
                let slept = slept || bytes.starts_with(&TUX_ON_ICE);
                return Self::version1(&header, page, slept, volume).map(Some);
            }
        }
        Ok(None)
    }

    /// A bitmap of good pages instead of a header; made before Linux 2.2.
    fn version0(page: Bytes, volume: Bytes) -> Self {
        let (order, uuid, label) = (ByteOrder::Little, Uuid::nil(), [0; LABEL_LENGTH]);
        let header = Header { order, page, last_page: 0, uuid, label };
        let state = State::Raw("the swap area has the old version 0".to_owned());
        Self { header, state, size: volume }
    }

    fn version1(area: &Structure<'_>, page: Bytes, slept: bool, volume: Bytes) -> Result<Self> {
        let order = match (area.le32(VERSION)?, area.be32(VERSION)?) {
            (1, _) => ByteOrder::Little,
            (_, 1) => ByteOrder::Big,
            (found, _) => return Err(area.corrupt("version", VERSION, "1", found)),
        };
        let number = |at| match order {
            ByteOrder::Little => area.le32(at),
            ByteOrder::Big => area.be32(at),
        };
        let last_page = number(LAST_PAGE)?;
        let size = page.checked_mul(u64::from(last_page) + 1).unwrap_or(Bytes::MAX);
        if last_page == 0 || size > volume {
            let expected = format!("1 to {}", volume.units(page).saturating_sub(1));
            return Err(area.corrupt("last_page", LAST_PAGE, expected, last_page));
        }
        let uuid = Uuid::from_bytes(area.array(UUID)?);
        let label = area.array(LABEL)?;
        let state = if slept {
            State::Hibernated
        } else if number(BAD_PAGES)? != 0 {
            State::Raw("the swap area lists bad pages".to_owned())
        } else {
            State::Clean
        };
        Ok(Self { header: Header { order, page, last_page, uuid, label }, state, size })
    }
}

struct Swap {
    identity: Identity,
    state: State,
}

/// The swap area on `source`; `None` where none of its signatures is there.
///
/// # Errors
/// Reading; a header that contradicts itself or the volume's size.
pub fn probe(source: &Arc<dyn BlockSource>) -> Result<Option<Box<dyn Filesystem>>> {
    let Some(Area { header, state, size }) = Area::read(source, source.size())? else {
        return Ok(None);
    };
    let label = Structure::new(NAME, Bytes::ZERO, &header.label).text(0, LABEL_LENGTH)?;
    let identity = Identity {
        content: "swap",
        label: Some(label).filter(|label| !label.is_empty()),
        uuid: Some(header.uuid).filter(|uuid| !uuid.is_nil()).map(|uuid| uuid.to_string()),
        size,
        block_size: header.page,
        sector_limit: header.page,
        last_mounted: None,
    };
    Ok(Some(Box::new(Swap { identity, state })))
}

impl Filesystem for Swap {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn state(&self) -> Result<State> {
        Ok(self.state.clone())
    }

    fn used(&self) -> Result<ExtentSet> {
        match &self.state {
            State::Clean => Ok(Extent::first(self.identity.block_size).into()),
            State::Raw(reason) => Err(Error::refused(reason)),
            _ => Err(Error::refused("a hibernated system is in it")),
        }
    }

    fn growth(&self) -> Option<GrowthTool> {
        (self.state == State::Clean).then_some(GrowthTool::Swap)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Bytes, Extent, GrowthTool, Header, PAGES, State, Uuid, probe, signature_at};
    use crate::exec::real::Machine;
    use crate::exec::{Call, Runner};
    use crate::fs::Filesystem;
    use crate::io::BlockSource;
    use crate::io::memory::Memory;

    const UUID: &str = "c0ffee00-0000-4000-8000-000000000002";

    fn mkswap(size: Bytes, page: Bytes, label: &str) -> Vec<u8> {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(size.get()).unwrap();
        let path = file.path().to_str().unwrap();
        let page = page.get().to_string();
        Machine
            .check(&Call::new("mkswap", ["-f", "-p", &page, "-U", UUID, "-L", label, path]))
            .expect("install util-linux");
        std::fs::read(path).unwrap()
    }

    fn open(image: Vec<u8>) -> Box<dyn Filesystem> {
        let source: Arc<dyn BlockSource> = Arc::new(Memory::new(image));
        probe(&source).unwrap().expect("a swap area")
    }

    fn read(image: Vec<u8>) -> Option<Header> {
        let size = Bytes::of(&image);
        Header::read(&Memory::new(image), size).unwrap()
    }

    #[test]
    fn the_first_page_is_enough_to_read_a_header() {
        let image = mkswap(Bytes::mib(40), Bytes::kib(4), "leaf");
        let page = Memory::new(image[..4096].to_vec());
        assert_eq!(Header::read(&page, Bytes::mib(40)).unwrap(), read(image));
        assert!(Header::read(&page, Bytes::mib(39)).is_err());
    }

    fn little() -> Vec<u8> {
        mkswap(Bytes::mib(1), Bytes::kib(4), "leaf")
    }

    /// The same area as a machine of the other byte order would have written it.
    fn big(mut image: Vec<u8>) -> Vec<u8> {
        for field in [super::VERSION, super::LAST_PAGE, super::BAD_PAGES] {
            image[field..field + 4].reverse();
        }
        image
    }

    /// What `program` says of an area of `size` that starts with `header`.
    fn told(header: &[u8], size: Bytes, program: &str, args: &[&str]) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), header).unwrap();
        file.as_file().set_len(size.get()).unwrap();
        let path = file.path().to_str().unwrap();
        let call = Call::new(program, args.iter().chain(&[path]));
        Machine.check(&call).expect("install util-linux").text()
    }

    #[test]
    fn util_linux_reads_what_is_made() {
        let order = [super::ByteOrder::Little, super::ByteOrder::Big];
        for (order, page) in order.into_iter().flat_map(|o| PAGES.map(|page| (o, page))) {
            let uuid = Uuid::parse_str(UUID).unwrap();
            let made = Header::new(Bytes::mib(2), page, order, uuid, "leaf").unwrap().to_bytes();
            let blkid = told(&made, Bytes::mib(2), "blkid", &["-p", "-o", "export"]);
            for line in ["TYPE=swap", "LABEL=leaf", "VERSION=1", &format!("UUID={UUID}")] {
                assert!(blkid.lines().any(|told| told == line), "{line}: {blkid}");
            }
        }
        let made = read(little()).unwrap().to_bytes();
        let label = told(&made, Bytes::mib(1), "swaplabel", &[]);
        assert_eq!(label, format!("LABEL: leaf\nUUID:  {UUID}\n"));
    }

    #[test]
    fn every_page_size_is_known_and_made_again_byte_for_byte() {
        for page in PAGES {
            // Not a whole number of pages.
            let size = Bytes::new(page.get() * 20 + 512);
            let image = mkswap(size, page, "leaf");
            let volume = open(image.clone());
            let identity = volume.identity();
            assert_eq!((identity.content, identity.label.as_deref()), ("swap", Some("leaf")));
            assert_eq!(identity.uuid.as_deref(), Some(UUID));
            assert_eq!((identity.size.units(page), identity.block_size), (20, page));
            assert_eq!(volume.state().unwrap(), State::Clean);
            assert_eq!(volume.used().unwrap(), Extent::first(page).into());
            assert_eq!(volume.growth(), Some(GrowthTool::Swap));

            let larger = Bytes::new(page.get() * 33);
            let header = read(image).unwrap();
            let made = header.resized(larger).unwrap().to_bytes();
            let expected = mkswap(larger, page, "leaf");
            assert_eq!(made, expected[..page.index().unwrap()]);
            let uuid = Uuid::parse_str(UUID).unwrap();
            let new = Header::new(larger, page, super::ByteOrder::Little, uuid, "leaf").unwrap();
            assert_eq!(new.to_bytes(), made);
        }
    }

    #[test]
    fn a_label_in_another_encoding_stays() {
        let mut image = little();
        image[super::LABEL..super::LABEL + 16].fill(0xE9);
        let made = read(image.clone()).unwrap().to_bytes();
        assert_eq!(made[1024..], image[1024..4096]);
    }

    #[test]
    fn the_other_byte_order_stays() {
        let image = big(little());
        assert_eq!(open(image.clone()).identity().size, Bytes::mib(1));
        let header = read(image).unwrap();
        let larger = big(mkswap(Bytes::mib(3), Bytes::kib(4), "leaf"));
        assert_eq!(header.resized(Bytes::mib(3)).unwrap().to_bytes(), larger[..4096]);
    }

    #[test]
    fn hibernated_systems_are_not_given_up() {
        let at = signature_at(Bytes::kib(4));
        for mark in super::HIBERNATED {
            let mut image = little();
            image[at..at + mark.len()].copy_from_slice(mark);
            refused(image, State::Hibernated, "a hibernated system is in it");
        }
        let mut image = little();
        image[..8].copy_from_slice(&super::TUX_ON_ICE);
        refused(image, State::Hibernated, "a hibernated system is in it");
    }

    fn refused(image: Vec<u8>, state: State, reason: &str) {
        let volume = open(image.clone());
        assert_eq!(volume.state().unwrap(), state);
        assert_eq!(volume.used().unwrap_err().to_string(), reason);
        assert_eq!(volume.growth(), None);
        assert_eq!(read(image), None);
    }

    #[test]
    fn bad_pages_and_the_old_version_are_saved_raw() {
        for (at, bytes, reason) in [
            (super::BAD_PAGES, &[1][..], "the swap area lists bad pages"),
            (4086, super::SIGNATURE_V0, "the swap area has the old version 0"),
        ] {
            let mut image = little();
            image[at..at + bytes.len()].copy_from_slice(bytes);
            refused(image, State::Raw(reason.to_owned()), reason);
        }
    }

    #[test]
    fn headers_that_contradict_themselves() {
        for (at, number, error) in [
            (super::VERSION, 2, "swap header version at byte 1024: expected 1, found 2"),
            (super::LAST_PAGE, 0, "swap header last_page at byte 1028: expected 1 to 255, found 0"),
            (
                super::LAST_PAGE,
                256,
                "swap header last_page at byte 1028: expected 1 to 255, found 256",
            ),
        ] {
            let mut image = little();
            image[at..at + 4].copy_from_slice(&u32::to_le_bytes(number));
            let source: Arc<dyn BlockSource> = Arc::new(Memory::new(image));
            assert_eq!(probe(&source).err().unwrap().to_string(), error);
        }
        let source: Arc<dyn BlockSource> = Arc::new(Memory::new(vec![0; 100]));
        assert!(probe(&source).unwrap().is_none());
    }

    #[test]
    fn headers_that_cannot_be_made() {
        let make = |size, page, label: &str| {
            let order = super::ByteOrder::Little;
            Header::new(size, page, order, Uuid::nil(), label).unwrap_err().to_string()
        };
        let page = Bytes::kib(4);
        assert_eq!(
            make(Bytes::kib(39), page, ""),
            "a swap area of 4 KiB pages needs ten, not 39 KiB"
        );
        assert_eq!(make(Bytes::MIB, Bytes::kib(5), ""), "5 KiB is no page size of a swap area");
        let long = "sixteen letters!";
        assert_eq!(
            make(Bytes::MIB, page, long),
            "the swap label \"sixteen letters!\" is longer than 15 bytes"
        );
    }
}
