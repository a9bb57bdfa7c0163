//! `keiki serve --config FILE`: options that are written down, as if they had been typed.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::Path;

use clap::builder::ValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory, Error, FromArgMatches, Parser};
use image_core::repo::Location;
use toml::{Spanned, Value};

use super::serve::Serve;
use super::{Cli, Verb};

/// What a file says: its keys with their places, and their values.
type Written = BTreeMap<Spanned<String>, Value>;

/// Reads what was typed, and what stands in the file that it names; what was typed wins.
///
/// # Errors
/// What is wrong, and in the file where.
pub fn parse(typed: Vec<OsString>) -> Result<Cli, Error> {
    // What has to stand beside an option may be in the file.
    let matches = Cli::command().ignore_errors(true).try_get_matches_from(&typed);
    let known = matches.and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, matches)));
    let Ok((Cli { verb: Verb::Serve(Serve { config: Some(file), .. }), .. }, matches)) = known
    else {
        return Cli::try_parse_from(typed);
    };
    let mut command = Cli::command();
    command.build();
    let wrong = |line: Option<usize>, why: &str| {
        let line = line.map(|line| format!(", line {line}")).unwrap_or_default();
        let name = file.display();
        Cli::command().error(ErrorKind::InvalidValue, format!("{name}{line}: {why}"))
    };
    let text = fs::read_to_string(&file).map_err(|error| wrong(None, &error.to_string()))?;
    let written: Written = toml::from_str(&text).map_err(|error| {
        let line = error.span().map(|span| line_at(&text, span.start));
        wrong(line, error.message())
    })?;
    let folder = file.parent().unwrap_or(Path::new(""));
    let mut words = typed;
    for (key, value) in &written {
        let line = line_at(&text, key.span().start);
        let word = option(&command, key.get_ref())
            .and_then(|option| word(option, value, folder, is_typed(&matches, option)))
            .map_err(|why| wrong(Some(line), &format!("{}: {why}", key.get_ref())))?;
        words.extend(word);
    }
    Cli::try_parse_from(words).map_err(|error| {
        let Some(ContextValue::String(option)) = error.get(ContextKind::InvalidArg) else {
            return error;
        };
        let name = option.split([' ', '=']).next().unwrap_or_default().trim_start_matches('-');
        let Some((key, _)) = written.get_key_value(&Spanned::new(0..0, name.to_owned())) else {
            return error;
        };
        let said = error.to_string();
        let why = said.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ");
        wrong(Some(line_at(&text, key.span().start)), &format!("{name}: {why}"))
    })
}

/// The number of the line in which a byte stands.
fn line_at(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

/// The option of `keiki serve` with this name; of those of every command only the repository is one for a file.
fn option<'a>(command: &'a Command, name: &str) -> Result<&'a Arg, String> {
    let serve = command.find_subcommand("serve").ok_or("there is no such command")?;
    let is_it = |option: &&Arg| {
        let is_ours = !option.is_global_set() || option.get_id() == "repo";
        let is_action =
            matches!(option.get_action(), ArgAction::Set | ArgAction::SetTrue | ArgAction::Append);
        option.get_long() == Some(name) && is_ours && is_action && name != "config"
    };
    serve.get_arguments().find(is_it).ok_or_else(|| "keiki serve has no such option".to_owned())
}

fn is_typed(matches: &ArgMatches, option: &Arg) -> bool {
    let serve = matches.subcommand_matches("serve");
    let source = serve.and_then(|serve| serve.value_source(option.get_id().as_str()));
    source == Some(ValueSource::CommandLine)
}

