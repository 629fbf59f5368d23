//! Bodies on their way in and out, over a memory tier that loses what the tests make it lose.

use std::{
    ops::Range,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
};

use futures_util::future::BoxFuture;
use http_body_util::{BodyExt, StreamBody};
use parking_lot::Mutex;
use proptest::prelude::*;
use tokio::{
    sync::oneshot,
    task::{JoinHandle, yield_now},
    time::timeout,
};

use super::{intake::Intake, *};
use crate::{
    cache::{
        Metrics,
        codec::tests::head,
        collapse::shared::Unwanted,
        entry::Layout,
        record::{Recorder, StorageKeys},
    },
    config,
};

const PART: usize = 4096;
const KEY: Key = Key::from_bytes([9; 32]);
const LIMIT: Duration = Duration::from_secs(30);
const ANY: u64 = u64::MAX;

async fn cache(change: impl FnOnce(&mut config::Cache)) -> Arc<Cache> {
    let mut config = config::Cache { part_bytes: PART, ..config::Cache::default() };
    config.memory.bytes = 16 << 20;
    config.collapse.lag_bytes_max = PART as u64;
    change(&mut config);
    Cache::open("n1", &config, Metrics::default()).await.unwrap()
}

fn bytes(length: usize, seed: &str) -> Bytes {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes.into()
}

fn intake(cache: &Arc<Cache>, length: Option<u64>) -> (SharedBody, Intake<()>) {
    guarded_intake(cache, length)
}

fn guarded_intake<G>(cache: &Arc<Cache>, length: Option<u64>) -> (SharedBody, Intake<G>) {
    let keys = StorageKeys { primary: KEY, key: KEY, names: None };
    let recorder = Recorder::new(Arc::clone(cache), cache.begin_fetch(&KEY), keys, head(0));
    let shared = recorder.shared(length);
    (shared.clone(), Intake::new(shared, recorder))
}

/// Takes a body in, in pieces of this size.
fn arrive(mut intake: Intake<()>, body: &Bytes, size: usize) -> JoinHandle<Result<(), Unwanted>> {
    let body = body.clone();
    tokio::spawn(async move {
        for piece in body.chunks(size.max(1)) {
            intake.take(Bytes::copy_from_slice(piece)).await?;
            yield_now().await;
        }
        intake.finish();
        Ok(())
    })
}

async fn stored(cache: &Arc<Cache>, body: &Bytes) -> Arc<Object> {
    let (_, intake) = intake(cache, Some(body.len() as u64));
    arrive(intake, body, 1000).await.unwrap().unwrap();
    found(cache).expect("it is stored")
}

fn found(cache: &Cache) -> Option<Arc<Object>> {
    match cache.tiers.memory(&KEY)? {
        Value::Object(object) => Some(object),
        _ => None,
    }
}

fn part_key(object: &Object, index: u32) -> Key {
    let Layout::Parts { stamp, .. } = object.head.layout else { panic!("not in parts") };
    KEY.part(stamp, index)
}

/// An origin from which the rest of a body is fetched.
#[derive(Debug)]
struct Origin {
    body: Bytes,
    /// It serves ranges.
    ranges: bool,
    /// It breaks off after so many bytes.
    breaks_after: Option<usize>,
    asked: AtomicUsize,
    /// Up to where it was asked each time.
    ends: Mutex<Vec<Option<u64>>>,
}

impl Origin {
    fn of(body: &Bytes) -> Self {
        let (asked, ends) = (AtomicUsize::new(0), Mutex::default());
        Self { body: body.clone(), ranges: true, breaks_after: None, asked, ends }
    }
}

impl Rest for Origin {
    fn resume(self: Arc<Self>, offset: u64, end: Option<u64>) -> BoxFuture<'static, Option<Resumed>> {
        self.asked.fetch_add(1, SeqCst);
        self.ends.lock().push(end);
        let offset = if self.ranges { offset } else { 0 };
        let to = end.filter(|_| self.ranges).map_or(self.body.len(), |end| usize::try_from(end).unwrap());
        let from = usize::try_from(offset).unwrap().min(self.body.len());
        let rest = self.body.slice(from..to);
        let sent = rest.slice(..self.breaks_after.unwrap_or(rest.len()).min(rest.len()));
        let mut frames: Vec<_> = sent.chunks(1500).map(|data| Ok(Frame::data(sent.slice_ref(data)))).collect();
        if self.breaks_after.is_some() {
            frames.push(Err(BodyError::Broken("reset".to_owned())));
        }
        let body = Body::stream(StreamBody::new(stream::iter(frames)));
        Box::pin(async move { Some(Resumed { offset, body }) })
    }
}

