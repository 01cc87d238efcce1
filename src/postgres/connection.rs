//! A connection to a server: sign-in, queries, and the stream of a replication.

use std::{io, sync::Arc, time::Duration};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::{
    authentication::{
        md5_hash,
        sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256},
    },
    message::{
        backend::{DataRowBody, ErrorFields, Header, Message},
        frontend,
    },
};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

#[cfg(unix)]
use tokio::net::UnixStream;

use super::{
    error::{PostgresError, PostgresErrorKind},
    lsn::Lsn,
    url::{Host, Target, Tls},
};
use crate::tls::{Verification, client_config};

/// The longest time of a query. Only the creation of a slot may take longer.
const QUERY_TIMEOUT: Duration = Duration::from_secs(30);

/// The time for the server to end a connection.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest message of a server before the sign-in, as in libpq. Its length is not trusted yet.
const LONGEST_BEFORE_SIGN_IN: i32 = 30_000;

/// The number of bytes that are read at once.
const READ: usize = 64 << 10;

trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for S {}

/// A connection that is signed in.
pub(super) struct Connection {
    stream: Box<dyn Stream>,
    /// Bytes that were read and not yet used.
    read: BytesMut,
    write: BytesMut,
    /// The longest message that is read.
    longest: i32,
}

/// A row of a query, as text.
pub(super) type Row = Vec<Option<String>>;

/// A part of the stream of a replication.
pub(super) enum Part {
    /// A message of the output plugin.
    Data(Bytes),
    /// The server has sent all changes up to `end`.
    Alive { end: Lsn, wants_reply: bool },
}

impl Connection {
    /// Connects and signs in. A connection for replication can do all that another one can, and stream.
    pub(super) async fn open(target: &Target, for_replication: bool) -> Result<Self, PostgresError> {
        let opened = timeout(target.connect_timeout, Self::open_now(target, for_replication));
        let opened = opened.await.unwrap_or_else(|_| Err(broken(&io::ErrorKind::TimedOut.into())));
        opened.map_err(|error| error.during(format_args!("no connection to PostgreSQL at {target}")))
    }

    async fn open_now(target: &Target, for_replication: bool) -> Result<Self, PostgresError> {
        let stream: Box<dyn Stream> = match &target.host {
            Host::Tcp(host) => {
                let stream = TcpStream::connect((&**host, target.port)).await.map_err(|error| broken(&error))?;
                stream.set_nodelay(true).map_err(|error| broken(&error))?;
                encrypted(stream, host, target).await?
            }
            #[cfg(unix)]
            Host::Unix(folder) => {
                let path = folder.join(format!(".s.PGSQL.{}", target.port));
                Box::new(UnixStream::connect(path).await.map_err(|error| broken(&error))?)
            }
            #[cfg(not(unix))]
            Host::Unix(_) => return Err(PostgresError::new(PostgresErrorKind::Url, "this system has no Unix sockets")),
        };
        let mut connection = Self { stream, read: BytesMut::new(), write: BytesMut::new(), longest: LONGEST_BEFORE_SIGN_IN };
        connection.sign_in(target, for_replication).await?;
        Ok(connection)
    }

    async fn sign_in(&mut self, target: &Target, for_replication: bool) -> Result<(), PostgresError> {
        let mut parameters = vec![
            ("user", &*target.user),
            ("database", &*target.database),
            ("application_name", &*target.application),
            ("client_encoding", "UTF8"),
        ];
        if for_replication {
            parameters.push(("replication", "database"));
        }
        frontend::startup_message(parameters, &mut self.write).map_err(|error| broken(&error))?;
        let password = target.password.as_deref();
        loop {
            match self.message().await? {
                Message::AuthenticationOk | Message::BackendKeyData(_) => {}
                Message::ReadyForQuery(_) => {
                    self.longest = i32::MAX;
                    return Ok(());
                }
                Message::AuthenticationCleartextPassword => self.answer_password(password_of(password)?)?,
                Message::AuthenticationMd5Password(body) => {
                    let hash = md5_hash(target.user.as_bytes(), password_of(password)?, body.salt());
                    self.answer_password(hash.as_bytes())?;
                }
                Message::AuthenticationSasl(body) => {
                    let mechanisms = body.mechanisms().collect::<Vec<_>>().map_err(|error| broken(&error))?;
                    if !mechanisms.contains(&SCRAM_SHA_256) {
                        return Err(PostgresError::new(
                            PostgresErrorKind::SignIn,
                            format!(
                                "the server wants a sign-in by {}: expected {SCRAM_SHA_256}, MD5 or a password",
                                mechanisms.join(", ")
                            ),
                        ));
                    }
                    self.scram(password_of(password)?).await?;
                }
                _ => {
                    let text = "the server wants a sign-in that is not supported: expected SCRAM-SHA-256, MD5, a password or a certificate";
                    return Err(PostgresError::new(PostgresErrorKind::SignIn, text));
                }
            }
        }
    }

