//! Prints the events of a container until its process has ended, each as a line of JSON:
//! `cargo run -p windlass-client --example events -- STATE ID`. Acknowledges nothing, so an engine still gets them.

use std::path::Path;
use std::process::ExitCode;

use windlass_client::{Client, Error};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [state, id] = &words[..] else {
        eprintln!("usage: events STATE ID");
        return ExitCode::FAILURE;
    };
    match follow(Path::new(state), id) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("events: {error}");
            ExitCode::FAILURE
        }
    }
}

fn follow(state: &Path, id: &str) -> Result<(), Error> {
    let mut client = Client::connect(state, id)?;
    client.subscribe(None)?;
    loop {
        let event = client.event()?;
        println!("{event}");
        if event["type"] == "exited" && event["exec"].is_null() {
            return Ok(());
        }
    }
}