async fn read(cache: &Arc<Cache>, object: &Arc<Object>, origin: Option<&Arc<Origin>>) -> Option<Body> {
    let rest = origin.map(|origin| Arc::clone(origin) as Arc<dyn Rest>);
    cache.body(KEY, object, Sections::Whole, || rest).await
}

/// What comes of a body, and how it ends.
async fn drained(mut body: Body) -> (Bytes, Result<(), BodyError>) {
    let mut all = Vec::new();
    loop {
        match timeout(LIMIT, body.frame()).await.expect("the body goes on") {
            Some(Ok(frame)) => all.extend_from_slice(&frame.into_data().unwrap()),
            Some(Err(error)) => return (all.into(), Err(error)),
            None => return (all.into(), Ok(())),
        }
    }
}

#[tokio::test]
async fn a_lost_part_comes_from_the_origin_and_is_stored_again() {
    let body = bytes(5 * PART + 77, "body");
    for (index, ranges) in (1..6).flat_map(|index| [(index, true), (index, false)]) {
        let cache = cache(|_| ()).await;
        let object = stored(&cache, &body).await;
        let part = part_key(&object, index);
        let origin = Arc::new(Origin { ranges, ..Origin::of(&body) });
        if index % 2 == 0 {
            cache.tiers.remove(&part);
        } else {
            // Cut short, it isn't that part either.
            cache.tiers.insert_local(part, Value::Part(body.slice(..5)));
        }
        for _ in 0..3 {
            let reading = read(&cache, &object, Some(&origin)).await.unwrap();
            assert_eq!(reading.size_hint().exact(), Some(body.len() as u64));
            assert_eq!(drained(reading).await, (body.clone(), Ok(())), "part {index}, ranges {ranges}");
        }
        assert_eq!(origin.asked.load(SeqCst), 1, "the part is there again");
        assert_eq!((cache.metrics.bodies_resumed.get(), cache.metrics.bodies_cut.get()), (1, 0));
        assert_eq!(cache.lending.budget().held(), 0);
    }
}

#[tokio::test]
async fn what_cannot_be_made_whole_breaks_off_and_is_not_begun_again() {
    let body = bytes(4 * PART, "body");
    let other = Bytes::from([&body[..3 * PART], &bytes(PART, "other")[..]].concat());
    let shorter = body.slice(..4 * PART - 1);
    for (name, origin) in [
        ("nobody to ask", None),
        ("another body", Some(Origin { ranges: false, ..Origin::of(&other) })),
        ("another rest", Some(Origin::of(&other))),
        ("a shorter body", Some(Origin::of(&shorter))),
        ("a breach", Some(Origin { breaks_after: Some(PART - 1), ..Origin::of(&body) })),
        ("a breach later", Some(Origin { breaks_after: Some(PART + 1), ..Origin::of(&body) })),
    ] {
        let cache = cache(|_| ()).await;
        let object = stored(&cache, &body).await;
        cache.tiers.remove(&part_key(&object, 2));
        let reading = read(&cache, &object, origin.map(Arc::new).as_ref()).await.unwrap();
        let (got, end) = drained(reading).await;
        assert!(matches!(end, Err(BodyError::Broken(_))), "{name}: {end:?}");
        assert!(got.len() < body.len() && body.starts_with(&got) && got.len().is_multiple_of(PART), "{name}");
        assert!(found(&cache).is_none(), "{name}: the next one fetches it whole");
        assert_eq!((cache.metrics.bodies_cut.get(), cache.lending.budget().held()), (1, 0), "{name}");
    }
}

#[tokio::test]
async fn a_body_without_its_beginning_is_a_miss() {
    let body = bytes(4 * PART, "body");
    let cache = cache(|_| ()).await;
    let object = stored(&cache, &body).await;
    cache.tiers.remove(&part_key(&object, 0));
    let origin = Arc::new(Origin::of(&body));
    assert!(read(&cache, &object, Some(&origin)).await.is_none());
    assert_eq!((origin.asked.load(SeqCst), found(&cache).is_none()), (0, true));
}

