//! The simulated Redis against a real one: random commands and scripts, whose replies and pushes have to be equal.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use fastrand::Rng;
use tempfile::TempDir;
use tower_response_cache_simulation::{
    reply::encode_command,
    server::{ClientId, Identity, Server},
};

/// Sequences, each on an empty server, and the steps of each.
const SEQUENCES: u64 = 40;
const STEPS: usize = 150;

/// The client that receives pushes. It sends commands as well.
const TRACKER: usize = 0;
const CLIENTS: usize = 3;

const SCRIPTS: [&str; 11] = [
    include_str!("../../../src/redis/admit.lua"),
    include_str!("../../../src/redis/bump.lua"),
    include_str!("../../../src/redis/count.lua"),
    include_str!("../../../src/redis/fence.lua"),
    include_str!("../../../src/redis/number.lua"),
    include_str!("../../../src/redis/release.lua"),
    include_str!("../../../src/redis/replace.lua"),
    include_str!("../../../src/redis/soften.lua"),
    include_str!("../../../src/redis/unfence.lua"),
    include_str!("../../../src/redis/gather.lua"),
    include_str!("../../../src/redis/push.lua"),
];

/// Returns the members of a sorted set in order.
const MEMBERS: &str = "local all, names = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES'), {}
for index = 1, #all, 2 do names[#names + 1] = all[index] end
return names";

type Words = Vec<Vec<u8>>;

#[test]
fn simulated_server_answers_like_a_real_one() {
    let mut real = RealServer::start();
    let mut replies = 0;
    for seed in 0..SEQUENCES {
        let mut pair = Pair::new(&mut real);
        let mut generate = Generator { random: Rng::with_seed(seed), step: 0 };
        for number in 0..STEPS {
            let step = generate.step();
            pair.take(&step).unwrap_or_else(|difference| panic!("seed {seed}, step {number}: {difference}"));
        }
        replies += pair.replies;
    }
    println!("{replies} equal replies and pushes");
}

#[test]
fn changed_reply_is_noticed() {
    assert!(compare(b":1\r\n", b":0\r\n", false).is_err());
    assert!(compare(b"$1\r\na\r\n", b"_\r\n", false).is_err());
    assert!(compare(b":100000\r\n", b":200000\r\n", true).is_err());
    assert!(compare(b":100000\r\n", b":99990\r\n", true).is_ok());
}

#[test]
fn facts_about_the_server_have_the_names_of_a_real_one() {
    let mut real = RealServer::start();
    let mut pair = Pair::new(&mut real);
    let info = words(&["INFO", "server", "clients", "replication", "memory", "cluster"]);
    let (theirs, ours) = pair.both(1, std::slice::from_ref(&info));
    let [theirs, ours] = [theirs, ours].map(|reply| String::from_utf8(reply.concat()).expect("text"));
    assert!(theirs.starts_with('=') && ours.starts_with('='), "{theirs}");
    for line in ours.lines().skip(1) {
        let (name, _) = line.trim_start_matches("txt:").split_once(':').unwrap_or_default();
        assert!(theirs.contains(&format!("{name}:")), "{name} is not among {theirs}");
    }
    for line in ["role:master", "maxmemory_policy:noeviction", "cluster_enabled:0", "tracking_clients:1"] {
        assert!(theirs.contains(line) && ours.contains(line), "{line}");
    }
}

/// Commands that one client sends together, or a fault.
enum Step {
    Commands(usize, Vec<Words>),
    Flush,
    /// The life of a key ends.
    Expire(Vec<u8>),
}

struct Generator {
    random: Rng,
    step: usize,
}

fn words(words: &[&str]) -> Words {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}

impl Generator {
    fn step(&mut self) -> Step {
        self.step += 1;
        match self.random.u32(..60) {
            0 => Step::Flush,
            1..4 => Step::Expire(self.key().into_bytes()),
            _ => {
                let count = if self.random.bool() { 1 } else { self.random.usize(2..6) };
                let client = self.random.usize(..CLIENTS);
                Step::Commands(client, (0..count).map(|_| self.command()).collect())
            }
        }
    }

