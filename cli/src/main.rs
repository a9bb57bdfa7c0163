//! The `keiki` program: save disks, restore them grown onto others.

mod answers;
mod args;
mod cmd;
mod exit;
mod medium;
mod network;
mod output;
mod tui;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::CommandFactory;

use args::{Cli, Verb};
use exit::Exit;
use output::progress::Progress;

fn main() -> ExitCode {
    if std::env::args_os().len() < 2 {
        return if tui::usable() { ExitCode::from(tui::run().code()) } else { short_help() };
    }
    let mut cli = match args::config::parse(std::env::args_os().collect()) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    if let Verb::ServeView { mountpoint } = &cli.verb {
        return ExitCode::from(cmd::view::run(mountpoint).code());
    }
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // The second signal ends the program at once, for a disk that does not answer any more.
        let twice = signal_hook::flag::register_conditional_shutdown(
            signal,
            Exit::Interrupted.code().into(),
            Arc::clone(&interrupted),
        );
        let once = signal_hook::flag::register(signal, Arc::clone(&interrupted));
        if twice.and(once).is_err() {
            output::talk("warning: signals are not handled");
        }
    }
    cli.global.repo = cli.global.repo.take().map(network::known);
    let progress = Progress::new(&cli.global, interrupted);
    let ended = cmd::run(&cli, &progress);
    progress.finish();
    let exit = match ended {
        Ok(exit) => exit,
        Err(error) => cmd::complain(&cli.global, &error),
    };
    ExitCode::from(exit.code())
}

/// What a person sees who types the program's name alone.
fn short_help() -> ExitCode {
    let template = "{about}\n\n{usage-heading} {usage}\n\n{subcommands}{after-help}\n\n\
                    `keiki COMMAND --help` tells more.";
    // `keiki help` works, and the last line says it better.
    let command = Cli::command().disable_help_subcommand(true).help_template(template);
    output::talk({ command }.render_help().to_string().trim_end());
    ExitCode::from(Exit::Usage.code())
}

/// Help and version are a success that prints; anything else is a usage error.
fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        return match error.print() {
            Ok(()) => ExitCode::from(Exit::Done.code()),
            Err(_) => ExitCode::from(Exit::Failed.code()),
        };
    }
    // The option may stand anywhere, and parsing failed: so the words themselves are asked.
    if std::env::args_os().any(|word| word == "--json") {
        // What is wrong comes first, then an empty line, then advice.
        let text = error.to_string();
        let first = text.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ");
        let message = first.split_whitespace().collect::<Vec<_>>().join(" ");
        drop(output::json(&cmd::error_json("usage", &message, "")));
    } else {
        drop(error.print());
    }
    ExitCode::from(Exit::Usage.code())
}
