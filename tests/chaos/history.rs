//! The events of a run, with the times of one monotonic clock: all that the checker knows.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write as _},
    ops::Range,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::{catalogue::Resource, stamp::Stamp};

/// Microseconds since the history began.
pub(crate) type Micros = u64;

/// Something that has happened, with the time of its beginning and of its end. It is recorded at its end, so the order
/// of events means nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Event {
    /// The inputs of the run.
    Begun {
        /// Everything was drawn from it.
        seed: u64,
        /// The time it was to run.
        seconds: u64,
    },
    /// A resource of the origin.
    Resource(Resource),
    /// A GET as the origin served it.
    Exchange(Exchange),
    /// An unsafe method as the origin served it.
    Change(Change),
    /// A GET as its client saw it.
    Request(Request),
    /// A purge.
    Purge(Purge),
    /// An unsafe method as its client saw it.
    Write(Write),
    /// Something that was done to the region.
    Fault(Fault),
}

/// A GET as the origin served it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Exchange {
    /// The key that was requested.
    pub(crate) key: String,
    /// The version that was sent, or confirmed by a 304.
    pub(crate) version: u64,
    /// Its status.
    pub(crate) status: u16,
    /// Whether all of it was sent.
    pub(crate) whole: bool,
    /// When the request's head had been read; the version was read later.
    pub(crate) from: Micros,
    /// When the last byte had been sent.
    pub(crate) until: Micros,
}

/// An unsafe method as the origin served it: from `at` on, the resource has another version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Change {
    /// The number of the [`Write`].
    pub(crate) write: u64,
    /// When the resource had changed.
    pub(crate) at: Micros,
}

/// A GET as its client saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Request {
    /// Its number.
    pub(crate) id: u64,
    /// The client's name.
    pub(crate) client: String,
    /// The node that got the request.
    pub(crate) node: usize,
    /// The key that was requested: the path and what else selects the response.
    pub(crate) key: String,
    /// Whether the request had `no-cache`.
    pub(crate) reload: bool,
    /// The version that the client has, if the request was conditional.
    pub(crate) condition: Option<u64>,
    /// Before its first byte was sent.
    pub(crate) sent: Micros,
    /// After the last byte of the response, or when the client gave up.
    pub(crate) received: Micros,
    /// The response.
    pub(crate) seen: Seen,
}

/// A response as its client saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// Its status; 0 if no head came.
    pub(crate) status: u16,
    /// Whether it ended as its framing says. Otherwise it broke off for everybody to see.
    pub(crate) whole: bool,
    /// The stamp of its body, even if that broke off later.
    pub(crate) stamp: Option<Stamp>,
    /// Whether length and checksum of the body agree with its stamp.
    pub(crate) sound: bool,
    /// Its `ETag`.
    pub(crate) etag: Option<String>,
    /// Its `Cache-Status`.
    pub(crate) cache: Option<String>,
    /// Its `Age`.
    pub(crate) age: Option<String>,
}

/// The target of a purge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Scope {
    /// A URL, by its path.
    Url(String),
    /// A cache key, by the path of the one resource that has it.
    Key(String),
    /// A tag.
    Tag(String),
}

/// A purge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Purge {
    /// The node whose admin API was called.
    pub(crate) node: usize,
    /// The target.
    pub(crate) scope: Scope,
    /// Whether it only marks stale.
    pub(crate) soft: bool,
    /// Before the request's first byte was sent.
    pub(crate) sent: Micros,
    /// After the response's last byte.
    pub(crate) done: Micros,
    /// The response's status; 0 if none came.
    pub(crate) status: u16,
    /// Whether it was acknowledged as complete.
    pub(crate) complete: bool,
    /// The nodes that had applied it.
    pub(crate) applied: Vec<String>,
    /// The nodes that it is for; all of the run if there is none.
    #[serde(default)]
    pub(crate) nodes: Option<Range<usize>>,
}

/// An unsafe method as its client saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Write {
    /// Its number.
    pub(crate) id: u64,
    /// The node through which it was sent.
    pub(crate) node: usize,
    /// The path of what it changed.
    pub(crate) url: String,
    /// Its method.
    pub(crate) method: String,
    /// Before its first byte was sent.
    pub(crate) sent: Micros,
    /// After the response's last byte.
    pub(crate) done: Micros,
    /// The response's status; 0 if none came.
    pub(crate) status: u16,
}

/// Something that was done to the region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fault {
    /// The step.
    pub(crate) what: String,
    /// To which node; to all if there is none.
    pub(crate) node: Option<usize>,
    /// Whether it keeps the node from its region's purge log, or from applying what it reads there.
    pub(crate) cuts_off: bool,
    /// When it began.
    pub(crate) from: Micros,
    /// When it was over.
    pub(crate) until: Micros,
}

/// The events of a run, while they happen.
pub(crate) struct History {
    start: Instant,
    events: Mutex<Vec<Event>>,
    ids: AtomicU64,
}

impl History {
    pub(crate) fn begin() -> Arc<Self> {
        Arc::new(Self { start: Instant::now(), events: Mutex::default(), ids: AtomicU64::new(1) })
    }

    pub(crate) fn now(&self) -> Micros {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// A number that no other request has.
    pub(crate) fn id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn push(&self, event: Event) {
        self.events.lock().push(event);
    }

    /// Everything so far.
    pub(crate) fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *self.events.lock())
    }
}

/// Writes a history as lines of JSON.
pub(crate) fn write(path: &Path, events: &[Event]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut file = BufWriter::new(File::create(path)?);
    for event in events {
        serde_json::to_writer(&mut file, event)?;
        file.write_all(b"\n")?;
    }
    file.flush()
}

/// Reads what [`write`] wrote.
pub(crate) fn read(path: &Path) -> Result<Vec<Event>, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let lines = text.lines().enumerate();
    lines
        .map(|(at, line)| serde_json::from_str(line).map_err(|error| format!("{}:{}: {error}", path.display(), at + 1)))
        .collect()
}

#[test]
fn what_is_written_is_read_again() {
    let stamp = Stamp { key: "/t/1#acme".to_owned(), version: u64::MAX, to: "c1".to_owned(), length: 7 };
    let seen = Seen { status: 200, whole: true, stamp: Some(stamp), sound: true, ..Seen::default() };
    let (client, key) = ("c1".to_owned(), "/t/1#acme".to_owned());
    let request =
        Request { id: 3, client, node: 1, key, reload: false, condition: Some(2), sent: 5, received: 9, seen };
    let purge = Purge {
        node: 0,
        scope: Scope::Tag("g1".to_owned()),
        soft: true,
        sent: 1,
        done: 2,
        status: 200,
        complete: true,
        applied: vec!["n1".to_owned()],
        nodes: Some(2..4),
    };
    let events = [
        Event::Begun { seed: u64::MAX, seconds: 60 },
        Event::Resource(crate::catalogue::generate(1).swap_remove(0)),
        Event::Request(request),
        Event::Purge(purge),
    ];
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("new/history.jsonl");
    write(&file, &events).unwrap();
    assert_eq!(read(&file).unwrap(), events);
    fs::write(&file, "{}\n").unwrap();
    assert!(read(&file).unwrap_err().contains(":1:"));
}
