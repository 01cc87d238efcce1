//! The wire: the proxy as a process, an origin with a script, and a client. Both exchange bytes with the proxy.

use std::{
    collections::VecDeque,
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};

use crate::program::program;

/// The longest time that a test waits for a response.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running proxy. It ends with the test.
pub struct Proxy {
    pub address: String,
    _process: Child,
}

impl Proxy {
    pub async fn start(origin: &str, flags: &[&str]) -> Self {
        Self::listening(Self::spawn(origin, flags, Stdio::null())).await
    }

    /// Starts a proxy, and reads the first line of its standard error.
    pub async fn start_with_stderr(origin: &str, flags: &[&str]) -> (Self, String) {
        let mut process = Self::spawn(origin, flags, Stdio::piped());
        let mut lines = BufReader::new(process.stderr.take().expect("its complaints are read")).lines();
        let proxy = Self::listening(process).await;
        let line = timeout(PATIENCE, lines.next_line()).await.expect("in time").expect("a line").expect("a line");
        (proxy, line)
    }

    fn spawn(origin: &str, flags: &[&str], complaints: Stdio) -> Child {
        let mut command = Command::new(program());
        command.args(["--listen", "127.0.0.1:0", "--origin", &format!("http://{origin}")]).args(flags);
        command.stdout(Stdio::piped()).stderr(complaints).kill_on_drop(true).spawn().expect("the proxy starts")
    }

    async fn listening(mut process: Child) -> Self {
        let mut lines = BufReader::new(process.stdout.take().expect("its output is read")).lines();
        let line = timeout(PATIENCE, lines.next_line()).await.expect("in time").expect("a line").expect("a line");
        let address = line.strip_prefix("listening on ").expect("its first line says where").to_owned();
        Self { address, _process: process }
    }

    /// Sends a request in the form of [`request`], and reads the complete response.
    pub async fn send(&self, text: &str) -> ReceivedResponse {
        let mut client = Client::connect(&self.address).await;
        client.write(&request(text)).await;
        ReceivedResponse::read(&client.rest().await, text.starts_with("HEAD "))
    }
}

/// A client connection.
pub struct Client(TcpStream);

impl Client {
    pub async fn connect(address: &str) -> Self {
        Self(TcpStream::connect(address).await.expect("somebody listens"))
    }

    pub async fn write(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.expect("the other end reads");
    }

    /// Reads until the text ends with `end`, and returns it.
    pub async fn until(&mut self, end: &str) -> String {
        let mut got = Vec::new();
        let reading = async {
            while !got.ends_with(end.as_bytes()) {
                match self.0.read_u8().await {
                    Ok(byte) => got.push(byte),
                    Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&got)),
                }
            }
        };
        if timeout(PATIENCE, reading).await.is_err() {
            panic!("{end:?} does not come, only {:?}", String::from_utf8_lossy(&got));
        }
        String::from_utf8(got).expect("text")
    }

    /// Closes the sending half of the connection.
    pub async fn finish(&mut self) {
        self.0.shutdown().await.expect("the connection is open");
    }

    /// Reads to the end of the connection.
    pub async fn rest(&mut self) -> Vec<u8> {
        let mut got = Vec::new();
        let read = timeout(PATIENCE, self.0.read_to_end(&mut got)).await;
        // A reset connection has ended as well.
        let _ = read.expect("the connection ends");
        got
    }
}

