//! The binary: arguments in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    kinfold::cli::run(std::env::args_os())
}
