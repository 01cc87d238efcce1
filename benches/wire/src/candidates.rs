//! The measured servers and their start.

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

/// A measured server.
#[derive(Clone, Copy)]
pub struct Candidate {
    pub name: &'static str,
    /// Its name in the table.
    pub title: &'static str,
    pub runs: Program,
    pub evidence: HitEvidence,
}

/// The program that serves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// This program, in a process of its own.
    This,
    Nginx,
    Varnish,
}

/// The observation that proves a hit.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum HitEvidence {
    /// There is no cache: the handler responds each time.
    NoCache,
    /// There is no cache, and the calls of the handler cannot be counted.
    NoCacheUncounted,
    /// `Age`, which only a hit has. The calls of the handler cannot be counted.
    Age,
    /// `Age`, and the handler in the same process is not called.
    OwnCalls,
    /// The origin is not called.
    OriginCalls,
}

/// All candidates. The first is also the origin of those that need one.
pub const CANDIDATES: &[Candidate] = &[
    own("constant", "axum, constant handler", HitEvidence::NoCache),
    own("layered", "axum, constant handler behind an identity layer", HitEvidence::NoCache),
    own("bound", "axum, lower bound of a correct hit", HitEvidence::Age),
    own("default", "axum, hit of `Router::layer(CacheLayer)`", HitEvidence::OwnCalls),
    own("status", "axum, hit of `Router::layer(CacheLayer)` with `Cache-Status`", HitEvidence::OwnCalls),
    own("extension", "axum, hit of `Router::layer(CacheLayer)` with the extension", HitEvidence::OwnCalls),
    own("length", "axum, hit of `Router::layer(CacheLayer)` with `content_length(true)`", HitEvidence::OwnCalls),
    own("bare", "constant handler without a router", HitEvidence::NoCacheUncounted),
    own("outside", "axum, hit of a cache outside the router", HitEvidence::OwnCalls),
    Candidate { name: "nginx", title: "nginx, hit of `proxy_cache`", runs: Program::Nginx, evidence: HitEvidence::OriginCalls },
    Candidate { name: "varnish", title: "Varnish, hit", runs: Program::Varnish, evidence: HitEvidence::OriginCalls },
];

const fn own(name: &'static str, title: &'static str, evidence: HitEvidence) -> Candidate {
    Candidate { name, title, runs: Program::This, evidence }
}

/// Returns true if a program is in the `PATH`.
pub fn is_installed(program: &str) -> bool {
    env::split_paths(&env::var_os("PATH").unwrap_or_default()).any(|directory| directory.join(program).is_file())
}

