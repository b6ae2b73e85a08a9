//! PURE. Which source of a pool the next connection leaves by, and which ones are out for now.
//!
//! Weights are kept exactly and evenly (smooth weighted round robin): of weights 3 and 1 every fourth connection leaves by
//! the second. A source that cannot bind is out for all paths; one that a remote says it blocks is out for that path, if
//! another can take its place.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Moment;
use crate::hash::HashState;
use crate::id::PathId;
use crate::routing::source::{Source, SourcePool};

/// How long a source that could not bind is out: its address may be on its way from another host.
pub const UNBOUND_FOR: Duration = Duration::from_secs(60);
/// How long a source that a remote blocks is out for the remote's path.
pub const BLOCKED_FOR: Duration = Duration::from_secs(15 * 60);

/// For all paths, or for one.
type Place = (Box<str>, Option<PathId>);

/// What a worker knows of sources.
#[derive(Debug, Default)]
pub struct Sources {
    /// Of each pool, how much each member is owed.
    owed: HashMap<Box<str>, Vec<i64>, HashState>,
    out: HashMap<Place, Moment, HashState>,
}

/// How the next connection leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The system chooses.
    Any,
    /// From this source.
    From(Arc<Source>),
    /// Every source of the pool is out.
    AllOut,
}

impl Sources {
    /// The source of the next connection of `path`.
    pub fn choose(&mut self, pool: &SourcePool, path: PathId, now: Moment) -> Choice {
        if pool.members.is_empty() {
            return Choice::Any;
        }
        let is_in: Vec<bool> =
            pool.members.iter().map(|(source, _)| !self.is_out(&source.name, path, now)).collect();
        let owed = self.owed.entry(pool.name.as_str().into()).or_default();
        owed.resize(pool.members.len(), 0);
        let mut total = 0;
        for (nth, (_, weight)) in pool.members.iter().enumerate().filter(|(nth, _)| is_in[*nth]) {
            owed[nth] += i64::from(*weight);
            total += i64::from(*weight);
        }
        // The first of equals.
        let best = (0..owed.len()).filter(|nth| is_in[*nth]).max_by_key(|nth| (owed[*nth], usize::MAX - nth));
        let Some(best) = best else { return Choice::AllOut };
        owed[best] -= total;
        Choice::From(pool.members[best].0.clone())
    }

    /// It could not bind. Whether that is news.
    pub fn unbound(&mut self, source: &Source, now: Moment) -> bool {
        self.take_out((source.name.as_str().into(), None), now, UNBOUND_FOR)
    }

    /// A remote of `path` blocks it. Whether that is news; not if no other source of the pool could take its place.
    pub fn blocked(&mut self, source: &Source, pool: &SourcePool, path: PathId, now: Moment) -> bool {
        let others = pool.members.iter().filter(|(other, _)| other.name != source.name);
        let replaceable = others.into_iter().any(|(other, _)| !self.is_out(&other.name, path, now));
        replaceable && self.take_out((source.name.as_str().into(), Some(path)), now, BLOCKED_FOR)
    }

    /// Names of sources that were out and may serve again, once for each path that they were out for; told once.
    pub fn take_back(&mut self, now: Moment) -> Vec<Box<str>> {
        let mut back: Vec<_> =
            self.out.extract_if(|_, until| *until <= now).map(|((source, _), _)| source).collect();
        back.sort();
        back
    }

    /// Whether any source is out.
    pub fn any_out(&self) -> bool {
        !self.out.is_empty()
    }

    fn is_out(&self, source: &str, path: PathId, now: Moment) -> bool {
        // Almost always nothing is out, and nothing need be looked up.
        let out = |path| self.out.get(&(source.into(), path)).is_some_and(|until| *until > now);
        !self.out.is_empty() && (out(None) || out(Some(path)))
    }

    fn take_out(&mut self, place: Place, now: Moment, time: Duration) -> bool {
        self.out.insert(place, now + time).is_none()
    }
}

/// Words by which remotes say that they do not want mail from our address, in lower case.
const BLOCK_WORDS: &[&str] =
    &["block", "blacklist", "denylist", "listed", "reputation", "spamhaus", "dnsbl", "rbl", "banned"];

/// Whether a remote that sends us away means our address: a permanent or temporary refusal in known words.
pub fn is_block(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    BLOCK_WORDS.iter().any(|word| text.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: PathId = PathId(1);

    fn pool(weights: &[(&str, u32)]) -> SourcePool {
        let member = |(name, weight): &(&str, u32)| {
            (Arc::new(Source { name: (*name).into(), ..Source::default() }), *weight)
        };
        SourcePool { name: "pool".into(), members: weights.iter().map(member).collect() }
    }

    fn chosen(sources: &mut Sources, pool: &SourcePool, path: PathId, now: Moment, count: usize) -> String {
        let name = |_| match sources.choose(pool, path, now) {
            Choice::From(source) => source.name.clone(),
            other => format!("{other:?}"),
        };
        (0..count).map(name).collect::<Vec<_>>().concat()
    }

    #[test]
    fn weights_are_kept_exactly_and_evenly() {
        let (mut sources, pool) = (Sources::default(), pool(&[("a", 3), ("b", 1), ("c", 2)]));
        assert_eq!(chosen(&mut sources, &pool, PATH, Moment(0), 12), "acabcaacabca");
        assert_eq!(sources.choose(&SourcePool::default(), PATH, Moment(0)), Choice::Any);
    }

    #[test]
    fn a_source_that_cannot_bind_is_out_for_all_paths_and_comes_back() {
        let (mut sources, pool) = (Sources::default(), pool(&[("a", 1), ("b", 1)]));
        assert!(sources.unbound(&pool.members[0].0, Moment(0)));
        assert!(!sources.unbound(&pool.members[0].0, Moment(0)), "no news");
        assert_eq!(chosen(&mut sources, &pool, PathId(7), Moment(0), 3), "bbb");
        let later = Moment(0) + UNBOUND_FOR;
        assert!(sources.take_back(Moment(0)).is_empty());
        assert_eq!(chosen(&mut sources, &pool, PATH, later, 2), "ab");
        assert_eq!(sources.take_back(later), ["a".into()]);
        assert!(sources.take_back(later).is_empty() && !sources.any_out());
    }

    #[test]
    fn a_blocked_source_is_out_for_the_path_alone_and_the_last_one_never() {
        let (mut sources, pool) = (Sources::default(), pool(&[("a", 1), ("b", 1)]));
        let (a, b) = (&pool.members[0].0, &pool.members[1].0);
        assert!(sources.blocked(a, &pool, PATH, Moment(0)));
        assert!(!sources.blocked(b, &pool, PATH, Moment(0)), "nothing would be left");
        assert_eq!(chosen(&mut sources, &pool, PATH, Moment(0), 2), "bb");
        assert_eq!(chosen(&mut sources, &pool, PathId(2), Moment(0), 2), "ab");
        sources.unbound(b, Moment(0));
        assert_eq!(sources.choose(&pool, PATH, Moment(0)), Choice::AllOut);
    }

    #[test]
    fn a_block_is_known_by_its_words() {
        assert!(is_block(
            "5.7.1 Service unavailable; client host [192.0.2.1] Blocked using zen.spamhaus.org"
        ));
        assert!(is_block("4.7.1 poor IP reputation"));
        assert!(!is_block("4.3.2 too many connections, try again later"));
    }
}