#[tokio::test]
async fn a_range_is_read_from_the_parts_that_have_it_alone() {
    let body = bytes(4 * PART + 10, "body");
    let cache = cache(|_| ()).await;
    let object = stored(&cache, &body).await;
    cache.tiers.remove(&part_key(&object, 0));
    let last = 4 * PART + 10;
    for (from, to) in
        [(PART, PART + 1), (PART + 5, 3 * PART), (2 * PART - 1, 2 * PART + 1), (last - 1, last), (PART, last)]
    {
        let source = BodySource::stored(Arc::clone(&cache), KEY, Arc::clone(&object), None);
        let reading = source.open(Sections::One(from as u64..to as u64)).await.unwrap();
        assert_eq!(drained(reading).await, (body.slice(from..to), Ok(())), "{from} to {to}");
    }
    let source = BodySource::stored(Arc::clone(&cache), KEY, object, None);
    assert!(source.open(Sections::One(last as u64..ANY)).await.unwrap().is_end_stream(), "nothing is left");
}

/// A section of a body, after the name of it.
fn section(before: &'static str, range: Range<usize>) -> Section {
    Section { before: Bytes::from_static(before.as_bytes()), range: range.start as u64..range.end as u64 }
}

/// What is sent of a body in these sections.
fn cut(body: &Bytes, sections: &[Section]) -> Bytes {
    let slice = |section: &Section| {
        let at = |offset: u64| usize::try_from(offset).unwrap();
        [&section.before[..], &body[at(section.range.start)..at(section.range.end)]].concat()
    };
    sections.iter().flat_map(slice).collect::<Vec<u8>>().into()
}

#[tokio::test]
async fn sections_are_read_in_their_order_and_a_lost_part_of_one_comes_from_the_origin() {
    let body = bytes(5 * PART + 10, "body");
    let sections = vec![
        section("a", 4 * PART - 3..4 * PART + 3),
        section("b", 10..20),
        section("c", 2 * PART..4 * PART),
        section("end", 0..0),
    ];
    let wanted = cut(&body, &sections);
    // The part that is lost, whether the origin has ranges, and up to where it is asked, in parts.
    for (lost, ranges, asked) in [
        (1, true, &[][..]),
        (5, true, &[]),
        (0, true, &[1]),
        (0, false, &[1]),
        (2, true, &[4]),
        (2, false, &[4]),
        (4, true, &[5]),
    ] {
        let cache = cache(|_| ()).await;
        let object = stored(&cache, &body).await;
        cache.tiers.remove(&part_key(&object, lost));
        let origin = Arc::new(Origin { ranges, ..Origin::of(&body) });
        let rest = Arc::clone(&origin) as Arc<dyn Rest>;
        let reading = cache.body(KEY, &object, Sections::Several(sections.clone()), || Some(rest)).await.unwrap();
        assert_eq!(reading.size_hint().exact(), Some(wanted.len() as u64));
        assert_eq!(drained(reading).await, (wanted.clone(), Ok(())), "part {lost}, ranges {ranges}");
        assert_eq!(cache.lending.budget().held(), 0, "part {lost}");
        let asked: Vec<_> = asked.iter().map(|end: &usize| Some((end * PART) as u64)).collect();
        assert_eq!(*origin.ends.lock(), asked, "part {lost}: nothing but what is needed");
    }
}

#[tokio::test]
async fn a_range_of_a_body_in_one_piece_is_read_in_windows_without_room() {
    let body = bytes(LARGE, "body");
    let cache = with_room_for(1).await;
    let object = stored_whole(&cache, KEY, &body);
    let sections = vec![section("a", LARGE - 5..LARGE), section("b", 7..2 * SCARCE_BYTES + 1), section("c", 3..4)];
    let read = async |sections: &[Section]| {
        let several = Sections::Several(sections.to_vec());
        drained(cache.body(KEY, &object, several, || None).await.unwrap()).await
    };
    assert_eq!(read(&sections[..]).await, (cut(&body, &sections), Ok(())), "there is room");
    let all = cache.lending.budget().take_to_read(LARGE).unwrap();
    assert_eq!(read(&sections[..]).await, (cut(&body, &sections), Ok(())), "there is none");
    assert_eq!(cache.lending.budget().held(), LARGE as u64);
    drop(all);
}

