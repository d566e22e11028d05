//! Programs as child processes that are read line by line.

use std::process::{ExitStatus, Stdio};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::PATIENCE;

/// A running program; killed when dropped.
pub struct Program {
    child: Child,
    input: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Program {
    /// Starts it with arguments and environment.
    pub fn start(program: &str, arguments: &[&str], env: &[(&str, &str)]) -> Self {
        let mut child = Command::new(program)
            .args(arguments)
            .envs(env.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        let (input, output) = (child.stdin.take(), child.stdout.take().expect("piped"));
        let lines = BufReader::new(output).lines();
        Program { child, input, lines }
    }

    /// A client of `tests/clients`, by its file's name.
    pub fn node(file: &str, arguments: &[&str], env: &[(&str, &str)]) -> Self {
        let node = std::env::var("BONGSU_TEST_NODE").unwrap_or_else(|_| "node".to_owned());
        let path = super::in_package("tests/clients").join(file);
        let mut words = vec![path.to_str().expect("UTF-8")];
        words.extend_from_slice(arguments);
        Self::start(&node, &words, env)
    }

    /// Closes the pipe that its standard output is, and waits for its end.
    pub async fn stop_reading(mut self) -> ExitStatus {
        drop(self.lines);
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        ended.expect("it ends in time").expect("it is ours")
    }

    /// The next line of its standard output; None at the end.
    pub async fn line(&mut self) -> Option<String> {
        let line = tokio::time::timeout(PATIENCE, self.lines.next_line()).await;
        line.expect("a line in time").expect("it reads")
    }

    /// The next line that is an answer to `wanted`.
    pub async fn find<T>(&mut self, wanted: impl Fn(&str) -> Option<T>) -> T {
        loop {
            let line = self.line().await.expect("more lines");
            if let Some(found) = wanted(&line) {
                return found;
            }
        }
    }

    /// Writes a line to its standard input.
    pub async fn say(&mut self, line: &str) {
        let input = self.input.as_mut().expect("open until the end");
        input.write_all(format!("{line}\n").as_bytes()).await.expect("it listens");
    }

    /// Closes its standard input and waits for its end.
    pub async fn end(mut self) -> ExitStatus {
        drop(self.input.take());
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        ended.expect("it ends in time").expect("it is ours")
    }
}
