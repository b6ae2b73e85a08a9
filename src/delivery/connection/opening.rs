//! From the remote's first EHLO to the first transaction: encryption, as the path's policy has it.

use super::{Connection, Ended};
use crate::delivery::encryption::{self, Step};
use crate::outcome::Reply;
use crate::protocol::client::Loss;
use crate::spool::storage::Storage;

impl<S: Storage> Connection<'_, S> {
    /// EHLO was accepted, in the clear or behind the handshake.
    pub(super) fn greeted(&mut self) {
        if self.is_encrypted {
            return self.opened();
        }
        match encryption::after_offer(self.security.tls, self.client.capabilities().starttls) {
            Step::Encrypt => self.client.start_tls(),
            Step::InTheClear => self.opened(),
            Step::GiveUp(reply) => self.refused(&reply),
        }
    }

    pub(super) fn tls_refused(&mut self, reply: &Reply) {
        match encryption::after_refusal(self.security.tls, reply) {
            Step::Encrypt | Step::InTheClear => self.opened(),
            Step::GiveUp(reply) => self.refused(&reply),
        }
    }

    /// The remote said yes to STARTTLS; `false` when the connection is lost.
    pub(super) async fn shake_hands(&mut self) -> bool {
        let options = self.pool.options();
        let Some(tls) = options.keys.tls(self.security) else { return true };
        self.stream.set_read_timeout(options.timeouts.command);
        self.stream.set_write_timeout(options.timeouts.command);
        let Err(error) = self.stream.connect_tls(tls, &self.remote).await else {
            self.is_encrypted = true;
            self.client.tls_established();
            return true;
        };
        self.client.lost(Loss::GivenUp, "the TLS handshake failed");
        match encryption::after_failed_handshake(self.security.tls, &format!("{}: {error}", self.remote)) {
            Step::Encrypt | Step::InTheClear => self.ended = Some(Ended::FallsBack),
            Step::GiveUp(reply) => self.refused(&reply),
        }
        false
    }

    /// The session is open: transactions may begin.
    fn opened(&mut self) {
        self.ready = true;
        self.pool.dialler().answered(self.address);
        self.open.set(true);
        self.path.lane.borrow_mut().set_ready(true);
        self.pool.path_succeeded(self.spec.id);
    }
}