#[tokio::test]
async fn a_body_that_breaks_off_can_be_joined_by_none_before_a_reader_hears_of_it() {
    let cache = cache(|_| ()).await;
    let ends: [fn(Intake<Ends>); 2] = [|intake| intake.fail(BodyError::Broken("off".to_owned())), drop];
    for end in ends {
        let (shared, mut intake) = guarded_intake(&cache, Some(10));
        let (sender, heard) = oneshot::channel();
        intake.keep(Some(Ends(shared.reader(false).unwrap(), Some(sender))));
        let reader = shared.reader(false).unwrap();
        end(intake);
        assert!(!heard.await.unwrap(), "the break was told first");
        assert!(matches!(reader.peek(0), Some(Step::Broken(_))));
    }
}

/// The place of a flight on its table: says whether a reader knew of an end when it was given up.
struct Ends(Reader, Option<oneshot::Sender<bool>>);

impl Drop for Ends {
    fn drop(&mut self) {
        if let Some(sender) = self.1.take() {
            let _ = sender.send(self.0.peek(0).is_some());
        }
    }
}

#[tokio::test]
async fn a_range_of_an_arriving_body_waits_for_no_byte_after_it_and_holds_up_none() {
    let body = bytes(20 * PART + 5, "body");
    let cache = cache(|_| ()).await;
    let (shared, mut intake) = intake(&cache, Some(body.len() as u64));
    let ahead = vec![section("a", 12 * PART + 7..12 * PART + 8), section("b", 15 * PART + 7..16 * PART + 9)];
    let reading = cache.arriving(&shared, Sections::Several(ahead.clone()), || None).await.unwrap();
    let reading = tokio::spawn(drained(reading));
    let mut pieces = body.chunks(1000);
    for piece in pieces.by_ref().take(17 * PART / 1000) {
        // Nobody has read the beginning, and there is no disk.
        timeout(LIMIT, intake.take(Bytes::copy_from_slice(piece))).await.expect("room for a piece").unwrap();
        yield_now().await;
    }
    assert_eq!(reading.await.unwrap(), (cut(&body, &ahead), Ok(())), "the rest has yet to come");
    let behind = cache.arriving(&shared, Sections::One(3..PART as u64 + 1), || None).await.unwrap();
    assert_eq!(drained(behind).await, (body.slice(3..PART + 1), Ok(())), "from the tiers");
    let last = cache.arriving(&shared, Sections::One(20 * PART as u64..20 * PART as u64 + 5), || None).await.unwrap();
    for piece in pieces {
        intake.take(Bytes::copy_from_slice(piece)).await.unwrap();
    }
    intake.finish();
    assert_eq!(drained(last).await, (body.slice(20 * PART..), Ok(())));
    assert_eq!(found(&cache).unwrap().head.length, body.len() as u64);
}

#[tokio::test]
async fn an_open_body_holds_one_part_however_many_it_has() {
    let body = bytes(100 * PART, "body");
    let cache = cache(|_| ()).await;
    let object = stored(&cache, &body).await;
    let mut readings = Vec::new();
    for _ in 0..10 {
        readings.push(read(&cache, &object, None).await.unwrap());
    }
    assert_eq!(cache.lending.budget().held(), PART as u64, "one part, however many read it");
    let first = readings[0].frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!((cache.lending.budget().held(), first.len()), (PART as u64, PART));
    drop(readings);
    assert_eq!(cache.lending.budget().held(), PART as u64, "the client has yet to take it");
    drop(first);
    assert_eq!(cache.lending.budget().held(), 0);
}

#[tokio::test]
async fn without_room_bodies_are_read_in_small_pieces_and_go_unstored() {
    let part = 3 * SCARCE_BYTES;
    let body = bytes(3 * part, "body");
    let cache = cache(|config| {
        config.part_bytes = part;
        config.part_time = Duration::from_millis(20);
    })
    .await;
    let object = stored(&cache, &body).await;
    let budget = Arc::clone(cache.lending.budget());
    let all = budget.take(256 << 20).unwrap();

    let mut reading = read(&cache, &object, None).await.unwrap();
    let first = reading.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!((first.len(), budget.held() - (256 << 20)), (SCARCE_BYTES, SCARCE_BYTES as u64));
    let (rest, end) = drained(reading).await;
    assert_eq!(([&first[..], &rest[..]].concat(), end), (body.to_vec(), Ok(())));
    drop(first);

    cache.tiers.remove(&KEY);
    let (shared, taking) = intake(&cache, None);
    let reading = cache.arriving(&shared, Sections::Whole, || None).await.unwrap();
    let taking = arrive(taking, &body, 100_000);
    assert_eq!(drained(reading).await, (body.clone(), Ok(())), "a client gets it all the same");
    taking.await.unwrap().unwrap();
    assert_eq!((found(&cache).is_none(), cache.metrics.bodies_unstored.get()), (true, 1));
    drop(shared);
    assert_eq!(budget.held(), 256 << 20);

    // Small ones are stored whatever else is held.
    let small = bytes(SCARCE_BYTES, "small");
    assert_eq!(stored(&cache, &small).await.body, small);
    drop(all);
}

