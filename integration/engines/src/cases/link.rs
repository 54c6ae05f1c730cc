//! `--link` of docker.

use super::network::server;
use crate::case::chapter;
use crate::session::Session;
use integration::ensure;
use integration::kit::Verdict;

chapter! { [Docker] "network":
    a_link_names_another_container,
}

fn a_link_names_another_container(s: &Session) -> Verdict {
    let server = server(s, "")?;
    let seen = s.inside(&format!("--link {server}:web"), "wget -q -O - http://web/; env")?;
    ensure!(seen.starts_with("served") && seen.contains("WEB_NAME="), "{seen}");
    Ok(())
}
