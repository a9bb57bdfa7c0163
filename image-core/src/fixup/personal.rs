//! What tells machines of one image apart: host names, `/etc/hosts`, machine ids, SSH host keys. Pure.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::error::{Error, Result};

/// Linux keeps no longer one (`__NEW_UTS_LEN`), though RFC 1123 allows 255.
const LONGEST_NAME: usize = 64;
/// RFC 1035, 2.3.4.
const LONGEST_LABEL: usize = 63;
/// What Windows keeps of a computer's name for NetBIOS.
const LONGEST_NETBIOS: usize = 15;
/// What ssh-keygen makes unasked, and what does not take minutes.
const RSA_BITS: [u32; 2] = [3072, 8192];

/// A host name, with a domain or without.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostName(String);

impl FromStr for HostName {
    type Err = Error;

    /// RFC 1123, 2.1: labels of letters, digits and hyphens.
    fn from_str(text: &str) -> Result<Self> {
        let refused = |why: &str| Err(Error::refused(format!("not a host name: {why}")));
        let is_label = |label: &str| {
            (1..=LONGEST_LABEL).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if !text.split('.').all(is_label) {
            return refused(
                "between its dots are 1 to 63 letters, digits and hyphens, with no hyphen first or last",
            );
        }
        if text.len() > LONGEST_NAME {
            return refused("Linux takes at most 64 characters");
        }
        let last = text.rsplit('.').next().unwrap_or_default();
        if last.bytes().all(|byte| byte.is_ascii_digit()) {
            return refused("it ends in a number, as an address does");
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl HostName {
    /// Without its domain.
    pub fn short(&self) -> &str {
        self.0.split('.').next().unwrap_or_default()
    }

    /// What Windows calls a machine of that name, or why it would not: a name for NetBIOS, as answer files have it.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn computer_name(&self) -> Result<&str> {
        let name = self.short();
        if name.len() > LONGEST_NETBIOS {
            let why = format!("Windows takes at most {LONGEST_NETBIOS} characters, and no domain");
            return Err(Error::refused(why));
        }
        if name.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Error::refused("Windows takes no name of digits only"));
        }
        Ok(name)
    }

    /// Whether `other` is the same name.
    pub fn is(&self, other: &str) -> bool {
        self.0.eq_ignore_ascii_case(other)
    }

    /// What stands where `word` does, if that is the host `old`: the name of old, with its domain or with another.
    fn instead_of(&self, word: &str, old: &str) -> Option<String> {
        let (host, domain) = word.split_once('.').unwrap_or((word, ""));
        if !host.eq_ignore_ascii_case(old) {
            return None;
        }
        Some(match (domain, self.0.contains('.')) {
            ("", _) => self.short().to_owned(),
            (_, true) => self.0.clone(),
            (domain, false) => format!("{}.{domain}", self.0),
        })
    }
}

/// The name in `/etc/hostname`, if it is one; hostname(5): the first line that is no comment. systemd takes `_` too.
pub fn name(text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(text).ok()?;
    let mut lines = text.lines().map(str::trim);
    let name = lines.find(|line| !line.is_empty() && !line.starts_with('#'))?;
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (name.len() <= LONGEST_NAME && name.bytes().all(is_part)).then(|| name.to_owned())
}

/// `/etc/hosts` after the host `old` became `new`, where that changes it: only what stands behind addresses of the
/// machine itself. Other lines may list the whole room.
pub fn hosts(text: &[u8], old: &str, new: &HostName) -> Option<Vec<u8>> {
    let old = old.split('.').next().unwrap_or_default();
    if old.is_empty() || old.eq_ignore_ascii_case("localhost") {
        return None;
    }
    let lines = text.split_inclusive(|byte| *byte == b'\n');
    let changed = lines.map(|line| match std::str::from_utf8(line) {
        Ok(line) => hosts_line(line, old, new).into_bytes(),
        Err(_) => line.to_vec(),
    });
    let changed: Vec<u8> = changed.flatten().collect();
    (changed != text).then_some(changed)
}

fn hosts_line(line: &str, old: &str, new: &HostName) -> String {
    let (names, comment) = line.split_at(line.find('#').unwrap_or(line.len()));
    let address = names.split_whitespace().next().and_then(|word| word.parse::<IpAddr>().ok());
    if !address.is_some_and(|address| address.is_loopback()) {
        return line.to_owned();
    }
    let words = names.split_inclusive(char::is_whitespace).map(|word| {
        let bare = word.trim_end();
        match new.instead_of(bare, old) {
            Some(name) => name + word.get(bare.len()..).unwrap_or_default(),
            None => word.to_owned(),
        }
    });
    words.collect::<String>() + comment
}

/// Whether a file says what machine this is; machine-id(5): 32 hexadecimal digits. One that is empty, or says
/// `uninitialized`, is filled by the system as it starts.
pub fn is_machine_id(text: &[u8]) -> bool {
    let text = text.trim_ascii();
    text.len() == 32 && text.iter().all(u8::is_ascii_hexdigit)
}

/// The files that a configuration of sshd names as host keys; sshd_config(5): keywords in any case, `=` or spaces.
pub fn host_keys(config: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(config);
    let path = |line: &str| {
        let (key, value) = line.trim().split_once(|c: char| c.is_whitespace() || c == '=')?;
        let value = value.trim_start_matches(|c: char| c.is_whitespace() || c == '=').trim();
        let path = value.trim_matches('"').strip_prefix('/').filter(|path| !path.is_empty());
        path.filter(|_| key.eq_ignore_ascii_case("HostKey")).map(str::to_owned)
    };
    text.lines().filter_map(path).collect()
}

/// A kind of key that ssh-keygen makes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyKind {
    /// As `-t` takes it.
    pub name: &'static str,
    /// As `-b` takes it.
    pub bits: Option<u32>,
}

