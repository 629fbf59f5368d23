//! The access log: one JSON line for each request. A request's thread formats its line and appends it to a bounded
//! queue; one thread of its own writes what has gathered. Whatever happens to the destination, a request neither waits
//! nor fails: lines that can't be queued or written are counted.

mod line;
mod queue;

use std::{
    cell::RefCell,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    mem,
    os::unix::fs::{FileTypeExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use prometheus_client::{metrics::counter::Counter, registry::Registry};
use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    io::Errno,
};

use crate::config;

use line::Formatter;
use queue::{Batch, Bounds, Queue};

pub use line::Line;
pub use queue::StillWriting;

thread_local! {
    static FORMATTER: RefCell<Formatter> = const { RefCell::new(Formatter::new()) };
}

/// The access log of the node. Dropping it lets the writer finish what is queued without waiting for it.
pub struct AccessLog {
    /// None if there is to be no access log.
    queue: Option<Arc<Queue>>,
    metrics: Metrics,
}

/// What became of the lines.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Lines written.
    pub written: Counter,
    /// Lines that found the queue full or closed.
    pub dropped: Counter,
    /// Lines that the destination refused.
    pub failed: Counter,
    /// Times that the file could not be opened again.
    pub reopen_failed: Counter,
}

impl Metrics {
    /// All zero.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers all of them.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("access_log_lines", "Access log lines written", self.written.clone());
        registry.register("access_log_dropped", "Access log lines that found the queue full", self.dropped.clone());
        registry.register("access_log_failed", "Access log lines that could not be written", self.failed.clone());
        registry.register(
            "access_log_reopen_failed",
            "Times that the access log could not be opened again",
            self.reopen_failed.clone(),
        );
    }
}

impl AccessLog {
    /// Opens the destination and starts the writer, which counts into `metrics`. A FIFO that nobody reads is opened as soon
    /// as somebody does; lines are lost, and counted, until then.
    ///
    /// # Errors
    /// The file can't be opened for appending, or the system has no thread to give.
    pub fn start(log: &config::Log, metrics: &Metrics) -> io::Result<Self> {
        let destination: Box<dyn Destination> = match &log.access {
            config::AccessLog::Off => return Ok(Self { queue: None, metrics: metrics.clone() }),
            config::AccessLog::Stdout => Box::new(io::stdout()),
            config::AccessLog::File(path) => Box::new(AppendedFile::open(path.clone())?),
        };
        Self::start_with(destination, Bounds::new(log.lines_queued_max), metrics.clone())
    }

    fn start_with(destination: Box<dyn Destination>, bounds: Bounds, metrics: Metrics) -> io::Result<Self> {
        let queue = Arc::new(Queue::new(bounds));
        let mut writer = Writer { destination, torn: false, failing: false, metrics: metrics.clone() };
        let source = Arc::clone(&queue);
        thread::Builder::new().name("holm-access-log".to_owned()).spawn(move || writer.run(&source))?;
        Ok(Self { queue: Some(queue), metrics })
    }

    /// Queues one line. Never waits for the writer: if the queue is full the line is dropped and counted.
    pub fn record(&self, line: &Line<'_>) {
        let Some(queue) = &self.queue else { return };
        let queued = FORMATTER.with_borrow_mut(|formatter| queue.push(formatter.format(line)));
        if !queued {
            self.metrics.dropped.inc();
        }
    }

    /// Has the file opened again by its name before more is written, after somebody renamed it.
    pub fn reopen(&self) {
        if let Some(queue) = &self.queue {
            queue.reopen();
        }
    }

    /// Takes no more lines, and waits until what is queued has been written, at most for `limit`. Blocks the thread.
    ///
    /// # Errors
    /// [`StillWriting`] past the limit.
    pub fn close(&self, limit: Duration) -> Result<(), StillWriting> {
        self.queue.as_ref().map_or(Ok(()), |queue| queue.close(limit))
    }

    /// The counters, to be registered.
    #[must_use]
    pub const fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        // With a limit of zero this only tells the writer; a caller that needs the outcome calls `close` before.
        let _unfinished = self.close(Duration::ZERO);
    }
}

