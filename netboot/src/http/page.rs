//! The list of a folder, as a page of links: which is how a repository is read over HTTP.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// What a link needs no encoding for (RFC 3986, section 2.3).
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Lists an open folder; a folder in it has a slash at its end.
pub(super) fn list(folder: &OwnedFd) -> std::io::Result<String> {
    let mut links = Vec::new();
    for entry in fs::read_dir(format!("/proc/self/fd/{}", folder.as_raw_fd()))? {
        let entry = entry?;
        let slash = if entry.file_type()?.is_dir() { "/" } else { "" };
        let name = utf8_percent_encode(&entry.file_name().to_string_lossy(), ENCODED).to_string();
        links.push(format!("<a href=\"{name}{slash}\">{name}{slash}</a>\n"));
    }
    links.sort();
    Ok(format!("<!DOCTYPE html>\n<pre>\n{}</pre>\n", links.concat()))
}