/// The kind of the host key `file`, as its public half tells it, or else its name.
pub fn key_kind(file: &str, public: Option<&[u8]>) -> Option<KeyKind> {
    let kind = |name, bits| Some(KeyKind { name, bits });
    let public = public.and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default();
    let mut words = public.split_whitespace();
    let first = words.next().unwrap_or_default();
    if let Some(curve) = first.strip_prefix("ecdsa-sha2-nistp") {
        return kind("ecdsa", curve.parse().ok().filter(|bits| [256, 384, 521].contains(bits)));
    }
    match first {
        "ssh-ed25519" => kind("ed25519", None),
        "ssh-rsa" => kind("rsa", words.next().and_then(rsa_bits)),
        _ => match file.rsplit('/').next()?.strip_prefix("ssh_host_")? {
            "ed25519_key" => kind("ed25519", None),
            "ecdsa_key" => kind("ecdsa", None),
            "rsa_key" => kind("rsa", None),
            _ => None,
        },
    }
}

/// The size of an RSA key; RFC 4253, 6.6: of three fields, each behind its length, the last is the modulus.
fn rsa_bits(blob: &str) -> Option<u32> {
    let mut rest = STANDARD.decode(blob).ok()?;
    let mut field = Vec::new();
    for _ in 0..3 {
        let length = u32::from_be_bytes(*rest.first_chunk()?);
        let end = usize::try_from(length).ok()?.checked_add(4)?;
        field = rest.get(4..end)?.to_vec();
        rest.drain(..end);
    }
    let bytes = field.iter().skip_while(|byte| **byte == 0).count();
    let [least, most] = RSA_BITS;
    u32::try_from(bytes.checked_mul(8)?).ok().map(|bits| bits.clamp(least, most))
}

