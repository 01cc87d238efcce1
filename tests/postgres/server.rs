//! A real PostgreSQL in a private cluster.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::free_port;

/// The user `nobody`, for tests that run as root: PostgreSQL refuses to run as root.
const NOBODY: u32 = 65_534;

/// A running server. Dropping it ends the server.
pub(crate) struct Server {
    child: Child,
    dir: TempDir,
    port: u16,
    settings: Vec<String>,
}

impl Server {
    /// Starts a server with `wal_level = logical`.
    pub(crate) fn start() -> Self {
        Self::with(&["wal_level=logical"])
    }

    /// Starts a server with these settings.
    pub(crate) fn with(settings: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let data = dir.path().join("data");
        run(Command::new("cp").arg("-a").arg(template()).arg(&data));
        if is_root(dir.path()) {
            run(Command::new("chown").args(["-R", &format!("{NOBODY}:{NOBODY}")]).arg(dir.path()));
        }
        let (port, settings) = (free_port(), settings.iter().map(ToString::to_string).collect::<Vec<_>>());
        let child = spawn(&dir, port, &settings);
        let server = Self { child, dir, port, settings };
        server.wait();
        server
    }

    /// Returns the URL of the database `app` for a role.
    pub(crate) fn url(&self, role: &str) -> String {
        format!("postgres://{role}@127.0.0.1:{}/app", self.port)
    }

    /// Replaces the rules for sign-in over TCP, and adds files to the data.
    pub(crate) fn configure(&self, hba: &str, files: &[(&str, &str)]) {
        let data = self.dir.path().join("data");
        for (name, text) in files.iter().chain(&[("pg_hba.conf", hba)]) {
            let path = data.join(name);
            fs::write(&path, text).expect("a file of the server");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("permissions");
            if is_root(&data) {
                chown(&path, Some(NOBODY), Some(NOBODY)).expect("a file of nobody");
            }
        }
    }

    /// Runs statements, and tells if they have succeeded.
    pub(crate) fn succeeds(&self, sql: &str) -> bool {
        self.psql().args(["-c", sql]).output().is_ok_and(|output| output.status.success())
    }

    /// Runs statements in the database `app` as a superuser. Returns the output: the values, one row a line.
    pub(crate) fn sql(&self, sql: &str) -> String {
        let output = self.psql().args(["-c", sql]).output().expect("psql is installed: see tests/run");
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    }

    fn psql(&self) -> Command {
        let mut command = Command::new("psql");
        command.args([
            "-XAqt",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            "127.0.0.1",
            "-p",
            &self.port.to_string(),
            "-U",
            "postgres",
            "app",
        ]);
        command
    }

    /// Opens a session.
    pub(crate) fn session(&self) -> Session {
        let mut child = self.psql().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("psql is installed");
        let (stdin, stdout) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
        Session { child, stdin, stdout: BufReader::new(stdout) }
    }

    /// Ends the server as a crash would, without a checkpoint.
    pub(crate) fn crash(&mut self) {
        self.signal("-QUIT");
        self.child.wait().expect("the end of the server");
    }

    /// Starts the server again, on the same port.
    pub(crate) fn restart(&mut self) {
        self.child = spawn(&self.dir, self.port, &self.settings);
        self.wait();
    }

    fn signal(&self, signal: &str) {
        run(Command::new("kill").args([signal, &self.child.id().to_string()]));
    }

    /// Waits until the server answers.
    fn wait(&self) {
        let begin = Instant::now();
        while !self.psql().args(["-c", "SELECT"]).stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
            assert!(begin.elapsed() < Duration::from_secs(60), "{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.crash();
        }
    }
}

/// A session of `psql`.
pub(crate) struct Session {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Session {
    /// Sends statements, and waits until they have run.
    pub(crate) fn run(&mut self, sql: &str) {
        self.send(&format!("{sql}\n\\echo done"));
        let mut line = String::new();
        while line.trim() != "done" {
            line.clear();
            assert!(self.stdout.read_line(&mut line).expect("output") > 0, "psql has ended: {sql}");
        }
    }

    /// Sends statements without waiting.
    pub(crate) fn send(&mut self, sql: &str) {
        writeln!(self.stdin, "{sql}").expect("psql reads");
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

fn spawn(dir: &TempDir, port: u16, settings: &[String]) -> Child {
    let log = fs::OpenOptions::new().create(true).append(true).open(dir.path().join("log")).expect("a log file");
    let mut command = Command::new(program("postgres"));
    command.arg("-D").arg(dir.path().join("data")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let (port, socket) = (format!("port={port}"), format!("unix_socket_directories={}", dir.path().display()));
    let ours =
        [&*port, &socket, "listen_addresses=127.0.0.1", "fsync=off", "shared_buffers=16MB", "wal_receiver_status_interval=1s"];
    for setting in ours.into_iter().chain(settings.iter().map(String::as_str)) {
        command.args(["-c", setting]);
    }
    demote(&mut command, dir.path());
    command.spawn().expect("postgres is installed: see tests/run")
}

/// Returns the data of a new cluster with a database `app` and the role `replicator`. It is kept for the next run of the tests.
fn template() -> &'static Path {
    static TEMPLATE: OnceLock<PathBuf> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let initdb = program("initdb");
        let version = initdb
            .parent()
            .and_then(Path::parent)
            .and_then(Path::file_name)
            .map_or("path".into(), |name| name.to_string_lossy().into_owned());
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("postgres-{version}-1"));
        if kept.exists() {
            return kept;
        }
        let dir = tempfile::tempdir().expect("a temporary directory");
        let data = dir.path().join("data");
        if is_root(dir.path()) {
            chown(dir.path(), Some(NOBODY), Some(NOBODY)).expect("a folder of nobody");
        }
        let mut command = Command::new(initdb);
        command.arg("-D").arg(&data).args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]);
        demote(&mut command, dir.path());
        run(&mut command);
        let mut single = Command::new(program("postgres"));
        single
            .args(["--single", "-D"])
            .arg(&data)
            .arg("postgres")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        demote(&mut single, dir.path());
        let mut single = single.spawn().expect("postgres is installed");
        let sql = b"CREATE DATABASE app\nCREATE ROLE replicator LOGIN REPLICATION PASSWORD 'sEcReT'\n";
        single.stdin.take().expect("a pipe").write_all(sql).expect("postgres reads");
        assert!(single.wait().expect("an end").success());
        let copy = kept.with_extension(std::process::id().to_string());
        run(Command::new("cp").arg("-a").arg(&data).arg(&copy));
        // Another process may have been faster.
        if fs::rename(&copy, &kept).is_err() {
            _ = fs::remove_dir_all(&copy);
        }
        kept
    })
}

fn is_root(dir: &Path) -> bool {
    fs::metadata(dir).expect("a folder").uid() == 0
        || cfg!(target_os = "linux") && fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

fn demote(command: &mut Command, dir: &Path) {
    if is_root(dir) {
        command.uid(NOBODY).gid(NOBODY).current_dir("/");
    }
}

/// Returns the path of a program of the server. Debian puts them beside the `PATH`.
fn program(name: &str) -> PathBuf {
    let version = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|entry| entry.path());
    let newest = versions.filter(|path| path.join("bin").join(name).exists()).max_by_key(version);
    newest.map_or_else(|| name.into(), |path| path.join("bin").join(name))
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}: see tests/run"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