    fn answer_password(&mut self, password: &[u8]) -> Result<(), PostgresError> {
        frontend::password_message(password, &mut self.write).map_err(|error| broken(&error))
    }

    async fn scram(&mut self, password: &[u8]) -> Result<(), PostgresError> {
        let failed =
            |error: io::Error| PostgresError::new(PostgresErrorKind::SignIn, format!("sign-in by SCRAM failed: {error}"));
        let mut scram = ScramSha256::new(password, ChannelBinding::unsupported());
        frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), &mut self.write).map_err(failed)?;
        loop {
            match self.message().await? {
                Message::AuthenticationSaslContinue(body) => {
                    scram.update(body.data()).map_err(failed)?;
                    frontend::sasl_response(scram.message(), &mut self.write).map_err(failed)?;
                }
                Message::AuthenticationSaslFinal(body) => return scram.finish(body.data()).map_err(failed),
                _ => return Err(PostgresError::protocol("expected the next step of SCRAM")),
            }
        }
    }

    /// Runs statements and returns the rows of all of them.
    pub(super) async fn query(&mut self, sql: &str) -> Result<Vec<Row>, PostgresError> {
        let late = || Err(broken(&io::ErrorKind::TimedOut.into()));
        timeout(QUERY_TIMEOUT, self.query_patiently(sql)).await.unwrap_or_else(|_| late())
    }

    /// Runs statements without a limit of time.
    pub(super) async fn query_patiently(&mut self, sql: &str) -> Result<Vec<Row>, PostgresError> {
        frontend::query(sql, &mut self.write).map_err(|error| broken(&error))?;
        let (mut rows, mut failed) = (Vec::new(), None);
        loop {
            match self.any_message().await? {
                Message::DataRow(body) => rows.push(row_of(&body)?),
                // The server is ready for the next query after an error.
                Message::ErrorResponse(body) => failed = Some(server_error(&mut body.fields())),
                Message::ReadyForQuery(_) => return failed.map_or(Ok(rows), Err),
                _ => {}
            }
        }
    }

    /// Begins to stream changes from the position that the slot has confirmed.
    pub(super) async fn start_replication(&mut self, slot: &str, publication: &str) -> Result<(), PostgresError> {
        let (slot, publication) = (quoted_name(slot), replication_text(&quoted_name(publication)));
        let command = format!("START_REPLICATION SLOT {slot} LOGICAL 0/0 (proto_version '1', publication_names {publication})");
        frontend::query(&command, &mut self.write).map_err(|error| broken(&error))?;
        loop {
            self.send().await?;
            // `Message` does not know this one: CopyBothResponse.
            if let (Some(b'W'), Some(header)) = (self.read.first(), Header::parse(&self.read).map_err(|error| broken(&error))?)
            {
                let len = 1 + usize::try_from(header.len()).unwrap_or_default();
                if self.read.len() >= len {
                    self.read.advance(len);
                    return Ok(());
                }
            } else if let Some(message) = self.parse()? {
                if let Message::ErrorResponse(body) = message {
                    return Err(server_error(&mut body.fields()));
                }
                continue;
            }
            self.fill().await?;
        }
    }

    /// Returns the next part of the stream. It can be dropped at any time.
    pub(super) async fn part(&mut self) -> Result<Part, PostgresError> {
        loop {
            match self.message().await? {
                Message::CopyData(body) => match read_part(body.into_bytes()) {
                    Some(part) => return Ok(part),
                    None => return Err(PostgresError::protocol("a part of the stream is too short")),
                },
                Message::CopyDone => {
                    return Err(PostgresError::new(PostgresErrorKind::Connection, "the server has ended the stream"));
                }
                _ => {}
            }
        }
    }

    /// Returns true if a whole message has been read and not yet used.
    pub(super) fn has_more(&self) -> bool {
        let header = Header::parse(&self.read).ok().flatten();
        header.is_some_and(|header| usize::try_from(header.len()).is_ok_and(|len| self.read.len() > len))
    }

    /// Confirms all changes up to a position. The server replies with [`Part::Alive`] if it is asked to.
    pub(super) async fn confirm(&mut self, up_to: Lsn, wants_reply: bool) -> Result<(), PostgresError> {
        self.write.put_u8(b'd');
        self.write.put_u32(4 + 34);
        self.write.put_u8(b'r');
        // Written, flushed and applied.
        [up_to; 3].iter().for_each(|lsn| self.write.put_u64(lsn.0));
        // The time, which is for information only.
        self.write.put_i64(0);
        self.write.put_u8(wants_reply.into());
        timeout(QUERY_TIMEOUT, self.send()).await.unwrap_or_else(|_| Err(broken(&io::ErrorKind::TimedOut.into())))
    }

    /// Ends the connection, and waits until the server has ended it, too. A slot is free after that.
    pub(super) async fn close(mut self) {
        frontend::terminate(&mut self.write);
        let closed = async {
            self.send().await?;
            loop {
                self.fill().await?;
                self.read.clear();
            }
        };
        let _: Result<Result<(), PostgresError>, _> = timeout(CLOSE_TIMEOUT, closed).await;
    }

    /// Returns the next message. An error of the server is an error.
    async fn message(&mut self) -> Result<Message, PostgresError> {
        loop {
            match self.any_message().await? {
                Message::ErrorResponse(body) => return Err(server_error(&mut body.fields())),
                Message::NoticeResponse(_) | Message::ParameterStatus(_) => {}
                message => return Ok(message),
            }
        }
    }

    async fn any_message(&mut self) -> Result<Message, PostgresError> {
        self.send().await?;
        loop {
            if let Some(message) = self.parse()? {
                return Ok(message);
            }
            self.fill().await?;
        }
    }

    fn parse(&mut self) -> Result<Option<Message>, PostgresError> {
        let invalid = |error| PostgresError::protocol(format!("invalid message of the server: {error}"));
        match Header::parse(&self.read).map_err(invalid)? {
            Some(header) if header.len() > self.longest => Err(PostgresError::protocol(format!(
                "the server sends a message of {} bytes before the sign-in has ended: expected at most {}",
                header.len(),
                self.longest
            ))),
            _ => Message::parse(&mut self.read).map_err(invalid),
        }
    }

    async fn fill(&mut self) -> Result<(), PostgresError> {
        self.read.reserve(READ);
        match self.stream.read_buf(&mut self.read).await {
            Ok(0) => Err(PostgresError::new(PostgresErrorKind::Connection, "the server has closed the connection")),
            Ok(_) => Ok(()),
            Err(error) => Err(broken(&error)),
        }
    }

    /// Sends the bytes that were written before. If the future is dropped, the next call sends the rest.
    async fn send(&mut self) -> Result<(), PostgresError> {
        while self.write.has_remaining() {
            self.stream.write_buf(&mut self.write).await.map_err(|error| broken(&error))?;
        }
        self.stream.flush().await.map_err(|error| broken(&error))
    }
}

