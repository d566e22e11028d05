//! What stands before a server of a group and knows its fellows by their addresses.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What a link carries at once.
const PIECE: usize = 64 * 1024;

/// Carries connections to a server, except as it is told for those who come from one address.
///
/// It has a thread to itself, so that a test that blocks holds nothing up.
pub struct Gate {
    links: watch::Sender<Links>,
    listens: watch::Receiver<bool>,
}

#[derive(Clone, Default)]
struct Links {
    is_over: bool,
    is_open: bool,
    peers: BTreeMap<Way, Link>,
}

/// From an address, to a port.
type Way = (IpAddr, u16);

#[derive(Clone, Copy, Default)]
struct Link {
    state: State,
    cuts: u64,
}

/// What becomes of the connections from an address.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum State {
    /// They are carried, and so is what was held.
    #[default]
    Carried,
    /// Nothing is carried and nothing is said of it, as where packets are lost.
    Held,
    /// They are reset, and new ones at their first word: a node that got so far as to send a ping waits for the
    /// answer and takes its silent fellow for dead, while one that cannot connect waits for nothing.
    Cut,
}

impl Links {
    fn of(&self, way: Way) -> Link {
        self.peers.get(&way).copied().unwrap_or_default()
    }
}

impl Gate {
    /// One that is closed, with pairs of an address to listen at and, with the same port, the one behind it.
    pub fn new(ways: Vec<(SocketAddr, SocketAddr)>) -> Self {
        let (links, state) = watch::channel(Links::default());
        let (told, listens) = watch::channel(false);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(serve(ways, state, told));
        });
        Gate { links, listens }
    }

    /// Listens; false where another process does.
    pub async fn open(&self) -> bool {
        self.links.send_modify(|links| links.is_open = true);
        self.listens.clone().wait_for(|listens| *listens).await.is_ok()
    }

    /// Listens no more: what is connected comes to its own end, and what is held never arrives.
    pub fn close(&self) {
        self.links.send_modify(|links| {
            links.is_open = false;
            for link in links.peers.values_mut().filter(|link| link.state == State::Held) {
                link.cuts += 1;
            }
        });
        // the thread has nothing else to do
        while *self.listens.borrow() && self.listens.has_changed().is_ok() {
            std::thread::yield_now();
        }
    }

    /// Decides on the connections from an address to a port.
    pub fn set(&self, peer: IpAddr, port: u16, state: State) {
        self.links.send_modify(|links| {
            let link = links.peers.entry((peer, port)).or_default();
            link.state = state;
            link.cuts += u64::from(state == State::Cut);
        });
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.links.send_modify(|links| links.is_over = true);
    }
}

async fn serve(
    ways: Vec<(SocketAddr, SocketAddr)>,
    mut links: watch::Receiver<Links>,
    listens: watch::Sender<bool>,
) {
    loop {
        match links.wait_for(|links| links.is_over || links.is_open).await {
            Ok(links) if !links.is_over => {}
            _ => return,
        }
        let mut accepting = JoinSet::new();
        for (own, target) in &ways {
            let Ok(listener) = TcpListener::bind(own).await else { return };
            accepting.spawn(accept(listener, *target, links.clone()));
        }
        listens.send_replace(true);
        drop(links.wait_for(|links| links.is_over || !links.is_open).await);
        accepting.shutdown().await;
        listens.send_replace(false);
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, links: watch::Receiver<Links>) {
    loop {
        if let Ok((client, peer)) = listener.accept().await {
            tokio::spawn(carry(client, (peer.ip(), target.port()), target, links.clone()));
        }
    }
}

/// Carries one connection to its end: an orderly one, or a reset of both sides.
async fn carry(mut client: TcpStream, way: Way, target: SocketAddr, mut links: watch::Receiver<Links>) {
    let cuts = links.borrow().of(way).cuts;
    let held = links.clone();
    let mut server = TcpStream::connect(target).await.ok();
    let carried = async {
        let Some(server) = &mut server else { return false };
        // what is small is carried at once
        drop((client.set_nodelay(true), server.set_nodelay(true)));
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let up = pump(from_client, to_server, way, held.clone());
        let down = pump(from_server, to_client, way, held);
        tokio::try_join!(up, down).is_ok()
    };
    let is_cut =
        |links: &Links| links.is_over || links.of(way).state == State::Cut || links.of(way).cuts > cuts;
    let in_order = tokio::select! {
        in_order = carried => in_order,
        _ = links.wait_for(is_cut) => false,
    };
    if !in_order {
        for stream in [Some(&client), server.as_ref()].into_iter().flatten() {
            // one that is gone needs no reset
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }
}

/// One direction of a connection.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    way: Way,
    mut links: watch::Receiver<Links>,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let length = from.read(&mut piece).await?;
        let state =
            links.wait_for(|links| links.of(way).state != State::Held).await.map(|own| own.of(way).state);
        match &piece[..length] {
            _ if state.is_ok_and(|state| state == State::Cut) => {
                return Err(ErrorKind::ConnectionReset.into());
            }
            [] => return to.shutdown().await,
            piece => to.write_all(piece).await?,
        }
    }
}
