//! The logs that a node follows, taken together: its region's, or its own, and, if it follows one, the world's. What is
//! stored is good only if both say so.

use std::{
    path::Path,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::{
    Error,
    extent::Extent,
    log::{Log, STRANGERS},
    purger::{Moment, Purger, Scope},
    receipt::{Receipt, SignedOff},
    succession::Bequest,
    table::{Kind, Mark, Standing, Subject},
};
use crate::{
    cache::{
        Metrics,
        tag::{Tag, UrlTags},
    },
    config,
};

/// The world's log, and this node's place in it.
#[derive(Debug)]
pub struct World {
    /// The name of the node's region. In the world's log the node is `REGION/NODE`.
    pub region: String,
    /// The log.
    pub log: Arc<dyn Log>,
    /// Its table and its limits.
    pub purge: config::Purge,
}

/// The life of this process as a log's list of members has it, and those that went before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lives {
    /// Its own.
    pub own: u64,
    /// Those that have certainly ended, because this process has their directory.
    pub ended: Vec<u64>,
}

impl Lives {
    fn of(purger: &Purger) -> Option<Self> {
        purger.region.as_ref().map(|region| Self { own: region.instance, ended: region.before.clone() })
    }
}

/// At which versions of the tables an entry was last found good.
#[derive(Debug, Default)]
pub struct Checked {
    region: AtomicU64,
    world: AtomicU64,
}

/// Where things stood when a request came.
#[derive(Clone, Copy, Debug)]
pub struct Arrived {
    region: Moment,
    world: Option<Moment>,
}

/// What was purged, by all logs that the node follows.
#[derive(Debug)]
pub struct Purges {
    region: Arc<Purger>,
    world: Option<Worldwide>,
}

#[derive(Debug)]
struct Worldwide {
    purger: Arc<Purger>,
    region: String,
    /// How long a purge waits until it is complete.
    ack: Duration,
}

impl Purges {
    /// Opens the durable tables in `dir` if there is one, and prepares to follow the region's log and the world's, as far
    /// as there are such.
    ///
    /// # Errors
    /// [`Error::Journal`] if a durable table can't be opened or read.
    pub fn open(
        node: &str,
        config: &config::Purge,
        dir: Option<&Path>,
        log: Option<Arc<dyn Log>>,
        world: Option<World>,
        metrics: &Metrics,
    ) -> Result<Arc<Self>, Error> {
        let region = Purger::open(node, config, dir, log, metrics.clone())?;
        let world = world.map(|world| Worldwide::open(node, world, dir, metrics)).transpose()?;
        Ok(Arc::new(Self { region, world }))
    }