    fn name(&mut self) -> &'static str {
        ["{a}", "{b}", "{c:d}"][self.random.usize(..3)]
    }

    fn key_of(&mut self, kind: char) -> String {
        format!("p:1:{kind}:{}", self.name())
    }

    fn key(&mut self) -> String {
        let kind = ['g', 't', 'f', 'e', 'l'][self.random.usize(..5)];
        self.key_of(kind)
    }

    fn value(&mut self) -> String {
        let letter = ['a', 'b', 'c'][self.random.usize(..3)].to_string();
        letter.repeat([0, 1, 16, 24, 30][self.random.usize(..5)])
    }

    /// Returns a span of milliseconds. Each is longer than all before of the same order, so that no comparison depends on the time.
    fn span(&mut self) -> String {
        (100_000 * self.random.usize(1..9) + 50 * self.step).to_string()
    }

    fn token(&mut self) -> &'static str {
        ["t1", "t2", "t3"][self.random.usize(..3)]
    }

    fn command(&mut self) -> Words {
        let (key, other, value, span) = (self.key(), self.key(), self.value(), self.span());
        let [key, other, value, span] = [&*key, &*other, &*value, &*span];
        let token = self.token();
        match self.random.u32(..22) {
            0 => words(&["GET", key]),
            1 => words(&["MGET", key, other]),
            2 => words(&["SET", key, value]),
            3 => words(&["SET", key, value, "NX", "GET", "PX", span]),
            4 => words(&["SET", key, value, "NX", "PX", span]),
            5 => words(&["SET", key, value, "PX", span]),
            6 => words(&["SET", key, value, "KEEPTTL"]),
            7 => words(&["SET", key, value, "PX", "0"]),
            8 => words(&["EXISTS", key, other]),
            9 => words(&["UNLINK", key]),
            10 => words(&["PTTL", key]),
            11 => words(&["PEXPIRE", key, span, "GT"]),
            12 => words(&["PEXPIREAT", key, "1"]),
            13 => words(&["PING"]),
            14 => words(&["ZADD", key, "5", token]),
            15 => words(&["ZREM", key, token]),
            16 => {
                let (from, to) = (self.random.i32(-30..30).to_string(), self.random.i32(-30..30).to_string());
                words(&["GETRANGE", key, &from, &to])
            }
            17 => words(&["EVAL", MEMBERS, "1", key]),
            _ => self.script(),
        }
    }

    fn script(&mut self) -> Words {
        let index = self.random.usize(..SCRIPTS.len());
        let name = self.name();
        let [generation, fences, touched] = ['g', 'f', 't'].map(|kind| format!("p:1:{kind}:{name}"));
        let [generation, fences, touched] = [&*generation, &*fences, &*touched];
        let (other, value, span, token) = (self.key(), self.value(), self.span(), self.token());
        let fresh = ["x", "y"][self.random.usize(..2)].repeat(24);
        let both = self.random.bool();
        let script = SCRIPTS[index];
        let rest: Vec<&str> = match index {
            0 => vec!["2", generation, fences, &fresh, &span],
            1 => vec!["2", generation, touched],
            2 => vec!["1", "p:1:seq", "0123456789abcdef"],
            3 if both => vec!["2", fences, generation, token, &span],
            3 => vec!["1", fences, token, &span],
            4 => vec!["2", generation, fences, &fresh[..16], "0123456789abcdef:7"],
            5 => vec!["1", &other, &value, if both { "0" } else { &span }],
            6 => vec!["1", &other, &fresh[..3], &fresh, &span],
            7 if both => vec!["2", generation, touched, "ssssssss"],
            7 => vec!["1", generation, "ssssssss"],
            8 => vec!["3", fences, generation, touched, token],
            9 => vec!["2", "p:1:w", generation, if both { "7" } else { "8" }, &span, touched],
            _ if both => vec!["2", "p:1:w", "p:1:w:7", "7", &span, touched],
            _ => vec!["2", "p:1:w", "p:1:w:8", "8", &span, touched],
        };
        words(&[&["EVAL", script], &rest[..]].concat())
    }
}

/// A real server on a socket.
struct RealServer {
    process: Child,
    directory: TempDir,
}

impl RealServer {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let process = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket", "socket"])
            .current_dir(directory.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed by tests/run --install");
        Self { process, directory }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    fn connect(&mut self) -> BufReader<UnixStream> {
        loop {
            if let Ok(stream) = UnixStream::connect(self.socket()) {
                return BufReader::new(stream);
            }
            assert!(self.process.try_wait().expect("a process").is_none(), "redis-server has ended");
            std::thread::yield_now();
        }
    }
}

impl Drop for RealServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Both servers, each with the same clients.
struct Pair {
    real: Vec<BufReader<UnixStream>>,
    simulated: Server,
    ids: Vec<ClientId>,
    /// The clock of the simulated server, in microseconds.
    now: u64,
    replies: usize,
}

impl Pair {
    fn new(server: &mut RealServer) -> Self {
        let identity = Identity { run_id: "1".repeat(40), replication_id: "2".repeat(40) };
        let mut simulated = Server::new(identity);
        let ids = (0..CLIENTS).map(|_| simulated.connect()).collect();
        let real = (0..CLIENTS).map(|_| server.connect()).collect();
        let mut pair = Self { real, simulated, ids, now: 1_700_000_000_000_000, replies: 0 };
        for client in 0..CLIENTS {
            pair.both(client, &[words(&["HELLO", "3"])]);
        }
        pair.both(1, &[words(&["FLUSHALL"])]);
        let tracking = words(&["CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "p:1:t:", "PREFIX", "p:1:f:"]);
        let (theirs, ours) = pair.both(TRACKER, &[tracking, words(&["SUBSCRIBE", "p:1:pushes"])]);
        assert_eq!(theirs, ours);
        pair
    }

    /// Sends commands to both servers, and returns the replies.
    fn both(&mut self, client: usize, commands: &[Words]) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        let mut bytes = Vec::new();
        commands.iter().for_each(|command| encode_command(command, &mut bytes));
        self.real[client].get_mut().write_all(&bytes).expect("the server is there");
        let theirs = (0..commands.len()).map(|_| read_reply(&mut self.real[client])).collect();
        self.now += 1_000;
        self.simulated.set_time(self.now);
        self.simulated.receive(self.ids[client], &bytes);
        self.simulated.turn(&[self.ids[client]], true, true, |_, _, _| {});
        // The pushes to the tracking client stay there for now.
        let output = self.simulated.take_output(self.ids[client]);
        let mut rest = &output[..];
        let ours = (0..commands.len()).map(|_| read_reply(&mut rest)).collect();
        let rest = rest.to_vec();
        self.simulated.put_back(self.ids[client], rest);
        (theirs, ours)
    }

    /// Returns the pushes since the last call.
    fn pushes(&mut self) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        let ping = words(&["PING"]);
        let mut bytes = Vec::new();
        encode_command(&ping, &mut bytes);
        let id = self.ids[TRACKER];
        self.real[TRACKER].get_mut().write_all(&bytes).expect("the server is there");
        self.simulated.receive(id, &bytes);
        self.simulated.turn(&[id], true, true, |_, _, _| {});
        let output = self.simulated.take_output(id);
        (until_pong(&mut self.real[TRACKER]), until_pong(&mut &output[..]))
    }