/// Returns the bytes of a request from `GET /x`, lines of fields, an empty line and the content. Adds `Host` and `Connection: close` unless
/// the text has them.
pub fn request(text: &str) -> Vec<u8> {
    let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
    let mut lines = head.lines();
    let first = lines.next().expect("a request line");
    let mut out = if first.contains(" HTTP/") { format!("{first}\r\n") } else { format!("{first} HTTP/1.1\r\n") };
    let has = |name: &str| head.to_ascii_lowercase().contains(&format!("\n{name}:"));
    if !has("host") {
        out.push_str("host: a.test\r\n");
    }
    if !has("connection") {
        out.push_str("connection: close\r\n");
    }
    if !body.is_empty() && !has("transfer-encoding") {
        out.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    lines.for_each(|line| out.push_str(&format!("{line}\r\n")));
    format!("{out}\r\n{body}").into_bytes()
}

/// A response that a client has received.
#[derive(Debug)]
pub struct ReceivedResponse {
    pub interim: Vec<(u16, Fields)>,
    pub status: u16,
    pub fields: Fields,
    /// The content, without its framing.
    pub body: Vec<u8>,
    pub trailers: Fields,
    /// The end that the framing announces was reached.
    pub complete: bool,
}

/// Names in lower case, and values.
pub type Fields = Vec<(String, String)>;

impl ReceivedResponse {
    fn read(bytes: &[u8], head: bool) -> Self {
        let mut rest = bytes;
        let mut interim = Vec::new();
        loop {
            let (status, fields, after) = read_head(rest);
            rest = after;
            if status >= 200 || status == 101 {
                let bodiless = head || status == 304 || status == 204 || status == 101;
                let (body, trailers, complete) =
                    if bodiless { (rest.to_vec(), Vec::new(), true) } else { read_body(&fields, rest) };
                return Self { interim, status, fields, body, trailers, complete };
            }
            interim.push((status, fields));
        }
    }

    /// Returns the lines of a field, joined, or `-` if there is none.
    pub fn field(&self, name: &str) -> String {
        joined(&self.fields, name)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Returns one word from the proxy's member of `Cache-Status`: `hit`, or the value of `fwd=`.
    pub fn outcome(&self) -> String {
        let line = self.field("cache-status");
        let own = line.split(", ").find(|member| member.starts_with("tower-response-cache")).unwrap_or_default().to_owned();
        let mut words = own.split("; ").skip(1);
        match words.next() {
            Some(word) => word.strip_prefix("fwd=").unwrap_or(word).to_owned(),
            None => "-".to_owned(),
        }
    }
}

pub fn joined(fields: &Fields, name: &str) -> String {
    let lines: Vec<&str> = fields.iter().filter(|(other, _)| other == name).map(|(_, value)| value.as_str()).collect();
    if lines.is_empty() { "-".into() } else { lines.join(", ") }
}

fn read_head(bytes: &[u8]) -> (u16, Fields, &[u8]) {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("no head in {:?}", String::from_utf8_lossy(bytes)));
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status line");
    (status, read_fields(&head), &bytes[end + 4..])
}

fn read_fields(head: &str) -> Fields {
    let pair = |line: &str| line.split_once(':').map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()));
    head.split("\r\n").skip(1).filter_map(pair).collect()
}

fn read_body(fields: &Fields, bytes: &[u8]) -> (Vec<u8>, Fields, bool) {
    if joined(fields, "transfer-encoding") == "chunked" {
        return read_chunks(bytes);
    }
    let length: Option<usize> = joined(fields, "content-length").parse().ok();
    (bytes.to_vec(), Vec::new(), length.is_none_or(|length| length == bytes.len()))
}

fn read_chunks(mut rest: &[u8]) -> (Vec<u8>, Fields, bool) {
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|window| window == b"\r\n") {
        let size = usize::from_str_radix(&String::from_utf8_lossy(&rest[..end]), 16).expect("the size of a chunk");
        rest = &rest[end + 2..];
        if size == 0 {
            let trailers = read_fields(&format!("\r\n{}", String::from_utf8_lossy(rest)));
            return (body, trailers, rest.ends_with(b"\r\n"));
        }
        if rest.len() < size + 2 {
            break;
        }
        body.extend_from_slice(&rest[..size]);
        rest = &rest[size + 2..];
    }
    (body, Vec::new(), false)
}

/// A request that the origin has received.
#[derive(Clone, Debug)]
pub struct ReceivedRequest {
    pub fields: Fields,
    pub body: Vec<u8>,
}

/// A reaction of the origin to a request.
pub enum Reaction {
    /// Writes the bytes and keeps the connection open.
    Whole(Vec<u8>),
    /// Writes the bytes and closes the connection.
    Then(Vec<u8>),
    /// Writes each chunk when it arrives, and closes the connection at the end.
    Live(mpsc::UnboundedReceiver<Vec<u8>>),
    /// Writes the bytes, and then echoes everything it receives.
    Echo(Vec<u8>),
}

