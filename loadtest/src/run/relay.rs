//! A relay that is started, watched, stopped and killed for a run: in a process group of its own, so that its processes
//! are reached and nobody else's. Groups that its descendants lead count as its own: Postfix's master makes itself one.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};

use crate::process;

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(10);
/// How long one greeting is waited for, before another connection is tried.
const GREETING: Duration = Duration::from_secs(5);
/// How long a relay may take to stop by itself.
const STOP: Duration = Duration::from_secs(30);

/// How a relay is started.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The command, for a shell; `{target}` and `{sink}` stand for the addresses.
    pub command: String,
    /// Where it must listen.
    pub target: SocketAddr,
    /// Where it must deliver.
    pub sink: SocketAddr,
    /// Longest wait until it is ready.
    pub wait: Duration,
    /// It greets first: all but TLS from the start.
    pub greets: bool,
    /// Where its output goes; nowhere if not given.
    pub log: Option<PathBuf>,
}

/// A started relay.
pub struct Relay {
    child: Child,
    /// The group has not been waited for.
    alive: bool,
}

impl Relay {
    /// Starts it and waits until it is ready: what its start takes is not to be measured as its first replies.
    pub fn start(recipe: &Recipe, stop: &AtomicBool) -> io::Result<Self> {
        let Recipe { target, wait, greets, .. } = *recipe;
        if TcpStream::connect(target).is_ok() {
            return Err(io::Error::other(format!(
                "something listens on {target} already; --relay starts its own"
            )));
        }
        let addresses = [("{target}", target), ("{sink}", recipe.sink)];
        let line = addresses
            .iter()
            .fold(recipe.command.clone(), |line, (name, address)| line.replace(name, &address.to_string()));
        let output = || match &recipe.log {
            Some(path) => Ok(File::options().create(true).append(true).open(path)?.into()),
            None => io::Result::Ok(Stdio::null()),
        };
        // `exec`, so that the relay's process is the one whose CPU time and end are seen.
        let child = Command::new("/bin/sh")
            .args(["-c", &format!("exec {line}")])
            .stdin(Stdio::null())
            .stdout(output()?)
            .stderr(output()?)
            .process_group(0)
            .spawn()?;
        let mut relay = Self { child, alive: true };
        let deadline = Instant::now() + wait;
        while !is_ready(target, greets) {
            if let Some(status) = relay.child.try_wait()? {
                let why = format!(
                    "the relay ended with {status} before it was ready on {target}; --relay-log keeps its output"
                );
                return Err(io::Error::other(why));
            }
            if Instant::now() >= deadline || stop.load(Ordering::Relaxed) {
                let what = if greets { "greet with 220" } else { "listen" };
                return Err(io::Error::other(format!("the relay does not {what} on {target}")));
            }
            std::thread::sleep(LOOK);
        }
        Ok(relay)
    }

    /// Starts one that was killed: its sockets may outlive it for a moment, in an io_uring that the kernel takes down
    /// behind it.
    pub fn start_again(recipe: &Recipe, stop: &AtomicBool) -> io::Result<Self> {
        let deadline = Instant::now() + recipe.wait;
        while TcpStream::connect(recipe.target).is_ok() && Instant::now() < deadline {
            std::thread::sleep(LOOK);
        }
        Self::start(recipe, stop)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// It has not ended by itself.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// SIGTERM, then SIGKILL if it does not stop. Says how long it took.
    pub fn stop(mut self) -> io::Result<Duration> {
        let begun = Instant::now();
        let groups = self.groups();
        signal(&groups, Signal::TERM);
        while begun.elapsed() < STOP {
            let ended = self.child.try_wait()?.is_some();
            if ended && !groups.iter().any(|group| test_kill_process_group(*group).is_ok()) {
                break;
            }
            std::thread::sleep(LOOK);
        }
        signal(&groups, Signal::KILL);
        self.child.wait()?;
        self.alive = false;
        Ok(begun.elapsed())
    }

    /// SIGKILL to all of it.
    pub fn kill(&mut self) -> io::Result<()> {
        signal(&self.groups(), Signal::KILL);
        self.child.wait()?;
        self.alive = false;
        Ok(())
    }

    /// Its own group first; those of its descendants can only be found while it lives.
    fn groups(&self) -> Vec<Pid> {
        let own = self.child.id();
        let others = process::groups(own).into_iter().filter(|group| *group != own);
        let pid = |id: u32| i32::try_from(id).ok().and_then(Pid::from_raw);
        std::iter::once(own).chain(others).filter_map(pid).collect()
    }
}

/// Whether somebody takes connections there and, if that is wanted, greets.
fn is_ready(target: SocketAddr, greets: bool) -> bool {
    let Ok(mut stream) = TcpStream::connect(target) else { return false };
    let mut code = [0; 3];
    let mut greeted = || -> io::Result<bool> {
        stream.set_read_timeout(Some(GREETING))?;
        stream.read_exact(&mut code)?;
        stream.write_all(b"QUIT\r\n")?;
        Ok(code == *b"220")
    };
    !greets || greeted().unwrap_or(false)
}

fn signal(groups: &[Pid], signal: Signal) {
    for group in groups {
        // It may be gone already, which is what is wanted.
        let _ = kill_process_group(*group, signal);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if self.alive {
            // An error ends the run; what it started must not outlive it.
            let _ = self.kill();
        }
    }
}