    /// Follows the logs and hands invalidations on to the region's, until `stop`. Signs off from both then, each within
    /// its own time.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let region = Box::pin(Arc::clone(&self.region).run(stop.clone()));
        match &self.world {
            Some(world) => {
                tokio::join!(region, Box::pin(Arc::clone(&world.purger).run(stop)));
            }
            None => region.await,
        }
    }

    /// Returns the logs that the node follows, its region's or its own first.
    pub fn logs(&self) -> impl Iterator<Item = &Arc<Purger>> {
        std::iter::once(&self.region).chain(self.world.as_ref().map(|world| &world.purger))
    }

    /// Returns the life of this process in the region's log, and in the world's; `None` where it follows none.
    #[must_use]
    pub fn lives(&self) -> (Option<Lives>, Option<Lives>) {
        (Lives::of(&self.region), self.world.as_ref().and_then(|world| Lives::of(&world.purger)))
    }

    /// Returns the mark of a fetch that begins now.
    #[must_use]
    pub fn mark(&self) -> Mark {
        self.marked(self.region.mark())
    }

    /// Returns the mark of a fetch that begins now and whose response may be stored under a URL with this tag.
    #[must_use]
    pub fn begin(&self, url: &Tag) -> Mark {
        self.marked(self.region.begin(url))
    }

    fn marked(&self, mark: Mark) -> Mark {
        match &self.world {
            Some(world) => Mark { world: world.purger.point(), ..mark },
            None => mark,
        }
    }

    /// Notes that what is fetched of this URL from now on may be stored for other queries as well. To be called before
    /// [`Purges::begin`].
    pub fn foresee(&self, url: &str) {
        self.region.foresee(url);
    }

    /// Returns where things stand for a request that comes now.
    #[must_use]
    pub fn arrived(&self) -> Arrived {
        let world = self.world.as_ref().map(|world| world.purger.arrived());
        Arrived { region: self.region.arrived(), world }
    }

    /// Whether all logs have been read to their ends within their fences, so that tiers that others write to may be read.
    #[must_use]
    pub fn in_step(&self) -> bool {
        self.region.in_step() && self.world.as_ref().is_none_or(|world| world.purger.in_step())
    }

    /// Whether what is stored is served although a log wasn't read within its fence, because the node is configured so.
    #[must_use]
    pub fn is_serving_cut_off(&self) -> bool {
        self.region.is_serving_cut_off() || self.world.as_ref().is_some_and(|world| world.purger.is_serving_cut_off())
    }

    /// Judges an entry on a hit: the worse of what the logs say. `checked` remembers the tables' versions at which it was
    /// last found good, so that a hit after no purge takes no lock. `url` is given where a policy may let several URLs
    /// share one entry ([`Purger::check`]).
    #[must_use]
    pub fn check(
        &self,
        subject: &Subject<'_>,
        checked: &Checked,
        url: Option<&(impl Fn(bool) -> UrlTags + ?Sized)>,
    ) -> Standing {
        let standing = self.region.check(subject, &checked.region, url);
        match &self.world {
            Some(world) => {
                let mark = subject.mark.of_world();
                standing.max(world.purger.check(&Subject { mark: &mark, ..*subject }, &checked.world, url))
            }
            None => standing,
        }
    }

    /// Judges a response that is still on its way, or just in, for a request that came at `arrived`: whether it may
    /// have been purged between the beginning of its fetch and then ([`Purger::is_outdated`]). `url` makes the tags of
    /// the request's URL.
    #[must_use]
    pub fn is_outdated(&self, subject: &Subject<'_>, arrived: &Arrived, url: impl Fn() -> UrlTags) -> bool {
        // Each log compares it with a mark of its own.
        let (of_region, of_world) = (subject.mark.of_region(), subject.mark.of_world());
        let by_world = || match (&self.world, &arrived.world) {
            (Some(world), Some(moment)) => {
                world.purger.is_outdated(&Subject { mark: &of_world, ..*subject }, moment, &url)
            }
            _ => false,
        };
        self.region.is_outdated(&Subject { mark: &of_region, ..*subject }, &arrived.region, &url) || by_world()
    }

    /// Judges what is stored, for a request of the URL with these tags: whether it was purged hard since its fetch began.
    #[must_use]
    pub fn is_gone(&self, subject: &Subject<'_>, url: &UrlTags) -> bool {
        let by_world = |world: &Worldwide| {
            let mark = subject.mark.of_world();
            world.purger.is_gone(&Subject { mark: &mark, ..*subject }, url)
        };
        self.region.is_gone(subject, url) || self.world.as_ref().is_some_and(by_world)
    }

    /// Whether something may be stored under the URL with this tag, or be on its way. No is certain.
    #[must_use]
    pub fn may_hold(&self, url: &Tag) -> bool {
        self.region.may_hold(url)
    }

    /// Invalidates a URL, or a group, that an unsafe method changed, here and in the region ([`Purger::invalidate`]).
    pub async fn invalidate(&self, url: Tag) {
        self.region.invalidate(url).await;
    }

    /// Returns what purges may be for, the widest last. There is always one.
    fn extents(&self) -> Vec<Extent> {
        let all = [
            (Extent::Node, self.region.keeps_own()),
            (Extent::Region, self.region.has_log()),
            (Extent::World, self.world.is_some()),
        ];
        all.into_iter().filter(|(_, has)| *has).map(|(extent, _)| extent).collect()
    }

    /// Purges, and returns when no node that is meant can serve what was purged any more, or the time for that is over:
    /// `ack` for the region, and what is configured for the world. Without `extent` it is the widest that there is.
    ///
    /// # Errors
    /// [`Error::Extent`]: nothing was purged, since the node has no log of that extent. Any other: it isn't known to be
    /// purged.
    pub async fn purge(
        &self,
        extent: Option<Extent>,
        scope: &Scope,
        kind: Kind,
        ack: Duration,
    ) -> Result<(Extent, Receipt), Error> {
        let extents = self.extents();
        let extent = extent.or(extents.last().copied()).unwrap_or(Extent::Node);
        let refused = || {
            let allowed: Vec<&str> = extents.iter().map(|extent| extent.as_str()).collect();
            Error::Extent { wanted: extent, allowed: allowed.join(", ") }
        };
        if !extents.contains(&extent) {
            return Err(refused());
        }
        let receipt = match extent {
            Extent::Node => self.region.purge_here(scope, kind).await?,
            Extent::Region => self.region.purge(scope, kind, ack).await?,
            Extent::World => {
                let world = self.world.as_ref().ok_or_else(refused)?;
                world.purger.purge(scope, kind, world.ack).await?
            }
        };
        Ok((extent, receipt))
    }

    /// Signs a node off that is known not to serve any more, so that no purge waits for it ([`Purger::sign_off`]). A name
    /// alone is that of a node of this region, which is on both lists; `REGION/NODE` is one of another region.
    ///
    /// # Errors
    /// [`Error::Log`]: a log can't be reached.
    pub async fn sign_off(&self, node: &str, ack: Duration) -> Result<SignedOff, Error> {
        let Some(world) = &self.world else { return self.region.sign_off(node, ack).await };
        let name = match node.split_once('/') {
            Some((region, name)) if region == world.region => name,
            Some(_) => return world.purger.sign_off(node, world.ack).await,
            None => node,
        };
        let in_world = if name == STRANGERS { STRANGERS.to_owned() } else { world.name_of(name) };
        let signed_off = tokio::join!(self.region.sign_off(name, ack), world.purger.sign_off(&in_world, world.ack));
        Ok(signed_off.0?.and(signed_off.1?))
    }

    /// Brings the gauges up to date.
    pub fn refresh_metrics(&self, metrics: &Metrics) {
        self.logs().for_each(|log| log.refresh_metrics());
        if self.world.is_none() {
            metrics.world.in_step.set(1);
        }
    }

    /// Has this node leave the place that it has to another process, once [`Purges::run`] is stopped. From now on no purge
    /// is made here.
    pub fn give_way(&self) {
        self.logs().for_each(|log| log.give_way());
    }

    /// Closes the durable tables, once [`Purges::run`] has ended after [`Purges::give_way`].
    pub fn close(&self) {
        self.logs().for_each(|log| log.close());
    }

    /// Waits for invalidations to bequeath. To be followed by [`Purges::bequeathed`] or [`Purges::keep`].
    pub async fn bequest(&self) -> Bequest {
        self.region.bequest().await
    }

    /// Returns invalidations to bequeath, if there are any now.
    #[must_use]
    pub fn bequest_now(&self) -> Option<Bequest> {
        self.region.bequest_now()
    }

    /// Notes that the other process has made them, and whether they outlive it.
    pub fn bequeathed(&self, bequest: &Bequest, safe: bool) {
        self.region.bequeathed(bequest, safe);
    }

    /// Puts them back: it isn't known whether the other process has made them.
    pub fn keep(&self) {
        self.region.keep();
    }

    /// Makes the invalidations of the process whose place this one has taken ([`Purger::take_bequest`]).
    pub async fn take_bequest(&self, tags: impl Iterator<Item = Tag>, is_everything: bool) -> bool {
        self.region.take_bequest(tags, is_everything).await
    }
}

impl Worldwide {
    fn open(node: &str, world: World, dir: Option<&Path>, metrics: &Metrics) -> Result<Self, Error> {
        let World { region, log, purge } = world;
        let name = format!("{region}/{node}");
        let purger = Purger::open_world(&name, &purge, dir, log, metrics.of_world())?;
        Ok(Self { purger, region, ack: purge.ack })
    }

    /// Returns the name that a node of this region has in the world's log.
    fn name_of(&self, node: &str) -> String {
        format!("{}/{node}", self.region)
    }
}