/// Returns the bytes of a response from `200`, lines of fields, an empty line and the content.
pub fn response(text: &str) -> Vec<u8> {
    let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
    let mut lines = head.lines();
    let status = lines.next().expect("a status");
    let mut out = format!("HTTP/1.1 {status} Said\r\n");
    let head = head.to_ascii_lowercase();
    let framed = head.contains("\ncontent-length:") || head.contains("\ntransfer-encoding:");
    if !framed && !["204", "304"].contains(&status) {
        out.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    lines.for_each(|line| out.push_str(&format!("{line}\r\n")));
    format!("{out}\r\n{body}").into_bytes()
}

/// An origin that follows a script and records its requests.
pub struct Origin {
    pub address: String,
    script: Arc<Mutex<Script>>,
    server: JoinHandle<()>,
}

#[derive(Default)]
struct Script {
    says: VecDeque<Reaction>,
    asked: Vec<ReceivedRequest>,
    /// Receives each request head before the content arrives.
    heads: Option<mpsc::UnboundedSender<ReceivedRequest>>,
    /// Receives each chunk of content.
    pieces: Option<mpsc::UnboundedSender<Vec<u8>>>,
}

impl Origin {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        let script: Arc<Mutex<Script>> = Arc::default();
        let server = tokio::spawn({
            let script = script.clone();
            async move {
                let mut connections = tokio::task::JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    connections.spawn(serve(stream, script.clone()));
                }
            }
        });
        Self { address, script, server }
    }

    /// Adds the reaction to a further request.
    pub fn then(&self, says: Reaction) {
        self.script.lock().expect("not poisoned").says.push_back(says);
    }

    /// Clears the script and the record, and returns the record.
    pub fn take_requests(&self) -> Vec<ReceivedRequest> {
        let mut script = self.script.lock().expect("not poisoned");
        script.says.clear();
        std::mem::take(&mut script.asked)
    }

    /// Returns a channel of request heads.
    pub fn heads(&self) -> mpsc::UnboundedReceiver<ReceivedRequest> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.script.lock().expect("not poisoned").heads = Some(sender);
        receiver
    }

    /// Returns a channel of request content.
    pub fn pieces(&self) -> mpsc::UnboundedReceiver<Vec<u8>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.script.lock().expect("not poisoned").pieces = Some(sender);
        receiver
    }

    /// Stops the origin and closes its connections.
    pub async fn stop(self) {
        self.server.abort();
        let _ = self.server.await;
    }
}

async fn serve(mut stream: TcpStream, script: Arc<Mutex<Script>>) {
    while let Some(fields) = read_request_head(&mut stream).await {
        let mut asked = ReceivedRequest { fields, body: Vec::new() };
        let (says, heads, pieces) = {
            let mut script = script.lock().expect("not poisoned");
            (script.says.pop_front(), script.heads.clone(), script.pieces.clone())
        };
        if let Some(heads) = heads {
            let _ = heads.send(asked.clone());
        }
        asked.body = read_content(&mut stream, &asked.fields, pieces).await;
        script.lock().expect("not poisoned").asked.push(asked);
        let says = says.unwrap_or_else(|| Reaction::Whole(response("599\n\nnot to be asked")));
        let closes = !matches!(says, Reaction::Whole(_));
        match says {
            Reaction::Whole(bytes) | Reaction::Then(bytes) => drop(stream.write_all(&bytes).await),
            Reaction::Live(mut pieces) => {
                while let Some(piece) = pieces.recv().await {
                    drop(stream.write_all(&piece).await);
                }
            }
            Reaction::Echo(bytes) => {
                drop(stream.write_all(&bytes).await);
                let (mut from, mut to) = stream.split();
                drop(tokio::io::copy(&mut from, &mut to).await);
            }
        }
        if closes {
            return;
        }
    }
}

async fn read_request_head(stream: &mut TcpStream) -> Option<Fields> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).expect("text");
    Some(read_fields(&head))
}

/// Reads the content as it is framed. Chunked content keeps its chunk sizes.
async fn read_content(stream: &mut TcpStream, fields: &Fields, pieces: Option<mpsc::UnboundedSender<Vec<u8>>>) -> Vec<u8> {
    let chunked = joined(fields, "transfer-encoding") == "chunked";
    let length: usize = joined(fields, "content-length").parse().unwrap_or(0);
    let mut body = Vec::new();
    let mut buffer = [0; 4096];
    while if chunked { !body.ends_with(b"0\r\n\r\n") } else { body.len() < length } {
        let count = stream.read(&mut buffer).await.unwrap_or(0);
        if count == 0 {
            break;
        }
        body.extend_from_slice(&buffer[..count]);
        if let Some(pieces) = &pieces {
            let _ = pieces.send(buffer[..count].to_vec());
        }
    }
    body
}
