//! The page on which a web server lists a folder: whatever it looks like, the files are links.

use crate::repo::read::check_path;

/// The names of the files of a folder, each once: the links on its page whose target is a plain name.
///
/// What leads elsewhere is no file of this folder: `../`, folders (with a slash at their end), `?C=N` to sort by name,
/// `/icons/`. Names of a repository need no encoding, neither as URLs nor in HTML.
pub fn names(page: &[u8]) -> Vec<String> {
    let mut names: Vec<String> = targets(page).filter_map(name).map(str::to_owned).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// What the attributes `href` say, in double or single quotes.
fn targets(page: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = page;
    std::iter::from_fn(move || {
        loop {
            let at = rest.windows(5).position(|word| word.eq_ignore_ascii_case(b"href="))?;
            rest = rest.get(at + 5..)?;
            if let Some((quote @ (b'"' | b'\''), behind)) = rest.split_first() {
                let end = behind.iter().position(|byte| byte == quote)?;
                rest = behind.get(end..)?;
                return behind.get(..end);
            }
        }
    })
}

/// The file of this folder that a link leads to.
fn name(target: &[u8]) -> Option<&str> {
    let target = std::str::from_utf8(target).ok()?;
    // Caddy writes names so.
    let name = target.strip_prefix("./").unwrap_or(target);
    (!name.contains('/') && check_path(name).is_ok()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::names;

    #[test]
    fn every_server_lists_by_links() {
        // As nginx 1.22, Apache 2.4 (plain and with tables), lighttpd 1.4, Caddy 2.6 and Python 3.11 write them.
        for page in [
            "<h1>Index of /r/</h1><hr><pre><a href=\"../\">../</a>\n<a href=\"packs/\">packs/</a>  22-Nov-2026  -\n\
             <a href=\"keiki\">keiki</a>   22-Nov-2026 06:22   183\n<a href=\"0a.1\">0a..&gt;</a></pre>",
            "<ul><li><a href=\"/\"> Parent Directory</a></li>\n<li><a href=\"keiki\"> keiki</a></li>\n\
             <li><a href=\"packs/\"> packs/</a></li><li><a href=\"0a.1\"> 0a.1</a></li></ul>",
            "<th><a href=\"?C=N;O=D\">Name</a></th><img src=\"/icons/unknown.gif\"><td><A HREF='0a.1'>0a.1</A></td>\
             <td><a href=\"keiki\">keiki</a></td>",
            "<tr class=\"d\"><td class=\"n\"><a href=\"../\">..</a>/</td></tr><tr><td class=\"n\">\
             <a href=\"0a.1\">0a.1</a></td></tr><td class=\"n\"><a href=\"keiki\">keiki</a></td>",
            "<a href=\"./keiki\"><svg></svg></a> <a href=\"./packs/\">packs/</a> <a href=\"./0a.1\">0a.1</a>\
             <a href=\"https://caddyserver.com\">",
            "<ul>\n<li><a href=\"0a.1\">0a.1</a></li>\n<li><a href=\"keiki\">keiki</a></li>\n</ul>",
        ] {
            assert_eq!(names(page.as_bytes()), ["0a.1", "keiki"], "{page}");
        }
    }

    #[test]
    fn nothing_else_is_a_file() {
        for page in [
            "",
            "href=",
            "href=\"",
            "href=keiki",
            "href=\"keiki'",
            "<a href=\"/packs/keiki\"><a href=\"..\"><a href=\".\"><a href=\"Keiki\"><a href=\"nul\">",
            "<a href=\"http://x/keiki\"><a href=\"keiki?x\"><a href=\"%2e%2e\"><a href=\"././keiki\"><a href=\"\">",
        ] {
            assert!(names(page.as_bytes()).is_empty(), "{page}");
        }
        assert_eq!(names(b"\xff<a href=\"\xff\"><a href=\"a\"><a href=\"a\">"), ["a"]);
        assert_eq!(names(b"href=href=\"a\""), ["a"]);
    }
}
