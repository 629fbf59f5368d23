//! The drain of a node that the operator asks for: not ready first, so that balancers send it no more, and stopped as
//! by TERM some time later. Until then it may be called off.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::service_manager::{self, State};
use crate::clock;

/// The drain of this node.
#[derive(Default)]
pub(super) struct Draining(Mutex<Phase>);

#[derive(Default)]
struct Phase {
    /// Stops the node; `None` before it serves.
    drain: Option<CancellationToken>,
    /// Calls off the stop that is to come.
    notice: Option<CancellationToken>,
}

/// The node stops already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stopping;

impl Draining {
    /// From now on the node serves until `drain` is cancelled.
    pub(super) fn serves_until(&self, drain: CancellationToken) {
        self.0.lock().drain = Some(drain);
    }

    /// Whether it is about to stop, or stops.
    pub(super) fn is_begun(&self) -> bool {
        let phase = self.0.lock();
        phase.notice.is_some() || phase.drain.as_ref().is_some_and(CancellationToken::is_cancelled)
    }

    /// Has the node stop after `delay`. One that is about to does so at the time that was given first.
    ///
    /// # Errors
    /// [`Stopping`].
    pub(super) fn begin(self: &Arc<Self>, delay: Duration) -> Result<(), Stopping> {
        let mut phase = self.0.lock();
        if phase.is_stopping() {
            return Err(Stopping);
        }
        if phase.notice.is_some() {
            return Ok(());
        }
        let notice = CancellationToken::new();
        phase.notice = Some(notice.clone());
        drop(phase);
        info!(delay_ms = clock::millis(delay), "draining: the node isn't ready any more, and stops then");
        let draining = Arc::clone(self);
        tokio::spawn(async move {
            tokio::select! {
                () = notice.cancelled() => {}
                () = sleep(delay) => draining.stop(&notice),
            }
        });
        Ok(())
    }

    /// Calls off the stop that is to come, if one is.
    ///
    /// # Errors
    /// [`Stopping`].
    pub(super) fn call_off(&self) -> Result<(), Stopping> {
        let mut phase = self.0.lock();
        if phase.is_stopping() {
            return Err(Stopping);
        }
        if let Some(notice) = phase.notice.take() {
            notice.cancel();
            info!("the drain is called off");
        }
        Ok(())
    }

    /// Stops the node, unless that has been called off.
    fn stop(&self, notice: &CancellationToken) {
        let phase = self.0.lock();
        if notice.is_cancelled() {
            return;
        }
        if let Some(drain) = &phase.drain {
            service_manager::notify(State::Stopping);
            drain.cancel();
        }
    }
}

impl Phase {
    fn is_stopping(&self) -> bool {
        self.drain.as_ref().is_none_or(CancellationToken::is_cancelled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_drain_stops_the_node_after_its_delay_unless_it_is_called_off() {
        const LONG: Duration = Duration::from_secs(3_600);
        let (draining, drain) = (Arc::new(Draining::default()), CancellationToken::new());
        assert_eq!(draining.begin(LONG), Err(Stopping), "it doesn't serve yet");
        draining.serves_until(drain.clone());
        assert!(draining.call_off().is_ok() && !draining.is_begun());
        draining.begin(LONG).unwrap();
        draining.begin(Duration::ZERO).unwrap();
        assert!(draining.is_begun() && !drain.is_cancelled(), "the first delay counts");
        draining.call_off().unwrap();
        assert!(!draining.is_begun());
        draining.begin(Duration::ZERO).unwrap();
        tokio::time::timeout(LONG, drain.cancelled()).await.unwrap();
        assert!(draining.is_begun());
        assert_eq!((draining.begin(LONG), draining.call_off()), (Err(Stopping), Err(Stopping)));
    }
}
