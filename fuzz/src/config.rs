//! Any configuration file: it is taken, or refused with reasons.

use ringpost::config::{Config, Host};

/// The input is the file.
pub fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match Config::parse(text) {
        Ok(config) => {
            let host = Host { name: "mx.test".into(), cpus: 2 };
            let config = config.completed(&host).expect("a good host completes every good file");
            assert!(config.threads.shards > 0 && config.threads.workers > 0);
        }
        Err(problems) => assert!(!problems.is_empty(), "refused without a reason"),
    }
}
