//! A relay that is started, watched, stopped and killed for a run: a process group of its own, so that all of its
//! processes are reached and nobody else's.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(10);
/// How long a relay may take to stop by itself.
const STOP: Duration = Duration::from_secs(30);

/// A started relay.
pub struct Relay {
    child: Child,
    /// The group has not been waited for.
    alive: bool,
}

impl Relay {
    /// Starts `command` with `{target}` and `{sink}` replaced, and waits until something listens on `target`.
    pub fn start(
        command: &str,
        target: SocketAddr,
        sink: SocketAddr,
        wait: Duration,
        stop: &AtomicBool,
    ) -> io::Result<Self> {
        if TcpStream::connect(target).is_ok() {
            return Err(io::Error::other(format!(
                "something listens on {target} already; --relay starts its own"
            )));
        }
        let line = command.replace("{target}", &target.to_string()).replace("{sink}", &sink.to_string());
        // `exec`, so that the relay's process is the one whose CPU time and end are seen.
        let child = Command::new("/bin/sh")
            .args(["-c", &format!("exec {line}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()?;
        let mut relay = Self { child, alive: true };
        let deadline = Instant::now() + wait;
        while TcpStream::connect(target).is_err() {
            if let Some(status) = relay.child.try_wait()? {
                return Err(io::Error::other(format!(
                    "the relay ended with {status} before it listened on {target}"
                )));
            }
            if Instant::now() >= deadline || stop.load(Ordering::Relaxed) {
                return Err(io::Error::other(format!("the relay does not listen on {target}")));
            }
            std::thread::sleep(LOOK);
        }
        Ok(relay)
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
        self.signal(Signal::TERM);
        while self.child.try_wait()?.is_none() && begun.elapsed() < STOP {
            std::thread::sleep(LOOK);
        }
        self.kill()?;
        Ok(begun.elapsed())
    }

    /// SIGKILL to the whole group.
    pub fn kill(&mut self) -> io::Result<()> {
        self.signal(Signal::KILL);
        self.child.wait()?;
        self.alive = false;
        Ok(())
    }

    fn signal(&self, signal: Signal) {
        // The group may be gone already, which is what is wanted.
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, signal);
        }
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
