//! Makes executors, and says clearly why the host will not have them.

use std::future::Future;
use std::io;
use std::thread::JoinHandle;

use glommio::{LocalExecutorBuilder, Placement};
use rustix::process::{Resource, getrlimit, setrlimit};

/// Memory locked by one executor's rings, bytes: what the kernel charges to RLIMIT_MEMLOCK before 5.12, and what
/// glommio insists on. GLOMMIO asks for at least 512 KiB.
pub const MEMLOCK_PER_EXECUTOR: u64 = 512 * 1024;
/// Oldest kernel on which glommio runs: major and minor number.
pub const KERNEL_MIN: (u32, u32) = (5, 8);
/// Registered I/O memory of one executor, bytes: two batches of 1 MiB. It is pinned, so it counts while idle; other buffers
/// come from the heap.
const IO_MEMORY: usize = 2 << 20;
/// Submissions that one ring holds.
const RING_DEPTH: usize = 1024;

/// Why executors can't run here. Each says what to change.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The kernel is too old.
    #[error("the kernel is {0}, and io_uring as the relay uses it needs {major}.{minor}: install a newer one",
        major = KERNEL_MIN.0, minor = KERNEL_MIN.1)]
    Kernel(String),
    /// io_uring is forbidden.
    #[error(
        "io_uring is not available ({0}): set sysctl kernel.io_uring_disabled=0; in a container, run with \
         --security-opt seccomp=unconfined or a seccomp profile that allows io_uring_setup, io_uring_enter and \
         io_uring_register"
    )]
    IoUring(io::Error),
    /// Too little memory may be locked.
    #[error(
        "the memlock limit is {have} KiB and {executors} executors need {need} KiB: raise it with `ulimit -l {need}`, \
         LimitMEMLOCK={need}K in the systemd unit, or --ulimit memlock={need_bytes} in a container"
    )]
    Memlock {
        /// The limit, KiB.
        have: u64,
        /// What is needed, KiB.
        need: u64,
        /// The same in bytes.
        need_bytes: u64,
        /// For how many.
        executors: usize,
    },
    /// The thread or the executor could not be made.
    #[error("cannot start executor {name}: {error}")]
    Start {
        /// Name of the thread.
        name: String,
        /// What was said.
        error: String,
    },
}

/// Checks, before anything is touched, that `executors` can be made; raises soft limits as far as the hard ones allow.
pub fn check_host(executors: usize) -> Result<(), HostError> {
    raise_soft_limit(Resource::Nofile);
    raise_soft_limit(Resource::Memlock);
    check_kernel(&rustix::system::uname().release().to_string_lossy())?;
    probe_io_uring().map_err(HostError::IoUring)?;
    check_memlock(executors, getrlimit(Resource::Memlock).current)
}

/// Checks a kernel release such as `6.1.0-18-amd64`. One that cannot be read passes: io_uring itself will be tried.
pub fn check_kernel(release: &str) -> Result<(), HostError> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) < KERNEL_MIN => {
            Err(HostError::Kernel(release.to_owned()))
        }
        _ => Ok(()),
    }
}

/// Checks that `limit` bytes of locked memory, or any number, suffice for `executors`.
pub fn check_memlock(executors: usize, limit: Option<u64>) -> Result<(), HostError> {
    let need_bytes = MEMLOCK_PER_EXECUTOR * executors as u64;
    // A process with CAP_IPC_LOCK is not held to the limit by the kernel, but glommio checks it all the same.
    match limit {
        Some(have) if have < need_bytes => {
            Err(HostError::Memlock { have: have / 1024, need: need_bytes / 1024, need_bytes, executors })
        }
        _ => Ok(()),
    }
}

fn raise_soft_limit(resource: Resource) {
    let mut limit = getrlimit(resource);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        let _ = setrlimit(resource, limit);
    }
}

/// Makes a ring of one entry and drops it.
fn probe_io_uring() -> io::Result<()> {
    let mut parameters = rustix::io_uring::io_uring_params::default();
    super::fd::probe_ring(&mut parameters).map(drop)
}

/// CPUs that this process may run on, in order.
pub fn online_cpus() -> Vec<usize> {
    let set = rustix::thread::sched_getaffinity(None);
    let is_set = |cpu: &usize| set.as_ref().is_ok_and(|set| set.is_set(*cpu));
    (0..rustix::thread::CpuSet::MAX_CPU).filter(is_set).collect()
}

/// Starts an executor on a thread of its own, pinned to `cpu` if one is given, and runs `main` on it.
pub fn start<G, F>(name: &str, cpu: Option<usize>, main: G) -> Result<JoinHandle<()>, HostError>
where
    G: FnOnce() -> F + Send + 'static,
    F: Future<Output = ()> + 'static,
{
    let placement = cpu.map_or(Placement::Unbound, Placement::Fixed);
    let thread_name = name.to_owned();
    let (report, reported) = std::sync::mpsc::channel();
    let handle = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let made = LocalExecutorBuilder::new(placement)
            .name(&thread_name)
            .io_memory(IO_MEMORY)
            .ring_depth(RING_DEPTH)
            .make();
        match made {
            Ok(executor) => {
                let _ = report.send(None);
                executor.run(main());
            }
            Err(error) => drop(report.send(Some(error.to_string()))),
        }
    });
    let failed = |error: String| HostError::Start { name: name.to_owned(), error };
    let handle = handle.map_err(|error| failed(error.to_string()))?;
    match reported.recv() {
        Ok(None) => Ok(handle),
        Ok(Some(error)) => Err(failed(error)),
        Err(_) => Err(failed("its thread ended while it was being made".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_all_distributions_are_compared_by_number() {
        for (release, is_good) in [
            ("6.1.0-18-amd64", true),
            ("5.14.0-427.el9.x86_64", true),
            ("5.8", true),
            ("10.0-rc1", true),
            ("5.4.0-1", false),
            ("4.18.0-553.el8_10.x86_64", false),
            ("6", true),
            ("", true),
            ("next", true),
            ("99999999999.1", true),
        ] {
            assert_eq!(check_kernel(release).is_ok(), is_good, "{release}");
        }
    }

    #[test]
    fn memory_to_lock_is_counted_by_executor_and_the_error_gives_the_number() {
        assert!(check_memlock(16, Some(8 << 20)).is_ok() && check_memlock(1_000, None).is_ok());
        let error = check_memlock(17, Some(8 << 20)).expect_err("too little").to_string();
        assert!(error.contains("8192 KiB") && error.contains("ulimit -l 8704"), "{error}");
    }
}
