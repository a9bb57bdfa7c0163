//! The grammar of LVM's metadata text: `key = value` and `name { ... }`, nested.
//!
//! The tree keeps everything in its order, known or not, so that it can be written again; comments are
//! dropped. Source: lvm2 `libdm/libdm-config.c` (reader) and `lib/format_text/export.c` (writer).

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::error::{Error, Result};
use crate::units::Bytes;

/// Deepest nesting read; LVM's own texts need 5 (a cache policy's settings).
const MAX_DEPTH: usize = 16;

/// What errors call the text.
const TEXT: &str = "LVM2 metadata text";

/// A value behind `=`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// A whole number.
    Integer(i64),
    /// A number with a decimal point, as it was written.
    Float(String),
    /// A quoted string, without quotes and escapes.
    Text(String),
    /// Values in brackets; never lists themselves.
    List(Vec<Self>),
}

/// One thing in a [`Section`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Entry {
    /// `key = value`.
    Value(String, Value),
    /// `name { ... }`.
    Section(Section),
}

impl Entry {
    /// Key or section name.
    pub fn name(&self) -> &str {
        match self {
            Self::Value(name, _) => name,
            Self::Section(section) => &section.name,
        }
    }
}

/// A named group of entries, in the order of the text; no name occurs twice.
#[derive(Clone, Eq, Debug)]
pub struct Section {
    /// Its name; empty for the whole text.
    pub name: String,
    /// What it holds.
    pub entries: Vec<Entry>,
    /// Where in the text it begins, for messages.
    at: Bytes,
}

impl PartialEq for Section {
    /// The same name and content, wherever it stood.
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.entries == other.entries
    }
}

impl Section {
    /// An empty section.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), entries: Vec::new(), at: Bytes::ZERO }
    }

    /// The value of `key`, if it is there.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.entries.iter().find_map(|entry| match entry {
            Entry::Value(name, value) if name == key => Some(value),
            _ => None,
        })
    }

    /// The sections in it, in order.
    pub fn sections(&self) -> impl Iterator<Item = &Self> {
        self.entries.iter().filter_map(|entry| match entry {
            Entry::Section(section) => Some(section),
            Entry::Value(..) => None,
        })
    }

    /// The sections in it, in order, to be changed.
    pub fn sections_mut(&mut self) -> impl Iterator<Item = &mut Self> {
        self.entries.iter_mut().filter_map(|entry| match entry {
            Entry::Section(section) => Some(section),
            Entry::Value(..) => None,
        })
    }

    /// The section `name`, if it is there.
    pub fn section(&self, name: &str) -> Option<&Self> {
        self.sections().find(|section| section.name == name)
    }

    /// The string `key`.
    pub fn text(&self, key: &str) -> Result<&str> {
        match self.value(key) {
            Some(Value::Text(text)) => Ok(text),
            other => Err(self.complaint(key, "a string", other)),
        }
    }

    /// The number `key`, which is at most `max`.
    pub fn number(&self, key: &str, max: u64) -> Result<u64> {
        let value = self.value(key);
        match value {
            Some(Value::Integer(number)) => u64::try_from(*number).ok().filter(|n| *n <= max),
            _ => None,
        }
        .ok_or_else(|| self.complaint(key, &format!("a number from 0 to {max}"), value))
    }

    /// The list of strings `key`: none if it is absent; a single string is a list too.
    pub fn texts(&self, key: &str) -> Result<Vec<&str>> {
        let value = self.value(key);
        let list = match value {
            None => &[],
            Some(Value::List(list)) => list.as_slice(),
            Some(single) => std::slice::from_ref(single),
        };
        list.iter()
            .map(|value| match value {
                Value::Text(text) => Ok(text.as_str()),
                _ => Err(self.complaint(key, "strings", Some(value))),
            })
            .collect()
    }

    /// Sets `key`, where it stands or behind the last value.
    pub fn set(&mut self, key: &str, value: Value) {
        let new = Entry::Value(key.to_owned(), value);
        let is_value = |entry: &Entry| matches!(entry, Entry::Value(..));
        match self.entries.iter_mut().find(|entry| entry.name() == key) {
            Some(old) => *old = new,
            None => {
                let behind = self.entries.iter().rposition(is_value).map_or(0, |last| last + 1);
                self.entries.insert(behind, new);
            }
        }
    }

    /// A complaint about the value of `key`.
    pub fn complaint(&self, key: &str, expected: &str, found: Option<&Value>) -> Error {
        let found = found.map_or_else(|| "nothing".to_owned(), show);
        self.corrupt(key, expected, found)
    }

    /// A complaint about something in this section.
    pub fn corrupt(&self, what: &str, expected: &str, found: impl Into<String>) -> Error {
        let place = if self.name.is_empty() { TEXT } else { &self.name };
        Error::corrupt(format!("LVM2 metadata: {what} of {place}"), self.at, expected, found)
    }

    /// The text, in the manner of LVM's own writer.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        write_entries(&mut out, self, 0);
        out
    }
}

