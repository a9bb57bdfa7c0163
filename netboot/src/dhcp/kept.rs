//! The file of who has which address: a server that is started again gives none of them to somebody else.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use image_core::error::{Error, Result};

use super::leases::Leases;
use crate::secret::keep;

/// More than the leases of the longest range take, in bytes.
const LONGEST: u64 = 16 << 20;

/// A file of leases, and the time of which they speak.
///
/// It is the clock's as it was when this program began, and goes on steadily from there: who sets the clock meanwhile changes
/// nothing. From one run to the next it may jump. Forward, leases are over too early: their addresses are given to others
/// last of all, and not while somebody answers there. Back, they end later, never after the time of a new one.
#[derive(Debug)]
pub struct Kept {
    file: PathBuf,
    clock: Duration,
    began: Instant,
}

impl Kept {
    /// Those of an interface, in the folder of a site, where others may serve other interfaces.
    pub fn new(folder: &Path, interface: &str) -> Self {
        let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let file = folder.join(format!("leases-{interface}.json"));
        Self { file, clock, began: Instant::now() }
    }

    /// The time, in seconds since 1970.
    pub fn now(&self) -> u64 {
        (self.clock + self.began.elapsed()).as_secs()
    }

    /// Takes over what was given before; nothing where there is no file.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Refused`]: it is something else. Nothing is taken over.
    pub fn read(&self, leases: &mut Leases) -> Result<()> {
        let name = self.file.display().to_string();
        let mut bytes = Vec::new();
        match File::open(&self.file).and_then(|file| file.take(LONGEST).read_to_end(&mut bytes)) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::io(name, "read", error)),
        }
        leases.take_over(&bytes, self.now()).map_err(|error| {
            Error::refused(format!("{name} is no list of addresses that were given ({error})"))
        })
    }

    /// Writes down what was given since the last time, if anything.
    ///
    /// # Errors
    /// [`Error::Io`]: the file is as it was; the next time it is tried again.
    pub(crate) fn write(&self, leases: &mut Leases) -> Result<()> {
        let Some(bytes) = leases.changed() else { return Ok(()) };
        let failed = |error: io::Error| Error::io(self.file.display().to_string(), "write", error);
        keep(&self.file, &bytes).map_err(failed)?;
        leases.are_kept();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::Ipv4Addr;

    use super::Kept;
    use crate::dhcp::leases::{LEASE, Leases};
    use crate::event::Mac;

    const OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

    fn leases(kept: &Kept) -> (Leases, Option<String>) {
        let mut leases = Leases::new("10.0.0.1-10.0.0.4".parse().unwrap(), OWN);
        let why = kept.read(&mut leases).err().map(|error| error.to_string());
        (leases, why)
    }

    fn at(number: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, number)
    }

    fn mac(number: u8) -> Mac {
        Mac([2, 0, 0, 0, 0, number])
    }

    #[test]
    fn what_was_given_is_known_again() {
        let work = tempfile::tempdir().unwrap();
        let kept = Kept::new(work.path(), "eth1");
        let (mut before, why) = leases(&kept);
        assert_eq!(why, None, "there is no file");
        let now = kept.now();
        assert_eq!(before.offer(mac(1), now), Some(at(2)));
        kept.write(&mut before).unwrap();
        assert!(!kept.file.exists(), "an offer is no lease");
        assert!(before.take(mac(1), at(2), now));
        assert_eq!(before.offer(mac(2), now), Some(at(3)));
        before.decline(mac(2), at(3), now);
        kept.write(&mut before).unwrap();
        let (mut again, why) = leases(&kept);
        assert_eq!(why, None);
        assert_eq!(again.offer(mac(2), now), Some(at(4)), "neither the other's nor the one in use");
        assert_eq!(again.offer(mac(1), now), Some(at(2)));
        // Where it cannot be written it is tried again.
        assert!(again.take(mac(1), at(2), now + 5));
        let nowhere = Kept::new(&kept.file, "eth1");
        assert!(nowhere.write(&mut again).is_err());
        kept.write(&mut again).unwrap();
        assert!(
            fs::read_to_string(&kept.file)
                .unwrap()
                .contains(&format!("{}", now + 5 + u64::from(LEASE)))
        );
    }

    #[test]
    fn a_damaged_file_is_told_and_left_alone() {
        let work = tempfile::tempdir().unwrap();
        let kept = Kept::new(work.path(), "eth1");
        let line =
            |until: u64| format!(r#""10.0.0.2":{{"mac":"02:00:00:00:00:01","until":{until}}}"#);
        let now = kept.now();
        for wrong in ["", "[]", "{\"10.0.0.2\":7}", &format!("{{{}", line(now)), "\u{0}\u{0}"] {
            fs::write(&kept.file, wrong).unwrap();
            let (mut leases, why) = leases(&kept);
            let why = why.unwrap();
            assert!(why.contains("leases-eth1.json is no list of addresses"), "{why}");
            assert_eq!(leases.offer(mac(1), now), Some(at(2)));
        }
        // Our own address, one of another range, one that is given for ever.
        let own = r#""10.0.0.1":{"mac":"02:00:00:00:00:02","until":1}, "10.9.0.1":{"mac":null,"until":1}"#;
        fs::write(&kept.file, format!("{{{own}, {}}}", line(u64::MAX))).unwrap();
        let (mut leases, why) = leases(&kept);
        assert_eq!(why, None);
        assert_eq!(leases.offer(mac(2), now), Some(at(3)));
        assert_eq!(leases.offer(mac(1), now), Some(at(2)));
        assert_eq!(leases.offer(mac(4), now), Some(at(4)));
        assert_eq!(leases.offer(mac(5), now), None);
        let later = kept.now() + u64::from(LEASE);
        assert_eq!(leases.offer(mac(6), now + 61), Some(at(3)), "an offer that nobody took");
        assert_eq!(leases.offer(mac(7), later), Some(at(4)));
        assert_eq!(leases.offer(mac(8), later), Some(at(3)));
        assert_eq!(leases.offer(mac(9), later), Some(at(2)), "not for ever");
    }
}
