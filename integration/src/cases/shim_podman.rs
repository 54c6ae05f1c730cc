//! windlass-shim in the role of conmon, below a real podman, with the runtime under test.
//!
//! Each case is a shell script in which `pm` is podman with its own directories below the case's directory. podman
//! silently takes another conmon if ours does not answer as it expects, so each script first asks which one it is.

use crate::kit::criu::{self, COUNTING};
use crate::kit::machine::text;
use crate::kit::stop::{Context, fail, skip};
use crate::kit::wait::eventually;
use crate::kit::{Need, T, Verdict, rootfs};
use crate::{chapter, ensure, harness};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

chapter! { "shim_podman":
    run_gives_output_and_exit_codes [Need::Slow],
    input_and_output_are_complete [Need::Slow],
    a_terminal_has_its_size [Need::Slow],
    exec_in_all_its_forms [Need::Slow],
    logs_are_kept_followed_and_limited [Need::Slow],
    an_attached_client_sees_and_speaks [Need::Slow],
    stop_kill_and_restart [Need::Slow],
    restart_policies_begin_anew [Need::Slow],
    health_and_pods [Need::Slow],
    the_service_manager_is_told [Need::Slow],
    the_journal_gets_every_line [Need::Slow],
    passthrough_is_our_own_stdio [Need::Slow],
    a_user_can_open_their_output [Need::Slow],
    a_timeout_ends_the_container [Need::Slow],
    a_killed_podman_loses_nothing [Need::Slow],
    a_killed_shim_is_noticed [Need::Slow],
    a_container_is_checkpointed_and_restored [Need::Windlass, Need::Criu, Need::Slow],
    a_checkpoint_is_exported_and_imported_under_another_name [Need::Windlass, Need::Criu, Need::Slow],
}

/// The configuration for `pm` on a host without the usual controllers and limits.
const CONFIGURATION: &str = "[containers]\npids_limit=0\ndefault_ulimits=[]\n";

/// Runs the script and compares its output.
pub(super) fn podman(t: &T, script: &str, expected: &str) -> Verdict {
    let printed = run(t, script)?;
    ensure!(printed == expected, "the script printed {printed:?}, expected was {expected:?}");
    Ok(())
}

fn run(t: &T, script: &str) -> Verdict<String> {
    prepare(t)?;
    let path = format!("{}:{}", t.dir.display(), std::env::var("PATH").unwrap_or_default());
    let command = |script: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", script]).current_dir(&t.dir).env("PATH", &path);
        command.env("CONTAINERS_CONF", t.path("containers.conf"));
        command
    };
    let ran = t.finish(command(&format!("pm info | grep -q windlass-shim || echo not ours\n{script}")));
    let cleaned = t.finish(command("pm pod rm -fa -t 0; pm rm -fa -t 0"));
    let ran = ran?;
    cleaned?.ok()?;
    // A podman that died between create and start has forgotten that container: by design.
    for id in t.host(&t.runtime.display().to_string(), &["list", "-q"])?.lines() {
        t.host(&t.runtime.display().to_string(), &["delete", "--force", id])?;
    }
    // netavark, which makes the networks of podman 5, leaves the file that it locks.
    let _ = fs::remove_file("/run/lock/netavark.lock");
    // An exec's shim stays for its exit delay, which is five minutes.
    let ours = t.path("conmon").display().to_string();
    Command::new("pkill").args(["-9", "-f", &ours]).status().context("pkill")?;
    // The next command that lists the directory removes the remains of a killed shim.
    let sockets = Path::new("/run/windlass-shim/@control");
    eventually("the removal of the control sockets", || {
        t.host(&t.shim.display().to_string(), &["list"]).ok()?;
        std::fs::read_dir(sockets).map_or(true, |mut left| left.next().is_none()).then_some(())
    })?;
    // Last, when nothing is in them any more.
    for parent in ["libpod_parent", "machine.slice"].map(|name| Path::new("/sys/fs/cgroup").join(name)) {
        eventually("the end of podman's cgroup", || {
            harness::host::remove_tree(&parent);
            (!parent.exists()).then_some(())
        })?;
    }
    if ran.code == 0 { Ok(ran.stdout) } else { ran.wrong("a script that succeeds") }
}

