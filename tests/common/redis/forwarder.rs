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

/// What happens to the bytes of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// They are delivered.
    Pass,
    /// They are kept, and delivered when the fault ends.
    Stall,
    /// Each chunk is delivered so much later.
    Delay(Duration),
}

#[derive(Clone, Copy)]
struct State {
    target: SocketAddr,
    refuse: bool,
    up: Fault,
    down: Fault,
    cuts: u64,
    deaf_to: Option<&'static [u8]>,
    shuts_out: Option<IpAddr>,
    holds: Option<&'static [u8]>,
}

#[derive(Default)]
struct Counts {
    held: AtomicU64,
    connections: AtomicU64,
    open: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
}

/// Forwards connections in a thread of its own until it is dropped.
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
            deaf_to: None,
            shuts_out: None,
            holds: None,
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

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The address for a Redis client.
    pub fn url(&self) -> String {
        format!("redis://{}", self.addr)
    }

    /// The fault on the way from the client to the server.
    pub fn requests(&self, fault: Fault) {
        self.change(|state| state.up = fault);
    }

    /// The fault on the way from the server to the client.
    pub fn answers(&self, fault: Fault) {
        self.change(|state| state.down = fault);
    }

    /// Whoever asks this from now on is on a connection by which nothing arrives any more, though it stays open.
    pub fn is_deaf_to(&self, what: Option<&'static [u8]>) {
        self.change(|state| state.deaf_to = what);
    }

    /// Holds back the first request that contains these bytes, and all that follow on its connection, until this is called with `None`.
    pub fn holds(&self, what: Option<&'static [u8]>) {
        self.change(|state| state.holds = what);
    }

    /// How many connections are or were held back.
    pub fn held(&self) -> u64 {
        self.counts.held.load(SeqCst)
    }

    /// Closes the connections of clients at this address, and takes no new ones from there.
    pub fn shuts_out(&self, client: Option<IpAddr>) {
        self.change(|state| state.shuts_out = client);
    }

    /// Closes every connection that is open now.
    pub fn cut(&self) {
        self.change(|state| state.cuts += 1);
    }

    /// Whether new connections are closed at once.
    pub fn refuse(&self, refuse: bool) {
        self.change(|state| state.refuse = refuse);
    }

    /// New connections go to `target`; those that are open stay where they are.
    pub fn retarget(&self, target: SocketAddr) {
        self.change(|state| state.target = target);
    }

    /// How many connections were accepted, those refused included.
    pub fn connections(&self) -> u64 {
        self.counts.connections.load(SeqCst)
    }

    /// How many connections are open now.
    pub fn open(&self) -> u64 {
        self.counts.open.load(SeqCst)
    }

    /// Bytes taken from clients, and bytes taken from servers.
    pub fn bytes(&self) -> (u64, u64) {
        (self.counts.up.load(SeqCst), self.counts.down.load(SeqCst))
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        self.state.as_ref().expect("it is there until dropped").send_modify(change);
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
        let State { refuse, shuts_out, .. } = *state.borrow();
        if !refuse && (shuts_out.is_none() || shuts_out != from) {
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
            _ = state.wait_for(|state| state.cuts != cuts || (state.shuts_out.is_some() && state.shuts_out == from)) => {}
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
        let State { deaf_to, holds, .. } = *state.borrow();
        let is_in = |what: &[u8]| chunk[..length].windows(what.len()).any(|window| window == what);
        if deaf_to.is_some_and(is_in) {
            return std::future::pending().await;
        }
        // Only the first one.
        if let Some(held) = held
            && holds.is_some_and(is_in)
            && held.fetch_add(1, SeqCst) == 0
            && state.wait_for(|state| state.holds.is_none()).await.is_err()
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
