//! The `ringpost` command.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ringpost::account;
use ringpost::cli::{self, Command, Serve, Spool, User};
use ringpost::config::{Started, startup_text};
use ringpost::control::admin::{AdminListener, Readiness, Unready};
use ringpost::control::disk_profile::DiskProfile;
use ringpost::control::exposition::Exposition;
use ringpost::control::log;
use ringpost::inspect::{self, Inspection};
use ringpost::relay::{self, Relay};

// Frees across threads are the rule here: a body is made on a shard and dropped on a worker.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How often the main thread looks for a signal, and at the health of the executors.
const LOOK_EVERY: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    match cli::parse().command {
        Command::Serve(flags) => match serve(&flags) {
            Ok(code) => code,
            Err(error) => {
                eprintln!("ringpost: {error}");
                ExitCode::FAILURE
            }
        },
        Command::Check { config } => cli::check(&config),
        Command::Config { providers, .. } => cli::print_config(providers),
        Command::User(User::Add(wanted)) => account::add(&wanted),
        Command::Spool(Spool::Verify { directory }) => inspect::run(&directory, &Inspection::Verify),
        Command::Spool(Spool::List { directory, domain, json }) => {
            let domain = domain.map(|domain| domain.to_ascii_lowercase());
            inspect::run(&directory, &Inspection::List { domain, json })
        }
        Command::Spool(Spool::Export { directory, id }) => inspect::run(&directory, &Inspection::Export(id)),
    }
}

fn serve(flags: &Serve) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let config = Arc::new(flags.load()?);
    log::init(&config.log)?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register(signal, stop.clone())?;
    }
    let reload = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGHUP, reload.clone())?;
    let readiness = Arc::new(Readiness::default());
    let disk = match config.spool.disk_profile.as_os_str().is_empty() {
        true => None,
        false => Some(DiskProfile::read(&config.spool.disk_profile)?),
    };
    // Before anything is bound: where io_uring is missing, that is what must be said.
    relay::check_host(&config)?;
    let admin = AdminListener::bind(config.admin.listen)?;
    let admin_address = admin.address();
    let relay = Relay::start(config.clone())?;
    let exposition = Exposition::new(&config, relay.resolver(), disk.clone());
    let admin = admin.serve(exposition, Arc::new(relay.orders()), readiness.clone())?;
    readiness.clear(Unready::Recovering);
    readiness.clear(Unready::NotListening);
    let started = Started {
        listening: relay.listening().to_vec(),
        admin: admin_address,
        queued: relay.queued(),
        disk: disk.map(|profile| profile.text()),
        certificate: relay.made_certificate().map(str::to_owned),
        directory: std::env::current_dir()?,
        program: std::env::args().next().unwrap_or_else(|| "ringpost".into()),
    };
    cli::print(&startup_text(&config, &started));
    let healthy = wait(&relay, &stop, &reload, &readiness);
    readiness.set(Unready::Stopping);
    let clean = relay.stop();
    admin.stop();
    cli::print(match clean {
        true => "ringpost: stopped\n",
        false => "ringpost: stopped, by force: what was under way may be sent again\n",
    });
    Ok(if healthy && clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Waits for a signal, or for an executor to die; says whether all was well until then.
fn wait(relay: &Relay, stop: &AtomicBool, reload: &AtomicBool, readiness: &Readiness) -> bool {
    let fence = relay.fence();
    while !stop.load(Ordering::Relaxed) {
        if reload.swap(false, Ordering::Relaxed) {
            match relay.reload() {
                Ok(()) => cli::print("ringpost: certificates, users and mailboxes are read again\n"),
                Err(error) => eprintln!("ringpost: not reloaded, what was read before stays: {error}"),
            }
        }
        if fence.reason().is_some() {
            readiness.set(Unready::Fenced);
        }
        if !relay.is_alive() {
            eprintln!("ringpost: an executor has ended unexpectedly; stopping: a restart recovers the queue");
            return false;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    true
}
