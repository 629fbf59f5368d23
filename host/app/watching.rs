//! Files whose changes the node follows by itself: that of the configuration, and the components of its policies.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{exchange::Exchange, reload::Reloader};
use crate::config::AccessLog;

/// An editor or a copy writes in several steps; what follows within this time is one change, and so is what follows that.
const SETTLE_TIME: Duration = Duration::from_millis(200);

/// How long changes may follow each other until files are read nevertheless.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(10);

/// Has the node follow its files until it is stopped.
pub(super) async fn watch(reloader: Arc<Reloader>, stop: CancellationToken) {
    let (changed, mut changes) = mpsc::channel(1);
    let mut watched = Watched { watcher: None, folders: BTreeSet::new() };
    // What changed between the reading of a file and now had nobody to see it.
    let mut is_first = true;
    loop {
        if !watched.follow(folders(&reloader.watched()), || watcher(&changed, reloader.exchange())) {
            return;
        }
        if std::mem::take(&mut is_first) {
            Box::pin(reloader.look_again()).await;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            // Another configuration may have other files.
            () = reloader.exchange().exchanged() => continue,
            _ = changes.recv() => {}
        }
        settle(&mut changes).await;
        Box::pin(reloader.look_again()).await;
    }
}

/// Waits until nothing has changed for a while: half of a file may read well, and say something else.
async fn settle(changes: &mut mpsc::Receiver<()>) {
    let first = Instant::now();
    let mut last = first;
    while timeout_at(settled_at(first, last), changes.recv()).await == Ok(Some(())) {
        last = Instant::now();
    }
}

/// Returns when files are read if nothing changes after `last`.
fn settled_at(first: Instant, last: Instant) -> Instant {
    (last + SETTLE_TIME).min(first + SETTLE_TIME_MAX)
}

/// The folders that are watched.
struct Watched {
    /// There from the first folder on.
    watcher: Option<RecommendedWatcher>,
    folders: BTreeSet<PathBuf>,
}

impl Watched {
    /// Watches these folders and no others. Returns `false` if nothing can be watched.
    fn follow(
        &mut self,
        folders: BTreeSet<PathBuf>,
        make: impl FnOnce() -> notify::Result<RecommendedWatcher>,
    ) -> bool {
        if self.watcher.is_none() && !folders.is_empty() {
            match make() {
                Ok(watcher) => self.watcher = Some(watcher),
                Err(error) => {
                    warn!(%error, "files can't be watched; they are read again by HUP and the admin API only");
                    return false;
                }
            }
        }
        let Some(watcher) = &mut self.watcher else { return true };
        for gone in self.folders.difference(&folders) {
            // It may not be there any more.
            let _ = watcher.unwatch(gone);
        }
        for folder in folders.difference(&self.folders) {
            if let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive) {
                warn!(%error, folder = %folder.display(), "can't be watched; its files are read again by HUP only");
            }
        }
        self.folders = folders;
        true
    }
}

/// Returns a watcher that reports changes; one that waits stands for all that follow.
fn watcher(changed: &mpsc::Sender<()>, exchange: &Arc<Exchange>) -> notify::Result<RecommendedWatcher> {
    let (changed, exchange) = (changed.clone(), Arc::clone(exchange));
    notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading is an event as well, and loading reads.
        if event.is_ok_and(|event| !event.kind.is_access() && !is_log(&event, &exchange)) {
            let _ = changed.try_send(());
        }
    })
}

/// Whether it is only the access log that was written.
fn is_log(event: &notify::Event, exchange: &Exchange) -> bool {
    let serving = exchange.serving();
    let AccessLog::File(log) = &serving.config.log.access else { return false };
    !event.paths.is_empty() && event.paths.iter().all(|path| path.file_name() == log.file_name())
}

/// Returns the folders that files lie in, and those of the files that they are links to. Not the files themselves: editors
/// and Kubernetes put another file in their place. A folder has one name, since to watch it no more by one of two would end
/// both.
fn folders(files: &[PathBuf]) -> BTreeSet<PathBuf> {
    let folder = |file: &Path| {
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned())
    };
    let target = |file: &Path| fs::canonicalize(file).ok().map(|target| folder(&target));
    files.iter().flat_map(|file| [Some(folder(file)), target(file)]).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_once_nothing_follows_or_after_a_while() {
        let first = Instant::now();
        for (last_ms, wanted_ms) in [(0, 200), (150, 350), (3_000, 3_200), (9_799, 9_999), (9_950, 10_000)] {
            let last = first + Duration::from_millis(last_ms);
            assert_eq!(settled_at(first, last), first + Duration::from_millis(wanted_ms), "{last_ms}");
        }
    }

    #[test]
    fn the_folder_of_a_links_target_is_watched_as_well_and_each_by_one_name() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        let (etc, release) = (root.join("etc"), root.join("release"));
        fs::create_dir(&etc).unwrap();
        fs::create_dir(&release).unwrap();
        fs::write(release.join("holm.toml"), "").unwrap();
        std::os::unix::fs::symlink(release.join("holm.toml"), etc.join("holm.toml")).unwrap();
        std::os::unix::fs::symlink(&release, root.join("current")).unwrap();
        assert_eq!(folders(&[etc.join("holm.toml")]), BTreeSet::from([etc.clone(), release.clone()]));
        assert_eq!(folders(&[release.join("holm.toml"), root.join("current/holm.toml")]), BTreeSet::from([release]));
        assert_eq!(folders(&[etc.join("gone.toml")]), BTreeSet::from([etc]));
        assert_eq!(folders(&[root.join("gone/holm.toml")]), BTreeSet::from([root.join("gone")]));
    }
}