/// What would be typed for it; none for what is typed anyway, or is not wanted.
fn word(
    option: &Arg,
    value: &Value,
    folder: &Path,
    is_typed: bool,
) -> Result<Option<OsString>, String> {
    let is_flag = matches!(option.get_action(), ArgAction::SetTrue);
    let name = option.get_long().unwrap_or_default();
    let text = match value {
        Value::Boolean(wanted) if is_flag => {
            return Ok((*wanted && !is_typed).then(|| format!("--{name}").into()));
        }
        _ if is_flag => return Err("it is true or false".to_owned()),
        Value::String(text) => text.clone(),
        Value::Integer(number) => number.to_string(),
        Value::Array(all) if matches!(option.get_action(), ArgAction::Append) => {
            let text = |one: &Value| one.as_str().map(str::to_owned);
            let all: Option<Vec<String>> = all.iter().map(text).collect();
            all.ok_or("it is a text, or a list of texts")?.join(",")
        }
        _ => return Err("it is a text or a number".to_owned()),
    };
    let is_path = option.get_value_parser().type_id() == ValueParser::path_buf().type_id();
    let is_folder =
        option.get_id() == "repo" && Location::from(Path::new(&text).to_owned()).folder().is_some();
    let text = match is_path || is_folder {
        true => folder.join(text).into_os_string(),
        false => text.into(),
    };
    let mut word = OsString::from(format!("--{name}="));
    word.push(text);
    Ok((!is_typed).then_some(word))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// What `keiki serve` gets with this file, and these words.
    fn read(text: &str, words: &[&str]) -> Result<(Option<PathBuf>, Serve), String> {
        let work = tempfile::tempdir().unwrap();
        let file = work.path().join("serve.toml");
        fs::write(&file, text).unwrap();
        let config = format!("--config={}", file.display());
        let typed = [&["keiki", "serve", &config], words].concat();
        let cli = parse(typed.iter().map(OsString::from).collect());
        let cli =
            cli.map_err(|error| error.to_string().replace(&file.display().to_string(), "FILE"))?;
        let Verb::Serve(serve) = cli.verb else { panic!() };
        let folder =
            |path: PathBuf| path.strip_prefix(work.path()).map_or(path.clone(), PathBuf::from);
        let repo = cli.global.repo.map(|repo| folder(PathBuf::from(repo.as_typed())));
        let state = folder(serve.state.clone());
        Ok((repo, Serve { state, answers: serve.answers.map(folder), ..serve }))
    }

    const GOOD: &str = "# A room.\nrepo = \"images\"\nimage = \"lab\"\nrate = 500\nno-boot = true\nstate = \"/state\"\nanswers = \"a.toml\"\n\
                        hostname = \"lab-%02d\"\nprepare = false\n";

    #[test]
    fn a_file_says_what_would_be_typed() {
        let (repo, serve) = read(GOOD, &[]).unwrap();
        assert_eq!(repo, Some(PathBuf::from("images")));
        assert_eq!((serve.image.as_deref(), serve.rate), (Some("lab"), Some(500)));
        assert_eq!(
            (serve.state, serve.answers),
            (PathBuf::from("/state"), Some(PathBuf::from("a.toml")))
        );
        assert!(serve.no_boot && !serve.prepare);
        assert_eq!(serve.hostname.unwrap().name(7), "lab-07");
        let (repo, _) = read("repo = \"http://example.org/images\"", &[]).unwrap();
        assert_eq!(repo, Some(PathBuf::from("http://example.org/images")));
        let (_, serve) =
            read("dhcp-range = \"10.0.0.5-10.0.0.9\"\ninterface = \"eth1\"", &[]).unwrap();
        assert!(serve.dhcp_range.len() == 1 && serve.image.is_none());
        for several in ["\"eth1,eth2\"", "[\"eth1\", \"eth2\"]"] {
            let (_, serve) = read(&format!("interface = {several}"), &[]).unwrap();
            assert_eq!(serve.interface, ["eth1", "eth2"]);
        }
        assert!(read("interface = [1]", &[]).is_err() && read("image = [\"lab\"]", &[]).is_err());
    }

    #[test]
    fn what_is_typed_wins() {
        let (repo, serve) = read(GOOD, &["--rate", "7", "--repo", "/other", "--no-boot"]).unwrap();
        assert_eq!((repo, serve.rate), (Some(PathBuf::from("/other")), Some(7)));
        assert_eq!(serve.image.as_deref(), Some("lab"));
        // An option whose companion is in the file.
        assert_eq!(read("image = \"lab\"", &["--rate", "9"]).unwrap().1.rate, Some(9));
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        for (from, to, why) in [
            ("rate", "rats", "FILE, line 4: rats: keiki serve has no such option"),
            ("rate", "json", "FILE, line 4: json: keiki serve has no such option"),
            ("rate", "config", "FILE, line 4: config: keiki serve has no such option"),
            ("rate", "help", "FILE, line 4: help: keiki serve has no such option"),
            ("500", "true", "FILE, line 4: rate: it is a text or a number"),
            ("500", "[500]", "FILE, line 4: rate: it is a text or a number"),
            ("500", "0", "FILE, line 4: rate: invalid value '0'"),
            ("true", "\"yes\"", "FILE, line 5: no-boot: it is true or false"),
            ("true", "", "FILE, line 5:"),
            ("lab-%02d", "lab", "FILE, line 8: hostname: invalid value 'lab'"),
            ("prepare = false", "rate = 1", "FILE, line 9: duplicate key"),
            ("prepare = false", "prepare = true", "cannot be used with"),
            ("image = \"lab\"", "", "--image"),
        ] {
            let said = read(&GOOD.replacen(from, to, 1), &[]).unwrap_err();
            assert!(said.contains(why), "{to}: {said}");
        }
        let none =
            parse(["keiki", "serve", "--config=/nowhere/serve.toml"].map(OsString::from).into());
        assert!(none.unwrap_err().to_string().contains("/nowhere/serve.toml: No such file"));
    }
}
