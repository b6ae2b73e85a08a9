//! From the connection to the first transaction: encryption, as the path's policy has it, and the login.

use super::{Connection, Ended};
use crate::delivery::encryption::{self, Step};
use crate::net;
use crate::outcome::{Enhanced, Reply};
use crate::protocol::client::Loss;
use crate::routing::Way;
use crate::spool::storage::Storage;

impl<S: Storage> Connection<'_, S> {
    /// TLS from the first byte on, where the route says so; `false` when the connection is lost. There is no falling back:
    /// the remote has not said a word, and nothing is known to be in the clear there.
    pub(super) async fn begin_encrypted(&mut self) -> bool {
        if self.security.way != Way::NamedTls {
            return true;
        }
        self.security.tls = self.security.tls.at_least_required();
        let handshake = self.handshake().await;
        handshake.map_err(|step| self.give_up(step)).is_ok()
    }

    /// EHLO was accepted, in the clear or behind the handshake.
    pub(super) fn greeted(&mut self) {
        if self.is_encrypted {
            return self.log_in();
        }
        match encryption::after_offer(self.security.tls, self.client.capabilities().starttls) {
            Step::Encrypt => self.client.start_tls(),
            Step::InTheClear => self.log_in(),
            Step::GiveUp(reply) => self.leave_unencrypted(&reply),
        }
    }

    pub(super) fn tls_refused(&mut self, reply: &Reply) {
        match encryption::after_refusal(self.security.tls, reply) {
            Step::Encrypt | Step::InTheClear => self.log_in(),
            Step::GiveUp(reply) => self.leave_unencrypted(&reply),
        }
    }

    /// The remote said yes to STARTTLS; `false` when the connection is lost.
    pub(super) async fn shake_hands(&mut self) -> bool {
        match self.handshake().await {
            Ok(()) => {
                self.client.tls_established();
                true
            }
            Err(step) => {
                self.give_up(step);
                false
            }
        }
    }

    fn leave_unencrypted(&mut self, reply: &Reply) {
        self.pool.metrics().tls_lacking.inc();
        self.forbidden(reply);
    }

    async fn handshake(&mut self) -> Result<(), Step> {
        let options = self.pool.options();
        let Some(tls) = options.keys.tls(self.security) else { return Ok(()) };
        self.stream.set_read_timeout(options.timeouts.command);
        self.stream.set_write_timeout(options.timeouts.command);
        if let Err(error) = self.stream.connect_tls(tls, &self.remote).await {
            self.pool.metrics().tls_failed.inc();
            let why = format!("{}: {error}", self.remote);
            return Err(encryption::after_failed_handshake(self.security.tls, &why));
        }
        self.pool.metrics().tls_encrypted.inc();
        self.is_encrypted = true;
        Ok(())
    }

    fn give_up(&mut self, step: Step) {
        self.client.lost(Loss::GivenUp, "the TLS handshake failed");
        match step {
            Step::Encrypt | Step::InTheClear => self.ended = Some(Ended::FallsBack),
            Step::GiveUp(reply) => self.forbidden(&reply),
        }
    }

    /// The path's policy does not let us go on here. The host is no dead one: paths with other policies may use it.
    pub(super) fn forbidden(&mut self, reply: &Reply) {
        self.pool.call_failed(self.path, self.call, reply);
        self.ended = Some(Ended::Served);
    }

    /// The session is as safe as it gets: says who we are, if the path's site has a user.
    fn log_in(&mut self) {
        let Some(credentials) = self.pool.options().keys.login(self.security) else { return self.opened() };
        let is_here = self.address.is_none_or(|address| address.ip().to_canonical().is_loopback());
        if !self.is_encrypted && !is_here {
            let text = "a login is only sent over TLS, which is not to be had here";
            return self.forbidden(&Reply::new(0, Enhanced(4, 7, 11), text));
        }
        let random = [net::random(), net::random(), net::random()].map(u64::to_ne_bytes);
        let mut nonce = [0; 18];
        nonce.iter_mut().zip(random.iter().flatten()).for_each(|(place, byte)| *place = *byte);
        self.client.log_in(credentials, &nonce);
    }

    /// Whether the way is as safe as REQUIRETLS wants it; found out once, for the first message that asks.
    pub(super) fn secured(&mut self) -> Result<(), String> {
        if self.address.is_none() {
            // A unix socket: nobody is between.
            return Ok(());
        }
        let (stream, trust, remote) = (&self.stream, self.pool.options().keys.trust(), &self.remote);
        let judge = || stream.judge_server(trust, remote).map_err(|error| error.to_string());
        let (security, is_encrypted) = (self.security, self.is_encrypted);
        self.secured.get_or_insert_with(|| encryption::secured(security, is_encrypted, judge)).clone()
    }

    /// The session is open: transactions may begin.
    pub(super) fn opened(&mut self) {
        self.ready = true;
        self.pool.dialler().answered(self.address);
        self.open.set(true);
        // Told first: as long as the connection counts as coming, no other is opened for the job that it will take.
        self.pool.path_succeeded(self.spec.id);
        self.path.lane.borrow_mut().set_ready(true);
    }
}
