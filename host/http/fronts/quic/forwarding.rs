//! Packets that one process has read and that are another one's, on their way between the two: after a takeover the new
//! process reads the UDP socket alone, and the old one still has connections.
//!
//! They go over a pair of Unix sockets, whole and in order, and each message begins with what the system has said of the
//! packets. No more wait there than the socket's buffer has room for; what comes beyond that is dropped, as packets are,
//! and the clients repeat it.

use std::{
    io::{self, ErrorKind, IoSlice, IoSliceMut},
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6},
    os::{fd::OwnedFd, unix::net},
    task::{Context, Poll, ready},
};

use quinn::udp::{EcnCodepoint, RecvMeta};
use rustix::{
    io::Errno,
    net::{RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendFlags, recvmsg, sendmsg},
};
use socket2::{Domain, Socket, Type};
use tokio::{io::Interest, net::UnixDatagram};

use super::connection_id::Key;

/// Processes that may still have connections when another one takes over.
const FORMERS_MAX: usize = 8;

/// How often a process that has ended is looked for, in reads of the UDP socket.
const LOOK_EVERY: u32 = 1_024;

/// Bytes before the packets of a message: the length of all, that of each, the port, the scope, flags, both addresses.
const HEADER: usize = 48;

/// The kind of the pair. Elsewhere than on macOS, which doesn't have it, it says when the other end is gone, and its
/// queue is bounded by bytes and not by a handful of messages.
const KIND: Type = if cfg!(target_os = "macos") { Type::DGRAM } else { Type::SEQPACKET };

/// Bits of the flags: the client's address and the node's are of IPv4, the latter is known, and ECN's two bits.
const PEER_V4: u8 = 1;
const LOCAL_V4: u8 = 2;
const HAS_LOCAL: u8 = 4;
const ECN_AT: u8 = 6;

/// Returns the two ends of a way for packets, with buffers of this size: one to receive by, and one to hand on.
///
/// # Errors
/// What the system says.
pub(super) fn pair(bytes: usize) -> io::Result<(Channel, OwnedFd)> {
    let (receiving, sending) = Socket::pair(Domain::UNIX, KIND, None)?;
    for socket in [&receiving, &sending] {
        socket.set_nonblocking(true)?;
        // One with smaller buffers works.
        let _ = socket.set_send_buffer_size(bytes);
        let _ = socket.set_recv_buffer_size(bytes);
    }
    let receiving = net::UnixDatagram::from(OwnedFd::from(receiving));
    Ok((Channel(UnixDatagram::from_std(receiving)?), sending.into()))
}

/// The end by which a process receives its packets from the one that reads them.
pub(super) struct Channel(UnixDatagram);

impl Channel {
    /// Receives messages, as a UDP socket is read: `None` once nobody can send any more.
    pub(super) fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<Option<usize>>> {
        loop {
            ready!(self.0.poll_recv_ready(cx))?;
            match self.0.try_io(Interest::READABLE, || self.receive_all(buffers, metas)) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                received => return Poll::Ready(received),
            }
        }
    }

    /// Receives what is there, at most one message for each buffer.
    fn receive_all(&self, buffers: &mut [IoSliceMut<'_>], metas: &mut [RecvMeta]) -> io::Result<Option<usize>> {
        let mut count = 0;
        while let (Some(buffer), Some(meta)) = (buffers.get_mut(count), metas.get_mut(count)) {
            match self.receive(buffer, meta) {
                Ok(Received::Packets) => count += 1,
                Ok(Received::Nothing) => {}
                Ok(Received::End) if count == 0 => return Ok(None),
                Err(error) if count == 0 => return Err(error),
                // It is there the next time as well.
                Ok(Received::End) | Err(_) => break,
            }
        }
        Ok(Some(count))
    }

    fn receive(&self, buffer: &mut [u8], meta: &mut RecvMeta) -> io::Result<Received> {
        let mut header = [0; HEADER];
        let read = {
            let mut parts = [IoSliceMut::new(&mut header), IoSliceMut::new(buffer)];
            let mut control = RecvAncillaryBuffer::new(&mut []);
            recvmsg(&self.0, &mut parts, &mut control, RecvFlags::DONTWAIT)?.bytes
        };
        if read == 0 {
            return Ok(Received::End);
        }
        match decoded(&header) {
            // One that only asks whether this process is there has no packets; one that is cut isn't whole.
            Some(told) if told.len > 0 && read == HEADER + told.len => {
                *meta = told;
                Ok(Received::Packets)
            }
            Some(_) | None => Ok(Received::Nothing),
        }
    }
}