/// Whether the public half `text` of a key was made on the host `name`: ssh-keygen notes `root@HOST` behind it.
pub fn is_key_of(text: &[u8], name: &HostName) -> bool {
    let text = String::from_utf8_lossy(text);
    let host = text.trim().rsplit_once('@').map(|(_, host)| host);
    host.is_some_and(|host| name.is(host))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        HostName, KeyKind, RSA_BITS, host_keys, hosts, is_key_of, is_machine_id, key_kind, name,
    };

    fn host(name: &str) -> HostName {
        name.parse().unwrap()
    }

    #[test]
    fn a_host_name_is_what_linux_and_rfc_1123_take() {
        let longest = format!("{}.e", "x".repeat(62));
        for good in ["lab-07", "LAB-07", "3com", "a", "lab.example.org", "1.2.3.x4", &longest] {
            assert_eq!(host(good).to_string(), good);
        }
        let (label, whole) = ("x".repeat(64), format!("{}.ee", "x".repeat(62)));
        for bad in [
            "", ".", "lab.", ".lab", "a..b", "-lab", "lab-", "a.-b", "lab_07", "lab 07", "läb",
            "lab\n", "a/b", "7", "10.0.0.7", "lab.7", &label, &whole,
        ] {
            let error = bad.parse::<HostName>().unwrap_err();
            assert!(error.to_string().contains("not a host name"), "{error}");
        }
    }

    #[test]
    fn a_name_is_the_first_line_that_is_no_comment() {
        for (text, found) in [
            ("lab\n", Some("lab")),
            ("# x\n\n  lab.example.org \nother", Some("lab.example.org")),
            ("", None),
            ("#lab", None),
            ("lab_07", Some("lab_07")),
            ("lab\x1b[2J", None),
        ] {
            assert_eq!(name(text.as_bytes()).as_deref(), found, "{text}");
        }
    }

    #[test]
    fn hosts_say_the_new_name_where_they_said_the_old_one_of_this_machine() {
        for (old, new, before, after) in [
            ("old", "lab-07", "127.0.1.1 old\n", "127.0.1.1 lab-07\n"),
            (
                "old",
                "lab-07",
                "127.0.1.1\told.example.org  OLD # old\n",
                "127.0.1.1\tlab-07.example.org  lab-07 # old\n",
            ),
            ("old.example.org", "lab-07", "::1 localhost old", "::1 localhost lab-07"),
            (
                "old",
                "lab-07.new.org",
                "127.0.0.1 old.example.org old localhost\n",
                "127.0.0.1 lab-07.new.org lab-07 localhost\n",
            ),
        ] {
            let changed = hosts(before.as_bytes(), old, &host(new)).unwrap();
            assert_eq!(String::from_utf8(changed).unwrap(), after);
        }
        for (old, text) in [
            ("old", "127.0.1.1 older.example.org old-2 very.old xold\n"),
            ("old", "10.0.0.1 old old.example.org\n#127.0.1.1 old\nold old\n"),
            ("localhost", "127.0.0.1 localhost localhost.localdomain\n"),
            ("", "127.0.0.1 localhost\n"),
            ("lab-07", "127.0.1.1 lab-07\n"),
        ] {
            assert_eq!(hosts(text.as_bytes(), old, &host("lab-07")), None, "{text}");
        }
        // A line that is no text stays as it is.
        let changed = hosts(b"\xff old\n127.1.2.3 old\n", "old", &host("x")).unwrap();
        assert_eq!(changed, b"\xff old\n127.1.2.3 x\n");
    }

    #[test]
    fn only_an_id_is_an_id() {
        assert!(is_machine_id(b"0123456789abcdef0123456789abcdef\n"));
        for text in ["", "uninitialized\n", "0123", "0123456789abcdef0123456789abcdeg"] {
            assert!(!is_machine_id(text.as_bytes()));
        }
    }

    #[test]
    fn host_keys_are_found_where_sshd_is_told_of_them() {
        let config = b"#HostKey /etc/ssh/no\n HOSTKEY = \"/etc/keys/a\"\nHostKey /b\nHostKeyAlgorithms /c\nHostKey\nHostKey x\n";
        assert_eq!(host_keys(config), ["etc/keys/a", "b"]);
    }

    #[test]
    fn a_kind_is_told_by_the_public_half_and_else_by_the_name() {
        use base64::Engine;
        let rsa = |bytes: usize| {
            let mut blob = Vec::new();
            for field in [b"ssh-rsa".to_vec(), vec![1, 0, 1], [vec![0], vec![0x80; bytes]].concat()]
            {
                blob.extend(u32::try_from(field.len()).unwrap().to_be_bytes());
                blob.extend(field);
            }
            format!("ssh-rsa {} root@x", super::STANDARD.encode(blob))
        };
        let kind = |file: &str, public: Option<&str>| {
            key_kind(file, public.map(str::as_bytes)).map(|KeyKind { name, bits }| (name, bits))
        };
        for (bytes, bits) in [(512, 4096), (256, RSA_BITS[0]), (4096, RSA_BITS[1])] {
            assert_eq!(kind("etc/ssh/x", Some(&rsa(bytes))), Some(("rsa", Some(bits))));
        }
        assert_eq!(kind("x", Some("ssh-rsa AAAA")), Some(("rsa", None)));
        assert_eq!(kind("x", Some("ecdsa-sha2-nistp384 A")), Some(("ecdsa", Some(384))));
        assert_eq!(kind("x", Some("ssh-ed25519 A")), Some(("ed25519", None)));
        assert_eq!(kind("etc/ssh/ssh_host_ecdsa_key", None), Some(("ecdsa", None)));
        assert_eq!(kind("ssh_host_dsa_key", Some("ssh-dss A")), None);
        assert_eq!(kind("etc/dropbear/dropbear_rsa_host_key", None), None);
    }

    #[test]
    fn a_key_belongs_to_the_host_that_it_names() {
        let name = host("lab-07");
        for (text, own) in [
            ("ssh-ed25519 A root@lab-07\n", true),
            ("ssh-ed25519 A root@LAB-07", true),
            ("ssh-ed25519 A root@lab-070", false),
            ("ssh-ed25519 A lab-07", false),
            ("", false),
        ] {
            assert_eq!(is_key_of(text.as_bytes(), &name), own, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_renamed_twice(text in "((127.0.1.1|::1|10.0.0.1|#|old|old\\.org|x)[ \n\t])*") {
            let new = host("lab-07");
            if let Some(once) = hosts(text.as_bytes(), "old", &new) {
                prop_assert_eq!(hosts(&once, "old", &new), None);
            }
        }
    }
}