/// Where lines go.
trait Destination: Write + Send {
    /// Opens the destination again, if it has a name to be opened by.
    fn reopen(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Destination for io::Stdout {}

struct AppendedFile {
    path: PathBuf,
    /// `None` while it is a FIFO that nobody reads.
    file: Option<File>,
}

impl AppendedFile {
    fn open(path: PathBuf) -> io::Result<Self> {
        Ok(Self { file: append(&path)?, path })
    }

    fn file(&mut self) -> io::Result<&mut File> {
        if self.file.is_none() {
            self.file = append(&self.path)?;
        }
        self.file.as_mut().ok_or_else(|| io::Error::other("it is a FIFO that nobody reads"))
    }
}

impl Destination for AppendedFile {
    fn reopen(&mut self) -> io::Result<()> {
        self.file = append(&self.path)?;
        Ok(())
    }
}

impl Write for AppendedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file()?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), Write::flush)
    }
}

/// Opens a file for appending. `None` if it is a FIFO that nobody reads: a reader may come at any time, or never, so it
/// isn't waited for.
fn append(path: &Path) -> io::Result<Option<File>> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("access log {}: {error}", path.display()));
    let nonblocking = OFlags::NONBLOCK.bits() as i32;
    let file = match OpenOptions::new().create(true).append(true).custom_flags(nonblocking).open(path) {
        Ok(file) => file,
        Err(error) if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) && is_fifo(path) => return Ok(None),
        Err(error) => return Err(named(error)),
    };
    // Only opening must not wait. Writing may: the thread that does it has nothing else to do.
    fcntl_getfl(&file)
        .and_then(|flags| fcntl_setfl(&file, flags.difference(OFlags::NONBLOCK)))
        .map_err(|error| named(error.into()))?;
    Ok(Some(file))
}

fn is_fifo(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo())
}

/// The writing thread.
struct Writer {
    destination: Box<dyn Destination>,
    /// The last write broke off inside a line.
    torn: bool,
    /// The last batch failed; said once, not for every batch.
    failing: bool,
    metrics: Metrics,
}

impl Writer {
    fn run(&mut self, queue: &Queue) {
        let _closed_at_the_end = queue.closes_when_dropped();
        let mut batch = Batch::default();
        loop {
            let next = queue.next(&mut batch);
            if next.reopen {
                self.reopen();
            }
            if !batch.is_empty() {
                self.write_counted(&batch);
            }
            if next.last {
                return;
            }
        }
    }

    fn reopen(&mut self) {
        match self.destination.reopen() {
            Ok(()) => self.torn = false,
            Err(error) => {
                self.metrics.reopen_failed.inc();
                tracing::warn!(%error, "the access log can't be opened again; the old file is written on");
            }
        }
    }

    fn write_counted(&mut self, batch: &Batch) {
        let (rest, outcome) = self.write(batch.bytes());
        let lost = rest.iter().filter(|byte| **byte == b'\n').count();
        self.metrics.written.inc_by(batch.lines().saturating_sub(lost) as u64);
        self.metrics.failed.inc_by(lost as u64);
        match outcome {
            Ok(()) if mem::take(&mut self.failing) => tracing::info!("the access log is written again"),
            Ok(()) => {}
            Err(error) if !mem::replace(&mut self.failing, true) => {
                tracing::warn!(%error, "the access log can't be written; lines are lost");
            }
            Err(_) => {}
        }
    }