/// The size of a body in one piece that isn't handed out without being counted.
const LARGE: usize = 3 * SCARCE_BYTES + 5;

/// A cache in which `count` large bodies may be read at once, beside what is left to bodies that arrive.
async fn with_room_for(count: usize) -> Arc<Cache> {
    cache(|config| {
        config.part_bytes = 1 << 20;
        config.bodies_bytes_max = (count * LARGE * 4).div_ceil(3) as u64;
        config.part_time = Duration::from_millis(20);
    })
    .await
}

fn stored_whole(cache: &Arc<Cache>, key: Key, body: &Bytes) -> Arc<Object> {
    let keys = StorageKeys { primary: key, key, names: None };
    Recorder::new(Arc::clone(cache), cache.begin_fetch(&key), keys, head(0)).whole(body).unwrap().0
}

#[tokio::test]
async fn bodies_in_one_piece_are_counted_once_each_and_read_in_windows_without_room() {
    let cache = with_room_for(2).await;
    let mut readings = Vec::new();
    for number in 0..5_u8 {
        let (key, body) = (Key::from_bytes([number; 32]), bytes(LARGE, &number.to_string()));
        let object = stored_whole(&cache, key, &body);
        for _ in 0..3 {
            let reading = cache.body(key, &object, Sections::Whole, || None).await.unwrap();
            assert_eq!(matches!(reading, Body::Full(_)), number < 2, "{number}");
            assert_eq!(reading.size_hint().exact(), Some(LARGE as u64));
            readings.push((reading, body.clone()));
        }
    }
    let windows = 3 * 3 * SCARCE_BYTES;
    assert_eq!(cache.lending.budget().held(), (2 * LARGE + windows) as u64, "each body once, each reader a window");
    for (reading, body) in readings {
        assert_eq!(drained(reading).await, (body, Ok(())));
    }
    assert_eq!(cache.lending.budget().held(), 0);

    let small = stored_whole(&cache, KEY, &bytes(SCARCE_BYTES, "small"));
    assert!(matches!(read(&cache, &small, None).await, Some(Body::Full(_))));
    let reading = read(&cache, &small, None).await;
    assert_eq!((reading.is_some(), cache.lending.budget().held()), (true, 0), "small ones aren't counted");
}

#[tokio::test]
async fn a_body_in_windows_that_left_its_tier_comes_from_the_origin_or_breaks_off() {
    let (body, other) = (bytes(LARGE, "body"), bytes(LARGE, "other"));
    let shorter = body.slice(..LARGE - 1);
    for (name, instead, origin, is_whole) in [
        ("gone", None, Some(Origin::of(&body)), true),
        ("gone, without ranges", None, Some(Origin { ranges: false, ..Origin::of(&body) }), true),
        ("another in its place", Some(&other), Some(Origin::of(&body)), true),
        ("the same in its place", Some(&body), None, true),
        ("nobody to ask", None, None, false),
        ("another in its place, nobody to ask", Some(&other), None, false),
        ("another body", None, Some(Origin::of(&other)), false),
        ("a shorter body", None, Some(Origin::of(&shorter)), false),
        ("a breach", None, Some(Origin { breaks_after: Some(SCARCE_BYTES + 1), ..Origin::of(&body) }), false),
    ] {
        let cache = with_room_for(1).await;
        let all = cache.lending.budget().take_to_read(LARGE).unwrap();
        let object = stored_whole(&cache, KEY, &body);
        let mut reading = read(&cache, &object, origin.map(Arc::new).as_ref()).await.unwrap();
        drop(object);
        let first = reading.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!((&first[..], cache.lending.budget().held()), (&body[..SCARCE_BYTES], (LARGE + SCARCE_BYTES) as u64));
        cache.tiers.remove(&KEY);
        if let Some(instead) = instead {
            stored_whole(&cache, KEY, instead);
        }
        let (rest, end) = drained(reading).await;
        let got = [&first[..], &rest[..]].concat();
        if is_whole {
            assert!(got == body && end == Ok(()), "{name}: {} bytes, {end:?}", got.len());
        } else {
            assert!(matches!(end, Err(BodyError::Broken(_))), "{name}: {end:?}");
            assert!(got.len() < LARGE && body.starts_with(&got), "{name}: {} bytes", got.len());
        }
        assert_eq!(found(&cache).map(|now| now.body.clone()), instead.cloned(), "{name}: what is stored now stays");
        assert_eq!(cache.metrics.bodies_cut.get(), u64::from(!is_whole), "{name}");
        drop((first, all));
        assert_eq!(cache.lending.budget().held(), 0, "{name}");
    }
}

