//! Networks and ports.

use super::life::logged;
use crate::case::chapter;
use crate::session::{Session, until};
use integration::kit::Verdict;
use integration::{ensure, ensure_eq};
use std::fs;

chapter! { [Docker, Podman] "network":
    the_default_network_has_an_address_and_a_route,
    containers_reach_each_other_by_address,
    the_host_network_is_the_hosts,
    no_network_is_loopback_alone,
    a_network_is_shared_with_another_container,
    a_network_of_ones_own_knows_containers_by_name,
    a_running_container_is_connected_and_disconnected,
    a_published_port_answers,
    a_published_port_is_bound_to_its_address_alone,
    host_names_and_name_servers_are_set,
}

/// The content at port 80.
const SERVED: &str = "served";

const SERVER: &str = "echo ready; exec httpd -f -p 80 -h /www";

/// A container that serves a page; its name.
pub fn server(s: &Session, options: &str) -> Verdict<String> {
    let name = s.up(options, SERVER)?;
    logged(s, &name, "ready")?;
    Ok(name)
}

/// Waits until the host gets the page at this place.
pub fn answers(s: &Session, place: &str) -> Verdict {
    until(&format!("an answer at {place}"), || {
        let page = s.host_sh(&format!("busybox wget -q -O - http://{place}/"))?;
        Ok((page.stdout.trim() == SERVED).then_some(()))
    })
}

/// Waits until a container gets the page at this place.
fn reaches(s: &Session, name: &str, place: &str) -> Verdict {
    until(&format!("{name} to reach {place}"), || {
        let page = s.run(&format!("exec {name} wget -q -O - http://{place}/"))?;
        Ok((page.stdout.trim() == SERVED).then_some(()))
    })
}

fn address(s: &Session, name: &str) -> Verdict<String> {
    let shown = s.ok(&format!("exec {name} ip -4 -o addr show eth0"))?;
    let address = shown.split_whitespace().nth(3).and_then(|net| net.split('/').next());
    Ok(address.unwrap_or_default().to_owned())
}

fn the_default_network_has_an_address_and_a_route(s: &Session) -> Verdict {
    let seen = s.inside("", "ip -4 -o addr show eth0; ip route")?;
    ensure!(seen.contains("inet ") && seen.contains("default via"), "{seen}");
    Ok(())
}

fn containers_reach_each_other_by_address(s: &Session) -> Verdict {
    let (server, client) = (server(s, "")?, s.sleeper("")?);
    reaches(s, &client, &address(s, &server)?)
}

fn the_host_network_is_the_hosts(s: &Session) -> Verdict {
    let host = fs::read_link("/proc/self/ns/net")?;
    ensure_eq!(s.inside("--network host", "readlink /proc/self/ns/net")?, host.to_string_lossy(), "namespace");
    Ok(())
}

fn no_network_is_loopback_alone(s: &Session) -> Verdict {
    ensure_eq!(s.inside("--network none", "ls /sys/class/net")?, "lo", "interfaces");
    Ok(())
}

fn a_network_is_shared_with_another_container(s: &Session) -> Verdict {
    let server = server(s, "")?;
    let client = s.sleeper(&format!("--network container:{server}"))?;
    reaches(s, &client, "127.0.0.1")
}

fn a_network_of_ones_own_knows_containers_by_name(s: &Session) -> Verdict {
    let network = s.name();
    s.ok(&format!("network create {network}"))?;
    let server = server(s, &format!("--network {network} --network-alias web"))?;
    let client = s.sleeper(&format!("--network {network}"))?;
    reaches(s, &client, &server)?;
    reaches(s, &client, "web")?;
    s.ok(&format!("rm -f {server} {client}"))?;
    s.ok(&format!("network rm {network}")).map(drop)
}

fn a_running_container_is_connected_and_disconnected(s: &Session) -> Verdict {
    let (network, other) = (s.name(), s.name());
    s.ok(&format!("network create {network}"))?;
    s.ok(&format!("network create {other}"))?;
    let name = s.sleeper(&format!("--network {network}"))?;
    let interfaces = || s.ok(&format!("exec {name} ls /sys/class/net"));
    ensure_eq!(interfaces()?, "eth0\nlo", "before");
    s.ok(&format!("network connect {other} {name}"))?;
    ensure_eq!(interfaces()?, "eth0\neth1\nlo", "connected");
    s.ok(&format!("network disconnect {other} {name}"))?;
    ensure_eq!(interfaces()?, "eth0\nlo", "disconnected");
    s.ok(&format!("rm -f {name}"))?;
    s.ok(&format!("network rm {network} {other}")).map(drop)
}

fn a_published_port_answers(s: &Session) -> Verdict {
    let name = server(s, "-p 18080:80")?;
    answers(s, "127.0.0.1:18080")?;
    ensure!(s.ok(&format!("port {name}"))?.contains("18080"), "port does not list it");
    s.ok(&format!("rm -f {name}"))?;
    let gone = s.host_sh("busybox wget -q -O - http://127.0.0.1:18080/")?;
    ensure!(gone.code != 0, "the port still answers");
    Ok(())
}

fn a_published_port_is_bound_to_its_address_alone(s: &Session) -> Verdict {
    let name = server(s, "-p 127.0.0.1:18081:80")?;
    answers(s, "127.0.0.1:18081")?;
    ensure!(s.ok(&format!("port {name}"))?.contains("127.0.0.1:18081"), "port does not list it");
    let elsewhere = s.host_sh("busybox wget -q -O - http://127.0.0.2:18081/")?;
    ensure!(elsewhere.code != 0, "another address answers too");
    Ok(())
}

fn host_names_and_name_servers_are_set(s: &Session) -> Verdict {
    let options = "--hostname web1 --add-host db:10.9.8.7 --dns 10.1.2.3 --dns-search example.org";
    let seen = s.inside(options, "hostname; cat /etc/hosts /etc/resolv.conf")?;
    ensure_eq!(seen.lines().next().unwrap_or_default(), "web1", "host name");
    for text in ["10.9.8.7", "10.1.2.3", "example.org"] {
        ensure!(seen.contains(text), "{text} is missing: {seen}");
    }
    Ok(())
}
