//! What a worker says of its paths when it is asked why one is slow.

use std::rc::Rc;

use super::path::PathState;
use super::pool::Pool;
use crate::clock::Moment;
use crate::metrics::paths::{HomePart, LanePart, PathAnswer, PathPart};
use crate::net;
use crate::routing::{PathKind, PathSpec};
use crate::spool::storage::Storage;

/// Most paths of a worker in a list without a name.
const LISTED_MAX: usize = 100;

impl<S: Storage> Pool<S> {
    /// All that it knows of the paths with this name; without one, its homes with the most to do.
    pub fn describe(&self, name: &str) -> Vec<PathAnswer> {
        let now = net::now().mono;
        let paths = self.paths.borrow();
        if !name.is_empty() {
            let named = paths.values().filter(|path| path.lane.borrow().spec().name == name);
            return named.flat_map(|path| self.parts(path, now)).collect();
        }
        let mut homes: Vec<_> = paths.values().filter(|path| path.home.is_some()).collect();
        homes.sort_by_cached_key(|path| {
            let mut lane = path.lane.borrow_mut();
            std::cmp::Reverse(lane.grants().ready() + lane.depth() as u64)
        });
        homes.truncate(LISTED_MAX);
        homes.into_iter().flat_map(|path| self.parts(path, now)).collect()
    }

    fn parts(&self, path: &Rc<PathState<S>>, now: Moment) -> Vec<PathAnswer> {
        let mut lane = path.lane.borrow_mut();
        let spec = lane.spec().clone();
        let mut parts = Vec::new();
        if let Some(home) = &path.home {
            let home = home.borrow();
            let (messages_left, connections_left) = home.permits_left(now);
            parts.push(PathPart::Home(HomePart {
                hosts: hosts(&spec),
                limits: spec.limits,
                allowed: home.allowed(),
                limited_by: home.limited_by(now),
                rests_for: home.rest_until().map(|until| until.since(now)),
                failures: home.failures(),
                messages_left,
                connections_left,
                ready: lane.grants().ready(),
            }));
        }
        let parked = u32::try_from(lane.parked()).unwrap_or(u32::MAX);
        parts.push(PathPart::Lane(LanePart {
            worker: self.wiring.index,
            connections: lane.connections(),
            sessions: lane.ready(),
            parked,
            active: u32::try_from(lane.depth()).unwrap_or(u32::MAX) - parked,
            error: path.last_error.borrow().as_ref().map(|(at, reply)| (now.since(*at), reply.clone())),
        }));
        let answer = |part| PathAnswer { path: spec.id, name: spec.name.clone(), part };
        parts.into_iter().map(answer).collect()
    }
}

fn hosts(spec: &PathSpec) -> Vec<String> {
    let PathKind::Smtp { hosts } = &spec.kind else { return Vec::new() };
    let show = |host: &crate::routing::PathHost| {
        let addresses: Vec<_> = host.addresses.iter().map(ToString::to_string).collect();
        format!("{}:{} [{}]", host.name, host.port, addresses.join(", "))
    };
    hosts.iter().map(show).collect()
}
