//! A TCP forwarder between a process and Redis, with faults.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::Server;

/// Treatment of the bytes of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Delivers bytes at once.
    Pass,
    /// Holds bytes back, and delivers them when the fault ends.
    Stall,
    /// Delivers each chunk later.
    Delay(Duration),
}

#[derive(Clone, Copy)]
struct State {
    target: SocketAddr,
    refuse: bool,
    up: Fault,
    down: Fault,
    cuts: u64,
    swallowed: Option<&'static [u8]>,
    blocked: Option<IpAddr>,
    held_back: Option<&'static [u8]>,
}

#[derive(Default)]
struct Counts {
    held: AtomicU64,
    connections: AtomicU64,
    open: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
}

/// Forwards connections in its own thread until it is dropped.
pub struct Forwarder {
    addr: SocketAddr,
    state: Option<watch::Sender<State>>,
    counts: Arc<Counts>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Forwarder {
    /// Listens on a free port of the loopback interface and forwards to `target`.
    pub fn start(target: SocketAddr) -> Self {
        let (state, seen) = watch::channel(State {
            target,
            refuse: false,
            up: Fault::Pass,
            down: Fault::Pass,
            cuts: 0,
            swallowed: None,
            blocked: None,
            held_back: None,
        });
        let counts = Arc::new(Counts::default());
        let (ready, started) = mpsc::channel();
        let thread = thread::spawn({
            let counts = counts.clone();
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                runtime.block_on(async {
                    let socket = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
                    ready.send(socket.local_addr().expect("its address")).expect("the starter waits");
                    accept(socket, seen, counts).await;
                });
            }
        });
        let addr = started.recv().expect("the forwarder listens");
        Self { addr, state: Some(state), counts, thread: Some(thread) }
    }

    /// Starts a forwarder to a server.
    pub fn to(server: &Server) -> Self {
        Self::start(server.addr())
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns the URL for a Redis client.
    pub fn url(&self) -> String {
        format!("redis://{}", self.addr)
    }

    /// Sets the fault from the client to the server.
    pub fn requests(&self, fault: Fault) {
        self.change(|state| state.up = fault);
    }

    /// Sets the fault from the server to the client.
    pub fn answers(&self, fault: Fault) {
        self.change(|state| state.down = fault);
    }

    /// Swallows all bytes of a connection from the first chunk on that contains these bytes. The connection stays open.
    pub fn swallow(&self, bytes: Option<&'static [u8]>) {
        self.change(|state| state.swallowed = bytes);
    }

    /// Holds back the first chunk that contains these bytes, and all that follow on its connection, until this is called with
    /// `None`.
    pub fn hold(&self, bytes: Option<&'static [u8]>) {
        self.change(|state| state.held_back = bytes);
    }

    /// Number of connections that are or were held back.
    pub fn held(&self) -> u64 {
        self.counts.held.load(SeqCst)
    }

    /// Closes the connections of clients at this address, and accepts no new ones from there.
    pub fn block_client(&self, client: Option<IpAddr>) {
        self.change(|state| state.blocked = client);
    }

    /// Closes every open connection.
    pub fn cut(&self) {
        self.change(|state| state.cuts += 1);
    }

    /// Sets whether new connections are closed at once.
    pub fn refuse(&self, refuse: bool) {
        self.change(|state| state.refuse = refuse);
    }

    /// Forwards new connections to `target`. Open connections stay where they are.
    pub fn retarget(&self, target: SocketAddr) {
        self.change(|state| state.target = target);
    }

    /// Number of accepted connections, including refused ones.
    pub fn connections(&self) -> u64 {
        self.counts.connections.load(SeqCst)
    }

    /// Number of open connections.
    pub fn open(&self) -> u64 {
        self.counts.open.load(SeqCst)
    }

    /// Bytes read from clients, and bytes read from servers.
    pub fn bytes(&self) -> (u64, u64) {
        (self.counts.up.load(SeqCst), self.counts.down.load(SeqCst))
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        self.state.as_ref().expect("the state exists until the drop").send_modify(change);
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.state.take();
        let _ = self.thread.take().expect("dropped once").join();
    }
}

/// Accepts until the forwarder is dropped.
async fn accept(socket: TcpListener, mut state: watch::Receiver<State>, counts: Arc<Counts>) {
    loop {
        let client = tokio::select! {
            accepted = socket.accept() => accepted.expect("a connection").0,
            changed = state.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        counts.connections.fetch_add(1, SeqCst);
        let from = client.peer_addr().ok().map(|from| from.ip());
        let State { refuse, blocked, .. } = *state.borrow();
        if !refuse && (blocked.is_none() || blocked != from) {
            tokio::spawn(forward(client, state.clone(), counts.clone()));
        }
    }
}

/// Forwards one connection until either side ends or it is cut.
async fn forward(client: TcpStream, mut state: watch::Receiver<State>, counts: Arc<Counts>) {
    let State { target, cuts, .. } = *state.borrow();
    let from = client.peer_addr().ok().map(|from| from.ip());
    counts.open.fetch_add(1, SeqCst);
    if let Ok(server) = TcpStream::connect(target).await {
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let ((client_read, client_write), (server_read, server_write)) = (client.into_split(), server.into_split());
        tokio::select! {
            () = carry(client_read, server_write, state.clone(), |state| state.up, &counts.up, Some(&counts.held)) => {}
            () = carry(server_read, client_write, state.clone(), |state| state.down, &counts.down, None) => {}
            _ = state.wait_for(|state| state.cuts != cuts || (state.blocked.is_some() && state.blocked == from)) => {}
        }
    }
    counts.open.fetch_sub(1, SeqCst);
}

/// Carries the bytes of one direction until it ends.
async fn carry(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut state: watch::Receiver<State>,
    fault: fn(&State) -> Fault,
    count: &AtomicU64,
    held: Option<&AtomicU64>,
) {
    let mut chunk = vec![0; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut chunk).await {
        count.fetch_add(length as u64, SeqCst);
        let State { swallowed, held_back, .. } = *state.borrow();
        let is_in = |bytes: &[u8]| chunk[..length].windows(bytes.len()).any(|window| window == bytes);
        if swallowed.is_some_and(is_in) {
            return std::future::pending().await;
        }
        // Only the first chunk.
        if let Some(held) = held
            && held_back.is_some_and(is_in)
            && held.fetch_add(1, SeqCst) == 0
            && state.wait_for(|state| state.held_back.is_none()).await.is_err()
        {
            return;
        }
        let now = fault(&state.borrow());
        if let Fault::Delay(late) = now {
            tokio::time::sleep(late).await;
        }
        if state.wait_for(|state| fault(state) != Fault::Stall).await.is_err() || to.write_all(&chunk[..length]).await.is_err()
        {
            return;
        }
    }
}
