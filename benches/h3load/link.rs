//! A link that takes its time: UDP packets pass between one client and a server, each a while after it came. On the
//! machine's own loopback there is no way on which a download could get ahead of anything.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use socket2::SockRef;
use tokio::{
    net::UdpSocket,
    sync::mpsc::{self, Receiver, Sender},
    time::{Instant, sleep_until},
};

/// Packets on the link in one direction; further ones are lost.
const PACKETS_MAX: usize = 16 * 1024;

/// Bytes of a packet at most, and of the sockets' buffers.
const PACKET_BYTES: usize = 2 * 1024;
const BUFFER_BYTES: usize = 4 << 20;

/// A packet and when it arrives.
type Packet = (Instant, Vec<u8>);

/// Where the client sends from, once it has.
type Client = Arc<Mutex<Option<SocketAddr>>>;

/// Opens a link to a server, which takes this long in each direction, and returns where its client sends to.
pub(crate) async fn open(server: SocketAddr, delay: Duration) -> io::Result<SocketAddr> {
    let near = Arc::new(socket().await?);
    let far = Arc::new(socket().await?);
    far.connect(server).await?;
    let address = near.local_addr()?;
    let client = Client::default();

    let (send, up) = mpsc::channel(PACKETS_MAX);
    tokio::spawn(take(Arc::clone(&near), send, delay, Some(Arc::clone(&client))));
    tokio::spawn(bring(up, Arc::clone(&far), None));
    let (send, down) = mpsc::channel(PACKETS_MAX);
    tokio::spawn(take(far, send, delay, None));
    tokio::spawn(bring(down, near, Some(client)));
    Ok(address)
}

async fn socket() -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    // As far as the system gives them.
    let _ = SockRef::from(&socket).set_recv_buffer_size(BUFFER_BYTES);
    let _ = SockRef::from(&socket).set_send_buffer_size(BUFFER_BYTES);
    Ok(socket)
}

/// Takes packets, and notes from where, if that is to be noted.
async fn take(socket: Arc<UdpSocket>, link: Sender<Packet>, delay: Duration, sender: Option<Client>) {
    let mut buffer = vec![0; PACKET_BYTES];
    loop {
        // A port that isn't there any more says so by an error, and may come back.
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
        if let Some(sender) = &sender {
            *sender.lock() = Some(from);
        }
        // One for which there is no room is lost.
        let _ = link.try_send((Instant::now() + delay, buffer[..length].to_vec()));
    }
}

/// Brings packets when they are due, to the socket's peer or to whom is noted.
async fn bring(mut link: Receiver<Packet>, socket: Arc<UdpSocket>, receiver: Option<Client>) {
    while let Some((due, packet)) = link.recv().await {
        sleep_until(due).await;
        let to = receiver.as_ref().and_then(|receiver| *receiver.lock());
        // What can't be sent is lost.
        let _ = match to {
            Some(to) => socket.send_to(&packet, to).await,
            None => socket.send(&packet).await,
        };
    }
}