fn prepare(t: &T) -> Verdict {
    if !["/usr/bin/podman", "/usr/local/bin/podman"].iter().any(|path| Path::new(path).exists()) {
        return skip("podman is not installed");
    }
    symlink(&t.shim, t.path("conmon")).context("conmon")?;
    criu::link_into(&t.dir)?;
    fs::write(t.path("containers.conf"), CONFIGURATION)?;
    let dir = t.dir.display();
    let wrapper = format!(
        "#!/bin/sh\nexec podman --root {dir}/storage --runroot {dir}/run --tmpdir {dir}/tmp --storage-driver vfs \
         --cgroup-manager cgroupfs --events-backend file --runtime {} --conmon {dir}/conmon \"$@\"\n",
        t.runtime.display()
    );
    fs::write(t.path("pm"), wrapper)?;
    fs::set_permissions(t.path("pm"), fs::Permissions::from_mode(0o755))?;
    rootfs::build(&t.path("image"))?;
    let mut import = Command::new("sh");
    import.args(["-c", "tar -C image -c . | ./pm import -q - bb"]).current_dir(&t.dir);
    t.finish(import)?.ok()?;
    Ok(())
}

fn run_gives_output_and_exit_codes(t: &T) -> Verdict {
    let script = r#"
        pm run --rm --network none bb sh -c 'echo out; echo err >&2; exit 7' 2>err; echo $? $(cat err)
        pm run --rm --network none bb /no/such 2>/dev/null; echo $?
        pm run --rm --network none bb /etc/passwd 2>/dev/null; echo $?
        pm run --name d -d --network none bb sh -c 'exit 3' >/dev/null; pm wait d
        pm inspect d --format '{{.State.ExitCode}} {{.State.Status}}'"#;
    podman(t, script, "out\n7 err\n127\n126\n3\n3 exited\n")
}

fn input_and_output_are_complete(t: &T) -> Verdict {
    let script = r#"
        echo hello | pm run --rm -i --network none bb cat
        head -c 9000000 /dev/zero | pm run --rm -i --network none bb wc -c
        pm run --rm --network none bb head -c 9000000 /dev/zero | (sleep 1; wc -c)
        pm run -d --name c --network none bb sleep 100 >/dev/null
        head -c 9000000 /dev/zero | pm exec -i c wc -c
        pm exec c head -c 9000000 /dev/zero | (sleep 3; wc -c)
        pm exec -i c sh -c 'cat; echo ended' </dev/null"#;
    podman(t, script, "hello\n9000000\n9000000\n9000000\n9000000\nended\n")
}

fn a_terminal_has_its_size(t: &T) -> Verdict {
    let script = r#"
        in_terminal() { script -qec "stty rows 33 cols 77; $*" /dev/null </dev/null | tr -d '\r\000' | sed 's/^^@//'; }
        # podman sends the size when the process runs.
        sized='i=0; until stty size 2>/dev/null | grep -q 77 || [ $i = 200 ]; do i=$((i+1)); sleep 0.05; done'
        in_terminal pm run --rm -it --network none bb sh -c "'$sized; stty size; exit 5'"
        pm run -d --name c --network none bb sleep 100 >/dev/null
        in_terminal pm exec -it c sh -c "'$sized; stty size; tty'""#;
    podman(t, script, "33 77\n33 77\n/dev/pts/0\n")
}

