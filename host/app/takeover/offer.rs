//! The socket at which another process may ask for the place of this one.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    net::{UnixListener, UnixStream},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::wire::{Message, Role, Wire, unexpected};
use crate::{
    app::exchange::Exchange,
    cache::purge::{Bequest, Purges},
    http::{Listeners, SocketFile},
};

/// Only processes of the same user may connect.
const MODE: u32 = 0o600;

/// How long a process that has failed may take to end, before its directories are opened again.
const END_TIME: Duration = Duration::from_secs(5);

/// The first pause between two attempts to open the directories again, and the longest.
const REOPEN_PAUSE: Duration = Duration::from_millis(500);
const REOPEN_PAUSE_MAX: Duration = Duration::from_secs(10);

/// The pause after an accept that failed.
const BACK_OFF: Duration = Duration::from_millis(50);

/// The socket at which another process may ask for the place of this one.
pub(in crate::app) struct Offer {
    listener: UnixListener,
    file: SocketFile,
    path: PathBuf,
}

/// What is handed over.
pub(in crate::app) struct Place {
    pub(in crate::app) exchange: Arc<Exchange>,
    pub(in crate::app) admin: Option<Arc<Listeners>>,
    /// Which process this is, as its claim on its node's name says.
    pub(in crate::app) process: String,
}

impl Offer {
    /// Binds the socket. While another process has `path`, whose place this one takes, its file is beside that until
    /// [`Offer::publish`].
    ///
    /// # Errors
    /// Another process is to be asked there, or what the system says.
    pub(in crate::app) fn bind(path: PathBuf, is_successor: bool) -> io::Result<Self> {
        let bind = if is_successor { SocketFile::bind_beside } else { SocketFile::bind };
        let (listener, file) = bind(&path, MODE)?;
        Ok(Self { listener: UnixListener::from_std(listener)?, file, path })
    }

    /// Puts the socket's file where others look for it.
    ///
    /// # Errors
    /// What the system says.
    pub(in crate::app) fn publish(self) -> io::Result<Self> {
        let Self { listener, file, path } = self;
        Ok(Self { file: file.rename(&path)?, listener, path })
    }

    /// Hands the place over to the first process that asks for it and gets ready, and finishes with it until `stop`.
    pub(in crate::app) async fn serve(self, place: Place, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.accept(&place) => {}
        }
    }

    async fn accept(&self, place: &Place) {
        let mut missing: Option<Missing> = None;
        loop {
            // An attempt to open them isn't given up halfway.
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = due(missing.as_ref()) => {
                    missing = place.take_back(missing).await;
                    continue;
                }
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!(%error, path = %self.path.display(), "cannot accept at the socket of `[takeover]`");
                    sleep(BACK_OFF).await;
                    continue;
                }
            };
            match Box::pin(place.hand_over(stream, &mut missing)).await {
                Ok(wire) => return place.finish(wire).await,
                Err(error) => warn!(%error, "another process was to take the place of this one, which goes on"),
            }
        }
    }
}

/// The directories are no longer this process's, and no other process has begun with them.
struct Missing {
    /// When they are tried next.
    due: Instant,
    /// The pause after that.
    pause: Duration,
    /// Whether that they can't be opened has been said.
    is_said: bool,
}

impl Missing {
    fn new() -> Self {
        Self { due: Instant::now(), pause: REOPEN_PAUSE, is_said: false }
    }

    /// Another attempt has failed.
    fn postpone(self) -> Self {
        Self { due: Instant::now() + self.pause, pause: longer(self.pause), is_said: true }
    }
}

/// The pause that follows this one.
fn longer(pause: Duration) -> Duration {
    (pause * 2).min(REOPEN_PAUSE_MAX)
}

/// Waits until the directories are to be tried; for ever if they aren't missing.
async fn due(missing: Option<&Missing>) {
    match missing {
        Some(missing) => sleep_until(missing.due).await,
        None => std::future::pending().await,
    }
}

