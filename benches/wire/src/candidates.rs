//! What is compared, and how each is started.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    param,
    process::{self as system, Pid, Signal},
};

use crate::wire::Client;

/// A server that is measured.
#[derive(Clone, Copy)]
pub struct Candidate {
    pub name: &'static str,
    /// What it is called in the table.
    pub title: &'static str,
    pub how: How,
    pub hits: Hits,
}

/// What is started.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// This program, in a process of its own.
    Own,
    Nginx,
    Varnish,
}

/// What shows that the second answer is a hit.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Hits {
    /// It is none: the handler answers each time.
    Never,
    /// The same, and there is nothing else that it could be asked.
    Untold,
    /// `Age`, which the first has not; calls of what is behind it cannot be counted.
    ByAge,
    /// `Age`, and the handler in the same process is not called.
    Here,
    /// The origin is not asked.
    Behind,
}

/// All of them; the first is also the origin of those that need one.
pub const CANDIDATES: &[Candidate] = &[
    own("constant", "axum, answering from a constant", Hits::Never),
    own("layered", "axum, the constant behind a layer that does nothing", Hits::Never),
    own("bound", "axum, lower bound of a correct hit", Hits::ByAge),
    own("cache", "axum, hit of `Router::layer(CacheLayer)`", Hits::Here),
    own("extension", "axum, the same hit with the extension, as is the default", Hits::Here),
    own("bare", "no router, answering from a constant", Hits::Untold),
    own("outside", "axum, hit of a cache around the router", Hits::Here),
    Candidate { name: "nginx", title: "nginx, hit of `proxy_cache`", how: How::Nginx, hits: Hits::Behind },
    Candidate { name: "varnish", title: "Varnish, hit", how: How::Varnish, hits: Hits::Behind },
];

const fn own(name: &'static str, title: &'static str, hits: Hits) -> Candidate {
    Candidate { name, title, how: How::Own, hits }
}

/// Whether there is such a program.
pub fn is_installed(program: &str) -> bool {
    env::split_paths(&env::var_os("PATH").unwrap_or_default()).any(|folder| folder.join(program).is_file())
}

impl Candidate {
    /// The program that it is, unless it is this one.
    pub fn program(&self) -> Option<&'static str> {
        match self.how {
            How::Own => None,
            How::Nginx => Some("nginx"),
            How::Varnish => Some("varnishd"),
        }
    }

    /// How often the handler was called that hits spare, where that can be asked: on this connection, or of the origin.
    fn calls(&self, client: &mut Client, origin: &Server) -> Option<u64> {
        match self.hits {
            Hits::Never | Hits::Here => Some(client.count()),
            Hits::Behind => Some(origin.connect().count()),
            Hits::Untold | Hits::ByAge => None,
        }
    }

    /// Does this, and makes sure that it was hits which were measured.
    pub fn by_hits<T>(&self, client: &mut Client, origin: &Server, act: impl FnOnce(&mut Client) -> T) -> T {
        let before = self.calls(client, origin);
        let done = act(client);
        let calls = before.zip(self.calls(client, origin)).map_or(0, |(before, after)| after - before);
        // Once a minute it is stale, and whoever comes then may fetch it.
        assert!(self.hits == Hits::Never || calls <= 32, "{}: the handler was called {calls} times", self.name);
        done
    }

    /// Starts it, by a program that starts others, and waits until it listens. What it writes goes into the folder.
    pub fn start(&self, by: &[String], origin: Option<SocketAddr>, folder: &Path) -> Server {
        fs::create_dir_all(folder).expect("a folder");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let written = |name: &str, text: String| {
            let file = folder.join(name);
            fs::write(&file, text).expect("a file");
            file.display().to_string()
        };
        let (program, arguments): (PathBuf, _) = match self.how {
            How::Own => (env::current_exe().expect("the path of this program"), words(&["serve", self.name])),
            How::Nginx => {
                let file = written("nginx.conf", nginx(&folder.display().to_string(), address, origin.expect("an origin")));
                let (prefix, log) = (folder.display().to_string(), written("error.log", String::new()));
                ("nginx".into(), words(&["-p", &prefix, "-e", &log, "-c", &file]))
            }
            How::Varnish => {
                let file = written("varnish.vcl", vcl(origin.expect("an origin")));
                let (name, address) = (folder.join("varnish").display().to_string(), address.to_string());
                let mut arguments = words(&["-F", "-j", "none", "-T", "none", "-s", "malloc,64m", "-p", "thread_pools=1"]);
                arguments.extend(words(&["-n", &name, "-f", &file, "-a", &address]));
                ("varnishd".into(), arguments)
            }
        };
        let mut command = match by {
            [] => Command::new(program),
            [first, others @ ..] => {
                let mut command = Command::new(first);
                command.args(others).arg(program);
                command
            }
        };
        command.args(arguments);
        if self.how == How::Own {
            return Server::told(&mut command);
        }
        let said = fs::File::create(folder.join("said")).expect("a file");
        command.stdout(said.try_clone().expect("a file")).stderr(said);
        Server::probed(&mut command, address, folder)
    }
}