#[tokio::test]
async fn without_room_a_lost_part_is_read_in_windows_whether_or_not_it_stays() {
    let part = 3 * SCARCE_BYTES;
    let body = bytes(4 * part + 7, "body");
    for (stays, asked) in [(true, 1), (false, 4)] {
        let cache = cache(|config| config.part_bytes = part).await;
        let object = stored(&cache, &body).await;
        let lose = || (1..5).for_each(|index| cache.tiers.remove(&part_key(&object, index)));
        let budget = cache.lending.budget();
        let all = budget.take(256 << 20).unwrap();
        let origin = Arc::new(Origin::of(&body));
        lose();
        let mut reading = read(&cache, &object, Some(&origin)).await.unwrap();
        let mut got = Vec::new();
        while let Some(frame) = timeout(LIMIT, reading.frame()).await.unwrap() {
            let piece = frame.unwrap().into_data().unwrap();
            let held = budget.held() - (256 << 20);
            assert!(piece.len() <= SCARCE_BYTES && held <= SCARCE_BYTES as u64, "{held} for {} bytes", piece.len());
            got.extend_from_slice(&piece);
            drop(piece);
            if !stays {
                lose();
            }
        }
        assert!(got == body, "{} bytes", got.len());
        assert_eq!(origin.asked.load(SeqCst), asked, "once, and again for what is gone before all of it was read");
        assert_eq!((cache.metrics.bodies_resumed.get(), cache.metrics.bodies_cut.get()), (1, 0));
        drop((reading, all));
        assert_eq!(budget.held(), 0);
    }
}

#[tokio::test]
async fn a_late_reader_starts_at_the_beginning() {
    let body = bytes(20 * PART + 5, "body");
    let cache = cache(|_| ()).await;
    let (shared, mut intake) = intake(&cache, None);
    let early = cache.arriving(&shared, Sections::Whole, || None).await.unwrap();
    let early = tokio::spawn(drained(early));
    for piece in body.chunks(1000) {
        intake.take(Bytes::copy_from_slice(piece)).await.unwrap();
        yield_now().await;
    }
    let late = cache.arriving(&shared, Sections::Whole, || None).await.unwrap();
    intake.finish();
    let last = cache.arriving(&shared, Sections::Whole, || None).await.unwrap();
    for reading in [early.await.unwrap(), drained(late).await, drained(last).await] {
        assert_eq!(reading, (body.clone(), Ok(())));
    }
    assert_eq!(found(&cache).unwrap().head.length, body.len() as u64);
}

#[tokio::test]
async fn a_breach_reaches_all_readers_and_nothing_is_stored() {
    let body = bytes(3 * PART, "body");
    let cache = cache(|config| config.collapse.lag_bytes_max = 1 << 20).await;
    let (shared, mut intake) = intake(&cache, Some(4 * PART as u64));
    let early = cache.arriving(&shared, Sections::Whole, || None).await.unwrap();
    intake.take(body.clone()).await.unwrap();
    intake.fail(BodyError::Broken("reset".to_owned()));
    let late = cache.arriving(&shared, Sections::Whole, || None).await.unwrap();
    for reading in [early, late] {
        assert_eq!(drained(reading).await, (body.clone(), Err(BodyError::Broken("reset".to_owned()))));
    }
    assert!(found(&cache).is_none());
}

