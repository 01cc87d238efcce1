//! A client of one kept connection, and what it sends.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use tower_response_cache_cost::work;

use crate::serve::COUNT;

/// The length of every body.
pub const BODY: usize = 1 << 10;

/// The target that is asked for, and the eight fields that go with it.
pub fn asked() -> (String, Vec<(String, String)>) {
    let request = work::request(work::item());
    let field = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        (written(name.as_str()), value.to_str().expect("a field of letters").to_owned())
    };
    (request.uri().to_string(), request.headers().iter().map(field).collect())
}

/// The name of a field as browsers write it, each word with a capital letter.
fn written(name: &str) -> String {
    let word = |word: &str| [word[..1].to_ascii_uppercase(), word[1..].to_owned()].concat();
    name.split('-').map(word).collect::<Vec<_>>().join("-")
}

/// A request for this target, as it is sent.
fn request(target: &str) -> Vec<u8> {
    let fields: String = asked().1.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("GET {target} HTTP/1.1\r\n{fields}\r\n").into_bytes()
}

/// A connection that stays open.
pub struct Client {
    stream: TcpStream,
    item: Vec<u8>,
    read: Vec<u8>,
}

/// What was answered.
pub struct Answer {
    /// The status line and the fields, in small letters.
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.find(|(other, _)| *other == name).map(|(_, value)| value.trim())
    }

    /// Whether it is the item.
    pub fn is_right(&self) -> bool {
        self.head.starts_with("http/1.1 200") && self.body.len() == BODY && self.body.iter().all(|byte| *byte == b'7')
    }
}

impl Client {
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Self { stream, item: request(&asked().0), read: Vec::new() })
    }

    /// Asks for the item.
    pub fn ask(&mut self) -> io::Result<Answer> {
        self.stream.write_all(&self.item)?;
        self.answer()
    }

    /// Asks for the item so many times, one after the other.
    pub fn ask_again(&mut self, requests: u64) {
        for _ in 0..requests {
            let answer = self.ask().expect("an answer");
            assert!(answer.is_right(), "not the answer that was expected:\n{}", answer.head);
        }
    }

    /// Asks one of this program's servers how often its handler was called.
    pub fn count(&mut self) -> u64 {
        self.stream.write_all(&request(COUNT)).expect("a connection");
        let answer = self.answer().expect("an answer");
        String::from_utf8_lossy(&answer.body).parse().expect("a count")
    }

    fn answer(&mut self) -> io::Result<Answer> {
        let head = loop {
            if let Some(end) = self.read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                let head: Vec<u8> = self.read.drain(..end + 4).collect();
                break String::from_utf8_lossy(&head).to_ascii_lowercase();
            }
            self.more()?;
        };
        let mut answer = Answer { head, body: Vec::new() };
        let length = answer.field("content-length").and_then(|length| length.parse().ok());
        let length: usize = length.ok_or_else(|| io::Error::other(format!("no length in {}", answer.head)))?;
        while self.read.len() < length {
            self.more()?;
        }
        answer.body = self.read.drain(..length).collect();
        Ok(answer)
    }

    fn more(&mut self) -> io::Result<()> {
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
