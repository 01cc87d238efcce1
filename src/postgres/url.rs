//! The URL of a server.

use std::{fmt, fs, path::PathBuf, time::Duration};

use percent_encoding::percent_decode_str;

use super::error::{PostgresError, PostgresErrorKind};
use crate::tls::{Certificates, Verification};

/// A server: its address, the sign-in and the configuration of TLS.
#[derive(Clone, Default)]
pub(super) struct Target {
    pub(super) host: Host,
    pub(super) port: u16,
    pub(super) user: String,
    pub(super) password: Option<String>,
    pub(super) database: String,
    pub(super) application: String,
    pub(super) tls: Tls,
    pub(super) certificates: Certificates,
    pub(super) connect_timeout: Duration,
}

/// The way to a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Host {
    Tcp(String),
    /// The folder of a Unix socket.
    Unix(PathBuf),
}

impl Default for Host {
    fn default() -> Self {
        Self::Tcp("localhost".into())
    }
}

/// The use of TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Tls {
    Disabled,
    /// TLS without a check, if the server has it.
    #[default]
    Preferred,
    Required(Verification),
}

/// The default time for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

impl Target {
    /// Reads a URL of the form `postgres://[user[:password]@][host][:port][/database][?name=value&…]`.
    pub(super) fn parse(url: &str) -> Result<Self, PostgresError> {
        let rest = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://"));
        let rest = rest.ok_or_else(|| invalid("another scheme"))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (server, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (sign_in, address) = server.rsplit_once('@').unwrap_or(("", server));
        let (user, password) = sign_in.split_once(':').map_or((sign_in, None), |(user, password)| (user, Some(password)));
        let mut target = Self {
            port: 5432,
            user: decoded(user, "the user")?,
            password: password.map(|password| decoded(password, "the password")).transpose()?,
            database: decoded(database, "the database")?,
            application: env!("CARGO_PKG_NAME").into(),
            connect_timeout: CONNECT_TIMEOUT,
            ..Self::default()
        };
        target.set_address(address)?;
        let (mut mode, mut system_roots) = (None, false);
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            // A password with an unencoded `?` has its rest here, and is not shown.
            if !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') {
                return Err(invalid("a parameter whose name has other characters than `a`–`z` and `_`"));
            }
            target.set(name, decoded(value, name)?, (&mut mode, &mut system_roots))?;
        }
        match mode.as_deref() {
            None if system_roots => mode = Some("verify-full".into()),
            // As libpq: the authorities would not be asked, or any holder of a certificate would be trusted.
            Some(other) if system_roots && other != "verify-full" => {
                return Err(invalid("sslrootcert=system with another sslmode than verify-full"));
            }
            _ => {}
        }
        target.tls = tls(mode.as_deref(), target.certificates.roots.is_some())?;
        if target.user.is_empty() {
            return Err(invalid("no user"));
        }
        if target.database.is_empty() {
            target.database.clone_from(&target.user);
        }
        Ok(target)
    }

    fn set_address(&mut self, address: &str) -> Result<(), PostgresError> {
        if address.contains(',') {
            return Err(invalid("several hosts"));
        }
        // The colons of an IPv6 address stand in brackets.
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(port)),
            _ => (address, None),
        };
        if !host.is_empty() {
            let host = decoded(host, "the host")?;
            self.set_host(host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&host));
        }
        port.filter(|port| !port.is_empty()).map_or(Ok(()), |port| self.set_port(port))
    }

    fn set_host(&mut self, host: &str) {
        self.host = if host.starts_with('/') { Host::Unix(host.into()) } else { Host::Tcp(host.into()) };
    }

    fn set_port(&mut self, port: &str) -> Result<(), PostgresError> {
        self.port = port.parse().map_err(|_| invalid("a port that is not a number up to 65535"))?;
        Ok(())
    }

    fn set(
        &mut self,
        name: &str,
        value: String,
        (mode, system_roots): (&mut Option<String>, &mut bool),
    ) -> Result<(), PostgresError> {
        match name {
            "host" => self.set_host(&value),
            "port" => self.set_port(&value)?,
            "user" => self.user = value,
            "password" => self.password = Some(value),
            "dbname" => self.database = value,
            "application_name" => self.application = value,
            "connect_timeout" => {
                let seconds = value.parse().map_err(|_| invalid("a connect_timeout that is not a number of seconds"))?;
                self.connect_timeout = Duration::from_secs(seconds);
            }
            "sslmode" => *mode = Some(value),
            // The authorities of the system are the default here.
            "sslrootcert" if value == "system" => *system_roots = true,
            "sslrootcert" => self.certificates.roots = Some(file(name, &value)?),
            "sslcert" => self.client().0 = file(name, &value)?,
            "sslkey" => self.client().1 = file(name, &value)?,
            _ => {
                let known = "host, port, user, password, dbname, application_name, connect_timeout, sslmode, sslrootcert, sslcert, sslkey";
                return Err(invalid(&format!("the unknown parameter {name:?} (known are {known})")));
            }
        }
        Ok(())
    }

    fn client(&mut self) -> &mut (Vec<u8>, Vec<u8>) {
        self.certificates.client.get_or_insert_default()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Tcp(host) => write!(f, "{host}:{}", self.port)?,
            Host::Unix(folder) => write!(f, "{}/.s.PGSQL.{}", folder.display(), self.port)?,
        }
        write!(f, ", database {}", self.database)
    }
}

