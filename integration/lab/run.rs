//! Running a command with a time limit, and what tests assert about its outcome.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// What a finished command said.
#[derive(Debug)]
pub struct Output {
    /// The command line, for messages.
    pub line: String,
    /// Exit code; a signal is None.
    pub code: Option<i32>,
    /// Everything on standard output.
    pub stdout: String,
    /// Everything on standard error.
    pub stderr: String,
    /// Wall time.
    pub took: Duration,
}

/// Runs to the end or kills it after `limit` (which fails the test).
pub fn run(command: &mut Command, limit: Duration) -> Output {
    run_with_input(command, None, limit)
}

/// The same, feeding `input` to standard input.
pub fn run_with_input(command: &mut Command, input: Option<&str>, limit: Duration) -> Output {
    let line = line_of(command);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    let start = Instant::now();
    let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot run `{line}`: {e}"));
    if let (Some(text), Some(mut stdin)) = (input, child.stdin.take()) {
        use std::io::Write;
        let _ = stdin.write_all(text.as_bytes());
    }
    let (stdout, stderr) = (collect(child.stdout.take().unwrap()), collect(child.stderr.take().unwrap()));
    let mut nap = Duration::from_micros(200);
    let status = loop {
        if let Some(status) = child.try_wait().expect("wait") {
            break status;
        }
        if start.elapsed() > limit {
            let _ = child.kill();
            let _ = child.wait();
            panic!("`{line}` still ran after {limit:?} and was killed\nstderr: {}", recv(&stderr));
        }
        std::thread::sleep(nap);
        nap = (nap * 2).min(Duration::from_millis(5));
    };
    let took = start.elapsed();
    Output { line, code: status.code(), stdout: recv(&stdout), stderr: recv(&stderr), took }
}

/// Copies a program that will be run: by another process, as a file that this one writes is busy for as long as a child that
/// another thread forks meanwhile holds it open (execve(2), ETXTBSY).
pub fn copy_program(from: &Path, to: &Path) {
    run(Command::new("cp").args([from, to]), Duration::from_secs(30)).ok();
}

fn line_of(command: &Command) -> String {
    let program = command.get_program().to_string_lossy();
    let words = command.get_args().map(|a| a.to_string_lossy());
    std::iter::once(program.rsplit('/').next().unwrap_or_default().into()).chain(words).collect::<Vec<_>>().join(" ")
}

/// Reads a pipe on a thread: a grandchild that keeps it open cannot hang the test.
fn collect(mut pipe: impl Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        let mut chunk = [0; 16384];
        while let Ok(n @ 1..) = pipe.read(&mut chunk) {
            let _ = send.send(chunk[..n].to_vec());
        }
    });
    receive
}

fn recv(pipe: &mpsc::Receiver<Vec<u8>>) -> String {
    let mut all = Vec::new();
    while let Ok(chunk) = pipe.recv_timeout(Duration::from_secs(2)) {
        all.extend(chunk);
    }
    String::from_utf8_lossy(&all).into_owned()
}

impl Output {
    /// Asserts success and hands itself on.
    #[track_caller]
    pub fn ok(self) -> Output {
        assert!(self.code == Some(0), "`{}` failed: {self}", self.line);
        self
    }

    /// Asserts the exit code and that stderr is exactly one line containing `text`.
    #[track_caller]
    pub fn refused(self, code: i32, text: &str) -> Output {
        assert!(self.code == Some(code), "`{}` should exit {code}: {self}", self.line);
        let lines: Vec<&str> = self.stderr.lines().collect();
        assert!(lines.len() == 1, "`{}` should say one line on stderr: {self}", self.line);
        assert!(lines[0].contains(text), "`{}` should say {text:?}: {self}", self.line);
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("`{}` printed no JSON ({e}): {self}", self.line))
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "exit {:?} after {:?}\n--- stdout\n{}--- stderr\n{}", self.code, self.took, self.stdout, self.stderr)
    }
}
