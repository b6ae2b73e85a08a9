//! `ringpost-load`: command line and allocator. Everything else is in the library.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let options = match ringpost_load::options::scenario::options(std::env::args_os().collect()) {
        Ok(options) => options,
        Err(error) => error.exit(),
    };
    match ringpost_load::run::execute(options) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("ringpost-load: {error}");
            ExitCode::from(2)
        }
    }
}
