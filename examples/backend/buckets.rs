//! The files of `/storage`: one directory for each bucket, one file for each object.
//!
//! The name of a file is the percent-encoded path of its object, slashes included. A path therefore cannot leave its bucket, and `a`
//! can exist next to `a/b`. Paths with `..` are rejected anyway.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::{
    error::{Error, bad_request},
    hash::random_hex,
};

/// All other characters are encoded in the name of a file.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');

/// A file, which no bucket can have as its name.
const FILLED: &str = ".filled";

pub(crate) struct Buckets {
    root: PathBuf,
}

/// A checked path of an object.
pub(crate) struct ObjectName {
    bucket: String,
    path: String,
    file: String,
}

/// An object in a list.
pub(crate) struct ObjectInfo {
    pub(crate) path: String,
    pub(crate) bytes: usize,
    pub(crate) etag: String,
}

impl ObjectName {
    pub(crate) fn new(bucket: &str, path: &str) -> Result<Self, Error> {
        if path.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
            return Err(bad_request("a path must not have empty, `.` or `..` segments"));
        }
        if path.chars().any(|c| c.is_control() || c == '\\') {
            return Err(bad_request("a path must not have backslashes or control characters"));
        }
        let file = utf8_percent_encode(path, ENCODED).to_string();
        if file.len() > 200 {
            return Err(bad_request("the path is too long: expected at most 200 bytes after percent-encoding"));
        }
        Ok(Self { bucket: check_bucket(bucket)?.to_owned(), path: path.to_owned(), file })
    }

    fn missing(&self, error: io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::NotFound => Error::NotFound(format!("no object `{}` in bucket `{}`", self.path, self.bucket)),
            _ => error.into(),
        }
    }
}

fn check_bucket(bucket: &str) -> Result<&str, Error> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if bucket.is_empty() || bucket.len() > 63 || !bucket.bytes().all(plain) {
        return Err(bad_request("a bucket name must have 1 to 63 characters of a-z, 0-9 and -"));
    }
    Ok(bucket)
}

impl Buckets {
    pub(crate) fn open(root: &Path) -> Result<Self, Error> {
        fs::create_dir_all(root.join(".incoming"))?;
        Ok(Self { root: root.to_owned() })
    }

    /// Returns whether [`set_filled`](Self::set_filled) was called for this directory.
    pub(crate) fn are_filled(&self) -> bool {
        self.root.join(FILLED).exists()
    }

    pub(crate) fn set_filled(&self) -> Result<(), Error> {
        Ok(fs::write(self.root.join(FILLED), "")?)
    }

    pub(crate) fn create(&self, bucket: &str) -> Result<(), Error> {
        Ok(fs::create_dir_all(self.root.join(check_bucket(bucket)?))?)
    }

    pub(crate) fn list(&self, bucket: &str, prefix: &str) -> Result<Vec<ObjectInfo>, Error> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.directory(bucket)?)? {
            let file = entry?.path();
            let path = file.file_name().and_then(|name| name.to_str()).map(|name| percent_decode_str(name).decode_utf8_lossy());
            let Some(path) = path.filter(|path| path.starts_with(prefix)) else {
                continue;
            };
            match fs::read(&file) {
                Ok(content) => found.push(ObjectInfo::new(&path, &content)),
                // The object was deleted after the directory was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    pub(crate) fn read(&self, name: &ObjectName) -> Result<Vec<u8>, Error> {
        fs::read(self.file(name)?).map_err(|error| name.missing(error))
    }

    /// Writes to a temporary file and renames it, so that no reader sees a part of an object.
    pub(crate) fn write(&self, name: &ObjectName, content: &[u8]) -> Result<ObjectInfo, Error> {
        let file = self.file(name)?;
        let incoming = self.root.join(".incoming").join(random_hex());
        let stored = fs::write(&incoming, content).and_then(|()| fs::rename(&incoming, file));
        if stored.is_err() {
            let _ = fs::remove_file(&incoming);
        }
        stored?;
        Ok(ObjectInfo::new(&name.path, content))
    }

    /// Moves an object and replaces an object at the new path.
    pub(crate) fn rename(&self, from: &ObjectName, to: &ObjectName) -> Result<(), Error> {
        fs::rename(self.file(from)?, self.file(to)?).map_err(|error| from.missing(error))
    }

    pub(crate) fn delete(&self, name: &ObjectName) -> Result<(), Error> {
        fs::remove_file(self.file(name)?).map_err(|error| name.missing(error))
    }

    fn file(&self, name: &ObjectName) -> Result<PathBuf, Error> {
        Ok(self.directory(&name.bucket)?.join(&name.file))
    }

    fn directory(&self, bucket: &str) -> Result<PathBuf, Error> {
        let directory = self.root.join(check_bucket(bucket)?);
        if directory.is_dir() { Ok(directory) } else { Err(Error::NotFound(format!("no bucket `{bucket}`"))) }
    }
}

impl ObjectInfo {
    fn new(path: &str, content: &[u8]) -> Self {
        Self { path: path.to_owned(), bytes: content.len(), etag: format!("\"{}\"", blake3::hash(content).to_hex()) }
    }
}