fn exec_in_all_its_forms(t: &T) -> Verdict {
    let script = r#"
        pm run -d --name c --network none bb sleep 100 >/dev/null
        pm exec c sh -c 'echo out; echo err >&2; exit 9' 2>err; echo $? $(cat err)
        pm exec c /no/such 2>/dev/null; echo $?
        pm exec c /etc/passwd 2>/dev/null; echo $?
        pm exec -d c sh -c 'echo background >/tmp/file' >/dev/null; sleep 0.5; pm exec c cat /tmp/file
        timeout 5 pm exec c sh -c 'sleep 50 & echo left'; echo $?
        for i in 1 2 3 4 5 6; do pm exec c sh -c "exit $i" & done; wait; pm exec c echo storm
        pm exec --env A=b --workdir /tmp c sh -c 'echo $A $PWD'"#;
    podman(t, script, "out\n9 err\n127\n126\nbackground\nleft\n0\nstorm\nb /tmp\n")
}

fn logs_are_kept_followed_and_limited(t: &T) -> Verdict {
    let script = r#"
        pm run -d --name c --network none bb sh -c 'for i in 1 2 3 4 5 6; do echo $i; sleep 0.1; done' >/dev/null
        pm logs -f c; pm logs --tail 2 c
        pm run --name m --network none --log-opt max-size=10kb bb seq 1 20000 | tail -n 1
        file=$(pm inspect m --format '{{.HostConfig.LogConfig.Path}}'); [ $(stat -c %s $file) -le 10240 ] && pm logs m | tail -n 1
        pm run --name n --network none --log-driver none bb echo hi; pm logs n 2>/dev/null"#;
    podman(t, &format!("{script}; true"), "1\n2\n3\n4\n5\n6\n5\n6\n20000\n20000\nhi\n")
}

fn an_attached_client_sees_and_speaks(t: &T) -> Verdict {
    let script = r#"
        pm run -di --name c --network none bb sh -c 'while read line; do echo got $line; done; echo end; exit 4' >/dev/null
        printf 'one\ntwo\n' | pm attach --sig-proxy=false c | head -n 3; pm wait c
        pm logs c"#;
    podman(t, script, "got one\ngot two\nend\n4\ngot one\ngot two\nend\n")
}

fn stop_kill_and_restart(t: &T) -> Verdict {
    let script = r#"
        state() { pm inspect c --format '{{.State.Status}} {{.State.ExitCode}}'; }
        pm run -d --name c --network none bb sh -c 'trap "exit 21" TERM; echo up; while :; do sleep 0.05; done' >/dev/null
        sleep 0.5; pm stop -t 5 c >/dev/null; state
        pm start c >/dev/null; sleep 0.3; pm kill c >/dev/null; pm wait c; state
        pm start c >/dev/null; sleep 0.3; pm restart -t 5 c >/dev/null; state
        sleep 0.3; pm kill -s TERM c >/dev/null; pm wait c
        pm logs c | sort | uniq -c | tr -s ' '"#;
    podman(t, script, "exited 21\n137\nexited 137\nrunning 0\n21\n 4 up\n")
}

fn restart_policies_begin_anew(t: &T) -> Verdict {
    let script = r#"
        pm run -d --name c --network none --restart on-failure:2 bb sh -c 'echo run; exit 1' >/dev/null
        for i in $(seq 100); do [ "$(pm inspect c --format '{{.RestartCount}} {{.State.Status}}')" = '2 exited' ] && break; sleep 0.1; done
        pm logs c
        pm run -d --name a --network none --restart always bb sh -c 'echo run; sleep 0.2' >/dev/null
        for i in $(seq 100); do [ $(pm inspect a --format '{{.RestartCount}}') -ge 2 ] && break; sleep 0.1; done
        pm inspect a --format '{{.State.Status}}' | grep -c . ; pm stop -t 0 a >/dev/null"#;
    podman(t, script, "run\nrun\nrun\n1\n")
}

fn health_and_pods(t: &T) -> Verdict {
    let script = r#"
        pm run -d --name c --network none --health-cmd 'test -e /tmp/ok' --health-interval disable bb sleep 100 >/dev/null
        pm healthcheck run c >/dev/null; echo $?; pm exec c touch /tmp/ok; pm healthcheck run c; echo $?
        pm pod create --infra=false --name p >/dev/null
        pm run -d --pod p --name one --network none bb sleep 100 >/dev/null
        pm run -d --pod p --name two --network none bb sleep 100 >/dev/null
        pm pod inspect p --format '{{.State}}'; pm pod stop -t 0 p >/dev/null; pm wait one two; pm pod rm p >/dev/null"#;
    podman(t, script, "1\n0\nRunning\n137\n137\n")
}

