//! A client with one persistent connection, and its requests.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use tower_response_cache_cost::work;

use crate::serve::COUNT;

/// The length of every body.
pub const BODY: usize = 1 << 10;

/// Returns the target and the eight fields of a request.
pub fn request_parts() -> (String, Vec<(String, String)>) {
    let request = work::request(work::item());
    let field = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        (browser_name(name.as_str()), value.to_str().expect("a text value").to_owned())
    };
    (request.uri().to_string(), request.headers().iter().map(field).collect())
}

/// Returns a field name as browsers write it, with a capital letter at the start of each word.
fn browser_name(name: &str) -> String {
    let word = |word: &str| [word[..1].to_ascii_uppercase(), word[1..].to_owned()].concat();
    name.split('-').map(word).collect::<Vec<_>>().join("-")
}

/// Returns the bytes of a request for this target.
fn request(target: &str) -> Vec<u8> {
    let fields: String = request_parts().1.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("GET {target} HTTP/1.1\r\n{fields}\r\n").into_bytes()
}

/// A persistent connection.
pub struct Client {
    stream: TcpStream,
    item: Vec<u8>,
    read: Vec<u8>,
}

/// A received response.
pub struct Response {
    /// The status line and the fields, in lower case.
    pub head: String,
    pub body: Vec<u8>,
}

impl Response {
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.find(|(other, _)| *other == name).map(|(_, value)| value.trim())
    }

    /// Returns true if it is the expected item.
    pub fn is_right(&self) -> bool {
        self.head.starts_with("http/1.1 200") && self.body.len() == BODY && self.body.iter().all(|byte| *byte == b'7')
    }
}

impl Client {
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Self { stream, item: request(&request_parts().0), read: Vec::new() })
    }

    /// Requests the item.
    pub fn send(&mut self) -> io::Result<Response> {
        self.stream.write_all(&self.item)?;
        self.response()
    }

    /// Requests the item this number of times, one after the other.
    pub fn send_repeatedly(&mut self, requests: u64) {
        for _ in 0..requests {
            let response = self.send().expect("a response");
            assert!(response.is_right(), "unexpected response:\n{}", response.head);
        }
    }

    /// Requests the number of handler calls from a server of this program.
    pub fn count(&mut self) -> u64 {
        self.stream.write_all(&request(COUNT)).expect("a connection");
        let response = self.response().expect("a response");
        String::from_utf8_lossy(&response.body).parse().expect("a count")
    }

    fn response(&mut self) -> io::Result<Response> {
        let head = loop {
            if let Some(end) = self.read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                let head: Vec<u8> = self.read.drain(..end + 4).collect();
                break String::from_utf8_lossy(&head).to_ascii_lowercase();
            }
            self.read_more()?;
        };
        let mut response = Response { head, body: Vec::new() };
        let length = response.field("content-length").and_then(|length| length.parse().ok());
        let length: usize = length.ok_or_else(|| io::Error::other(format!("no length in {}", response.head)))?;
        while self.read.len() < length {
            self.read_more()?;
        }
        response.body = self.read.drain(..length).collect();
        Ok(response)
    }

    fn read_more(&mut self) -> io::Result<()> {
        let mut room = [0; 4096];
        match self.stream.read(&mut room)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                self.read.extend_from_slice(&room[..read]);
                Ok(())
            }
        }
    }
}
