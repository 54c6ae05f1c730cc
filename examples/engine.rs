//! An engine in a few lines: runs a container, shows its output, and exits with its status. It may be killed at any
//! time and called again with the same words; then it goes on from the present state.
//!
//! ```text
//! engine STATE ID [BUNDLE]
//! ```
//!
//! All that it has to remember is in the directory `STATE/ID`, which the shim keeps.

use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, ExitCode};

use serde_json::json;
use windlass_client::{Client, Error};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (state, id, bundle) = match &words[..] {
        [state, id] => (Path::new(state), id, None),
        [state, id, bundle] => (Path::new(state), id, Some(bundle)),
        _ => {
            eprintln!("usage: engine STATE ID [BUNDLE]");
            return ExitCode::FAILURE;
        }
    };
    match serve(state, id, bundle) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("engine: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(state: &Path, id: &str, bundle: Option<&String>) -> Result<u8, Box<dyn std::error::Error>> {
    let shim = std::env::var("WINDLASS_SHIM").unwrap_or_else(|_| "windlass-shim".to_owned());
    let verb = |verb: &str, words: &[&str]| {
        let mut command = Command::new(&shim);
        command.arg(verb).args(words).arg("--state-dir").arg(state);
        command
    };
    // If this file exists, an earlier call of this program has made the container.
    if let (false, Some(bundle)) = (state.join(id).join("shim.json").exists(), bundle) {
        let made = verb("run", &["--id", id, "--bundle", bundle]).output()?;
        let line: serde_json::Value = serde_json::from_slice(&made.stdout)?;
        if let Some(message) = line["error"]["message"].as_str() {
            return Err(message.into());
        }
    }
    // The log has everything from the first byte on, even if nobody was attached.
    verb("logs", &["--follow", id]).status()?;
    io::stdout().flush()?;
    let status = match Client::connect(state, id).and_then(|mut client| finish(&mut client)) {
        // The shim is dead: its records answer.
        Err(Error::Lost(_)) => {
            let deleted: serde_json::Value = serde_json::from_slice(&verb("delete", &[id]).output()?.stdout)?;
            deleted["exit"]["status"].as_u64()
        }
        other => other?,
    };
    Ok(status.unwrap_or(255) as u8)
}

/// Reads the events up to the exit that were not acknowledged, and deletes the container.
fn finish(client: &mut Client) -> Result<Option<u64>, Error> {
    client.subscribe(None)?;
    loop {
        let event = client.event()?;
        if event["type"] == "exited" && event["exec"].is_null() {
            client.call("ack", json!({"event": event["event"]}))?;
            client.call("delete", json!({}))?;
            return Ok(event["status"].as_u64());
        }
    }
}