#[tokio::test]
async fn a_fetch_waits_while_all_lag_and_not_for_one_that_does() {
    let body = bytes(50 * PART, "body");
    let cache = cache(|_| ()).await;
    let (shared, intake) = intake(&cache, None);
    let slow = cache.arriving(&shared, Sections::Whole, || None).await.unwrap();
    let mut taking = arrive(intake, &body, 1000);
    assert!(timeout(Duration::from_millis(200), &mut taking).await.is_err(), "nobody gets on");
    assert!(cache.lending.budget().held() <= 4 * PART as u64, "{} are held", cache.lending.budget().held());

    let fast = cache.arriving(&shared, Sections::Whole, || None).await.unwrap();
    assert_eq!(drained(fast).await, (body.clone(), Ok(())));
    timeout(LIMIT, taking).await.unwrap().unwrap().unwrap();
    assert!(cache.lending.budget().held() <= 4 * PART as u64, "{} are held", cache.lending.budget().held());
    assert_eq!(drained(slow).await, (body, Ok(())), "from the tiers");
}

#[tokio::test]
async fn what_no_tier_has_taken_waits_for_its_readers() {
    let body = bytes(50 * PART, "body");
    let cache = cache(|_| ()).await;
    let (shared, intake) = intake(&cache, None);
    let spill = shared.spill().unwrap().clone();
    let losing = tokio::spawn(async move {
        loop {
            (0..50).for_each(|index| spill.cache.tiers.remove(&KEY.part(spill.stamp, index)));
            yield_now().await;
        }
    });
    let slow = cache.arriving(&shared, Sections::Whole, || None).await.unwrap();
    let fast = cache.arriving(&shared, Sections::Whole, || None).await.unwrap();
    let taking = arrive(intake, &body, PART);
    let fast = tokio::spawn(drained(fast));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!fast.is_finished() && cache.lending.budget().held() <= 6 * PART as u64);
    losing.abort();
    assert_eq!(drained(slow).await, (body.clone(), Ok(())));
    assert_eq!(fast.await.unwrap(), (body, Ok(())));
    taking.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_is_too_large_goes_on_for_those_who_read_it_and_ends_without_any() {
    let body = bytes(20 * PART, "body");
    let cache = cache(|config| config.object_bytes_max = 6 * PART as u64).await;
    let (shared, intake) = intake(&cache, None);
    let reading = cache.arriving(&shared, Sections::Whole, || None).await.unwrap();
    let other = cache.arriving(&shared, Sections::Whole, || None).await.unwrap();
    let taking = arrive(intake, &body, 1000);
    let other = tokio::spawn(drained(other));
    assert_eq!(drained(reading).await, (body.clone(), Ok(())));
    assert_eq!(other.await.unwrap(), (body.clone(), Ok(())));
    taking.await.unwrap().unwrap();
    assert!(found(&cache).is_none());
    assert!(cache.arriving(&shared, Sections::Whole, || None).await.is_none(), "the beginning is gone");

    let (shared, intake) = self::intake(&cache, None);
    let mut leaving = cache.arriving(&shared, Sections::Whole, || None).await.unwrap();
    let taking = arrive(intake, &body, 1000);
    leaving.frame().await.unwrap().unwrap();
    drop(leaving);
    assert_eq!(timeout(LIMIT, taking).await.unwrap().unwrap(), Err(Unwanted));
}

#[tokio::test]
async fn a_body_that_is_there_already_is_read_by_all() {
    let cache = cache(|_| ()).await;
    let shared = SharedBody::whole(Bytes::from_static(b"an error"));
    for _ in 0..2 {
        let reading = cache.arriving(&shared, Sections::Whole, || None).await.unwrap();
        assert_eq!(drained(reading).await, (Bytes::from_static(b"an error"), Ok(())));
    }
    let empty = cache.arriving(&SharedBody::whole(Bytes::new()), Sections::Whole, || None).await.unwrap();
    assert!(empty.is_end_stream());
}

#[test]
fn every_byte_is_in_one_part() {
    let digests = [[1; 16], [2; 16], [3; 16]];
    let of = |at| PartRef::of(&KEY, 7, 10, &digests, 25, at);
    for (at, index, start, length) in [(0, 0, 0, 10), (9, 0, 0, 10), (10, 1, 10, 10), (20, 2, 20, 5), (24, 2, 20, 5)] {
        let digest = digests[usize::try_from(index).unwrap()];
        assert_eq!(of(at), Some(PartRef { key: KEY.part(7, index), start, length, digest }), "{at}");
    }
    assert_eq!((of(30), of(ANY), PartRef::of(&KEY, 7, 0, &digests, 25, 0)), (None, None, None));
}

/// What a reader of an arriving body does.
#[derive(Clone, Debug)]
struct Plan {
    /// Turns that it waits before it joins, and before each piece.
    joins_after: usize,
    waits: usize,
    /// It leaves after so many pieces.
    leaves_after: Option<usize>,
}

