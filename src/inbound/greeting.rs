//! Who is the client: by its address, by what a proxy says of it, by the certificate of its handshake. May it come in,
//! and does it wait until it is greeted?

use std::io;
use std::time::Duration;

use super::limits::Excess;
use super::policy::SessionPolicy;
use super::session::Driver;
use crate::event::Event;
use crate::metrics::LimitKind;
use crate::net;
use crate::net::tls::ServerTls;
use crate::protocol::proxy;
use crate::protocol::reply::{self, Refusal};
use crate::protocol::xclient::Address;
use crate::spool::storage::Storage;
use crate::users::sha256;

/// How long a proxy may take for its header, which it has before it connects. The specification asks for 3 s at least.
const PROXY_WAIT: Duration = Duration::from_secs(5);

impl<S: Storage> Driver<'_, S> {
    /// Everything up to the banner; `false` when the session is over.
    pub(super) async fn greet(&mut self) -> bool {
        if self.peer.ip().is_some_and(&self.listener.proxies) {
            let Some(header) = self.read_proxy_header().await else {
                self.note_limit(LimitKind::Proxy, "no PROXY header");
                return self.close(&reply::PROXY_EXPECTED).await;
            };
            self.is_known = header.client.is_some();
            if let Some(client) = header.client {
                self.peer = client.ip().to_canonical().into();
            }
        }
        if let Err(refusal) = self.admit() {
            return self.close(&refusal).await;
        }
        if let Some(tls) = self.listener.implicit_tls() {
            if !self.shake_hands(tls).await {
                return false;
            }
            self.session.begin_secured();
        }
        self.offer_what_it_may();
        if self.policy.pass.is_some() && !self.waits_for_banner().await {
            return false;
        }
        self.session.banner(&self.listener.options, &mut self.out);
        true
    }

    /// The client is from now on the one at `self.peer`.
    fn admit(&mut self) -> Result<(), Refusal> {
        // The pass of whoever was here before is given back first.
        self.policy.pass = None;
        self.start_over();
        let is_limited = !self.policy.is_trusted() && self.is_known && self.listener.is_limited;
        let Some(address) = self.peer.ip().filter(|_| is_limited) else { return Ok(()) };
        match self.inbound.clients.admit(address, net::now().mono) {
            Ok(pass) => {
                self.policy.pass = Some(pass);
                Ok(())
            }
            Err(excess) => Err(self.refuse_excess(&excess)),
        }
    }

    /// Nothing holds any more of what the client has said and shown of itself, its login and certificate; what its address
    /// may do and has done still does.
    fn start_over(&mut self) {
        let pass = self.policy.pass.take();
        let trusted = self.is_known && self.listener.trusts(self.peer);
        self.policy = SessionPolicy::new(&self.listener.rules, trusted, net::random);
        self.policy.pass = pass;
        self.waiting.is_trusted.set(trusted);
    }

    fn offer_what_it_may(&mut self) {
        if self.is_known && self.peer.ip().is_some_and(&self.listener.introducers) {
            self.session.offer_xclient();
        }
        self.offer_auth();
    }

    /// Counts a limit that was met, and words it for the client.
    pub(super) fn refuse_excess(&self, excess: &Excess) -> Refusal {
        let refusal = excess.refusal();
        self.note_limit(excess.kind(), &refusal.text);
        refusal
    }

    pub(super) fn note_limit(&self, kind: LimitKind, what: &str) {
        self.inbound.metrics.limits[kind].inc();
        let at = net::now().wall;
        self.inbound.events.send(Event::SessionError { at, peer: self.peer, what: what.into() });
    }

    /// Reads whom a proxy speaks for; `None` when it does not say.
    async fn read_proxy_header(&mut self) -> Option<proxy::Header> {
        let until = net::now().mono + PROXY_WAIT;
        loop {
            match proxy::parse(self.input.filled()) {
                Ok(Some(header)) => {
                    self.input.consume(header.bytes);
                    return Some(header);
                }
                Ok(None) => {}
                Err(proxy::Malformed) => return None,
            }
            // What is behind the header must be left to the handshake.
            let most = match self.listener.implicit_tls() {
                Some(_) => proxy::least_missing(self.input.filled()),
                None => usize::MAX,
            };
            let left = until.since(net::now().mono);
            self.stream.set_read_timeout(left);
            if left.is_zero() || !matches!(self.stream.read_at_most(most, &mut self.input).await, Ok(1..)) {
                return None;
            }
        }
    }

    /// Whether the client is silent before the banner, as it must be. One that talks is told so, and `false` is given.
    async fn waits_for_banner(&mut self) -> bool {
        if self.input.filled().is_empty() {
            self.stream.set_read_timeout(self.inbound.banner_wait);
            match self.stream.read(&mut self.input).await {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) => return error.kind() == io::ErrorKind::TimedOut,
            }
        }
        self.note_limit(LimitKind::EarlyTalk, "it spoke before the banner");
        self.close(&reply::EARLY_TALK).await
    }

    /// XCLIENT: another client from now on; `false` when the session is over.
    pub(super) async fn introduce(&mut self) -> bool {
        let admitted = match self.session.introduce().address {
            Address::Kept if self.policy.pass.is_some() => {
                self.start_over();
                Ok(())
            }
            Address::Kept => self.admit(),
            Address::Unknown => {
                self.is_known = false;
                self.admit()
            }
            Address::Is(address) => {
                (self.peer, self.is_known) = (address.into(), true);
                self.admit()
            }
        };
        match admitted {
            Ok(()) => {
                self.offer_what_it_may();
                self.session.banner(&self.listener.options, &mut self.out);
                true
            }
            Err(refusal) => self.close(&refusal).await,
        }
    }

    /// Answers STARTTLS and shakes hands; `false` when the session is over.
    pub(super) async fn start_tls(&mut self) -> bool {
        let Some(tls) = self.listener.starttls() else { return false };
        // Whatever came behind the command was sent in the clear, by whomever (RFC 3207 §6).
        if !self.input.filled().is_empty() || !self.answer().await {
            return false;
        }
        self.start_over();
        let secured = self.shake_hands(tls).await;
        if secured {
            self.session.tls_established();
            self.offer_auth();
        }
        secured
    }

    /// `false` when it failed, and the session is over.
    async fn shake_hands(&mut self, tls: &ServerTls) -> bool {
        let patience = &self.inbound.patience;
        let limit =
            if self.inbound.admission.is_scarce() { patience.when_scarce() } else { *patience }.handshake();
        match self.stream.accept_tls(tls, limit).await {
            Ok(()) => {
                if let Some(certificate) = self.stream.peer_certificate() {
                    self.policy.certified(sha256(&certificate));
                    if self.policy.is_trusted() {
                        self.waiting.is_trusted.set(true);
                        self.policy.pass = None;
                    }
                }
                true
            }
            Err(error) => {
                let (at, what) = (net::now().wall, format!("TLS handshake: {error}").into());
                self.inbound.events.send(Event::SessionError { at, peer: self.peer, what });
                false
            }
        }
    }
}
