//! The disk under `/storage`: a directory for each bucket, and in it one flat file for each object.
//!
//! An object's path becomes the name of its file by percent-encoding, slashes too. So a path cannot lead out of its bucket, whatever
//! is in it, and `a` may exist beside `a/b`. Paths that try to climb are refused all the same, before the disk is asked.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::{
    error::{Error, bad_request},
    hash::random_hex,
};

/// Everything but these is encoded in the name of a file.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');

pub(crate) struct Buckets {
    root: PathBuf,
}

/// An object's place, checked.
pub(crate) struct Name {
    bucket: String,
    path: String,
    file: String,
}

/// An object as a list shows it.
pub(crate) struct Found {
    pub(crate) path: String,
    pub(crate) bytes: usize,
    pub(crate) etag: String,
}

impl Name {
    pub(crate) fn new(bucket: &str, path: &str) -> Result<Self, Error> {
        if path.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
            return Err(bad_request("a path has no empty, `.` or `..` segments"));
        }
        if path.chars().any(|c| c.is_control() || c == '\\') {
            return Err(bad_request("a path has no backslashes and no control characters"));
        }
        let file = utf8_percent_encode(path, ENCODED).to_string();
        if file.len() > 200 {
            return Err(bad_request("this path is too long: at most 200 bytes, where all but A-Z a-z 0-9 - _ . count three"));
        }
        Ok(Self { bucket: checked(bucket)?.to_owned(), path: path.to_owned(), file })
    }

    fn missing(&self, error: io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::NotFound => Error::NotFound(format!("`{}` holds no `{}`", self.bucket, self.path)),
            _ => error.into(),
        }
    }
}

fn checked(bucket: &str) -> Result<&str, Error> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if bucket.is_empty() || bucket.len() > 63 || !bucket.bytes().all(plain) {
        return Err(bad_request("a bucket's name is up to 63 of a-z, 0-9 and -"));
    }
    Ok(bucket)
}

impl Buckets {
    pub(crate) fn open(root: &Path) -> Result<Self, Error> {
        fs::create_dir_all(root.join(".incoming"))?;
        Ok(Self { root: root.to_owned() })
    }

    pub(crate) fn create(&self, bucket: &str) -> Result<(), Error> {
        Ok(fs::create_dir_all(self.root.join(checked(bucket)?))?)
    }

    pub(crate) fn list(&self, bucket: &str, prefix: &str) -> Result<Vec<Found>, Error> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.directory(bucket)?)? {
            let file = entry?.path();
            let path = file.file_name().and_then(|name| name.to_str()).map(|name| percent_decode_str(name).decode_utf8_lossy());
            let Some(path) = path.filter(|path| path.starts_with(prefix)) else {
                continue;
            };
            match fs::read(&file) {
                Ok(content) => found.push(Found::new(&path, &content)),
                // Deleted since the directory was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    pub(crate) fn read(&self, name: &Name) -> Result<Vec<u8>, Error> {
        fs::read(self.file(name)?).map_err(|error| name.missing(error))
    }

    /// Writes beside the buckets first and moves the whole in, so that nobody ever sees half of an object.
    pub(crate) fn write(&self, name: &Name, content: &[u8]) -> Result<Found, Error> {
        let file = self.file(name)?;
        let incoming = self.root.join(".incoming").join(random_hex());
        let stored = fs::write(&incoming, content).and_then(|()| fs::rename(&incoming, file));
        if stored.is_err() {
            let _ = fs::remove_file(&incoming);
        }
        stored?;
        Ok(Found::new(&name.path, content))
    }

    /// Moves an object, over whatever was in its new place.
    pub(crate) fn rename(&self, from: &Name, to: &Name) -> Result<(), Error> {
        fs::rename(self.file(from)?, self.file(to)?).map_err(|error| from.missing(error))
    }

    pub(crate) fn delete(&self, name: &Name) -> Result<(), Error> {
        fs::remove_file(self.file(name)?).map_err(|error| name.missing(error))
    }

    fn file(&self, name: &Name) -> Result<PathBuf, Error> {
        Ok(self.directory(&name.bucket)?.join(&name.file))
    }

    fn directory(&self, bucket: &str) -> Result<PathBuf, Error> {
        let directory = self.root.join(checked(bucket)?);
        if directory.is_dir() { Ok(directory) } else { Err(Error::NotFound(format!("there is no bucket `{bucket}`"))) }
    }
}

impl Found {
    fn new(path: &str, content: &[u8]) -> Self {
        Self { path: path.to_owned(), bytes: content.len(), etag: format!("\"{}\"", blake3::hash(content).to_hex()) }
    }
}
