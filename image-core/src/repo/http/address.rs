//! The address of a web server's folder, as a person types it. Its password is shown nowhere.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{
    AsciiSet, CONTROLS, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode,
};
use ureq::http::Uri;

use crate::error::{Error, Result};

/// What cannot stand in the path of a URL as it is (RFC 3986, section 3.3); `%` can: it may be encoded already.
const NOT_IN_PATHS: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'<')
    .add(b'>')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// The user that a machine is which carries out an order of the server; the password is the order's grant.
pub const ORDERED: &str = "order";

/// `http://[USER[:PASSWORD]@]HOST[:PORT]/PATH`, not checked yet.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    scheme: String,
    /// What stands before the last `@`.
    login: Option<String>,
    /// Host, port and path.
    place: String,
}

impl Address {
    /// Takes a text for an address where it begins like one, with or without TLS.
    pub fn of(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        if !["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
            return None;
        }
        let (login, place) = match rest.rsplit_once('@') {
            Some((login, place)) => (Some(login.to_owned()), place),
            None => (None, rest),
        };
        Some(Self { scheme: scheme.to_ascii_lowercase(), login, place: place.to_owned() })
    }

    /// The address as it was typed, password and all: for a command that is run, not for one that is shown.
    pub fn as_typed(&self) -> String {
        let login = self.login.iter().map(|login| format!("{login}@")).collect::<String>();
        format!("{}://{login}{}", self.scheme, self.place)
    }

    /// The same address for somebody else, whose user and password these are.
    #[must_use]
    pub fn with_login(&self, user: &str, password: &str) -> Self {
        let [user, password] =
            [user, password].map(|text| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string());
        Self { login: Some(format!("{user}:{password}")), ..self.clone() }
    }

    /// The password of who logs in.
    pub(super) fn password(&self) -> Option<String> {
        let (_, password) = self.login.as_deref()?.split_once(':')?;
        percent_decode_str(password).decode_utf8().ok().map(|password| password.into_owned())
    }

    /// Whether somebody logs in there.
    pub fn has_login(&self) -> bool {
        self.login.is_some()
    }

    /// Whether the server takes files from who logs in so: who carries out an order of its own.
    pub fn is_written(&self) -> bool {
        self.login.as_deref().is_some_and(|login| login.split(':').next() == Some(ORDERED))
    }

    /// The URL of the folder, with a slash at its end and without a login.
    ///
    /// # Errors
    /// `Refused` where it is none, or one that is reached by TLS.
    pub(super) fn folder(&self) -> Result<String> {
        if self.scheme != "http" {
            return Err(Error::refused(format!(
                "{self}: https is not supported; name the server with http://, or bring its folder here by a tunnel \
                 (ssh -L 8080:localhost:80 SERVER)"
            )));
        }
        let place = utf8_percent_encode(self.place.trim_end_matches('/'), NOT_IN_PATHS);
        let url = format!("http://{place}/");
        let is_folder =
            !url.contains(['?', '#']) && !self.login.iter().any(|login| login.contains('/'));
        let uri = url.parse::<Uri>().ok().filter(|_| is_folder);
        if uri.as_ref().and_then(Uri::host).is_none_or(str::is_empty) {
            return Err(Error::refused(format!(
                "{self} is not the address of a folder, such as http://192.168.1.5/backup (a /, ?, # or @ in a name \
                 or password is written as %2F, %3F, %23, %40)"
            )));
        }
        Ok(url)
    }

    /// The header that tells the server who asks (RFC 7617).
    pub(super) fn authorization(&self) -> Option<String> {
        let login = self.login.as_deref()?;
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        let decoded = |text: &str| percent_decode_str(text).collect::<Vec<u8>>();
        let both = [decoded(user), decoded(password)].join(&b':');
        Some(format!("Basic {}", STANDARD.encode(both)))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.scheme)?;
        match self.login.as_deref().map(|login| login.split_once(':').unwrap_or((login, ""))) {
            Some((user, "")) => write!(f, "{user}@")?,
            Some((user, _)) => write!(f, "{user}:***@")?,
            None => {}
        }
        f.write_str(&self.place)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::Address;

    fn folder(text: &str) -> Result<String, String> {
        Address::of(text).unwrap().folder().map_err(|error| error.to_string())
    }

    #[test]
    fn addresses_are_told_from_folders() {
        for text in ["/backup", "backup", "http:", "http:/x", "ftp://x/y", "", "C://x"] {
            assert_eq!(Address::of(text), None, "{text}");
        }
        assert!(Address::of("HTTP://x").is_some());
    }

    #[test]
    fn an_address_is_a_folder() {
        for (text, url) in [
            ("http://server", "http://server/"),
            ("http://10.0.0.1:8080/a//", "http://10.0.0.1:8080/a/"),
            ("http://[::1]:80/a", "http://[::1]:80/a/"),
            ("HTTP://u:p@server/my images/ä%20b", "http://server/my%20images/%C3%A4%20b/"),
        ] {
            assert_eq!(folder(text).unwrap(), url, "{text}");
        }
        for wrong in [
            "http://",
            "http:///backup",
            "http://s/a?b",
            "http://s/a#b",
            "http://u:a/b@s/c",
            "http://a b/",
        ] {
            assert!(folder(wrong).unwrap_err().contains("not the address"), "{wrong}");
        }
        assert!(folder("https://u:secret@server/").unwrap_err().contains("https is not supported"));
    }

    #[test]
    fn a_password_is_sent_but_not_shown() {
        let address = Address::of("http://anna:s%40c/ret@server/a").unwrap();
        for shown in
            [address.to_string(), format!("{address:?}"), folder(&address.as_typed()).unwrap_err()]
        {
            assert!(
                shown.contains("http://anna:***@server/a") && !shown.contains("ret"),
                "{shown}"
            );
        }
        let header = |text| Address::of(text).unwrap().authorization();
        // RFC 7617, section 2, with the password of its example, and one with a sign that a URL needs encoded.
        assert_eq!(
            header("http://Aladdin:open%20sesame@x").as_deref(),
            Some("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==")
        );
        assert_eq!(header("http://a@x").as_deref(), Some("Basic YTo="));
        assert_eq!(header("http://x/"), None);
        let ordered = Address::of("http://x/r").unwrap().with_login(super::ORDERED, "a/b");
        assert_eq!(
            (ordered.to_string(), ordered.is_written()),
            ("http://order:***@x/r".into(), true)
        );
        assert_eq!(ordered.authorization().as_deref(), Some("Basic b3JkZXI6YS9i"));
        assert!(
            !address.is_written() && address.has_login() && folder(&ordered.as_typed()).is_ok()
        );
    }
}