impl Place {
    /// Hands it over. After an error this process goes on as before, but that the directories may be missing.
    async fn hand_over(&self, stream: UnixStream, missing: &mut Option<Missing>) -> io::Result<Wire> {
        let mut wire = Wire::open(stream).await?;
        wire.send_process(&self.process).await?;
        let limit = self.exchange.serving().config.takeover.ready;
        // Else sockets that are yet to come from the process before this one would be missing.
        self.exchange.settled().await;
        let mut sockets: Vec<_> =
            self.exchange.listeners().copies()?.into_iter().map(|socket| (Role::Clients, socket)).collect();
        if let Some(admin) = &self.admin {
            sockets.extend(admin.copies()?.into_iter().map(|socket| (Role::Admin, socket)));
        }
        wire.send_sockets(&sockets).await?;
        // Else the other one's would be the only ones that could be closed.
        drop(sockets);
        if let Err(error) = expect(&mut wire, &Message::Prepared, limit).await {
            // Else it would take the end of the connection for the end of this process.
            let _ = wire.send(&Message::GivenUp).await;
            return Err(error);
        }
        info!("another process takes the place of this one, and gets its directories");
        if missing.is_none() {
            self.exchange.release().await;
        }
        match self.succeed(&mut wire, limit).await {
            Ok(()) => Ok(wire),
            Err(error) => {
                // It may have them.
                let _ = wire.send(&Message::GivenUp).await;
                wire.ended(END_TIME).await;
                missing.get_or_insert_with(Missing::new).due = Instant::now();
                Err(error)
            }
        }
    }

    /// Waits until the other one can serve, and has it begin.
    async fn succeed(&self, wire: &mut Wire, limit: Duration) -> io::Result<()> {
        wire.send(&Message::Released).await?;
        expect(wire, &Message::Ready, limit).await?;
        let cache = self.exchange.cache();
        while let Some(bequest) = cache.purger().bequest_now() {
            bequeath(wire, cache.purger(), &bequest).await?;
        }
        wire.send(&Message::Begin).await?;
        let grace = self.exchange.serving().config.takeover.grace;
        self.exchange.listeners().retire(grace);
        if let Some(admin) = &self.admin {
            admin.retire(grace);
        }
        info!("another process accepts connections from now on; this one finishes those that it has");
        Ok(())
    }

    /// Attempts to open the directories again that the other one has failed to take. Returns when they are tried next, if
    /// that failed.
    async fn take_back(&self, missing: Option<Missing>) -> Option<Missing> {
        let missing = missing?;
        match Box::pin(self.exchange.reopen()).await {
            Ok(()) => {
                info!("this process has its directories again");
                None
            }
            Err(error) => {
                if !missing.is_said {
                    error!(
                        %error,
                        "this process can't open its directories again: it confirms by the origin whatever it serves, \
                         and makes no purge, until it can, which is tried every few seconds"
                    );
                }
                Some(missing.postpone())
            }
        }
    }

    /// Hands on what unsafe methods invalidate that still end here, and says when the UDP sockets are free.
    async fn finish(&self, mut wire: Wire) {
        let cache = self.exchange.cache();
        let purger = cache.purger();
        let mut has_closed = false;
        loop {
            let said = tokio::select! {
                bequest = purger.bequest() => bequeath(&mut wire, purger, &bequest).await,
                () = self.exchange.listeners().quic_closed(), if !has_closed => {
                    has_closed = true;
                    wire.send(&Message::Datagrams).await
                }
            };
            if let Err(error) = said {
                warn!(%error, "the process that has taken the place of this one can't be told of what is invalidated");
                return;
            }
        }
    }
}

async fn bequeath(wire: &mut Wire, purger: &Purges, bequest: &Bequest) -> io::Result<()> {
    let message = Message::Invalidate { tags: bequest.tags().collect(), is_everything: bequest.is_everything() };
    let sent = wire.send(&message).await;
    let reply = match sent {
        Ok(()) => wire.receive(END_TIME).await,
        Err(error) => Err(error),
    };
    match reply {
        Ok(Message::Applied { is_safe }) => {
            purger.bequeathed(bequest, is_safe);
            Ok(())
        }
        other => {
            purger.keep();
            Err(other.map_or_else(|error| error, |message| unexpected(&message)))
        }
    }
}

async fn expect(wire: &mut Wire, wanted: &Message, limit: Duration) -> io::Result<()> {
    let message = wire.receive(limit).await?;
    if message == *wanted { Ok(()) } else { Err(unexpected(&message)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_directories_are_tried_for_ever_and_less_and_less_often() {
        let (mut missing, mut pauses) = (Missing::new(), Vec::new());
        assert!(!missing.is_said);
        for _ in 0..40 {
            pauses.push(missing.pause.as_millis());
            missing = missing.postpone();
            assert!(missing.is_said, "once is enough");
        }
        assert_eq!(&pauses[..7], &[500, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000]);
        assert_eq!(pauses.last(), Some(&REOPEN_PAUSE_MAX.as_millis()));
    }

    #[tokio::test]
    async fn only_missing_directories_are_due() {
        due(Some(&Missing::new())).await;
        let nothing = tokio::time::timeout(Duration::from_millis(1), due(None));
        assert!(nothing.await.is_err());
    }
}
