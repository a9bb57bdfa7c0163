//! `keiki clone`: disks onto disks, with no repository between.

use std::path::PathBuf;

use image_core::clone::Source;
use image_core::survey::Wishes;
use serde_json::json;

use super::restore::{Origin, onto};
use super::{Usage, source};
use crate::args::Global;
use crate::args::clone::Clone;
use crate::exit::Exit;
use crate::output::progress::Progress;

/// Runs the verb.
///
/// # Errors
/// Any: then the targets have no partition table, or were not touched.
pub fn run(global: &Global, args: &Clone, progress: &Progress) -> anyhow::Result<Exit> {
    let (sources, targets) = sides(args)?;
    let inputs = source::open(sources, args.onto.sector_size, source::Purpose::Copy(None))?;
    let wishes = Wishes { all_gaps: args.gaps, strict: args.strict };
    let survey = source::survey(&inputs, wishes, &[], progress)?;
    source::tell(&survey, global, progress);
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let windows = Source::new(&survey, workers);
    let root = windows.root(concat!("keiki ", env!("CARGO_PKG_VERSION")))?;
    let paths: Vec<PathBuf> = inputs.iter().map(|input| input.path.clone()).collect();
    let title = sources.join(", ");
    let origin = Origin {
        verb: "clone",
        done: "cloned",
        object: json!({"image": title, "sources": sources}),
        title,
        root: &root,
        windows: &windows,
        sources: &paths,
        repository: None,
    };
    onto(global, (&args.onto, targets), &origin, progress)
}

/// The sources and the targets among the paths: as many of these as of those, the mapped ones included.
fn sides(args: &Clone) -> Result<(&[String], &[String]), Usage> {
    let (paths, mapped) = (args.paths.len(), args.onto.map.len());
    let sources = (paths + mapped) / 2;
    match args.paths.split_at_checked(sources) {
        Some(sides) if (paths + mapped).is_multiple_of(2) => Ok(sides),
        _ => Err(Usage(format!(
            "{paths} paths cannot be sources and as many targets; name the sources, then a target for \
             each of them"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::sides;
    use crate::args::{Cli, Verb};

    fn typed(words: &[&str]) -> Result<(usize, usize), String> {
        let words = ["keiki", "clone"].iter().chain(words);
        match Cli::try_parse_from(words).unwrap().verb {
            Verb::Clone(args) => {
                let (sources, targets) = sides(&args).map_err(|error| error.to_string())?;
                Ok((sources.len(), targets.len()))
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn half_of_the_paths_are_sources() {
        assert_eq!(typed(&["a", "b"]), Ok((1, 1)));
        assert_eq!(typed(&["a", "b", "c", "d"]), Ok((2, 2)));
        assert_eq!(typed(&["a", "--map", "d0=b"]), Ok((1, 0)));
        assert_eq!(typed(&["a", "b", "c", "--map", "d0=d"]), Ok((2, 1)));
        for wrong in [&["a"][..], &["a", "b", "c"], &["a", "b", "--map", "d0=d"]] {
            assert!(typed(wrong).is_err(), "{wrong:?}");
        }
    }
}
