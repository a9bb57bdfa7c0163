//! What Windows Setup reads of an image that sysprep generalized: its state, and answer files. Pure.
//!
//! An answer file is changed as text: all that is not the computer's name stays as it is, byte for byte. Its elements
//! are those of Microsoft's "Unattended Windows Setup Reference".

use std::ops::Range;

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

/// No answer file, and no state, is longer.
pub const LONGEST: usize = 1 << 20;

const NAMESPACE: &str = "urn:schemas-microsoft-com:unattend";
/// The component whose `ComputerName` it is.
const SHELL: &str = "Microsoft-Windows-Shell-Setup";
/// The kinds of machines that Windows runs on. Settings of components that an image does not have are passed over
/// ("Understanding Answer Files"), so a file may have the component once for each.
const ARCHITECTURES: [&str; 3] = ["amd64", "arm64", "x86"];
/// What an answer file is that says nothing.
const EMPTY: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?>\r\n<unattend xmlns=\"urn:schemas-microsoft-com:unattend\"></unattend>\r\n";

/// How the characters of a file are written, as its first bytes tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    /// In any way in which ASCII is ASCII.
    Bytes,
    Utf8,
    Utf16Le,
    Utf16Be,
}

impl Form {
    const ALL: [Self; 4] = [Self::Utf8, Self::Utf16Le, Self::Utf16Be, Self::Bytes];

    fn mark(self) -> &'static [u8] {
        match self {
            Self::Bytes => b"",
            Self::Utf8 => b"\xef\xbb\xbf",
            Self::Utf16Le => b"\xff\xfe",
            Self::Utf16Be => b"\xfe\xff",
        }
    }

    /// A file's form, and its text in one in which ASCII is ASCII; none where it is in no form.
    fn of(file: &[u8]) -> Option<(Self, Vec<u8>)> {
        let (form, text) =
            Self::ALL.into_iter().find_map(|form| Some((form, file.strip_prefix(form.mark())?)))?;
        let unit: fn([u8; 2]) -> u16 = match form {
            Self::Bytes | Self::Utf8 => return Some((form, text.to_vec())),
            Self::Utf16Le => u16::from_le_bytes,
            Self::Utf16Be => u16::from_be_bytes,
        };
        let (units, rest) = text.as_chunks();
        let text = String::from_utf16(&units.iter().map(|two| unit(*two)).collect::<Vec<_>>());
        text.ok().filter(|_| rest.is_empty()).map(|text| (form, text.into_bytes()))
    }

    /// What [`Form::of`] took `text` from.
    fn file(self, text: Vec<u8>) -> Vec<u8> {
        let bytes: fn(u16) -> [u8; 2] = match self {
            Self::Bytes | Self::Utf8 => return [self.mark(), &text].concat(),
            Self::Utf16Le => u16::to_le_bytes,
            Self::Utf16Be => u16::to_be_bytes,
        };
        let text = String::from_utf8_lossy(&text);
        self.mark().iter().copied().chain(text.encode_utf16().flat_map(bytes)).collect()
    }
}

/// What Setup wrote into `State.ini` about the image ("Windows Setup States").
pub fn image_state(file: &[u8]) -> Option<String> {
    let (_, text) = Form::of(file.get(..LONGEST.min(file.len()))?)?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let mut lines = text.lines().map(str::trim);
    lines.find(|line| line.eq_ignore_ascii_case("[State]"))?;
    let mut values = lines.take_while(|line| !line.starts_with('[')).filter_map(|line| {
        let (key, value) = line.split_once('=')?;
        key.trim().eq_ignore_ascii_case("ImageState").then(|| value.trim().to_owned())
    });
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    values.next().filter(|value| !value.is_empty() && value.chars().all(is_word))
}

/// Whether Setup will specialize an image in this state, and so read a computer name.
pub fn is_generalized(state: &str) -> bool {
    ["IMAGE_STATE_GENERALIZE_RESEAL_TO_OOBE", "IMAGE_STATE_GENERALIZE_RESEAL_TO_AUDIT"]
        .contains(&state)
}

/// What an answer file says in the pass `specialize`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Specialize {
    /// Nothing: Setup looks for another file.
    Absent,
    /// What Setup did once, and passes over.
    Processed,
    /// What Setup will do.
    Ahead,
}

