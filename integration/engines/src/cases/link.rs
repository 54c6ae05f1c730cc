//! `--link` of docker.

use super::network::server;
use crate::case::chapter;
use crate::session::Session;
use integration::kit::Verdict;
use integration::{ensure, ensure_eq};

chapter! { [Docker] "network":
    a_link_names_another_container,
    rm_with_l_removes_the_link_alone,
}

fn a_link_names_another_container(s: &Session) -> Verdict {
    let server = server(s, "")?;
    let seen = s.inside(&format!("--link {server}:web"), "wget -q -O - http://web/; env")?;
    ensure!(seen.starts_with("served") && seen.contains("WEB_NAME="), "{seen}");
    Ok(())
}

fn rm_with_l_removes_the_link_alone(s: &Session) -> Verdict {
    let server = server(s, "")?;
    let client = s.sleeper(&format!("--link {server}:web"))?;
    s.ok(&format!("rm --link /{client}/web"))?;
    ensure_eq!(s.inspect(&client, "{{.HostConfig.Links}}")?, "[]", "links");
    s.ok(&format!("exec {server} true")).map(drop)
}
