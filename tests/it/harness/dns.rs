//! A DNS server that says what a test tells it, over UDP and TCP at one port. Messages are written by hand (RFC 1035,
//! section 4), so that they may be wrong as well.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    task::{JoinHandle, JoinSet},
};

/// Bytes of a message's header.
const HEADER: usize = 12;

const A: u16 = 1;
const AAAA: u16 = 28;
const SRV: u16 = 33;

/// What is wrong with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It doesn't exist.
    NoSuchName,
    /// The server can't tell.
    ServerFailure,
    /// The response isn't one.
    Garbage,
    /// The response ends within its records, and says nothing of that.
    Cut,
    /// The response doesn't fit into a packet; over TCP it isn't to be had.
    TooLong,
}

/// Records of one name: type, TTL in seconds, data.
type Records = Vec<(u16, u32, Vec<u8>)>;

#[derive(Default)]
struct Zone {
    names: HashMap<String, Records>,
    faults: HashMap<String, Fault>,
    /// Whether whole responses are to be had over TCP only.
    is_long: bool,
    asked: HashMap<String, usize>,
}

/// A DNS server.
pub(crate) struct Dns {
    address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    tasks: [JoinHandle<()>; 2],
}

impl Dns {
    /// Starts one that knows no name.
    pub(crate) async fn start() -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            // The same port over TCP may be another test's.
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let (address, zone) = (udp.local_addr().unwrap(), Arc::<Mutex<Zone>>::default());
        let tasks = [tokio::spawn(over_udp(udp, Arc::clone(&zone))), tokio::spawn(over_tcp(tcp, Arc::clone(&zone)))];
        Self { address, zone, tasks }
    }

    /// Returns the lines of `[dns]` by which a node asks it.
    pub(crate) fn lines(&self) -> String {
        format!("servers = [\"{}\"]", self.address)
    }

    /// From now on the name has these addresses, for so many seconds.
    pub(crate) fn addresses(&self, name: &str, ttl: u32, addresses: &[IpAddr]) {
        let record = |address: &IpAddr| match address {
            IpAddr::V4(ip) => (A, ttl, ip.octets().to_vec()),
            IpAddr::V6(ip) => (AAAA, ttl, ip.octets().to_vec()),
        };
        self.set(name, addresses.iter().map(record).collect());
    }

    /// From now on the service has these hosts, each with priority, weight, port and name, for so many seconds.
    pub(crate) fn service(&self, name: &str, ttl: u32, hosts: &[(u16, u16, u16, &str)]) {
        let record = |(priority, weight, port, host): &(u16, u16, u16, &str)| {
            let mut data: Vec<u8> = [*priority, *weight, *port].into_iter().flat_map(u16::to_be_bytes).collect();
            for label in host.split('.').filter(|label| !label.is_empty()) {
                data.push(u8::try_from(label.len()).unwrap());
                data.extend_from_slice(label.as_bytes());
            }
            data.push(0);
            (SRV, ttl, data)
        };
        self.set(name, hosts.iter().map(record).collect());
    }

    fn set(&self, name: &str, records: Records) {
        let mut zone = self.zone.lock();
        zone.faults.remove(name);
        zone.names.insert(name.to_owned(), records);
    }

    /// From now on this is wrong with the name, until it has records again.
    pub(crate) fn break_with(&self, name: &str, fault: Fault) {
        self.zone.lock().faults.insert(name.to_owned(), fault);
    }

    /// From now on no response with records fits into a packet.
    pub(crate) fn lengthen(&self) {
        self.zone.lock().is_long = true;
    }

    /// Returns how often it has been asked for something of the name.
    pub(crate) fn asked(&self, name: &str) -> usize {
        self.zone.lock().asked.get(name).copied().unwrap_or(0)
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn over_udp(socket: UdpSocket, zone: Arc<Mutex<Zone>>) {
    let mut packet = [0; 4096];
    while let Ok((length, client)) = socket.recv_from(&mut packet).await {
        if let Some(response) = respond(&packet[..length], &zone, true) {
            let _ = socket.send_to(&response, client).await;
        }
    }
}

async fn over_tcp(listener: TcpListener, zone: Arc<Mutex<Zone>>) {
    // Dropped with this task, and its connections with it.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(serve(stream, Arc::clone(&zone)));
    }
}

/// Responds to messages until there is no response to one, or the client leaves, which is no error of this server.
async fn serve(mut stream: TcpStream, zone: Arc<Mutex<Zone>>) -> io::Result<()> {
    loop {
        let length = stream.read_u16().await?;
        let mut message = vec![0; usize::from(length)];
        stream.read_exact(&mut message).await?;
        let Some(response) = respond(&message, &zone, false) else { return Ok(()) };
        stream.write_u16(u16::try_from(response.len()).unwrap()).await?;
        stream.write_all(&response).await?;
    }
}

/// Returns the response to a message, if there is to be any.
fn respond(message: &[u8], zone: &Mutex<Zone>, is_udp: bool) -> Option<Vec<u8>> {
    let (name, end) = name_at(message, HEADER)?;
    let kind = u16::from_be_bytes([*message.get(end)?, *message.get(end + 1)?]);
    let question = message.get(HEADER..end + 4)?;
    let mut zone = zone.lock();
    *zone.asked.entry(name.clone()).or_default() += 1;
    let fault = zone.faults.get(&name).copied();
    let known = zone.names.get(&name);
    let records: Vec<_> = known.into_iter().flatten().filter(|(its, ..)| *its == kind).collect();
    let is_truncated = fault == Some(Fault::TooLong) || (zone.is_long && is_udp && !records.is_empty());
    let code: u16 = match fault {
        Some(Fault::NoSuchName) => 3,
        Some(Fault::ServerFailure) => 2,
        None if known.is_none() => 3,
        _ => 0,
    };
    if fault == Some(Fault::TooLong) && !is_udp {
        return None;
    }
    let records = if is_truncated || code != 0 { Vec::new() } else { records };
    // A response to a query that recursion was wanted for, and is offered.
    let flags = 0x8180 | (u16::from(is_truncated) << 9) | code;
    let mut response = message[..2].to_vec();
    for number in [flags, 1, u16::try_from(records.len()).unwrap(), 0, 0] {
        response.extend_from_slice(&number.to_be_bytes());
    }
    response.extend_from_slice(question);
    for (kind, ttl, data) in records {
        // The name is that of the question, the class that of the Internet.
        for number in [0xC000 | u16::try_from(HEADER).unwrap(), *kind, 1] {
            response.extend_from_slice(&number.to_be_bytes());
        }
        response.extend_from_slice(&ttl.to_be_bytes());
        response.extend_from_slice(&u16::try_from(data.len()).unwrap().to_be_bytes());
        response.extend_from_slice(data);
    }
    match fault {
        Some(Fault::Garbage) => Some([&message[..2], &[0xFF; 40][..]].concat()),
        Some(Fault::Cut) => Some(response[..response.len() - 3].to_vec()),
        _ => Some(response),
    }
}

/// Returns the name that begins at `at`, in lower case, and where it ends.
fn name_at(message: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join("."), at));
        }
        labels.push(String::from_utf8_lossy(message.get(at..at + length)?).to_lowercase());
        at += length;
    }
}