    fn take(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Commands(client, commands) => {
                let (theirs, ours) = self.both(*client, commands);
                for ((command, theirs), ours) in commands.iter().zip(&theirs).zip(&ours) {
                    let text: Vec<String> = command.iter().map(|word| word.escape_ascii().to_string()).collect();
                    compare(theirs, ours, command[0] == b"PTTL").map_err(|error| format!("{}: {error}", text.join(" ")))?;
                }
                self.replies += theirs.len();
            }
            Step::Flush => {
                self.real_only(words(&["FLUSHALL"]));
                self.simulated.flush();
            }
            Step::Expire(key) => {
                let key = || key.clone();
                let short = vec![b"PEXPIRE".to_vec(), key(), b"1".to_vec()];
                let (theirs, ours) = self.both(1, &[short]);
                assert_eq!(theirs, ours);
                while theirs[0] == b":1\r\n" && self.real_only(vec![b"EXISTS".to_vec(), key()]) == b":1\r\n" {}
                self.now += 5_000;
            }
        }
        // An expired key of the simulated server ends in a turn.
        self.simulated.set_time(self.now);
        self.simulated.turn(&[], true, true, |_, _, _| {});
        let (theirs, ours) = self.pushes();
        self.replies += theirs.len();
        if theirs == ours { Ok(()) } else { Err(format!("real pushes: {}\nsimulated pushes: {}", show(&theirs), show(&ours))) }
    }

    fn real_only(&mut self, command: Words) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode_command(&command, &mut bytes);
        self.real[1].get_mut().write_all(&bytes).expect("the server is there");
        read_reply(&mut self.real[1])
    }
}

fn show(replies: &[Vec<u8>]) -> String {
    replies.iter().map(|reply| reply.escape_ascii().to_string()).collect::<Vec<_>>().join(" ")
}

/// Compares replies: times to live by their order of size, errors by their first word, all others exactly.
fn compare(theirs: &[u8], ours: &[u8], is_time: bool) -> Result<(), String> {
    let number = |reply: &[u8]| String::from_utf8_lossy(&reply[1..]).trim().parse::<i64>().unwrap_or(0);
    let word = |reply: &[u8]| reply.split(|byte| byte.is_ascii_whitespace()).next().map(<[u8]>::to_vec);
    let equal = match (theirs[0], ours[0]) {
        (b'-', b'-') => word(theirs) == word(ours),
        (b':', b':') if is_time && number(theirs) > 0 => (number(theirs) - number(ours)).abs() < 45_000,
        _ => theirs == ours,
    };
    if equal { Ok(()) } else { Err(format!("real {}, simulated {}", theirs.escape_ascii(), ours.escape_ascii())) }
}

fn until_pong(stream: &mut impl BufRead) -> Vec<Vec<u8>> {
    std::iter::repeat_with(|| read_reply(stream)).take_while(|reply| reply != b"+PONG\r\n").collect()
}

/// Reads one reply.
fn read_reply(stream: &mut impl BufRead) -> Vec<u8> {
    let mut reply = Vec::new();
    stream.read_until(b'\n', &mut reply).expect("a reply");
    assert!(reply.ends_with(b"\r\n"), "the stream has ended: {}", reply.escape_ascii());
    let count = || String::from_utf8_lossy(&reply[1..]).trim().parse::<usize>();
    match (reply[0], count()) {
        (b'$' | b'=' | b'!', Ok(length)) => {
            let mut content = vec![0; length + 2];
            stream.read_exact(&mut content).expect("a reply");
            reply.extend(content);
        }
        (b'*' | b'>' | b'~', Ok(items)) => (0..items).for_each(|_| reply.extend(read_reply(stream))),
        (b'%', Ok(pairs)) => (0..2 * pairs).for_each(|_| reply.extend(read_reply(stream))),
        _ => {}
    }
    reply
}