/// Begins TLS, as the URL says.
async fn encrypted(mut stream: TcpStream, host: &str, target: &Target) -> Result<Box<dyn Stream>, PostgresError> {
    let verification = match target.tls {
        Tls::Disabled => return Ok(Box::new(stream)),
        Tls::Preferred => Verification::None,
        Tls::Required(verification) => verification,
    };
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await.map_err(|error| broken(&error))?;
    // Nothing else is read before TLS: an attacker might have put it there (CVE-2021-23222).
    let answer = stream.read_u8().await.map_err(|error| broken(&error))?;
    if answer != b'S' {
        return match target.tls {
            Tls::Required(_) => {
                Err(PostgresError::new(PostgresErrorKind::Connection, "the server has no TLS, and the URL requires it"))
            }
            _ => Ok(Box::new(stream)),
        };
    }
    let config =
        client_config(&target.certificates, verification).map_err(|text| PostgresError::new(PostgresErrorKind::Url, text))?;
    let name = ServerName::try_from(host.to_owned());
    let name = name.map_err(|_| PostgresError::new(PostgresErrorKind::Url, format!("the host {host:?} is no name for TLS")))?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|error| broken(&error))?;
    Ok(Box::new(stream))
}

fn read_part(mut bytes: Bytes) -> Option<Part> {
    match bytes.try_get_u8().ok()? {
        b'w' => {
            // The position of the data, the end of the log, and the time.
            (bytes.len() >= 24).then(|| bytes.advance(24))?;
            Some(Part::Data(bytes))
        }
        b'k' => {
            let end = Lsn(bytes.try_get_u64().ok()?);
            (bytes.len() >= 9).then(|| bytes.advance(8))?;
            Some(Part::Alive { end, wants_reply: bytes.try_get_u8().ok()? == 1 })
        }
        _ => None,
    }
}