enum Received {
    Packets,
    Nothing,
    End,
}

/// The processes whose packets this one passes on.
pub(super) struct Routes {
    routes: Vec<Route>,
    reads: u32,
}

impl Routes {
    /// Returns the routes to processes with these keys.
    pub(super) fn new(formers: Vec<(Key, OwnedFd)>) -> Self {
        Self {
            routes: formers.into_iter().map(|(key, socket)| Route { key, socket, is_gone: false }).collect(),
            reads: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// Returns copies of them, for yet another process.
    ///
    /// # Errors
    /// There are too many, or the system gives no copy.
    pub(super) fn copies(&mut self) -> io::Result<Vec<(Key, OwnedFd)>> {
        self.forget_ended();
        if self.routes.len() >= FORMERS_MAX {
            return Err(io::Error::other("the processes of too many upgrades still have connections of HTTP/3"));
        }
        self.routes.iter().map(|route| Ok((route.key, route.socket.try_clone()?))).collect()
    }

    /// Takes out of a buffer the packets that aren't this process's, and passes them on. Returns how many messages were
    /// dropped.
    pub(super) fn sift(&mut self, buffer: &mut [u8], meta: &mut RecvMeta) -> u64 {
        let (keys, mut dropped) = (self.routes.iter().map(|route| route.key).collect::<Vec<_>>(), 0);
        let owner = |packet: &[u8]| keys.iter().position(|key| key.has_issued_for(packet));
        sift(buffer, meta, owner, |owner, meta, packets| {
            let Some(route) = self.routes.get_mut(owner) else { return };
            dropped += u64::from(!route.send(meta, packets));
        });
        self.reads = self.reads.wrapping_add(1);
        if self.reads.is_multiple_of(LOOK_EVERY) || self.routes.iter().any(|route| route.is_gone) {
            self.forget_ended();
        }
        dropped
    }

    fn forget_ended(&mut self) {
        let nothing = RecvMeta::default();
        self.routes.retain_mut(|route| {
            route.send(&nothing, &[]);
            !route.is_gone
        });
    }
}

/// The way to one of them.
struct Route {
    key: Key,
    socket: OwnedFd,
    /// Whether the process has ended.
    is_gone: bool,
}

impl Route {
    /// Sends packets, unless too many wait already. Whether they were sent.
    fn send(&mut self, meta: &RecvMeta, packets: &[u8]) -> bool {
        let header = encoded(meta);
        let parts = [IoSlice::new(&header), IoSlice::new(packets)];
        let sent = sendmsg(&self.socket, &parts, &mut SendAncillaryBuffer::default(), SEND);
        self.is_gone |= matches!(sent, Err(Errno::PIPE | Errno::CONNRESET | Errno::CONNREFUSED | Errno::NOTCONN));
        sent.is_ok()
    }
}

/// A process that has ended is no signal, where the system can be told so for each message; elsewhere the socket is.
#[cfg(not(target_os = "macos"))]
const SEND: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);
#[cfg(target_os = "macos")]
const SEND: SendFlags = SendFlags::DONTWAIT;

/// Takes the packets of others out of a buffer: those that `owner` knows are handed to `pass` in runs, with what is said
/// of the buffer, and the rest moves together. All packets but the last have the same length, and so they have afterwards.
fn sift(
    buffer: &mut [u8],
    meta: &mut RecvMeta,
    owner: impl Fn(&[u8]) -> Option<usize>,
    mut pass: impl FnMut(usize, &RecvMeta, &[u8]),
) {
    let (stride, length) = (meta.stride.max(1), meta.len.min(buffer.len()));
    let (mut kept, mut at) = (0, 0);
    while at < length {
        let begin = at;
        let to = owner(&buffer[at..length.min(at + stride)]);
        loop {
            at = length.min(at + stride);
            if at == length || owner(&buffer[at..length.min(at + stride)]) != to {
                break;
            }
        }
        match to {
            Some(to) => pass(to, &RecvMeta { len: at - begin, stride, ..*meta }, &buffer[begin..at]),
            None => {
                if kept != begin {
                    buffer.copy_within(begin..at, kept);
                }
                kept += at - begin;
            }
        }
    }
    meta.len = kept;
}

fn encoded(meta: &RecvMeta) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    let scope = if let SocketAddr::V6(address) = meta.addr { address.scope_id() } else { 0 };
    let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes();
    header[..4].copy_from_slice(&number(meta.len));
    header[4..8].copy_from_slice(&number(meta.stride));
    header[8..10].copy_from_slice(&meta.addr.port().to_be_bytes());
    let bit = |is_set: bool, bit: u8| if is_set { bit } else { 0 };
    let is_local_v4 = meta.dst_ip.is_some_and(|ip| ip.is_ipv4());
    let ecn = meta.ecn.map_or(0, |ecn| ecn as u8) << ECN_AT;
    header[10] =
        bit(meta.addr.is_ipv4(), PEER_V4) | bit(is_local_v4, LOCAL_V4) | bit(meta.dst_ip.is_some(), HAS_LOCAL) | ecn;
    header[12..16].copy_from_slice(&scope.to_be_bytes());
    header[16..32].copy_from_slice(&octets(meta.addr.ip()));
    header[32..].copy_from_slice(&meta.dst_ip.map_or([0; 16], octets));
    header
}