/// One process for all requests, what it keeps in files, and nothing written of a request.
fn nginx(folder: &str, address: SocketAddr, origin: SocketAddr) -> String {
    let folders: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("    {name}_temp_path {folder}/{name};\n"))
        .concat();
    format!(
        "daemon off;
master_process off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log crit;
events {{ worker_connections 512; }}
http {{
{folders}    access_log off;
    sendfile on;
    tcp_nodelay on;
    keepalive_requests 1000000000;
    proxy_cache_path {folder}/kept levels=1:2 keys_zone=kept:10m inactive=1h use_temp_path=off;
    server {{
        listen {address};
        location / {{
            proxy_pass http://{origin};
            proxy_set_header Host $host;
            proxy_cache kept;
        }}
    }}
}}
"
    )
}

fn vcl(origin: SocketAddr) -> String {
    format!("vcl 4.1;\nbackend origin {{ .host = \"{}\"; .port = \"{}\"; }}\n", origin.ip(), origin.port())
}

/// One that was free just now.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("an address").port()
}

/// A process that serves, until it is dropped.
pub struct Server {
    process: Child,
    pub address: SocketAddr,
}

impl Server {
    /// One that says itself where it listens.
    fn told(command: &mut Command) -> Self {
        let mut process = spawn(command.stdout(Stdio::piped()));
        let mut line = String::new();
        let output = process.stdout.take().expect("it is piped");
        BufReader::new(output).read_line(&mut line).expect("a line");
        let address = line.trim().parse().unwrap_or_else(|_| panic!("{command:?} did not say where it listens"));
        Self { process, address }
    }

    /// One that was told where to listen.
    fn probed(command: &mut Command, address: SocketAddr, folder: &Path) -> Self {
        let mut server = Self { process: spawn(command), address };
        let began = Instant::now();
        while TcpStream::connect(address).is_err() {
            let ended = server.process.try_wait().expect("a process");
            if ended.is_some() || began.elapsed() > Duration::from_secs(60) {
                let said = ["said", "error.log"].map(|name| fs::read_to_string(folder.join(name)).unwrap_or_default()).concat();
                panic!("{command:?} does not listen:\n{said}");
            }
            thread::sleep(Duration::from_millis(20));
        }
        server
    }

    /// A new connection to it.
    pub fn connect(&self) -> Client {
        Client::connect(self.address).expect("a connection")
    }

    /// The seconds that it and its children have run so far.
    pub fn cpu(&self) -> f64 {
        let own = self.process.id();
        let ticks: u64 = fs::read_dir("/proc")
            .expect("a list of processes")
            .filter_map(|folder| Times::of(&folder.ok()?.path().join("stat")))
            .filter(|times| times.process == own || times.parent == own)
            .map(|times| times.ticks)
            .sum();
        ticks as f64 / param::clock_ticks_per_second() as f64
    }

    /// Ends it, as one ends a server.
    pub fn end(&mut self) {
        let id = Pid::from_child(&self.process);
        if let Ok(None) = self.process.try_wait() {
            let _ = system::kill_process(id, Signal::TERM);
            let _ = self.process.wait();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

fn spawn(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).spawn().unwrap_or_else(|why| panic!("{command:?} does not start: {why}"))
}

/// What the system knows of a process.
struct Times {
    process: u32,
    parent: u32,
    ticks: u64,
}

impl Times {
    fn of(file: &Path) -> Option<Self> {
        let text = fs::read_to_string(file).ok()?;
        // The name, in brackets, may hold anything.
        let (process, rest) = (text.split(' ').next()?, text.rsplit_once(") ")?.1);
        let fields: Vec<_> = rest.split(' ').collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        Some(Self { process: process.parse().ok()?, parent: number(1)? as u32, ticks: number(11)? + number(12)? })
    }
}

/// Asks twice: the answer must be right, and the second one a hit.
pub fn check(candidate: &Candidate, client: &mut Client, origin: &Server) {
    let name = candidate.name;
    let mut ask = || {
        let before = candidate.calls(client, origin);
        let answer = client.ask().expect("an answer");
        assert!(answer.is_right(), "{name}: not the answer that was expected:\n{}", answer.head);
        let calls = before.zip(candidate.calls(client, origin)).map(|(before, after)| after - before);
        (answer.field("age").is_some(), calls)
    };
    let (first, second) = (ask(), ask());
    // Varnish says `Age` each time, nginx never.
    let right = match candidate.hits {
        Hits::Never => (first, second) == ((false, Some(1)), (false, Some(1))),
        Hits::Untold => !first.0 && !second.0,
        Hits::ByAge => !first.0 && second.0,
        Hits::Here => (first, second) == ((false, Some(1)), (true, Some(0))),
        Hits::Behind => (first.1, second.1) == (Some(1), Some(0)),
    };
    assert!(right, "{name}: the second answer is not what it should be: `Age` and calls were {first:?}, then {second:?}");
}
