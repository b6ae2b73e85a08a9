//! A disk for tests of the real relay: FUSE over files without a name, which fails, dawdles, fills up and loses power on
//! demand. Everything on it goes when the process ends.
//!
//! It prints `ready` when it is mounted, and takes orders as lines on a Unix socket ([`faults::Order`]); each is answered by
//! a line that begins with `ok` or `error`. What a power cut leaves is said in [`journal`] and [`names`].

mod disk;
mod faults;
mod fuse;
mod journal;
mod mercy;
mod names;

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Parser;
use fuser::{Config, MountOption};

use disk::Disk;
use faults::Order;

/// A disk on FUSE that fails on demand, for tests. Needs root and /dev/fuse.
#[derive(Debug, Parser)]
struct Options {
    /// A directory on a real disk, for the bytes
    #[arg(long, value_name = "DIR")]
    backing: PathBuf,
    /// Where to mount; should be in a mount namespace of its own (unshare -m --propagation private)
    #[arg(long, value_name = "DIR")]
    mount: PathBuf,
    /// The Unix socket for orders
    #[arg(long, value_name = "PATH")]
    control: PathBuf,
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let disk = Arc::new(Disk::new(&options.backing));
    let orders = UnixListener::bind(&options.control)?;
    let mut config = Config::default();
    config.mount_options =
        vec![MountOption::FSName("ringpost-faulty-disk".into()), MountOption::DefaultPermissions];
    let session = fuser::spawn_mount(fuse::Mounted(disk.clone()), &options.mount, &config)?;
    std::thread::spawn(move || {
        for stream in orders.incoming().flatten() {
            // Whoever gives orders may go away at any time.
            let _ = serve(&disk, stream);
        }
    });
    println!("ready");
    Ok(session.join()?)
}

fn serve(disk: &Disk, stream: UnixStream) -> std::io::Result<()> {
    let mut answers = stream.try_clone()?;
    for line in BufReader::new(stream).lines() {
        let answer = match Order::parse(&line?) {
            Ok(order) => format!("ok {}", disk.obey(order)),
            Err(error) => format!("error {error}"),
        };
        writeln!(answers, "{}", answer.trim_end())?;
    }
    Ok(())
}