fn show(value: &Value) -> String {
    match value {
        Value::Integer(number) => number.to_string(),
        Value::Float(text) => text.clone(),
        Value::Text(text) => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
        Value::List(list) => {
            format!("[{}]", list.iter().map(show).collect::<Vec<_>>().join(", "))
        }
    }
}

fn write_entries(out: &mut String, section: &Section, depth: usize) {
    let indent = "\t".repeat(depth);
    for entry in &section.entries {
        // Writing to a String cannot fail.
        let _ = match entry {
            Entry::Value(key, value) => writeln!(out, "{indent}{key} = {}", show(value)),
            Entry::Section(inner) => {
                // LVM only knows a text that begins with the VG's name, without even a blank line.
                let gap = if out.is_empty() { "" } else { "\n" };
                let _ = writeln!(out, "{gap}{indent}{} {{", inner.name);
                write_entries(out, inner, depth + 1);
                writeln!(out, "{indent}}}")
            }
        };
    }
}

/// Reads a whole text; the result is a section without a name.
///
/// # Errors
/// [`Error::Corrupt`] with the position in the text. Work and memory are bounded by the text's length.
pub fn parse(text: &str) -> Result<Section> {
    let mut parser = Parser { text, at: 0 };
    let entries = parser.entries(0)?;
    Ok(Section { entries, ..Section::new("") })
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn position(&self) -> Bytes {
        Bytes::from(self.at)
    }

    /// The next character behind blanks and comments.
    fn peek(&mut self) -> Option<char> {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start_matches(|c: char| c.is_ascii_whitespace());
            self.at += rest.len() - trimmed.len();
            if !trimmed.starts_with('#') {
                return trimmed.chars().next();
            }
            self.at += trimmed.find('\n').unwrap_or(trimmed.len());
        }
    }

    fn error(&mut self, expected: &str) -> Error {
        let found = self.peek().map_or("the end".to_owned(), |c| format!("{c:?}"));
        Error::corrupt(TEXT, self.position(), expected, found)
    }

    fn accept(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.at += wanted.len_utf8();
        }
        found
    }

    /// The longest run of characters that `belongs` accepts.
    fn word(&mut self, expected: &str, belongs: fn(char) -> bool) -> Result<&'a str> {
        self.peek();
        let rest = self.rest();
        let word = rest.get(..rest.find(|c| !belongs(c)).unwrap_or(rest.len()));
        let word = word.filter(|word| !word.is_empty()).ok_or_else(|| self.error(expected))?;
        self.at += word.len();
        Ok(word)
    }

    fn entries(&mut self, depth: usize) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut names = BTreeSet::new();
        loop {
            match self.peek() {
                None if depth == 0 => return Ok(entries),
                Some('}') if depth > 0 => {
                    self.at += 1;
                    return Ok(entries);
                }
                _ => {}
            }
            let at = self.position();
            let name = self.word("a name", |c| {
                !c.is_ascii_whitespace() && !c.is_control() && !"#={}[],\"'".contains(c)
            })?;
            if !names.insert(name) {
                return Err(Error::corrupt(TEXT, at, "each name once", format!("{name} again")));
            }
            entries.push(self.entry(name, at, depth)?);
        }
    }

    fn entry(&mut self, name: &str, at: Bytes, depth: usize) -> Result<Entry> {
        if self.accept('=') {
            return Ok(Entry::Value(name.to_owned(), self.value()?));
        }
        if depth >= MAX_DEPTH {
            return Err(self.error(&format!("at most {MAX_DEPTH} sections in each other")));
        }
        if !self.accept('{') {
            return Err(self.error("\"=\" or \"{\""));
        }
        let entries = self.entries(depth + 1)?;
        Ok(Entry::Section(Section { name: name.to_owned(), entries, at }))
    }

    fn value(&mut self) -> Result<Value> {
        if !self.accept('[') {
            return self.scalar();
        }
        let mut list = Vec::new();
        while !self.accept(']') {
            list.push(self.scalar()?);
            if !self.accept(',') && self.peek() != Some(']') {
                return Err(self.error("\",\" or \"]\""));
            }
        }
        Ok(Value::List(list))
    }

    fn scalar(&mut self) -> Result<Value> {
        if self.accept('"') {
            return self.string();
        }
        let at = self.position();
        let number =
            self.word("a number or a string", |c| c.is_ascii_digit() || "+-.".contains(c))?;
        let value = if number.contains('.') {
            number.parse::<f64>().ok().map(|_| Value::Float(number.to_owned()))
        } else {
            number.parse().ok().map(Value::Integer)
        };
        value.ok_or_else(|| Error::corrupt(TEXT, at, "a number", number))
    }

    /// The string whose opening quote was read. Only quotes and backslashes are escaped.
    fn string(&mut self) -> Result<Value> {
        let start = self.position();
        let mut text = String::new();
        let mut chars = self.rest().char_indices();
        while let Some((index, c)) = chars.next() {
            match c {
                '"' => {
                    self.at += index + 1;
                    return Ok(Value::Text(text));
                }
                '\\' => match chars.next() {
                    Some((_, escaped @ ('"' | '\\'))) => text.push(escaped),
                    Some((_, other)) => text.extend(['\\', other]),
                    None => break,
                },
                _ => text.push(c),
            }
        }
        Err(Error::corrupt(TEXT, start, "a closing quote", "the end"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Entry, Section, Value, parse};

    #[test]
    fn every_kind_of_value_is_read() {
        let text = "a = 1 # comment with \"quote\nb=-2 c = 1.50\n\
                    d = \"x \\\"y\\\" \\\\ \\n # no comment\" e = []\nf = [\"pv0\", 0,\n\"pv1\", 7]\n\
                    s.u-b+ { g = 0 t { } }";
        let tree = parse(text).unwrap();
        let texts = |list: &[&str]| -> Vec<Value> {
            list.iter().map(|text| Value::Text((*text).to_owned())).collect()
        };
        assert_eq!(tree.value("a"), Some(&Value::Integer(1)));
        assert_eq!(tree.value("b"), Some(&Value::Integer(-2)));
        assert_eq!(tree.value("c"), Some(&Value::Float("1.50".to_owned())));
        assert_eq!(tree.text("d").unwrap(), "x \"y\" \\ \\n # no comment");
        assert_eq!(tree.value("e"), Some(&Value::List(texts(&[]))));
        assert!(matches!(tree.value("f"), Some(Value::List(list)) if list.len() == 4));
        assert_eq!(tree.section("s.u-b+").unwrap().number("g", 0).unwrap(), 0);
        assert_eq!(parse(&tree.to_text()).unwrap(), tree);
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        for (text, message) in [
            ("a = 1\na = 2", "at byte 6: expected each name once, found a again"),
            ("a = \"x", "at byte 5: expected a closing quote, found the end"),
            ("a = \"x\\", "at byte 5: expected a closing quote, found the end"),
            ("a = [1 2]", "at byte 7: expected \",\" or \"]\", found '2'"),
            ("a = [[1]]", "at byte 5: expected a number or a string, found '['"),
            ("a = 1-2", "at byte 4: expected a number, found 1-2"),
            ("a = 99999999999999999999", "expected a number"),
            ("a { b = 1", "at byte 9: expected a name, found the end"),
            ("a = 1 }", "at byte 6: expected a name, found '}'"),
            ("a", "at byte 1: expected \"=\" or \"{\", found the end"),
            (&"a { ".repeat(17), "expected at most 16 sections in each other"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(message), "{text}: {error}");
        }
        let tree = parse("s { a = \"x\" n = 5 }").unwrap();
        let section = tree.section("s").unwrap();
        assert_eq!(
            section.number("n", 4).unwrap_err().to_string(),
            "LVM2 metadata: n of s at byte 0: expected a number from 0 to 4, found 5"
        );
        assert!(section.number("a", 4).is_err() && section.text("n").is_err());
    }

    fn values() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            any::<i64>().prop_map(Value::Integer),
            "[0-9]{1,3}\\.[0-9]{1,3}".prop_map(Value::Float),
            "\\PC{0,8}|[\\\\\"#a]{0,6}".prop_map(Value::Text),
        ];
        let list = prop::collection::vec(scalar.clone(), 0..4).prop_map(Value::List);
        prop_oneof![scalar, list]
    }

    fn sections() -> impl Strategy<Value = Section> {
        let name = "[a-zA-Z0-9+_.-]{1,5}";
        let leaf = prop::collection::btree_map(name, values(), 0..4).prop_map(|map| {
            let entries = map.into_iter().map(|(key, value)| Entry::Value(key, value)).collect();
            Section { entries, ..Section::new("") }
        });
        leaf.prop_recursive(4, 16, 3, move |inner| {
            prop::collection::btree_map(name, inner, 0..3).prop_map(|map| {
                let named = |(name, inner)| Entry::Section(Section { name, ..inner });
                Section { entries: map.into_iter().map(named).collect(), ..Section::new("") }
            })
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(tree in sections()) {
            prop_assert_eq!(parse(&tree.to_text()).unwrap(), tree);
        }

        #[test]
        fn nonsense_does_not_panic(text in "[a\"\\\\={}\\[\\], #.0-9\n\u{e9}]{0,40}") {
            let _ = parse(&text);
        }
    }
}