fn tls(mode: Option<&str>, has_roots: bool) -> Result<Tls, PostgresError> {
    Ok(match mode {
        Some("disable") => Tls::Disabled,
        None | Some("allow" | "prefer") => Tls::Preferred,
        // With an authority, `require` checks it, as libpq does.
        Some("require") if has_roots => Tls::Required(Verification::Authority),
        Some("require") => Tls::Required(Verification::None),
        Some("verify-ca") => Tls::Required(Verification::Authority),
        Some("verify-full") => Tls::Required(Verification::Full),
        Some(_) => {
            return Err(invalid("an unknown sslmode (known are disable, allow, prefer, require, verify-ca, verify-full)"));
        }
    })
}

fn file(name: &str, path: &str) -> Result<Vec<u8>, PostgresError> {
    fs::read(path).map_err(|error| {
        let text = format!("{name}: the file {path:?} cannot be read: {error}");
        PostgresError::new(PostgresErrorKind::Url, text)
    })
}

fn decoded(text: &str, what: &str) -> Result<String, PostgresError> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(Into::into).map_err(|_| invalid(&format!("{what} that is not UTF-8")))
}

/// Returns the error of a URL. The URL is not shown, since it may hold a password.
fn invalid(what: &str) -> PostgresError {
    let form = "postgres://user[:password]@host[:port]/database[?sslmode=…]";
    PostgresError::new(PostgresErrorKind::Url, format!("invalid PostgreSQL URL: it has {what}: expected {form}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(url: &str) -> Target {
        Target::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    #[test]
    fn parts_and_defaults_are_read() {
        let target =
            parse("postgres://app:p%40ss@db.example:6000/shop?sslmode=disable&application_name=a%20b&connect_timeout=3");
        assert_eq!((target.host, target.port), (Host::Tcp("db.example".into()), 6000));
        assert_eq!((&*target.user, target.password.as_deref(), &*target.database), ("app", Some("p@ss"), "shop"));
        assert_eq!((target.tls, &*target.application, target.connect_timeout.as_secs()), (Tls::Disabled, "a b", 3));
        let target = parse("postgresql://app@");
        assert_eq!((target.host, target.port), (Host::Tcp("localhost".into()), 5432));
        assert_eq!((&*target.database, target.password, target.tls), ("app", None, Tls::Preferred));
    }

    #[test]
    fn hosts_may_be_folders_and_ip_addresses() {
        let unix = || Host::Unix("/run/postgresql".into());
        assert_eq!(parse("postgres://app@%2Frun%2Fpostgresql:6000/shop").host, unix());
        assert_eq!(parse("postgres://app@/shop?host=/run/postgresql").host, unix());
        let target = parse("postgres://app@[::1]:6000/shop");
        assert_eq!((target.host, target.port), (Host::Tcp("::1".into()), 6000));
        assert_eq!(parse("postgres://app@[::1]/shop").host, Host::Tcp("::1".into()));
    }

    #[test]
    fn modes_of_tls_are_those_of_libpq() {
        let mode = |mode| parse(&format!("postgres://app@db/shop?{mode}")).tls;
        assert_eq!(mode("sslmode=require"), Tls::Required(Verification::None));
        assert_eq!(mode("sslmode=verify-ca"), Tls::Required(Verification::Authority));
        assert_eq!(mode("sslmode=verify-full"), Tls::Required(Verification::Full));
        assert_eq!(mode("sslrootcert=system"), Tls::Required(Verification::Full));
        for weak in ["disable", "prefer", "require", "verify-ca"] {
            for (first, second) in
                [("sslrootcert=system", format!("sslmode={weak}")), (&*format!("sslmode={weak}"), "sslrootcert=system".into())]
            {
                let error = Target::parse(&format!("postgres://app@db/shop?{first}&{second}")).err().expect(weak);
                assert!(error.to_string().contains("another sslmode than verify-full"), "{error}");
            }
        }
        assert_eq!(tls(Some("require"), true).expect("a mode"), Tls::Required(Verification::Authority));
    }

    #[test]
    fn errors_and_display_hide_the_password() {
        for url in [
            "postgres://app:secret@a,b/shop",
            "postgres://app:secret@db:port/shop",
            "postgres://app:secret@db/shop?sslmode=maybe",
            "postgres://app:secret@db/shop?target_session_attrs=any",
            "postgres://app:secret@db/shop?sslrootcert=/no/such/file",
            "postgres://:secret@db/shop",
            "postgres://app:1?secret@db/shop",
            "postgres://app:1?secret%ff@db/shop",
            "postgres://app@db/shop?password=secret%ff",
            "mysql://app:secret@db/shop",
        ] {
            let error = Target::parse(url).err().expect(url);
            assert_eq!(error.kind(), PostgresErrorKind::Url);
            assert!(!format!("{error} {error:?}").contains("secret"), "{error}");
        }
        assert_eq!(parse("postgres://app:secret@db/shop").to_string(), "db:5432, database shop");
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in ".{0,60}") {
            _ = Target::parse(&text);
            _ = Target::parse(&format!("postgres://{text}"));
        }
    }
}