    /// Writes as much as goes, and returns what was left. A torn line is ended first, so that it spoils no other.
    fn write<'a>(&mut self, bytes: &'a [u8]) -> (&'a [u8], io::Result<()>) {
        if self.torn {
            match self.destination.write_all(b"\n") {
                Ok(()) => self.torn = false,
                Err(error) => return (bytes, Err(error)),
            }
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.destination.write(rest) {
                Ok(0) => return (rest, Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => {
                    self.torn = rest[count - 1] != b'\n';
                    rest = &rest[count..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (rest, Err(error)),
            }
        }
        (rest, self.destination.flush())
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read, sync::mpsc};

    use parking_lot::Mutex;
    use rustix::fs::{CWD, Mode, mkfifoat};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// Says when it is written to, and writes only once it may.
    struct Gated {
        entered: mpsc::Sender<()>,
        gate: mpsc::Receiver<()>,
        out: Arc<Mutex<Vec<u8>>>,
    }

    impl Destination for Gated {}

    impl Write for Gated {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Nobody may be listening any more, and a gate whose other end is gone is open.
            let _ = self.entered.send(());
            let _ = self.gate.recv();
            self.out.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Takes so many bytes at each write; `None` is a full disk.
    struct Failing {
        takes: std::vec::IntoIter<Option<usize>>,
        out: Arc<Mutex<Vec<u8>>>,
    }

    impl Destination for Failing {}

    impl Write for Failing {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            match self.takes.next() {
                Some(None) => Err(io::ErrorKind::StorageFull.into()),
                Some(Some(count)) => {
                    let count = count.min(bytes.len());
                    self.out.lock().extend_from_slice(&bytes[..count]);
                    Ok(count)
                }
                None => {
                    self.out.lock().extend_from_slice(bytes);
                    Ok(bytes.len())
                }
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn with_id(id: &str) -> Line<'_> {
        Line { id: id.as_bytes(), ..line::sample() }
    }

    /// The ids of the lines, each of which must be JSON.
    fn ids(text: &[u8]) -> Vec<String> {
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let parsed = lines.map(|line| serde_json::from_slice::<serde_json::Value>(line).unwrap());
        parsed.map(|line| line["id"].as_str().unwrap().to_owned()).collect()
    }

    fn gated(bounds: Bounds) -> (AccessLog, mpsc::Receiver<()>, mpsc::Sender<()>, Arc<Mutex<Vec<u8>>>) {
        let ((entered, is_entered), (opens, gate)) = (mpsc::channel(), mpsc::channel());
        let out = Arc::new(Mutex::new(Vec::new()));
        let destination = Gated { entered, gate, out: Arc::clone(&out) };
        (AccessLog::start_with(Box::new(destination), bounds, Metrics::new()).unwrap(), is_entered, opens, out)
    }

    #[test]
    fn a_stuck_writer_costs_lines_that_are_counted_and_blocks_nobody() {
        let bounds = Bounds { batch_bytes: 1, ..Bounds::new(4) };
        let (log, entered, opens, out) = gated(bounds);
        log.record(&with_id("1"));
        entered.recv_timeout(PATIENCE).unwrap();
        for id in ["2", "3", "4", "5", "6"] {
            log.record(&with_id(id));
        }
        assert_eq!(log.metrics().dropped.get(), 2, "one is being written, three fit in");
        assert_eq!(log.close(Duration::ZERO), Err(StillWriting { lines: 4, limit_ms: 0 }));
        log.record(&with_id("7"));
        assert_eq!(log.metrics().dropped.get(), 3, "closed");

        drop(opens);
        log.close(PATIENCE).unwrap();
        assert_eq!(ids(&out.lock()), ["1", "2", "3", "4"]);
        assert_eq!(log.metrics().written.get(), 4);
    }

    #[test]
    fn closing_flushes_what_no_batch_was_due_for() {
        let bounds = Bounds { flush_every: Duration::from_secs(3600), ..Bounds::new(1000) };
        let (log, _entered, opens, out) = gated(bounds);
        drop(opens);
        for id in ["a", "b", "c"] {
            log.record(&with_id(id));
        }
        log.close(PATIENCE).unwrap();
        assert_eq!(ids(&out.lock()), ["a", "b", "c"]);
    }

    #[test]
    fn a_lone_line_is_written_without_company_or_closing() {
        let bounds = Bounds { flush_every: Duration::from_millis(1), ..Bounds::new(1000) };
        let (log, entered, _opens, _out) = gated(bounds);
        log.record(&with_id("a"));
        entered.recv_timeout(PATIENCE).unwrap();
    }

    #[test]
    fn dropping_the_log_writes_what_is_queued() {
        let bounds = Bounds { flush_every: Duration::from_secs(3600), ..Bounds::new(1000) };
        let (log, entered, _opens, _out) = gated(bounds);
        log.record(&with_id("a"));
        drop(log);
        entered.recv_timeout(PATIENCE).unwrap();
    }

    #[test]
    fn a_full_disk_loses_counted_lines_and_spoils_no_other() {
        let out = Arc::new(Mutex::new(Vec::new()));
        // The first batch breaks off ten bytes into its first line, the second is refused, the third is taken.
        let takes = vec![Some(10), None, None].into_iter();
        let destination = Failing { takes, out: Arc::clone(&out) };
        let mut writer =
            Writer { destination: Box::new(destination), torn: false, failing: false, metrics: Metrics::new() };
        writer.write_counted(&Batch::of(b"{\"id\":\"1\"}\n{\"id\":\"2\"}\n", 2));
        assert_eq!((writer.metrics.failed.get(), writer.metrics.written.get()), (2, 0));
        writer.write_counted(&Batch::of(b"{\"id\":\"3\"}\n", 1));
        assert_eq!((writer.metrics.failed.get(), writer.metrics.written.get()), (3, 0));
        writer.write_counted(&Batch::of(b"{\"id\":\"4\"}\n", 1));
        assert_eq!((writer.metrics.failed.get(), writer.metrics.written.get()), (3, 1));
        assert_eq!(ids(&out.lock()), ["1", "4"]);
    }

    fn file_log(path: &Path) -> AccessLog {
        let access = config::AccessLog::File(path.to_owned());
        AccessLog::start(&config::Log { access, lines_queued_max: 100, ..config::Log::default() }, &Metrics::new())
            .unwrap()
    }

    #[test]
    fn a_renamed_file_is_left_for_a_new_one_and_an_old_one_is_appended_to() {
        let dir = tempfile::tempdir().unwrap();
        let (path, renamed) = (dir.path().join("access.log"), dir.path().join("access.log.1"));
        fs::write(&path, "{\"id\":\"0\"}\n").unwrap();
        let log = file_log(&path);
        log.record(&with_id("1"));
        fs::rename(&path, &renamed).unwrap();
        log.reopen();
        log.record(&with_id("2"));
        log.close(PATIENCE).unwrap();

        let (old, new) = (fs::read(&renamed).unwrap(), fs::read(&path).unwrap());
        assert_eq!(ids(&[old, new.clone()].concat()), ["0", "1", "2"]);
        assert_eq!(ids(&new).last().map(String::as_str), Some("2"));
    }

    #[test]
    fn a_file_that_cannot_be_opened_again_is_counted_and_the_old_one_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, moved) = (dir.path().join("logs"), dir.path().join("moved"));
        fs::create_dir(&folder).unwrap();
        let log = file_log(&folder.join("access.log"));
        fs::rename(&folder, &moved).unwrap();
        log.reopen();
        log.record(&with_id("1"));
        log.close(PATIENCE).unwrap();
        assert_eq!(log.metrics().reopen_failed.get(), 1);
        assert_eq!(ids(&fs::read(moved.join("access.log")).unwrap()), ["1"]);
    }

    #[test]
    fn a_fifo_that_nobody_reads_loses_counted_lines_until_somebody_does() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.fifo");
        mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        // Were this to wait for a reader, the test would never end.
        let destination = Box::new(AppendedFile::open(path.clone()).unwrap());
        let mut writer = Writer { destination, torn: false, failing: false, metrics: Metrics::new() };
        writer.write_counted(&Batch::of(b"{\"id\":\"1\"}\n{\"id\":\"2\"}\n", 2));
        assert_eq!((writer.metrics.failed.get(), writer.metrics.written.get()), (2, 0));

        let nonblocking = OFlags::NONBLOCK.bits() as i32;
        let mut reader = OpenOptions::new().read(true).custom_flags(nonblocking).open(&path).unwrap();
        writer.write_counted(&Batch::of(b"{\"id\":\"3\"}\n", 1));
        assert_eq!((writer.metrics.failed.get(), writer.metrics.written.get()), (2, 1));
        writer.reopen();
        writer.write_counted(&Batch::of(b"{\"id\":\"4\"}\n", 1));
        drop(writer);
        let mut text = Vec::new();
        reader.read_to_end(&mut text).unwrap();
        assert_eq!(ids(&text), ["3", "4"]);
    }

    #[test]
    fn what_is_opened_without_waiting_is_written_with_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let file = append(&dir.path().join("access.log")).unwrap().unwrap();
        assert!(!fcntl_getfl(&file).unwrap().contains(OFlags::NONBLOCK));
    }

    #[test]
    fn a_path_that_cannot_be_opened_is_named() {
        let access = config::AccessLog::File(PathBuf::from("/nowhere/at/all/access.log"));
        let log = config::Log { access, lines_queued_max: 1, ..config::Log::default() };
        let error = AccessLog::start(&log, &Metrics::new()).err().unwrap();
        assert!(error.to_string().contains("/nowhere/at/all/access.log"), "{error}");
    }

    #[test]
    fn without_a_log_nothing_happens() {
        let off = config::Log { access: config::AccessLog::Off, ..config::Log::default() };
        let log = AccessLog::start(&off, &Metrics::new()).unwrap();
        log.record(&with_id("1"));
        log.reopen();
        assert_eq!(log.close(Duration::ZERO), Ok(()));
        assert_eq!(log.metrics().dropped.get(), 0);
    }
}
