//! podman as an ordinary user: the runtime is in a user namespace that podman has made.

use super::network::answers;
use crate::case::chapter;
use crate::engine::{bind_over, podman_configuration};
use crate::image::NAME;
use crate::session::{Session, until};
use integration::kit::Verdict;
use integration::kit::ran::Ran;
use integration::kit::stop::{Context, skip};
use integration::{ensure, ensure_eq};
use nix::unistd::{Gid, Uid, chown};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;

chapter! { [Podman] "rootless":
    a_user_runs_a_container_and_is_root_in_it,
    a_user_has_the_whole_life_of_a_container,
    a_user_has_a_terminal_in_run_and_exec,
    a_volume_of_a_user_holds_files_of_the_users,
    pods_of_a_user_share_their_namespaces,
    a_port_is_published_by_slirp4netns,
    a_port_is_published_by_pasta,
    a_bridge_of_a_user_knows_names_and_publishes_ports,
}

const UID: u32 = 54321;
/// The first of the ids that the user may map besides its own.
const FIRST: u32 = 600_000;

/// An ordinary user with a home, a cgroup and ids to map, and podman's image in its store.
struct User<'s> {
    s: &'s Session,
    home: PathBuf,
}

impl<'s> User<'s> {
    fn new(s: &'s Session) -> Verdict<User<'s>> {
        let home = s.path("home");
        let user = User { s, home };
        if user.home.exists() {
            return Ok(user);
        }
        // podman's first command keeps a mount namespace for the next ones, which would lack later mounts.
        way_out(s)?;
        let ids = format!("plain:{FIRST}:65536\n");
        let passwd = fs::read_to_string("/etc/passwd").context("/etc/passwd")?;
        let line = format!("plain:x:{UID}:{UID}::{}:/bin/sh\n", user.home.display());
        for (file, text) in [("/etc/subuid", &ids), ("/etc/subgid", &ids), ("/etc/passwd", &(passwd + &line))] {
            bind_over(s, file, text)?;
        }
        let cgroup = PathBuf::from("/sys/fs/cgroup/plain");
        let shell = cgroup.join("shell");
        for dir in [&user.home, &user.home.join("run"), &cgroup, &shell] {
            fs::create_dir(dir).context(dir.display())?;
            own(dir.clone())?;
        }
        for dir in [&cgroup, &shell] {
            ["cgroup.procs", "cgroup.subtree_control", "cgroup.threads"]
                .iter()
                .try_for_each(|file| own(dir.join(file)))?;
        }
        fs::write(user.home.join("containers.conf"), podman_configuration(s, &user.home.join("networks")))?;
        let archive = s.path("bb.tar");
        let mut import = user.command("import --change CMD=[\"/bin/pause\"]");
        import.arg(&archive).arg(NAME);
        s.finish(import)?.ok()?;
        Ok(user)
    }

    /// podman with these words, in the user's cgroup.
    fn command(&self, words: &str) -> Command {
        let mut command = self.s.host("sh");
        let script = format!(
            "echo 0 > /sys/fs/cgroup/plain/shell/cgroup.procs && exec setpriv --reuid {UID} --regid {UID} --clear-groups \"$@\""
        );
        command.args(["-c", &script, "sh"]).args(self.s.client().get_program().to_str());
        command.args(words.split_whitespace()).current_dir(&self.home);
        command.env("HOME", &self.home).env("USER", "plain").env("TMPDIR", self.home.join("run"));
        command.env("XDG_RUNTIME_DIR", self.home.join("run"));
        command.env("CONTAINERS_CONF", self.home.join("containers.conf"));
        command
    }

    fn run(&self, words: &str, last: Option<&str>) -> Verdict<Ran> {
        let mut command = self.command(words);
        command.args(last);
        self.s.finish(command)
    }

    fn ok(&self, words: &str, last: Option<&str>) -> Verdict<String> {
        Ok(self.run(words, last)?.ok()?.stdout.trim().to_owned())
    }
}

fn own(path: PathBuf) -> Verdict {
    chown(&path, Some(Uid::from_raw(UID)), Some(Gid::from_raw(UID))).context(path.display())
}

fn a_user_runs_a_container_and_is_root_in_it(s: &Session) -> Verdict {
    let user = User::new(s)?;
    let run = format!("run --rm --network none {NAME} sh -c");
    let seen = user.ok(&run, Some("id -u; cat /proc/self/uid_map | tr -s ' '"))?;
    ensure_eq!(seen, format!("0\n 0 {UID} 1\n 1 {FIRST} 65536"), "uid and map");
    user.run(&run, Some("exit 42"))?.code_is(42)?;
    user.run(&format!("run --rm --network none {NAME} no-such-program"), None)?.code_is(127).map(drop)
}

fn a_user_has_the_whole_life_of_a_container(s: &Session) -> Verdict {
    let (user, name) = (User::new(s)?, s.name());
    let script = "trap 'echo bye; exit 5' TERM; echo hello; while :; do sleep 0.05; done";
    user.ok(&format!("run -d --network host --name {name} {NAME} sh -c"), Some(script))?;
    ensure_eq!(user.ok(&format!("exec -u 1000 {name} id -u"), None)?, "1000", "uid of exec");
    user.run(&format!("exec {name} sh -c"), Some("exit 3"))?.code_is(3)?;
    user.ok(&format!("pause {name}"), None)?;
    user.ok(&format!("unpause {name}"), None)?;
    user.ok(&format!("stop {name}"), None)?;
    ensure_eq!(user.ok(&format!("logs {name}"), None)?, "hello\nbye", "log");
    let state = user.ok(&format!("inspect {name} --format"), Some("{{.State.Status}} {{.State.ExitCode}}"))?;
    ensure_eq!(state, "exited 5", "state");
    user.ok(&format!("rm {name}"), None).map(drop)
}

fn a_user_has_a_terminal_in_run_and_exec(s: &Session) -> Verdict {
    let (user, name) = (User::new(s)?, s.name());
    user.ok(&format!("run -d --network none --name {name} {NAME} sleep 1000"), None)?;
    let run = format!("run --rm -it --network none {NAME} sh");
    for words in [run, format!("exec -it {name} sh")] {
        let mut at = s.terminal(&user.command(&words), 33, 77)?;
        at.terminal.read_until("# ")?;
        at.terminal.write("until [ \"$(stty size)\" = '33 77' ]; do sleep 0.1; done; echo si''zed; exit 3\n")?;
        at.terminal.read_until("sized")?;
        ensure_eq!(at.wait()?, 3, "exit code");
    }
    user.ok(&format!("rm -f -t 0 {name}"), None).map(drop)
}

fn a_volume_of_a_user_holds_files_of_the_users(s: &Session) -> Verdict {
    let user = User::new(s)?;
    let dir = s.scratch()?;
    own(dir.clone())?;
    let run = format!("run --rm --network none -v {}:/mnt/host {NAME} sh -c", dir.display());
    user.ok(&run, Some("touch /mnt/host/root; mkdir -m 777 /mnt/host/dir; busybox chown 1000 /mnt/host/dir"))?;
    let owner = |name: &str| fs::metadata(dir.join(name)).map(|file| file.uid());
    ensure_eq!((owner("root")?, owner("dir")?), (UID, FIRST + 999), "owners on the host");
    Ok(())
}

fn pods_of_a_user_share_their_namespaces(s: &Session) -> Verdict {
    let (user, pod, name) = (User::new(s)?, s.name(), s.name());
    user.ok(&format!("pod create --network none --name {pod} --hostname pod1"), None)?;
    let server = "exec httpd -f -p 80 -h /www";
    user.ok(&format!("run -d --pod {pod} --name {name} {NAME} sh -c"), Some(server))?;
    let client = "until wget -q -O - http://127.0.0.1/; do sleep 0.1; done; hostname";
    ensure_eq!(
        user.ok(&format!("run --rm --pod {pod} {NAME} sh -c"), Some(client))?,
        "served\npod1",
        "page, host name"
    );
    user.ok(&format!("pod rm -f -t 0 {pod}"), None).map(drop)
}

/// Prepares a user's network: a way out of the harness, and a tunnel device that every user may open, as udev makes it.
fn way_out(s: &Session) -> Verdict {
    let script =
        "[ ! -e /dev/net/tun ] || { mknod /run/tun c 10 200 && chmod 666 /run/tun && mount --bind /run/tun /dev/net/tun; } &&
        ip link add out0 type veth peer name out1 && ip link set out0 up && ip link set out1 up &&
        ip addr add 192.0.2.2/24 dev out0 && ip route add default via 192.0.2.1";
    s.host_sh(script)?.ok().map(drop)
}

/// A server on a network of this kind answers at a port of the host, and reaches nothing else of the host.
fn publishes(s: &Session, network: &str, port: u16) -> Verdict {
    let (user, name) = (User::new(s)?, s.name());
    let run = format!("run -d --network {network} -p {port}:80 --name {name} {NAME} sh -c");
    user.ok(&run, Some("exec httpd -f -p 80 -h /www"))?;
    answers(s, &format!("127.0.0.1:{port}"))?;
    let seen = user.ok(&format!("exec {name} ip -4 -o addr"), None)?;
    ensure!(seen.lines().count() >= 2, "interfaces: {seen}");
    user.ok(&format!("restart -t 0 {name}"), None)?;
    answers(s, &format!("127.0.0.1:{port}"))?;
    user.ok(&format!("rm -f -t 0 {name}"), None)?;
    ensure!(s.host_sh(&format!("busybox wget -q -O - http://127.0.0.1:{port}/"))?.code != 0, "the port still answers");
    Ok(())
}

/// Skips unless the host has this program.
fn installed(s: &Session, program: &str) -> Verdict {
    match s.host_sh(&format!("command -v {program}"))?.code {
        0 => Ok(()),
        _ => skip(format!("{program} is not installed")),
    }
}

fn a_port_is_published_by_slirp4netns(s: &Session) -> Verdict {
    installed(s, "slirp4netns")?;
    publishes(s, "slirp4netns", 18110)
}

fn a_port_is_published_by_pasta(s: &Session) -> Verdict {
    installed(s, "pasta")?;
    publishes(s, "pasta", 18111)
}

fn a_bridge_of_a_user_knows_names_and_publishes_ports(s: &Session) -> Verdict {
    installed(s, "aardvark-dns || ls /usr/lib/podman/aardvark-dns")?;
    let user = User::new(s)?;
    let network = s.name();
    user.ok(&format!("network create {network}"), None)?;
    publishes(s, &network, 18112)?;
    let (server, client) = (s.name(), s.name());
    user.ok(&format!("run -d --network {network} --name {server} {NAME} sh -c"), Some("exec httpd -f -p 80 -h /www"))?;
    user.ok(&format!("run -d --network {network} --name {client} {NAME} sleep 1000"), None)?;
    until("an answer by name", || {
        let page = user.run(&format!("exec {client} wget -q -O - http://{server}/"), None)?;
        Ok((page.stdout.trim() == "served").then_some(()))
    })?;
    user.ok(&format!("rm -f -t 0 {server} {client}"), None)?;
    user.ok(&format!("network rm {network}"), None).map(drop)
}