fn the_service_manager_is_told(t: &T) -> Verdict {
    let host = UnixDatagram::bind(t.path("host")).context("a socket")?;
    host.set_read_timeout(Some(Duration::from_secs(120)))?;
    let script = format!(
        "NOTIFY_SOCKET={} pm run -d --network none --sdnotify conmon bb sleep 100 >/dev/null",
        t.path("host").display()
    );
    podman(t, &script, "")?;
    let mut buffer = [0; 1000];
    let n = host.recv(&mut buffer)?;
    let received = String::from_utf8_lossy(&buffer[..n]);
    ensure!(received.contains("MAINPID=") && received.contains("READY=1"), "received was {received:?}");
    Ok(())
}

fn the_journal_gets_every_line(t: &T) -> Verdict {
    fs::create_dir_all("/run/systemd/journal")?;
    let socket = Path::new("/run/systemd/journal/socket");
    let _ = fs::remove_file(socket);
    let journal = UnixDatagram::bind(socket).context("the journal's socket")?;
    journal.set_read_timeout(Some(Duration::from_secs(120)))?;
    let script =
        "pm run --name j --network none --log-driver journald --log-opt tag=t bb sh -c 'echo one; echo two >&2'";
    let printed = run(t, &format!("{script} 2>&1 | sort"));
    let mut entries = Vec::new();
    let mut buffer = vec![0; 10_000];
    while entries.len() < 2 {
        let n = journal.recv(&mut buffer)?;
        let entry = String::from_utf8_lossy(&buffer[..n]).into_owned();
        // podman writes messages there too.
        if entry.contains("CONTAINER_TAG=") {
            entries.push(entry);
        }
    }
    fs::remove_file(socket)?;
    ensure!(printed? == "one\ntwo\n", "attached clients see it too");
    for (entry, (message, priority)) in entries.iter().zip([("one", 6), ("two", 3)]) {
        let fields = [format!("MESSAGE={message}\n"), format!("PRIORITY={priority}\n"), "CONTAINER_NAME=j\n".into()];
        for field in fields.iter().map(String::as_str).chain(["CONTAINER_TAG=t\n", "CONTAINER_ID_FULL="]) {
            ensure!(entry.contains(field), "{entry:?} has no {field:?}");
        }
    }
    Ok(())
}

fn a_user_can_open_their_output(t: &T) -> Verdict {
    let script = r#"
        open='echo out >/dev/stdout; echo err >/dev/stderr'
        pm run --rm --network none --user 1000 bb sh -c "$open" 2>err; cat err
        maps='--uidmap 0:100000:65536 --gidmap 0:100000:65536'
        pm run --rm --network none $maps bb sh -c "$open" 2>err; cat err
        pm run --rm --network none $maps --user 1000 bb sh -c "$open" 2>err; cat err
        pm run -d --network none --name c $maps bb sleep 100 >/dev/null
        pm exec --user 1000 c sh -c "$open" 2>err; cat err"#;
    podman(t, script, &"out\nerr\n".repeat(4))
}

fn passthrough_is_our_own_stdio(t: &T) -> Verdict {
    let script = r#"pm run --rm --network none --log-driver passthrough bb sh -c 'echo here; exit 2' >out
        echo $?; cat out"#;
    podman(t, script, "2\nhere\n")
}

fn a_timeout_ends_the_container(t: &T) -> Verdict {
    let script = r#"
        pm run --network none --name c --timeout 1 bb sleep 100; echo $?
        # What podman runs after the end makes a stopped container an exited one.
        for i in $(seq 100); do test $(pm inspect c --format '{{.State.Status}}') = exited && break; sleep 0.1; done
        pm inspect c --format '{{.State.Status}}'"#;
    podman(t, script, "255\nexited\n")
}