/// An answer file.
#[derive(Clone, Debug)]
pub struct Answers {
    form: Form,
    text: Vec<u8>,
    /// Those that lead to a computer's name, each behind the one that it is in; the first is the root.
    elements: Vec<Element>,
}

#[derive(Clone, Debug)]
struct Element {
    part: Part,
    /// Its name as it is written, with its prefix.
    tag: Vec<u8>,
    /// What is between its tags; the end of its only tag where it has but one.
    inner: Range<usize>,
    is_one_tag: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Part {
    Root,
    /// The pass `specialize`, and whether it is done.
    Pass(bool),
    /// The component, for this architecture.
    Shell(String),
    Name,
}

/// A place in the text, and what is there instead.
type Edit = (Range<usize>, Vec<u8>);

impl Element {
    /// Puts `text` into it, at `place`.
    fn with(&self, place: Range<usize>, text: String) -> Edit {
        if self.is_one_tag {
            let text = [b">", text.as_bytes(), b"</", &self.tag, b">"].concat();
            (self.inner.clone(), text)
        } else {
            (place, text.into_bytes())
        }
    }

    fn with_at_its_end(&self, text: String) -> Edit {
        self.with(self.inner.end..self.inner.end, text)
    }
}

impl Answers {
    /// An answer file that says nothing but the computer's name.
    pub fn only(name: &str) -> Vec<u8> {
        let named = Self::read(EMPTY.as_bytes()).and_then(|empty| empty.named(name));
        named.ok().flatten().unwrap_or_default()
    }

    /// Reads a file; or says why it is not one that can be changed.
    pub fn read(file: &[u8]) -> Result<Self, String> {
        if file.len() > LONGEST {
            return Err("it is longer than 1 MiB".to_owned());
        }
        let (form, text) = Form::of(file).ok_or("it is no text in UTF-16")?;
        let elements = elements(&text)?;
        let passes = elements.iter().filter(|one| matches!(one.part, Part::Pass(_))).count();
        if passes > 1 {
            return Err("it has the pass specialize more than once".to_owned());
        }
        Ok(Self { form, text, elements })
    }

    fn pass(&self) -> Option<(&Element, bool)> {
        self.elements.iter().find_map(|one| match one.part {
            Part::Pass(is_done) => Some((one, is_done)),
            _ => None,
        })
    }

    /// Whether Setup takes it for the pass `specialize`.
    pub fn specialize(&self) -> Specialize {
        match self.pass() {
            None => Specialize::Absent,
            Some((_, true)) => Specialize::Processed,
            Some((_, false)) => Specialize::Ahead,
        }
    }

    /// The file in which the computer is called `name`, on a machine of any kind; none where it is that already. Or why
    /// there cannot be one.
    pub fn named(&self, name: &str) -> Result<Option<Vec<u8>>, String> {
        let mut edits = Vec::new();
        let mut missing = ARCHITECTURES.to_vec();
        let mut elements = self.elements.iter().peekable();
        while let Some(element) = elements.next() {
            if let Part::Shell(architecture) = &element.part {
                missing.retain(|one| !one.eq_ignore_ascii_case(architecture));
                if elements.peek().is_none_or(|next| next.part != Part::Name) {
                    edits.push(element.with_at_its_end(self.name_element(name)));
                }
            }
            if element.part == Part::Name && !self.says(element, name) {
                edits.push(element.with(element.inner.clone(), name.to_owned()));
            }
        }
        let components: String =
            missing.into_iter().map(|architecture| self.component(architecture, name)).collect();
        if !components.is_empty() {
            edits.push(match (self.pass(), self.elements.first()) {
                (Some((pass, _)), _) => pass.with_at_its_end(components),
                (None, Some(root)) => {
                    let tag = self.tag("settings");
                    root.with_at_its_end(format!("<{tag} pass=\"specialize\">{components}</{tag}>"))
                }
                (None, None) => return Ok(None),
            });
        }
        if edits.is_empty() {
            return Ok(None);
        }
        edits.sort_by_key(|(place, _)| place.start);
        let (mut text, mut at) = (Vec::new(), 0);
        for (place, new) in edits {
            text.extend_from_slice(self.text.get(at..place.start).unwrap_or_default());
            text.extend(new);
            at = place.end;
        }
        text.extend_from_slice(self.text.get(at..).unwrap_or_default());
        let file = self.form.file(text);
        if file.len() > LONGEST {
            return Err("it would become longer than 1 MiB".to_owned());
        }
        Ok(Some(file))
    }

