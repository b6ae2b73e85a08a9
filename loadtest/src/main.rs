//! `ringpost-load`: command line and allocator. Everything else is in the library.

use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match ringpost_load::run::execute(ringpost_load::options::Options::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("ringpost-load: {error}");
            ExitCode::from(2)
        }
    }
}