fn a_killed_podman_loses_nothing(t: &T) -> Verdict {
    // Killed at create, at start, while it runs, at its exit or at its removal, a container can be waited for, has its
    // own exit code and its whole log, and can be removed.
    let script = r#"
        for wait in 0.02 0.05 0.1 0.15 0.2 0.3 0.4 0.6; do
            pm run --name k$wait --network none bb sh -c 'echo begin; sleep 0.3; echo end; exit 6' >/dev/null 2>&1 &
            sleep $wait; kill -9 $! 2>/dev/null; wait
        done
        sleep 1.5
        for name in $(pm ps -a --format '{{.Names}}'); do
            case $(pm inspect $name --format '{{.State.Status}}') in
            exited|stopped) echo $name $(timeout 10 pm wait $name) $(pm logs $name) ;;
            esac
        done | grep -v ' 6 begin end$'
        pm ps -a --format '{{.Status}}' | grep -c '^Up'
        pm run -d --name c --network none bb sleep 100 >/dev/null
        pm stop -t 3 c >/dev/null 2>&1 & sleep 0.3; kill -9 $!; wait
        pm stop -t 0 c >/dev/null 2>&1; pm rm -f -t 0 c >/dev/null; pm ps -a --format '{{.Names}}' | grep -c '^c$'; true"#;
    podman(t, script, "0\n0\n")
}

fn a_killed_shim_is_noticed(t: &T) -> Verdict {
    let script = r#"
        pm run -d --name c --network none bb sleep 100 >/dev/null
        kill -9 $(pm inspect c --format '{{.State.ConmonPid}}'); sleep 0.3
        # podman 5 only notes at the first attempt that conmon has died, with the real one too.
        pm rm -f -t 0 c >/dev/null 2>&1 || pm rm -f -t 0 c >/dev/null 2>&1; pm ps -aq | wc -l"#;
    podman(t, script, "0\n")?;
    let left = eventually("the container's end", || {
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let sleeping = processes.filter(|entry| text(entry.path().join("cmdline")) == "sleep\x00100\x00").count();
        (sleeping == 0).then_some(())
    });
    if left.is_err() { fail("the container's process is left") } else { Ok(()) }
}

/// A container `a` that counts, and `past ID N`, which waits until it has counted to N.
fn counting(script: &str) -> String {
    format!(
        "count() {{ pm exec $1 cat /count 2>/dev/null || echo 0; }}\n\
         past() {{ for i in $(seq 100); do test $(count $1) -gt $2 && return; sleep 0.1; done; echo stuck at $(count $1); }}\n\
         pm run -d --name a --net none bb sh -c '{COUNTING}' >/dev/null; past a 1\n{script}"
    )
}

fn a_container_is_checkpointed_and_restored(t: &T) -> Verdict {
    // Removes CRIU's cache of the kernel's features.
    let _forgetting = criu::Images::new(t);
    let script = "pm container checkpoint --print-stats a | grep -c frozen_time; at=$(pm cp a:/count - | tar -xO)\n\
        pm ps -a --format '{{.Status}}' | cut -d' ' -f1; pm container restore a; past a $at\n\
        pm container checkpoint --leave-running --keep a; past a $(count a); pm stop -t 0 a; pm logs a";
    podman(t, &counting(script), "1\nExited\na\na\na\n")
}

fn a_checkpoint_is_exported_and_imported_under_another_name(t: &T) -> Verdict {
    let _forgetting = criu::Images::new(t);
    let script = "at=$(count a); pm container checkpoint --leave-running --export x.tar.gz a; past a $(count a)\n\
        pm container restore --import x.tar.gz --name b >/dev/null; past b $at; pm container checkpoint --export y.tar b\n\
        pm rm b; pm container restore --keep --import y.tar >/dev/null; past b $at; pm ps -a --format '{{.Names}}' | sort";
    podman(t, &counting(script), "a\nb\nb\na\nb\n")
}