    fn says(&self, element: &Element, name: &str) -> bool {
        let text = self.text.get(element.inner.clone()).unwrap_or_default();
        !element.is_one_tag && text.trim_ascii() == name.as_bytes()
    }

    /// The name of an element, with the root's prefix.
    fn tag(&self, name: &str) -> String {
        let root = self.elements.first().map(|root| root.tag.as_slice()).unwrap_or_default();
        let prefix = root.strip_suffix(b"unattend").unwrap_or_default();
        format!("{}{name}", String::from_utf8_lossy(prefix))
    }

    fn name_element(&self, name: &str) -> String {
        let tag = self.tag("ComputerName");
        format!("<{tag}>{name}</{tag}>")
    }

    fn component(&self, architecture: &str, name: &str) -> String {
        let tag = self.tag("component");
        format!(
            "<{tag} name=\"{SHELL}\" processorArchitecture=\"{architecture}\" \
             publicKeyToken=\"31bf3856ad364e35\" language=\"neutral\" versionScope=\"nonSxS\">{}</{tag}>",
            self.name_element(name)
        )
    }
}

/// The elements of an answer file that lead to a computer's name, in their order.
fn elements(text: &[u8]) -> Result<Vec<Element>, String> {
    let mut found: Vec<Element> = Vec::new();
    // Of each element that is open, where it is in `found`.
    let mut open: Vec<Option<usize>> = Vec::new();
    let mut reader = Reader::from_reader(text);
    let mut position = 0;
    loop {
        let start = position;
        let event = reader.read_event().map_err(|error| format!("it is no XML: {error}"))?;
        position = usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX);
        let (tag, is_one_tag) = match event {
            Event::Start(tag) => (tag, false),
            Event::Empty(tag) => (tag, true),
            Event::End(_) => {
                if let Some(element) = open.pop().flatten().and_then(|at| found.get_mut(at)) {
                    element.inner.end = start;
                }
                continue;
            }
            Event::DocType(_) => return Err("it has a document type".to_owned()),
            Event::Eof if found.is_empty() || !open.is_empty() => {
                return Err("it is no XML: it ends too early".to_owned());
            }
            Event::Eof => return Ok(found),
            _ => continue,
        };
        let parent = match open.last() {
            None if found.is_empty() => None,
            None => return Err("it is no XML: it has several roots".to_owned()),
            Some(parent) => Some(parent.and_then(|at| found.get(at))),
        };
        let part = match parent {
            None => Some(root_of(&tag)?),
            Some(None) => None,
            Some(Some(parent)) => {
                let root = found.first().map(|root| root.tag.as_slice()).unwrap_or_default();
                part(&parent.part, root, &tag)?
            }
        };
        if part.is_some() {
            check(&tag)?;
        }
        if !is_one_tag {
            open.push(part.is_some().then_some(found.len()));
        }
        let end = if is_one_tag { position.saturating_sub(2) } else { position };
        found.extend(part.map(|part| Element {
            part,
            tag: tag.name().as_ref().to_vec(),
            inner: end..position,
            is_one_tag,
        }));
    }
}

/// The root, if it is that of an answer file.
fn root_of(tag: &BytesStart<'_>) -> Result<Part, String> {
    let name = tag.name();
    let prefix = name.as_ref().strip_suffix(b"unattend");
    let declared = match prefix {
        Some([]) => attribute(tag, "xmlns")?,
        Some([prefix @ .., b':']) => {
            attribute(tag, &format!("xmlns:{}", String::from_utf8_lossy(prefix)))?
        }
        _ => None,
    };
    if declared.as_deref() != Some(NAMESPACE) {
        return Err("it is no answer file: its root is not unattend".to_owned());
    }
    Ok(Part::Root)
}

