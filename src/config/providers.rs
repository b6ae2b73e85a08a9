//! PURE. The sites that come with the program: what large mailbox providers are known to want.

use super::Config;
use crate::routing::site::Site;

/// The file, with the reason of each number.
pub const PROVIDERS: &str = include_str!("providers.toml");

/// Its sites.
pub(super) fn sites() -> Vec<Site> {
    Config::parse(PROVIDERS).expect("a test reads it").sites
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Host;

    #[test]
    fn the_shipped_profile_limits_each_of_its_providers() {
        let sites = sites();
        assert!(sites.len() >= 8);
        for site in &sites {
            let rules = &site.rules;
            assert!(!site.mx.is_empty() && site.domains.is_empty() && site.sources.is_empty(), "{site:?}");
            assert!(rules.connections_max.is_some_and(|most| most <= 25), "{site:?}");
            assert!(
                rules.messages_per_connection_max.is_some() && rules.connection_rate.is_some(),
                "{site:?}"
            );
        }
    }

    #[test]
    fn the_profile_lies_below_the_sites_of_the_file_and_can_be_switched_off() {
        let host = Host { name: "mail.example".into(), cpus: 1 };
        let names = |file: &str| -> Vec<String> {
            let config = Config::parse(file).expect("valid").completed(&host).expect("complete");
            config.sites.into_iter().map(|site| site.name).collect()
        };
        let own = "[[site]]\nname = 'own'\nmx = ['*.google.com']\n";
        let with = names(own);
        assert_eq!(
            (with.first().map(String::as_str), with.last().map(String::as_str)),
            (Some("google"), Some("own"))
        );
        assert_eq!(names(&format!("[delivery]\nproviders = false\n{own}")), ["own"]);
    }
}
