//! The answer to "why is this site slow right now": what all roles say of a path, put together. PURE.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::id::PathId;
use crate::metrics::paths::{HomePart, LanePart, LimitedBy, PathAnswer, PathPart, ShardPart};
use crate::outcome::{Enhanced, Reply};

/// Most tenants named for a path.
const TENANTS_MAX: usize = 20;

/// All parts of one path.
#[derive(Default)]
struct Parts {
    name: String,
    home: Option<HomePart>,
    lanes: Vec<LanePart>,
    shards: Vec<ShardPart>,
}

/// The answers as JSON; `missing` roles have not answered. `None` if nobody knows such a path.
pub(super) fn json_of(answers: Vec<PathAnswer>, missing: usize) -> Option<Value> {
    let mut paths: BTreeMap<PathId, Parts> = BTreeMap::new();
    for PathAnswer { path, name, part } in answers {
        let parts = paths.entry(path).or_default();
        parts.name = name;
        match part {
            PathPart::Home(home) => parts.home = Some(home),
            PathPart::Lane(lane) => parts.lanes.push(lane),
            PathPart::Shard(shard) => parts.shards.push(shard),
        }
    }
    let shown: Vec<_> = paths.iter().map(|(id, parts)| parts.json(*id)).collect();
    (!shown.is_empty()).then(|| json!({ "paths": shown, "roles_missing": missing }))
}

impl Parts {
    fn json(&self, id: PathId) -> Value {
        let sum = |field: fn(&LanePart) -> u32| self.lanes.iter().map(field).sum::<u32>();
        let error = self.lanes.iter().filter_map(|lane| lane.error.as_ref()).min_by_key(|(ago, _)| *ago);
        let home = self.home.as_ref();
        let limits = home.map(|home| &home.limits);
        json!({
            "id": id.0,
            "name": self.name,
            "limited_by": self.limited_by(),
            "hosts": home.map(|home| &home.hosts),
            "connections": {
                "open": sum(|lane| lane.connections),
                "sessions": sum(|lane| lane.sessions),
                "allowed": home.map(|home| home.allowed),
                "by_worker": self.by_worker(),
            },
            "limits": {
                "connections_max": limits.map(|limits| limits.connections),
                "messages_per_connection_max": limits.map(|limits| limits.messages_per_connection),
                "recipients_per_transaction_max": limits.map(|limits| limits.recipients_per_transaction),
                "connection_rate": limits.and_then(|limits| limits.connection_rate).map(|rate| rate.to_string()),
                "message_rate": limits.and_then(|limits| limits.message_rate).map(|rate| rate.to_string()),
            },
            "permits": {
                "messages": home.and_then(|home| home.messages_left),
                "connections": home.and_then(|home| home.connections_left),
            },
            "back_off_seconds": home.and_then(|home| home.rests_for).map(|left| left.as_secs_f64()),
            "failures_in_a_row": home.map(|home| home.failures),
            "last_error": error.map(|(ago, reply)| error_json(*ago, reply)),
            "jobs": { "parked": sum(|lane| lane.parked), "active": sum(|lane| lane.active) },
            "waiting": self.waiting(),
        })
    }

    /// The limit that binds; where none does, whether it is the remote that is waited for.
    fn limited_by(&self) -> Option<&'static str> {
        let limited_by = self.home.as_ref()?.limited_by;
        let has_jobs = self.lanes.iter().any(|lane| lane.active + lane.parked > 0);
        let is_idle = !has_jobs && self.shards.iter().all(|shard| shard.ready == 0);
        Some(match limited_by {
            LimitedBy::BackOff => limited_by.name(),
            _ if is_idle => "no_mail",
            LimitedBy::Nothing => "remote",
            _ => limited_by.name(),
        })
    }

    fn by_worker(&self) -> Value {
        let lane = |lane: &LanePart| json!({ "worker": lane.worker.0, "open": lane.connections, "sessions": lane.sessions });
        self.lanes.iter().map(lane).collect()
    }

    fn waiting(&self) -> Value {
        if self.shards.is_empty() {
            // Shards are asked for one path at a time; this is what they have told its home.
            return json!({ "legs": self.home.as_ref().map(|home| home.ready) });
        }
        let shard = |shard: &ShardPart| json!({ "shard": shard.shard.0, "legs": shard.ready });
        let mut tenants: BTreeMap<&str, u64> = BTreeMap::new();
        for (tenant, legs) in self.shards.iter().flat_map(|shard| &shard.tenants) {
            *tenants.entry(tenant).or_default() += u64::from(*legs);
        }
        let mut tenants: Vec<_> = tenants.into_iter().collect();
        tenants.sort_by_key(|(_, legs)| std::cmp::Reverse(*legs));
        let tenant = |(tenant, legs): &(&str, u64)| json!({ "tenant": tenant, "legs": legs });
        json!({
            "legs": self.shards.iter().map(|shard| u64::from(shard.ready)).sum::<u64>(),
            "oldest_seconds": self.shards.iter().map(|shard| shard.oldest.as_secs_f64()).fold(0.0, f64::max),
            "by_shard": self.shards.iter().map(shard).collect::<Value>(),
            "tenants": tenants.iter().take(TENANTS_MAX).map(tenant).collect::<Value>(),
        })
    }
}

/// The remote's words; without a code they are ours.
fn error_json(ago: Duration, reply: &Reply) -> Value {
    let Enhanced(class, subject, detail) = reply.enhanced;
    json!({
        "code": (reply.code != 0).then_some(reply.code),
        "enhanced": format!("{class}.{subject}.{detail}"),
        "text": reply.text,
        "seconds_ago": ago.as_secs_f64(),
    })
}