impl Candidate {
    /// Returns the name of the external program, or `None` for this program.
    pub fn program(&self) -> Option<&'static str> {
        match self.runs {
            Program::This => None,
            Program::Nginx => Some("nginx"),
            Program::Varnish => Some("varnishd"),
        }
    }

    /// Returns the number of calls that hits avoid, of the handler behind this connection or of the origin. Returns `None` if it is unknown.
    fn calls(&self, client: &mut Client, origin: &Server) -> Option<u64> {
        match self.evidence {
            HitEvidence::NoCache | HitEvidence::OwnCalls => Some(client.count()),
            HitEvidence::OriginCalls => Some(origin.connect().count()),
            HitEvidence::NoCacheUncounted | HitEvidence::Age => None,
        }
    }

    /// Runs a measurement and checks that it consisted of hits.
    pub fn verifying_hits<T>(&self, client: &mut Client, origin: &Server, act: impl FnOnce(&mut Client) -> T) -> T {
        let before = self.calls(client, origin);
        let done = act(client);
        let calls = before.zip(self.calls(client, origin)).map_or(0, |(before, after)| after - before);
        // The response expires once a minute, and several connections may then miss.
        assert!(self.evidence == HitEvidence::NoCache || calls <= 32, "{}: the handler was called {calls} times", self.name);
        done
    }

    /// Starts the server by a command prefix and waits until it listens. Its output goes to the directory.
    pub fn start(&self, by: &[String], origin: Option<SocketAddr>, directory: &Path) -> Server {
        fs::create_dir_all(directory).expect("a directory");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let write_file = |name: &str, text: String| {
            let file = directory.join(name);
            fs::write(&file, text).expect("a file");
            file.display().to_string()
        };
        let (program, arguments): (PathBuf, _) = match self.runs {
            Program::This => (env::current_exe().expect("the path of this program"), words(&["serve", self.name])),
            Program::Nginx => {
                let file =
                    write_file("nginx.conf", nginx(&directory.display().to_string(), address, origin.expect("an origin")));
                let (prefix, log) = (directory.display().to_string(), write_file("error.log", String::new()));
                ("nginx".into(), words(&["-p", &prefix, "-e", &log, "-c", &file]))
            }
            Program::Varnish => {
                let file = write_file("varnish.vcl", vcl(origin.expect("an origin")));
                let (name, address) = (directory.join("varnish").display().to_string(), address.to_string());
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
        if self.runs == Program::This {
            return Server::announcing_address(&mut command);
        }
        let output = fs::File::create(directory.join("output")).expect("a file");
        command.stdout(output.try_clone().expect("a file")).stderr(output);
        Server::listening_on(&mut command, address, directory)
    }
}

/// Returns a configuration with one process, the cache in files, and no access log.
fn nginx(directory: &str, address: SocketAddr, origin: SocketAddr) -> String {
    let folders: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("    {name}_temp_path {directory}/{name};\n"))
        .concat();
    format!(
        "daemon off;
master_process off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log crit;
events {{ worker_connections 512; }}
http {{
{folders}    access_log off;
    sendfile on;
    tcp_nodelay on;
    keepalive_requests 1000000000;
    proxy_cache_path {directory}/kept levels=1:2 keys_zone=kept:10m inactive=1h use_temp_path=off;
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

/// Returns an unused port.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("an address").port()
}

/// A server process, which ends when it is dropped.
pub struct Server {
    process: Child,
    pub address: SocketAddr,
}

impl Server {
    /// Starts a server that prints its address.
    fn announcing_address(command: &mut Command) -> Self {
        let mut process = spawn(command.stdout(Stdio::piped()));
        let mut line = String::new();
        let output = process.stdout.take().expect("piped output");
        BufReader::new(output).read_line(&mut line).expect("a line");
        let address = line.trim().parse().unwrap_or_else(|_| panic!("{command:?} did not print its address"));
        Self { process, address }
    }

    /// Starts a server on a given address.
    fn listening_on(command: &mut Command, address: SocketAddr, directory: &Path) -> Self {
        let mut server = Self { process: spawn(command), address };
        let began = Instant::now();
        while TcpStream::connect(address).is_err() {
            let ended = server.process.try_wait().expect("a process");
            if ended.is_some() || began.elapsed() > Duration::from_secs(60) {
                let output =
                    ["output", "error.log"].map(|name| fs::read_to_string(directory.join(name)).unwrap_or_default()).concat();
                panic!("{command:?} does not listen:\n{output}");
            }
            thread::sleep(Duration::from_millis(20));
        }
        server
    }

    /// Opens a new connection.
    pub fn connect(&self) -> Client {
        Client::connect(self.address).expect("a connection")
    }

    /// Returns the CPU time of the server and its children, in seconds.
    pub fn cpu(&self) -> f64 {
        let own = self.process.id();
        let ticks: u64 = fs::read_dir("/proc")
            .expect("a list of processes")
            .filter_map(|directory| Times::of(&directory.ok()?.path().join("stat")))
            .filter(|times| times.process == own || times.parent == own)
            .map(|times| times.ticks)
            .sum();
        ticks as f64 / param::clock_ticks_per_second() as f64
    }

    /// Terminates the server.
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
    command.stdin(Stdio::null()).spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"))
}

/// The CPU time and the parent of a process, from `/proc`.
struct Times {
    process: u32,
    parent: u32,
    ticks: u64,
}

impl Times {
    fn of(file: &Path) -> Option<Self> {
        let text = fs::read_to_string(file).ok()?;
        // The process name, in brackets, may contain any byte.
        let (process, rest) = (text.split(' ').next()?, text.rsplit_once(") ")?.1);
        let fields: Vec<_> = rest.split(' ').collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        Some(Self { process: process.parse().ok()?, parent: number(1)? as u32, ticks: number(11)? + number(12)? })
    }
}

/// Sends two requests and checks that both responses are correct and the second one is a hit.
pub fn check(candidate: &Candidate, client: &mut Client, origin: &Server) {
    let name = candidate.name;
    let mut send = || {
        let before = candidate.calls(client, origin);
        let response = client.send().expect("a response");
        assert!(response.is_right(), "{name}: unexpected response:\n{}", response.head);
        let calls = before.zip(candidate.calls(client, origin)).map(|(before, after)| after - before);
        (response.field("age").is_some(), calls)
    };
    let (first, second) = (send(), send());
    // Varnish sends `Age` with each response, nginx with none.
    let right = match candidate.evidence {
        HitEvidence::NoCache => (first, second) == ((false, Some(1)), (false, Some(1))),
        HitEvidence::NoCacheUncounted => !first.0 && !second.0,
        HitEvidence::Age => !first.0 && second.0,
        HitEvidence::OwnCalls => (first, second) == ((false, Some(1)), (true, Some(0))),
        HitEvidence::OriginCalls => (first.1, second.1) == (Some(1), Some(0)),
    };
    assert!(right, "{name}: expected a hit, but `Age` and calls were {first:?}, then {second:?}");
}