/// What an element is in one that is `parent`; only those with the prefix of the root are Setup's.
fn part(parent: &Part, root: &[u8], tag: &BytesStart<'_>) -> Result<Option<Part>, String> {
    let name = tag.name();
    let prefix = root.strip_suffix(b"unattend").unwrap_or_default();
    let Some(name) = name.as_ref().strip_prefix(prefix) else { return Ok(None) };
    let is = |attribute: Option<String>, word: &str| attribute.as_deref() == Some(word);
    Ok(match (parent, name) {
        (Part::Root, b"settings") if is(attribute(tag, "pass")?, "specialize") => {
            Some(Part::Pass(is(attribute(tag, "wasPassProcessed")?, "true")))
        }
        (Part::Pass(_), b"component") if is(attribute(tag, "name")?, SHELL) => {
            Some(Part::Shell(attribute(tag, "processorArchitecture")?.unwrap_or_default()))
        }
        (Part::Shell(_), b"ComputerName") => Some(Part::Name),
        _ => None,
    })
}

/// Refuses a tag with what is no attribute: what was put behind that would not be in the element.
fn check(tag: &BytesStart<'_>) -> Result<(), String> {
    for attribute in tag.attributes().with_checks(false) {
        attribute.map_err(|error| format!("it is no XML: {error}"))?;
    }
    Ok(())
}

