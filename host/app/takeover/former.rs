//! The process whose place this one takes.

use std::{
    io::{self, ErrorKind},
    path::Path,
    sync::Arc,
    time::Duration,
};

use tokio::net::UnixStream;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{debug, info, warn};

use super::wire::{Message, Role, Wire, unexpected};
use crate::{
    app::exchange::Exchange,
    cache::{purge::Purges, tag::Tag},
    http::{Socket, Sockets},
};

/// The process whose place this one takes.
pub(in crate::app) struct Former {
    wire: Wire,
    /// Which process it is, by which its claim on its node's name is known.
    process: String,
    /// How long it may take for its part.
    limit: Duration,
}

/// Its listening sockets.
pub(in crate::app) struct Inherited {
    pub(in crate::app) clients: Sockets,
    pub(in crate::app) admin: Sockets,
}

impl Former {
    /// Returns the process that can be asked at `path`; `None` if there is none.
    pub(in crate::app) async fn find(path: &Path, limit: Duration) -> io::Result<Option<Self>> {
        match UnixStream::connect(path).await {
            Ok(stream) => {
                let mut wire = Wire::open(stream).await?;
                let process = wire.receive_process().await?;
                Ok(Some(Self { wire, process, limit }))
            }
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns which process it is, as its claim on its node's name says.
    pub(in crate::app) fn process(&self) -> &str {
        &self.process
    }

    /// Receives copies of its listening sockets. It goes on accepting.
    pub(in crate::app) async fn sockets(&mut self) -> io::Result<Inherited> {
        let (mut clients, mut admin): (Vec<Socket>, Vec<Socket>) = (Vec::new(), Vec::new());
        for (role, socket) in self.wire.receive_sockets().await? {
            match role {
                Role::Clients => clients.push(socket),
                Role::Admin => admin.push(socket),
            }
        }
        Ok(Inherited { clients: Sockets::new(clients), admin: Sockets::new(admin) })
    }

    /// Has it close its directories. It goes on serving without; or it has ended by itself, and has none any more.
    pub(in crate::app) async fn release(&mut self) -> io::Result<()> {
        heard(self.wire.send(&Message::Prepared).await)?;
        match self.wire.receive(self.limit).await {
            Ok(Message::Released) => Ok(()),
            Ok(Message::GivenUp) => Err(given_up()),
            Ok(other) => Err(unexpected(&other)),
            Err(error) if has_ended(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Has it stop accepting, once all is applied that unsafe methods have invalidated there. It may have ended by itself:
    /// then this process has to serve in any case.
    ///
    /// # Errors
    /// It goes on, so that this process has to end.
    pub(in crate::app) async fn begin(&mut self, purger: &Purges) -> io::Result<()> {
        let mut outcome = heard(self.wire.send(&Message::Ready).await);
        while outcome.is_ok() {
            outcome = match self.wire.receive(self.limit).await {
                Ok(Message::Begin) => return Ok(()),
                Ok(Message::Invalidate { tags, is_everything }) => heard(self.apply(purger, tags, is_everything).await),
                Ok(Message::GivenUp) => return Err(given_up()),
                Ok(other) => return Err(unexpected(&other)),
                Err(error) => Err(error),
            };
        }
        match outcome {
            Err(error) if has_ended(&error) => {
                warn!("the process whose place this one takes has ended before it could hand on what was invalidated");
                Ok(())
            }
            other => other,
        }
    }

    /// Applies what unsafe methods invalidate there until it has ended, and has this process read the UDP sockets as soon as
    /// the other doesn't any more.
    pub(in crate::app) async fn follow(mut self, exchange: Arc<Exchange>) {
        let datagrams = CancellationToken::new();
        // With this task, so that a node that stops meanwhile doesn't keep its configuration for ever.
        let completing = AbortOnDropHandle::new(tokio::spawn(complete(Arc::clone(&exchange), datagrams.clone())));
        loop {
            let applied = match self.wire.next().await {
                Ok(Message::Datagrams) => {
                    datagrams.cancel();
                    continue;
                }
                Ok(Message::Invalidate { tags, is_everything }) => {
                    self.apply(exchange.cache().purger(), tags, is_everything).await
                }
                Ok(other) => Err(unexpected(&other)),
                Err(error) => Err(error),
            };
            if let Err(error) = applied {
                debug!(%error, "the process whose place this one has taken is gone");
                break;
            }
        }
        info!("the process whose place this one has taken has ended");
        // It may not have come to say so.
        datagrams.cancel();
        let _ = completing.await;
    }

    async fn apply(&mut self, purger: &Purges, tags: Vec<Tag>, is_everything: bool) -> io::Result<()> {
        let is_safe = purger.take_bequest(tags.into_iter(), is_everything).await;
        self.wire.send(&Message::Applied { is_safe }).await
    }
}

/// Listens at the UDP ports as well, once the other process has closed them, and closes what the configuration doesn't
/// name.
async fn complete(exchange: Arc<Exchange>, datagrams: CancellationToken) {
    if let Err(error) = exchange.complete_listeners(datagrams.cancelled()).await {
        warn!(%error, "HTTP/3 is off until the configuration is read again");
    }
    for socket in exchange.listeners().close_unused() {
        info!(socket, "no longer listening: the configuration doesn't name it");
    }
}

/// Takes a message that couldn't be sent for sent, if the other side is gone: what it has said before is there to be
/// read, and may be that it goes on by itself.
fn heard(sent: io::Result<()>) -> io::Result<()> {
    match sent {
        Err(error) if has_ended(&error) => Ok(()),
        sent => sent,
    }
}

fn given_up() -> io::Error {
    io::Error::other("it has waited too long, and goes on by itself")
}

/// Whether the other side is gone, and not merely slow.
fn has_ended(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cache::{Cache, Metrics},
        config,
    };

    const LIMIT: Duration = Duration::from_secs(5);

    /// A process that has said this, and is gone.
    async fn gone(said: &[Message]) -> Former {
        let (own, its) = UnixStream::pair().unwrap();
        let (own, its) = tokio::join!(Wire::open(own), Wire::open(its));
        let mut its = its.unwrap();
        for message in said {
            its.send(message).await.unwrap();
        }
        Former { wire: own.unwrap(), process: String::new(), limit: LIMIT }
    }

    #[tokio::test]
    async fn a_process_that_ended_has_released_its_directories_and_one_that_gave_up_has_not() {
        assert!(gone(&[Message::Released]).await.release().await.is_ok());
        assert!(gone(&[]).await.release().await.is_ok());
        assert!(gone(&[Message::GivenUp]).await.release().await.is_err());
    }

    #[tokio::test]
    async fn a_process_that_gave_this_one_up_goes_on_although_it_does_not_listen_any_more() {
        let cache = Cache::open("n", &config::Cache::default(), Metrics::default()).await.unwrap();
        assert!(gone(&[Message::Begin]).await.begin(cache.purger()).await.is_ok());
        assert!(gone(&[]).await.begin(cache.purger()).await.is_ok(), "it has ended");
        let given_up = gone(&[Message::GivenUp]).await.begin(cache.purger()).await;
        assert!(given_up.unwrap_err().to_string().contains("goes on by itself"));
        let invalidates = Message::Invalidate { tags: vec![Tag::url("http://a/")], is_everything: false };
        let late = gone(&[invalidates, Message::GivenUp]).await.begin(cache.purger()).await;
        assert!(late.is_err(), "what it said last counts");
    }
}