/// Reads what [`encoded`] has written; `None` of what it never writes.
fn decoded(header: &[u8; HEADER]) -> Option<RecvMeta> {
    let number = |at: usize| Some(u32::from_be_bytes(*header.get(at..)?.first_chunk()?));
    let (len, stride) = (usize::try_from(number(0)?).ok()?, usize::try_from(number(4)?).ok()?);
    let (port, flags) = (u16::from_be_bytes([header[8], header[9]]), header[10]);
    let peer = ip(*header[16..].first_chunk()?, flags & PEER_V4 != 0);
    let local = ip(*header[32..].first_chunk()?, flags & LOCAL_V4 != 0);
    let addr = match peer {
        IpAddr::V4(_) => SocketAddr::new(peer, port),
        IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, number(12)?).into(),
    };
    let dst_ip = (flags & HAS_LOCAL != 0).then_some(local);
    // Packets of no bytes would never come to an end.
    (stride > 0 || len == 0).then_some(RecvMeta {
        addr,
        len,
        stride,
        ecn: EcnCodepoint::from_bits(flags >> ECN_AT),
        dst_ip,
    })
}

fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// Returns an address as it was: one of IPv4, or one of IPv6 that may be mapped.
fn ip(octets: [u8; 16], is_v4: bool) -> IpAddr {
    let ip = Ipv6Addr::from(octets);
    ip.to_ipv4_mapped().filter(|_| is_v4).map_or(IpAddr::V6(ip), IpAddr::V4)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use quinn::ConnectionIdGenerator;

    use super::{super::connection_id::Ids, *};

    fn meta(addr: &str, len: usize, stride: usize) -> RecvMeta {
        RecvMeta { addr: addr.parse().unwrap(), len, stride, ecn: None, dst_ip: None }
    }

    #[test]
    fn what_is_said_of_packets_arrives_as_it_was() {
        for (addr, dst_ip, ecn) in [
            ("192.0.2.1:443", Some("192.0.2.9"), Some(EcnCodepoint::Ce)),
            ("192.0.2.1:1", None, None),
            ("[2001:db8::1]:65535", Some("2001:db8::9"), Some(EcnCodepoint::Ect0)),
            ("[::ffff:192.0.2.1]:9", Some("::ffff:192.0.2.9"), Some(EcnCodepoint::Ect1)),
            ("[fe80::1%7]:9", None, None),
        ] {
            let dst_ip = dst_ip.map(|ip| ip.parse().unwrap());
            let told = RecvMeta { dst_ip, ecn, ..meta(addr, 60_000, 1_452) };
            let same = decoded(&encoded(&told)).unwrap();
            assert_eq!(format!("{told:?}"), format!("{same:?}"));
        }
        assert!(decoded(&encoded(&meta("192.0.2.1:1", 5, 0))).is_none());
    }

    #[test]
    fn packets_of_others_are_taken_out_in_runs_and_the_rest_moves_together() {
        for (packets, stays, passed) in [
            ("aabbcc", "aabbcc", vec![]),
            ("1111", "", vec![(1, "1111")]),
            ("aa11bb2", "aabb", vec![(1, "11"), (2, "2")]),
            ("1122aa11", "aa", vec![(1, "11"), (2, "22"), (1, "11")]),
            ("aa1111b", "aab", vec![(1, "1111")]),
            ("", "", vec![]),
        ] {
            let (mut buffer, mut seen) = (packets.as_bytes().to_vec(), Vec::new());
            let mut told = meta("192.0.2.1:1", buffer.len(), 2);
            let owner = |packet: &[u8]| packet[0].is_ascii_digit().then(|| usize::from(packet[0] - b'0'));
            sift(&mut buffer, &mut told, owner, |to, meta, bytes| {
                assert_eq!((meta.len, meta.stride), (bytes.len(), 2));
                seen.push((to, String::from_utf8(bytes.to_vec()).unwrap()));
            });
            assert_eq!(&buffer[..told.len], stays.as_bytes(), "{packets}");
            let seen: Vec<_> = seen.iter().map(|(to, bytes)| (*to, bytes.as_str())).collect();
            assert_eq!(seen, passed, "{packets}");
        }
    }

    async fn received(channel: &Channel) -> Option<Vec<(Vec<u8>, RecvMeta)>> {
        let mut space = [[0; 100]; 3];
        let mut metas = [RecvMeta::default(); 3];
        let count = poll_fn(|cx| {
            let mut buffers: Vec<_> = space.iter_mut().map(|space| IoSliceMut::new(space)).collect();
            channel.poll_recv(cx, &mut buffers, &mut metas)
        });
        let count = count.await.unwrap()?;
        Some((0..count).map(|at| (space[at][..metas[at].len].to_vec(), metas[at])).collect())
    }

    #[tokio::test]
    async fn packets_reach_the_process_whose_ids_they_have_until_it_ends() {
        let (key, (channel, sending)) = (Key::random().unwrap(), pair(64 * 1024).unwrap());
        let mut routes = Routes::new(vec![(key, sending)]);
        let own = b"\x40whatever else".to_vec();
        let theirs = [&[0x40][..], &Ids::new(key).generate_cid()[..], b"1234"].concat();
        let own_too = [&own[..3], b"x"].concat();
        assert_eq!(theirs.len(), own.len() - 1);
        let mut buffer = [&theirs[..], &own[..theirs.len()], &own_too].concat();
        let mut told = meta("192.0.2.1:9", buffer.len(), theirs.len());
        assert_eq!(routes.sift(&mut buffer, &mut told), 0);
        assert_eq!(told.len, theirs.len() + own_too.len(), "what isn't theirs stays");
        let messages = received(&channel).await.unwrap();
        let [(bytes, same)] = &messages[..] else { panic!("{} messages", messages.len()) };
        assert_eq!((&bytes[..], same.addr, same.stride), (&theirs[..], told.addr, theirs.len()));

        let copies = routes.copies().unwrap();
        assert_eq!(copies.len(), 1);
        drop((routes, copies));
        assert!(received(&channel).await.is_none(), "nobody can send any more");
    }

    #[tokio::test]
    async fn what_a_process_does_not_take_is_dropped_and_counted_and_one_that_has_ended_is_forgotten() {
        let (key, (channel, sending)) = (Key::random().unwrap(), pair(4 * 1024).unwrap());
        let mut routes = Routes::new(vec![(key, sending)]);
        let packet = [&[0x40][..], &Ids::new(key).generate_cid()[..], &[0; 1_000]].concat();
        let mut sift = || {
            let mut told = meta("192.0.2.1:9", packet.len(), packet.len());
            (routes.sift(&mut packet.clone(), &mut told), told.len)
        };
        let dropped: u64 = (0..1_000).map(|_| sift().0).sum();
        assert!((1..1_000).contains(&dropped), "{dropped}");
        drop(channel);
        assert_eq!(sift(), (1, 0));
        assert_eq!(sift(), (0, packet.len()), "they are this process's to refuse");
        assert!(routes.is_empty());
    }
}