fn plan() -> impl Strategy<Value = Plan> {
    (0..60_usize, 0..6_usize, prop::option::weighted(0.3, 0..20_usize))
        .prop_map(|(joins_after, waits, leaves_after)| Plan { joins_after, waits, leaves_after })
}

async fn turns(count: usize) {
    for _ in 0..count {
        yield_now().await;
    }
}

/// What became of a reader.
#[derive(Debug, PartialEq)]
enum Fate {
    Whole,
    /// It broke off, and what came before was right.
    Broke,
    /// It found no beginning.
    Missed,
    Left,
    Wrong,
}

async fn follow(cache: Arc<Cache>, shared: SharedBody, plan: Plan, body: Bytes, rest: Option<Arc<Origin>>) -> Fate {
    turns(plan.joins_after).await;
    let rest = rest.map(|origin| origin as Arc<dyn Rest>);
    let Some(mut reading) = cache.arriving(&shared, Sections::Whole, || rest).await else { return Fate::Missed };
    drop(shared);
    let (mut at, mut pieces) = (0, 0);
    loop {
        if plan.leaves_after.is_some_and(|most| pieces >= most) {
            return Fate::Left;
        }
        turns(plan.waits).await;
        match reading.frame().await {
            Some(Ok(frame)) => {
                let data = frame.into_data().unwrap();
                if data.is_empty() || !body[at..].starts_with(&data) {
                    return Fate::Wrong;
                }
                at += data.len();
                pieces += 1;
            }
            Some(Err(_)) => return Fate::Broke,
            None if at == body.len() => return Fate::Whole,
            None => return Fate::Wrong,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Elsewhere {
    Same,
    Other,
    Nowhere,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whoever joins, lags or leaves, and whatever the tiers lose meanwhile: right bytes to the end, or a visible
    /// error, and that only if the origin has the body no more. Nothing is held when all is over.
    #[test]
    fn readers_get_exactly_the_body_or_an_error(
        length in 0..(30 * PART),
        size in 1..(3 * PART),
        known in any::<bool>(),
        plans in prop::collection::vec(plan(), 1..6),
        lost in prop::collection::vec((0..30_u32, 0..40_usize), 0..30),
        elsewhere in prop::sample::select(vec![Elsewhere::Same, Elsewhere::Other, Elsewhere::Nowhere]),
        scarce in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (body, loses) = (bytes(length, "body"), !lost.is_empty());
        let running = async {
            let cache = cache(|config| {
                config.bodies_bytes_max = if scarce { 2 * PART as u64 } else { 1 << 20 };
                config.part_time = Duration::from_millis(5);
            })
            .await;
            let origin = match elsewhere {
                Elsewhere::Same => Some(Arc::new(Origin::of(&body))),
                Elsewhere::Other => Some(Arc::new(Origin::of(&bytes(length, "other")))),
                Elsewhere::Nowhere => None,
            };
            let (shared, intake) = intake(&cache, known.then_some(length as u64));
            let spill = shared.spill().unwrap().clone();
            let readers: Vec<_> = plans
                .into_iter()
                .map(|plan| {
                    tokio::spawn(follow(Arc::clone(&cache), shared.clone(), plan, body.clone(), origin.clone()))
                })
                .collect();
            drop(shared);
            let taking = arrive(intake, &body, size);
            let losing = tokio::spawn(async move {
                for (index, after) in lost {
                    turns(after).await;
                    spill.cache.tiers.remove(&KEY.part(spill.stamp, index));
                }
            });
            let mut fates = Vec::new();
            for reader in readers {
                fates.push(reader.await.unwrap());
            }
            // Without readers a body that isn't stored is given up.
            let _ = taking.await.unwrap();
            losing.await.unwrap();
            (fates, cache.lending.budget().held())
        };
        let ran = runtime.block_on(async { timeout(LIMIT, running).await });
        let (fates, held) = ran.expect("nobody waits for ever");
        let may_break = loses && elsewhere != Elsewhere::Same;
        for fate in &fates {
            match fate {
                Fate::Whole | Fate::Left => {}
                Fate::Broke => prop_assert!(may_break),
                Fate::Missed => prop_assert!(loses || scarce),
                Fate::Wrong => prop_assert!(false, "wrong bytes"),
            }
        }
        prop_assert_eq!(held, 0);
    }
}