fn attribute(tag: &BytesStart<'_>, name: &str) -> Result<Option<String>, String> {
    let mut attributes = tag.attributes();
    // It would compare each with each, and a hostile tag has many.
    for attribute in attributes.with_checks(false) {
        let attribute = attribute.map_err(|error| format!("it is no XML: {error}"))?;
        if attribute.key.as_ref() == name.as_bytes() {
            return Ok(Some(String::from_utf8_lossy(&attribute.value).trim().to_owned()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Answers, Form, LONGEST, Specialize, image_state, is_generalized};

    const NAME: &str = "lab-07";
    const OPEN: &str = "<unattend xmlns=\"urn:schemas-microsoft-com:unattend\">";

    fn component(architecture: &str, inner: &str) -> String {
        format!(
            "<component name=\"Microsoft-Windows-Shell-Setup\" processorArchitecture=\"{architecture}\" \
             publicKeyToken=\"31bf3856ad364e35\" language=\"neutral\" versionScope=\"nonSxS\">{inner}</component>"
        )
    }

    fn others(architectures: &[&str]) -> String {
        let inner = format!("<ComputerName>{NAME}</ComputerName>");
        architectures.iter().map(|one| component(one, &inner)).collect()
    }

    fn named(text: &str) -> Option<String> {
        let new = Answers::read(text.as_bytes()).unwrap().named(NAME).unwrap()?;
        assert_eq!(Answers::read(&new).unwrap().named(NAME), Ok(None));
        Some(String::from_utf8(new).unwrap())
    }

    #[test]
    fn a_state_is_read_in_ascii_and_in_utf_16() {
        let text =
            "; x\r\n[Other]\r\nImageState=NO\r\n[State]\r\nimagestate = IMAGE_STATE_COMPLETE\r\n";
        for form in Form::ALL {
            let file = form.file(text.as_bytes().to_vec());
            assert_eq!(image_state(&file).as_deref(), Some("IMAGE_STATE_COMPLETE"), "{form:?}");
        }
        for text in [
            "",
            "[State]",
            "[State]\nImageState=",
            "[State]\n[X]\nImageState=A",
            "ImageState=A",
            "[State]\nImageState=A\x1b[2J",
        ] {
            assert_eq!(image_state(text.as_bytes()), None, "{text}");
        }
        assert_eq!(image_state(b"\xff\xfe[\0S\0t"), None);
        for (state, generalized) in [
            ("IMAGE_STATE_GENERALIZE_RESEAL_TO_OOBE", true),
            ("IMAGE_STATE_GENERALIZE_RESEAL_TO_AUDIT", true),
            ("IMAGE_STATE_SPECIALIZE_RESEAL_TO_OOBE", false),
            ("IMAGE_STATE_UNDEPLOYABLE", false),
            ("IMAGE_STATE_COMPLETE", false),
        ] {
            assert_eq!(is_generalized(state), generalized, "{state}");
        }
    }

    #[test]
    fn a_file_that_says_nothing_is_given_the_pass() {
        let all = others(&["amd64", "arm64", "x86"]);
        let pass = format!("<settings pass=\"specialize\">{all}</settings>");
        let only = String::from_utf8(Answers::only(NAME)).unwrap();
        assert!(only.starts_with("<?xml ") && only.contains(&format!("{OPEN}{pass}</unattend>")));
        // The pass behind what is there; in a root of one tag; with the prefix of the root.
        let other = "<!-- a & b --><settings pass=\"oobeSystem\"/>";
        assert_eq!(
            named(&format!("{OPEN}{other}</unattend>")).unwrap(),
            format!("{OPEN}{other}{pass}</unattend>")
        );
        let one = OPEN.replace('>', " />");
        assert_eq!(
            named(&one).unwrap(),
            format!("{} >{pass}</unattend>", OPEN.trim_end_matches('>'))
        );
        let text = "<u:unattend xmlns:u=\"urn:schemas-microsoft-com:unattend\"><settings pass=\"specialize\"/></u:unattend>";
        let new = named(text).unwrap();
        assert!(
            new.contains(
                "<settings pass=\"specialize\"/><u:settings pass=\"specialize\"><u:component "
            ),
            "{new}"
        );
        assert!(new.contains("<u:ComputerName>lab-07</u:ComputerName></u:component>"), "{new}");
    }

    #[test]
    fn only_the_name_changes_in_the_pass_that_is_there() {
        let wrap = |pass: &str| {
            format!(
                "\u{feff}<?xml version='1.0'?>\r\n{OPEN}\r\n<!-- \u{e4} <ComputerName>no</ComputerName> -->\r\n\
                 <settings pass=\"windowsPE\">{}</settings>\r\n{pass}<x:y xmlns:x=\"urn:x\"/>\r\n</unattend>\r\n",
                component("amd64", "<ComputerName>stays</ComputerName>")
            )
        };
        let inner = |name: &str| {
            format!(
                "<ProductKey><![CDATA[<ComputerName>]]></ProductKey>{name}<TimeZone a='b'>UTC</TimeZone>"
            )
        };
        let done = format!("<ComputerName>{NAME}</ComputerName>");
        let expected = wrap(&format!(
            "<settings pass=\"specialize\"> {}\r\n{}</settings>",
            component("AMD64", &inner(&done)),
            others(&["arm64", "x86"])
        ));
        for name in [
            "<ComputerName>*</ComputerName>",
            "<ComputerName/>",
            "<ComputerName></ComputerName>",
            "<ComputerName><!-- x -->old</ComputerName>",
        ] {
            let pass = format!(
                "<settings pass=\"specialize\"> {}\r\n</settings>",
                component("AMD64", &inner(name))
            );
            assert_eq!(named(&wrap(&pass)).unwrap(), expected, "{name}");
        }
        assert_eq!(named(&expected), None);
        // With attributes, and where there is none.
        let of = |inner: &str| {
            named(&wrap(&format!(
                "<settings pass='specialize'>{}</settings>",
                component("x86", inner)
            )))
            .unwrap()
        };
        assert!(
            of("<ComputerName a=\"b\" >x</ComputerName>")
                .contains("<ComputerName a=\"b\" >lab-07</ComputerName>")
        );
        assert!(
            of("<ComputerName a=\"b\"/>").contains("<ComputerName a=\"b\">lab-07</ComputerName>")
        );
        assert!(of("<A><ComputerName>x</ComputerName></A>").contains(
            "<A><ComputerName>x</ComputerName></A><ComputerName>lab-07</ComputerName></component>"
        ));
    }

    #[test]
    fn a_file_keeps_its_form() {
        let text = format!("{OPEN}<!-- \u{e4}\u{1f600} --></unattend>");
        for form in [Form::Utf8, Form::Utf16Le, Form::Utf16Be] {
            let file = form.file(text.clone().into_bytes());
            let new = Answers::read(&file).unwrap().named(NAME).unwrap().unwrap();
            let (kept, new) = Form::of(&new).unwrap();
            assert_eq!((kept, Some(String::from_utf8(new).unwrap())), (form, named(&text)));
        }
        // Not UTF-8, and no matter: it stays.
        let latin = [OPEN.as_bytes(), b"<!-- \xe4 --></unattend>"].concat();
        let new = Answers::read(&latin).unwrap().named(NAME).unwrap().unwrap();
        assert!(new.windows(3).any(|three| three == b" \xe4 "));
    }

    #[test]
    fn what_setup_does_with_the_pass_is_told() {
        let told = |pass: &str| {
            Answers::read(format!("{OPEN}{pass}</unattend>").as_bytes()).unwrap().specialize()
        };
        assert_eq!(told("<settings pass=\"oobeSystem\"></settings>"), Specialize::Absent);
        assert_eq!(
            told("<settings pass=\"specialize\" wasPassProcessed=\"false\"/>"),
            Specialize::Ahead
        );
        assert_eq!(
            told("<settings wasPassProcessed=\"true\" pass=\"specialize\"/>"),
            Specialize::Processed
        );
    }

    #[test]
    fn what_is_no_answer_file_is_left_alone() {
        let twice = format!(
            "{OPEN}<settings pass=\"specialize\"/><settings pass=\"specialize\"/></unattend>"
        );
        let deep = format!("{OPEN}{}", "<a>".repeat(300_000));
        let long = format!("{OPEN}{}</unattend>", " ".repeat(LONGEST));
        let kind = format!("<!DOCTYPE unattend [<!ENTITY a \"b\">]>{OPEN}</unattend>");
        for (text, why) in [
            ("", "ends too early"),
            ("hello", "ends too early"),
            ("<unattend></unattend>", "no answer file"),
            ("<unattend xmlns=\"urn:other\"></unattend>", "no answer file"),
            ("<answers xmlns=\"urn:schemas-microsoft-com:unattend\"/>", "no answer file"),
            (&format!("{OPEN}<settings></unattend>"), "no XML"),
            (OPEN, "ends too early"),
            (&deep, "ends too early"),
            (&format!("{OPEN}</unattend>{OPEN}</unattend>"), "several roots"),
            (&format!("{OPEN}<settings pass=\"x></unattend>"), "no XML"),
            (&OPEN.replace('>', " x//>"), "no XML"),
            (&kind, "document type"),
            (&twice, "more than once"),
            (&long, "1 MiB"),
        ] {
            let told = Answers::read(text.as_bytes()).unwrap_err();
            assert!(told.contains(why), "{why}: {told}");
        }
        assert!(Answers::read(b"\xff\xfe<").unwrap_err().contains("UTF-16"));
    }

    /// None of these takes the square of its length.
    #[test]
    fn a_hostile_file_takes_no_longer_than_others() {
        let wide = component("amd64", &"<ComputerName/>".repeat(60_000));
        let shells = "<component name=\"Microsoft-Windows-Shell-Setup\"/>".repeat(18_000);
        for inner in [wide, shells] {
            let text = format!("{OPEN}<settings pass=\"specialize\">{inner}</settings></unattend>");
            let why = Answers::read(text.as_bytes()).unwrap().named(NAME).unwrap_err();
            assert!(why.contains("would become longer"), "{why}");
        }
        let attributes: String = (0..70_000).map(|number| format!(" a{number}=''")).collect();
        let text = format!("{OPEN}<settings{attributes} pass=\"specialize\"/></unattend>");
        assert!(named(&text).unwrap().contains(" a7='' "));
        let prefix = "x".repeat(100_000);
        let text = format!(
            "<{prefix}:unattend xmlns:{prefix}=\"urn:schemas-microsoft-com:unattend\">{}</{prefix}:unattend>",
            "<a/>".repeat(150_000)
        );
        assert!(Answers::read(text.as_bytes()).is_ok());
    }

    proptest! {
        #[test]
        fn a_file_that_is_read_is_named_once(
            text in "(<(settings|component|ComputerName|a)( pass=\"specialize\"| name=\"Microsoft-Windows-Shell-Setup\"| wasPassProcessed='true')?/?>|</(settings|component|ComputerName|a)>|x|<!-- -->){0,12}",
        ) {
            let file = format!("{OPEN}{text}</unattend>");
            if let Ok(answers) = Answers::read(file.as_bytes()) {
                let new = answers.named(NAME).unwrap().unwrap();
                let again = Answers::read(&new).unwrap();
                prop_assert_eq!(again.named(NAME), Ok(None));
                prop_assert_ne!(again.specialize(), Specialize::Absent);
                // A second name undoes nothing but the first.
                let other = again.named("x").unwrap().unwrap();
                prop_assert_eq!(Answers::read(&other).unwrap().named(NAME), Ok(Some(new)));
            }
        }

        #[test]
        fn no_bytes_are_too_much(file in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = image_state(&file);
            prop_assert!(Answers::read(&file).is_err());
        }
    }
}
