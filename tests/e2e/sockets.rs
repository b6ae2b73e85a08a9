//! Sockets that are passed instead of bound, as systemd does: served by all shards, and left as they are.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::Command;

use crate::harness::client::{Client, content};
use crate::harness::relay::{Config, Lab};
use crate::harness::{eventually, has_program, host_is_able, quiet_port, skip};

/// `serve` with `socket` as its descriptor 3, as sd_listen_fds(3) describes it.
fn with_socket(lab: &Lab, config: &Config, socket: &TcpListener) -> Command {
    rustix::io::fcntl_setfd(socket, rustix::io::FdFlags::empty()).expect("a descriptor can be kept open");
    let serve = lab.command(config);
    let mut command = Command::new("bash");
    let pass = format!("exec 3<&{}; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" \"$@\"", socket.as_raw_fd());
    command.arg("-c").arg(pass).arg(serve.get_program()).args(serve.get_args());
    command
}

fn on(address: SocketAddr) -> Config {
    Config::new().threads(2, "shared").set("smtp.listen", format!("['{address}']")).route("*", "hold")
}

#[test]
fn a_socket_that_is_passed_serves_all_shards_and_outlives_the_relay() {
    if !host_is_able() || !has_program("bash") {
        return;
    }
    let lab = Lab::new();
    let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = socket.local_addr().expect("bound");
    // As systemd leaves it: whether it blocks is for whoever accepts to say.
    socket.set_nonblocking(true).expect("a socket");
    let relay = lab.start_command(with_socket(&lab, &on(address), &socket));
    assert_eq!(relay.smtp(), address);
    let mut open: Vec<_> = (0..8).map(|_| Client::connect(address)).collect();
    for shard in ["0", "1"] {
        relay.await_metric("ringpost_connections_open", &[("shard", shard)], |open| open == 4.0);
    }
    for (nth, client) in open.iter_mut().enumerate() {
        client.mail("a@client.test", &["x@a.test"], &content(&format!("{nth}"), "x"));
    }
    drop(open);
    relay.stop();
    // Nobody accepts now, and nobody is refused.
    let waiting = TcpStream::connect(address).expect("the socket is not ours to shut");
    let relay = lab.start_command(with_socket(&lab, &on(address), &socket));
    assert_eq!(relay.queued(), 8);
    let mut line = [0; 4];
    std::io::Read::read_exact(&mut &waiting, &mut line).expect("it is served by the next relay");
    assert_eq!(&line, b"220 ");
    drop(waiting);
    relay.stop();
}

#[test]
fn a_socket_that_no_listener_has_is_told_with_what_to_change() {
    if !has_program("bash") {
        return;
    }
    let lab = Lab::new();
    let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = socket.local_addr().expect("bound");
    let elsewhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let ended = lab.run(with_socket(&lab, &on(elsewhere), &socket));
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    for words in [format!("a socket on {address} was passed"), "smtp.listen".into(), ".socket unit".into()] {
        assert!(ended.err.contains(&words), "{words:?} is missing: {}", ended.err);
    }
    assert!(!lab.spool().exists(), "nothing is touched");
}

#[test]
fn systemds_own_program_starts_the_relay_at_the_first_connection() {
    if !host_is_able() {
        return;
    }
    if !has_program("systemd-socket-activate") {
        return skip("no systemd-socket-activate");
    }
    let lab = Lab::new();
    let address = SocketAddr::from(([127, 0, 0, 1], quiet_port()));
    let serve = lab.command(&on(address));
    let mut command = Command::new("systemd-socket-activate");
    command.arg("-l").arg(address.to_string()).arg(serve.get_program()).args(serve.get_args());
    let first = std::thread::spawn(move || {
        let stream = eventually("systemd listens", || TcpStream::connect(address).ok());
        let mut line = [0; 4];
        std::io::Read::read_exact(&mut &stream, &mut line).expect("a banner");
        line
    });
    let relay = lab.start_command(command);
    assert_eq!(&first.join().expect("no panic"), b"220 ");
    Client::connect(address).mail("a@client.test", &["x@a.test"], &content("activated", "x"));
    relay.stop();
}