fn row_of(body: &DataRowBody) -> Result<Row, PostgresError> {
    let bytes = body.buffer();
    let value = |range: Option<std::ops::Range<usize>>| range.map(|range| String::from_utf8_lossy(&bytes[range]).into_owned());
    body.ranges().map(|range| Ok(value(range))).collect().map_err(|error| broken(&error))
}

fn password_of(password: Option<&str>) -> Result<&[u8], PostgresError> {
    let missing = || PostgresError::new(PostgresErrorKind::SignIn, "the server wants a password, and the URL has none");
    password.map(str::as_bytes).ok_or_else(missing)
}

fn server_error(fields: &mut ErrorFields<'_>) -> PostgresError {
    let (mut code, mut message, mut hint) = (String::new(), String::new(), None);
    while let Ok(Some(field)) = fields.next() {
        let text = String::from_utf8_lossy(field.value_bytes()).into_owned();
        match field.type_() {
            b'C' => code = text,
            b'M' => message = text,
            b'H' => hint = Some(text),
            _ => {}
        }
    }
    PostgresError::of_server(&code, &message, hint.as_deref())
}

fn broken(error: &io::Error) -> PostgresError {
    PostgresError::new(PostgresErrorKind::Connection, error.to_string())
}

/// Writes a name for a statement.
pub(super) fn quoted_name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Writes a text for a statement.
pub(super) fn quoted_text(text: &str) -> String {
    postgres_protocol::escape::escape_literal(text)
}

/// Writes a text for a replication command, where a backslash means itself.
fn replication_text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_the_stream_are_read() {
        let mut data = vec![b'w'];
        data.extend([0; 24]);
        data.extend(b"C...");
        assert!(matches!(read_part(data.clone().into()), Some(Part::Data(bytes)) if bytes == b"C..."[..]));
        assert!(read_part(Bytes::copy_from_slice(&data[..20])).is_none());
        let alive = [&b"k\0\0\0\x01\0\0\0\x02"[..], &[0; 8], &[1]].concat();
        let part = read_part(alive.clone().into());
        assert!(matches!(part, Some(Part::Alive { end: Lsn(0x1_0000_0002), wants_reply: true })));
        assert!(read_part(Bytes::copy_from_slice(&alive[..17])).is_none() && read_part(Bytes::new()).is_none());
    }

    #[test]
    fn names_and_texts_are_quoted() {
        assert_eq!((quoted_name("a\"b"), quoted_text("it's")), ("\"a\"\"b\"".to_owned(), "'it''s'".to_owned()));
        assert_eq!((quoted_text("a\\b"), replication_text("it's a\\b")), (" E'a\\\\b'".to_owned(), "'it''s a\\b'".to_owned()));
    }
}
