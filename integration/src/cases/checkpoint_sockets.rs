//! Sockets of the network across a dump. On Linux 6.16 or later they need CRIU 4.2.

use crate::cases::checkpoint::in_a_user_namespace;
use crate::chapter;
use crate::kit::Need::{Criu, Slow, Windlass};
use crate::kit::criu::{COUNTING, Images, count, counts_on, start};
use crate::kit::stop::skip;
use crate::kit::wait::eventually;
use crate::kit::{Container, T, Verdict};

chapter! { "checkpoint_sockets":
    connections_that_no_process_has_accepted_need_their_flag [Windlass, Criu, Slow],
    a_port_below_1024_stays_bound_by_a_user [Windlass, Criu, Slow],
}

/// A server that is stopped in accept(2) accepts one more connection.
fn connections_that_no_process_has_accepted_need_their_flag(t: &T) -> Verdict {
    let bundle = t.bundle()?.sh(&format!(
        "nc -ll -p 99 -e cat & server=$!; sleep 0.5; kill -STOP $server; \
         for n in 1 2 3; do (sleep 1000 | nc 127.0.0.1 99) & done; sleep 0.5; {COUNTING}"
    ));
    let container = start(t, &bundle)?;
    counts_on(&bundle, 1)?;
    let images = Images::new(t);
    let check = |flags: &[&str]| {
        let mut command = images.command();
        command.args(["checkpoint", "--check"]).args(flags).arg(&container.id);
        t.finish(command)
    };
    let established = check(&["--tcp-established"])?.code_is(1)?;
    if established.stdout.contains("this CRIU cannot dump on this kernel") {
        return skip("CRIU 4.1 cannot dump the sockets of this kernel");
    }
    established.stdout_has("has TCP connections that no process has accepted; pass --tcp-skip-in-flight")?;
    let flags = ["--tcp-established", "--network-lock", "skip"];
    images.try_dump(&container, &flags)?.code_is(1)?.stderr_has("pass --tcp-skip-in-flight")?;
    let flags = [&flags[..], &["--tcp-skip-in-flight"]].concat();
    check(&flags)?.code_is(0)?;
    images.dump(&container, &flags)?;
    let at = count(&bundle);
    let _restored = images.restore(&bundle, &flags[..3])?;
    counts_on(&bundle, at)?;
    Ok(())
}

/// The server has bound the port as root of its user namespace, and then has become another user.
fn a_port_below_1024_stays_bound_by_a_user(t: &T) -> Verdict {
    let script = format!("httpd -f -u 1000:1000 -p 80 -h /etc & {COUNTING}");
    let bundle = in_a_user_namespace(t.bundle()?.privileged().sh(&script));
    let container = start(t, &bundle)?;
    counts_on(&bundle, 1)?;
    let serves = |container: &Container| {
        let ask = "printf 'GET /passwd HTTP/1.0\\r\\n\\r\\n' | nc 127.0.0.1 80";
        eventually("an answer", || container.exec_sh(ask).ok().filter(|ran| ran.stdout.contains("200 OK")).map(drop))
    };
    serves(&container)?;
    let images = Images::new(t);
    let dumped = images.try_dump(&container, &[])?;
    if dumped.stderr.contains("cannot dump the sockets of this kernel") {
        return skip("CRIU 4.1 cannot dump the sockets of this kernel");
    }
    dumped.ok()?;
    let at = count(&bundle);
    let restored = images.restore(&bundle, &[])?;
    counts_on(&bundle, at)?;
    serves(&restored)
}
