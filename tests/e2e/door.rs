//! Listeners of several kinds: each with its own policy, whichever shard serves the connection.

use crate::harness::client::Client;
use crate::harness::host_is_able;
use crate::harness::relay::{Config, Lab};

#[test]
fn each_listener_keeps_its_policy_on_whichever_shard_a_connection_lands() {
    if !host_is_able() {
        return;
    }
    let lab = Lab::new();
    let config = Config::new()
        .threads(2, "shared")
        .set("smtp.relay_domains", "['ours.test']")
        .listener("mx", "")
        .listener("relay", "relay_networks = []")
        .listener("submission", "")
        .route("*", "hold");
    let relay = lab.start(&config);
    // Kept open, so that connections are handed from shard to shard.
    let mut open = Vec::new();
    for _ in 0..6 {
        for (address, ours, others) in [
            (relay.smtp(), 250, 250),
            (relay.listener("mx"), 250, 550),
            (relay.listener("submission"), 550, 550),
        ] {
            let mut client = Client::connect(address);
            client.expect("MAIL FROM:<a@client.test>", 250);
            client.expect("RCPT TO:<x@ours.test>", ours);
            client.expect("RCPT TO:<x@other.test>", others);
            open.push(client);
        }
    }
    drop(open);
    relay.stop();
}
