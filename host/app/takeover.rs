//! A new process takes the place of an old one: the listening sockets, the directories and what is purged, without a
//! failed request. `offer` is the old one's side, `former` the new one's, and `wire` what they say to each other.
//!
//! The new one gets copies of the sockets and puts together all that it can without the directories (PREPARED). The old
//! one closes these and goes on without what is stored (RELEASED), since it hears of no purge any more. The new one opens
//! them (READY). The old one hands on what unsafe methods have invalidated meanwhile, and stops accepting as the new one
//! begins (BEGIN), which then reads the UDP sockets as well (DATAGRAMS). If the new one fails before that, the old one
//! opens the directories again.

mod former;
mod offer;
mod wire;

pub(super) use self::{
    former::{Former, Inherited},
    offer::{Offer, Place},
};
