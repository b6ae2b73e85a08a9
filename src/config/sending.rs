//! PURE. Rules between the tables that say where mail is sent to, from where and whose it is: sites, sources, pools, tenants.

use std::collections::BTreeSet;

use super::options::Config;
use super::read::Reader;
use crate::routing::site::Site;

impl Reader<'_> {
    pub(super) fn sending_rules(&mut self, config: &Config) {
        self.names("site", &config.sites.iter().map(|site| site.name.as_str()).collect::<Vec<_>>());
        self.names("source", &config.sources.iter().map(|source| source.name.as_str()).collect::<Vec<_>>());
        self.names("tenant", &config.tenants.iter().map(|tenant| tenant.name.as_str()).collect::<Vec<_>>());
        self.names("pool", &config.pools.iter().map(|pool| pool.name.as_str()).collect::<Vec<_>>());
        let sources: BTreeSet<&str> = config.sources.iter().map(|source| source.name.as_str()).collect();
        let unknown = |name: &str| (!sources.contains(name)).then(|| name.to_owned());
        for (index, site) in config.sites.iter().enumerate() {
            self.rule_at(
                index,
                site.has_destinations() || !site.sources.is_empty(),
                "site.name",
                format!("`{}` matches nothing; a site needs mx, hosts, domains or sources", site.name),
            );
            self.paired(index, site);
            let name = site.sources.iter().find_map(|name| unknown(name));
            self.rule_at(index, name.is_none(), "site.name", no_source(&site.name, name, &sources));
        }
        for (index, source) in config.sources.iter().enumerate() {
            let fours = source.addresses.iter().filter(|address| address.is_ipv4()).count();
            self.rule_at(
                index,
                fours <= 1 && source.addresses.len() - fours <= 1,
                "source.addresses",
                "two addresses of a family; allowed is one of each: make the other a source of its own"
                    .to_owned(),
            );
        }
        for (index, pool) in config.pools.iter().enumerate() {
            let name = pool.sources.iter().find_map(|member| unknown(&member.source));
            self.rule_at(index, name.is_none(), "pool.sources", no_source(&pool.name, name, &sources));
        }
        let pool = &config.delivery.pool;
        self.rule(
            pool.is_empty() || config.pools.iter().any(|other| other.name == *pool),
            ["delivery.pool"; 2],
            format!("there is no pool `{pool}`; allowed is the name of a [[pool]], or \"\""),
        );
    }

    /// Keys of a site that mean nothing without each other.
    fn paired(&mut self, index: usize, site: &Site) {
        let name = &site.name;
        let rules = &site.rules;
        let is_set = |path: &std::path::Path| !path.as_os_str().is_empty();
        for (one, other, names) in [
            (
                is_set(&rules.client_certificate),
                is_set(&rules.client_key),
                ["client_certificate", "client_key"],
            ),
            (
                !rules.auth_user.is_empty(),
                is_set(&rules.auth_password_file),
                ["auth_user", "auth_password_file"],
            ),
        ] {
            let what = format!("`{name}` sets only one of {}; allowed is both or none", names.join(" and "));
            self.rule_at(index, one == other, "site.name", what);
        }
    }

    /// Each table has a name, and one of its own.
    fn names(&mut self, section: &str, names: &[&str]) {
        for (index, name) in names.iter().enumerate() {
            let key = format!("{section}.name");
            self.rule_at(
                index,
                !name.is_empty(),
                &key,
                format!("a {section} needs a name that is not empty"),
            );
            let is_new = name.is_empty() || !names[..index].contains(name);
            let what = format!("there are two {section}s `{name}`; allowed is a name of its own for each");
            self.rule_at(index, is_new, &key, what);
        }
    }
}

fn no_source(table: &str, name: Option<String>, sources: &BTreeSet<&str>) -> String {
    let known: Vec<&str> = sources.iter().copied().collect();
    let known =
        if known.is_empty() { "there is none".to_owned() } else { format!("known are {}", known.join(", ")) };
    format!("`{table}` names a source `{}` that no [[source]] is called; {known}", name.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::super::read::tests::check;
    use crate::config::Config;

    #[test]
    fn a_site_that_is_wrong_is_told_where_and_what_it_needs() {
        check("[[site]]\nmx = ['*.a.test']\n", &[(1, 1, "site.name", "needs its name")]);
        check(
            "[[site]]\nname = 'a'\nmx = ['a b']\nhosts = ['discard://x']\nwindow = 0\nmxs = []\n",
            &[
                (3, 6, "site.mx", "\"a b\"|*.example.com"),
                (4, 9, "site.hosts", "\"discard://x\"|smtp://"),
                (5, 10, "site.window", "found 0|from 1 to 65536"),
                (6, 1, "site.mxs", "did you mean `mx`?|connections_max"),
            ],
        );
        check(
            "[[site]]\nname = 'a'\n[[site]]\nname = 'a'\ndomains = ['a.test']\n",
            &[(2, 8, "site.name", "matches nothing"), (4, 8, "site.name", "two sites `a`")],
        );
        let config =
            Config::parse("[[site]]\nname = 'a'\nhosts = ['[::1]:26', 'smtp://b.test']\n").expect("valid");
        assert_eq!(config.sites[0].hosts[0].to_string(), "smtp://[::1]:26");
        assert_eq!(config.sites[0].hosts[1].to_string(), "smtp://b.test:25");
    }

    const SOURCE: &str = "[[source]]\nname = 'a'\naddresses = ['192.0.2.1']\n";

    #[test]
    fn a_pool_or_a_source_that_is_wrong_is_told_where_and_what_it_needs() {
        check(
            "[[source]]\nname = 'a'\naddresses = ['192.0.2.1', '192.0.2.2']\n",
            &[(3, 13, "source.addresses", "two addresses of a family")],
        );
        check("[[source]]\nname = ''\naddresses = ['::1']\n", &[(2, 8, "source.name", "not empty")]);
        check(
            "[[source]]\nname = 'a'\naddresses = ['x']\n",
            &[(3, 13, "source.addresses", "\"x\"|2001:db8::1")],
        );
        let pool = |lines: &str| format!("{SOURCE}[[pool]]\nname = 'p'\n{lines}");
        check(&pool("sources = ['a', 'b:2']\n"), &[(6, 11, "pool.sources", "source `b`|known are a")]);
        check(&pool("sources = ['a:0']\n"), &[(6, 11, "pool.sources", "\"a:0\"|one:3")]);
        check(&pool("sources = []\n"), &[(6, 11, "pool.sources", "too short")]);
        check(&pool(""), &[(4, 1, "pool.sources", "needs its name and its sources")]);
        check("[delivery]\npool = 'p'\n", &[(2, 8, "delivery.pool", "no pool `p`")]);
        check(
            "[[site]]\nname = 's'\nsources = ['b']\n",
            &[(2, 8, "site.name", "`s` names a source `b`|there is none")],
        );
        let config = Config::parse(&pool("sources = ['a:3']\ntenants = ['x@y']\n")).expect("valid");
        assert_eq!((config.pools[0].sources[0].weight, &*config.pools[0].tenants[0]), (3, "x@y"));
    }
}
