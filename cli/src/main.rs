//! The program `kubectl-quorate`, which kubectl runs as `kubectl quorate`.

use std::process::ExitCode;

use clap::{Parser, error::ErrorKind};
use quorate_cli::{
    answer::note,
    exit::Exit,
    options::{Options, wrong_usage},
    run,
};

fn main() -> ExitCode {
    // A panic's text may hold a value; where it happened is enough to report it.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        note(&format!("error: a bug at {place}; please report it"));
    }));
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) => {
            // Nobody may be listening.
            let _ = error.print();
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            let exit = if asked { Exit::Ok } else { wrong_usage(std::env::args_os()) };
            return ExitCode::from(exit.code());
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            note(&format!("error: {error}"));
            return ExitCode::from(Exit::Error.code());
        }
    };
    let exit = runtime.block_on(run(options)).unwrap_or_else(|failure| {
        note(&format!("error: {failure}"));
        failure.exit
    });
    ExitCode::from(exit.code())
}
